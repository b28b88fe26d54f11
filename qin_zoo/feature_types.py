"""The types that a feature can have, in one table, read wherever a type makes a difference: configuration, files,
models, exports, the service, measurements.

A new type is a row here; where FuxiCTR's embedding layer does not know it, what embeds it stands in
:mod:`qin_zoo.models.embedders`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from qin_zoo.errors import ConfigError, suggest


@dataclass(frozen=True)
class FeatureType:
    """What is done with values of a type follows from what they are.

    Attributes:
        kind: what a column of the item table must hold (:data:`qin_zoo.data.stored.KINDS`).
        ids: whether values are ids, int64, of which 0 is padding; else they are numbers, float32.
        sizes: what a model must know of a feature: name in a manifest -> name in a specification.
        width: the size, by its name in a manifest, that says how many numbers one value has; None for a single number.
            Lists of ids may be shorter, and are filled up with 0; other ones have this length.
        feature_encoder: FuxiCTR's name of what makes one vector of it, where nothing else is configured.
        embedded: whether a model gets it, and not only those who look after rows.
    """

    kind: str
    ids: bool = False
    sizes: Mapping[str, str] = field(default_factory=dict)
    width: str | None = None
    feature_encoder: str | None = None
    embedded: bool = True

    @property
    def form(self) -> Literal["id", "ids", "number", "vector"]:
        """What one value is."""
        return ("ids" if self.width else "id") if self.ids else ("vector" if self.width else "number")

    @property
    def dtype(self) -> type[np.int64] | type[np.float32]:
        """Of its values in batches and requests."""
        return np.int64 if self.ids else np.float32

    @property
    def width_key(self) -> str | None:
        """Like ``width``, by its name in a specification."""
        return self.width and self.sizes[self.width]

    def shape(self, rows: int, described: Mapping[str, Any]) -> tuple[int, ...]:
        """Of the values of so many rows, (rows,) or (rows, width); ``described`` as of :func:`describe`."""
        return (rows, described[self.width]) if self.width else (rows,)

    def zeros(self, rows: int, described: Mapping[str, Any]) -> np.ndarray:
        """Padding for so many rows."""
        return np.zeros(self.shape(rows, described), self.dtype)

    def random(self, rows: int, described: Mapping[str, Any], g: np.random.Generator) -> np.ndarray:
        """Values that may occur, for checks and measurements: ids drawn evenly, normal numbers."""
        shape = self.shape(rows, described)
        return g.integers(0, described["vocab_size"], shape) if self.ids else g.normal(size=shape).astype(np.float32)


_MEAN = "layers.MaskedAveragePooling()"
FEATURE_TYPES: dict[str, FeatureType] = {
    "meta": FeatureType("int", ids=True, embedded=False),
    "categorical": FeatureType("id", ids=True, sizes={"vocab_size": "vocab_size"}),
    "sequence": FeatureType("ids", True, {"vocab_size": "vocab_size", "max_len": "max_len"}, "max_len", _MEAN),
    "embedding": FeatureType("floats", sizes={"dim": "pretrain_dim"}, width="dim"),
    "numeric": FeatureType("float"),
    "cyclic": FeatureType("float", sizes={"period": "period"}),
    "autodis": FeatureType("float", sizes={"bins": "bins"}),
}


LONGEST_NAME = 200  # bytes of a feature's name as part of a file name
SIZES = tuple(dict.fromkeys(key for kind in FEATURE_TYPES.values() for key in kind.sizes.values()))
"""What specifications call the sizes of all types."""


def check_type(kind: object, where: str) -> None:
    """Raises ConfigError unless this is the name of a type."""
    if not isinstance(kind, str) or kind not in FEATURE_TYPES:
        raise ConfigError(
            f"{where}: expected a type among {', '.join(FEATURE_TYPES)}, found {kind!r:.80}."
            f"{suggest(kind, FEATURE_TYPES)}"
        )


def names_of(column: Mapping[str, Any]) -> list[str]:
    """The features that an entry of ``feature_cols``, or of its like, describes."""
    return column["name"] if isinstance(column["name"], list) else [column["name"]]


def can_be_a_name(text: str) -> bool:
    """Whether a feature can be called so: names become parts of file names (pretrained_<name>.npz) and of modules."""
    return (
        bool(text.strip())
        and text != "."
        and ".." not in text
        and not any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in text)
        and len(quote(text, safe="")) <= LONGEST_NAME
    )


def can_be_embedded(name: str) -> bool:
    """Whether ``ModuleDict``, in which FuxiCTR keeps embeddings, takes the name: no dot, no attribute of modules."""
    from torch.nn import ModuleDict

    return "." not in name and not hasattr(ModuleDict(), name)


def of_items(spec: Mapping[str, object]) -> bool:
    """Whether a feature is a column of the item table; it may be one of the rows, too, with the same embedding."""
    return spec.get("source") == "item" or bool(spec.get("of_items"))


def type_of(spec: Mapping[str, Any]) -> FeatureType:
    """The type of a feature, of its specification or its description."""
    return FEATURE_TYPES[spec["type"]]


def has_item_table(params: Mapping[str, Any]) -> bool:
    """Whether a dataset's histories are item ids of an item table; otherwise its fields are FuxiCTR's."""
    columns = params.get("feature_cols")
    return bool(params.get("item_info")) or (
        isinstance(columns, list) and any(isinstance(c, Mapping) and c.get("source") == "item" for c in columns)
    )


def has_table(spec: Mapping[str, Any]) -> bool:
    """Whether a feature's values are ids of an embedding table."""
    kind = type_of(spec)
    return kind.ids and kind.embedded


def embedded(specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The features that a model embeds, in their order."""
    return [name for name, spec in specs.items() if type_of(spec).embedded]


def describe(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as exports, service and measurements know it: ``name``, ``type`` and its sizes, JSON values."""
    sizes = type_of(spec).sizes
    return {"name": name, "type": spec["type"], **{ours: spec[key] for ours, key in sizes.items() if key in spec}}
