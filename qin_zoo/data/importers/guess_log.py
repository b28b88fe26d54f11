"""What the columns of a log may be: the time and its unit, the label and its rule; all else may tell the label."""

from __future__ import annotations

import re

import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column
from qin_zoo.data.importers.guess_column import tokens
from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.tables import as_numbers
from qin_zoo.data.importers.units import guess_unit, nanoseconds
from qin_zoo.data.importers.values import is_nothing

_TIMES = {"time", "timestamp", "ts", "date", "datetime", "created", "at", "when", "day", "unixtime", "moment"}
_CLICKS = {
    "label", "click", "clicks", "clicked", "like", "liked", "purchase", "purchased", "bought", "converted",
    "conversion", "target",
}  # fmt: skip
_RATINGS = {"rating", "ratings", "score", "stars", "rate"}
_CLOCK = r"^\d\d?:\d\d(:\d\d(\.\d+)?)?$"
_DAY = 86_400 * 10**9
_EVENTS = {"event", "action", "behavior", "behaviour", "interaction", "activity"}
_CLICK_VALUES = ({"0", "1"}, {"-1", "1"}, {"false", "true"}, {"0"}, {"1"})
_MOST = 0.9  # of the values that have to be numbers
_HEAD = 200_000  # rows that guesses are made from


def guess_log(table: OwnFile, user: str, item: str, doubts: list[str]) -> tuple[dict[str, Column], str, str]:
    """The columns of a log, the rule of the clicks, and why it is that one.

    Args:
        table: the log.
        user, item: its columns of ids.
        doubts: receives what nobody but the person can say.
    """
    columns = {}
    for name, role in ((user, "user"), (item, "item")):
        columns[name] = Column(role, because=f"{table.text(name).n_unique():,} different ones")
    rest = [name for name in table.names if name not in columns]
    time, what = _time(table, rest, doubts)
    if time is not None:
        columns[time] = what
    flags, ratings, unclear = [], [], []
    for name in rest:
        if name == time:
            continue
        if not table.is_single(name):
            columns[name] = Column(LEFT_OUT, because=f"its type {table.frame[name].dtype} is not read")
            continue
        text = table.text(name).head(_HEAD)
        values = _values(text.filter(text != name))  # the header may come again
        if values in _CLICK_VALUES and len(values) + bool(tokens(name) & _CLICKS) > 1:
            flags.append(name)
            columns[name] = Column("label", because=f"its values are {' and '.join(sorted(values))}")
        elif tokens(name) & (_CLICKS | _RATINGS):
            number = len(_numbers(text)) > _MOST * int((~is_nothing(text)).sum())
            columns[name] = Column("label" if number else LEFT_OUT, because="its name")
            if number:
                ratings.append(name)
            elif tokens(name) & _CLICKS or not text.is_null().all():
                unclear.append((name, text))
        else:
            columns[name] = Column(
                LEFT_OUT, because="it may be known only after the click; category or number where it is known before"
            )
    for name, text in unclear:
        if tokens(name) & _CLICKS or not flags + ratings:
            what = "clicks" if tokens(name) & _CLICKS else "a rating"
            held = ", ".join(sorted(text.drop_nulls().unique().head(3))) or "nothing"
            doubts.append(f"label: '{name}' sounds like {what} and holds {held:.80}. Write numbers: 0, 1 for clicks.")
    columns = {name: columns[name] for name in table.names}
    if not flags + ratings:
        _ask_of_events(table, rest, doubts)
    return columns, *_label(table, flags, ratings, doubts)


def _ask_of_events(table: OwnFile, names: list[str], doubts: list[str]) -> None:
    """Where a row says what happened, a click may be some of it."""
    for name in names:
        values = _values(table.text(name).head(_HEAD)) if table.is_single(name) and tokens(name) & _EVENTS else set()
        if len(values) > 1:
            doubts.append(
                f"label: is every '{name}' a click ({', '.join(sorted(values)):.80})? implicit is taken: all are. Else "
                "write a column of 0 and 1."
            )


def _values(text: pl.Series) -> set[str]:
    """The values of a column of few, 1.0 being 1; empty where there are many."""
    values = text.drop_nulls().unique()
    if not 0 < len(values) <= 8:
        return set()
    return {re.sub(r"^(-?\d+)\.0+$", r"\1", value.lower()) for value in values}


def _numbers(text: pl.Series) -> pl.Series:
    """The finite numbers of a column."""
    values = as_numbers(text.filter(~is_nothing(text)))
    return values.filter(values.is_finite().fill_null(False))


def _label(table: OwnFile, flags: list[str], ratings: list[str], doubts: list[str]) -> tuple[str, str]:
    named = [name for name in flags if tokens(name) & _CLICKS] or flags
    if len(named) > 1:
        doubts.append(f"label: which are the clicks, {', '.join(named)}? '{named[0]}' is taken.")
    if named:
        negative = "-1" in _values(table.text(named[0]).head(_HEAD))
        if not tokens(named[0]) & _CLICKS:
            doubts.append(f"label: is '{named[0]}' the click? It holds 0 and 1; implicit would make every row one.")
        return (f"{named[0]}>0", "1 is a click, -1 none") if negative else (named[0], "1 is a click, 0 none")
    if ratings:
        top = _numbers(table.text(ratings[0])).max()
        counted = bool(tokens(ratings[0]) & _CLICKS)
        rule = f"{ratings[0]}>0" if counted else f"{ratings[0]}>={max(round(0.8 * top), 1)}"
        doubts.append(f"label: from which '{ratings[0]}' on is it a click? '{rule}' is taken; the greatest is {top:g}.")
        return rule, "a count" if counted else "a rating"
    return "implicit", "no column of 0 and 1: every row is a click"


def _time(table: OwnFile, names: list[str], doubts: list[str]) -> tuple[str | None, Column]:
    """The column of times."""
    found, strange = [], []
    for name in names:
        kind = table.frame[name].dtype
        if not (kind.is_temporal() or tokens(name) & _TIMES):
            continue
        if not table.is_single(name):
            strange.append(f"'{name}' holds {kind}")
            continue
        text = table.text(name).head(_HEAD)
        unit = guess_unit(text)
        if unit is not None:
            found.append((name, unit))
        elif text.null_count() < len(text):
            strange.append(f"'{name}' holds {text.drop_nulls()[0]!r:.40}")
    if not found and not strange:  # by the values, where no name says it
        units = [(name, guess_unit(table.text(name).head(_HEAD))) for name in names if table.is_single(name)]
        found = [(name, unit) for name, unit in units if unit is not None and unit.name not in ("order", "mixed")]
    if not found and strange:
        doubts.append(
            f"time: {' and '.join(strange)}, in no form that is known. Say which, for example time (%d %b %Y %H:%M); "
            "without a time the order of the file counts."
        )
    if not found:
        return None, Column(LEFT_OUT)
    rank = ("timestamp", "time", "datetime", "ts", "unixtime")
    first = {name: next((n for n, word in enumerate(rank) if word in tokens(name)), 9) for name, _ in found}
    found.sort(key=lambda pair: (first[pair[0]], pair[1].name == "order"))
    name, unit = found[0]
    if not (nanoseconds(table.text(name).head(_HEAD), unit.name)[0] % _DAY).any():
        for clock in (n for n in names if table.is_single(n)):
            if table.text(clock).head(_HEAD).str.contains(_CLOCK).all() and table.text(clock).null_count() == 0:
                doubts.append(f"time: '{name}' is taken without the hours in '{clock}'. Write both in one column.")
    if len(found) > 1:
        doubts.append(f"time: is it {', '.join(other for other, _ in found)}? '{name}' is taken.")
    if unit.others:
        doubts.append(f"time: is '{name}' written as {unit.name} or {', '.join(unit.others)}? {unit.name} is taken.")
    return name, Column("time", unit.name, unit.because)
