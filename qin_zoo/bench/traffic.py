"""What a step moves through memory besides its matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_LOOK_UPS = {_ATEN.embedding, _ATEN.index_select, _ATEN.index, _ATEN.gather}  # read of a table what they return
# Bags read, or add up, a row for each index: where they have the table, or the bags' gradient, and the index.
_BAGS = {
    _ATEN._embedding_bag: (0, 1),
    _ATEN._embedding_bag_forward_only: (0, 1),
    _ATEN._embedding_bag_per_sample_weights_backward: (1, 2),
    _ATEN._embedding_bag_dense_backward: (0, 1),
}
_NOTHING = {_ATEN.empty, _ATEN.empty_like, _ATEN.new_empty, _ATEN.empty_strided, _ATEN._unsafe_view}


class Traffic(TorchDispatchMode):
    """Counts what operations read and write while it is entered, as if nothing of it stayed in a cache.

    Attributes:
        bytes: read and written by all but matrix products and views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if not (func.is_view or packet in flop_registry or packet in _NOTHING):
            arguments = func._schema.arguments
            results = {a.name for a in arguments if a.kwarg_only and a.alias_info and a.alias_info.is_write}  # out=…
            given = {name: value for name, value in kwargs.items() if name not in results}
            self.bytes += _read(packet, args, given, out) + _written(func, args, kwargs, out)
        return out


def _read(packet, args: tuple, kwargs: dict, out: Any) -> int:
    if packet in _LOOK_UPS:
        return _bytes(out) + _bytes(args[1:])
    if packet in _BAGS:
        table, index = (args[place] for place in _BAGS[packet])
        others = [arg for arg in tree_leaves((args, kwargs)) if arg is not table]
        return _bytes(others) + index.numel() * table.shape[1] * table.element_size()
    return _bytes((args, kwargs))


def _written(func, args: tuple, kwargs: dict, out: Any) -> int:
    given = {**dict(zip((a.name for a in func._schema.arguments), args)), **kwargs}
    changed = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    return _bytes((out, changed))


def _bytes(values: Any) -> int:
    tensors = {id(t): t for t in tree_leaves(values) if isinstance(t, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())
