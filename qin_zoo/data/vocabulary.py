"""Vocabularies of raw fields: the ids of FuxiCTR's tokenizer.

0 is padding, known values count from 1 (the most frequent first; numbers in their own order), and the id behind them
stands for every value that is unknown, rare or missing. Values known only from a file of vectors follow it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl


@dataclass(frozen=True)
class Vocabulary:
    """Values with their ids.

    Attributes:
        words: the values as text; without ``remap`` these are whole numbers and their own ids.
        remap: whether the values are numbered from 1, in the order of ``words``.
        beyond: further values, of a file of pretrained vectors, numbered from behind the unknown.
    """

    words: pl.Series
    remap: bool = True
    beyond: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))

    @cached_property
    def oov(self) -> int:
        """The id of every value that is in neither list."""
        return len(self.words) + 1 if self.remap else max(0, self.words.cast(pl.Int64).max() or 0) + 1

    @cached_property
    def _enum(self) -> pl.Enum:
        return pl.Enum(pl.concat([self.words, self.beyond]))

    @property
    def size(self) -> int:
        return self.oov + 1 + len(self.beyond)

    def merged(self, other: Vocabulary) -> Vocabulary:
        """With the words of ``other`` that are new, behind its own."""
        new = other.words.filter(~other.words.is_in(self.words.implode()))
        return Vocabulary(pl.concat([self.words, new]), self.remap)

    def extended(self, keys: pl.Series) -> Vocabulary:
        """With those of ``keys`` that are new behind the unknown."""
        known = pl.concat([self.words, self.beyond])
        new = keys.unique(maintain_order=True)
        return replace(self, beyond=pl.concat([self.beyond, new.filter(~new.is_in(known.implode()))]))

    def encode(self, tokens: pl.Expr) -> pl.Expr:
        """Text to ids."""
        place = tokens.cast(self._enum, strict=False).to_physical().cast(pl.Int64)
        own = place + 1 if self.remap else tokens.cast(pl.Int64, strict=False)
        if len(self.beyond):
            own = pl.when(place < len(self.words)).then(own).otherwise(place - len(self.words) + self.oov + 1)
        return pl.when(place.is_null()).then(self.oov).otherwise(own)

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
