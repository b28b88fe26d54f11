"""One raw value of a request as what a column of its dtype holds; None for a missing one."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from numbers import Integral, Real

import numpy as np

from qin_zoo.errors import RequestError
from qin_zoo.serving.values import shown

LISTS = (list, tuple, np.ndarray)
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0)?", re.ASCII)
_INT64 = 2**63


def whole(value: object, where: str) -> int | None:
    """A whole number, or a text of one, 5.0 as files have it, too; RequestError for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        fits = len(value) < 30 and _WHOLE.fullmatch(value.strip())
    elif isinstance(value, Integral):
        fits = not isinstance(value, bool)
    else:
        fits = isinstance(value, Real) and float(value).is_integer()
    if not fits:
        raise RequestError(f"{where}: expected a whole number, found {shown(value)}.")
    result = int(value.strip().removesuffix(".0") if isinstance(value, str) else value)
    if not -_INT64 <= result < _INT64:
        raise RequestError(f"{where}: expected a whole number of 64 bits, found {shown(value)}.")
    return result


def number(value: object, where: str) -> float | None:
    """A finite number, or a text of one; RequestError for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (Real, str)):
            raise ValueError
        result = as_float(value.strip()) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise RequestError(f"{where}: expected a finite number, found {shown(value)}.")
    return result


def text(value: object, where: str) -> str | None:
    """A text, or a number as it is written in a column of texts; RequestError for anything else."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RequestError(f"{where}: expected a text or a number, found {shown(value)}.")
    return written(int(value) if isinstance(value, Integral) else float(value))


TOKENS = {"int": whole, "float": number, "str": text}


def as_float(given: str) -> float:
    """A number as polars reads it; raises ValueError for what it does not: spaces, underscores, digits of others."""
    if given != given.strip() or "_" in given or not given.isascii():
        raise ValueError
    return float(given)


def written(value: str | int | float) -> str:
    """A value as it stands in a vocabulary of texts, whose columns polars made texts of."""
    if not isinstance(value, float):
        return str(value)
    if 1e-5 <= abs(value) < 1e-4:  # Python begins with exponents a digit earlier
        return f"{Decimal(repr(value)):f}"
    return repr(value).replace("e-0", "e-")
