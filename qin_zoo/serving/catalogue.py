"""What an export knows of its items besides their vectors: ids, and features by which a catalogue is filtered."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from qin_zoo.errors import RequestError, suggest
from qin_zoo.serving.values import check_names, shown

_DTYPE = np.dtype("<i4")


def pack(codes: np.ndarray) -> dict:
    """Codes of items, (U,) or (U, T) whole numbers from 0 on, as they stand in a manifest: JSON values."""
    data = zlib.compress(np.ascontiguousarray(codes, _DTYPE).tobytes())
    return {"shape": list(codes.shape), "zlib": base64.b85encode(data).decode()}


def unpack(packed: Mapping) -> np.ndarray:
    """The codes, (items,) or (items, width).

    Raises:
        ValueError: they are not what :func:`pack` makes.
    """
    shape = packed["shape"]
    size = int(np.prod(shape, dtype=np.int64)) * _DTYPE.itemsize
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.b85decode(packed["zlib"]), size + 1)  # no more than fits
    except (zlib.error, OverflowError) as error:
        raise ValueError(str(error)) from None
    if len(data) != size:
        raise ValueError(f"expected {size} bytes, found {len(data)} or more")
    return np.frombuffer(data, _DTYPE).reshape(shape)


def codes_of_words(features: Iterable[Mapping]) -> dict[str, dict[str, int]]:
    """Of each feature that has words what they stand for in a manifest: word -> code."""
    return {d["name"]: {word: code for code, word in enumerate(d["words"], 1)} for d in features if "words" in d}


class Catalogue:
    """The items of an export with an item table, by what ``items`` of its manifest tells of them.

    Attributes:
        features: names by which the catalogue can be filtered.
    """

    def __init__(self, items: Mapping):
        self._count: int = items["count"]
        self._named = np.array([name is not None for name in items.get("original_ids") or ()])
        features = items.get("features", [])
        self.features: list[str] = [one["name"] for one in features]
        self._codes = {one["name"]: unpack(one["codes"]) for one in features}
        self._words = codes_of_words(features)

    def rows(self, where: Mapping | None, named: bool) -> np.ndarray:
        """The rows of the items of which all of ``where`` holds, (n,) int64, ascending; never padding.

        Args:
            where: feature -> value, or several of which one must be there. A code, or a word where the export has them.
            named: leave out items without an original id.

        Raises:
            RequestError: there is no such feature or word.
        """
        there = np.ones(self._count, bool)
        there[0] = False
        if named:
            there &= self._named
        where = {} if where is None else where
        check_names(where, self._codes, "where")
        for name, value in where.items():
            codes = [self._code(name, one) for one in (value if isinstance(value, list) else [value])]
            holding = np.isin(self._codes[name], codes)
            there &= holding if holding.ndim == 1 else holding.any(axis=1)
        return np.flatnonzero(there)

    def _code(self, name: str, value: object) -> int:
        words = self._words.get(name, {})
        if isinstance(value, str) and value in words:
            return words[value]
        if isinstance(value, bool) or not isinstance(value, int):
            raise RequestError(
                f"where: {name}: expected {'one of its words' if words else 'a whole number'}, found {shown(value)}."
                f"{suggest(value, words)}"
            )
        return value


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows and their scores, the best first; of equal scores the first rows."""
    if k < len(rows):  # few are sorted
        kept = -scores <= np.partition(-scores, k - 1)[k - 1]
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
