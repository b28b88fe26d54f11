import csv
import importlib.util
import json
import os
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin_zoo.data.dataset import Dataset, open_feature_map, relocate
from qin_zoo.data.encode import encode_fields, find_encoded, is_raw
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.fuxi import FeatureMap

COLUMNS = [
    {"name": "user", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "group", "active": True, "dtype": "int", "type": "meta"},
    {"name": "raw_group", "active": True, "dtype": "int", "type": "meta", "remap": False},
    {"name": "level", "active": True, "dtype": "int", "type": "categorical", "min_categr_count": 1},
    {"name": "item", "active": True, "dtype": "str", "type": "categorical", "embedding_dim": 8},
    {
        "name": "clicks", "active": True, "dtype": "str", "type": "sequence", "splitter": "^", "max_len": 4,
        "padding": "pre", "share_embedding": "item", "feature_encoder": None,
    },
    {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "splitter": "|"},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
    {"name": "age", "active": True, "dtype": "int", "type": "numeric", "normalizer": "MinMaxScaler", "fill_na": 18},
    {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "embedding_dim": 4},
    {"name": "unused", "active": False, "dtype": "str", "type": "categorical"},
]  # fmt: skip


def frame(rows, seed):
    g = np.random.default_rng(seed)

    def words(prefix, n, size=None):
        return [f"{prefix}{i}" for i in g.integers(0, n, size)] if size else f"{prefix}{g.integers(0, n)}"

    return pl.DataFrame(
        {
            "user": [None if i % 11 == 3 else words("u", 9) for i in range(rows)],
            "group": g.integers(-3, 12, rows),
            "raw_group": g.integers(0, 99, rows),
            "level": [None if i % 7 == 2 else int(g.integers(0, 5)) * 10 for i in range(rows)],
            "item": words("i", 20, rows),
            "clicks": ["^".join(words("i", 26, n)) if n else None for n in g.integers(0, 7, rows)],
            "tags": ["|".join(words("t", 4, n)) if n else "" for n in g.integers(0, 4, rows)],
            "price": [None if i % 13 == 5 else float(g.normal(5, 3)) for i in range(rows)],
            "age": [None if i % 9 == 1 else int(g.integers(10, 80)) for i in range(rows)],
            "emb": ["^".join(f"{v:.3f}" for v in g.normal(size=3)) for _ in range(rows)],
            "extra": words("x", 3, rows),
            "clk": g.integers(0, 2, rows),
        }
    )


def setting(folder, data_format="csv", columns=COLUMNS, **more):
    frames = {"train": frame(120, 0), "valid": frame(40, 1), "test": frame(30, 2).drop("clk")}
    for name, data in frames.items():
        if data_format == "csv":
            data.write_csv(folder / f"{name}.csv")
        else:
            split = pl.col("clicks").fill_null("").str.split("^"), pl.col("tags").str.split("|")
            vectors = pl.col("emb").str.split("^").list.eval(pl.element().cast(pl.Float32))
            data.with_columns(*split, vectors).write_parquet(folder / f"{name}.parquet")
    paths = {f"{name}_data": str(folder / f"{name}.{data_format}") for name in frames}
    return frames, {
        "dataset_id": "fields", "data_root": str(folder / "root"), "data_format": data_format, **paths,
        "min_categr_count": 2, "feature_cols": columns, "label_col": {"name": "clk", "dtype": "float"}, **more,
    }  # fmt: skip


def tokenizer_class():
    file = Path(importlib.util.find_spec("fuxictr").origin).parent / "preprocess" / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("fuxictr_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # the package itself imports Ray
    return module.Tokenizer


def fuxictr_reference(frames):
    """What FuxiCTR's Tokenizer makes of the same values."""
    tokenizer = tokenizer_class()

    def built(values, **options):
        t = tokenizer(na_value="", **options)
        t.build_vocab(Counter(values))
        return t

    text = {n: {s: f[n].fill_null("").to_list() for s, f in frames.items()} for n in ("user", "item", "clicks", "tags")}
    level = {s: f["level"].fill_null(0).to_list() for s, f in frames.items()}
    group = {s: f["group"].to_list() for s, f in frames.items()}
    user, item = built(text["user"]["train"], min_freq=2), built(text["item"]["train"], min_freq=2)
    clicks = built([w for r in text["clicks"]["train"] for w in r.split("^")], min_freq=2, splitter="^", max_len=4)
    clicks.merge_vocab(item)
    longest = max(len(r.split("|")) for r in text["tags"]["train"])
    tags = built(
        [w for r in text["tags"]["train"] for w in r.split("|")],
        min_freq=2, splitter="|", max_len=longest, padding="post",
    )  # fmt: skip
    levels, groups = built(level["train"], min_freq=1), built([v for s in group.values() for v in s])
    vocab = {"user": user, "level": levels, "item": item, "clicks": clicks, "tags": tags}
    encoded = {
        s: {
            "user": user.encode_category(text["user"][s]),
            "group": groups.encode_category(group[s]),
            "raw_group": frames[s]["raw_group"].to_list(),
            "level": levels.encode_category(level[s]),
            "item": item.encode_category(text["item"][s]),
            "clicks": clicks.encode_sequence(text["clicks"][s]).tolist(),
            "tags": tags.encode_sequence(text["tags"][s]).tolist(),
        }
        for s in frames
    }
    return {n: {str(k): v for k, v in t.vocab.items()} for n, t in vocab.items()}, encoded, longest


@pytest.mark.parametrize("data_format", ["csv", "parquet"])
def test_ids_and_vocabularies_are_those_of_fuxictr(tmp_path, data_format):
    frames, params = setting(tmp_path, data_format)
    encoded = encode_fields(params)
    vocabularies, ids, longest = fuxictr_reference(frames)
    entry = Path(encoded["train_data"]).parent
    assert entry.parent == tmp_path / "root" / "fields"
    assert json.loads((entry / "feature_vocab.json").read_text()) == vocabularies
    for split, columns in ids.items():
        found = pl.read_parquet(encoded[f"{split}_data"])
        for name, values in columns.items():
            assert found[name].to_list() == values, (split, name)
    feature_map = FeatureMap("fields", str(entry))
    feature_map.load(encoded["feature_map_json"], {"embedding_dim": 16})
    size = {n: max(v.values()) + 1 for n, v in vocabularies.items()}
    pooling = "layers.MaskedAveragePooling()"
    categorical = {"source": "", "type": "categorical", "padding_idx": 0}
    sequence = {"source": "", "type": "sequence", "padding_idx": 0}
    assert dict(feature_map.features) == {
        "user": {**categorical, "vocab_size": size["user"]},
        "group": {"type": "meta"},
        "raw_group": {"type": "meta"},
        "level": {**categorical, "vocab_size": size["level"]},
        "item": {**categorical, "embedding_dim": 8, "vocab_size": size["item"]},
        "clicks": {**sequence, "share_embedding": "item", "max_len": 4, "vocab_size": size["item"]},
        "tags": {**sequence, "feature_encoder": pooling, "max_len": longest, "vocab_size": size["tags"]},
        "price": {"source": "", "type": "numeric"},
        "age": {"source": "", "type": "numeric"},
        "emb": {"source": "", "type": "embedding", "embedding_dim": 4, "pretrain_dim": 3},
    }
    assert feature_map.num_fields == 8
    assert feature_map.total_features == 2 + sum(size[n] for n in ("user", "level", "item", "tags"))
    assert feature_map.labels == ["clk"]


def test_numbers_are_scaled_by_the_training_rows(tmp_path):
    frames, params = setting(tmp_path)
    encoded = encode_fields(params)
    price, age = (frames["train"][n].fill_null(v).to_numpy().astype(float) for n, v in (("price", 0), ("age", 18)))
    for split, data in frames.items():
        found = pl.read_parquet(encoded[f"{split}_data"])
        want = (data["price"].fill_null(0).to_numpy() - price.mean()) / price.std()
        np.testing.assert_allclose(found["price"].to_numpy(), want, rtol=1e-5, atol=1e-6)
        want = (data["age"].fill_null(18).to_numpy() - age.min()) / (age.max() - age.min())
        np.testing.assert_allclose(found["age"].to_numpy(), want, rtol=1e-5, atol=1e-6)
        want = [[float(v) for v in row.split("^")] for row in data["emb"]]
        np.testing.assert_allclose(np.stack(found["emb"].to_list()), want, rtol=1e-6)


def test_a_dataset_opens_and_batches(tmp_path):
    frames, params = setting(tmp_path, group_id="group", batch_size=50, shuffle=False)
    dataset = Dataset(params)
    assert dataset.rows("train") == 120
    assert dataset.has_labels("valid")
    assert not dataset.has_labels("test")
    batch = next(iter(dataset.loader("train")))
    assert batch["clicks"].shape == (50, 4)
    assert batch["emb"].shape == (50, 3)
    assert batch["clk"].tolist() == frames["train"]["clk"].to_list()[:50]
    assert dataset.labels("valid").tolist() == frames["valid"]["clk"].to_list()
    assert len(dataset.group_ids("train")) == 120
    assert open_feature_map(params).features == dataset.feature_map.features


def test_a_rerun_uses_what_is_there_until_something_changes(tmp_path):
    _, params = setting(tmp_path)
    assert is_raw(params)
    assert find_encoded(params) is None
    first = encode_fields(params)
    assert not is_raw(first)
    assert encode_fields(first) == first
    stamp = os.stat(first["train_data"]).st_mtime_ns
    assert encode_fields(params) == first == find_encoded(params)
    assert os.stat(first["train_data"]).st_mtime_ns == stamp
    other = encode_fields({**params, "min_categr_count": 5})
    assert other["train_data"] != first["train_data"]
    assert Path(first["train_data"]).exists()
    frame(60, 9).write_csv(params["valid_data"])
    again = encode_fields(params)
    assert pl.read_parquet(again["valid_data"]).height == 60
    assert not Path(first["train_data"]).exists()  # of the earlier version of the files
    assert not [p for p in (tmp_path / "root" / "fields").iterdir() if p.name.startswith(".tmp")]


def test_files_that_are_encoded_already_are_left_alone(tmp_path):
    _, params = setting(tmp_path)
    for same in (
        {**params, "data_format": "npz"},
        {**params, "data_format": "parquet", "rebuild_dataset": False},
        {k: v for k, v in params.items() if k != "feature_cols"},
    ):
        assert encode_fields(same) == same


def test_raw_parquet_beside_a_stale_feature_map_is_told(tmp_path, caplog):
    _, params = setting(tmp_path, "parquet")
    stale = tmp_path / "root/fields/feature_map.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    assert encode_fields(params) == params  # as FuxiCTR, which encodes nothing where there is a feature map
    assert "train.parquet is taken for encoded" in caplog.text
    caplog.clear()
    encode_fields({**params, "train_data": str(stale.parent / "train.parquet")})
    encode_fields({**params, "rebuild_dataset": False})
    assert not caplog.messages
    assert encode_fields({**params, "rebuild_dataset": True}) != params


def test_what_an_older_encoding_does_not_know_is_fitted(tmp_path, caplog):
    """A sequence, scales and boundaries; what it knows stays, though the training rows are others."""
    bucket = {"name": "part", "active": True, "dtype": "float", "type": "categorical", "preprocess": "copy_from(price)",
              "category_processor": "quantile_bucket", "num_buckets": 4}  # fmt: skip
    old = [c for c in COLUMNS if c["name"] in ("user", "item", "price")]
    _, params = setting(tmp_path, columns=old)
    kept = Path(encode_fields(params)["train_data"]).with_name("encoder.json")
    frames, params = setting(tmp_path, columns=[*COLUMNS, bucket])
    train = frames["train"] = frames["train"].filter(pl.col("price").is_not_null())
    train.write_csv(params["train_data"])
    encoded = encode_fields({**params, "encoder_file": str(kept)})
    got = pl.read_parquet(encoded["train_data"])
    age, price = train["age"].fill_null(18).to_numpy(), train["price"].to_numpy()
    then = frame(120, 0)["price"].fill_null(0).to_numpy()
    np.testing.assert_allclose(got["price"], (price - then.mean()) / then.std(), rtol=1e-5)
    np.testing.assert_allclose(got["age"], (age - age.min()) / (age.max() - age.min()), rtol=1e-5)
    assert got["part"].to_list() == np.digitize(price, np.percentile(price, [25, 50, 75])).tolist()
    assert set(got["clicks"].list.len()) == {4}
    told = [message for message in caplog.messages if "encoder_file knows nothing of" in message]
    assert sorted(message.split("'")[1] for message in told) == ["age", "clicks", "level", "part", "tags"]


def test_folders_of_files_and_names_without_suffix(tmp_path):
    frames, params = setting(tmp_path)
    whole = pl.read_parquet(encode_fields(params)["train_data"])
    (tmp_path / "parts").mkdir()
    frames["train"][:70].write_csv(tmp_path / "parts" / "a.csv")
    frames["train"][70:].select(sorted(frames["train"].columns)).write_csv(tmp_path / "parts" / "b.csv")
    valid = params["valid_data"].removesuffix(".csv")
    parts = encode_fields({**params, "train_data": str(tmp_path / "parts"), "valid_data": valid})
    assert pl.read_parquet(parts["train_data"]).equals(whole)


@pytest.mark.parametrize(
    ("files", "moved"),
    [
        (["d/train.csv", "/abs/d/valid.csv", "x/test.csv"], ["train.csv", "valid.csv", "test.csv"]),
        (["d/train/p.csv", "d/valid/p.csv", "d/x/test/p.csv"], ["train/p.csv", "valid/p.csv", "x/test/p.csv"]),
        (["d/train/*.csv", "d/test/*.csv", "d/valid.csv"], ["train/*.csv", "test/*.csv", "valid.csv"]),
        (["d/train.csv", "d/test.csv", "x/../d/test.csv"], ["train.csv", "test.csv", "test.csv"]),
        (["d/train", "d/valid/", "d/test"], ["train", "valid", "test"]),
    ],
)  # fmt: skip
def test_files_in_another_folder_stay_apart(tmp_path, files, moved):
    params = dict(zip(("train_data", "valid_data", "test_data"), files))
    vectors = [{"name": "item", "pretrained_emb": f"v/{name}/emb.npz"} for name in "ab"]
    found = relocate({**params, "feature_cols": vectors}, tmp_path)
    assert [found[key] for key in params] == [str(tmp_path / name) for name in moved]
    assert [c["pretrained_emb"] for c in found["feature_cols"]] == [str(tmp_path / f"{name}/emb.npz") for name in "ab"]


def test_vocabularies_that_keep_their_numbers_and_chains_of_sharing(tmp_path):
    pl.DataFrame({"a": ["7", "3", "3"], "b": ["4^3", "", "9"], "c": ["x^4", "1", "2"], "clk": [0, 1, 0]}).write_csv(
        tmp_path / "train.csv"
    )
    kept = {"type": "categorical", "dtype": "int", "remap": False, "name": "a"}
    one = {"type": "sequence", "name": "b", "remap": False, "share_embedding": "a"}
    params = {
        "dataset_id": "d", "data_root": str(tmp_path), "train_data": str(tmp_path / "train.csv"),
        "label_col": {"name": "clk"},
    }  # fmt: skip
    encoded = encode_fields({**params, "feature_cols": [kept, one]})
    data = pl.read_parquet(encoded["train_data"])
    assert data["a"].to_list() == [7, 3, 3]
    assert data["b"].to_list() == [[4, 3], [0, 0], [9, 0]]
    assert open_feature_map(encoded).features["a"]["vocab_size"] == 11

    columns = [{"type": "categorical", "name": "a"}, {"type": "sequence", "name": "b", "share_embedding": "a"}]
    columns += [{"type": "sequence", "name": "c", "share_embedding": "b"}]
    encoded = encode_fields({**params, "feature_cols": columns})
    vocabularies = json.loads(Path(encoded["train_data"]).with_name("feature_vocab.json").read_text())
    want = {"__PAD__": 0, "3": 1, "7": 2, "4": 3, "9": 4, "1": 5, "2": 6, "x": 7, "__OOV__": 8}
    assert vocabularies == {"a": want, "b": want, "c": want}
    assert {s["vocab_size"] for s in open_feature_map(encoded).features.values()} == {9}


def edited(params, split, column, row, value):
    path = params[f"{split}_data"]
    data = pl.read_csv(path, infer_schema=False)
    values = data[column].to_list()
    values[row] = value
    data.with_columns(pl.Series(column, values)).write_csv(path)
    return path


@pytest.mark.parametrize(
    ("split", "column", "row", "value", "words"),
    [
        ("train", "price", 7, "cheap", ["a finite number", "'cheap'"]),
        ("valid", "price", 3, "nan", ["a finite number", "'nan'"]),
        ("valid", "price", 4, "inf", ["a finite number"]),
        ("train", "level", 5, "2.5x", ["a whole number", "'2.5x'"]),
        ("train", "raw_group", 5, "g1", ["a whole number", "'g1'"]),
        ("test", "emb", 9, "1^2", ["3 finite numbers", "'1^2'"]),
        ("train", "emb", 9, "1^b^2", ["3 finite numbers"]),
        ("train", "emb", 9, "1^nan^2", ["3 finite numbers"]),
        ("valid", "emb", 0, None, ["3 finite numbers", "nothing"]),
        ("train", "clk", 2, None, ["label", "nothing"]),
        ("train", "clk", 2, "yes", ["label", "'yes'"]),
    ],
)
def test_wrong_values_are_found(tmp_path, split, column, row, value, words):
    _, params = setting(tmp_path)
    path = edited(params, split, column, row, value)
    with pytest.raises(DataError) as error:
        encode_fields(params)
    for word in [path, f"'{column}'", f"row {row}:", *words]:
        assert word in str(error.value)
    folder = tmp_path / "root" / "fields"
    assert not folder.exists() or not list(folder.iterdir())


def test_files_that_cannot_be_used(tmp_path):
    _, params = setting(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        encode_fields({**params, "train_data": str(tmp_path / "absent.csv")})
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        encode_fields({**params, "train_data": str(tmp_path / "empty.csv")})
    frame(5, 0).head(0).write_csv(tmp_path / "header.csv")
    with pytest.raises(DataError, match="at least one row"):
        encode_fields({**params, "train_data": str(tmp_path / "header.csv")})
    frame(5, 0).rename({"price": "prices"}).write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match=r"expected a column 'price'.*Did you mean 'prices'"):
        encode_fields({**params, "valid_data": str(tmp_path / "other.csv")})
    frame(5, 0).drop("clk").write_csv(tmp_path / "blind.csv")
    with pytest.raises(DataError, match="'clk'"):
        encode_fields({**params, "valid_data": str(tmp_path / "blind.csv")})
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet: expected a parquet file"):
        encode_fields({**params, "train_data": str(tmp_path / "bad.parquet"), "data_format": "parquet"})


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("note", "line"),
    [
        (lambda n: '27" tv', 2),
        (lambda n: '27" tv' if n in (7, 9) else "x", 9),
        (lambda n: '"x' if n == 29 else "", 31),
        (lambda n: '"two\nlines, ""b"""' if n % 2 else 'a "b" c', None),
        (lambda n: '"a,""b"' if n % 2 else "", None),
    ],
)
def test_no_row_is_lost_by_a_quote_within_a_field(tmp_path, first, note, line):
    """In a column that is not read, too, where polars takes it for one that hides the ends of lines."""
    _, params = setting(tmp_path)
    file = tmp_path / "test.csv"
    texts, notes = file.read_text().splitlines(), ["note", *(note(n) for n in range(30))]
    file.write_text("".join(f"{a},{b}\n" for a, b in (zip(notes, texts) if first else zip(texts, notes))))
    if line is not None:
        with pytest.raises(DataError, match=rf"test\.csv, line {line}: expected quotes around whole fields"):
            encode_fields(params)
        return
    with open(file, newline="") as lines:
        assert pl.read_parquet(encode_fields(params)["test_data"]).height == len(list(csv.reader(lines))) - 1


@pytest.mark.parametrize("codec", ["gzip", "zstd", "bz2"])
def test_a_compressed_file_is_no_text(tmp_path, codec):
    _, params = setting(tmp_path)
    file = tmp_path / "train.csv"
    with pa.output_stream(file.with_suffix(".x"), compression=codec) as out:
        out.write(file.read_bytes())
    file.with_suffix(".x").replace(file)
    with pytest.raises(DataError, match="a compressed file"):
        encode_fields(params)


def test_offsets_are_no_zones_for_polars(tmp_path):
    """+05:30, as pandas stores it, is the same moment in UTC; in a column that is not read it is no matter."""
    moments, found = pa.array([0, 60, 120, 180], pa.timestamp("s", "UTC")), []
    for zone in ("+05:30", "UTC"):
        params = single(tmp_path, [0, 1], {"type": "categorical", "dtype": "str"}, dataset_id=zone[-3:])
        times = {"x": moments.cast(pa.timestamp("s", zone)), "y": moments.cast(pa.timestamp("us", "-03:00"))}
        pq.write_table(pa.table({**times, "clk": [0, 1, 0, 1]}), tmp_path / "train.parquet")
        found.append(encoded_column(params))
    assert found[0] == found[1] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_processor": "numeric_bucket"}, "quantile_bucket, hash_bucket"),
        ({"type": "numeric", "pretrained_emb": __file__}, "pretrained_emb is for categorical"),
        ({"pretrained_emb": __file__, "pretrain_usage": "mean"}, "init, sum, concat"),
        ({"codes_of": "emb"}, "item table"),
        ({"preprocess": "copy(user)"}, "copy_from"),
        ({"preprocess": "load_pickle(x)"}, "copy_from"),
        ({"normalizer": "Robust"}, "Robust"),
        ({"share_embedding": "item"}, "earlier"),
        ({"type": "categoric"}, "Did you mean 'categorical'"),
        ({"name": "item"}, "twice"),
        ({"feature_encoder": "__import__('os')"}, "refused"),
        ({"dtype": "int", "fill_na": "none"}, "fill_na"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path, change, words):
    _, params = setting(tmp_path, columns=[{**COLUMNS[0], **change}, *COLUMNS[1:]])
    with pytest.raises(ConfigError, match=words):
        encode_fields(params)


def single(folder, values, column, label=None, kind="parquet", **more):
    """The parameters of a dataset of one feature, x: its values in the training rows."""
    table = {"x": values, "clk": label or [0, 1] * (len(values) // 2)}
    getattr(pl.DataFrame(table), f"write_{kind}")(folder / f"train.{kind}")
    return {
        "dataset_id": "d", "data_root": str(folder / "root"), "data_format": kind, "rebuild_dataset": True,
        "train_data": str(folder / f"train.{kind}"), "feature_cols": [{"name": "x", **column}],
        "label_col": {"name": "clk", "dtype": "float"}, **more,
    }  # fmt: skip


def encoded_column(params, name="x"):
    return pl.read_parquet(encode_fields(params)["train_data"])[name].to_list()


NAN = float("nan")
BUCKETS = {"type": "categorical", "dtype": "float", "category_processor": "quantile_bucket", "num_buckets": 2}
PRICE = {"type": "numeric", "dtype": "float"}
VECTOR = {"type": "embedding", "dtype": "float"}
EVENTS = {"type": "sequence", "max_len": 2}
OWN = {"type": "categorical", "dtype": "int", "remap": False}


@pytest.mark.parametrize(
    ("column", "values", "fill", "found"),
    [
        (BUCKETS, [1.0, 2.0, NAN, 4.0], 2, [0, 1, 1, 1]),
        (BUCKETS, ["1", "2", "nan", "4"], 2, [0, 1, 1, 1]),
        (PRICE, [1.0, 2.0, NAN, 4.0], 3, [1, 2, 3, 4]),
        (VECTOR, [[1.0], [2.0], [NAN], [4.0]], 3, [[1], [2], [3], [4]]),
    ],
)
def test_missing_numbers_are_refused_until_fill_na_says_what_they_are(tmp_path, column, values, fill, found):
    params = single(tmp_path, values, column)
    with pytest.raises(DataError, match=r"column 'x', row 2: expected .*finite number.*found .*nan.*or set fill_na"):
        encode_fields(params)
    assert encoded_column({**params, "feature_cols": [{"name": "x", **column, "fill_na": fill}]}) == found


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_nan_among_floats_of_a_category_is_filled(tmp_path, kind):
    column = {"type": "categorical", "dtype": "float", "fill_na": 3}
    assert encoded_column(single(tmp_path, [5.0, NAN, 3.0, 7.0], column, kind=kind)) == [1, 3, 3, 2]


def test_nan_in_a_list_of_floats_is_no_entry(tmp_path):
    values = [[2.0], [NAN], [2.0, NAN], [1.0, 2.0]]
    assert encoded_column(single(tmp_path, values, EVENTS)) == [[1, 0], [0, 0], [1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ({"type": "categorical", "dtype": "int"}, [Decimal("5.0"), Decimal("5.5")], "row 1: expected a whole number"),
        (PRICE, [1.0, 1e39], "row 1: expected a finite number that float32 can hold, found 1e"),
        (VECTOR, [[1.0], [-1e39]], "row 1: expected 1 finite numbers that float32 can hold"),
        ({**VECTOR, "fill_na": 0}, ["1^2", "1^b"], r"row 1: expected 2 finite .* found '1\^b'"),
        (OWN, [0, -1], "row 1: expected a whole number, from 0 on, as remap: False keeps it, found -1"),
        ({**EVENTS, "remap": False}, [[3], [3, -1]], "row 1: expected whole numbers, from 0 on"),
        (PRICE, ["1", "Banana"], "row 1: .* found 'Banana'"),
        ({"type": "categorical", "dtype": "int"}, ["1", "nan"], "row 1: expected a whole number, found 'nan'"),
        ({**EVENTS, "dtype": "int"}, [[1.0], [NAN]], "row 1: expected whole numbers that a float .* found .nan"),
    ],
)
def test_what_no_fill_na_mends(tmp_path, column, values, words):
    with pytest.raises(DataError, match=f"column 'x', {words}") as error:
        encode_fields(single(tmp_path, values, column))
    assert "set fill_na" not in str(error.value)


def test_a_number_beyond_float32_may_be_scaled(tmp_path):
    params = single(tmp_path, [0.0, 1e39], {**PRICE, "normalizer": "MinMaxScaler"})
    assert encoded_column(params) == [0, 1]


@pytest.mark.parametrize(("kind", "missing"), [("parquet", NAN), ("parquet", None), ("csv", '""'), ("csv", "nan")])
def test_a_missing_label_is_filled_as_the_message_says(tmp_path, kind, missing):
    params = single(tmp_path, [5, 5], PRICE, [1.0, missing if kind == "parquet" else 0.0], kind)
    if kind == "csv":
        Path(params["train_data"]).write_text(f"x,clk\n5,1\n5,{missing}\n")
    with pytest.raises(DataError, match=r"column 'clk', row 1: expected a label, 0 or 1.*or set fill_na"):
        encode_fields(params)
    filled = {**params, "label_col": {"name": "clk", "dtype": "float", "fill_na": 1}}
    assert encoded_column(filled, "clk") == [1, 1]


def test_labels_are_checked_where_they_stand(tmp_path, caplog):
    params = single(tmp_path, [5, 5], PRICE, [-1, 1], "csv")
    with pytest.raises(DataError, match=r"train\.csv, column 'clk', row 0: expected a label, 0 or 1 .*found '-1'"):
        encode_fields(params)
    assert encoded_column({**params, "task": "regression"}, "clk") == [-1, 1]
    params = single(tmp_path, [5, 5], PRICE, kind="csv")
    for label in ("-1", "nan", '""'):  # a test split may say nothing
        (tmp_path / "test.csv").write_text(f"x,clk\n5,{label}\n5,{label}\n")
        found = encode_fields({**params, "test_data": str(tmp_path / "test.csv")})
        assert pl.read_parquet(found["test_data"]).columns == ["x"]
    assert any("one value other than 0 and 1" in message for message in caplog.messages)


def test_weights_are_checked_where_they_stand(tmp_path):
    for weight, text in ((-1.0, "-1.0"), (None, "nothing")):
        params = single(tmp_path, [5, 5], PRICE, sample_weight="w")
        file = params["train_data"]
        pl.read_parquet(file).with_columns(w=pl.Series([1.0, weight])).write_parquet(file)
        with pytest.raises(DataError, match=rf"'w', row 1: expected what the row counts .*found {text}") as error:
            encode_fields(params)
        assert "set fill_na" not in str(error.value)


@pytest.mark.parametrize("unit", [pl.Datetime("us"), pl.Date])
def test_times_are_counted_in_one_unit(tmp_path, unit):
    times = pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 2)], dtype=pl.Datetime("ns"))
    params = {**single(tmp_path, times, {**PRICE, "normalizer": "MinMaxScaler"}), "test_data": str(tmp_path / "t")}
    pl.DataFrame({"x": times}).write_parquet(tmp_path / "t.parquet")
    assert pl.read_parquet(encode_fields(params)["test_data"])["x"].to_list() == [0, 1]
    pl.DataFrame({"x": times.cast(unit)}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet, column 'x': expected the type Datetime.*train\.parquet, found"):
        encode_fields(params)
