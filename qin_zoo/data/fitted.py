"""What encoding raw files learns from the training rows, in a form that outlives them.

Vocabularies, lengths, scales and boundaries of tomorrow's training rows are others: weights that were trained with
today's would be given other ids. So a run keeps its own beside its weights, and what is scored with them is encoded so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.vocabulary import Vocabulary
from qin_zoo.errors import DataError
from qin_zoo.files import read_json


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
                    name: Vocabulary(_texts(v["words"]), bool(v["remap"]), _texts(v["beyond"]))
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
