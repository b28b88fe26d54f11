"""What a column may hold: the kinds of columns, and the checks that every value passes once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qin_zoo.data.sources import Chunk, Source, at
from qin_zoo.errors import DataError


@dataclass(frozen=True)
class Kind:
    """One kind of column.

    Attributes:
        listed: whether each row holds a list.
        elements: the element types accepted in the file.
        dtypes: what the values are stored as; the first that holds them all.
        expected: what the column must hold, for messages.
        mend: how to mend a value that it must not hold.
    """

    listed: bool
    elements: tuple[str, ...]
    dtypes: tuple[type[np.generic], ...]
    expected: str
    mend: str


_IDS = "Ids count from 0, and 0 is padding; encode the column again or cast it to an integer type."
_FLOATS = "Replace NaN and infinite values, for example with 0."
KINDS: dict[str, Kind] = {
    "id": Kind(False, ("int",), (np.uint8, np.uint16, np.int32, np.int64), "a non-negative integer", _IDS),
    "int": Kind(False, ("int",), (np.int32, np.int64), "an integer", "Encode the column as integers."),
    "float": Kind(False, ("int", "float"), (np.float32,), "a finite number", _FLOATS),
    "label": Kind(
        False, ("int", "float", "bool"), (np.uint8,), "a label, 0 or 1", "Labels are clicks: map them to 0 and 1."
    ),
    "response": Kind(False, ("int", "float"), (np.float32,), "a finite number", _FLOATS),
    # A history's zeros are padding and are dropped; those of other lists keep their place.
    "history": Kind(True, ("int",), (np.int32, np.int64), "a list of non-negative integers", _IDS),
    "ids": Kind(True, ("int",), (np.int32, np.int64), "a list of non-negative integers", _IDS),
    "floats": Kind(True, ("int", "float"), (np.float32,), "a list of finite numbers of one length", _FLOATS),
}


def check_type(source: Source, name: str, kind: Kind) -> None:
    """Raises DataError unless the column's type in the file can hold this kind."""
    listed, element = source.element(name)
    if listed != kind.listed or element not in kind.elements:
        raise DataError(
            f"{at(source.path, name)}: expected {kind.expected} in each row, found the type "
            f"{source.type_name(name)}. {kind.mend}"
        )


def check_values(source: Source, name: str, kind: Kind, row: int, chunk: Chunk) -> tuple[float, float]:
    """Checks the values of one chunk.

    Args:
        row: the chunk's first row in the file.

    Returns:
        the least and the greatest value; (0, 0) when there is none.

    Raises:
        DataError: naming the first row that holds a wrong value.
    """
    values = chunk.values
    if values.size == 0:
        return 0, 0
    low, high = values.min().item(), values.max().item()
    if kind.dtypes[-1] is np.float32:
        with np.errstate(over="ignore"):
            good = bool(np.isfinite(np.float32([low, high])).all())
            wrong = None if good else ~np.isfinite(values.astype(np.float32))
    elif kind is KINDS["label"]:
        good = low in (0, 1) and high in (0, 1)
        if good and values.dtype.kind == "f":  # a fraction may lie between
            good = bool(((values == 0) | (values == 1)).all())
        wrong = None if good else (values != 0) & (values != 1)
    else:
        least = -(2**63) if kind is KINDS["int"] else 0
        good = low >= least and high < 2**63
        wrong = None if good else (values < least) | (values > np.uint64(2**63 - 1))
    if wrong is not None:
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{at(source.path, name, row + chunk.row_of(first))}: expected {kind.expected}, found "
            f"{values[first].item()}. {kind.mend}"
        )
    return low, high
