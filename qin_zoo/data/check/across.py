"""What only comparing rows shows: duplicates, contradictions, leakage, extreme users, what is cold."""

from __future__ import annotations

import numpy as np
import polars as pl

from qin_zoo.data.check.findings import Findings, tally_of
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


def rows_per_user(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users,) ids, (n,) each row's position among them, (users,) their rows."""
    return np.unique(split.user, return_inverse=True, return_counts=True)


def extreme_limit(counts: np.ndarray) -> int:
    """The most rows a user may have, of (users,) rows that each has."""
    return max(EXTREME_ROWS, int(EXTREME_TIMES * np.median(counts))) if counts.size else EXTREME_ROWS


def extremes(split: Split) -> tuple[np.ndarray, int]:
    """(n,) bool, the rows of users with more rows than the limit, and the limit."""
    _, place, counts = rows_per_user(split)
    limit = extreme_limit(counts)
    return counts[place] > limit, limit


def check_rows(split: Split, findings: Findings) -> None:
    """Findings among the rows of one split."""
    for code, column, mask, expected, came in (
        ("duplicate-rows", None, duplicates(split), "each row once", "equal to an earlier one"),
        (
            "contradictory-labels",
            split.label_column,
            contradictions(split),
            "one label per user, item and history",
            "with both labels",
        ),
    ):
        tally = tally_of(mask)
        if tally.count:
            few = tally.count <= REPEAT_SHARE * split.rows
            message = f"expected {expected}; found {tally.count:,} {'row' if tally.count == 1 else 'rows'} {came}"
            findings.add(code, split.file, column, message, tally, "note" if few else None)
    mask, limit = extremes(split)
    users, counts = np.unique(split.user[mask], return_counts=True)
    if len(users) and split.name == "train":
        most = int(counts.argmax())
        message = (
            f"expected users of at most {limit:,} rows ({EXTREME_TIMES} times the median user's, at least "
            f"{EXTREME_ROWS}); found {len(users):,} with more, user {users[most]} with {counts[most]:,}"
        )
        findings.add("extreme-user", split.file, None, message, tally_of(mask))


def check_splits(splits: dict[str, Split], findings: Findings) -> None:
    """Findings between splits."""
    train = splits.get("train")
    for name, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if name in splits and other in splits:
            one, two = splits[name], splits[other]
            shared = np.isin(two.key, one.key) & (two.length > 0)
            if shared.any():
                message = f"expected no row of {one.file}, found the same user, item and history in both"
                findings.add("split-leakage", two.file, None, message, tally_of(shared))
    if train is None:
        return
    items, users = np.unique(train.item), np.unique(train.user)
    for name in ("valid", "test"):
        if name not in splits:
            continue
        split = splits[name]
        for code, ids, known, what in (
            ("cold-items", split.item, items, "items"),
            ("cold-users", split.user, users, "users"),
        ):
            cold = ~np.isin(ids, known)
            if cold.any():
                share, distinct = cold.mean(), len(np.unique(ids[cold]))
                message = f"{share:.2%} of the rows have one of {distinct:,} {what} that {train.file} has no row of"
                findings.add(code, split.file, None, message, tally_of(cold))
        median, usual = np.median(split.length), np.median(train.length)
        if min(median, usual) > 0 and max(median, usual) > SHIFT_TIMES * min(median, usual):
            message = f"the median history has {usual:,.0f} items in {train.file} and {median:,.0f} here"
            findings.add("history-shift", split.file, None, message)
    rates = {n: click_rate(s) for n, s in splits.items() if s.label is not None}
    rates = {n: rate for n, rate in rates.items() if 0 < rate < 1}  # of one class: a finding of its own
    if "valid" in rates and "train" in rates and abs(rates["train"] - rates["valid"]) > 0.1:
        message = f"clicks are {rates['train']:.1%} of {train.file} and {rates['valid']:.1%} here"
        findings.add("click-rate-shift", splits["valid"].file, splits["valid"].label_column, message)


def click_rate(split: Split) -> float:
    """Share of clicks among the rows with a label; NaN without any."""
    if split.label is None or not (split.label >= 0).any():
        return float("nan")
    return float(split.label[split.label >= 0].mean())
