"""Feature maps and data files of strangers: each is a valid run or one clear error, and nothing in them is executed."""

import json
import os
from copy import deepcopy

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_cases import (
    CASES,
    FUZZ,
    ITEMS,
    MARKER,
    PAYLOADS,
    ROWS,
    WORDS,
    attempt,
    folder_fixture,  # noqa: F401
    look_up,
    paths,
    planted,
    spoiled,
    texts,
    write_case,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qin_zoo.errors import QinZooError

MAP, VOCABULARY = "data/tiny/feature_map.json", "data/tiny/feature_vocab.json"
CASE = CASES["fields"]
MAPS = {MAP: CASE[MAP], VOCABULARY: CASE[VOCABULARY]}
FEATURES = (MAP, "features")


@pytest.fixture(autouse=True)
def _clean(folder):
    """The case as it is, before every test; afterwards no planted command has run."""
    write_case(CASE, folder)
    yield
    assert not MARKER.exists()


def refused(folder, *words) -> str:
    error = attempt(folder)
    assert isinstance(error, QinZooError), "it was accepted"
    assert all(word in str(error) for word in words), str(error)
    return str(error)


def spec(name: str) -> tuple:
    """The path of a feature's specification."""
    return next((*FEATURES, i, name) for i, entry in enumerate(MAPS[MAP]["features"]) if name in entry)


@pytest.mark.slow
@given(spoiled(MAPS))
@settings(FUZZ, max_examples=120)
def test_spoiled_feature_maps(folder, files):
    write_case(files, folder)
    attempt(folder)


@pytest.mark.slow
@given(st.data())
@settings(FUZZ, max_examples=150)
def test_feature_maps_of_sound_but_unfitting_values(folder, data):
    """Numbers and names of the right type that do not fit each other."""
    files = deepcopy(MAPS)
    for _ in range(data.draw(st.integers(1, 2))):
        places = [p for p in paths(files) if p[:2] == FEATURES and len(p) > 4]
        places = [p for p in places if isinstance(look_up(files, p), (int, str))]
        path = data.draw(st.sampled_from(places))
        alike = [look_up(files, p) for p in places if type(look_up(files, p)) is type(look_up(files, path))]
        look_up(files, path[:-1])[path[-1]] = data.draw(st.sampled_from(alike))
    write_case(files, folder)
    attempt(folder)


@given(st.sampled_from(sorted(MAPS)), st.binary(max_size=60) | st.text(max_size=30) | st.integers(0, 300))
@settings(FUZZ, max_examples=100)
def test_files_of_random_bytes_and_text(folder, name, content):
    whole = json.dumps(MAPS[name]).encode()
    if isinstance(content, int):
        at = content * len(whole) // 301
        content = whole[:at] + bytes([content % 256]) + (whole[at + 1 :] if content % 2 else b"")
    write_case({**MAPS, name: content if isinstance(content, bytes) else content.encode("utf-8", "replace")}, folder)
    attempt(folder)


# ---- planted commands


@pytest.mark.slow
def test_a_command_in_any_text_never_runs(folder):
    for path in texts(MAPS):
        for payload in PAYLOADS:
            write_case(planted(MAPS, path, payload), folder)
            error = attempt(folder)
            assert error is not None or path[-1] == "source", (path, payload)


@pytest.mark.slow
def test_a_command_as_any_key_never_runs(folder):
    for path in [p for p in paths(MAPS) if isinstance(look_up(MAPS, p), dict)]:
        mapping = look_up(MAPS, path)
        for payload in PAYLOADS[:3]:
            write_case(planted(MAPS, path, {**mapping, payload: payload}), folder)
            attempt(folder)
            renamed = {payload if i == 0 else key: value for i, (key, value) in enumerate(mapping.items())}
            write_case(planted(MAPS, path, renamed), folder)
            attempt(folder)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_command_as_the_name_of_a_column(payload, folder):
    """In the feature map, the configuration and the data files at once, so that everything finds the name."""
    text = {name: json.dumps(tree) for name, tree in CASE.items()}
    files = {name: json.loads(t.replace('"price"', json.dumps(payload))) for name, t in text.items()}
    for split in ("train", "valid", "test"):
        arrays = dict(np.load(f"files/fields/{split}.npz"))
        arrays[payload] = arrays.pop("price")
        os.makedirs("files/named", exist_ok=True)
        # numpy.savez would open a file of the array's name
        pl.DataFrame({n: v.tolist() for n, v in arrays.items()}).write_parquet(f"files/named/{split}.parquet")
        files["dataset_config.yaml"]["tiny"][f"{split}_data"] = f"files/named/{split}.parquet"
    files["dataset_config.yaml"]["tiny"]["data_format"] = "npz"
    write_case(files, folder)
    error = attempt(folder)
    assert error is None or payload[:20] in str(error)


@pytest.mark.parametrize("name", ["table/train.parquet", "table/item_info.parquet"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_command_in_the_metadata_of_a_parquet_file(name, payload, folder):
    file = folder / "files" / name
    whole = file.read_bytes()
    table = pq.read_table(file)
    metadata = {b"pandas": payload.encode(), b"huggingface": payload.encode(), payload.encode(): b"1"}
    fields = [field.with_metadata({b"PARQUET:field_id": b"1", b"x": payload.encode()}) for field in table.schema]
    table = table.cast(pa.schema(fields, metadata)).append_column(payload, pa.array([payload] * table.num_rows))
    pq.write_table(table, file)
    write_case(CASES["table of QIN"], folder)
    try:
        assert attempt(folder) is None
    finally:
        file.write_bytes(whole)


class _Planted:
    def __reduce__(self):
        return os.system, ("touch planted",)


@pytest.mark.parametrize("array", ["price", "item", "clk", "not asked for"])
def test_a_pickle_in_an_npz(array, folder):
    """An array of objects holds a pickle, which runs code when it is loaded."""
    file = folder / "files/fields/train.npz"
    whole = file.read_bytes()
    arrays = dict(np.load(file)) | {array: np.array([_Planted()] * ROWS, dtype=object)}
    np.savez(file, **arrays)
    try:
        if array == "not asked for":
            assert attempt(folder) is None
        else:
            refused(folder, "train.npz", array)
    finally:
        file.write_bytes(whole)


def test_a_pickle_in_the_cache_of_converted_columns(folder):
    """Somebody else's dataset may bring such a folder."""
    assert attempt(folder) is None
    for values in (folder / "files/fields/.qin_zoo_cache").rglob("values.npy"):
        np.save(values, np.array([_Planted()] * ROWS, dtype=object), allow_pickle=True)
    assert attempt(folder) is None


@pytest.mark.parametrize("kind", ["npz", "h5", "parquet"])
@pytest.mark.parametrize("payload", [*PAYLOADS[:3], _Planted()])
def test_a_command_in_a_file_of_vectors(kind, payload, folder):
    file = folder / f"data/tiny/planted_{kind}.{kind}"
    texts_, vectors = [str(payload)] * WORDS, np.ones((WORDS, 3))
    if kind == "npz":
        keys = np.array([payload] * WORDS, dtype=object) if isinstance(payload, _Planted) else np.array(texts_)
        np.savez(file, key=keys, value=vectors)
    elif kind == "h5":
        with h5py.File(file, "w") as h5:
            h5.create_dataset("key", data=texts_, dtype=h5py.string_dtype())
            h5.create_dataset("value", data=vectors).attrs["x"] = str(payload)
            h5.attrs[str(payload)] = str(payload)
    else:
        pl.DataFrame({"key": texts_, "value": vectors}).write_parquet(file)
    write_case(planted(MAPS, (*spec("cate"), "pretrained_emb"), file.name), folder)
    error = attempt(folder)
    assert error is None or file.name in str(error) or "cannot be built" in str(error)


# ---- what each mistake is told


@pytest.mark.parametrize(
    ("feature", "key", "value", "words"),
    [
        ("item", "vocab_size", 0, ["vocab_size", "positive"]),
        ("item", "vocab_size", 2**31, ["vocab_size", "2147483647"]),
        ("item", "vocab_size", 10**400, ["vocab_size"]),
        ("item", "vocab_size", 9.0, ["vocab_size", "9.0"]),
        ("item", "vocab_size", True, ["vocab_size", "True"]),
        ("item", "padding_idx", WORDS, ["padding_idx", f"below the vocab_size {WORDS}"]),
        ("item", "padding_idx", -1, ["padding_idx", "-1"]),
        ("item", "embedding_dim", 10**9, ["embedding_dim", "1048576"]),
        ("item", "type", ["categorical"], ["type"]),
        ("item", "source", {"a": 1}, ["source"]),
        ("item", "feature_encoder", "nn.Linear(5, 4)", ["feature_encoder", "does not fit"]),
        ("item", "feature_encoder", "nn.Linear(4, 5)", ["feature_encoder", "return vectors of 4", "(2, 5)"]),
        ("item", "feature_encoder", "layers.MaskedAveragePooling()", ["feature_encoder"]),
        ("item", "emb_output_dim", 5, ["return vectors of 5", "emb_output_dim"]),
        ("clicks", "max_len", 10**9, ["max_len", "100000"]),
        ("clicks", "max_len", 3, ["max_len"]),
        ("clicks", "vocab_size", WORDS + 1, ["vocab_size", "does not fit", "'item'"]),
        ("clicks", "share_embedding", "nobody", ["share_embedding", "nobody"]),
        ("clicks", "share_embedding", 3, ["share_embedding"]),
        ("clicks", "embedding_dim", 8, ["embedding_dim 8", "'item'"]),
        ("item", "share_embedding", "clicks", ["share_embedding", "must come earlier"]),
        ("price", "share_embedding", "item", ["share_embedding", "categorical and sequence"]),
        ("vector", "pretrain_dim", 10**9, ["pretrain_dim"]),
        ("vector", "feature_encoder", ["nn.Linear(3, 6)", "nn.Linear(5, 6)"], ["feature_encoder", "does not fit"]),
        ("cate", "pretrained_emb", "../cate.npz", ["pretrained_emb", "beside the feature map"]),
        ("cate", "pretrained_emb", "/etc/passwd.npz", ["pretrained_emb"]),
        ("cate", "pretrained_emb", "cate.pkl", ["pretrained_emb", ".npz"]),
        ("cate", "pretrain_usage", "eval", ["pretrain_usage", "init, sum or concat"]),
        ("cate", "oov_idx", None, ["oov_idx"]),
        ("cate", "freeze_emb", 1, ["freeze_emb", "true or false"]),
    ],
)
def test_specifications_that_do_not_fit(feature, key, value, words, folder):
    write_case(planted(MAPS, (*spec(feature), key), value), folder)
    refused(folder, "feature_map.json", f"'{feature}'", *words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((MAP, "labels"), [], ["labels"]),
        ((MAP, "labels"), None, ["labels"]),
        ((MAP, "labels"), ["../clk"], ["labels", "file name"]),
        ((MAP, "labels"), [["clk"]], ["labels"]),
        ((MAP, "total_features"), "many", ["total_features"]),
        ((MAP, "dataset_id"), "../x", ["dataset_id"]),
        ((*FEATURES, 0), {"": {"type": "meta"}}, ["name"]),
        ((*FEATURES, 0), {"../../x": {"type": "meta"}}, ["name", "../../x"]),
        ((*FEATURES, 0), {".": {"type": "meta"}}, ["name"]),
        ((*FEATURES, 0), {"x" * 300: {"type": "meta"}}, ["name", "200 bytes"]),
        ((*FEATURES, 0), {"\ud800": {"type": "meta"}}, ["name"]),
        ((*FEATURES, 0), {"item": {"type": "meta"}}, ["'item' is given twice"]),
        ((*FEATURES, 0), {"other": {"type": "meta"}}, ["group_id", "'user'"]),
        ((*FEATURES, 5), {"type": {"type": "numeric"}}, ["use_features", "'price'"]),
        ((VOCABULARY, "cate", "3"), WORDS, ["feature_vocab.json", "'cate'", "'3'", str(WORDS)]),
        ((VOCABULARY, "cate", "3"), "3", ["feature_vocab.json", "whole number"]),
        ((VOCABULARY, "cate"), [1], ["feature_vocab.json", "words of feature 'cate'"]),
    ],
)
def test_feature_maps_that_do_not_fit(path, value, words, folder):
    write_case(planted(MAPS, path, value), folder)
    refused(folder, *words)


def test_names_that_no_module_can_have(folder):
    files = json.loads(json.dumps(CASE).replace('"price"', '"keys"'))
    write_case(files, folder)
    refused(folder, "'keys'", "Rename")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"features": [], "features": []}', "twice"),
        (b'{"features": [], "labels": NaN}', "NaN"),
        (b'{"features": [], "labels": -Infinity}', "Infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON"),
        (json.dumps(MAPS[MAP]).encode("utf-16"), "JSON"),
        (bytes(range(256)), "JSON"),
        (b"", "JSON"),
        (b" " * 16_000_001, "larger"),
        (b"null", "list of features"),
    ],
)
def test_files_that_are_no_feature_maps(content, word, folder):
    write_case({MAP: content}, folder)
    refused(folder, "feature_map.json", word)


def test_a_byte_order_mark_is_no_mistake(folder):
    write_case({MAP: json.dumps(MAPS[MAP]).encode("utf-8-sig")}, folder)
    assert attempt(folder) is None


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "dangling"])
def test_what_is_no_file(kind, folder):
    file = folder / MAP
    file.unlink()
    make = {"folder": file.mkdir, "loop": lambda: file.symlink_to(file), "pipe": lambda: os.mkfifo(file)}
    make.get(kind, lambda: file.symlink_to("nowhere"))()
    try:
        refused(folder, "feature_map.json")
    finally:
        file.rmdir() if kind == "folder" else file.unlink()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("target_field", ["user", "cate"], ["target_field", "'user'", "meta"]),
        ("sequence_field", ["item", "cate"], ["sequence_field", "a sequence", "'item'"]),
        ("target_field", [["price", "price"]], ["target_field", "each feature once"]),
        ("use_features", ["clicks", "item", "cate", "cate_clicks", "user", "price"], ["share_embedding", "earlier"]),
        ("use_features", ["item", "cate", "clicks", "cate_clicks"], ["group_id", "use_features"]),
        ("group_id", "nobody", ["group_id", "nobody"]),
        ("feature_specs", [{"name": "clicks", "vocab_size": 99}], ["vocab_size 99"]),
        ("feature_specs", [{"name": "clicks", "max_len": 9}], ["sequence_field", "one length"]),
        ("feature_specs", [{"name": "item", "feature_encoder": PAYLOADS[0]}], ["feature_encoder", "refused"]),
        ("feature_specs", [{"name": "cate", "pretrained_emb": "../x.npz"}], ["pretrained_emb"]),
    ],
)
def test_configurations_that_do_not_fit_the_feature_map(key, value, words, folder):
    place = "model_config.yaml" if key.endswith("_field") else "dataset_config.yaml"
    path = (place, "X" if place.startswith("model") else "tiny", key)
    write_case(planted(CASE, path, value), folder)
    refused(folder, *words)


def test_items_beyond_the_table_are_found_before_anything_runs(folder):
    file = folder / "files/table/train.parquet"
    whole = file.read_bytes()
    pl.read_parquet(file).with_columns(item_id=pl.lit(ITEMS)).write_parquet(file)
    write_case(CASES["table of QIN"], folder)
    try:
        refused(folder, "train.parquet", "item_id", str(ITEMS))
    finally:
        file.write_bytes(whole)
