"""What an import says of every item at the end of the log, against counts by pandas."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from qin_zoo.data.import_files import ITEM_LEVELS, item_levels, user_lists, user_side
from qin_zoo.data.importers import ImportOptions, import_folder, import_table
from qin_zoo.data.importers.guess import describe


@pytest.fixture
def log(tmp_path):
    g = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id:token": g.integers(1, 30, 800),
            "item_id:token": g.zipf(1.6, 800).clip(max=40) * 7,
            "rating:float": g.integers(1, 6, 800),
            "timestamp:float": np.sort(g.integers(10**9, 10**9 + 10**6, 800)),
        }
    )
    folder = tmp_path / "log"
    folder.mkdir()
    frame.to_csv(folder / "log.inter", sep="\t", index=False)
    return frame, folder


@pytest.mark.parametrize("known", ["levels", "all"])
def test_counted_as_a_row_after_the_last_would_have_them(log, tmp_path, known):
    frame, folder = log
    out = tmp_path / "out"
    import_folder("recbole", folder, out, ImportOptions(label="rating>=4", known=known))
    numbers = dict(pl.read_parquet(out / "ids_item.parquet").iter_rows())
    found = item_levels(out, ["likes_level", "views_level", "rate_level", "item_seq"])
    assert set(found) == {"likes_level", "views_level"} | ({"rate_level"} if known == "all" else set())
    items = frame["item_id:token"].astype(str)
    for name, counted in (("views_level", items), ("likes_level", items[frame["rating:float"] >= 4])):
        times = counted.value_counts()
        assert found[name][0] == 0
        for number, original in numbers.items():
            assert found[name][number] == min(int(times.get(str(original), 0)).bit_length(), 10)
    if known == "all":  # twentieths of the click rate, drawn to that of all as ten more rows would
        clicks = (frame["rating:float"] >= 4).groupby(items).agg(["sum", "size"])
        rate = (clicks["sum"] + 10 * (frame["rating:float"] >= 4).mean()) / (clicks["size"] + 10)
        expected = [1 + int(min(rate[str(original)] * 20, 19)) for original in numbers.values()]
        assert found["rate_level"][list(numbers)].tolist() == expected


def test_a_log_in_which_nobody_clicked(tmp_path):
    """Histories of clicks are all empty, and lists nevertheless."""
    (tmp_path / "own").mkdir()
    log = pd.DataFrame({"user_id": [1, 2, 3] * 20, "item_id": range(60), "time": range(60), "click": 0})
    log.to_csv(tmp_path / "own" / "log.csv", index=False)
    import_table(describe([tmp_path / "own"]), tmp_path / "out", ImportOptions(history="clicks", label="click"))
    ends, lists = user_lists(tmp_path / "out", ["item_seq"])
    assert ends.tolist() == [0] * 5
    assert lists["item_seq"].dtype == np.int32


def test_other_folders_say_nothing(tmp_path):
    assert item_levels(tmp_path, ["likes_level"]) == {}
    pl.DataFrame({"item_id": [1, 0], "likes_level": [3, 4]}).write_parquet(tmp_path / ITEM_LEVELS)
    assert item_levels(tmp_path, ["likes_level"]) == {}


def test_users_as_a_row_after_the_last_would_have_them(log, tmp_path):
    """The newest interactions with their labels, counts and the rate, by pandas; a user of the table alone, too."""
    frame, _ = log
    frame = frame.rename(columns=lambda name: name.partition(":")[0])
    frame["label"] = (frame.pop("rating") >= 4).astype(int)
    (tmp_path / "own").mkdir()
    frame.to_csv(tmp_path / "own" / "log.csv", index=False)
    users = pd.DataFrame({"user_id": range(1, 33), "age": np.arange(32) * 0.7})
    users.to_csv(tmp_path / "own" / "users.csv", index=False)
    out = tmp_path / "out"
    import_table(describe([tmp_path / "own"]), out, ImportOptions(max_history=20))
    users, items = (dict(pl.read_parquet(out / f"ids_{n}.parquet").iter_rows()) for n in ("user", "item"))
    ends, lists = user_lists(out, ["item_seq", "item_seq_label"])
    side = user_side(out, ["user", "user_views_level", "user_rate_level", "user_age", "likes_level", "rate_level"])
    assert set(side) == {"user", "user_views_level", "user_rate_level", "user_age"}
    assert len(ends) == 34
    trained = set(pl.read_parquet(out / "train.parquet")["user_id"])
    for number, original in users.items():
        mine = frame[frame["user_id"] == int(original)].sort_values("timestamp")
        part = slice(*ends[number : number + 2])
        assert [int(items[item]) for item in lists["item_seq"][part]] == mine["item_id"].tolist()[-20:]
        assert lists["item_seq_label"][part].tolist() == (mine["label"] + 1).tolist()[-20:]
        assert side["user_views_level"][number] == min(len(mine).bit_length(), 10)
        rate = (mine["label"].sum() + 10 * frame["label"].mean()) / (len(mine) + 10)
        assert side["user_rate_level"][number] == (1 + int(rate * 20) if len(mine) else 0)
        assert side["user"][number] == (number if number in trained else 0)
    ages = np.arange(32) * 0.7
    of_all = [side["user_age"][number] for number in sorted(users, key=lambda number: int(users[number]))]
    np.testing.assert_allclose(of_all, (ages - ages.mean()) / ages.std(), rtol=1e-6)
