"""FuxiCTR's model parts, imported without Ray and scikit-learn.

``fuxictr.pytorch.models`` needs one function of ``fuxictr.preprocess.tokenizer``, but importing it runs
``fuxictr/preprocess/__init__.py``, which starts by importing Ray (a second and a hundred megabytes that
models never use); ``fuxictr.metrics`` imports scikit-learn (another second). While FuxiCTR's models are imported
here, both are stood in for: by an empty package with the same path, and by a module whose function imports the real
one when it is called. Afterwards they are removed, so ``import fuxictr.preprocess`` still gets the real one.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from contextlib import contextmanager
from pathlib import Path

_PREPROCESS, _METRICS = "fuxictr.preprocess", "fuxictr.metrics"


@contextmanager
def _stand_ins():
    def evaluate_metrics(*args, **kwargs):
        return importlib.import_module(_METRICS).evaluate_metrics(*args, **kwargs)

    spec = importlib.util.find_spec("fuxictr")
    package, metrics = types.ModuleType(_PREPROCESS), types.ModuleType(_METRICS)
    package.__path__ = [str(Path(folder) / "preprocess") for folder in (spec and spec.submodule_search_locations) or ()]
    metrics.evaluate_metrics = lambda *args, **kwargs: importlib.import_module(_METRICS).evaluate_metrics(
        *args, **kwargs
    )
    placed = {module.__name__: module for module in (package, metrics) if module.__name__ not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with _stand_ins():
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import (
        CrossNetMix,
        CrossNetV2,
        FactorizationMachine,
        FeatureEmbedding,
        FeatureEmbeddingDict,
        MaskedAveragePooling,
        MLP_Block,
        PretrainedEmbedding,
        SqueezeExcitation,
    )
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import get_regularizer, seed_everything
    from fuxictr.utils import Monitor

__all__ = [
    "BaseModel",
    "CrossNetMix",
    "CrossNetV2",
    "FactorizationMachine",
    "FeatureEmbedding",
    "FeatureEmbeddingDict",
    "FeatureMap",
    "MLP_Block",
    "MaskedAveragePooling",
    "Monitor",
    "PretrainedEmbedding",
    "SqueezeExcitation",
    "get_regularizer",
    "seed_everything",
]
