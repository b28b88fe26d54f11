"""Rows without a group: refused where they stand, in every layout, and not made one large group."""

import numpy as np
import polars as pl
import pytest

from qin_zoo.data.dataset import Dataset
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.prepare import prepare

ROWS = {"train": 30, "valid": 20}


def dataset(folder, kind, groups, fmt, dtype="str", **column):
    """Named fields whose valid rows have these groups."""
    g = np.random.default_rng(0)
    for split, n in ROWS.items():
        data = pl.DataFrame({"item": [f"i{i}" for i in g.integers(0, 5, n)], "click": g.integers(0, 2, n)})
        whole = pl.Series("grp", [kind(i % 4) for i in range(n)])
        data = data.with_columns(groups.alias("grp") if split == "valid" else whole.cast(groups.dtype))
        getattr(data, f"write_{fmt}")(folder / f"{split}.{fmt}")
    columns = [
        {"name": "item", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "grp", "active": True, "dtype": dtype, "type": "meta", **column},
    ]
    return {
        "dataset_id": "d", "data_root": str(folder / "root"), "data_format": fmt, "feature_cols": columns,
        "label_col": {"name": "click", "dtype": "float"}, "group_id": "grp", "batch_size": 8,
        **{f"{split}_data": str(folder / f"{split}.{fmt}") for split in ROWS},
    }  # fmt: skip


def series(kind, hole):
    values = [kind(i % 4) for i in range(ROWS["valid"])]
    values[7] = hole
    return pl.Series("grp", values)


CASES = [
    ("csv", str, None, {}),
    ("csv", str, "  ", {}),
    ("csv", int, None, {"dtype": "int"}),
    ("csv", int, None, {"dtype": "int", "remap": False}),
    ("parquet", str, None, {}),
    ("parquet", str, "", {}),
    ("parquet", int, None, {"dtype": "int"}),
    ("parquet", float, float("nan"), {"dtype": "float"}),
    ("parquet", float, float("nan"), {}),
]


@pytest.mark.parametrize(("fmt", "kind", "hole", "column"), CASES)
def test_a_row_without_a_group_is_named(fmt, kind, hole, column, tmp_path):
    params = dataset(tmp_path, kind, series(kind, hole), fmt, **column)
    with pytest.raises(DataError, match=r"valid\.\w+, column 'grp', row 7: expected the group that the row is of"):
        Dataset(params)
    params.pop("group_id")  # what groups nothing may be missing
    if column.get("remap") is not False:
        assert Dataset(params).rows("valid") == ROWS["valid"]
        with pytest.raises(DataError, match="row 7"):
            Dataset({**params, "group_id": "grp"})  # also when the files have been encoded without


def test_the_mend_of_the_message_works(tmp_path):
    params = dataset(tmp_path, str, series(str, None), "csv", fill_na="nobody")
    groups = Dataset(params).group_ids("valid")
    assert (groups == groups[7]).sum() == 1


def test_unknown_users_are_one_group_and_that_is_told(tmp_path, caplog):
    """Five rows of four new values; a copy of the column, which the message names, keeps them apart."""
    groups = pl.Series([f"g{i % 4}" for i in range(15)] + ["new", "new", "x", "y", "z"])
    params = dataset(tmp_path, lambda i: f"g{i}", groups, "csv")
    params["feature_cols"][1]["type"] = "categorical"
    assert len(set(Dataset(params).group_ids("valid"))) == 5
    assert "group_id 'grp': 5 of 20 valid rows" in caplog.text
    caplog.clear()
    copied = {"name": "group", "dtype": "str", "type": "meta", "active": True, "preprocess": "copy_from(grp)"}
    params |= {"feature_cols": [*params["feature_cols"], copied], "group_id": "group"}
    found = Dataset(params).group_ids("valid")
    assert "group_id" not in caplog.text
    assert [set(np.flatnonzero(found == f)) for f in found] == [set(np.flatnonzero(groups == g)) for g in groups]


@pytest.mark.parametrize("hole", [np.nan, None])
def test_encoded_files(hole, tmp_path):
    """An npz that FuxiCTR has written, and a parquet file of an item-table dataset."""
    from types import SimpleNamespace

    from qin_zoo.data.loader import FieldsLoader

    group = np.arange(8, dtype=float)
    group[3] = np.nan
    columns = {"item": np.arange(8), "label": np.arange(8) % 2.0}
    if hole is None:
        file = tmp_path / "valid.parquet"
        pl.DataFrame({**columns, "grp": [None if g != g else int(g) for g in group]}).write_parquet(file)
    else:
        file = tmp_path / "valid.npz"
        np.savez(file, **columns, grp=group)
    features = {"item": {"type": "categorical", "vocab_size": 9}, "grp": {"type": "meta"}}
    with pytest.raises(DataError, match="grp"):
        FieldsLoader(SimpleNamespace(features=features, labels=["label"], group_id="grp"), file, split="valid")


@pytest.mark.parametrize("group", ["item_id", "item_tags"])
def test_what_stands_in_the_item_table_groups_no_rows(group, sample):
    with pytest.raises(ConfigError, match=f"group_id names '{group}', which is of items alone"):
        prepare("QIN_sample", data=sample, overrides={"group_id": group}).open_dataset()
