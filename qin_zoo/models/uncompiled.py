"""Optimisers without torch's compiler, which they import to tell it that they are not to be compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

_COMPILER = "torch._dynamo"


@contextmanager
def no_compiler() -> Iterator[None]:
    """Stands in for ``torch._dynamo`` while an optimiser is made, moved, saved or loaded.

    A ``torch.optim`` class imports it at its first call, which takes longer than torch itself, for two functions that
    do nothing where nothing is compiled. Once the real one is there, it is taken.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(_COMPILER)
    stand_in.disable = lambda function, *args, **kwargs: function
    stand_in.graph_break = lambda: None
    sys.modules[_COMPILER] = torch._dynamo = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER], torch._dynamo
