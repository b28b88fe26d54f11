"""Every key that an experiment may have beside those of its model: what it is, what it may hold, what it is by default.

What `qin-zoo config` and `qin-zoo info` show, and the reference.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Any

from qin_zoo.config.schema import expectation
from qin_zoo.config.values import FeatureColumn, LabelColumn, RunParams
from qin_zoo.data.variations import Variation
from qin_zoo.experiment.prepare import DEFAULTS

_TABLES = {"": RunParams, "feature_cols": FeatureColumn, "label_col": LabelColumn}


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        name: of the key.
        of: the key in whose entries it stands; empty of a key of the experiment itself.
        meaning: what it is.
        expected: what it may hold.
        default: where it is left out; None also where it then is nothing.
        source: where the default comes from; empty where there is none.
    """

    name: str
    of: str
    meaning: str
    expected: str
    default: Any = None
    source: str = ""


def run_keys() -> list[Key]:
    """Keys of an experiment and its dataset that do not belong to a model, with what the zoo's models make of them."""
    from qin_zoo.data.loader import ItemTableLoader
    from qin_zoo.models import ZooModel

    defaults = {key: (value, "default of the runner") for key, value in DEFAULTS.items()}
    defaults = signature_defaults(ZooModel, ItemTableLoader) | defaults
    return [
        Key(name, "", field.description or "", expectation(RunParams, name), *defaults.get(name, (None, "")))
        for name, field in RunParams.model_fields.items()
    ]


def keys_named(name: str) -> list[Key]:
    """What a name means, as a key of an experiment and in the entries of its columns; empty where it is none."""
    of_columns = [
        Key(name, of, table.model_fields[name].description or "", expectation(table, name))
        for of, table in _TABLES.items()
        if of and name in table.model_fields
    ]
    return [key for key in run_keys() if key.name == name] + of_columns


def known_keys() -> list[str]:
    """Names of all keys."""
    return list(dict.fromkeys(name for table in _TABLES.values() for name in table.model_fields))


def signature_defaults(model_class: type, loader: type) -> dict[str, tuple[Any, str]]:
    """Values that the signatures of the model, the loader and the variations of the data give: key -> value, source."""
    found: dict[str, tuple[Any, str]] = {}
    model = [owner for owner in model_class.__mro__ if "__init__" in vars(owner)]
    loaders = loader.__mro__
    for owner in (*[o for o in model if not o.__module__.startswith(("torch", "builtins"))], *loaders):
        of = "the loader" if owner in loaders else owner.__name__
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            if parameter.default is not parameter.empty and not name.startswith("_"):
                found.setdefault(name, (parameter.default, f"default of {of}"))
    for option in fields(Variation):
        found.setdefault(option.name, (option.default, "default of the loader"))
    return found
