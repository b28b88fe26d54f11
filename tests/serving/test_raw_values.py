"""Raw values of requests become what the encoder of files makes of them, in polars."""

import numpy as np
import polars as pl
import pytest

from qin_zoo.data.encode import encode_fields, raw_descriptions
from qin_zoo.errors import DataError, RequestError
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


def encoded(folder, rows, *columns):
    """Of raw parquet rows, by feature: what the file of encoded training rows holds, and the field of a request."""
    rows.with_columns(click=pl.int_range(len(rows)) % 2).write_parquet(folder / "train.parquet")
    params = {
        "dataset_id": "d", "data_root": str(folder), "data_format": "parquet", "rebuild_dataset": True,
        "train_data": str(folder / "train.parquet"), "label_col": {"name": "click", "dtype": "float"},
        "feature_cols": [{"active": True, **column} for column in columns],
    }  # fmt: skip
    held = pl.read_parquet(encode_fields(params)["train_data"])
    raw, words = raw_descriptions(params)
    found = {}
    for name, type_ in ((column["name"], column["type"]) for column in columns):
        about = {"vocabulary": name, "unknown": 99} if name in words else {}
        described = {"name": name, "type": type_, "vocab_size": 100, "dim": 2, "raw": {**raw[name], **about}}
        known = {word: number for word, number in words.get(name, {}).items() if not word.startswith("__")}
        found[name] = held[name].to_list(), Field(described, {name: known})
    return found


def test_booleans_as_in_a_column_of_booleans(tmp_path):
    rows = pl.DataFrame({name: [True, False, True] for name in ("text", "whole", "number", "hash")})
    fields = encoded(
        tmp_path, rows, {"name": "text", "type": "categorical", "dtype": "str"},
        {"name": "whole", "type": "categorical", "dtype": "int"},
        {"name": "number", "type": "numeric", "dtype": "float"},
        {"name": "hash", "type": "categorical", "category_processor": "hash_bucket", "num_buckets": 50, "dtype": "str"},
    )  # fmt: skip
    for held, of_request in fields.values():
        assert len(set(held)) == 2
        for one in (bool, np.bool_):
            values, unknown = of_request.encode([one(True), one(False), one(True)], "x")
            assert (values.tolist(), unknown) == (held, 0)
    with pytest.raises(RequestError, match="expected a text or a number, found True"):
        field("str", {"true": 1}).encode([True], "x")  # a column of texts


def test_a_vector_that_is_missing(tmp_path):
    """Where fill_na says what stands for it; else it is refused, as in a file."""
    vectors = [[1.0, 2.0], None, [None, 3.0], [], [None, None]]
    rows = pl.DataFrame({"v": vectors}, schema={"v": pl.List(pl.Float64)})
    column = {"name": "v", "type": "embedding", "dtype": "float", "pretrain_dim": 2}
    ((held, of_request),) = encoded(tmp_path, rows, {**column, "fill_na": 0.5}).values()
    assert held == [[1, 2], [0.5, 0.5], [0.5, 3], [0.5, 0.5], [0.5, 0.5]]
    assert of_request.encode([*vectors, "", "1^2"], "x")[0].tolist() == [*held, [0.5, 0.5], [1, 2]]
    ((_, of_request),) = encoded(tmp_path, pl.DataFrame({"v": [[1.0, 2.0]]}), column).values()
    for missing in (None, [None, 1.0], ""):
        with pytest.raises(RequestError, match="expected"):
            of_request.encode([missing], "x")


def test_whole_numbers():
    values = [5, "5", " 5 ", "+5", 5.0, -5, 6, None, ""]
    ids, unknown = field("int", {"5": 3, "-5": 4}).encode(values, "x")
    assert ids.tolist() == [3, 3, 3, 3, 3, 4, 99, 99, 99]
    assert unknown == 1  # the 6; what is missing is not unknown


def test_whole_numbers_as_csv_files_have_them(tmp_path):
    """pandas writes 5.0 beside a gap: a text that the encoder takes for a number is one in a request, and no other."""
    texts = ["5", "5.0", " 05 ", "+5.0", "-5.0", "0.0", "-0", "9223372036854775807"]
    column = {"name": "x", "type": "categorical", "dtype": "int"}
    ((held, of_request),) = encoded(tmp_path, pl.DataFrame({"x": texts}), column).values()
    assert of_request.encode(texts, "x")[0].tolist() == held
    for text in ("5.", "5.00", "5.5", "5e0", ".0", "5.0.0", "٥"):
        with pytest.raises(RequestError, match="expected a whole number"):
            of_request.encode([text], "x")
        with pytest.raises(DataError, match="whole"):
            encoded(tmp_path, pl.DataFrame({"x": [text, *texts]}), column)
