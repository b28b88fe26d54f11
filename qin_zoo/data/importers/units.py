"""Times of one's own table, in the unit that they are said or seen to have, as nanoseconds since 1970 (UTC).

``seconds``, ``milliseconds``, ``microseconds``, ``nanoseconds``   numbers of them since 1970
``mixed``      numbers since 1970, each in the unit in which it lies between 1973 and 2100
``order``      numbers that are no dates: the greater, the later
``ISO``        2024-01-31, 2024-01-31 12:30:59.5, with T, Z, +01 or +01:00 where they are there; without a zone, UTC
``%d.%m.%Y``   any other date, written as in Python's strptime
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from qin_zoo.data.importers.moments import END, FIRST, UNITS
from qin_zoo.errors import DataError, suggest

NAMES = (*UNITS, "mixed", "order", "ISO")
_ISO = (
    r"^(\d{4})[-/](\d\d?)[-/](\d\d?)"
    r"(?:[T ]+(\d\d?):(\d\d)(?::(\d\d(?:[.,]\d+)?))?(?: ?([+-])(\d\d)(?::?(\d\d))?)?)?(?: ?(?:Z|UTC))?$"
)
_FORMATS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d %b %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p", " %I:%M %p")
_MOST = 0.9  # of the values that have to fit a unit before it is guessed
_SECOND = 10**9
_LAST = 9_223_286_400  # seconds from 1970 that are an int64 of nanoseconds, in either direction: 1677 to 2262


class Unit(NamedTuple):
    """A guess.

    Attributes:
        name: the unit.
        because: why.
        others: units that fit as well.
    """

    name: str
    because: str
    others: tuple[str, ...] = ()


def check_unit(name: str, where: str) -> None:
    """Raises DataError unless it is a unit, or a format with a day in it."""
    if name not in NAMES and not ("%" in name and name.replace("%%", "").count("%") >= 2):
        raise DataError(
            f"{where}: expected the unit of a time ({', '.join(NAMES)}, or a format such as %d.%m.%Y), found '{name}'."
            f"{suggest(name, NAMES)}"
        )


def guess_unit(text: pl.Series) -> Unit | None:
    """The unit that most values fit; None where there is none."""
    known = text.drop_nulls().str.strip_chars()
    known = known.filter(known != "")
    if not len(known):
        return None
    numbers = _with_point(known).cast(pl.Float64, strict=False)
    if numbers.is_finite().sum() >= _MOST * len(known):
        for name, digits in (("%Y%m%d", 8), ("%Y%m%d%H%M%S", 14)):
            times, bad = nanoseconds(known, name)
            if (~bad).mean() >= _MOST and (known.str.len_chars() == digits).mean() >= _MOST:
                return Unit(name, _said(known, times, bad))
        return _of_numbers(known)
    formats = ("ISO", *(f"{day}{clock}" for day in _FORMATS for clock in _CLOCKS))
    wrong = {name: int(nanoseconds(known, name)[1].sum()) for name in formats}
    least = min(wrong.values())
    if 1 - least / len(known) < _MOST:
        return None
    names = [name for name in formats if wrong[name] == least]
    return Unit(names[0], _said(known, *nanoseconds(known, names[0])), tuple(names[1:]))


def nanoseconds(text: pl.Series, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64, and (n,) bool where there is no time.

    None is no text, no such text, a number outside 1973 to 2100, or a date outside 1677 to 2262.

    Times of the unit ``order`` come as they are, times 10⁹.
    """
    text = text.str.strip_chars()
    if unit == "ISO":
        values = _iso(text)
    elif unit in NAMES:
        return _numbers(text, unit)
    else:
        clock = "%H" in unit or "%I" in unit
        padded = text if clock else text + " 00:00:00"
        values = padded.str.strptime(pl.Datetime("us"), unit if clock else f"{unit} %H:%M:%S", strict=False)
        values = values.dt.epoch("us")
        values = values.set(values.abs() > _LAST * 10**6, None) * 1000
    return values.fill_null(0).to_numpy(), values.is_null().to_numpy()


def _numbers(text: pl.Series, unit: str) -> tuple[np.ndarray, np.ndarray]:
    text = _with_point(text)
    whole = text.cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    size = number.fill_null(float("nan")).to_numpy()
    exact = whole.fill_null(0).to_numpy()
    is_whole = whole.is_not_null().to_numpy()
    out, bad = np.zeros(len(size), np.int64), np.ones(len(size), bool)
    if unit == "order":
        good = np.abs(size) < 2**33
        out[good] = np.where(is_whole, exact * _SECOND, np.nan_to_num(size) * _SECOND)[good].astype(np.int64)
        return out, ~good
    for name, scale in UNITS.items():
        if unit in (name, "mixed"):
            good = (size >= FIRST / scale) & (size < END / scale)
            of_whole, of_part = good & is_whole, good & ~is_whole
            out[of_whole] = exact[of_whole] * scale
            out[of_part] = np.rint(size[of_part] * scale).astype(np.int64)
            bad &= ~good
    return out, bad


def _with_point(text: pl.Series) -> pl.Series:
    """1700000000,5 as 1700000000.5; a shorter number may have its thousands apart."""
    return text.str.replace(r"^(\d{9,}),(\d+)$", "$1.$2")


def _of_numbers(text: pl.Series) -> Unit | None:
    counts = {name: int((~_numbers(text, name)[1]).sum()) for name in UNITS}
    counts = {name: count for name, count in counts.items() if count}
    if sum(counts.values()) < len(text) / 2:
        if _numbers(text, "order")[1].mean() > 1 - _MOST:
            return None
        return Unit("order", f"numbers such as {text[0]} are no dates: the greater, the later")
    if len(counts) > 1:
        return Unit("mixed", ", ".join(f"{count:,} in {name}" for name, count in counts.items()))
    (name,) = counts
    return Unit(name, _said(text, *nanoseconds(text, name)))


def _iso(text: pl.Series) -> pl.Series:
    """Nanoseconds, null for anything else."""
    parts = text.str.extract_groups(_ISO).struct.unnest()
    year, month, day, hour, minute, second, sign, *offset = (pl.col(name) for name in parts.columns)
    text_date = pl.concat_str([year, month.str.zfill(2), day.str.zfill(2)], separator="-")
    date = text_date.str.strptime(pl.Date, "%Y-%m-%d", strict=False)
    hours, minutes = (column.cast(pl.Int64).fill_null(0) for column in (hour, minute))
    seconds = second.str.replace(",", ".").cast(pl.Float64).fill_null(0)
    shift = sum(c.cast(pl.Int64).fill_null(0) * n for c, n in zip(offset, (3600, 60)))
    shift = pl.when(sign == "-").then(-shift).otherwise(shift)
    whole = date.cast(pl.Int32).cast(pl.Int64) * 86_400 + hours * 3600 + minutes * 60 - shift
    total = whole * _SECOND + (seconds * _SECOND).round(0).cast(pl.Int64)
    inside = (hours < 24) & (minutes < 60) & (seconds < 61) & (whole.abs() < _LAST)
    return parts.select(pl.when(inside).then(total)).to_series()


def _said(text: pl.Series, times: np.ndarray, bad: np.ndarray) -> str:
    """An example of what a value stands for."""
    row = int(np.flatnonzero(~bad)[0])
    return f"{text[row]} is {str(np.datetime64(int(times[row]), 'ns'))[:19].replace('T', ' ')}"
