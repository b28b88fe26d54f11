"""Values of requests to arrays, checked."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qin_zoo.errors import RequestError, suggest
from qin_zoo.feature_types import type_of

_INT = np.iinfo(np.int64)
_SHORT = reprlib.Repr()  # of values of any size and depth
_SHORT.maxstring = _SHORT.maxother = _LONGEST = 60
_DEEPEST = 8  # lists within lists: more than any feature has


def column(described: Mapping, value: object, where: str, rows: int) -> np.ndarray:
    """A feature's values for ``rows`` rows, (rows, …), given for all or for each; RequestError for others."""
    ids, wide = type_of(described).ids, width(described)
    if ids and wide:
        value = _padded_lists(value, wide, where, rows)
    numbers = whole_numbers(value, where) if ids else _floats(value, where)
    one = (wide,) if wide else ()
    if numbers.shape not in (one, (rows, *one)):
        each = f"{wide} numbers" if wide else "one value"
        raise RequestError(
            f"{where}: expected {each}, or {each} for each of the {rows} candidates, found {shown(value)}"
            + (f" of shape {numbers.shape}." if numbers.ndim else ".")
        )
    if (size := described.get("vocab_size")) and numbers.size:
        least, greatest = numbers.min(), numbers.max()
        if least < 0 or greatest >= size:
            raise RequestError(
                f"{where}: expected ids from 0 to {size - 1}, found {least if least < 0 else greatest}. Use 0 for a "
                "value that was not in the training data."
            )
    return np.ascontiguousarray(np.broadcast_to(numbers, (rows, *one)))


def _padded_lists(value: object, length: int, where: str, rows: int) -> object:
    """A list of ids, or a list of lists, filled up with 0 at the end."""
    if not is_list(value):
        raise RequestError(f"{where}: expected a list of ids, or one for each candidate, found {shown(value)}.")
    nested = len(value) and is_list(value[0])
    if nested and len(value) != rows:
        raise RequestError(f"{where}: expected a list of ids, or {rows} of them, found {len(value)}.")
    filled = []
    for ids in value if nested else [value]:
        if not is_list(ids):
            raise RequestError(f"{where}: expected a list of ids for each candidate, found {shown(ids)}.")
        if len(ids) > length:
            raise RequestError(f"{where}: expected at most {length} ids, found {len(ids)}.")
        filled.append([*ids, *[0] * (length - len(ids))])
    return filled if nested else filled[0]


def whole_numbers(values: object, where: str) -> np.ndarray:
    """Values as int64, of whatever shape they have; RequestError where they are none."""
    if type(values) is list and set(map(type, values)) == {int}:
        with contextlib.suppress(OverflowError):
            return np.array(values, np.int64)
    array = _array(values, where)
    if array.dtype.kind not in "iu" and array.size:
        wrong = values
        if isinstance(values, Sequence) and not isinstance(values, str):
            wrong = next((v for v in values if isinstance(v, bool) or not isinstance(v, (int, np.integer))), values)
        raise RequestError(f"{where}: expected whole numbers, found {shown(wrong)}.")
    if array.dtype.kind == "u" and array.size and array.max() > _INT.max:
        raise RequestError(f"{where}: expected whole numbers below 2^63, found {array.max()}.")
    return array.astype(np.int64, copy=False)


def _floats(values: object, where: str) -> np.ndarray:
    array = _array(values, where)
    if array.dtype.kind == "O" and {*map(type, array.flat)} <= {int, float}:  # whole numbers of more than 64 bits
        with contextlib.suppress(OverflowError):
            array = array.astype(np.float64)
    if array.dtype.kind not in "iuf":
        raise RequestError(f"{where}: expected numbers, found {shown(values)}.")
    with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise RequestError(f"{where}: expected finite numbers, found {shown(values)}.")
    return array


def _array(values: object, where: str) -> np.ndarray:
    try:
        return np.asarray(values, object if _holds_others(values) else None)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"{where}: expected numbers, or lists of one length, found {shown(values)}.") from None


def _holds_others(values: object) -> bool:
    """Whether texts or truth values stand among numbers. NumPy would write every number as wide as the longest text,
    gigabytes for one list, and take True for 1.

    Raises:
        ValueError: lists within lists, too deep.
    """
    level = [values]
    for _ in range(_DEEPEST):
        kinds = set(map(type, level))
        if any(issubclass(kind, (str, bytes, bool)) for kind in kinds):
            return True
        if not any(issubclass(kind, (list, tuple)) for kind in kinds):
            return False
        level = [value for part in level if isinstance(part, (list, tuple)) for value in part]
    raise ValueError


def shown(value: object) -> str:
    """A value as it stands in a message, shortened."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}…"


def is_list(value: object) -> bool:
    """Whether a value is a list or its like, and no text."""
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def check_names(given: object, known: Mapping, where: str, kind: str = "feature") -> None:
    """Raises RequestError unless a value maps known names, those of a ``kind``, to values."""
    if not isinstance(given, Mapping):
        raise RequestError(f"{where}: expected {kind} -> value, found {shown(given)}.")
    for name in given:
        if name not in known:
            raise RequestError(
                f"{where}: unknown {kind} {shown(name)}.{suggest(name, known)} "
                f"{kind.capitalize()}s: {', '.join(known) or 'none'}."
            )


def check_keys(request: object, known: Iterable[str], needed: Iterable[str]) -> None:
    """Raises RequestError unless a request maps known keys, and all that are needed, to values."""
    keys = f"Keys: {', '.join(known)}."
    if not isinstance(request, Mapping):
        raise RequestError(f"expected a mapping with {', '.join(known)}, found {shown(request)}.")
    for key in request:
        if key not in known:
            raise RequestError(f"unknown key {shown(key)}.{suggest(key, known)} {keys}")
    for key in needed:
        if key not in request:
            raise RequestError(f"{key} is missing. {keys}")


def check_number(found: int, most: int, where: str) -> None:
    """Raises RequestError for more items than a request may hold."""
    if found > most:
        raise RequestError(f"{where}: expected at most {most:,} items, found {found:,}. Split the request.")


def is_required(described: Mapping) -> bool:
    """Whether a request must give a row feature: nothing stands for it, and it is not known of the items."""
    return described["default"] is None and "of_item" not in described


def width(described: Mapping) -> int | None:
    """Numbers in one value of a feature; None for a single number."""
    return described.get(type_of(described).width)
