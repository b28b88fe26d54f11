"""What an import learns from the columns of its source: the codes of words and the scales of numbers."""

from __future__ import annotations

import numpy as np
import polars as pl

from qin_zoo.data.importers.before import Before
from qin_zoo.data.importers.log import categories
from qin_zoo.data.importers.write import Output


class Words:
    """Vocabularies and scales of a folder: those of an earlier import stay, new words come behind.

    Args:
        before: the earlier import, or None.

    Attributes:
        vocabularies: column -> words; word i has the code i + 1.
        scales: column -> mean and deviation.
    """

    def __init__(self, before: Before | None) -> None:
        self.before = before
        self.vocabularies = dict(before.vocabularies) if before else {}
        self.scales = dict(before.scales) if before else {}

    def codes(self, name: str, values: pl.Series) -> np.ndarray:
        """(n,) int32 codes of text; 0 for null or empty text."""
        codes, self.vocabularies[name] = categories(values, self.vocabularies.get(name, ()))
        return codes

    def scaled(self, name: str, values: np.ndarray) -> np.ndarray:
        """(n,) float32 of mean 0 and deviation 1 among the numbers that the first import knew; 0 for NaN."""
        known = values[~np.isnan(values)]
        # of the whole, as scikit-learn's StandardScaler has it; 1 for a constant
        mean, deviation = (float(known.mean()), float(known.std()) or 1.0) if known.size else (0.0, 1.0)
        scale = self.scales.setdefault(name, {"mean": mean, "deviation": deviation})
        return np.nan_to_num((values - scale["mean"]) / scale["deviation"]).astype(np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self.vocabularies or name in self.scales

    def size(self, name: str) -> int:
        """One more than the greatest code of a column."""
        return len(self.vocabularies[name]) + 1

    def write(self, out: Output) -> None:
        """Writes the files that a later import reads."""
        if self.vocabularies:
            out.write_json("vocabularies.json", self.vocabularies)
        if self.scales:
            out.write_json("scales.json", self.scales)
