"""Raw values of named fields to what a model was trained on: ids, scaled numbers. The manifest says how.

The same as ``qin_zoo/data/raw_fields.py`` makes of columns of files, for one value of a request and without polars.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from qin_zoo.errors import RequestError
from qin_zoo.feature_types import type_of
from qin_zoo.serving import tokens
from qin_zoo.serving.preprocess import Made
from qin_zoo.serving.tokens import LISTS, TOKENS
from qin_zoo.serving.values import shown

_FLOAT32 = float(np.finfo(np.float32).max)
_UNKNOWN_TEXT = "?"


class Field:
    """A field of a request.

    Args:
        described: its entry in the manifest: ``name``, ``type``, ``vocab_size``, ``dim`` or ``max_len``; and ``raw``,
            what its values were before they were encoded. Without it a request holds them encoded.
        vocabularies: name -> word -> id.

    Attributes:
        name, described: as given.
        column: what a request calls it; another name than its own where ``preprocess`` makes it of another column.
        functions: by which ``preprocess`` changes the column's values.
        words: word -> id, words as numbers where the column held numbers.
        max_len: ids of a sequence; 0 of other fields.
    """

    def __init__(self, described: Mapping, vocabularies: Mapping[str, Mapping[str, int]]):
        self.name = described["name"]
        self.described, self._type = described, type_of(described)
        self._form = self._type.form
        self.max_len: int = described.get("max_len", 0)
        self._dim, self._size = described.get("dim"), described.get("vocab_size")
        self._padding_id, self._padding = described.get("padding_id", 0), described.get("padding", "pre")
        self._raw: Mapping = described.get("raw") or {}
        dtype = self._raw.get("dtype", "int")
        self._kind, self._token = {"int": int, "float": float, "str": str}[dtype], TOKENS[dtype]
        self._made = Made(self._raw["made"], self.name) if "made" in self._raw else None
        self.column: str = self._made.column if self._made else self.name
        self.functions: list[str] = self._made.functions if self._made else []
        words = vocabularies.get(self._raw.get("vocabulary"), {})
        self.words: dict = {self._kind(word): number for word, number in words.items()}
        self._keep, self._unknown = self._raw.get("keep", "newest"), self._raw.get("unknown", 0)
        self._plain = _by_value(self.words, self._raw.get("forms", FORMS)) if self._kind is str else None
        fill = self._raw.get("fill") if self._form == "id" else ""
        filled = self._find(self._kind(fill)) if fill else None
        self._filled = self._unknown if filled is None else filled

    def is_each(self, value: object) -> bool:
        """Whether a value of a context is a list with one for each candidate."""
        if not isinstance(value, LISTS):
            return False
        return self._type.width is None or (len(value) > 0 and isinstance(value[0], LISTS))

    def count(self, value: object) -> int:
        """The number of a list's entries; an empty one may stand for one that is missing."""
        if isinstance(value, str) and self._raw:
            return len(value.split(self._raw["splitter"]))
        return max(len(value), 1) if isinstance(value, LISTS) else 1

    def encode(self, values: Sequence, where: str) -> tuple[np.ndarray, int]:
        """Values of rows, (N, …), and how many of them the vocabulary does not know.

        Raises:
            RequestError: one of them cannot be a value of this field.
        """
        encode = {"id": self._one, "ids": self._list, "number": self._numeric, "vector": self._vector}[self._form]
        found, unknown = [], 0
        for value in values:
            value = value if self._made is None else self._made(value, where)
            encoded, missed = encode(self._of_boolean(value) if isinstance(value, (bool, np.bool_)) else value, where)
            found.append(encoded)
            unknown += missed
        return np.array(found, self._type.dtype).reshape(self._type.shape(len(found), self.described)), unknown

    # ---- one value

    def _of_boolean(self, value: bool) -> object:
        """What polars makes of a column of booleans; of another column's field the value, which is no value of it."""
        if not self._raw.get("boolean"):
            return value
        return str(bool(value)).lower() if self._kind is str else int(value)

    def _one(self, value: object, where: str) -> tuple[int, int]:
        if not self._raw:
            return self._id(value, where), 0
        if "boundaries" in self._raw:
            return bisect_right(self._raw["boundaries"], self._number(value, where)), 0
        token = self._token(value, where)
        if "buckets" in self._raw:
            word = self._raw["fill"] if token is None else tokens.written(token)
            digest = blake2b(_whole(word).encode(errors="surrogatepass"), digest_size=8).digest()
            return int.from_bytes(digest, "big") % self._raw["buckets"], 0
        if token is None:
            return self._filled, 0
        if (number := self._find(token)) is not None:
            return number, 0
        return self._unknown, int(tokens.written(token) != self._raw["missing"])  # what counts as missing is no word

    def _find(self, token: str | int | float) -> int | None:
        """The id of a word, however it is written; None of what is none."""
        number = self.words.get(token)
        if number is None and self._plain is not None:
            form, plain = self._plain
            number = plain.get(form(token))
        return number

    def _list(self, value: object, where: str) -> tuple[np.ndarray, int]:
        if value is None or (isinstance(value, str) and value == ""):
            value = self._raw.get("fill", [])
        if isinstance(value, str) and self._raw:
            value = value.split(self._raw["splitter"])
        if not isinstance(value, LISTS):
            raise RequestError(f"{where}: expected a list of values, found {shown(value)}.")
        # The encoder cuts, too, before it looks at the values: what it never saw cannot be wrong.
        used = value[: self.max_len] if self._keep == "first" else value[max(len(value) - self.max_len, 0) :]
        ids, unknown = [], 0
        for entry in used:
            number = self._entry(entry, where) if self._raw else self._id(entry, where)
            unknown += number is None
            ids.append(self._unknown if number is None else number)
        filled = np.full(self.max_len, self._padding_id, np.int64)
        place = slice(0, len(ids)) if self._padding == "post" else slice(self.max_len - len(ids), None)
        filled[place] = ids
        return filled, unknown

    def _entry(self, value: object, where: str) -> int | None:
        """The id of an entry of a sequence; None of an unknown one."""
        missing = self._raw["missing"]
        if value is None or value == missing:
            return self._padding_id
        token = self._token(value, where)
        return self._padding_id if token is None or str(token) == missing else self._find(token)

    def _numeric(self, value: object, where: str) -> tuple[float, int]:
        scaled = (self._number(value, where) - self._raw.get("shift", 0.0)) / self._raw.get("scale", 1.0)
        if not abs(scaled) <= _FLOAT32:
            raise RequestError(f"{where}: expected a number that float32 can hold, found {shown(value)}.")
        return scaled, 0

    def _vector(self, value: object, where: str) -> tuple[list[float], int]:
        if isinstance(value, str) and self._raw:
            value = value.split(self._raw["splitter"])
        fill = self._raw.get("missing")  # of an embedding there is one where fill_na is given
        if fill and (value is None or (isinstance(value, LISTS) and all(v is None or v == "" for v in value))):
            value = [fill] * self._dim
        if not isinstance(value, LISTS) or len(value) != self._dim:
            raise RequestError(f"{where}: expected a list of {self._dim} numbers, found {shown(value)}.")
        numbers = [tokens.number(number, where) for number in value]
        numbers = [float(fill) if fill and number is None else number for number in numbers]
        if any(number is None or not abs(number) <= _FLOAT32 for number in numbers):
            raise RequestError(f"{where}: expected {self._dim} numbers that float32 can hold, found {shown(value)}.")
        return numbers, 0

    def _number(self, value: object, where: str) -> float:
        number = tokens.number(value, where)
        return float(self._raw.get("fill") or 0) if number is None else number

    def _id(self, value: object, where: str) -> int:
        number = tokens.whole(value, where)
        if number is None or not 0 <= number < self._size:
            raise RequestError(f"{where}: expected an id from 0 to {self._size - 1}, found {shown(value)}.")
        return number

    # ---- examples

    def example(self, place: int) -> object:
        """A value that a request may hold, JSON; another for another place where there are several."""
        known = next((word for i, word in enumerate(self.words) if i == place % max(len(self.words), 1)), None)
        if not self._raw:
            known = min(place + 1, (self._size or 1) - 1)
        elif "boundaries" in self._raw:
            known = self._raw["boundaries"][place % len(self._raw["boundaries"])] if self._raw["boundaries"] else 0.0
        elif known is None:
            known = self._kind(place) if "buckets" in self._raw or self._kind is not str else _UNKNOWN_TEXT
        shift = self._raw.get("shift", 0.0)
        return {"id": known, "ids": [known], "number": shift}.get(self._form, [0.0] * (self._dim or 0))


def _by_value(
    words: Mapping[str, int], forms: Iterable[str]
) -> tuple[Callable[[str], str], dict[str, int]] | None:
    """How numbers are written so that equal ones are one word, and the ids of the words so written; None if none is.

    As ``qin_zoo/data/vocabulary.py`` has it: 5.0 and 0005 are 5, unless 05 was another value than 5.
    """
    for form in (FORMS[name] for name in forms):
        plain = {form(word): number for word, number in words.items()}
        if len(plain) == len(words):
            return form, plain
    return None


def _unpadded(word: str) -> str:
    return re.sub(r"^(-?)0*([0-9]+?)(?:\.0+)?$", r"\1\2", word, flags=re.ASCII)


def _whole(word: str) -> str:
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", word, flags=re.ASCII)


FORMS = {"unpadded": _unpadded, "whole": _whole}
