"""What an import says of every item at the end of the log, against counts by pandas."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.data.item_levels import ITEM_LEVELS, item_levels


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


def test_other_folders_say_nothing(tmp_path):
    assert item_levels(tmp_path, ["likes_level"]) == {}
    pl.DataFrame({"item_id": [1, 0], "likes_level": [3, 4]}).write_parquet(tmp_path / ITEM_LEVELS)
    assert item_levels(tmp_path, ["likes_level"]) == {}
