"""Importers: each format from small files, what they refuse, and the real data sets where they are at hand."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import shared_data
from typer.testing import CliRunner

from qin_zoo.data.feature_map import build_feature_map
from qin_zoo.data.histories import RowHistories
from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.data.item_layout import HISTORY, open_data
from qin_zoo.errors import DataError, QinZooError
from qin_zoo.files import sole_writer

SPLITS = ("train", "valid", "test")


def write(folder, **files):
    """Files by name, "__" standing for a dot; text lines are given with "¦" for a tab."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content.replace("¦", "\t"), encoding="utf-8")
    return folder


def opened(out, cache):
    """The data that the written dataset configuration names, opened as the runner does."""
    (dataset_id, params), *rest = yaml.safe_load((out / "dataset_config.yaml").read_text()).items()
    assert dataset_id == out.name
    assert not rest
    params = {**params, "dataset_id": dataset_id}
    data = open_data(params, cache)
    return data, build_feature_map(params, data)


def rows(out, split="train"):
    return pl.read_parquet(out / f"{split}.parquet").to_dicts()


def strip(history):
    return [i for i in history if i]


@pytest.fixture
def recbole(tmp_path):
    """Ten interactions of user a (times 1…10, one rating below 4) and two of b; items z, x10, x9."""
    ratings = [5, 5, 2, 4, 5, 5, 5, 4, 4, 5]
    lines = [f"a¦{('x9', 'x10', 'z')[i % 3]}¦{r}¦{i + 1}" for i, r in enumerate(ratings)]
    inter = ["user_id:token¦item_id:token¦rating:float¦timestamp:float", *lines, "b¦z¦5¦2", "b¦x9¦1¦3"]
    return write(
        tmp_path / "source",
        toy__inter="\n".join(inter) + "\n",
        toy__item="item_id:token¦movie_title:token_seq¦year:token¦class:token_seq¦price:float\n"
        "x9¦Nine lives¦1999¦Drama War¦1.5\nx10¦Ten \"more¦¦Comedy¦2\nz¦Zed¦1999¦¦3\nunseen¦None yet¦2001¦War¦1\n",
        toy__user="user_id:token¦gender:token\na¦F\nb¦M\nc¦F\n",
        toy__kg="head_id:token¦relation_id:token¦tail_id:token\ne1¦film.genre¦g1\np1¦directed¦e1\ne2¦film.genre¦g1\n",
        toy__link="item_id:token¦entity_id:token\nx9¦e1\n",
    )  # fmt: skip


def test_recbole(recbole, tmp_path):
    out = tmp_path / "toy"
    summary = import_folder("recbole", recbole, out, ImportOptions(max_history=4, valid_share=0.2, test_share=0.2))
    # ids are numbered in their own order: unseen 1, x10 2, x9 3, z 4
    assert pl.read_parquet(out / "ids_item.parquet")["original_id"].to_list() == ["unseen", "x10", "x9", "z"]
    assert (summary.users, summary.items) == (3, 4)
    train = rows(out)
    # two rows have the time 2 and two the time 3: 7 rows, or more if the cut falls between equal times
    assert [r["item_id"] for r in train if r["user_id"] == 1] == [3, 2, 4, 3, 2]
    assert [strip(r["item_seq"]) for r in train if r["user_id"] == 1] == [[], [3], [3, 2], [3, 2], [3, 2, 3]]
    assert [r["label"] for r in train if r["user_id"] == 1] == [1, 1, 0, 1, 1]
    assert [r["views_level"] for r in train if r["user_id"] == 1] == [0, 0, 1, 2, 1]
    assert [r["likes_level"] for r in train if r["user_id"] == 1] == [0, 0, 1, 1, 1]
    assert {r["user_gender"] for r in train if r["user_id"] == 1} == {1}
    assert all(len(r["item_seq"]) == 4 for s in SPLITS for r in rows(out, s))
    items = pl.read_parquet(out / "item_info.parquet").to_dicts()
    vocabularies = json.loads((out / "vocabularies.json").read_text())
    assert vocabularies["item_tags"] == ["Comedy", "Drama", "War"]
    assert [r["item_tags"] for r in items] == [[0, 0], [3, 0], [1, 0], [2, 3], [0, 0]]
    assert [r["item_year"] for r in items] == [0, 2, 0, 1, 1]
    texts = pl.read_parquet(out / "item_text.parquet").to_dicts()
    assert texts[1] == {"item_id": 2, "item_title": 'Ten "more', "text": 'Ten "more. Comedy'}
    graph = pl.read_parquet(out / "item_kg.parquet").to_dicts()
    assert graph == [{"item_id": 3, "facts": ["film.genre:g1", "~directed:p1"]}]
    assert any("price" in note for note in summary.notes)
    data, feature_map = opened(out, tmp_path / "cache")
    assert feature_map.features["item_id"]["vocab_size"] == 5
    assert RowHistories(data.splits["test"][HISTORY], 3).gather(np.array([0])).tolist() == [
        strip(rows(out, "test")[0]["item_seq"])[-3:]
    ]
    about = json.loads((out / "import.json").read_text())
    assert about["options"]["label"] == "rating>=4"
    assert about["splits"]["train"]["rows"] == len(train)


@pytest.mark.parametrize(
    ("kg", "link", "message"),
    [
        ("tail_id g1 e1 g1,x 1 2 3,relation_id film.genre directed -,head_id e1 p1 e2", "entity_id e1,item_id x9", ""),
        ("h e1 p1 e2,r film.genre directed -,t g1 e1 g1", "x9s x9,e e1", ""),
        ("h e1 p1 e2,relation_id film.genre directed -,t g1 e1 g1,note a b c", "item_id x9,e e1", ""),
        ("", "entity_id e1,asin x9", "toy.link: expected columns item_id, .* found entity_id, asin"),
        ("r a b c,head_id e1 p1 e2,tail_id g1 e1 g1", "", "toy.kg: expected columns head_id, .* found r, head_id"),
        ("head_id e1,tail_id g1", "", "toy.kg: expected columns head_id, .* found head_id, tail_id"),
    ],
)
def test_the_graph_of_recbole_in_any_order(recbole, tmp_path, kg, link, message):
    """By name, as everything else; in their order where the columns have names of their own."""
    for kind, content in (("kg", kg), ("link", link)):
        columns = [column.split(" ") for column in content.split(",") if content]
        lines = [[f"{name}:token" for name, *_ in columns], *zip(*(values for _, *values in columns))]
        if columns:
            (recbole / f"toy.{kind}").write_text("\n".join("\t".join(line) for line in lines) + "\n")
    if message:
        with pytest.raises(DataError, match=message):
            import_folder("recbole", recbole, tmp_path / "o")
        return
    import_folder("recbole", recbole, tmp_path / "o")
    graph = pl.read_parquet(tmp_path / "o/item_kg.parquet").to_dicts()
    assert graph == [{"item_id": 3, "facts": ["film.genre:g1", "~directed:p1"]}]


def test_all_interactions_in_the_history(recbole, tmp_path):
    import_folder("recbole", recbole, tmp_path / "o", ImportOptions(history="all", split="leave-one-out"))
    last = [r for r in rows(tmp_path / "o", "test") if r["user_id"] == 1][-1]
    assert len(strip(last["item_seq"])) == 9


def test_given_splits_of_recbole(recbole, tmp_path):
    lines = (recbole / "toy.inter").read_text().splitlines()
    (recbole / "toy.inter").unlink()
    for split, part in (("train", lines[1:8]), ("valid", lines[8:10]), ("test", lines[10:])):
        (recbole / f"toy.{split}.inter").write_text("\n".join([lines[0], *part]) + "\n")
    summary = import_folder("recbole", recbole, tmp_path / "o")
    assert {name: c.rows for name, c in summary.splits.items()} == {"train": 7, "valid": 2, "test": 3}
    # the training rows only, of which one is no click; b's are all in the test split
    assert [len(strip(r["item_seq"])) for r in rows(tmp_path / "o", "test")] == [0, 0, 6]


@pytest.fixture
def mmrec(tmp_path):
    folder = write(
        tmp_path / "mmrec",
        toy__inter="userID¦itemID¦x_label\n" + "".join(
            f"{u}¦{i}¦{s}\n" for u in range(5) for i, s in ((4, 0), (2, 0), (u % 2, 0), (3, 1), (5, 2))
        ),
    )  # fmt: skip
    for name, width in (("audio", 3), ("image", 4)):
        np.save(folder / f"{name}_feat.npy", np.arange(7.0 * width).reshape(7, width))
    return folder


def test_mmrec(mmrec, tmp_path):
    out = tmp_path / "toy"
    summary = import_folder("mmrec", mmrec, out)
    assert (summary.users, summary.items) == (5, 7)
    assert [(c.rows, c.click_rate) for c in summary.splits.values()] == [(30, 0.5), (10, 0.5), (10, 0.5)]
    first = [r for r in rows(out) if r["user_id"] == 1 and r["label"]]
    assert [(r["item_id"], strip(r["item_seq"])) for r in first] == [(5, []), (3, [5]), (1, [5, 3])]
    assert {tuple(strip(r["item_seq"])) for r in rows(out, "test") if r["user_id"] == 1} == {(5, 3, 1)}
    drawn = [r["item_id"] for r in rows(out, "test") if not r["label"]]
    assert set(drawn) <= {1, 2, 7}
    items = pl.read_parquet(out / "item_info.parquet")
    assert items.columns == ["item_id", "item_tags", "item_emb_d4"]
    assert items["item_emb_d4"].to_list()[:2] == [[0] * 4, [-12 / 8] * 4]  # 12, 8, 4, 0, … from the mean
    raw = pl.read_parquet(out / "item_feature.parquet")
    assert raw.columns == ["item_id", "audio_emb", "image_emb"]
    assert raw["image_emb"].to_list()[:2] == [[0] * 4, [0, 1, 2, 3]]
    assert "likes_level" not in rows(out)[0]
    _, feature_map = opened(out, tmp_path / "cache")
    assert feature_map.features["item_emb_d4"]["pretrain_dim"] == 4


def test_another_embedding_and_seed(mmrec, tmp_path):
    import_folder("mmrec", mmrec, tmp_path / "a", ImportOptions(embedding="audio_emb"))
    assert "item_emb_d3" in pl.read_parquet(tmp_path / "a" / "item_info.parquet").columns
    for name, seed in (("b", 1), ("c", 2)):
        import_folder("mmrec", mmrec, tmp_path / name, ImportOptions(seed=seed))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_an_order_by_item_is_no_order_in_time(tmp_path):
    g = np.random.default_rng(0)
    text = "userID¦itemID¦x_label\n"
    for user in range(40):
        chosen = np.sort(g.choice(50, 8, replace=False))
        text += "".join(f"{user}¦{i}¦{s}\n" for i, s in zip(chosen, g.permutation([0] * 6 + [1, 2])))
    out = tmp_path / "o"
    summary = import_folder("mmrec", write(tmp_path / "source", toy__inter=text), out, ImportOptions(negatives=0))
    assert any("ascend" in note for note in summary.notes)
    newest = [(strip(r["item_seq"])[-1], r["item_id"]) for r in rows(out) if strip(r["item_seq"])]
    assert 0.3 < np.mean([a > b for a, b in newest]) < 0.7
    assert sorted(len(strip(r["item_seq"])) for r in rows(out) if r["user_id"] == 1) == list(range(6))


RATINGS = [(u, 1 + (u + i) % 5, 1 + (u * i) % 5, 10 * i + u) for u in range(1, 5) for i in range(6)]


def movielens_folder(kind, folder):
    folder.mkdir()
    if kind == "100k":
        flags = ["0|1" + "|0" * 17, "0|0|1|1" + "|0" * 15] + ["1" + "|0" * 18] * 3
        write(
            folder,
            u__data="".join("\t".join(map(str, r)) + "\n" for r in RATINGS),
            u__user="".join(f"{u}|30|M|writer|1234{u}\n" for u in range(1, 5)),
        )
        text = "".join(f"{i}|Caf\xe9 {i} (1995)|01-Jan-1995||http://x|{flags[i - 1]}\n" for i in range(1, 6))
        (folder / "u.item").write_bytes(text.encode("latin-1"))
    elif kind == "1m":
        write(folder, ratings__dat="".join("::".join(map(str, r)) + "\n" for r in RATINGS),
              users__dat="".join(f"{u}::F::25::4::5555{u}\n" for u in range(1, 5)))  # fmt: skip
        genres = ["Action", "Adventure|Animation", "unknown", "unknown", "unknown"]
        text = "".join(f"{i}::Caf\xe9: {i} (1995)::{genres[i - 1]}\n" for i in range(1, 6))
        (folder / "movies.dat").write_bytes(text.encode("latin-1"))
    else:
        genres = ["Action", "Adventure|Animation", *["(no genres listed)"] * 3]
        write(
            folder,
            ratings__csv="userId,movieId,rating,timestamp\n" + "".join(",".join(map(str, r)) + "\n" for r in RATINGS),
            movies__csv="movieId,title,genres\n"
            + "".join(f'{i},"Caf\xe9, ""{i}"" (1995)",{genres[i - 1]}\n' for i in range(1, 6)),
        )
    return folder


@pytest.mark.parametrize("kind", ["100k", "1m", "csv"])
def test_movielens(kind, tmp_path):
    out = tmp_path / "out"
    summary = import_folder(
        "movielens", movielens_folder(kind, tmp_path / "ml"), out, ImportOptions(label="rating > 2.5")
    )
    assert (summary.users, summary.items) == (4, 5)
    assert sum(c.rows for c in summary.splits.values()) == len(RATINGS)
    got = {(r["user_id"], r["item_id"], r["label"]) for s in SPLITS for r in rows(out, s)}
    assert got == {(u, i, int(r > 2)) for u, i, r, _ in RATINGS}
    items = pl.read_parquet(out / "item_info.parquet")["item_tags"].to_list()
    assert items == [[0, 0], [1, 0], [2, 3], [0, 0], [0, 0], [0, 0]]
    assert pl.read_parquet(out / "item_text.parquet")["item_title"][0].startswith("Café")
    assert ("user_occupation" in rows(out)[0]) == (kind != "csv")
    opened(out, tmp_path / "cache")


@pytest.fixture
def longctr(tmp_path):
    folder = tmp_path / "longctr"
    folder.mkdir()
    histories = [[], [3, 1, 2], [2, 2, 3, 1, 4]]
    pl.DataFrame({"user_index": [0, 1, 2], "full_item_seq": histories}).write_parquet(folder / "user_info.parquet")
    pl.DataFrame(
        {
            "item_index": range(5),
            "item_id": [0, 9, 8, 7, 7],
            "cate_id": [0, 1, 1, 2, 2],
            "image_emb_dim2": [[0.5, 1.0]] * 5,
        }
    ).write_parquet(folder / "item_info.parquet")
    table = {
        "user_index": [1, 2, 2, 0],
        "item_index": [2, 4, 1, 3],
        "seq_len": [2, 4, 5, 0],
        "label": [1, 0, 1, 0],
        "hour": [3, 4, 5, 6],
    }
    for split in SPLITS:
        pl.DataFrame(table).write_parquet(folder / f"{split}.parquet")
    return folder


def test_longctr(longctr, tmp_path):
    out = tmp_path / "out"
    summary = import_folder("fuxictr", longctr, out, ImportOptions(max_history=4))
    assert (summary.users, summary.items, summary.splits["train"].click_rate) == (3, 4, 0.5)
    assert [r["item_seq"] for r in rows(out)] == [[0, 0, 3, 1], [2, 2, 3, 1], [2, 3, 1, 4], [0, 0, 0, 0]]
    assert [(r["user_id"], r["item_id"], r["hour"], r["label"]) for r in rows(out)] == [
        (2, 2, 3, 1), (3, 4, 4, 0), (3, 1, 5, 1), (1, 3, 6, 0),
    ]  # fmt: skip
    assert pl.read_parquet(out / "item_info.parquet")["source_item_id"].to_list() == [0, 9, 8, 7, 7]
    _, feature_map = opened(out, tmp_path / "cache")
    assert feature_map.features["image_emb_dim2"]["pretrain_dim"] == 2


def test_longctr_that_asks_for_more_history_than_there_is(longctr, tmp_path):
    table = pl.read_parquet(longctr / "valid.parquet").with_columns(pl.lit(9).alias("seq_len"))
    table.write_parquet(longctr / "valid.parquet")
    with pytest.raises(DataError, match=r"valid\.parquet, column 'seq_len', row 0: expected at most 3"):
        import_folder("fuxictr", longctr, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["longctr"]


@pytest.mark.parametrize(("name", "column"), [("user_info", "user_index"), ("item_info", "item_index")])
def test_longctr_whose_tables_are_out_of_order(longctr, tmp_path, name, column):
    pl.read_parquet(longctr / f"{name}.parquet").reverse().write_parquet(longctr / f"{name}.parquet")
    with pytest.raises(DataError, match=rf"{name}\.parquet, column '{column}', row 0: expected 0"):
        import_folder("fuxictr", longctr, tmp_path / "out")


def test_classic_fields(tiny_seq, tmp_path):
    out = tmp_path / "out"
    summary = import_folder("fuxictr", tiny_seq, out, ImportOptions(max_history=7))
    source = np.load(tiny_seq / "train.npz")
    assert summary.splits["train"].click_rate == pytest.approx(source["clk"].mean())
    train = rows(out)
    assert [r["item_id"] for r in train] == source["adgroup_id"].tolist()
    assert [strip(r["item_seq"]) for r in train] == [strip(h) for h in source["click_sequence"].tolist()]
    assert all(len(r["item_seq"]) == 7 and r["item_seq"] == sorted(r["item_seq"], key=bool) for r in train)
    assert [r["brand"] for r in train] == source["brand"].tolist()
    _, feature_map = opened(out, tmp_path / "cache")
    assert feature_map.features["item_id"]["vocab_size"] == 96
    assert feature_map.features["pid"]["vocab_size"] == 4


def test_classic_csv(tmp_path):
    text = "user_id,item,cate,hist,cate_hist,clk\nu1,a,X,b^c,Y^X,1\nu2,b,Y,,,0\nu1,c,X,a,X,1\n"
    folder = write(tmp_path / "csv", train__csv=text, valid__csv=text.replace("b^c,Y^X", "b,Y"), test__csv=text)
    fields = {"target_field": ["item", "cate"], "sequence_field": ["hist", "cate_hist"]}
    summary = import_folder("fuxictr", folder, tmp_path / "out", ImportOptions(label="clk", max_history=3), **fields)
    assert (summary.users, summary.items) == (2, 3)
    assert [r["item_seq"] for r in rows(tmp_path / "out")] == [[0, 2, 3], [0, 0, 0], [0, 0, 1]]
    assert pl.read_parquet(tmp_path / "out" / "item_info.parquet")["cate"].to_list() == [0, 1, 2, 1]
    opened(tmp_path / "out", tmp_path / "cache")
    (folder / "test.csv").write_text(text.replace("u1,c,X", "u1,c,Y"))
    with pytest.raises(DataError, match="several for item 3"):
        import_folder("fuxictr", folder, tmp_path / "o2", ImportOptions(label="clk"), **fields)
    with pytest.raises(DataError, match="--target-field item_id --sequence-field"):
        import_folder("fuxictr", folder, tmp_path / "o3")


def test_folders_without_validation_rows(longctr, tmp_path):
    """The public x1 folders: train and test only."""
    text = "user_id,item,hist,clk\nu1,a,b^c,1\nu2,b,,0\nu1,c,a,1\n"
    folder = write(tmp_path / "csv", train__csv=text, test__csv=text.replace("u2,b,,0", "u2,a,c,0"))
    fields = {"target_field": ["item"], "sequence_field": ["hist"]}
    summary = import_folder("fuxictr", folder, tmp_path / "out", ImportOptions(label="clk"), **fields)
    assert rows(tmp_path / "out", "valid") == rows(tmp_path / "out", "test") != rows(tmp_path / "out", "train")
    assert any("no valid" in note and "test.csv" in note for note in summary.notes)
    assert json.loads((tmp_path / "out" / "import.json").read_text())["notes"] == summary.notes
    (longctr / "valid.parquet").unlink()
    assert "test.parquet" in import_folder("fuxictr", longctr, tmp_path / "o2").notes[0]
    (longctr / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"found 0 files test\.\*"):
        import_folder("fuxictr", longctr, tmp_path / "o3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "rating>>4"}, "COLUMN OP NUMBER"),
        ({"label": "__import__('os')"}, "has no column"),
        ({"label": "ratng>=4"}, "Did you mean 'rating'"),
        ({"label": "rating"}, r"column 'rating', data row 1: expected a label, 0 or 1, found 5"),
        ({"label": "rating>=9", "split": "leave-one-out"}, "expected rows in every split"),
        ({"split": "given"}, "brings no splits of its own"),
        ({"embedding": "image"}, "no embeddings"),
    ],
)
def test_options_that_do_not_fit(recbole, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        import_folder("recbole", recbole, tmp_path / "o", ImportOptions(**options))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "options",
    [{"history": "future"}, {"split": "tim"}, {"max_history": 0}, {"negatives": -1}, {"seed": -1}, {"seed": 1.5}],
)
def test_options_that_are_none(options):
    with pytest.raises(DataError, match="expected"):
        ImportOptions(**options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a¦x9¦5¦1\n", "a¦x9¦five¦1\n", "line 2: expected a number for 'rating', found 'five'"),
        ("a¦x9¦5¦1\n", "a¦x9¦5¦\n", "expected a time"),
        ("a¦x9¦5¦1\n", "¦x9¦5¦1\n", "line 2: expected a value of 'user_id'"),
        ("a¦x9¦5¦1\n", "a¦x9¦5¦1¦7¦8\n", "line 2: expected 4 values, found 6"),
        ("user_id:token", "who:token", "expected a column 'user_id:token'"),
        ("user_id:token", "user_id", "expected a header of NAME:TYPE"),
    ],
)
def test_damaged_files(recbole, tmp_path, old, new, message):
    file = recbole / "toy.inter"
    file.write_text(file.read_text().replace(old.replace("¦", "\t"), new.replace("¦", "\t")))
    with pytest.raises(DataError, match=message):
        import_folder("recbole", recbole, tmp_path / "o")


@pytest.mark.parametrize("format", ["recbole", "mmrec", "movielens", "fuxictr"])
def test_wrong_folders(format, tmp_path):
    with pytest.raises(DataError, match=r"expected a folder with .*, found nothing"):
        import_folder(format, tmp_path / "missing", tmp_path / "o")
    write(tmp_path / "other", notes__txt="")
    with pytest.raises(DataError, match=r"expected .*notes\.txt"):
        import_folder(format, tmp_path / "other", tmp_path / "o")


def test_out_is_not_overwritten(mmrec, tmp_path):
    out = tmp_path / "o"
    import_folder("mmrec", mmrec, out)
    with pytest.raises(DataError, match="--force to replace it"):
        import_folder("mmrec", mmrec, out)
    import_folder("mmrec", mmrec, out, ImportOptions(force=True, seed=5))
    (out / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match=r"found mine\.txt"):
        import_folder("mmrec", mmrec, out, ImportOptions(force=True))


def test_force_replaces_nothing_but_an_import(mmrec, tmp_path):
    """A folder of somebody's own with files of the same names stays as it is."""
    own = {f"{name}.parquet": f"{name} of mine" for name in ("train", "valid", "test", "item_info")}
    for summary in (None, "{}", "{not json"):
        out = tmp_path / f"o{len(summary or '')}"
        write(out, **{name.replace(".", "__"): text for name, text in own.items()})
        if summary is not None:
            (out / "import.json").write_text(summary)
        before = {file.name: file.read_bytes() for file in out.iterdir()}
        with pytest.raises(DataError, match="--force replaces nothing but a whole import"):
            import_folder("mmrec", mmrec, out, ImportOptions(force=True))
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_two_imports_to_one_place(mmrec, tmp_path):
    with sole_writer(tmp_path / ".o.lock", "imports"), pytest.raises(QinZooError, match="imports to o"):
        import_folder("mmrec", mmrec, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    import_folder("mmrec", mmrec, tmp_path / "o")


def test_mmrec_with_too_few_features_or_unknown_splits(mmrec, tmp_path):
    np.save(mmrec / "image_feat.npy", np.zeros((3, 4)))
    with pytest.raises(DataError, match="expected a row for each item up to 5, found 3"):
        import_folder("mmrec", mmrec, tmp_path / "o")
    file = mmrec / "toy.inter"
    file.write_text(file.read_text() + "1\t2\t3\n")
    with pytest.raises(DataError, match=r"line 27: expected x_label 0 \(train\)"):
        import_folder("mmrec", mmrec, tmp_path / "o")


@pytest.mark.parametrize("option", [{"split": "time"}, {"negatives": 2}, {"history": "all"}])
def test_rows_of_fuxictr_stay_as_they_are(longctr, tmp_path, option):
    with pytest.raises(DataError, match="bring their own"):
        import_folder("fuxictr", longctr, tmp_path / "o", ImportOptions(**option))


def test_command_line(mmrec, recbole, tmp_path):
    from qin_zoo.cli.import_data import app

    run = lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])  # noqa: E731
    result = run("mmrec", mmrec, tmp_path / "a", "--negatives", 2, "--max-history", 5, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "0.3333" in result.output
    result = run(
        "recbole", recbole, tmp_path / "b", "--label", "rating>=3", "--split", "leave-one-out", "--history", "all"
    )
    assert result.exit_code == 0, result.output
    for command in ("recbole", "mmrec", "fuxictr", "movielens"):
        assert "--max-history" in run(command, "--help").output


@pytest.mark.skipif(not (shared_data() / "ml-100k").is_dir(), reason="ml-100k is not at hand (QIN_ZOO_DATA)")
def test_real_ml_100k(tmp_path):
    out = tmp_path / "ml-100k"
    summary = import_folder("recbole", shared_data() / "ml-100k", out)
    assert (summary.users, summary.items) == (943, 1682)
    assert sum(c.rows for c in summary.splits.values()) == 100_000
    assert summary.splits["train"].click_rate == pytest.approx(0.55, abs=0.01)
    data, _ = opened(out, tmp_path / "cache")
    assert data.splits["train"][HISTORY].longest <= 100


@pytest.mark.skipif(not (shared_data() / "tiktok").is_dir(), reason="tiktok is not at hand (QIN_ZOO_DATA)")
def test_real_tiktok(tmp_path):
    out = tmp_path / "tiktok"
    summary = import_folder("mmrec", shared_data() / "tiktok", out)
    assert (summary.users, summary.items) == (9308, 6710)
    assert [c.rows for c in summary.splits.values()] == [2 * 59_541, 2 * 3051, 2 * 6130]
    opened(out, tmp_path / "cache")
