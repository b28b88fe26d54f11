"""FuxiCTR's model parts, imported without Ray.

``fuxictr.pytorch.models`` needs one function of ``fuxictr.preprocess.tokenizer``, but importing it runs
``fuxictr/preprocess/__init__.py``, which starts by importing Ray (a second and a hundred megabytes that
models never use). While FuxiCTR's models are imported here, that package is stood in for by an empty one
with the same path; afterwards it is removed, so ``import fuxictr.preprocess`` still gets the real one.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from contextlib import contextmanager
from pathlib import Path

_PREPROCESS = "fuxictr.preprocess"


@contextmanager
def _without_preprocess_package():
    if _PREPROCESS in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("fuxictr")
    if spec is None or not spec.submodule_search_locations:
        yield  # let the import below say what is missing
        return
    stand_in = types.ModuleType(_PREPROCESS)
    stand_in.__path__ = [str(Path(p) / "preprocess") for p in spec.submodule_search_locations]
    sys.modules[_PREPROCESS] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_PREPROCESS) is stand_in:
            del sys.modules[_PREPROCESS]


with _without_preprocess_package():
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import (
        CrossNetMix,
        CrossNetV2,
        FeatureEmbedding,
        FeatureEmbeddingDict,
        MaskedAveragePooling,
        MLP_Block,
        SqueezeExcitation,
    )
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import get_regularizer, seed_everything

__all__ = [
    "BaseModel",
    "CrossNetMix",
    "CrossNetV2",
    "FeatureEmbedding",
    "FeatureEmbeddingDict",
    "FeatureMap",
    "MLP_Block",
    "MaskedAveragePooling",
    "SqueezeExcitation",
    "get_regularizer",
    "seed_everything",
]
