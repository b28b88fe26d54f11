"""Raw values of requests become what the encoder of files makes of them, in polars."""

import polars as pl
import pytest

from qin_zoo.serving.raw_values import Field

NUMBERS = [
    0.0, -0.0, 1.0, 0.5, 1 / 3, -2.25, 123456789.125, 1e15, 1e16, 1.5e16, 1e20, 1e300, 0.0001, 0.00012345, 9.99e-5,
    1e-5, 1.234e-5, 9.99e-6, 1e-6, 1.5e-7, 1e-10, 3e-300,
]  # fmt: skip


def field(dtype: str, words: dict, **described) -> Field:
    raw = {"dtype": dtype, "fill": "", "missing": "", "splitter": "^", "vocabulary": "v", "unknown": 99}
    return Field({"name": "x", "type": "categorical", "vocab_size": 100, "raw": raw, **described}, {"v": words})


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_a_column_of_texts(number):
    """A parquet column of numbers with dtype str has polars' texts as its words."""
    word = pl.Series([number]).cast(pl.String).item()
    assert field("str", {word: 7}).encode([number], "x")[0].tolist() == [7]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_a_column_of_numbers(number):
    word = pl.Series([number]).cast(pl.String).item()
    values = [number, repr(number), f" {number!r} "]
    assert field("float", {word: 7}).encode(values, "x")[0].tolist() == [7, 7, 7]


def test_whole_numbers():
    values = [5, "5", " 5 ", "+5", 5.0, -5, 6, None, ""]
    ids, unknown = field("int", {"5": 3, "-5": 4}).encode(values, "x")
    assert ids.tolist() == [3, 3, 3, 3, 3, 4, 99, 99, 99]
    assert unknown == 1  # the 6; what is missing is not unknown
