"""What encoders need of other libraries, and say where it is missing."""

from __future__ import annotations

import importlib
import zlib
from typing import Any

from qin_zoo.errors import DataError, first_line, install


def open_image(path: Any) -> Any:
    """The image of a file in RGB, or DataError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({first_line(error)}). Replace or delete it.") from error


def expect_modality(encoder: str, found: str, *expected: str) -> None:
    """Raises DataError unless inputs of this modality suit the encoder."""
    if found not in expected:
        raise DataError(f"Encoder {encoder}: expected {' or '.join(expected)} inputs, found {found}. Take another one.")


def checksum(model: Any) -> str:
    """CRC-32 of a torch model's weights: a name or folder may come to hold other ones."""
    import torch

    checksum = 0
    for name, tensor in model.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        # as bytes, since numpy knows no bfloat16
        checksum = zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"


def optional(module: str, package: str) -> Any:
    """An imported library, or DataError saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"This encoder needs {package}, which cannot be imported ({first_line(error)}): "
            f"{install('embed', package)}."
        ) from error
