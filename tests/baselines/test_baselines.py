"""Baselines against plain pandas and scikit-learn, and what their columns may not know."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from named_fields import AMAZON, AMAZON_PAIR, LABEL, amazon_row, write_config
from shop import make_shop, write_shop
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from qin_zoo.baselines.features import Features
from qin_zoo.baselines.models import BASELINES
from qin_zoo.baselines.rows import View
from qin_zoo.baselines.run import prepare_baselines, run_baselines
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.run import import_folder
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.record import read_record
from qin_zoo.experiment.repeat import prepare_repetition
from qin_zoo.experiment.report import verdict, write_report
from qin_zoo.results.lines import boards
from qin_zoo.results.store import find_results

ROWS = 8000
DATA = ("user_id", "item_id", "item_category", "likes_level", "views_level", "label")


def baselines(folder, root, which=None, echo=lambda line: None, time=None, **changes):
    changes = {"model_root": str(root), **changes}
    prepared = prepare_baselines(str(folder), overrides=changes, which=which, time_column=time)
    return run_baselines(prepared, root, echo=echo)


def predictions(record):
    return pl.read_csv(record["files"]["prediction"])["Task2"].to_numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small shop as an item-table dataset."""
    raw, out = tmp_path_factory.mktemp("shop"), tmp_path_factory.mktemp("data") / "shop"
    shop = make_shop(ROWS)
    types = {"user_id": "token", "item_id": "token", "time": "float", "click": "float", "title": "token_seq"}
    types["category"] = "token"
    for kind, frame in (("inter", shop.interactions), ("item", shop.items.drop("image"))):
        frame = frame.rename({n: f"{'timestamp' if n == 'time' else n}:{types[n]}" for n in frame.columns})
        frame.write_csv(raw / f"shop.{kind}", separator="\t", quote_style="never")
    import_folder("recbole", raw, out, ImportOptions(max_history=400))  # all that there is
    return out


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """All baselines of it: name -> record, and what was said."""
    said, root = [], tmp_path_factory.mktemp("root")
    records = baselines(folder, root, echo=said.append)
    return {record["model"]: record for record in records}, said, root


@pytest.fixture(scope="module")
def splits(folder):
    """The splits in pandas, the items' category beside their rows."""
    category = pl.read_parquet(folder / "item_info.parquet")["item_category"].to_numpy()
    frames = {}
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(folder / f"{split}.parquet")
        values = {name: frame[name].to_numpy().astype(int) for name in DATA if name != "item_category"}
        frames[split] = pd.DataFrame({**values, "item_category": category[values["item_id"]]})
    return frames


def test_the_shop_is_what_it_says():
    shop = make_shop(40_000)
    clicks = shop.interactions["click"].to_numpy()
    assert roc_auc_score(clicks, shop.probability) == pytest.approx(0.775, abs=0.01)
    assert clicks.mean() == pytest.approx(shop.probability.mean(), abs=0.01)
    assert shop.interactions["time"].is_sorted()
    assert make_shop(40_000).interactions.equals(shop.interactions)


def test_the_days_of_the_shop_are_its_log_and_its_catalogues(tmp_path):
    """A day's files are what pandas cuts from the truth; what is not on sale is neither shown nor listed."""
    write_shop(tmp_path, ROWS)
    truth = pd.read_parquet(tmp_path / "truth/interactions.parquet")
    items = pd.read_parquet(tmp_path / "truth/items.parquet").set_index("item_id")
    begin, ends, catalogues = pd.Timestamp("2023-11-14 22:13:20"), [0, 57, 58, 59, 60], []
    day = (pd.to_datetime(truth["time"], unit="s") - begin) / pd.Timedelta(days=1)
    for name, first, last in zip(("start", "day-1", "day-2", "day-3"), ends, ends[1:]):
        log = pd.read_csv(tmp_path / name / "interactions.csv")
        part = truth[(day >= first) & (day < last)].drop(columns="probability").reset_index(drop=True)
        pd.testing.assert_frame_equal(log, part, check_dtype=False)
        catalogues.append(set(pd.read_parquet(tmp_path / name / "items.parquet")["item_id"]))
        assert set(log["item_id"]) <= catalogues[-1]
    for number, (before, after) in enumerate(itertools.pairwise(catalogues)):
        assert len(after - before) == len(before - after) == 1
        assert set(items["released"][[*after - before]]) == {57 + number}
    at = items.loc[truth["item_id"]].reset_index()
    assert (at["withdrawn"] > day).all()


def test_records_are_like_any_runs(made):
    records, _, root = made
    assert list(records) == list(BASELINES)
    for name, record in records.items():
        assert record == json.loads(json.dumps(read_record(root / "shop" / f"{name}_shop.json"))), name
        assert record["valid"].keys() == record["test"].keys() == {"AUC", "gAUC", "logloss"}
        assert record["parameters"] > 1
        assert 0.53 < record["test"]["AUC"] < 0.80
    board = boards(find_results([root]))[0]
    assert {line.name for line in board.lines} == {f"{name}_shop" for name in BASELINES}


def test_item_constant_is_that_of_pandas(made, splits):
    train, test = splits["train"], splits["test"]
    by_item = train.groupby("item_id")["label"].agg(["sum", "count"])
    rate = (by_item["sum"] + 20 * train["label"].mean()) / (by_item["count"] + 20)
    expected = test["item_id"].map(rate).fillna(train["label"].mean())
    record = made[0]["ItemConstant"]
    np.testing.assert_allclose(predictions(record), expected, rtol=1e-6)
    assert record["test"]["AUC"] == pytest.approx(roc_auc_score(test["label"], expected), abs=1e-9)


def test_means_of_user_and_item_are_those_of_dummies(made, splits):
    train, test = splits["train"], splits["test"]
    both = pd.concat([train, test])[["item_id", "user_id"]].astype(str)
    x = pd.get_dummies(both).to_numpy(float)
    record = made[0]["UserItemMeans"]
    model = LogisticRegression(C=1 / record["chosen"]["penalty"], max_iter=2000).fit(x[: len(train)], train["label"])
    np.testing.assert_allclose(predictions(record), model.predict_proba(x[len(train) :])[:, 1], atol=2e-3)


def plain_columns(before, rows):
    """The columns without history, by pandas, from the rows that came before."""

    def logit(p):
        return np.log(p / (1 - p))

    def counts(keys):
        by = before.groupby(keys)["label"].agg(["sum", "count"])
        wanted = rows[keys] if isinstance(keys, str) else pd.MultiIndex.from_frame(rows[keys])
        found = by.reindex(wanted).fillna(0)
        return found["sum"].to_numpy(), found["count"].to_numpy()

    n, clicks = len(before), before["label"].sum()
    prior = (clicks + 1) / (n + 2)
    out = {}
    user_clicks, user_rows = counts("user_id")
    user = (user_clicks + 10 * prior) / (user_rows + 10)
    out["user rate"], out["user rows"] = logit(user) - logit(prior), np.log1p(user_rows)
    for name in ("item_id", "likes_level", "views_level", "item_category"):
        c, r = counts(name)
        out[f"{name} rate"] = logit((c + 10 * prior) / (r + 10)) - logit(prior)
        if name.startswith("item"):
            out[f"{name} rows"] = np.log((r + 1) / max(n, 1))
        if name == "item_id":
            out["item_id clicks"] = np.log((c + 1) / max(n, 1))
        if name != "item_id":
            for code in range(1, 16 if name == "item_category" else 11):
                out[f"{name}={code}"] = rows[name].to_numpy() == code
    c, r = counts(["user_id", "item_category"])
    out["user's category rate"] = logit((c + 10 * user) / (r + 10)) - logit(user)
    out["user's category rows"] = np.log1p(r)
    return pd.DataFrame(out)


def test_logistic_regression_is_that_of_pandas_and_scikit_learn(folder, splits, tmp_path):
    record = baselines(folder, tmp_path, ["LogisticRegression"], max_len=0)[0]
    train, test = splits["train"], splits["test"]
    parts = np.array_split(np.arange(len(train)), 64)
    x = {"train": pd.concat([plain_columns(train[: part[0]], train.iloc[part]) for part in parts])}
    x |= {split: plain_columns(train, splits[split]) for split in ("valid", "test")}
    skipped = len(train) // 20
    scaler = StandardScaler().fit(x["train"][skipped:])
    x = {split: scaler.transform(values) for split, values in x.items()}
    losses, tested = {}, {}
    for strength in (1e-4, 1e-3, 1e-2, 1.0):
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        model.fit(x["train"][skipped:], train["label"][skipped:])
        losses[strength] = log_loss(splits["valid"]["label"], model.predict_proba(x["valid"])[:, 1])
        tested[strength] = model.predict_proba(x["test"])[:, 1]
    best = min(losses, key=losses.get)
    assert record["chosen"]["C"] == best
    np.testing.assert_allclose(predictions(record), tested[best], atol=2e-3)
    assert record["test"]["AUC"] == pytest.approx(roc_auc_score(test["label"], tested[best]), abs=5e-4)


def test_penalties_that_leave_the_line_undetermined_are_left_out(folder, tmp_path, monkeypatch, recwarn):
    """A small vocabulary's codes add up to one: without a penalty there are many lines, which scikit-learn warns of."""
    monkeypatch.setattr(BASELINES["LogisticRegression"], "settings", {"strengths": [1e-3, 1e12]})
    record = baselines(folder, tmp_path, ["LogisticRegression"])[0]
    assert record["chosen"] == {"C": 1e-3}
    assert not [one.message for one in recwarn if issubclass(one.category, (RuntimeWarning, UserWarning))]


def table_of(folder, label=None, **changes):
    params = prepare_baselines(str(folder), overrides=changes, which=["BoostedTrees"])[0].params
    dataset = Dataset(params)
    label = dataset.labels("train") if label is None else label
    return Features(View(dataset, params)).fit_transform(label, np.arange(len(label))), label


def test_no_row_knows_its_own_label_nor_a_later_one(folder):
    table, label = table_of(folder)
    row = len(label) // 2
    begins = next(part[0] for part in np.array_split(np.arange(len(label)), 64) if row in part)
    other = label.copy()
    other[row] = 1 - other[row]
    changed, _ = table_of(folder, other)
    assert (changed.values[: row + 1] == table.values[: row + 1]).all()
    assert begins <= row
    assert (changed.values[row:] != table.values[row:]).any()  # but later ones know it


def test_columns_tell_nothing_of_labels_that_are_noise(folder):
    label = np.tile([1.0, 0.0], ROWS)[: len(table_of(folder)[1])]  # a click beside each row without: as sampled ones
    table, _ = table_of(folder, label)
    for name, column in zip(table.names, table.values.T):
        assert roc_auc_score(label, column) == pytest.approx(0.5, abs=0.02), name


def plain_history(rows):
    """What the history says of the target, a row at a time."""
    out = []
    for row in rows:
        items, cates = (row[name].split("^")[-8:] for name in ("item_history", "cate_history"))
        out.append((np.log1p(len(items)), items.count(row["item_id"]), cates.count(row["cate_id"]) / len(cates)))
    return np.array(out)


def test_named_fields(tmp_path):
    g = np.random.default_rng(0)
    rows = [amazon_row(g) for _ in range(400)]
    for split, part in (("train", rows), ("valid", rows[:150]), ("test", rows[150:300])):
        pl.DataFrame(part).write_csv(tmp_path / f"{split}.csv")
    dataset = {f"{s}_data": str(tmp_path / f"{s}.csv") for s in ("train", "valid", "test")}
    dataset |= {"data_root": str(tmp_path), "data_format": "csv", "feature_cols": AMAZON, "label_col": LABEL}
    write_config(tmp_path, {**dataset, "min_categr_count": 1}, {"model": "DIN", "embedding_dim": 4, **AMAZON_PAIR})
    prepared = prepare_baselines("x", tmp_path, overrides={"group_id": "user_id"})
    records = run_baselines(prepared, tmp_path, echo=lambda line: None)
    assert [record["model"] for record in records] == list(BASELINES)
    table = Features(View(opened := Dataset(prepared[0].params), prepared[0].params)).fit_transform(
        opened.labels("train"), np.arange(400)
    )
    names = ["history length", "history has it", "history's share of cate_id"]
    found = table.values[:, [table.names.index(name) for name in names]]
    np.testing.assert_allclose(found, plain_history(rows), atol=1e-5)


def test_ratings_beside_the_history(folder, tmp_path):
    rated, g = tmp_path / "shop", np.random.default_rng(0)
    shutil.copytree(folder, rated)
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(folder / f"{split}.parquet")
        ratings = [[int(g.integers(1, 6)) if item else 0 for item in history] for history in frame["item_seq"]]
        frame.with_columns(item_seq_rating=pl.Series(ratings)).write_parquet(rated / f"{split}.parquet")
    config = yaml.safe_load((folder / "dataset_config.yaml").read_text().replace(str(folder), str(rated)))
    beside = {"name": "item_seq_rating", "type": "categorical", "source": "history", "vocab_size": 6}
    config["shop"]["feature_cols"].append({"active": True, "dtype": "int", **beside})
    (rated / "dataset_config.yaml").write_text(yaml.safe_dump(config))
    table, _ = table_of(rated, max_len=20)
    names = ["history's item_seq_rating", "newest's item_seq_rating", "item_seq_rating of item_category"]
    found = table.values[:, [table.names.index(name) for name in names]]
    category = pl.read_parquet(folder / "item_info.parquet")["item_category"].to_list()
    frame = pl.read_parquet(rated / "train.parquet")
    for row in range(3000, 3040):
        past = [(i, r) for i, r in zip(frame["item_seq"][row], frame["item_seq_rating"][row]) if i][-20:]
        ratings = [r for _, r in past] or [0]
        mean = sum(ratings) / len(ratings)
        same = [r - mean for i, r in past if category[i] == category[frame["item_id"][row]] > 0]
        newest = ratings[-5:]
        expected = [mean, sum(newest) / len(newest), sum(same) / (len(same) + 1)]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_histories_of_users_give_what_histories_of_rows_give(folder, tmp_path):
    per_user = tmp_path / "shop"
    per_user.mkdir()
    lists, seen = {}, {}
    for split in ("train", "valid", "test"):
        frame = pl.read_parquet(folder / f"{split}.parquet")
        lengths = []
        for user, history in zip(frame["user_id"], frame["item_seq"]):
            items = [i for i in history if i]
            if len(items) > len(lists.get(user, [])):
                lists[user] = items
            lengths.append(len(items))
        seen[split] = frame.rename({"user_id": "user_index", "item_id": "item_index"}).drop("item_seq")
        seen[split].with_columns(pl.Series("seq_len", lengths)).write_parquet(per_user / f"{split}.parquet")
    users = pl.DataFrame({"user_index": list(lists), "full_item_seq": list(lists.values())})
    users.write_parquet(per_user / "user_info.parquet")
    items = pl.read_parquet(folder / "item_info.parquet").rename({"item_id": "item_index"})
    items.write_parquet(per_user / "item_info.parquet")
    text = (folder / "dataset_config.yaml").read_text().replace(str(folder), str(per_user))
    config = yaml.safe_load(text.replace("user_id", "user_index").replace("item_id", "item_index"))["shop"]
    config["feature_cols"][0]["name"] = ["user_index", "seq_len"]
    config["user_info"] = str(per_user / "user_info.parquet")
    (per_user / "dataset_config.yaml").write_text(yaml.safe_dump({"shop": config}))
    ours = baselines(per_user, tmp_path / "one", ["LogisticRegression"])[0]
    theirs = baselines(folder, tmp_path / "other", ["LogisticRegression"])[0]
    np.testing.assert_allclose(predictions(ours), predictions(theirs), atol=1e-5)


def test_a_report_says_whether_its_run_beats_them(made, folder):
    records, _, root = made
    best = max(record["test"]["AUC"] for record in records.values())
    run = {key: value for key, value in records["BoostedTrees"].items() if key not in ("baseline", "chosen")}
    path = root / "shop" / "QIN_shop.json"
    files = {**run["files"], "record": str(path), "report": str(path.with_suffix(".md"))}
    run |= {"expid": "QIN_shop", "model": "QIN", "files": files, "test": {**run["test"], "AUC": best + 0.01}}
    assert "qin-zoo baseline" in verdict(run, [])
    path.write_text(json.dumps(run))
    write_report(path.with_suffix(".md"), run)
    assert path.with_suffix(".md").read_text().splitlines()[2].startswith(f"**Beats all {len(BASELINES)} baselines**")
    path.write_text(json.dumps({**run, "test": {**run["test"], "AUC": best - 0.005}}))
    again = []
    baselines(path, root, ["ItemConstant"], echo=again.append)  # from the record of the run that shall be compared
    line = path.with_suffix(".md").read_text().splitlines()[2]
    assert line.startswith("**Does not beat every baseline**")
    assert "0.0050 better" in line
    assert any("1 reports" in text for text in again)


def test_where_rows_have_no_auc_another_metric_tells_what_is_beaten(made):
    """Test rows of one class: no comparison with NaN is a victory."""
    nan = dict.fromkeys(("AUC", "gAUC"), float("nan"))
    records = [{**r, "test": {**r["test"], **nan}} for r in made[0].values()]
    best = min(r["test"]["logloss"] for r in records)
    run = {**records[0], "test": {**records[0]["test"], "logloss": best + 0.01}}
    told = verdict(run, records)
    assert told.startswith("**Does not beat")
    assert f"test logloss {best + 0.01:.4f}" in told
    nothing = {**run, "test": nan}
    assert verdict(nothing, records) == "Not compared with the baselines: no metric is a number on the test rows."


def test_a_record_repeats_itself_and_another_setting_is_numbered(made, tmp_path):
    first, root = made[0]["BoostedTrees"], made[2]
    again = baselines(first["files"]["record"], root)
    assert [record["expid"] for record in again] == ["BoostedTrees_shop"]
    assert again[0]["test"] == first["test"]
    assert [baselines(first["files"]["record"], tmp_path, ["ItemConstant"], max_len=n)[0]["expid"] for n in (5, 5)] == [
        "ItemConstant_shop"
    ] * 2
    said = []
    other = baselines(first["files"]["record"], tmp_path, ["ItemConstant"], echo=said.append, max_len=4)[0]
    assert other["expid"] == "ItemConstant_shop-2"
    assert "max_len 5 there, 4 here" in " ".join(said)


def test_a_time_column_orders_the_rows(folder, tmp_path):
    shuffled = tmp_path / "shop"
    shuffled.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".parquet":
            frame = pl.read_parquet(file)
            if file.stem == "train":
                when = np.arange(len(frame))
                frame = frame.with_columns(when=pl.Series(when)).sample(fraction=1, shuffle=True, seed=1)
            frame.write_parquet(shuffled / file.name)
    text = (folder / "dataset_config.yaml").read_text().replace(str(folder), str(shuffled))
    (shuffled / "dataset_config.yaml").write_text(text)
    named = baselines(shuffled, tmp_path / "a", ["RecentPopularity"], time="when")[0]
    assert named["test"]["AUC"] == pytest.approx(
        baselines(folder, tmp_path / "b", ["RecentPopularity"])[0]["test"]["AUC"], abs=1e-9
    )


def test_what_cannot_be_used_is_said(folder, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'BoostedTrees'"):
        prepare_baselines(str(folder), which=["BoostedTree"])
    with pytest.raises(ConfigError, match="Unknown key 'learning_rat'"):
        prepare_baselines(str(folder), overrides={"learning_rat": 1})
    with pytest.raises(ConfigError, match="one label that is a click"):
        prepare_baselines(str(folder), overrides={"task": "regression"})
    with pytest.raises(ConfigError, match=r"No experiment 'QIN_ml-100'. Did you mean .* No dataset 'QIN_ml-100'"):
        prepare_baselines("QIN_ml-100")
    record = baselines(folder, tmp_path, ["ItemConstant"])[0]["files"]["record"]
    with pytest.raises(ConfigError, match="is the record of a baseline"):
        prepare_repetition(Path(record))


@pytest.mark.parametrize(
    ("split", "rows", "left"),
    [
        ("valid", pl.col("label") == 0, ["RecentPopularity", "BoostedTrees"]),
        ("train", (pl.col("label") == 1) | (pl.int_range(pl.len()) < 20), ["LogisticRegression", "BoostedTrees"]),
        ("train", pl.col("label") == 1, None),
    ],
)
def test_rows_of_one_class(split, rows, left, folder, tmp_path):
    """Who cannot learn from them is left out; where nobody can, that is one message, and nothing is written."""
    shutil.copytree(folder, tmp_path / "shop")
    frame = pl.read_parquet(folder / f"{split}.parquet").filter(rows).with_columns(when=pl.int_range(pl.len()))
    frame.write_parquet(tmp_path / "shop" / f"{split}.parquet")
    when = "when" if split == "train" else None
    options = {f"{split}_data": str(tmp_path / "shop" / f"{split}.parquet")}
    said = []
    if left is None:
        with pytest.raises(DataError, match="expected rows with a click and rows without"):
            baselines(folder, tmp_path / "root", time=when, **options)
        assert not (tmp_path / "root").exists()
        return
    records = baselines(folder, tmp_path / "root", time=when, echo=said.append, **options)
    assert {record["model"] for record in records} == BASELINES.keys() - set(left)
    assert [line.split("_")[0] for line in said if "left out, as the" in line] == left


def test_rows_sorted_by_their_label_tell_no_time(folder, tmp_path):
    sorted_rows = tmp_path / "shop"
    shutil.copytree(folder, sorted_rows)
    pl.read_parquet(folder / "train.parquet").sort("label").write_parquet(sorted_rows / "train.parquet")
    said = []
    options = {"train_data": str(sorted_rows / "train.parquet"), "model_root": str(tmp_path)}
    prepared = prepare_baselines(str(folder), overrides=options, which=["LogisticRegression"])
    record = run_baselines(prepared, tmp_path, echo=said.append)[0]
    assert "sorted by their label" in said[0]
    assert record["test"]["AUC"] > 0.6
