"""What encoding raw files learns from the training rows: vocabularies, the ids of FuxiCTR's tokenizer, and scales.

0 is padding, known values count from 1 (the most frequent first; numbers in their own order), and the id behind them
stands for every value that is unknown, rare or missing. Values known only from a file of vectors follow it.

Tomorrow's training rows would teach others, and weights that were trained with today's would be given other ids. So a
run keeps its own beside its weights, and what is scored with them is encoded so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.errors import DataError
from qin_zoo.files import read_json


def whole(words: pl.Series) -> pl.Series:
    """Whole numbers that were written as floats, 5.0, as 5: a missing id makes floats of a column's other ids."""
    return words.str.replace(r"^(-?[0-9]+)\.0+$", "${1}")


def unpadded(words: pl.Series) -> pl.Series:
    """Whole numbers that were written as floats, or with zeros in front, 5.0 and 0005, as 5."""
    return words.str.replace(r"^(-?)0*([0-9]+?)(?:\.0+)?$", "${1}${2}")


FORMS = {"unpadded": unpadded, "whole": whole}  # the first makes more texts one number


def _no_spellings() -> pl.DataFrame:
    return pl.DataFrame(schema={"value": pl.String, "word": pl.String})


@dataclass(frozen=True)
class Vocabulary:
    """Values with their ids.

    Numbers are known by their value: where no two words are the same number, 5.0 and 0005 are 5. Where two are, as
    05 and 5, they are texts that are told apart.

    Attributes:
        words: the values as text; without ``remap`` these are whole numbers and their own ids.
        remap: whether the values are numbered from 1, in the order of ``words``.
        beyond: further values, of a file of pretrained vectors, numbered from behind the unknown.
        spellings: ``value``, as it stands in the files, and the ``word`` that it is.
        forms: those of ``FORMS`` that make no two values one which the training rows tell apart, rare ones among them.
    """

    words: pl.Series
    remap: bool = True
    beyond: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))
    spellings: pl.DataFrame = field(default_factory=_no_spellings)
    forms: tuple[str, ...] = tuple(FORMS)

    @cached_property
    def oov(self) -> int:
        """The id of every value that is in neither list."""
        return len(self.words) + 1 if self.remap else max(0, self.words.cast(pl.Int64).max() or 0) + 1

    @cached_property
    def _known(self) -> pl.Series:
        return pl.concat([self.words, self.beyond])

    @cached_property
    def _enum(self) -> pl.Enum:
        return pl.Enum(self._known)

    @cached_property
    def _form(self) -> Callable[[pl.Series], pl.Series] | None:
        """How numbers are written where two that are equal are the same word."""
        forms = (FORMS[name] for name in self.forms)
        return next((form for form in forms if form(self._known).n_unique() == len(self._known)), None)

    @property
    def size(self) -> int:
        """Number of ids, padding and the unknown included."""
        return self.oov + 1 + len(self.beyond)

    @property
    def told_apart(self) -> dict[str, list[str]]:
        """``forms``, JSON, where they are not all."""
        return {} if len(self.forms) == len(FORMS) else {"forms": list(self.forms)}

    def merged(self, other: Vocabulary) -> Vocabulary:
        """With the words of ``other`` that are new, behind its own."""
        spelled = self.spelled(other.words.filter(~other.words.is_in(self.words.implode())))
        new = other.words.filter(~other.words.is_in(pl.concat([self.words, spelled["value"]]).implode()))
        spellings = pl.concat([self.spellings, other.spellings, spelled]).unique("value")
        forms = min(self.forms, other.forms, key=len)
        return Vocabulary(pl.concat([self.words, new]), self.remap, spellings=spellings, forms=forms)

    def has(self, values: pl.Series) -> pl.Series:
        """Which of them are a word, or another way to write one."""
        known = values.is_in(self._known.implode())
        return known | values.is_in(self.spelled(values.filter(~known))["value"].implode())

    def spelled(self, values: pl.Series) -> pl.DataFrame:
        """Those of ``values``, none of them a word, that are another way to write one: ``value`` and ``word``."""
        if self._form is None or values.is_empty():
            return _no_spellings()
        values, words = values.unique(maintain_order=True), self._known
        written = pl.DataFrame({"value": values, "form": self._form(values)})
        return written.join(pl.DataFrame({"word": words, "form": self._form(words)}), on="form").drop("form")

    def extended(self, keys: pl.Series) -> Vocabulary:
        """With those of ``keys`` that are new behind the unknown."""
        new = keys.unique(maintain_order=True)
        return replace(self, beyond=pl.concat([self.beyond, new.filter(~self.has(new))]))

    def as_words(self, values: pl.Series) -> pl.Series:
        """The values, those that are another way to write a word as that word."""
        return values.replace(*self.spelled(values.filter(~values.is_in(self._known.implode()))).get_columns())

    def knows(self, tokens: pl.Expr) -> pl.Expr:
        """Whether a text is a word, or in ``spellings``."""
        return self._meant(tokens).cast(self._enum, strict=False).is_not_null()

    def _meant(self, tokens: pl.Expr) -> pl.Expr:
        return tokens.replace(*self.spellings.get_columns()) if len(self.spellings) else tokens

    def encode(self, tokens: pl.Expr) -> pl.Expr:
        """Text to ids."""
        tokens = self._meant(tokens)
        place = tokens.cast(self._enum, strict=False).to_physical().cast(pl.Int64)
        own = place + 1 if self.remap else tokens.cast(pl.Int64, strict=False)
        if len(self.beyond):
            own = pl.when(place < len(self.words)).then(own).otherwise(place - len(self.words) + self.oov + 1)
        return pl.when(place.is_null()).then(self.oov).otherwise(own)

    def word(self, number: int) -> str | None:
        """What an id stands for; None for padding, and for all that is unknown."""
        if not self.remap:
            return str(number) if 0 < number < self.oov else None
        behind = number - self.oov - 1
        if 0 <= behind < len(self.beyond):
            return str(self.beyond[behind])
        return str(self.words[number - 1]) if 0 < number <= len(self.words) else None

    def as_dict(self, dtype: str = "str") -> dict[str, int]:
        """Word -> id, in the order of ids, with FuxiCTR's names for padding and the unknown.

        Args:
            dtype: ``float`` for words that are written as Python, and so FuxiCTR, writes such numbers.
        """
        words, beyond = self.words.to_list(), self.beyond.to_list()
        ids = range(1, len(words) + 1) if self.remap else map(int, words)
        known = dict(zip(words, ids)) | dict(zip(beyond, range(self.oov + 1, self.size)))
        if dtype == "float":
            known = {repr(float(word)): number for word, number in known.items()}
        return dict(sorted({**known, "__PAD__": 0, "__OOV__": self.oov}.items(), key=lambda x: x[1]))


@dataclass(frozen=True)
class FittedEncoder:
    """By the names of their fields:

    Attributes:
        vocabularies: of categories and sequences that share nobody else's.
        lengths: of sequences, as they are padded and cut.
        scales: what is subtracted from a number, and what it is then divided by.
        boundaries: of quantile buckets.
    """

    vocabularies: Mapping[str, Vocabulary]
    lengths: Mapping[str, int]
    scales: Mapping[str, tuple[float, float]]
    boundaries: Mapping[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """JSON values, which :meth:`read` takes."""
        return {
            "vocabularies": {
                name: {"words": v.words.to_list(), "beyond": v.beyond.to_list(), "remap": v.remap}
                | v.told_apart
                for name, v in self.vocabularies.items()
            },
            "lengths": dict(self.lengths),
            "scales": {name: list(pair) for name, pair in self.scales.items()},
            "boundaries": {name: np.asarray(values).tolist() for name, values in self.boundaries.items()},
        }

    @classmethod
    def read(cls, path: Path) -> FittedEncoder:
        """Raises DataError for a file that :meth:`as_json` has not made."""
        try:
            found = read_json(path)
            return cls(
                {
                    name: Vocabulary(
                        _texts(v["words"]), bool(v["remap"]), _texts(v["beyond"]),
                        forms=tuple(name for name in FORMS if name in v.get("forms", FORMS)),
                    )
                    for name, v in found["vocabularies"].items()
                },
                {name: int(length) for name, length in found["lengths"].items()},
                {name: (float(shift), float(scale)) for name, (shift, scale) in found["scales"].items()},
                {name: np.asarray(values, np.float64) for name, values in found["boundaries"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path}: expected vocabularies and scales of a run, which `qin-zoo run` keeps beside its weights, "
                f"found something else ({type(error).__name__}). Train again, or name another encoder_file."
            ) from None

    def names(self) -> list[str]:
        """The fields of which it knows something."""
        return list(dict.fromkeys([*self.vocabularies, *self.lengths, *self.scales, *self.boundaries]))

    def require(self, fields: Iterable[str]) -> None:
        """Raises DataError where it knows of a field that the data set does not have any more."""
        missing = [name for name in (*self.vocabularies, *self.lengths) if name not in fields]
        if missing:
            raise DataError(
                f"encoder_file: the run had a feature '{missing[0]}', which this configuration does not have. Use the "
                "configuration that the weights were trained with."
            )


def _texts(words: list) -> pl.Series:
    if not all(isinstance(word, str) for word in words):
        raise ValueError
    return pl.Series("value", words, dtype=pl.String)
