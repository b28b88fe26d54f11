"""FuxiCTR's ``preprocess`` functions of one raw value: what ``qin_zoo/data/preprocess.py`` makes of a whole column."""

from __future__ import annotations

import datetime
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qin_zoo.errors import RequestError
from qin_zoo.serving.tokens import LISTS, TOKENS, as_float, written
from qin_zoo.serving.values import shown

_INT32 = 2**31
_WHOLE, _DATE = re.compile("[+-]?[0-9]+"), re.compile("([0-9]{2})([0-9]{2})([0-9]{2})")
_AGES = (10, 20, 30, 40, 50, 60)


@dataclass(frozen=True)
class Function:
    """A function of one value.

    Attributes:
        make: a text, a number, or None where it is missing -> what is made of it; ValueError where that cannot be done.
        expected: what the value must be; "" where anything goes.
        example: a number -> a value that can be used, another for another number.
        dtype: of such values.
    """

    make: Callable
    expected: str
    example: Callable[[int], object]
    dtype: str


def _number(value) -> float | None:
    """As a number, without the spaces that a column of numbers may have."""
    return as_float(value) if isinstance(value, str) else value


def _text(value) -> str:
    if value is None:
        raise ValueError
    return written(value)


def _hour(value) -> int:
    if not _WHOLE.fullmatch(part := _text(value)[6:8]):
        raise ValueError
    return int(part)


def _day(value) -> int:
    """Of the week: Monday is 1, Sunday 7."""
    if not (match := _DATE.fullmatch(_text(value)[:6])):
        raise ValueError
    year, month, day = map(int, match.groups())
    return datetime.date(year + (2000 if year < 70 else 1900), month, day).isoweekday()


def _bucket(value) -> int:
    number = _number(value)
    if number is None or not -_INT32 - 1 < number < math.inf:
        raise ValueError
    logarithm = math.log(max(number, 1))
    return math.floor(logarithm * logarithm) if number > 2 else int(number)


def _age(value) -> str:
    number = None if value == "" else _number(value)
    return str(bisect_left(_AGES, number) + 1) if number is not None and 1 <= number <= 95 else ""


_TIME = ("a time as YYMMDDHH", lambda n: f"1410{21 + n % 10}{n % 24:02d}", "str")
# Where several read one column, the first of them decides what a value of it looks like.
FUNCTIONS = {
    "convert_hour": Function(_hour, *_TIME),
    "convert_weekday": Function(lambda value: _day(value) % 7, *_TIME),
    "convert_weekend": Function(lambda value: int(_day(value) >= 6), *_TIME),
    "convert_to_bucket": Function(_bucket, "a number", lambda n: n, "float"),
    "bucketize_age": Function(_age, "a number", lambda n: n % 100, "float"),
    "extract_country_code": Function(
        lambda code: "" if code is None else written(code)[:2],
        "",
        lambda n: f"{chr(65 + n % 26)}{chr(65 + n // 26 % 26)}ABC0000001",
        "str",
    ),
    "copy_from": Function(lambda value: value, "", lambda n: n, "str"),
}


class Made:
    """How a feature's raw value is made of that of a column.

    Args:
        described: ``column``, its ``dtype``, and ``steps``; see :class:`qin_zoo.data.preprocess.Made`.
        name: the feature.

    Attributes:
        column: in the place of the feature in a request.
        functions: those that change the value, by name.
    """

    def __init__(self, described: Mapping, name: str):
        self._read, self._steps, self._name = TOKENS[described["dtype"]], described["steps"], name
        self.column: str = described["column"]
        calls = (step.get("call", "copy_from") for step in self._steps)
        self.functions = [call for call in calls if call != "copy_from"]

    def __call__(self, value: object, where: str) -> object:
        """Raises RequestError for a value of which nothing can be made."""
        given = value
        if self.functions or not isinstance(value, LISTS):  # a sequence or a vector is only ever copied
            value = self._read(value, where)
        for step in self._steps:
            if "fill" in step:
                value = step["fill"] if value is None else value
                continue
            function = FUNCTIONS[step["call"]]
            try:
                value = function.make(value)
            except ValueError:
                raise RequestError(
                    f"{where}: expected {function.expected}, of which {step['call']} makes '{self._name}', found "
                    f"{shown(given)}."
                ) from None
        return value
