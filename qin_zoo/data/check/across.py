"""What only comparing rows shows: duplicates, contradictions, leakage, extreme users, what is cold."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from qin_zoo.data.check.findings import Findings
from qin_zoo.data.check.splits import Split

EXTREME_ROWS, EXTREME_TIMES = 100, 25
"""A user is extreme with more rows than the first, and than the second times the median user's."""
REPEAT_SHARE = 5e-3
"""Share of the rows that may repeat or contradict another before it is worth a warning: a user of a short
history is shown an item twice, now and then."""

SHIFT_TIMES = 3
"""So many times longer are histories in one split than in another before it is worth a warning."""


def duplicates(split: Split) -> np.ndarray:
    """(n,) bool, rows equal in every column to an earlier one; rows with empty histories are never meant."""
    return repeated(split.full) & (split.length > 0)


def repeated(values: np.ndarray) -> np.ndarray:
    """(n,) bool, where an equal value comes earlier."""
    return ~pl.Series(values).is_first_distinct().to_numpy()


def contradictions(split: Split) -> np.ndarray:
    """(n,) bool, rows whose user, item and history occur with both labels; empty histories are never meant."""
    if split.label is None:
        return np.zeros(split.rows, bool)
    rows = pl.DataFrame({"key": split.key, "label": split.label})
    both = (pl.col("label") == 0).any().over("key") & (pl.col("label") == 1).any().over("key")
    return rows.select(both).to_series().to_numpy() & (split.length > 0)


def extremes(user: np.ndarray) -> tuple[np.ndarray, int]:
    """(n,) bool, the rows of users with more rows than the limit, and the limit."""
    _, place, counts = np.unique(user, return_inverse=True, return_counts=True)
    limit = max(EXTREME_ROWS, int(EXTREME_TIMES * np.median(counts))) if counts.size else EXTREME_ROWS
    return counts[place] > limit, limit


def check_rows(split: Split, findings: Findings) -> None:
    """Findings among the rows of one split."""
    once, one_label = "each row once", "one label per user, item and history"
    for code, column, mask, expected, came in (
        ("duplicate-rows", None, duplicates(split), once, "equal to an earlier one"),
        ("contradictory-labels", split.label_column, contradictions(split), one_label, "with both labels"),
    ):
        if count := int(mask.sum()):
            message = f"expected {expected}; found {count:,} {'row' if count == 1 else 'rows'} {came}"
            severity = "note" if count <= REPEAT_SHARE * split.rows else None
            findings.add(code, split.file, column, message, mask, severity)
    mask, limit = extremes(split.user)
    users, counts = np.unique(split.user[mask], return_counts=True)
    if len(users) and split.name == "train":
        most = int(counts.argmax())
        message = (
            f"expected users of at most {limit:,} rows ({EXTREME_TIMES} times the median user's, at least "
            f"{EXTREME_ROWS}); found {len(users):,} with more, user {users[most]} with {counts[most]:,}"
        )
        findings.add("extreme-user", split.file, None, message, mask)


def check_splits(splits: dict[str, Split], findings: Findings) -> None:
    """Findings between splits, of which the training rows are the first."""
    for one, two in itertools.combinations(splits.values(), 2):
        shared = np.isin(two.key, one.key) & (two.length > 0)
        if shared.any():
            message = f"expected no row of {one.file}, found the same user, item and history in both"
            findings.add("split-leakage", two.file, None, message, shared)
    if "train" not in splits:
        return
    train = splits["train"]
    for split in (split for name, split in splits.items() if name != "train"):
        for what in ("item", "user"):
            ids = getattr(split, what)
            cold = np.isin(ids, getattr(train, what), invert=True)
            if cold.any():
                share, distinct = cold.mean(), len(np.unique(ids[cold]))
                message = f"{share:.2%} of the rows have one of {distinct:,} {what}s that {train.file} has no row of"
                findings.add(f"cold-{what}s", split.file, None, message, cold)
        median, usual = np.median(split.length), np.median(train.length)
        if min(median, usual) > 0 and max(median, usual) > SHIFT_TIMES * min(median, usual):
            message = f"the median history has {usual:,.0f} items in {train.file} and {median:,.0f} here"
            findings.add("history-shift", split.file, None, message)
    rates = {n: rate for n, s in splits.items() if 0 < (rate := click_rate(s)) < 1}  # one class is its own finding
    if "valid" in rates and "train" in rates and abs(rates["train"] - rates["valid"]) > 0.1:
        message = f"clicks are {rates['train']:.1%} of {train.file} and {rates['valid']:.1%} here"
        findings.add("click-rate-shift", splits["valid"].file, splits["valid"].label_column, message)


def click_rate(split: Split) -> float:
    """Share of clicks among the rows with a label; NaN without any."""
    if split.label is None or not (split.label >= 0).any():
        return float("nan")
    return float(split.label[split.label >= 0].mean())
