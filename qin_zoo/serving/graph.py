"""What an ONNX graph holds besides operators, read from its bytes: neither protobuf nor onnx is needed.

A protobuf message is fields one behind the other, some of them messages again; only those are followed that lead to a
tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# ONNX's messages: number of a field -> the message it holds.
MESSAGES = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TYPE, _FLOATS, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 2, 4, 9, 10, 13, 14  # fields of a tensor
_KINDS = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}  # values of its type
_CHUNK = 2**20


def fields(data, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each field of a message its number, its kind, where it begins, and where its content begins and ends.

    Raises:
        ValueError, IndexError: it is no message.
    """
    while at < end:
        begin = at
        tag, at = number(data, at)
        kind, content = tag & 7, at
        if kind == 0:
            _, at = number(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, content = number(data, at)
            at = content + length
        else:
            raise ValueError
        yield tag >> 3, kind, begin, content, at


def number(data, at: int) -> tuple[int, int]:
    """A variable-length number and where it ends; ValueError where the data end before."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError


def fault(data: memoryview) -> str | None:
    """Why a serialised model should not be run: it reads other files, or its weights are no numbers.

    Raises:
        ValueError, IndexError: it is no model.
    """
    open_ = [("Model", 0, len(data))]
    while open_:
        message, at, end = open_.pop()
        if message == "Tensor":
            if (found := _tensor_fault(data, at, end)) is not None:
                return found
            continue
        inner = MESSAGES[message]
        for field, kind, _, content, stop in fields(data, at, end):
            if stop > end:
                raise ValueError
            if kind == 2 and field in inner:
                open_.append((inner[field], content, stop))
    return None


def _tensor_fault(data: memoryview, at: int, end: int) -> str | None:
    kind, parts = None, []
    for field, wire, _, content, stop in fields(data, at, end):
        if field == _EXTERNAL or (field == _LOCATION and number(data, content)[0] != 0):
            return "reads weights from another file, which its hash does not cover"
        if field == _TYPE:
            kind, _ = number(data, content)
        elif wire == 2 and field in (_FLOATS, _DOUBLES, _RAW):
            parts.append((field, data[content:stop]))
    for field, part in parts:
        dtype = {_FLOATS: _KINDS[1], _DOUBLES: _KINDS[11]}.get(field, _KINDS.get(kind))
        if dtype is not None and len(part) % dtype.itemsize == 0 and len(part) > dtype.itemsize:
            values = np.frombuffer(part, dtype)
            for first in range(0, len(values), _CHUNK):
                if np.isnan(values[first : first + _CHUNK]).any():
                    return "has weights that are no numbers (NaN)"
    return None
