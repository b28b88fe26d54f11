"""MovieLens-1M with texts and KuaiRand-Pure, from made-up files: every row is recomputed from the raw rows."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import yaml

from qin_zoo.data.feature_map import build_feature_map
from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.data.item_layout import history_specs, open_data
from qin_zoo.errors import DataError

LENGTH = 6
SPLITS = ("train", "valid", "test")
BEGIN = 1_649_433_600_000  # 9 April 2022, 0:00 in Beijing


def ml1m_folder(folder, rng):
    """Ratings of 12 users, some of them in one split only; many equal times, as where a page of films is rated."""
    rows = []
    for user in range(1, 13):
        start = int(rng.integers(0, 60))
        times = np.sort(start + rng.integers(0, 40, size=int(rng.integers(3, 15))))
        for seq, (time, movie) in enumerate(zip(times, rng.permutation(20)[: len(times)])):
            split = SPLITS[int(time >= 60) + int(time >= 80)]
            rows.append((user, 10 * int(movie) + 3, int(rng.integers(1, 6)), seq, 956_703_932 + int(time), 1, split))
    names = ("user_id", "movie_id", "rating", "seq", "timestamp", "timestamp_exact", "split")
    ratings = pl.DataFrame(rows, names, orient="row").sample(fraction=1, shuffle=True, seed=3)  # the order is seq's
    folder.mkdir()
    small = {"user_id": pl.Int16, "movie_id": pl.Int16, "rating": pl.Int8, "seq": pl.Int16, "split": pl.Categorical}
    ratings.cast(small).write_parquet(folder / "ratings.parquet")
    movies = [(10 * m + 3, f"Film {m} ({1950 + m})", "Drama|War" if m % 2 else "", f"Plot {m}." if m else None)
              for m in range(22)]  # fmt: skip
    pl.DataFrame(movies, ("movie_id", "title", "genres", "overview"), orient="row").write_parquet(
        folder / "movies.parquet"
    )
    users = [(u, "FM"[u % 2], 18 + u, u % 3, f"0{u}") for u in range(1, 13)]
    pl.DataFrame(users, ("user_id", "gender", "age", "occupation", "zip"), orient="row").write_parquet(
        folder / "users.parquet"
    )
    return [
        {"user": u, "item": m, "code": r, "label": int(r >= 4), "place": s, "time": t, "split": p}
        for u, m, r, s, t, _, p in rows
    ]


def kuairand_folder(folder, rng):
    """Impressions of 10 users: up to four recovered ones, whose seq begins late where older are missing, and a log."""
    rows, told = [], []
    for user in range(10):
        first, count = int(rng.integers(0, 3)), int(rng.integers(0, 5))
        last = BEGIN + int(rng.integers(1, 1000)) * 1_000_000
        for n in range(count):
            seq = first + n
            video, label = int(rng.integers(0, 7)), int(rng.integers(0, 2))
            rows.append((user, video, seq, "recovered", last if n == count - 1 else -1, -1, label, -1, label, -1, -1))
            estimate = BEGIN + int((last - BEGIN) * (seq + 1) / (first + count))
            told.append((user, video, label, seq, estimate, "train"))
        for n in range(int(rng.integers(0, 5))):
            seq, date = first + count + n, 20220425 if n < 2 else 20220501
            video, label = int(rng.integers(0, 9)), int(rng.integers(0, 2))
            time = BEGIN + 1_500_000_000 + 500_000 * n + int(rng.integers(0, 3)) * (n > 2)
            rows.append((user, video, seq, "log", time, date, label, 1, 0, 9999, 20_000))
            told.append((user, video, label, seq, time, "valid" if n < 2 else "test"))
    names = ("user_id", "video_id", "seq", "part", "time_ms", "date", "long_view", "is_click", "is_like",
             "play_time_ms", "duration_ms")  # fmt: skip
    folder.mkdir()
    pl.DataFrame(rows, names, orient="row").cast({"part": pl.Categorical}).write_parquet(
        folder / "interactions.parquet"
    )
    videos = [(v, 100 + (v if v > 2 else 0), "NORMAL", "2022-04-09", "Web", 0.0, None if v == 1 else 5000.0 * (v + 1),
               720.0, 1280.0 if v else 320.0, 50 + v, 9.0, "3,1" if v % 2 else "2") for v in range(9)]  # fmt: skip
    names = ("video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration",
             "server_width", "server_height", "music_id", "music_type", "tag")  # fmt: skip
    pl.DataFrame(videos, names, orient="row").write_parquet(folder / "videos.parquet")
    ranges = {f"{n}_range": ["0", "[1,5)"] * 5 for n in ("follow_user_num", "fans_user_num", "friend_user_num")}
    users = {"user_id": range(10), "user_active_degree": ["full_active"] * 10, "is_live_streamer": [-124, 1] * 5,
             "is_video_author": [0] * 10, "register_days": range(10), "register_days_range": ["730+"] * 10, **ranges,
             "onehot_feat0": [0.0, None] * 5}  # fmt: skip
    pl.DataFrame(users, strict=False).write_parquet(folder / "users.parquet")
    keys = ("user", "item", "label", "place", "time", "split")
    return [{**dict(zip(keys, row)), "code": 1 + row[2]} for row in told]


def digits(count):
    return min(math.frexp(count)[1], 10)


def rate(rows, everything):
    """In steps of 1/20, drawn towards the share of clicks among all rows as ten rows would; 0 where there is none."""
    if not rows:
        return 0
    prior = sum(r["label"] for r in everything) / len(everything) if everything else 0.5
    share = (sum(r["label"] for r in rows) + 10 * prior) / (len(rows) + 10)
    return 1 + min(int(share * 20), 19)


def expected(log, row, number):
    """A row's columns, nothing clever."""
    mine = sorted((r for r in log if r["user"] == row["user"] and r["place"] < row["place"]), key=lambda r: r["place"])
    earlier = [r for r in log if r["time"] < row["time"]]
    of_item = [r for r in earlier if r["item"] == row["item"]]
    as_of = row
    if row["split"] != "train":  # the first of its user's in the split
        of_split = [r for r in log if r["user"] == row["user"] and r["split"] == row["split"]]
        as_of = min(of_split, key=lambda r: r["place"])
    of_user = [r for r in mine if r["place"] < as_of["place"]]
    seen = [0] * LENGTH + [number[r["item"]] for r in mine]
    codes = [0] * LENGTH + [r["code"] for r in mine]
    trained = any(r["split"] == "train" and r["user"] == row["user"] for r in log)
    return {
        "item_id": number[row["item"]],
        "item_seq": seen[-LENGTH:],
        "beside": codes[-LENGTH:],
        "label": row["label"],
        "views_level": digits(len(of_item)),
        "likes_level": digits(sum(r["label"] for r in of_item)),
        "rate_level": rate(of_item, earlier),
        "user_views_level": digits(len(of_user)),
        "user_rate_level": rate(of_user, [r for r in log if r["time"] < as_of["time"]]),
        "known": trained,
    }


MADE = {"ml1m": (ml1m_folder, "item_seq_rating"), "kuairand": (kuairand_folder, "item_seq_label")}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("format", MADE)
def test_every_row(format, seed, tmp_path):
    folder, beside = MADE[format]
    log = folder(tmp_path / "raw", np.random.default_rng(seed))
    summary = import_folder(format, tmp_path / "raw", tmp_path / "out", ImportOptions(max_history=LENGTH))
    originals = {
        kind: dict(pl.read_parquet(tmp_path / "out" / f"ids_{kind}.parquet").iter_rows()) for kind in ("user", "item")
    }
    number = {original: n for n, original in originals["item"].items()}
    for split in SPLITS:
        wanted = [row for row in log if row["split"] == split]
        unsorted = pl.read_parquet(tmp_path / "out" / f"{split}.parquet").to_dicts()
        found = list(unsorted)
        assert len(found) == len(wanted) == summary.splits[split].rows
        for row in found:
            row["known"] = row.pop("user") == row["user_id"]
            row["beside"] = row.pop(beside)
        key = lambda user, row: (user, row["item_seq"], row["item_id"], row["beside"])  # noqa: E731
        wanted = sorted(((row["user"], expected(log, row, number)) for row in wanted), key=lambda pair: key(*pair))
        found.sort(key=lambda row: key(originals["user"][row["user_id"]], row))
        for row, (user, columns) in zip(found, wanted):
            assert originals["user"][row["user_id"]] == user
            assert {name: row[name] for name in columns} == columns
        cold = np.mean([not row["known"] for row in found])
        assert summary.splits[split].cold_users == pytest.approx(cold, abs=1e-5)
    columns = set(found[0])
    assert not columns & {"play_time_ms", "is_like", "is_click", "timestamp", "timestamp_exact", "time_ms"}
    config = yaml.safe_load((tmp_path / "out/dataset_config.yaml").read_text())["out"] | {"dataset_id": "out"}
    data = open_data(config, tmp_path / "cache")
    assert set(history_specs(build_feature_map(config, data).features)) == {beside}
    codes = [code for row in unsorted for code in row["beside"] if code]
    np.testing.assert_array_equal(data.splits["test"][beside].values, codes)


def test_sides_of_ml1m(tmp_path):
    ml1m_folder(tmp_path / "raw", np.random.default_rng(0))
    import_folder("ml1m", tmp_path / "raw", tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out/item_info.parquet").to_dicts()
    words = json.loads((tmp_path / "out/vocabularies.json").read_text())
    assert len(items) == 23  # films without a rating are items, too
    assert [words["item_year"][row["item_year"] - 1] for row in items[1:4]] == ["1950", "1951", "1952"]
    assert [row["item_tags"] for row in items[1:3]] == [[0, 0], [1, 2]]
    texts = pl.read_parquet(tmp_path / "out/item_text.parquet")["text"].to_list()
    assert texts[:2] == ["Film 0 (1950)", "Film 1 (1951). Plot 1.. Drama, War"]


def test_sides_of_kuairand(tmp_path):
    log = kuairand_folder(tmp_path / "raw", np.random.default_rng(1))
    assert any(row["item"] == 1 and row["split"] != "train" for row in log)  # its duration is nowhere else
    import_folder("kuairand", tmp_path / "raw", tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out/item_info.parquet").to_dicts()
    words = json.loads((tmp_path / "out/vocabularies.json").read_text())
    assert words["item_author_id"] == ["100"]  # the others have one video each
    assert [row["item_author_id"] for row in items] == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    seconds = {0: 5, 1: 20, 2: 15}  # the second from the log
    for video, value in seconds.items():
        assert words["item_duration"][items[video + 1]["item_duration"] - 1] == str(math.floor(4 * math.log2(value)))
    assert [words["item_shape"][row["item_shape"] - 1] for row in items[1:3]] == ["wide", "tall"]
    assert [words["item_tags"][code - 1] for code in items[2]["item_tags"]] == ["3", "1"]


@pytest.mark.parametrize(
    ("format", "file", "change", "message"),
    [
        ("ml1m", "ratings.parquet", pl.lit("holdout").alias("split"), "found 'holdout'"),
        ("ml1m", "ratings.parquet", pl.lit(0).alias("seq"), "one row for each user_id and seq"),
        ("ml1m", "ratings.parquet", pl.lit(2.5).alias("timestamp"), "expected a whole number in every row"),
        ("kuairand", "interactions.parquet", pl.lit(-1).alias("time_ms"), "expected a time_ms"),
        ("kuairand", "interactions.parquet", pl.lit("x").alias("part"), "recovered or log, found 'x'"),
        ("kuairand", "interactions.parquet", pl.lit(-1).alias("long_view"), "expected a label, 0 or 1, found -1"),
    ],
)
def test_damaged_files(format, file, change, message, tmp_path):
    MADE[format][0](tmp_path / "raw", np.random.default_rng(0))
    path = tmp_path / "raw" / file
    pl.read_parquet(path).with_columns(change).write_parquet(path)
    with pytest.raises(DataError, match=message):
        import_folder(format, tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize(
    ("format", "file"), [("ml1m", "movies"), ("ml1m", "users"), ("kuairand", "videos"), ("kuairand", "users")]
)
def test_what_is_described_twice(format, file, tmp_path):
    """The second row says something else: nobody knows which is right."""
    MADE[format][0](tmp_path / "raw", np.random.default_rng(0))
    path = tmp_path / "raw" / f"{file}.parquet"
    table = pl.read_parquet(path)
    key = f"{file[:-1]}_id"
    other = table[5:6].with_columns(table[key][4:5])
    pl.concat([table, other]).write_parquet(path)
    where = rf"{file}\.parquet, column '{key}', row {len(table)}"
    with pytest.raises(DataError, match=f"{where}: {table[key][4]} is there twice"):
        import_folder(format, tmp_path / "raw", tmp_path / "out")


def test_columns_beside_the_history_of_other_formats(tmp_path):
    """All rated films with their ratings, and what else is known, from RecBole's files."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [f"u\t{'xyz'[i % 3]}\t{r}\t{i}" for i, r in enumerate([5, 1, 4, 2, 3, 5])]
    (raw / "a.inter").write_text("\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines]))
    options = {"history": "all", "valid_share": 0.2, "test_share": 0.2, "max_history": 4, "known": "all"}
    for column, codes in (("rating", [5, 1, 4, 2]), ("label", [2, 1, 2, 1])):
        import_folder("recbole", raw, tmp_path / column, ImportOptions(history_column=column, **options))
        row = pl.read_parquet(tmp_path / column / "valid.parquet").to_dicts()[0]
        assert row["item_seq"] == [1, 2, 3, 1]
        assert row[f"item_seq_{column}"] == codes
        assert (row["user"], row["user_views_level"], row["user_rate_level"], row["rate_level"]) == (1, 3, 11, 10)
    (raw / "a.inter").write_text((raw / "a.inter").read_text().replace("\t4\t", "\t3.5\t"))
    with pytest.raises(DataError, match=r"data row 3: expected a whole number from 1 to 100 .* found 3\.5"):
        import_folder("recbole", raw, tmp_path / "o", ImportOptions(history_column="rating"))
    with pytest.raises(DataError, match=r"no column 'stars'.* Possible: rating, label"):
        import_folder("recbole", raw, tmp_path / "o", ImportOptions(history_column="stars"))


def test_heavy_users_are_limited(tmp_path):
    """Of each user's training rows the newest stay; histories, counts and held-out rows are as without the limit."""
    log = ml1m_folder(tmp_path / "raw", np.random.default_rng(5))
    for name, limit in (("whole", None), ("limited", 3)):
        import_folder("ml1m", tmp_path / "raw", tmp_path / name, ImportOptions(max_rows_per_user=limit))
    whole, limited = ({s: pl.read_parquet(tmp_path / n / f"{s}.parquet") for s in SPLITS} for n in ("whole", "limited"))
    for split in ("valid", "test"):
        assert whole[split].equals(limited[split])
    newest = {}
    for row in sorted((r for r in log if r["split"] == "train"), key=lambda r: -r["place"]):
        if len(newest.setdefault(row["user"], [])) < 3:
            newest[row["user"]].append((row["item"] - 3) // 10 + 1)
    pairs = {(user, item) for user, items in newest.items() for item in items}
    kept = whole["train"].filter(pl.struct("user_id", "item_id").map_elements(
        lambda row: (row["user_id"], row["item_id"]) in pairs, return_dtype=pl.Boolean))  # fmt: skip
    assert len(pairs) < whole["train"].height
    assert limited["train"].equals(kept)
    notes = json.loads((tmp_path / "limited/import.json").read_text())["notes"]
    assert any("users have more than 3 interactions" in note for note in notes)
