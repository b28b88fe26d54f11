"""A request model as an ONNX graph, made by torch's exporter and cleaned of what only its maker needs."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qin_zoo.errors import QinZooError, first_line, install
from qin_zoo.models import ZooModel
from qin_zoo.models.adapter import blame

OPSET = 18
_IR_VERSION = 10  # what ONNX Runtime has read since 2024
_LARGEST = 2**31 - 1  # bytes that protobuf can hold
# At published sizes 1,024 candidates at a time take QIN 0.71 of the time of 256, and Transformer-DCN 1.16: its 32,768
# numbers for each of them leave the processor's cache.
_FEW, _MANY, _WIDE = 256, 1024, 8192


@torch.no_grad()
def to_onnx(
    model: nn.Module, arguments: Mapping[str, Tensor | dict[str, Tensor]], shapes: Mapping, max_len: int
) -> tuple[bytes, int]:
    """A request's model as a serialised ONNX graph with weights, and how many candidates to score at a time.

    Args:
        model: in evaluation mode, what it wraps its attribute ``model``.
        arguments: of a request. The graph's inputs have their names; those in a dictionary ``KEY.NAME``.
        shapes: which of their dimensions are open, as ``torch.export`` takes them.
        max_len: items of a full history.

    Raises:
        QinZooError: onnx or onnxscript is missing, the model cannot be traced, or it exceeds 2 GiB.
    """
    _require()
    names = []
    for key, value in arguments.items():
        names += [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if weights > _LARGEST:
        raise QinZooError(
            f"The exported model would have {weights / 2**30:.1f} GiB; an ONNX file holds at most 2. Export the item "
            "table in fewer bytes: --table fp16 or --table int8."
        )
    try:
        with _quietly():
            program = torch.onnx.export(
                model,
                kwargs=dict(arguments),
                input_names=names,
                output_names=["score"],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                optimize=isinstance(model.model, ZooModel),  # or x / (0 + 1e-12), as FuxiCTR writes it, becomes x / 0
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever a model's code meets when it is traced
        if isinstance(model.model, ZooModel):
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            why = (
                "tracing logits(x) on a request failed. Shapes must not be decided by values, and history may be a "
                f"SharedHistory (qin_zoo.layers). {first_line(cause)}"
            )
        else:
            why = (
                f"{blame(error, model.model)} ONNX has no such operation, or it depends on values that are known only "
                "when a request comes."
            )
        raise QinZooError(f"{type(model.model).__name__} cannot be exported: {why}") from error
    proto = program.model_proto
    _clean(proto)
    return proto.SerializeToString(deterministic=True), _FEW if _widest(proto, max_len) > _WIDE else _MANY


def _widest(proto, max_len: int) -> int:
    """Numbers that the largest intermediate result holds for one candidate, histories being full."""
    (rows,) = (dim.dim_param for dim in proto.graph.output[0].type.tensor_type.shape.dim)
    widest = 1
    for value in proto.graph.value_info:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if rows in dims:
            widest = max(widest, math.prod(max_len if isinstance(dim, str) else dim for dim in dims if dim != rows))
    return widest


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise QinZooError(
            f"qin-zoo export needs the packages onnx, onnxscript and onnxruntime; {error.name} is missing. "
            f"{install('export', 'onnx', 'onnxscript', 'onnxruntime')}."
        ) from error


@contextlib.contextmanager
def _quietly():
    """Without the exporter's progress and its warnings of its own parts."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _clean(proto) -> None:
    """Takes out where the code of each node stood, and sets the version that older runtimes read."""
    proto.ir_version = min(proto.ir_version, _IR_VERSION)
    graphs = [proto.graph, *proto.functions]
    parts = [proto, *graphs]
    for graph in graphs:
        parts += graph.node
        for name in ("input", "output", "value_info", "initializer"):
            parts += getattr(graph, name, ())
    for part in parts:  # the inputs of functions are names
        if hasattr(part, "doc_string"):
            part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
