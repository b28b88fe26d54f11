"""Raw files against FuxiCTR's own FeatureProcessor on the same rows: ``preprocess``, pretrained vectors, buckets."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import REPOSITORY, shared_data
from data_path_files import DataSet
from public_files import CSV, write_public
from reference_preprocess import assert_encoded_alike, fuxictr_processors

from qin_zoo.config.values import PREPROCESSORS
from qin_zoo.data.dataset import Dataset, open_feature_map, relocate
from qin_zoo.data.encode import encode_fields
from qin_zoo.data.preprocess import FUNCTIONS
from qin_zoo.errors import ConfigError, DataError

KINDS = ("criteo", "avazu", "kkbox")  # datasets with a processor of their own in FuxiCTR


def column(name, kind="categorical", dtype="str", **more):
    return {"name": name, "active": True, "dtype": dtype, "type": kind, **more}


def setting(folder, make, columns, label="label", **more):
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", 300), ("valid", 80), ("test", 60)):
        make(np.random.default_rng(rows), rows).write_csv(folder / f"{split}.csv")
    files = {f"{split}_data": str(folder / f"{split}.csv") for split in ("train", "valid", "test")}
    return {
        "dataset_id": "d", "data_root": str(folder / "ours"), "data_format": "csv", **files, "feature_cols": columns,
        "label_col": {"name": label, "dtype": "float"}, **more,
    }  # fmt: skip


def gaps(g, values, share=0.15):
    return [None if g.random() < share else value for value in values]


def criteo(g, n):
    numbers = {f"I{i}": gaps(g, g.integers(-2, 3000, n).tolist()) for i in range(1, 4)}
    words = {f"C{i}": gaps(g, [f"{x:08x}" for x in g.integers(0, 40, n)]) for i in range(1, 4)}
    return pl.DataFrame({"Label": g.integers(0, 2, n), **numbers, **words})


def avazu(g, n):
    hours = [f"1410{day}{hour:02d}" for day, hour in zip(g.integers(20, 31, n), g.integers(0, 24, n))]
    return pl.DataFrame({"click": g.integers(0, 2, n), "id": range(n), "hour": hours, "C1": g.integers(0, 9, n)})


def kkbox(g, n):
    return pl.DataFrame(
        {
            "label": g.integers(0, 2, n),
            "genre_ids": gaps(g, ["^".join(map(str, g.integers(0, 9, g.integers(1, 5)))) for _ in range(n)]),
            "isrc": gaps(g, [f"{code}ABC" for code in g.choice(["US", "GB", "TW"], n)]),
            "bd": g.integers(-5, 120, n),
        }
    )


HOURS = [column(f"week{x}", preprocess=f"convert_week{x}") for x in ("day", "end")]
CASES = {
    "criteo_x4": (
        criteo,
        [column(["I1", "I2", "I3"], dtype="float", preprocess="convert_to_bucket"), column(["C1", "C2", "C3"])],
        {"label": "Label", "min_categr_count": 3},
    ),
    "criteo_x4 without zero": (
        criteo,
        [column(["I1", "I2"], dtype="float", preprocess="convert_to_bucket", fill_na=0), column("C1", fill_na="none")],
        {"label": "Label", "min_categr_count": 2},
    ),
    "avazu_x4": (
        avazu,
        [{**column("id"), "active": False}, column("hour", preprocess="convert_hour"), column("C1"), *HOURS],
        {"label": "click", "min_categr_count": 2},
    ),
    "kkbox_x1": (
        kkbox,
        [
            column("genre_ids", "sequence", max_len=3),
            column("isrc", preprocess="extract_country_code"),
            column("bd", preprocess="bucketize_age"),
        ],
        {"min_categr_count": 5},
    ),
    "floats": (
        lambda g, n: pl.DataFrame({"label": g.integers(0, 2, n), "x": g.choice([1e-5, 1e16, 0.5, 3.0], n)}),
        [column("x", dtype="float"), column("y", "meta", "float", preprocess="copy_from(x)")],
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_made_columns_are_those_of_fuxictr(tmp_path, case):
    make, columns, more = CASES[case]
    params = setting(tmp_path, make, columns, **more)
    processor = case.partition("_")[0] if "_" in case else ""
    assert_encoded_alike(encode_fields(params), params, tmp_path / "theirs", processor)


def test_every_function_of_fuxictr_is_known():
    """The names that a configuration may hold, those there are, and those that FuxiCTR's classes define."""
    base, *others = fuxictr_processors().values()
    theirs = {name for cls in others for name in vars(cls) if not name.startswith("__")} | {"copy_from"}
    assert hasattr(base, "copy_from")
    assert set(PREPROCESSORS) == set(FUNCTIONS) == theirs


@pytest.mark.parametrize(
    ("name", "row", "value", "words"),
    [
        ("I2", 7, "many", ["'I2'", "row 7", "a number", "'many'"]),
        ("hour", 4, "2014-10-21", ["'hour'", "row 4", "YYMMDDHH", "'2014-10-21'"]),
        ("hour", 4, None, ["'hour'", "row 4", "nothing"]),
        ("bd", 2, "old", ["'bd'", "row 2", "a number", "'old'"]),
        ("user", 3, "u1", ["'group_id'", "row 3", "a whole number", "'u1'"]),
    ],
)
def test_values_of_which_nothing_can_be_made(tmp_path, name, row, value, words):
    case = {"I2": "criteo_x4", "hour": "avazu_x4", "bd": "kkbox_x1"}.get(name)
    if case:
        make, columns, more = CASES[case]
    else:
        make, more = lambda g, n: pl.DataFrame({"label": [0, 1] * (n // 2), "user": range(n)}), {}
        columns = [column("group_id", "meta", "int", remap=False, preprocess="copy_from(user)"), column("user")]
    params = setting(tmp_path, make, columns, **more)
    table = pl.read_csv(params["train_data"], infer_schema=False)
    values = table[name].to_list()
    values[row] = value
    table.with_columns(pl.Series(name, values)).write_csv(params["train_data"])
    with pytest.raises(DataError) as error:
        encode_fields(params)
    for word in words:
        assert word in str(error.value)


def test_columns_that_are_missing(tmp_path):
    params = setting(tmp_path, avazu, [column("C1"), HOURS[0]], label="click")
    for split in ("train", "valid"):
        table = pl.read_csv(params[f"{split}_data"], infer_schema=False).rename({"hour": "hours"})
        table.write_csv(params[f"{split}_data"])
    with pytest.raises(DataError, match=r"expected a column 'hour', of which preprocess .* Did you mean 'hours'"):
        encode_fields(params)
    with pytest.raises(ConfigError, match=r"expected preprocess to be one of copy_from.*Did you mean 'convert_hour'"):
        encode_fields({**params, "feature_cols": [column("hours", preprocess="convert_hours")]})
    named = {**params, "test_data": None, "feature_cols": [column("weekday", preprocess="convert_weekday(hours)")]}
    assert open_feature_map(encode_fields(named)).features["weekday"]["vocab_size"] == 7 + 2


# The columns and preprocessing of KuaiVideo_x1: an id, its vectors as a second feature, histories of both.
SHARED = {"max_len": 4, "padding": "pre", "splitter": "^"}


def video(g, n):
    history = ["^".join(map(str, g.integers(1, 30, k))) for k in g.integers(0, 7, n)]
    ids = {"user_id": g.integers(0, 9, n), "item_id": g.integers(1, 30, n)}
    return pl.DataFrame({"is_click": g.integers(0, 2, n), **ids, "pos": history})


def write_vectors(path, keys, values):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["key"], file["value"] = keys, values
    elif path.suffix == ".npz":
        np.savez(path, key=np.asarray(keys), value=values)
    else:
        pl.DataFrame({"key": keys, "value": pl.Series(values)}).write_parquet(path)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".parquet"])
@pytest.mark.parametrize("usage", ["init", "sum", "concat"])
def test_pretrained_vectors_are_those_of_fuxictr(tmp_path, suffix, usage):
    g, file = np.random.default_rng(5), tmp_path / f"item{suffix}"
    write_vectors(file, list(range(3, 45)), g.normal(size=(42, 6)).astype(np.float32))
    vectors = {"pretrained_emb": str(file), "pretrain_dim": 6, "embedding_dim": 5, "pretrain_usage": usage}
    columns = [
        column("group_id", "meta", "int", remap=False, preprocess="copy_from(user_id)"),
        column(["user_id", "item_id"]),
        column("item_emb", preprocess="copy_from(item_id)", min_categr_count=1, **vectors),
        column("pos", "sequence", share_embedding="item_id", **SHARED),
        column("pos_emb", "sequence", preprocess="copy_from(pos)", share_embedding="item_emb", **SHARED, **vectors),
        column("own", preprocess="copy_from(item_id)", freeze_emb=False, **{**vectors, "pretrain_usage": "init"}),
    ]
    params = setting(tmp_path, video, columns, label="is_click", min_categr_count=10)
    ours = encode_fields(params)
    assert_encoded_alike(ours, params, tmp_path / "theirs")
    assert open_feature_map(ours).features["item_emb"]["vocab_size"] >= 45

    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FeatureEmbeddingDict

    tables = []
    for folder in (Path(ours["train_data"]).parent, tmp_path / "theirs" / "d"):
        feature_map = FeatureMap("d", str(folder))
        feature_map.load(str(folder / "feature_map.json"), {"embedding_dim": 5})
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 -- what FuxiCTR draws from
        tables.append(FeatureEmbeddingDict(feature_map, 5).state_dict())
    assert tables[0].keys() == tables[1].keys()
    assert any("pretrain_embedding" in name for name in tables[0])
    for name, table in tables[0].items():
        assert torch.equal(table, tables[1][name]), name


def test_vectors_follow_their_file(tmp_path):
    file = tmp_path / "item.npz"
    params = setting(tmp_path, video, [column("item_id", pretrained_emb=str(file))], label="is_click")
    with pytest.raises(DataError, match=r"item\.npz: no such file"):
        encode_fields(params)
    np.savez(file, key=[1, 2], value=np.ones((2, 3)))
    first = encode_fields(params)
    np.savez(file, key=[1, 2, 99], value=np.ones((3, 4)))
    second = encode_fields(params)
    assert first["train_data"] != second["train_data"]
    assert open_feature_map(second).features["item_id"]["pretrain_dim"] == 4
    assert not Path(first["train_data"]).exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"key": [1, 2], "values": [[1.0], [2.0]]}, "found no 'value'"),
        ({"key": [1, 2, 3], "value": [[1.0], [2.0]]}, "found 3 keys"),
        ({"key": [1, 2], "value": [1.0, 2.0]}, "a vector for each key"),
        ({"key": [1, 2], "value": [[1.0], [np.nan]]}, "row 1: expected finite"),
        ({"key": [1, 2], "value": [["a"], ["b"]]}, "cannot be read"),
        ({"key": np.array([1, None], dtype=object), "value": [[1.0], [2.0]]}, "cannot be read"),
    ],
)
def test_vectors_that_cannot_be_used(tmp_path, arrays, words):
    np.savez(tmp_path / "item.npz", **{name: np.asarray(values) for name, values in arrays.items()})
    params = setting(tmp_path, video, [column("item_id", pretrained_emb=str(tmp_path / "item.npz"))], label="is_click")
    with pytest.raises(DataError, match=words):
        encode_fields(params)


def test_no_pickle_is_opened(tmp_path):
    (tmp_path / "item.npz").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    params = setting(tmp_path, video, [column("item_id", pretrained_emb=str(tmp_path / "item.npz"))], label="is_click")
    with pytest.raises(DataError, match="cannot be read"):
        encode_fields(params)
    assert not os.path.exists("owned")


@pytest.mark.skipif(not (shared_data() / "fuxictr_tiny").is_dir(), reason="FuxiCTR's tiny data is not at hand")
def test_fuxictrs_tiny_csv(tmp_path):
    folder = shared_data() / "fuxictr_tiny" / "tiny_csv"
    names = "adgroup_id pid cate_id campaign_id customer brand cms_segid cms_group_id final_gender_code age_level"
    vectors = {"pretrained_emb": str(folder / "userid_emb_dim8.npz"), "embedding_dim": 8, "pretrain_dim": 8}
    params = {
        "dataset_id": "tiny_csv", "data_root": str(tmp_path / "ours"), "data_format": "csv", "min_categr_count": 1,
        **{f"{s}_data": str(folder / f"{s}_sample.csv") for s in ("train", "valid", "test")},
        "feature_cols": [column("userid", **vectors), column(names.split())],
        "label_col": {"name": "clk", "dtype": "float"},
    }  # fmt: skip
    assert_encoded_alike(encode_fields(params), params, tmp_path / "theirs")


def test_buckets(tmp_path):
    from sklearn.preprocessing import QuantileTransformer

    columns = [
        column("I1", dtype="float", category_processor="quantile_bucket", num_buckets=7),
        column("C1", category_processor="hash_bucket"),
    ]
    params = setting(tmp_path, criteo, columns, label="Label", num_buckets=5)
    ours = encode_fields(params)
    raw = {s: pl.read_csv(params[f"{s}_data"])["I1"].fill_null(0).to_numpy() for s in ("train", "valid")}
    theirs = QuantileTransformer(n_quantiles=8).fit(raw["train"].reshape(-1, 1)).quantiles_[1:-1].ravel()
    for split, values in raw.items():
        found = pl.read_parquet(ours[f"{split}_data"])
        assert found["I1"].to_list() == np.digitize(values, theirs).tolist()
        assert max(found["I1"]) == 6
        words = pl.read_csv(params[f"{split}_data"])["C1"].fill_null("")
        seen = dict(zip(words, found["C1"]))
        assert [seen[word] for word in words] == found["C1"].to_list()
        assert set(found["C1"]) == set(range(5))
        # blake2b, so that it is the same in every process: hashlib.blake2b(b"00000001", digest_size=8) mod 5
        assert seen["00000001"] == 0xB2817C544D2B92C6 % 5
    features = open_feature_map(ours).features
    sizes = {name: (spec["vocab_size"], "padding_idx" in spec) for name, spec in features.items()}
    assert sizes == {"I1": (7, False), "C1": (5, False)}
    assert json.loads(Path(ours["train_data"]).with_name("feature_vocab.json").read_text()) == {}


@pytest.mark.parametrize("split_type", ["sequential", "random"])
@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (40, 0), (0, 25)])
def test_rows_split_off_are_those_of_fuxictr(tmp_path, split_type, valid, test):
    import pandas as pd
    from fuxictr.preprocess.build_dataset import split_train_test

    params = setting(tmp_path, avazu, [column("id", "meta", "int", remap=False), column("C1")], label="click")
    params |= {"valid_size": valid, "test_size": test, "split_type": split_type, "seed": 3}
    params |= {} if valid else {"valid_data": None}
    params |= {} if test else {"test_data": None}
    ours = encode_fields(params)
    np.random.seed(3)  # noqa: NPY002 -- what FuxiCTR shuffles with
    theirs = split_train_test(pd.read_csv(params["train_data"]), None, None, valid, test, split_type)
    for split, table in zip(("train", "valid", "test"), theirs):
        if table is None:
            assert not ours.get(f"{split}_data")
        else:
            assert pl.read_parquet(ours[f"{split}_data"])["id"].to_list() == sorted(table["id"])
    if split_type == "random":
        other = pl.read_parquet(encode_fields({**params, "seed": 4})["train_data"])
        assert other["id"].to_list() != sorted(theirs[0]["id"])


def test_rows_split_off_several_files(tmp_path):
    params = setting(tmp_path, avazu, [column("id", "meta", "int", remap=False), column("C1")], label="click")
    table = pl.read_csv(params["train_data"], infer_schema=False)
    (tmp_path / "parts").mkdir()
    for name, part in (("a", table[:250]), ("b", table[250:])):
        part.write_csv(tmp_path / "parts" / f"{name}.csv")
    params |= {"train_data": str(tmp_path / "parts"), "valid_size": 100, "valid_data": None, "test_data": None}
    ours = encode_fields(params)
    assert pl.read_parquet(ours["valid_data"])["id"].to_list() == list(range(200, 300))
    assert pl.read_parquet(ours["train_data"])["id"].to_list() == list(range(200))
    bad = table.with_columns(pl.when(pl.col("id") == "270").then(pl.lit("x")).otherwise("id").alias("id"))
    bad[250:].write_csv(tmp_path / "parts" / "b.csv")
    with pytest.raises(DataError, match=r"b\.csv, column 'id', row 20: .* found 'x'"):
        encode_fields(params)
    with pytest.raises(ConfigError, match="valid_size: expected it to take at least one of the 300 rows"):
        encode_fields({**params, "valid_size": 300})


def test_one_file_for_validation_and_test(tmp_path):
    params = setting(tmp_path, avazu, [column("C1")], label="click")
    params["valid_data"] = params["test_data"]
    ours = encode_fields(params)
    assert pl.read_parquet(ours["valid_data"]).equals(pl.read_parquet(ours["test_data"]))


@pytest.mark.parametrize(("layout", "source"), [("row", "user_id"), ("user", "user_index")])
def test_a_copy_in_rows_with_an_item_table(tmp_path, layout, source):
    small = DataSet(tmp_path, layout)
    copy = column("group_id", "meta", "int", preprocess=f"copy_from({source})")
    params = {**small.params, "feature_cols": [*small.params["feature_cols"], copy], "group_id": "group_id"}
    dataset = Dataset(params)
    for split, rows in small.rows.items():
        assert dataset.group_ids(split).tolist() == list(rows[source])
    batch = next(iter(dataset.loader("train", shuffle=False)))
    assert batch.rows["group_id"].tolist() == batch.rows[source].tolist()
    with pytest.raises(DataError, match="expected a column 'usr'"):
        Dataset({**params, "feature_cols": [*small.params["feature_cols"], {**copy, "preprocess": "copy_from(usr)"}]})


def test_a_column_that_is_there_is_no_copy(tmp_path):
    """As in FuxiCTR, whose preprocessing leaves encoded files alone."""
    small = DataSet(tmp_path, "row")
    columns = [c for c in small.params["feature_cols"] if "user_id" not in c["name"]]
    columns += [column("item_seq", "meta", "int"), column("user_id", "meta", "int", preprocess="copy_from(item_id)")]
    dataset = Dataset({**small.params, "feature_cols": columns, "group_id": "user_id"})
    assert dataset.group_ids("train").tolist() == list(small.rows["train"]["user_id"])


@pytest.mark.parametrize("name", CSV)
def test_leaderboard_datasets_are_encoded_as_fuxictr_does(name, tmp_path):
    """The blocks of dataset_configs/, on files in the public columns."""
    blocks = {}
    for file in ("sequences", "fields"):
        blocks |= yaml.safe_load((REPOSITORY / "dataset_configs" / f"{file}.yaml").read_text())
    params = relocate({**blocks[name], "dataset_id": name}, write_public(name, tmp_path / "files", 600))
    params |= {"data_root": str(tmp_path / "ours")}
    processor = name.partition("_x4")[0].partition("_x1")[0].lower()
    assert_encoded_alike(encode_fields(params), params, tmp_path / "theirs", processor if processor in KINDS else "")


def test_feature_specs_beside_feature_cols_and_lists_as_dtype(tmp_path):
    """FuxiCTR's demos: what a feature is encoded as, and how a run uses it, said in two places."""
    parts = tmp_path / "parts"
    parts.mkdir()
    for split in ("train", "valid"):
        g = np.random.default_rng(4)
        lists = {"tags": [[1, 2], [], [2, 3, 1]] * 20, "vector": g.normal(size=(60, 4)).tolist()}
        pl.DataFrame({"label": [0, 1] * 30, **lists}).write_parquet(parts / f"{split}.parquet")
    params = {
        "dataset_id": "d", "data_root": str(tmp_path / "ours"), "data_format": "parquet",
        "train_data": str(parts / "train.parquet"), "valid_data": str(parts / "valid.parquet"),
        "feature_cols": [column("tags", "sequence", "list"), column("vector", "embedding", "list", pretrain_dim=4)],
        "label_col": {"name": "label", "dtype": "float"}, "embedding_dim": 4,
    }  # fmt: skip
    assert_encoded_alike(encode_fields(params), params, tmp_path / "theirs")
    specs = [{"name": "tags", "feature_encoder": "layers.MaskedSumPooling()"}]
    assert Dataset({**params, "feature_specs": specs}).feature_map.features["tags"]["feature_encoder"] == (
        "layers.MaskedSumPooling()"
    )
