import numpy as np
import pyarrow as pa
import pytest
import torch
from data_path_files import ITEMS, item_columns, write

from qin_zoo.data.item_tensors import load_item_table
from qin_zoo.errors import DataError

SPECS = {
    "item_id": {"type": "categorical"},
    "item_tags": {"type": "sequence"},
    "item_emb": {"type": "embedding"},
    "price": {"type": "numeric"},
}


@pytest.fixture
def columns():
    return item_columns()


def test_tensors_by_type(tmp_path, columns):
    columns |= {"kind": [7] * ITEMS, "second_emb": np.arange(ITEMS * 2.0).reshape(-1, 2).tolist()}
    path = write(tmp_path / "item_info.parquet", columns)
    specs = SPECS | {"kind": {"type": "meta"}, "second_emb": {"type": "embedding"}}
    items = load_item_table(path, specs)
    assert list(items) == list(specs)
    longest = max(len(t) for t in columns["item_tags"])
    assert items["item_tags"].tolist() == [t + [0] * (longest - len(t)) for t in columns["item_tags"]]
    for name, dtype, shape in [
        ("item_id", torch.int64, (ITEMS,)),
        ("item_tags", torch.int64, (ITEMS, longest)),
        ("item_emb", torch.float32, (ITEMS, 3)),
        ("price", torch.float32, (ITEMS,)),
        ("kind", torch.int64, (ITEMS,)),
        ("second_emb", torch.float32, (ITEMS, 2)),
    ]:
        assert items[name].dtype == dtype
        assert items[name].shape == shape
        assert items[name].is_contiguous()
    torch.testing.assert_close(items["item_emb"], torch.tensor(columns["item_emb"]), rtol=0, atol=0)
    torch.testing.assert_close(items["second_emb"].flatten(), torch.arange(ITEMS * 2.0), rtol=0, atol=0)


def test_loaded_once(tmp_path, columns, monkeypatch):
    path = write(tmp_path / "item_info.parquet", columns)
    first = load_item_table(path, SPECS)
    monkeypatch.chdir(tmp_path)
    second = load_item_table("item_info.parquet", SPECS)
    assert all(second[name] is first[name] for name in SPECS)
    assert first is not second  # taking a name out of one does not take it from the other
    columns["price"][1] = 99.0
    write(path, columns)
    assert load_item_table(path, SPECS)["price"][1] == 99


def test_tags_without_any_entry(tmp_path):
    path = write(tmp_path / "i.parquet", {"item_id": [0, 1], "item_tags": pa.array([[], []], pa.list_(pa.int64()))})
    assert load_item_table(path, {"item_tags": {"type": "sequence"}})["item_tags"].tolist() == [[0], [0]]


def test_the_index_need_not_be_a_feature(tmp_path, columns):
    columns["item_index"] = columns.pop("item_id")
    columns["item_id"] = list(range(1000, 1000 + ITEMS))
    path = write(tmp_path / "item_info.parquet", columns)
    items = load_item_table(path, {"item_id": {"type": "categorical"}}, index_column="item_index")
    assert items["item_id"].tolist() == columns["item_id"]
    with pytest.raises(DataError, match="expected item 0, found item 1000"):
        load_item_table(path, SPECS)


def refused(path, columns, *words, specs=SPECS):
    write(path, columns)
    with pytest.raises(DataError) as error:
        load_item_table(path, specs)
    for word in (str(path), *words):
        assert word in str(error.value), str(error.value)


def test_rows_out_of_order(tmp_path, columns):
    columns["item_id"][7], columns["item_id"][8] = 8, 7
    refused(tmp_path / "i.parquet", columns, "'item_id', row 7", "expected item 7, found item 8", "sort")


def test_a_repeated_item(tmp_path, columns):
    columns["item_id"][7] = 6
    refused(tmp_path / "i.parquet", columns, "row 7", "expected item 7, found item 6")


def test_a_gap(tmp_path, columns):
    columns["item_id"] = [i + (i > 4) for i in range(ITEMS)]
    refused(tmp_path / "i.parquet", columns, "row 5", "expected item 5, found item 6", "every missing id")


def test_no_padding_row(tmp_path, columns):
    columns["item_id"] = list(range(1, ITEMS + 1))
    refused(tmp_path / "i.parquet", columns, "row 0", "padding row is missing", "zeros")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("item_emb", [0.0, float("nan"), 1.0], ["row 6", "nan"]),
        ("item_emb", [0.0, 1.0, float("inf")], ["row 6", "inf"]),
        ("item_emb", [0.0, 1.0], ["row 6", "one length", "found 2"]),
        ("item_emb", None, ["row 6", "null"]),
        ("item_emb", [0.0, None, 1.0], ["row 6", "null"]),
        ("item_tags", None, ["row 6", "null"]),
        ("item_tags", [3, -1], ["row 6", "found -1"]),
        ("price", float("nan"), ["row 6", "nan"]),
        ("price", None, ["row 6", "null"]),
    ],
)
def test_bad_features(tmp_path, columns, name, value, words):
    columns[name][6] = value
    refused(tmp_path / "i.parquet", columns, f"'{name}'", *words)


def test_missing_feature(tmp_path, columns):
    del columns["item_emb"]
    refused(tmp_path / "i.parquet", columns, "'item_emb'", "item_id, item_tags, price")


def test_missing_index(tmp_path, columns):
    columns["index"] = columns.pop("item_id")
    refused(tmp_path / "i.parquet", columns, "'item_id'", specs={"price": {"type": "numeric"}})
