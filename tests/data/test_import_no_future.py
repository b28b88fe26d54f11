"""No row of an import sees the future: every row is recomputed naively, and later interactions are changed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin_zoo.data.importers.build import PointInTime, rows_of
from qin_zoo.data.importers.log import Events
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.splits import split_rows
from qin_zoo.errors import DataError

ITEMS, LENGTH = 6, 4
SPLITS = ["time", "leave-one-out", "given"]

# user, item, click, time, given split; few values, so that users, items and times coincide often
interaction = st.tuples(
    st.integers(1, 4), st.integers(1, ITEMS), st.booleans(), st.integers(0, 5), st.sampled_from([0, 0, 0, 1, 2])
)
logs = st.lists(interaction, min_size=1, max_size=24)
setups = st.tuples(st.sampled_from(["clicks", "all"]), st.booleans(), st.booleans())


def events_of(log, timed, with_given) -> Events:
    user, item, click, time, split = (np.array(column) for column in zip(*log))
    moment = np.unique(time, return_inverse=True)[1] if timed else np.arange(len(log))
    of_source = split.astype(np.int8) if with_given else None
    return Events(user.astype(np.int32), item.astype(np.int32), click, moment.astype(np.int64), timed, of_source, ITEMS)


def imported(log, split, history, timed, with_given, negatives=0):
    """One dictionary per row, its ``source`` the position of its interaction in the log."""
    events = events_of(log, timed, with_given)
    known = PointInTime(events, split, history)
    out = []
    for number in range(3):
        rows = rows_of(events, np.flatnonzero(split == number), negatives, seed=3)
        for chunk in known.chunks(rows, LENGTH, {}, {}):
            columns = {name: values.tolist() for name, values in chunk.items()}
            out += [dict(zip(columns, row)) for row in zip(*columns.values())]
        for row, source in zip(out[len(out) - len(rows.source) :], rows.source):
            row |= {"source": int(source), "split": number}
    return out


def before(log, row, other, timed, with_given, split) -> bool:
    """Whether interaction ``other`` was known at the moment of interaction ``row``; nothing clever."""
    if with_given and split[other] != 0:
        return False
    if timed:
        return log[other][3] < log[row][3]
    if with_given and split[row] != 0:
        return True
    return other < row


def level(count: int) -> int:
    return min(len(f"{count:b}") if count else 0, 10)


def any_split(log, with_given):
    """Splits as the source gives them, or all training; how rows are split is tested further down."""
    return np.array([entry[4] if with_given else 0 for entry in log], np.int8)


@settings(max_examples=200, deadline=None)
@given(logs, setups)
def test_rows_hold_what_was_strictly_known(log, setup):
    history, timed, with_given = setup
    split = any_split(log, with_given)
    rows = imported(log, split, history, timed, with_given)
    assert sorted(row["source"] for row in rows) == list(range(len(log)))
    for row in rows:
        source = row["source"]
        user, item, click = log[source][:3]
        seen = [i for i in range(len(log)) if before(log, source, i, timed, with_given, split)]
        mine = [i for i in seen if log[i][0] == user and (log[i][2] or history == "all")]
        mine.sort(key=lambda i: (log[i][3] if timed else 0, i))
        expected = [log[i][1] for i in mine][-LENGTH:]
        assert row["item_seq"] == [0] * (LENGTH - len(expected)) + expected
        assert (row["user_id"], row["item_id"], row["label"]) == (user, item, click)
        if timed:
            assert row["views_level"] == level(sum(log[i][1] == item for i in seen))
            assert row["likes_level"] == level(sum(log[i][1] == item and log[i][2] for i in seen))
        else:
            assert "views_level" not in row


@settings(max_examples=200, deadline=None)
@given(logs, setups, st.integers(0, 5), st.data())
def test_the_future_changes_nothing_before_it(log, setup, now, data):
    """Rows up to a moment stay as they are, sampled negatives included, whatever happens after it."""
    history, timed, _ = setup
    is_past = [entry[3] <= now if timed else i <= now for i, entry in enumerate(log)]
    changed, origin = [], []
    for position, entry in enumerate(log):
        if is_past[position]:
            changed.append(entry)
            origin.append(position)
        elif data.draw(st.booleans()):  # kept with another item and label, at another later time; or dropped
            user, _, _, _, split = entry
            changed.append((user, data.draw(st.integers(1, ITEMS)), data.draw(st.booleans()), now + 1, split))
            origin.append(None)
    if not any(is_past):
        return

    def past(log, origin):
        rows = imported(log, any_split(log, False), history, timed, False, negatives=2)
        kept = [row | {"source": origin[row["source"]]} for row in rows if origin[row["source"]] is not None]
        return sorted(kept, key=lambda row: row["source"])  # stable: negatives stay in their order

    whole = [i if is_past[i] else None for i in range(len(log))]
    assert past(log, whole) == past(changed, origin)


@settings(max_examples=150, deadline=None)
@given(logs, st.booleans())
def test_held_out_rows_change_no_training_row_of_given_splits(log, timed):
    split = any_split(log, True)
    if not (split == 0).any():
        return
    training = [entry for entry in log if entry[4] == 0]
    with_all = imported(log, split, "all", timed, True, negatives=1)
    alone = imported(training, any_split(training, True), "all", timed, True, negatives=1)
    drop = {"source"}  # the place in the file moves
    rows = [{k: v for k, v in row.items() if k not in drop} for row in with_all if row["split"] == 0]
    assert rows == [{k: v for k, v in row.items() if k not in drop} for row in alone]


@settings(max_examples=150, deadline=None)
@given(logs, st.sampled_from(SPLITS), st.booleans())
def test_negatives_were_untouched(log, method, timed):
    with_given = method == "given"
    events = events_of(log, timed, with_given)
    try:
        split, _ = split_rows(events, ImportOptions(split=method), "the log")
    except DataError:  # too small for this split
        return
    for row in imported(log, split, "clicks", timed, with_given, negatives=3):
        if not log[row["source"]][2] or row["label"]:  # not a sampled one
            continue
        source = row["source"]
        for position, (user, item, *_) in enumerate(log):
            if with_given:
                touched = split[position] <= split[source]
            elif timed:
                touched = log[position][3] <= log[source][3]
            else:
                touched = position <= source
            assert not (touched and user == row["user_id"] and item == row["item_id"])


@settings(max_examples=100, deadline=None)
@given(logs, st.sampled_from(["time", "leave-one-out"]))
def test_every_split_is_later_than_those_before_it(log, method):
    events = events_of(log, True, False)
    try:
        split, _ = split_rows(events, ImportOptions(split=method, valid_share=0.2, test_share=0.3), "the log")
    except DataError:
        return
    for user in {0} if method == "time" else set(events.user.tolist()):
        mine = np.ones(len(log), bool) if method == "time" else events.user == user
        for early, late in itertools.combinations(range(3), 2):
            ends, begins = events.moment[mine & (split == early)], events.moment[mine & (split == late)]
            if ends.size and begins.size:
                assert ends.max() < begins.min() if method == "time" else ends.max() <= begins.min()
    if method == "leave-one-out":
        for user in set(events.user.tolist()):
            mine = events.user == user
            clicks = [int((mine & events.click & (split == s)).sum()) for s in range(3)]
            total = sum(clicks)
            assert clicks[1:] == [int(total >= 3), int(total >= 2)]


def test_negatives_of_a_user_who_knows_everything_but_one_item():
    log = [(1, item, True, item, 0) for item in range(1, ITEMS)] + [(1, 1, True, 9, 0), (2, 6, True, 9, 0)]
    rows = imported(log, any_split(log, False), "clicks", True, False, negatives=2)
    assert [row["item_id"] for row in rows if row["source"] == 5] == [1, ITEMS, ITEMS]
    log[6] = (1, 6, True, 9, 0)  # now nothing is left at moment 9
    rows = imported(log, any_split(log, False), "clicks", True, False, negatives=2)
    assert [row["item_id"] for row in rows if row["source"] == 5] == [1]


@pytest.mark.parametrize("share", [(0.0, 0.1), (0.1, 1.0), (0.6, 0.5), (-0.1, 0.1)])
def test_shares_out_of_range(share):
    with pytest.raises(DataError, match="valid-share"):
        ImportOptions(valid_share=share[0], test_share=share[1])
