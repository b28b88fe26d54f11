"""The models of qin-zoo: one short file each, and each an attribute of this package.

``getattr(model_zoo, params["model"])`` is how FuxiCTR's ``run_expid.py`` finds a model; it works with this
repository on the path. The script's other parts learn what they need from :mod:`qin_zoo.fuxictr_script`. FuxiCTR
installs models of its own under the same package name (``model_zoo.LongCTR``); the path below keeps them importable.
"""

from pkgutil import extend_path

from qin_zoo.fuxictr_script import teach

__path__ = extend_path(__path__, __name__)
teach()


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(name)
    from qin_zoo.registry import discover, get_model

    if name not in discover():
        raise AttributeError(f"module 'model_zoo' has no model '{name}'")
    return get_model(name)


def __dir__():
    from qin_zoo.registry import list_models

    return [*globals(), *list_models()]
