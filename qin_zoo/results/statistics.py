"""Means, spreads and paired differences over seeds."""

from __future__ import annotations

import math
import statistics

SIGNIFICANT = 0.05


def deviation(values: list[float]) -> float:
    """Standard deviation; NaN of fewer than two values, or where one of them is NaN."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def paired_p_value(differences: list[float]) -> float:
    """Of a paired t-test; NaN with fewer than two differences, or where one of them is NaN."""
    spread = deviation(differences)
    if math.isnan(spread):
        return math.nan
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


def mean_and_spread(values: list[float], digits: int = 4) -> str:
    """``0.7012 ± 0.0021``; without the spread where there is one value."""
    spread = deviation(values)
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def difference(values: list[float]) -> tuple[str, str]:
    """Mean and spread of paired differences, ``+0.0031 ± 0.0010 *``, and their p-value; empty texts of no values."""
    if not values:
        return "", ""
    p, spread = paired_p_value(values), deviation(values)
    text = f"{statistics.fmean(values):+.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")
    return text + (" *" if p < SIGNIFICANT else ""), "" if math.isnan(p) else f"{p:.3f}"
