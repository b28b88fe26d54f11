import copy
import json
import subprocess
import sys

import pytest
from data_path_files import ITEMS, DataSet, write

from qin_zoo.data.feature_map import FeatureMap, build_feature_map, load_feature_map
from qin_zoo.data.item_layout import open_data
from qin_zoo.errors import ConfigError, DataError, QinZooError

MICROLENS = {
    "dataset_id": "MicroLens_1M_x1",
    "data_root": "../data/",
    "feature_cols": [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "item_seq", "active": True, "dtype": "int", "type": "meta"},
        {"name": ["likes_level", "views_level"], "active": True, "dtype": "int", "type": "categorical",
         "vocab_size": 11},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item",
         "vocab_size": 91718},
        {"name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "source": "item", "max_len": 5,
         "vocab_size": 11740},
        {"name": "item_emb_d128", "active": True, "dtype": "float", "type": "embedding", "source": "item",
         "embedding_dim": 128, "pretrain_dim": 128},
    ],
    "label_col": {"name": "label", "active": True, "dtype": "float"},
    "group_id": "user_id",
    "embedding_dim": 64,
}  # fmt: skip


def changed(params, feature, **change):
    params = copy.deepcopy(params)
    for column in params["feature_cols"]:
        if column["name"] == feature:
            column.update(change)
            for key in [k for k, v in change.items() if v == "remove"]:
                del column[key]
    return params


def refused(kind, params, *words, data=None):
    with pytest.raises(kind) as error:
        build_feature_map(params, data)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_a_complete_configuration_needs_no_data():
    fm = build_feature_map(MICROLENS)
    pooling = "layers.MaskedAveragePooling()"
    assert list(fm.features.items()) == [
        ("user_id", {"source": "", "type": "meta"}),
        ("item_seq", {"source": "", "type": "meta"}),
        ("likes_level", {"source": "", "type": "categorical", "vocab_size": 11, "padding_idx": 0}),
        ("views_level", {"source": "", "type": "categorical", "vocab_size": 11, "padding_idx": 0}),
        ("item_id", {"source": "item", "type": "categorical", "vocab_size": 91718, "padding_idx": 0}),
        ("item_tags", {"source": "item", "type": "sequence", "vocab_size": 11740, "max_len": 5, "padding_idx": 0,
                       "feature_encoder": pooling}),
        ("item_emb_d128", {"source": "item", "type": "embedding", "embedding_dim": 128, "pretrain_dim": 128}),
    ]  # fmt: skip
    assert isinstance(fm, FeatureMap)
    assert (fm.dataset_id, fm.data_dir) == ("MicroLens_1M_x1", "../data/MicroLens_1M_x1")
    assert (fm.labels, fm.group_id, fm.default_emb_dim) == (["label"], "user_id", 64)
    assert (fm.num_fields, fm.total_features) == (5, 11 + 11 + 91718 + 11740)
    assert fm.sum_emb_out_dim("item") == 64 + 64 + 128
    assert fm.column_index["label"] == fm.input_length == 2 + 2 + 1 + 5 + 128


def test_it_equals_what_fuxictr_makes_of_the_same_features(tmp_path):
    """Saved and loaded by FuxiCTR, the feature map stays what it is."""
    ours = build_feature_map(MICROLENS)
    ours.save(str(tmp_path / "MicroLens_1M_x1" / "feature_map.json"))
    theirs = FeatureMap("MicroLens_1M_x1", "../data/MicroLens_1M_x1")
    theirs.load(str(tmp_path / "MicroLens_1M_x1" / "feature_map.json"), MICROLENS)
    assert vars(theirs) == vars(ours)


@pytest.mark.parametrize("kind", ["numeric", "cyclic", "autodis"])
def test_a_number_is_one_feature_as_fuxictr_counts(kind):
    sizes = {"cyclic": {"period": 24}, "autodis": {"bins": 8}}.get(kind, {})
    number = {"name": "hour", "active": True, "dtype": "float", "type": kind, **sizes}
    fm = build_feature_map({**MICROLENS, "feature_cols": [*MICROLENS["feature_cols"], number]})
    assert fm.total_features == build_feature_map(MICROLENS).total_features + 1


def test_null_encoders():
    for null in (None, "null", "None", "none"):
        fm = build_feature_map(changed(MICROLENS, "item_tags", feature_encoder=null))
        assert "feature_encoder" not in fm.features["item_tags"]
    fm = build_feature_map(changed(MICROLENS, "item_tags", feature_encoder=["layers.MaskedSumPooling()"]))
    assert fm.features["item_tags"]["feature_encoder"] == ["layers.MaskedSumPooling()"]


def test_a_feature_of_rows_and_items():
    """Given once for each, it is one feature, where it first stands, with one table under its name."""
    levels = {"name": ["likes_level", "views_level"], "dtype": "int", "type": "categorical", "vocab_size": 11}
    both = {**MICROLENS, "feature_cols": [*MICROLENS["feature_cols"], {**levels, "source": "item"}]}
    fm, plain = build_feature_map(both), build_feature_map(MICROLENS)
    assert fm.features["likes_level"] == {**plain.features["likes_level"], "of_items": True}
    assert list(fm.features) == list(plain.features)
    assert fm.total_features == plain.total_features
    refused(ConfigError, {**both, "feature_cols": [*both["feature_cols"], {**levels, "source": "item"}]}, "twice")
    other = {**levels, "source": "item", "vocab_size": 12}
    refused(ConfigError, {**both, "feature_cols": [*MICROLENS["feature_cols"], other]}, "vocab_size 11", "12")


@pytest.mark.parametrize(
    ("feature", "key"), [("item_id", "vocab_size"), ("item_tags", "vocab_size"), ("item_emb_d128", "pretrain_dim")]
)
def test_a_missing_size_without_data(feature, key):
    refused(ConfigError, changed(MICROLENS, feature, **{key: "remove"}), f"'{feature}'", key, "no data")


@pytest.mark.parametrize(
    ("feature", "change", "words"),
    [
        ("item_id", {"type": "categorial"}, ["'item_id'", "'categorial'", "Did you mean 'categorical'"]),
        ("item_id", {"type": None}, ["type"]),
        ("item_id", {"vocab_size": 0}, ["vocab_size", "found 0"]),
        ("item_id", {"vocab_size": "91718"}, ["vocab_size", "'91718'"]),
        ("item_id", {"vocab_size": True}, ["vocab_size", "True"]),
        ("item_id", {"embedding_dim": -1}, ["embedding_dim", "-1"]),
        ("item_id", {"vocabsize": 3}, ["unknown key 'vocabsize'", "Did you mean 'vocab_size'"]),
        ("item_id", {"pretrained_emb": "x.npz"}, ["pretrained_emb"]),
        ("item_id", {"share_embedding": "item_tags"}, ["share_embedding", "item_tags", "earlier"]),
        ("item_id", {"share_embedding": "user_id"}, ["share_embedding"]),
        ("item_id", {"name": "item_tags"}, ["'item_tags'", "twice"]),
        ("item_id", {"name": 3}, ["3"]),
        ("item_id", {"source": ["item"]}, ["source"]),
        ("item_tags", {"feature_encoder": "__import__('os')"}, ["'item_tags'", "feature_encoder"]),
        ("item_tags", {"max_len": -5}, ["max_len"]),
        ("item_emb_d128", {"pretrain_dim": 1.5}, ["pretrain_dim"]),
    ],
)
def test_bad_features(feature, change, words):
    refused(ConfigError, changed(MICROLENS, feature, **change), *words)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_cols": None},
        {"feature_cols": []},
        {"feature_cols": ["item_id"]},
        {"feature_cols": [{"type": "meta"}]},
        {"dataset_id": None},
        {"label_col": None},
        {"label_col": []},
        {"label_col": {"dtype": "float"}},
    ],
)
def test_bad_configurations(change):
    refused(ConfigError, {**MICROLENS, **change})


def test_use_features_and_feature_specs():
    params = {
        **MICROLENS,
        "use_features": ["item_tags", "user_id"],
        "feature_specs": [{"name": ["item_tags"], "embedding_dim": 7}],
    }
    fm = build_feature_map(params)
    assert list(fm.features) == ["item_tags", "user_id"]
    assert fm.features["item_tags"]["embedding_dim"] == 7
    refused(ConfigError, {**params, "use_features": ["item_tagz"]}, "'item_tagz'", "Did you mean 'item_tags'")
    refused(ConfigError, {**params, "feature_specs": [{"name": "item_id", "embedding_dim": 7}]}, "'item_id'")
    evil = [{"name": "item_tags", "feature_encoder": "exit()"}]
    refused(ConfigError, {**params, "feature_specs": evil}, "feature_encoder")


def test_shared_embeddings_take_the_larger_size():
    params = copy.deepcopy(MICROLENS)
    for name, size in (("last_tag", 20000), ("first_tag", None)):
        shared = {"name": name, "type": "categorical", "share_embedding": "item_tags"}
        params["feature_cols"].append(shared | ({"vocab_size": size} if size else {}))
    fm = build_feature_map(params)
    assert {fm.features[n]["vocab_size"] for n in ("item_tags", "last_tag", "first_tag")} == {20000}
    assert fm.total_features == 11 + 11 + 91718 + 20000


# -- with data -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["row", "user"])
def small(request, tmp_path):
    return DataSet(tmp_path, request.param)


def test_missing_sizes_come_from_the_data(small):
    fm = build_feature_map(small.params, open_data(small.params))
    greatest = max(max(rows["likes_level"]) for rows in small.rows.values())
    assert fm.features["likes_level"]["vocab_size"] == greatest + 1
    assert fm.features["item_id"]["vocab_size"] == ITEMS
    assert fm.features["item_tags"]["vocab_size"] == max(max(t, default=0) for t in small.items["item_tags"]) + 1
    assert fm.features["item_tags"]["max_len"] == 5
    assert fm.features["item_emb"]["pretrain_dim"] == 3


def test_a_missing_max_len_comes_from_the_data(small):
    fm = build_feature_map(changed(small.params, "item_tags", max_len="remove"), open_data(small.params))
    assert fm.features["item_tags"]["max_len"] == max(len(t) for t in small.items["item_tags"])


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_vocabulary_smaller_than_the_data_of_any_split(tmp_path, split):
    small = DataSet(tmp_path)
    small.rows[split]["likes_level"][17] = 23
    write(tmp_path / f"{split}.parquet", small.rows[split])
    params = changed(small.params, ["likes_level", "views_level"], vocab_size=23)
    words = ("'likes_level'", "23", "row 17", "vocab_size", str(tmp_path / f"{split}.parquet"))
    refused(DataError, params, *words, data=open_data(params))
    fine = changed(small.params, ["likes_level", "views_level"], vocab_size=24)
    assert build_feature_map(fine, open_data(fine)).features["likes_level"]["vocab_size"] == 24


@pytest.mark.parametrize(("feature", "size"), [("item_id", ITEMS - 1), ("item_tags", 3)])
def test_a_vocabulary_smaller_than_the_item_table(small, feature, size):
    params = changed(small.params, feature, vocab_size=size)
    refused(DataError, params, f"'{feature}'", f"below {size}", "item_info.parquet", data=open_data(params))


def test_pretrain_dim_disagrees_with_the_data(small):
    params = changed(small.params, "item_emb", pretrain_dim=4)
    refused(DataError, params, "'item_emb'", "4", "found 3", "item_info.parquet", data=open_data(params))


@pytest.mark.parametrize("column", ["item_id", "item_seq"])
def test_item_ids_beyond_the_item_table(tmp_path, column):
    small = DataSet(tmp_path)
    small.rows["valid"][column][5] = ITEMS if column == "item_id" else [1, ITEMS]
    write(tmp_path / "valid.parquet", small.rows["valid"])
    words = ("valid.parquet", f"'{column}'", "row 5", f"found {ITEMS}", "item_info.parquet")
    refused(DataError, small.params, *words, data=open_data(small.params))


def test_item_info_beside_the_data(tmp_path):
    small = DataSet(tmp_path)
    del small.params["item_info"]
    assert open_data(small.params).items.num_rows == ITEMS
    (tmp_path / "item_info.parquet").unlink()
    with pytest.raises(DataError, match=r"item_info\.parquet: no item table"):
        open_data(small.params)


# -- feature_map.json ------------------------------------------------------------------------------------------------

CLASSIC = {
    "dataset_id": "classic",
    "num_fields": 4,
    "total_features": 40,
    "input_length": 9,
    "labels": ["clk"],
    "features": [
        {"userid": {"type": "meta"}},
        {"item": {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": 20}},
        {"clicks": {"source": "", "type": "sequence", "share_embedding": "item", "padding_idx": 0, "vocab_size": 20,
                    "max_len": 5, "feature_encoder": "layers.MaskedAveragePooling()"}},
        {"price": {"source": "", "type": "numeric"}},
        {"emb": {"source": "", "type": "embedding", "pretrain_dim": 2}},
    ],
}  # fmt: skip


def classic_file(tmp_path, **change):
    path = tmp_path / "classic" / "feature_map.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**CLASSIC, **change}))
    return path


def test_load_equals_fuxictr(tmp_path):
    path = classic_file(tmp_path)
    params = {
        "dataset_id": "classic",
        "group_id": "userid",
        "embedding_dim": 6,
        "use_features": ["item", "clicks", "emb"],
        "feature_specs": [{"name": "item", "embedding_dim": 3}],
    }
    theirs = FeatureMap("classic", str(path.parent))
    theirs.load(str(path), params)
    assert vars(load_feature_map(path, params)) == vars(theirs)
    assert load_feature_map(path, {"dataset_id": "classic"}).features["userid"] == {"type": "meta", "source": ""}


def test_tiny_seq(tiny_seq):
    fm = load_feature_map(tiny_seq / "feature_map.json", {"dataset_id": "tiny_seq", "embedding_dim": 4})
    assert fm.labels == ["clk"]
    assert fm.num_fields == 15
    assert fm.features["click_sequence"]["share_embedding"] == "adgroup_id"


def with_feature(**spec):
    return {"features": [{"item": {"type": "categorical", "vocab_size": 3, **spec}}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_feature(type="text"), ["'item'", "'text'"]),
        (with_feature(vocab_size=0), ["'item'", "vocab_size", "0"]),
        (with_feature(vocab_size="3"), ["vocab_size"]),
        (with_feature(vocab_size=None), ["'item'", "vocab_size"]),
        (with_feature(type="sequence"), ["'item'", "max_len"]),
        (with_feature(type="embedding"), ["'item'", "pretrain_dim"]),
        (with_feature(feature_encoder="__import__('os').abort()"), ["'item'", "feature_encoder"]),
        (with_feature(feature_encoder=["exit()"]), ["feature_encoder"]),
        ({"features": {"item": {}}}, ["list of features"]),
        ({"features": [3]}, ["3"]),
        ({"features": [{"item": None}]}, ["'item'"]),
        ({"labels": "clk"}, ["labels"]),
        ({"dataset_id": "other"}, ["'classic'", "'other'"]),
    ],
)
def test_bad_feature_maps(tmp_path, change, words):
    path = classic_file(tmp_path, **change)
    with pytest.raises(QinZooError) as error:
        load_feature_map(path, {"dataset_id": "classic"})
    for word in (str(path), *words):
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"use_features": ["itm"]}, "Did you mean 'item'"),
        ({"feature_specs": [{"name": "itm", "embedding_dim": 2}]}, "Did you mean 'item'"),
        ({"feature_specs": [{"name": ["item", "clicks"], "feature_encoder": "exit()"}]}, "feature_encoder"),
        ({"feature_specs": [{"name": "item", "vocab_size": -1}]}, "vocab_size"),
        ({"feature_specs": ["item"]}, "feature_specs"),
    ],
)
def test_bad_overrides(tmp_path, params, word):
    with pytest.raises(ConfigError, match=word):
        load_feature_map(classic_file(tmp_path), {"dataset_id": "classic", **params})


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_feature_map(tmp_path / "none.json", {"dataset_id": "classic"})
    (tmp_path / "bad.json").write_text("{'a': 1}")
    with pytest.raises(DataError, match="expected JSON"):
        load_feature_map(tmp_path / "bad.json", {"dataset_id": "classic"})
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="list of features"):
        load_feature_map(tmp_path / "list.json", {"dataset_id": "classic"})


def test_nothing_heavy_is_imported():
    code = (
        "import sys, qin_zoo.data.loader, qin_zoo.data.feature_map;"
        "sys.exit(any(m in sys.modules for m in ('ray', 'pandas', 'matplotlib', 'fuxictr.pytorch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ids_that_leave_most_of_their_table_unused(tmp_path):
    from data_path_files import DataSet, write

    from qin_zoo.data.item_layout import open_data

    small = DataSet(tmp_path)
    for split, rows in small.rows.items():
        sparse = [i * 6_000_000 for i in range(len(rows["item_id"]))]
        write(tmp_path / f"{split}.parquet", {**rows, "likes_level": sparse})
    params = small.params
    with pytest.raises(DataError, match=r"'likes_level': .*found 312000000 among 159 values.*set its vocab_size"):
        build_feature_map(params, open_data(params))
    given = [{**c, "vocab_size": 312_000_001} if "likes_level" in c["name"] else c for c in params["feature_cols"]]
    found = build_feature_map({**params, "feature_cols": given}, open_data(params))
    assert found.features["likes_level"]["vocab_size"] == 312_000_001
