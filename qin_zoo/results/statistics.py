"""Means over seeds, and how far they, and differences of them, can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANT = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two, with the errors it may have.

    Attributes:
        mean: its value.
        users: standard error from who the users of the split happen to be: the deviation over draws of users; NaN where
            it is not known.
        seeds: standard error from the seeds of the trainings; NaN with one seed.
        freedom: degrees of freedom of the two, users less one and seeds less one.
    """

    mean: float
    users: float
    seeds: float
    freedom: tuple[float, float]

    @property
    def error(self) -> float:
        """Standard error; the two add up as variances. NaN where neither is known."""
        known = [e for e in (self.users, self.seeds) if not math.isnan(e)]
        return math.hypot(*known) if known else math.nan

    @property
    def _t(self):
        """Student's distribution of the error; degrees of freedom after Satterthwaite (Biometrics Bulletin 1946)."""
        from scipy.stats import t

        parts = [(e, f) for e, f in zip((self.users, self.seeds), self.freedom) if not math.isnan(e) and e > 0]
        return t(self.error**4 / sum(e**4 / f for e, f in parts)) if parts else t(1)

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; NaN where no error is known."""
        return float(self.error * self._t.ppf(1 - SIGNIFICANT / 2)) if self.error > 0 else self.error

    @property
    def interval(self) -> list[float] | None:
        """Both ends of the 95 % interval; None where no error is known."""
        return None if math.isnan(self.half) else [self.mean - self.half, self.mean + self.half]

    def interval_text(self, sign: str = "") -> str:
        """``[0.6843, 0.7181]``, with a ``+`` as sign where they are above 0; empty where no error is known."""
        return f"[{', '.join(f'{end:{sign}.4f}' for end in self.interval)}]" if self.interval else ""

    @property
    def p(self) -> float:
        """Of the two-sided test against 0; NaN where no error is known."""
        if math.isnan(self.mean) or math.isnan(self.error):
            return math.nan
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * self._t.sf(abs(self.mean) / self.error))

    @property
    def visible(self) -> float:
        """The smallest true difference that the test would find in four cases of five; NaN where no error is known."""
        if not self.error > 0:
            return math.nan
        return float(self.error * (self._t.ppf(1 - SIGNIFICANT / 2) + self._t.ppf(POWER)))


def estimate(by_seed: Sequence[float], draws: np.ndarray | None = None, users: int = 0) -> Estimate:
    """A mean over seeds.

    Args:
        by_seed: a value of each.
        draws: (draws,) mean over seeds in each draw of users. Default: not known.
        users: how many there are.
    """
    known = draws is not None and users != 1 and _tell(draws)
    error_of_users = float(np.nanstd(draws, ddof=1)) if known else math.nan
    error_of_seeds, freedom = deviation(by_seed) / math.sqrt(len(by_seed)), (users - 1, len(by_seed) - 1)
    return Estimate(statistics.fmean(by_seed), error_of_users, error_of_seeds, tuple(max(f, 1) for f in freedom))


def _tell(draws: np.ndarray) -> bool:
    """Whether draws show what other users would change; not if few have a value, or one user alone gives it to all."""
    finite = draws[np.isfinite(draws)]
    return len(finite) >= len(draws) / 2 and (len(finite) == len(draws) or bool(finite.min() < finite.max()))


def deviation(values: Sequence[float]) -> float:
    """Standard deviation; NaN of fewer than two values, or where one of them is NaN."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, so raised that all of them together err in one of twenty cases at most.

    Holm, Scandinavian Journal of Statistics 1979. NaN stays, and counts for nothing.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    raised, least = [math.nan] * len(p_values), 0.0
    for place, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p))
        raised[i] = least
    return raised


def mean_and_spread(values: Sequence[float], digits: int = 4) -> str:
    """``0.7012 ± 0.0021``; without the spread where there is one value."""
    spread = deviation(values)
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"
