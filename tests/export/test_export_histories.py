"""Users' newest histories as a file, against pandas on the same rows."""

import shutil

import pandas as pd
import pytest

from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.export.histories import export_histories
from qin_zoo.serving.histories import FileHistories


def newest(folder, length: int) -> dict[str, list[int]]:
    """What each user acted on up to the last row."""
    frames = [pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "valid", "test")]
    frames[2]["label"] = 0
    found = {}
    for row in pd.concat(frames).itertuples():
        items = [item for item in row.item_seq if item]
        found[str(row.user_id)] = [*items[-length:], *([row.item_id] if row.label == 1 else [])]
    return found


def test_the_newest_of_every_user(sample, tmp_path):
    dataset = prepare("QIN_sample", data=sample).open_dataset()
    users = export_histories(dataset, tmp_path / "h.npz")
    want = newest(sample, 64)
    assert users == len(want)
    store = FileHistories(tmp_path / "h.npz", 100)
    assert {user: store.get(user).history for user in want} == want
    assert store.get("none") == (None, {})


def test_original_ids(sample, tmp_path):
    """Of items and of users, where an import wrote them down."""
    folder = shutil.copytree(sample, tmp_path / "data")
    count = len(pd.read_parquet(folder / "item_info.parquet"))
    pd.DataFrame({"item_id": range(1, count), "original_id": [f"sku-{n}" for n in range(1, count)]}).to_parquet(
        folder / "ids_item.parquet"
    )
    users = sorted({int(user) for user in newest(folder, 64)})
    pd.DataFrame({"user_id": users, "original_id": [f"u{user}" for user in users]}).to_parquet(
        folder / "ids_user.parquet"
    )
    export_histories(prepare("QIN_sample", data=folder).open_dataset(), tmp_path / "h.npz")
    store = FileHistories(tmp_path / "h.npz", 100, "original")
    want = {f"u{user}": [f"sku-{item}" for item in items] for user, items in newest(folder, 64).items()}
    assert {user: store.get(user).history for user in want} == want


def test_a_dataset_without_users(sample, tmp_path):
    dataset = prepare("QIN_sample", data=sample).open_dataset()
    loader = dataset.loader("train", shuffle=False)
    loader.table.columns.pop("user_id")
    dataset.loader = lambda split, shuffle=None: loader
    with pytest.raises(ConfigError, match="names no users"):
        export_histories(dataset, tmp_path / "h.npz")
    assert not (tmp_path / "h.npz").exists()


def test_a_model_that_looks_at_no_history_is_given_none(tmp_path):
    store = FileHistories(tmp_path / "h.npz", 0)
    store.append("u1", 3)
    assert store.get("u1").history == []
