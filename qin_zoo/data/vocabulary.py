"""Vocabularies of raw fields: the ids of FuxiCTR's tokenizer.

0 is padding, known values count from 1 (the most frequent first; numbers in their own order), and the last id
stands for every value that is unknown, rare or missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars as pl


@dataclass(frozen=True)
class Vocabulary:
    """Values with their ids.

    Attributes:
        words: the values as text; without ``remap`` these are whole numbers and their own ids.
        remap: whether the values are numbered from 1, in the order of ``words``.
    """

    words: pl.Series
    remap: bool = True

    @cached_property
    def oov(self) -> int:
        """The id of every value that is not in ``words``: the last one."""
        return len(self.words) + 1 if self.remap else max(0, self.words.cast(pl.Int64).max() or 0) + 1

    @cached_property
    def _enum(self) -> pl.Enum:
        return pl.Enum(self.words)

    @property
    def size(self) -> int:
        return self.oov + 1

    def merged(self, other: Vocabulary) -> Vocabulary:
        """With the words of ``other`` that are new, behind its own."""
        new = other.words.filter(~other.words.is_in(self.words.implode()))
        return Vocabulary(pl.concat([self.words, new]), self.remap)

    def encode(self, tokens: pl.Expr) -> pl.Expr:
        """Text to ids."""
        known = tokens.cast(self._enum, strict=False)
        if self.remap:
            return (known.to_physical().cast(pl.Int64) + 1).fill_null(self.oov)
        return pl.when(known.is_not_null()).then(tokens.cast(pl.Int64, strict=False)).otherwise(self.oov)

    def as_dict(self) -> dict[str, int]:
        """Word -> id, in the order of ids, with FuxiCTR's names for padding and the unknown."""
        words = self.words.to_list()
        ids = range(1, len(words) + 1) if self.remap else map(int, words)
        return dict(sorted({**dict(zip(words, ids)), "__PAD__": 0, "__OOV__": self.oov}.items(), key=lambda x: x[1]))
