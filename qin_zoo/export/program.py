"""A request's model as a program of ``torch.export``, NAME.pt2: what PyTorch runs, compiles or lowers further."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.serving.scorer import Scorer

_MANIFEST = "manifest.json"  # a further file in the program's archive


@torch.no_grad()
def to_program(
    model: nn.Module, arguments: Mapping[str, Tensor | dict[str, Tensor]], shapes: Mapping, manifest: dict
) -> bytes:
    """What stands in NAME.pt2: the program, called as the model is, and the manifest in its ``extra_files``.

    Args:
        model: in evaluation mode.
        arguments: of a request.
        shapes: which of their dimensions are open, as ``torch.export`` takes them.
        manifest: JSON values.

    Raises:
        QinZooError: the model cannot be traced.
    """
    for weight in (*model.parameters(), *model.buffers()):
        weight.set_(weight.clone())  # parts of one tensor are saved as that tensor, which loading warns of
    try:
        program = torch.export.export(model, (), dict(arguments), dynamic_shapes=dict(shapes))
    except Exception as error:  # whatever a model's code meets when it is traced
        raise QinZooError(f"No program can be made of the model: {first_line(error)} Export NAME.onnx.") from error
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={_MANIFEST: json.dumps(manifest, ensure_ascii=False)})
    return file.getvalue()


class ProgramScorer(Scorer):
    """Scores requests through a program in place of the ONNX graph beside which it was made.

    Args:
        path: the ONNX file, which says how requests are read.
        program: of :func:`to_program`.
        arguments: what it was made with.
    """

    def __init__(self, path: Path, program: bytes, arguments: Mapping[str, Tensor | dict[str, Tensor]]):
        super().__init__(path)
        self._module = torch.export.load(io.BytesIO(program)).module()
        self._groups = [key for key, value in arguments.items() if isinstance(value, dict)]

    @torch.no_grad()
    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        arguments: dict = {key: {} for key in self._groups}
        for name, values in feed.items():
            group, _, member = name.partition(".")
            (arguments[group] if member else arguments)[member or group] = torch.from_numpy(np.array(values))
        scores = self._module(**arguments).numpy()
        return scores if self._step is None else self._step(scores).astype(np.float32)
