"""qin-zoo: a plugin model zoo for multimodal click-through-rate prediction on FuxiCTR and PyTorch.

The names below are loaded when they are first used, so that listing models or reading a configuration does
not import torch. Type checkers and editors read them in ``__init__.pyi``.
"""

from importlib import import_module

__version__ = "0.1.0"

_WHERE = {
    "Dataset": "qin_zoo.api",
    "ItemBatch": "qin_zoo.batch",
    "ModelInput": "qin_zoo.models",
    "QinZooClassifier": "qin_zoo.estimator",
    "QinZooError": "qin_zoo.errors",
    "Run": "qin_zoo.api",
    "ZooModel": "qin_zoo.models",
    "create_model": "qin_zoo.registry",
    "get_model": "qin_zoo.registry",
    "list_models": "qin_zoo.registry",
    "load": "qin_zoo.api",
    "register_model": "qin_zoo.registry",
    "train": "qin_zoo.api",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'qin_zoo' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)


def __dir__():
    return __all__
