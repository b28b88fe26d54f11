"""FuxiCTR's ``preprocess`` functions by name: columns of raw files made of other columns, before anything is encoded.

One table of polars expressions: those of FuxiCTR's ``FeatureProcessor`` and of its ``datasets`` (avazu, criteo,
kkbox). The text of a configuration chooses a row of it and names a column; nothing is evaluated. The same functions of
single values, for requests, stand in ``serving/preprocess.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from qin_zoo.errors import ConfigError, DataError, suggest
from qin_zoo.feature_types import names_of

NUMBERS = {"int": pl.Int64, "float": pl.Float64}
_DEFAULTS = {"str": "", "int": 0, "float": 0.0}


@dataclass(frozen=True)
class Function:
    """A function of one column.

    Attributes:
        make: the column -> what is made of it; null where that cannot be done.
        expected: what the column must hold; "" where anything goes.
        source: the column it reads where the configuration names none; None for the one it makes.
    """

    make: Callable[[pl.Expr], pl.Expr]
    expected: str = ""
    source: str | None = None


def _date(hour: pl.Expr) -> pl.Expr:
    day = hour.cast(pl.String).str.slice(0, 6)
    # polars reads other characters than digits, too, as some day
    return pl.when(day.str.contains("^[0-9]{6}$")).then(day.str.to_date("%y%m%d", strict=False))


def _bucket(value: pl.Expr) -> pl.Expr:
    number = value.cast(pl.Float64, strict=False)
    squared = pl.when(number > 2).then(number.log().pow(2).floor()).otherwise(number)
    return squared.cast(pl.Int32, strict=False)


def _age(value: pl.Expr) -> pl.Expr:
    age = value.cast(pl.Float64, strict=False)
    group = (age / 10).ceil().clip(1, 7).cast(pl.Int64).cast(pl.String)
    known = pl.when(age.is_between(1, 95)).then(group).otherwise(pl.lit(""))
    given = value.cast(pl.String).fill_null("") != ""
    return pl.when(age.is_null() & given).then(None).otherwise(known)


_HOUR = "a time as YYMMDDHH"
FUNCTIONS: dict[str, Function] = {
    "copy_from": Function(lambda value: value),
    # Criteo: floor(log(x)²) above 2
    "convert_to_bucket": Function(_bucket, "a number"),
    # Avazu: of the column 'hour', 14102100 being 0 o'clock on 2014-10-21; Sunday is 0
    "convert_hour": Function(
        lambda hour: hour.cast(pl.String).str.slice(6, 2).cast(pl.Int32, strict=False), _HOUR, "hour"
    ),
    "convert_weekday": Function(lambda hour: (_date(hour).dt.weekday() % 7).cast(pl.Int32), _HOUR, "hour"),
    "convert_weekend": Function(lambda hour: _date(hour).dt.weekday().is_in([6, 7]).cast(pl.Int32), _HOUR, "hour"),
    # KKBox: the country of an ISRC; ages from 1 to 95 by tens
    "extract_country_code": Function(lambda code: code.cast(pl.String).str.slice(0, 2).fill_null("")),
    "bucketize_age": Function(_age, "a number"),
}


def parse(text: object, name: str, where: str) -> tuple[str, str]:
    """The function that a ``preprocess`` entry, ``FUNCTION`` or ``FUNCTION(COLUMN)``, asks for by name, and the column
    that it reads, by default the one it makes.

    Raises:
        ConfigError: another shape, or no such function.
    """
    match = re.fullmatch(r"(\w+)(?:\(([^()]*)\))?", str(text).strip())
    if not match or match[1] not in FUNCTIONS:
        raise ConfigError(
            f"{where}: expected preprocess to be one of {', '.join(FUNCTIONS)}, with or without (COLUMN), found "
            f"{str(text)[:60]!r}.{suggest(match[1], FUNCTIONS) if match else ''}"
        )
    return match[1], (match[2] or "").strip() or FUNCTIONS[match[1]].source or name


def copied(column: Mapping[str, Any], name: str) -> str | None:
    """The column that this one is a copy of; None where it is none."""
    text = str(column.get("preprocess") or "")
    return parse(text, name, name)[1] if text.startswith("copy_from(") else None


def expanded(columns: Iterable[object]) -> list[dict[str, Any]]:
    """Entries of ``feature_cols`` or ``label_col``, one for each name, whether active or not."""
    out: list[dict[str, Any]] = []
    for column in columns:
        if isinstance(column, Mapping) and column.get("name"):
            out += [{**column, "name": name} for name in names_of(column)]
    return out


def given_fill(column: Mapping[str, Any]) -> Any:
    """What the configuration says that stands for a missing value of a column; None where it says nothing."""
    return column.get("fill_na", column.get("na_value"))


class Wrong(NamedTuple):
    """What the rows of a file must not hold.

    Attributes:
        name: the column of the file that it is about.
        bad: true where a row holds it.
        expected: what the column must hold.
        shown: the column whose value a message gives.
        missing: true where it is a missing value, which ``fill_na`` would fill; None where that mends nothing.
    """

    name: str
    bad: pl.Expr
    expected: str
    shown: str
    missing: pl.Expr | None = None


@dataclass(frozen=True)
class Made:
    """How the values of a column come from those of one column of the file.

    Attributes:
        column: of the file.
        dtype: of its numbers: ``int`` or ``float``; ``str`` of anything else.
        steps: ``{"fill": value}`` for a missing one, or ``{"call": function}``, the first one first.
    """

    column: str
    dtype: str
    steps: tuple[Mapping[str, Any], ...] = ()

    def then(self, **step: Any) -> Made:
        """The same with one more step."""
        return replace(self, steps=(*self.steps, step))


def dtype_of(stored: pl.DataType) -> str:
    """The dtype of a configuration that a column of a file is of."""
    return "int" if stored.is_integer() else "float" if stored.is_float() else "str"


def prepare(
    frame: pl.LazyFrame, names: Iterable[str], params: Mapping[str, Any], path: Path
) -> tuple[pl.LazyFrame, list[Wrong], dict[str, Made]]:
    """A raw file of these columns with those that ``preprocess`` entries of its configuration make; what its rows must
    not hold; and of each column that is made, how.

    In FuxiCTR's order, which decides where one column is made of another: labels, then features from the last to the
    first; missing values are filled before a column is read, and in a new column afterwards.

    Raises:
        ConfigError: an unknown function.
        DataError: a column that a function reads is missing.
    """
    where = f"dataset '{params.get('dataset_id')}'"
    labels = params.get("label_col")
    columns = expanded(labels if isinstance(labels, list) else [labels])
    columns += expanded(params.get("feature_cols") or [])[::-1]
    steps = {
        c["name"]: parse(c["preprocess"], c["name"], f"{where}, column '{c['name']}'")
        for c in columns
        if c.get("preprocess")
    }
    file, known, checks = set(names), set(names), []
    read = {source for _, source in steps.values()} | steps.keys()
    columns = columns if steps else []
    for column in columns:
        if column["name"] in file & read:
            frame, more = _typed(frame, column)
            checks += more
    origins = {name: Made(name, dtype_of(stored)) for name, stored in frame.collect_schema().items()} if steps else {}
    for column in columns:
        name = column["name"]
        default, here = _DEFAULTS.get(str(column.get("dtype") or "str")), name in file
        fill = column.get("fill_na", column.get("na_value", default))  # what stands for a missing value
        if fill is not None and here and name in read:
            frame, origins[name] = _filled(frame, origins[name], name, fill)
        if name not in steps:
            continue
        called, source = steps[name]
        function = FUNCTIONS[called]
        if source not in known:
            if column.get("active", True) is False:
                continue
            raise DataError(
                f"{path}: expected a column '{source}', of which preprocess {column['preprocess']} makes '{name}'; "
                f"found only: {', '.join(names)}.{suggest(source, names)} Rename it in the file or in the dataset "
                "configuration."
            )
        if function.expected:
            made = pl.col(source)
            frame = frame.with_columns(
                function.make(made).is_null().alias(f"-wrong {name}"), made.alias(f"-from {name}")
            )
            expected = f"{function.expected}, for {column['preprocess']}"
            missing = pl.col(f"-from {name}").is_null()
            checks.append(Wrong(source, pl.col(f"-wrong {name}"), expected, f"-from {name}", missing))
        frame = frame.with_columns(function.make(pl.col(source)).alias(name))
        origins[name] = origins[source].then(call=called)
        if fill is not None and not here:
            frame, origins[name] = _filled(frame, origins[name], name, fill)
        known.add(name)
    return frame, checks, {name: origins[name] for name in steps if name in known}


def _typed(frame: pl.LazyFrame, column: Mapping[str, Any]) -> tuple[pl.LazyFrame, list[Wrong]]:
    """A column of numbers of a csv file in its dtype."""
    name, number = column["name"], NUMBERS.get(str(column.get("dtype")))
    stored, value = frame.collect_schema()[name], pl.col(name)
    if stored != pl.String or number is None:
        return frame, []
    typed = as_number(value, stored, number)
    wrong = typed.is_null() & is_given(value, stored)
    frame = frame.with_columns(wrong.alias(f"-bad {name}"), value.alias(f"-raw {name}"), typed.alias(name))
    expected = "a whole number" if number == pl.Int64 else "a number"
    return frame, [Wrong(name, pl.col(f"-bad {name}"), expected, f"-raw {name}")]


def _filled(frame: pl.LazyFrame, made: Made, name: str, fill: object) -> tuple[pl.LazyFrame, Made]:
    """A column without missing values; text among numbers makes text of them, as in FuxiCTR."""
    if frame.collect_schema()[name].is_nested():
        return frame, made
    return frame.with_columns(pl.col(name).fill_null(fill)), made.then(fill=fill)


def is_given(column: pl.Expr, stored: pl.DataType) -> pl.Expr:
    """Whether there is a value at all; NaN among whole numbers is what pandas makes of a missing one."""
    if stored == pl.String:
        return column.is_not_null() & (column.str.strip_chars() != "")
    return column.is_not_null() & column.is_not_nan() if stored.is_float() else column.is_not_null()


def as_number(column: pl.Expr, stored: pl.DataType, number: type[pl.DataType]) -> pl.Expr:
    """As a number; null where it is none. Whole numbers may have been written as floats."""
    if stored == pl.String:
        column = column.str.strip_chars()
        column = column.str.strip_suffix(".0") if number == pl.Int64 else column
    elif (stored.is_float() or stored.is_decimal()) and number == pl.Int64:
        column = pl.when(column == column.floor()).then(column)
    return column.cast(number, strict=False)


def number_or(column: pl.Expr, stored: pl.DataType, fill: float) -> pl.Expr:
    """As a number, ``fill`` in place of one that is missing, NaN among them; null where it is none."""
    number = as_number(column, stored, pl.Float64)
    return pl.when(~is_given(column, stored) | number.is_nan()).then(fill).otherwise(number)
