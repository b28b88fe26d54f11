"""Which rows are for training, validation and test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qin_zoo.data import SPLITS
from qin_zoo.data.importers.log import Events
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.errors import DataError


def split_rows(events: Events, options: ImportOptions, where: object) -> tuple[np.ndarray, str]:
    """Each row's split, (n,) int8: 0 train, 1 valid, 2 test; and the way they were split.

    Raises:
        DataError: the source lacks what the split needs, or a split would be empty.
    """
    default = "given" if events.given is not None else "time" if events.timed else "leave-one-out"
    method = options.split or default
    if method == "given":
        if events.given is None:
            raise DataError(f"--split given: {where} brings no splits of its own. Choose time or leave-one-out.")
        split = events.given.astype(np.int8)
    elif method == "time":
        if not events.timed:
            raise DataError(f"--split time: {where} has no times. Choose leave-one-out, or given where it has splits.")
        split = _by_time(events.moment, options.valid_share, options.test_share)
    else:
        split = _leave_one_out(events)
    sizes = np.bincount(split, minlength=3)
    if not sizes.all():
        found = ", ".join(f"{name} {size}" for name, size in zip(SPLITS, sizes))
        raise DataError(
            f"--split {method}: expected rows in every split, found {found} in {where}. "
            + {
                "time": "Rows of one time stay together; raise the shares, or choose leave-one-out.",
                "leave-one-out": "It takes users with three clicks or more; choose another --label or --split.",
                "given": "The source leaves one out; choose time or leave-one-out.",
            }[method]
        )
    return split, method


def split_chosen(events: Events, chosen: np.ndarray, options: ImportOptions, where: object) -> tuple[np.ndarray, str]:
    """:func:`split_rows` of the chosen (n,) bool alone, the others before them: 0; DataError where none is chosen."""
    if chosen.all():
        return split_rows(events, options, where)
    if not chosen.any():
        raise DataError(f"--only-new: {where} holds no interaction that the earlier import has not. Leave it out.")
    parts = {n: getattr(events, n) for n in ("user", "item", "click", "moment", "given", "order")}
    part = replace(events, **{n: values if values is None else values[chosen] for n, values in parts.items()})
    split = np.zeros(len(chosen), np.int8)
    split[chosen], method = split_rows(part, options, where)
    return split, method


def _by_time(moment: np.ndarray, valid_share: float, test_share: float) -> np.ndarray:
    """One cut for all users; rows of one time stay on one side of it."""
    n = len(moment)
    first = [round(n * (1 - valid_share - test_share)), round(n * (1 - test_share))]
    first = np.minimum(first, n - 1)
    cuts = np.partition(moment, first)[first]
    return np.searchsorted(cuts, moment, side="right").astype(np.int8)


def _leave_one_out(events: Events) -> np.ndarray:
    """Each user's rows from the last click on are for test, those before from the last but one on for validation.

    A user with two clicks has no validation row, one with a single click trains only.
    """
    order = np.argsort(events.user * np.int64(events.moments) + events.moment, kind="stable")
    user, click = events.user[order], events.click[order]
    first = np.searchsorted(user, user)  # where each row's user begins
    last = np.searchsorted(user, user, side="right")
    before = np.concatenate([[0], np.cumsum(click)])
    to_come = before[last] - before[:-1]  # clicks from this row on, this one included
    total = before[last] - before[first]
    test = (total >= 2) & ((to_come == 0) | ((to_come == 1) & click))
    valid = (total >= 3) & ~test & ((to_come == 1) | ((to_come == 2) & click))
    split = np.empty(len(user), np.int8)
    split[order] = np.where(test, 2, np.where(valid, 1, 0))
    return split
