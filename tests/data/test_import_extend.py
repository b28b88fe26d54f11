"""Imports that extend earlier ones: numbers stay, new ones come behind, and weights go on with what they know."""

import json
import shutil

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from shop import make_shop
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

from qin_zoo.cli import main
from qin_zoo.data.grown import require_same_items
from qin_zoo.data.importers import ImportOptions, import_folder, import_table
from qin_zoo.data.importers.before import Before, Words
from qin_zoo.data.importers.description import read_description
from qin_zoo.data.importers.guess import describe, extension
from qin_zoo.embed.codes import quantize_folder
from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.encoders import make_encoder
from qin_zoo.embed.items import read_texts
from qin_zoo.embed.store import EmbeddingStore
from qin_zoo.embed.strategies import fuse
from qin_zoo.errors import DataError, QinZooError

DAY = 86_400


def split_shop(tmp_path, rows=3000, new=20, seed=3):
    """A shop's files of 59 days with all but ``new`` items, and those of its last day with all but 5 old items."""
    shop = make_shop(rows, seed)
    log, items = shop.interactions, shop.items.with_columns(price=pl.Series(np.arange(len(shop.items)) * 1.5))
    begin = log["time"].max() - DAY
    late = items["item_id"].to_list()[:new]
    first = log.filter((pl.col("time") < begin) & ~pl.col("item_id").is_in(late))
    last = log.filter(pl.col("time") >= begin)
    for name, part, table in (
        ("raw", first, items.filter(~pl.col("item_id").is_in(late))),
        ("day", last, items[: len(items) - 5]),
    ):
        (tmp_path / name).mkdir()
        part.write_csv(tmp_path / name / "interactions.csv")
        table.write_parquet(tmp_path / name / "items.parquet")
    return tmp_path / "raw", tmp_path / "day"


def extended(sources, out, before, **options):
    before = Before.open(before)
    description = extension([sources], read_description(before.summary["description"], "x", before.path))
    given = ImportOptions(extend=str(before.path), **options)
    return import_table(description, out, before.options({*options}, given), before)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Folders: the files of 59 days and of a day, their import, and its extension."""
    folder = tmp_path_factory.mktemp("shop")
    raw, day = split_shop(folder)
    import_table(describe([raw]), folder / "old", ImportOptions(max_history=20))
    extended(day, folder / "new", folder / "old")
    return folder


def table(folder, name="item_info"):
    return pl.read_parquet(folder / f"{name}.parquet")


def test_old_numbers_stay_and_new_ones_come_behind(shop):
    for name in ("ids_item", "ids_user"):
        old, new = table(shop / "old", name), table(shop / "new", name)
        assert new[: len(old)].equals(old)
        assert new["original_id"].is_unique().all()
    late = set(pl.read_parquet(shop / "day/items.parquet")["item_id"]) - set(
        table(shop / "old", "ids_item")["original_id"]
    )
    behind = table(shop / "new", "ids_item")["original_id"][len(table(shop / "old", "ids_item")) :]
    assert len(late) == 20
    assert behind.to_list() == sorted(late)
    before, now = (json.loads((shop / name / "vocabularies.json").read_text()) for name in ("old", "new"))
    assert now["item_category"][: len(before["item_category"])] == before["item_category"]
    assert now["item_category"] == before["item_category"] or len(now["item_category"]) > len(before["item_category"])


def test_old_and_vanished_items_are_what_they_were(shop):
    """Five items are in the old table alone; price, category, vector and title of all old ones stay."""
    old, new = table(shop / "old"), table(shop / "new")
    assert new[: len(old)].select(old.columns).equals(old)
    texts = table(shop / "new", "item_text")
    assert (
        texts.join(table(shop / "old", "item_text"), on=["item_id", "item_title"], how="inner").height == len(old) - 1
    )
    prices = pl.read_parquet(shop / "raw/items.parquet")["price"].to_numpy()
    scaler = StandardScaler().fit(prices[:, None])
    ids = table(shop / "new", "ids_item")["original_id"]
    price = dict(
        pl.concat([pl.read_parquet(shop / n / "items.parquet") for n in ("raw", "day")])
        .select("item_id", "price")
        .iter_rows()
    )
    expected = scaler.transform(np.array([[price[i]] for i in ids]))[:, 0]
    assert np.allclose(new["item_price"][1:], expected, atol=1e-6)
    first, second = (pl.read_parquet(shop / n / "items.parquet") for n in ("raw", "day"))
    known = np.array(first["image"].to_list())
    centre = StandardScaler(with_std=False).fit(known)
    image = dict(pl.concat([first, second]).select("item_id", "image").iter_rows())
    expected = centre.transform(np.array([image[i] for i in ids])) / centre.transform(known).std()
    assert np.allclose(np.array(new[f"item_emb_d{known.shape[1]}"].to_list())[1:], expected, atol=1e-5)


def test_vectors_of_an_older_import_stay_as_they_are(shop, tmp_path):
    """Which has no scale of theirs: what was trained on them must not find others."""
    older = tmp_path / "older"
    shutil.copytree(shop / "old", older)
    scales = json.loads((older / "scales.json").read_text())
    (older / "scales.json").write_text(json.dumps({n: s for n, s in scales.items() if not n.startswith("item_emb")}))
    raw = table(older, "item_feature")["image"].to_list()
    info = table(older).with_columns(pl.Series(next(n for n in table(older).columns if n.startswith("item_emb")), raw))
    info.write_parquet(older / "item_info.parquet")
    extended(shop / "day", tmp_path / "new", older)
    new = table(tmp_path / "new")
    name = next(n for n in new.columns if n.startswith("item_emb"))
    assert new[name].to_list()[: len(raw)] == raw


def test_the_rows_are_those_of_one_import_of_all(shop, tmp_path):
    """Histories, levels and splits, number for number; a whole dump may come again, and one log is written once."""
    whole = tmp_path / "whole"
    whole.mkdir()
    log = pl.concat([pl.read_csv(shop / n / "interactions.csv") for n in ("raw", "day")])
    log.write_csv(whole / "interactions.csv")
    pl.read_parquet(shop / "day/items.parquet").write_parquet(whole / "items.parquet")
    import_table(describe([whole]), tmp_path / "all", ImportOptions(max_history=20))
    extended(whole, tmp_path / "dump", shop / "old")
    names = {n: [None, *table(tmp_path / n, "ids_item")["original_id"]] for n in ("all", "dump")}
    names["new"] = [None, *table(shop / "new", "ids_item")["original_id"]]
    for split in ("train", "valid", "test"):
        expected = table(tmp_path / "all", split)
        assert table(tmp_path / "dump", split).equals(table(shop / "new", split))
        found = table(shop / "new", split)
        for name in ("likes_level", "views_level", "label"):
            assert found[name].equals(expected[name])
        assert [names["new"][i] for i in found["item_id"]] == [names["all"][i] for i in expected["item_id"]]
        histories = [
            [names[n][i] for i in row if i] for n, f in (("new", found), ("all", expected)) for row in f["item_seq"]
        ]
        assert histories[: len(found)] == histories[len(found) :]


def test_new_rows_alone_see_all_that_was_before(shop, tmp_path):
    summary = extended(shop / "day", tmp_path / "day", shop / "old", only_new=True)
    day = pd.read_csv(shop / "day/interactions.csv")
    assert sum(counts.rows for counts in summary.splits.values()) == len(day.drop_duplicates())
    whole = pl.concat([table(shop / "new", split) for split in ("train", "valid", "test")])
    rows = pl.concat([table(tmp_path / "day", split) for split in ("train", "valid", "test")])
    of_split = ["user_views_level", "user_rate_level", "user"]  # stop where the user's rows of a held-out split begin
    assert rows.drop(of_split).equals(whole[-len(rows) :].drop(of_split))
    before = pd.read_csv(shop / "raw/interactions.csv")
    day = day.sort_values("time", kind="stable").reset_index(drop=True)
    ends = np.cumsum([0, *(counts.rows for counts in summary.splits.values())])
    trained = day[: ends[1]]
    for key, found in (("user_id", "cold_users"), ("item_id", "cold_items")):
        today = ~day[key].isin(trained[key])
        new = today & ~day[key].isin(before[key])
        assert today.sum() > new.sum()
        for counts, first, last in zip(summary.splits.values(), ends, ends[1:]):
            assert getattr(counts, found) == pytest.approx(new[first:last].mean(), abs=1e-6)
    with pytest.raises(DataError, match="holds no interaction"):
        extended(shop / "raw", tmp_path / "none", shop / "old", only_new=True)


def test_weights_of_before_say_of_old_items_what_they_said(shop, tmp_path, monkeypatch):
    """The rows of the old test split, through the old model, and through one of the new sizes that begins with it."""
    from qin_zoo.experiment.predict import predict_rows
    from qin_zoo.experiment.prepare import build_model, load_trained, prepare_params
    from qin_zoo.experiment.run import run_experiment
    from qin_zoo.models.weights import warm_start

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qin_zoo.experiment.curves.draw_curves", lambda *_: None)

    def prepared(folder, **more):
        ((name, params),) = yaml.safe_load((folder / "dataset_config.yaml").read_text()).items()
        small = {"model": "QIN", "embedding_dim": 8, "epochs": 1, "batch_size": 256, "verbose": 0, "max_len": 8}
        return prepare_params("q", {**params, "dataset_id": name, **small, **more}, tmp_path)

    record = run_experiment(prepared(shop / "old"), tmp_path, echo=lambda _: None)
    weights = tmp_path / "checkpoints/old/q.model"
    before = prepared(shop / "old")
    data = before.open_dataset()
    then, _ = predict_rows(load_trained(before, data, weights), data, "test")
    assert (
        json.loads((tmp_path / record["files"]["record"]).read_text())["numbering"]["ids_item.parquet"]["count"]
        == len(table(shop / "old", "ids_item"))
    )
    after = prepared(shop / "new", test_data=str(shop / "old/test.parquet"))
    data = after.open_dataset()
    model = build_model(after, data)
    warm_start(model, str(weights))
    now, _ = predict_rows(model.eval(), data, "test")
    assert np.allclose(now, then, atol=1e-6)

    said = []
    run_experiment(prepared(shop / "new", init_from=str(weights)), tmp_path, echo=said.append)
    assert any("20 new" in line for line in said)
    assert not any("taken for granted" in line for line in said)
    import_table(describe([shop / "day"]), tmp_path / "anew", ImportOptions(max_history=20))
    for old in (shop / "old", shop / "gone"):
        if old.name == "gone":  # the record knows without the folder
            (shop / "old").rename(old)
        try:
            with pytest.raises(DataError, match=r"Numbers must stay.*--extend"):
                run_experiment(prepared(tmp_path / "anew", init_from=str(weights), model_root="other"), tmp_path)
        finally:
            if old.name == "gone":
                old.rename(shop / "old")


def test_a_day_without_a_table_of_items(shop, tmp_path):
    """What was known of items stays, the vector in the item table too; an item that is only in the log is new."""
    (tmp_path / "log").mkdir()
    end = pl.read_csv(shop / "day/interactions.csv")["time"].max()
    pl.DataFrame({"user_id": ["nobody"], "item_id": ["sku-x"], "time": [end + 9], "click": [1]}).write_csv(
        tmp_path / "log/today.csv"
    )
    summary = extended(tmp_path / "log", tmp_path / "out", shop / "new")
    old, new = table(shop / "new"), table(tmp_path / "out")
    assert new[: len(old)].equals(old)
    assert new.drop("item_id").row(-1) == old.drop("item_id").row(0)
    assert table(tmp_path / "out", "ids_item")["original_id"][-1] == "sku-x"
    assert table(tmp_path / "out", "test")[-1]["item_id"].item() == summary.items == len(old)


def test_items_of_an_export(shop, tmp_path):
    """A table beside ids, one with original ids, and one of another numbering."""
    require_same_items(shop / "old", shop / "new/item_info.parquet")
    ids = table(shop / "new", "ids_item")
    file = tmp_path / "items.parquet"
    ids.write_parquet(file)
    require_same_items(shop / "old", file)
    import_table(describe([shop / "day"]), tmp_path / "anew", ImportOptions())
    with pytest.raises(DataError, match="--extend"):
        require_same_items(shop / "old", tmp_path / "anew/item_info.parquet")
    other = ids.with_columns(pl.col("original_id").shift(1).fill_null("sku-new"))
    other.write_parquet(file)
    with pytest.raises(DataError, match=r"expected item 1 to be .*, found 'sku-new'.*--extend"):
        require_same_items(shop / "old", file)
    twice = pl.DataFrame({"item_id": [len(ids) + 1], "original_id": [ids["original_id"][0]]})
    twice.with_columns(pl.col("item_id").cast(pl.Int32)).write_parquet(file)
    with pytest.raises(DataError, match=r"to be 'a new one'.*which is item 1"):
        require_same_items(shop / "new", file)


def test_what_was_fitted_is_used_for_new_items(shop, tmp_path):
    """TF-IDF, SVD and PCA of scikit-learn, fitted to the old items, of the texts and images of the new ones."""
    old, new = tmp_path / "old", tmp_path / "new"
    import_table(describe([shop / "raw"]), old, ImportOptions())

    def embed(folder):
        encode_items(folder, make_encoder("tfidf-svd:8", "text"), read_texts(folder), "text")
        encoder = make_encoder(f"precomputed:{folder / 'item_feature.parquet'}:image", "vector")
        encode_items(folder, encoder, encoder.inputs(len(table(folder))), "image")
        report = fuse(folder, dim=8)
        quantize_folder(folder, "item_emb_d8", 2, 4, info="item_info_pca_then_concat.parquet")
        return report

    assert not any(part.reused for part in embed(old).parts)
    extended(shop / "day", new, old)
    assert all(part.reused for part in embed(new).parts)
    texts = [table(folder, "item_text").sort("item_id")["text"].to_list() for folder in (old, new)]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float32)
    counted = words.fit_transform(texts[0])
    svd = TruncatedSVD(8, random_state=0).fit(counted)
    vectors = [normalize(svd.transform(words.transform(part))) for part in texts]
    stored = EmbeddingStore(new).rows("text", 1, len(texts[1]) + 1)
    assert np.allclose(stored, vectors[1], atol=1e-5)
    images = [np.array(table(folder, "item_feature")["image"].to_list())[1:] for folder in (old, new)]
    expected = []
    for then, now in ((vectors[0], vectors[1]), (images[0], images[1])):
        pca = PCA(4, svd_solver="full").fit(then.astype(np.float64))
        largest = pca.components_[np.arange(4), np.abs(pca.components_).argmax(1)]
        there = now.any(axis=1, keepdims=True)  # a text of unknown words only has no vector, and none is made up
        expected.append(pca.transform(now.astype(np.float64)) * np.sign(largest) * there)
    fused = [np.array(table(f, "item_info_pca_then_concat")["item_emb_d8"].to_list())[1:] for f in (old, new)]
    assert np.allclose(fused[1], np.hstack(expected), atol=1e-4)
    assert np.array_equal(fused[1][: len(fused[0])], fused[0])
    codes = [table(folder, "item_info_codes").select("code_1", "code_2") for folder in (old, new)]
    assert codes[1][: len(codes[0])].equals(codes[0])
    books = np.load(new / "fitted_codes_item_emb_d8_2x4.npz")["codebooks"]
    nearest = np.square(fused[1][:, None] - books[0][None]).sum(2).argmin(1) + 1
    assert codes[1]["code_1"][1:].to_list() == nearest.tolist()


def test_other_formats_extend_too(tmp_path):
    """RecBole's files, of which the second has other ids before the first ones."""

    def write(name, items):
        folder = tmp_path / name
        folder.mkdir()
        log = [f"u{n % 2}\t{items[n % len(items)]}\t{n % 2}\t{n + 1}" for n in range(12)]
        head = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float"
        (folder / "x.inter").write_text("\n".join([head, *log, ""]))
        rows = [f"{i}\tt{i} w{i}\tk{i}" for i in items]
        (folder / "x.item").write_text("item_id:token\tclass:token_seq\tkind:token\n" + "\n".join(rows) + "\n")
        return folder

    import_folder("recbole", write("a", ["m", "p", "z"]), tmp_path / "old", ImportOptions())
    options = ImportOptions(extend=str(tmp_path / "old"))
    import_folder("recbole", write("b", ["a", "p", "z"]), tmp_path / "new", options)
    assert table(tmp_path / "new", "ids_item")["original_id"].to_list() == ["m", "p", "z", "a"]
    words = json.loads((tmp_path / "new/vocabularies.json").read_text())
    assert words["item_kind"] == ["km", "kp", "kz", "ka"]
    info = table(tmp_path / "new")
    assert info["item_kind"].to_list() == [0, 1, 2, 3, 4]
    assert [words["item_tags"][row[0] - 1] for row in info["item_tags"][1:].to_list()] == ["tm", "tp", "tz", "ta"]
    configs = [yaml.safe_load((tmp_path / n / "dataset_config.yaml").read_text())[n] for n in ("old", "new")]
    assert len({tuple(str(f["name"]) for f in config["feature_cols"]) for config in configs}) == 1


def test_ids_in_another_form_are_the_same_ids(tmp_path):
    """Whole numbers, written as floats a day later and among texts another day later; zeros in front stay."""

    def write(name, ids):
        (tmp_path / name).mkdir()
        rows = [(f"u{n % 2}", ids[n % len(ids)], 1_700_000_000 + len(name) * DAY + n, n % 2) for n in range(12)]
        frame = pd.DataFrame(rows, columns=["user_id", "item_id", "time", "click"])
        frame.to_csv(tmp_path / name / "log.csv", index=False)
        return tmp_path / name

    import_table(describe([write("a", [10, 9, 8])]), tmp_path / "1", ImportOptions())
    extended(write("bb", [8.0, 10.0, 7.0]), tmp_path / "2", tmp_path / "1")
    assert table(tmp_path / "2", "ids_item")["original_id"].to_list() == [8, 9, 10, 7]
    extended(write("ccc", ["8", "x"]), tmp_path / "3", tmp_path / "2")
    assert table(tmp_path / "3", "ids_item")["original_id"].to_list() == ["8", "9", "10", "7", "x"]


def test_zeros_in_front_that_a_day_lacks(tmp_path):
    """7 is 007 of the day before, as it is between files of one day; both forms in one file are two."""

    def write(name, *parts):
        (tmp_path / name).mkdir()
        for k, ids in enumerate(parts):
            start = 1_700_000_000 + len(name) * DAY + 20 * k
            rows = [(f"u{n % 2}", ids[n % len(ids)], start + n, n % 2) for n in range(12)]
            frame = pd.DataFrame(rows, columns=["user_id", "item_id", "time", "click"])
            frame.to_csv(tmp_path / name / f"log-{k}.csv", index=False)
        return tmp_path / name

    import_table(describe([write("a", ["007", "010"], ["007"])]), tmp_path / "1", ImportOptions())
    summary = extended(write("bb", ["7", "11"], ["10"]), tmp_path / "2", tmp_path / "1")
    assert [str(i) for i in table(tmp_path / "2", "ids_item")["original_id"]] == ["007", "010", "11"]
    assert any("is taken as 7" in note for note in summary.notes)
    extended(write("ccc", ["7", "007"]), tmp_path / "3", tmp_path / "1")
    assert table(tmp_path / "3", "ids_item")["original_id"].to_list() == ["007", "010", "7"]


def test_categories_in_another_form_are_the_same_categories(tmp_path):
    """What pandas writes of whole numbers beside a gap, and of true and false: items, users, lists and rows alike."""
    about = {
        "interactions": ("log.csv", {"device": "category", "time": "time (seconds)", "click": "label"}),
        "items": ("items.parquet", {"brand": "category", "adult": "category", "kinds": "list"}),
        "users": ("users.csv", {"group": "category"}),
    }
    ids = {"interactions": ("user", "item"), "items": ("item",), "users": ("user",)}
    files = [
        {"file": file, "about": what, "columns": {f"{i}_id": i for i in ids[what]} | columns}
        for what, (file, columns) in about.items()
    ]
    for day, form in ((1, "{}"), (2, "{}.0")):
        raw = tmp_path / f"raw-{day}"
        raw.mkdir()
        codes = {n: [form.format(10 + k % 3) for k in range(6)] for n in ("brand", "group")}
        rows = [(k % 6, k % 6, 1_700_000_000 + day * DAY + k, k % 2, form.format(k % 2)) for k in range(12)]
        names = ("user_id", "item_id", "time", "click", "device")
        pl.DataFrame(rows, names, orient="row").write_csv(raw / "log.csv")
        pl.DataFrame({"user_id": range(6), "group": codes["group"]}).write_csv(raw / "users.csv")
        adult = pl.Series([k % 2 == 0 for k in range(6)])
        kinds = pl.Series([[7, 8 + k % 2] for k in range(6)]).cast(pl.List([pl.Int64, pl.Float64][day - 1]))
        adult = adult if day == 1 else adult.cast(pl.String).str.to_titlecase()
        pl.DataFrame({"item_id": range(6), "brand": codes["brand"], "adult": adult, "kinds": kinds}).write_parquet(
            raw / "items.parquet"
        )
    first, second = (
        read_description({"label": "click", "files": files}, "x", tmp_path / f"raw-{day}") for day in (1, 2)
    )
    import_table(first, tmp_path / "1")
    before = Before.open(tmp_path / "1")
    summary = import_table(second, tmp_path / "2", before.options((), ImportOptions(extend="1")), before)
    assert json.loads((tmp_path / "2/vocabularies.json").read_text()) == {
        "item_tags": ["7", "8", "9"], "item_brand": ["10", "11", "12"], "item_adult": ["false", "true"],
        "user_group": ["10", "11", "12"], "context_device": ["0", "1"],
    }  # fmt: skip
    info = table(tmp_path / "2")
    assert info["item_brand"].to_list() == table(tmp_path / "2", "user_features")["user_group"].to_list()
    assert info["item_brand"].to_list() == [0, 1, 2, 3, 1, 2, 3]
    assert info["item_adult"].to_list() == [0, 2, 1, 2, 1, 2, 1]
    assert info["item_tags"].to_list() == [[0, 0], *[[1, 2], [1, 3]] * 3]
    assert any("item_brand: 3 words are written in another way, too: '10.0' is taken as 10" in n for n in summary.notes)


@pytest.mark.parametrize(
    ("known", "column", "codes", "words"),
    [
        (["100", "101"], ["101.0", None, "100", "102.0"], [2, 0, 1, 3], ["100", "101", "102.0"]),
        ([], ["2.0", "1.0", "1", ""], [2, 1, 1, 0], ["1", "2.0"]),
        (["True", "False"], ["false", "TRUE", None], [2, 1, 0], ["True", "False"]),
        (["38", "39"], ["38.0", "38.5"], [1, 3], ["38", "39", "38.5"]),
        (["100.0", "100"], ["100", "100.0", "100.00"], [2, 1, 1], ["100.0", "100"]),
        (["007", "010"], ["7", "11"], [1, 3], ["007", "010", "11"]),
        (["007", "7"], ["7", "007"], [2, 1], ["007", "7"]),
        ([], ["1e+21", "1e+20", "x"], [2, 1, 3], ["1e+20", "1e+21", "x"]),
    ],
)
def test_words_are_known_by_their_value(known, column, codes, words):
    """A word that is there keeps its code, whatever else is alike."""
    notes = []
    found = Words(None, notes)
    found.vocabularies["x"] = [*known]
    assert found.codes("x", pl.Series(column)).tolist() == codes
    assert found.vocabularies["x"] == words


@pytest.mark.parametrize("word", ["1.1529215046068470e+18", "1152921504606846976.0", "1152921504606846976", "9.5"])
def test_words_that_have_lost_their_digits(word):
    notes = []
    Words(None, notes).codes("item_seller", pl.Series([word, "x"]))
    assert ["item_seller: '" + word in note for note in notes] == [True] * (float(word) > 10 and not word.isdigit())


def test_words_that_may_be_one():
    """Versions: beside 1.1, 1.0 may be no 1."""
    notes = []
    found = Words(None, notes)
    assert found.codes("x", pl.Series(["1", "1.0", "1.1", "2.0"])).tolist() == [1, 2, 3, 4]
    assert len(notes) == 1
    assert "'1' and '1.0' are two words" in notes[0]


def test_columns_that_are_called_otherwise_a_day_later(tmp_path):
    """The message says how to go on, and that goes on."""
    for name, item, start in (("a", "item_id", 1_700_000_000), ("b", "sku", 1_700_100_000)):
        (tmp_path / name).mkdir()
        rows = {"user_id": [f"u{n % 3}" for n in range(20)], item: [f"i{n % 4}" for n in range(20)]}
        rows |= {"time": [start + n for n in range(20)], "click": [n % 2 for n in range(20)]}
        pl.DataFrame(rows).write_csv(tmp_path / name / "log.csv")
    import_table(describe([tmp_path / "a"]), tmp_path / "old", ImportOptions())
    with pytest.raises(DataError, match=r"found user_id, sku, time, click\. .*--describe NEW.yaml"):
        extended(tmp_path / "b", tmp_path / "new", tmp_path / "old")
    for argv in (["b", "--describe", "new.yaml"], ["new.yaml", "new", "--extend", "old"]):
        with pytest.raises(SystemExit) as done:
            main(["data", "import", "table", *(str(tmp_path / a) if a[0] != "-" else a for a in argv)])
        assert not done.value.code
    assert table(tmp_path / "new", "ids_item").equals(table(tmp_path / "old", "ids_item"))


def test_what_cannot_be_extended(shop, tmp_path, capsys):
    for argv, message in (
        (["--extend", str(tmp_path)], "expected the folder of an import"),
        (["--only-new"], "expected the import that is extended"),
    ):
        with pytest.raises(SystemExit) as done:
            main(["data", "import", "table", str(shop / "day"), str(tmp_path / "x"), *argv])
        assert done.value.code == 1
        assert message in capsys.readouterr().err
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "interactions.csv").write_text("user_id,sku\na,b\n")
    with pytest.raises(
        QinZooError, match=r"interactions.csv: expected the columns, or the name, of one"
    ):
        extended(wrong, tmp_path / "x", shop / "old")
    assert not (tmp_path / "x").exists()
