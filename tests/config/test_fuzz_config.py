"""Configurations spoiled in every way: each is a valid run or one clear error, and nothing in them is executed."""

import io
import os
from pathlib import Path

import pytest
from fuzz_cases import (
    CASES,
    FUZZ,
    MARKER,
    PAYLOADS,
    PREPROCESS,
    TAGS,
    TUPLES,
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

from qin_zoo.config.blocks import check_id
from qin_zoo.config.values import PREPROCESSORS
from qin_zoo.errors import ConfigError, QinZooError

YAML = ("model_config.yaml", "dataset_config.yaml")
# Keys whose texts FuxiCTR evaluates, looks up as an attribute, or calls by name.
EVALUATED = {"dtype", "optimizer", "loss", "task", "metrics", "monitor", "embedding_initializer", "net_regularizer"}
EVALUATED |= {"dnn_activations", "attention_output_activation", "attention_hidden_activations"}
EVALUATED |= {"feature_encoder", "model"}


@pytest.fixture(autouse=True)
def _nothing_ran(folder):
    yield
    assert not MARKER.exists()


def refused(files, folder) -> str:
    write_case(files, folder)
    error = attempt(folder)
    assert isinstance(error, QinZooError)
    return str(error)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_valid(case, folder):
    write_case(CASES[case], folder)
    assert attempt(folder) is None


@pytest.mark.slow
@given(st.sampled_from(sorted(CASES)).flatmap(lambda case: spoiled(CASES[case])))
@settings(FUZZ, max_examples=200)
def test_spoiled_configurations(folder, files):
    write_case(files, folder)
    attempt(folder)


@pytest.mark.slow
@given(st.sampled_from(["fields", "csv", "table of QIN"]).flatmap(lambda case: spoiled(CASES[case])))
@settings(FUZZ, max_examples=100)
def test_spoiled_configurations_of_every_layout(folder, files):
    write_case(files, folder)
    attempt(folder)


LINES = st.lists(
    st.sampled_from(["X:", "Base:", "tiny:", "\n", "\n  ", "- ", ": ", "{", "}", "[", "]", ",", "&a ", "*a", "<<: *a"])
    | st.sampled_from(["model: QIN", "dataset_id: tiny", "? ", "| ", '"', "'", "---", "...", "%YAML 9.9", "\t", *TAGS])
    | st.text(max_size=4),
    max_size=20,
).map("".join)
CONTENT = st.binary(max_size=60) | LINES.map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(st.sampled_from(YAML), CONTENT)
@settings(FUZZ, max_examples=150)
def test_files_of_random_bytes_and_text(folder, name, content):
    write_case({**CASES["table of QIN"], name: content}, folder)
    assert attempt(folder) is not None


DATA = ("table/train.parquet", "table/item_info.parquet", "fields/train.npz", "csv/train.csv")


@given(st.sampled_from(DATA), st.binary(max_size=80) | st.integers(0, 200), st.sampled_from([b"", b"PAR1", b"PK\3\4"]))
@settings(FUZZ, max_examples=100)
def test_data_files_of_random_bytes(folder, name, content, head):
    """Files that are made up, or cut short and with one byte changed."""
    case = {"table": "table of QIN"}.get(name.split("/")[0], name.split("/")[0])
    file = folder / "files" / name
    whole = file.read_bytes()
    if isinstance(content, int):
        at = content * len(whole) // 201
        content = whole[:at] + b"\xff" + (whole[at + 1 :] if content % 2 else b"")
    write_case({**CASES[case], f"files/{name}": head + content}, folder)
    try:
        attempt(folder)
    finally:
        file.write_bytes(whole)


# ---- planted commands


@pytest.mark.slow
@pytest.mark.parametrize("case", ["table of QIN", "table of Transformer_DCN_Quant", "fields", "csv"])
def test_a_command_in_any_text_never_runs(case, folder):
    files = {name: tree for name, tree in CASES[case].items() if name in YAML}
    rest = {name: tree for name, tree in CASES[case].items() if name not in YAML}
    write_case(rest | files, folder)
    for number, path in enumerate(texts(files)):
        evaluated = EVALUATED & set(path)
        # each payload where FuxiCTR would evaluate it, elsewhere they take turns
        for payload in PAYLOADS if evaluated else [PAYLOADS[number % len(PAYLOADS)]]:
            write_case(planted(files, path, payload), folder)
            error = attempt(folder)
            assert error is not None or not evaluated, (path, payload)
        message = refused(planted(files, path, TAGS[number % len(TAGS)]), folder)
        assert "python" in message
        assert path[0] in message
    write_case(rest | files, folder)


@pytest.mark.parametrize("case", ["table of QIN", "csv"])
def test_a_command_as_any_key_never_runs(case, folder):
    files = CASES[case]
    for path in [(name,) for name in files] + [p for p in paths(files) if isinstance(look_up(files, p), dict)]:
        mapping = look_up(files, path)
        for payload in (PAYLOADS[0], TAGS[0], TAGS[2]):
            write_case(planted(files, path, {**mapping, payload: 1}), folder)
            attempt(folder)
            renamed = {payload if i == 0 else key: value for i, (key, value) in enumerate(mapping.items())}
            write_case(planted(files, path, renamed), folder)
            attempt(folder)


@pytest.mark.slow
def test_tuples_in_any_place_run_nothing(folder):
    files = CASES["csv"]
    names = [p for p in paths(files) if p[0] == "model_config.yaml" and len(p) == 3]
    for number, path in enumerate([*names, ("dataset_config.yaml", "tiny", "feature_cols", 1, "name")]):
        every = {"target_field", "sequence_field", "net_dropout", "name"} & set(path)
        for value in TUPLES if every else TUPLES[number % 3 :: 3]:
            write_case(planted(files, path, value), folder)
            error = attempt(folder)
            assert error is not None or "python/object" not in value, (path, value)


@pytest.mark.parametrize("value", TUPLES[-5:])
def test_a_tag_within_a_tuple_is_refused_where_it_stands(value, folder):
    message = refused(planted(CASES["csv"], ("model_config.yaml", "X", "target_field"), value), folder)
    assert "python/" in message
    assert "model_config.yaml, line" in message


@pytest.mark.parametrize("value", PREPROCESS)
def test_preprocess_names_run_nothing_but_what_is_known(value, folder):
    for column in (1, 2):
        path = ("dataset_config.yaml", "tiny", "feature_cols", column, "preprocess")
        write_case(planted(CASES["csv"], path, value), folder)
        error = attempt(folder)
        name = value.partition("(")[0]
        if name not in PREPROCESSORS or value.count("(") != value.count(")"):
            assert "preprocess" in str(error)
            assert "expected one of copy_from" in str(error)


# ---- ids


@pytest.mark.parametrize(
    "value",
    [
        "", " ", ".", "..", "a/b", "a\\b", "/etc/x", "../x", "a..b", ".hidden", "a\0", "a\n", "a\x1b[2J", "x" * 201,
        "é" * 101, "C:x", "a*", " a", "a ", "\ud800", "a\u202eb", 3, None, True, ["a"],
    ],
)  # fmt: skip
def test_ids_that_are_no_file_names(value, folder):
    with pytest.raises(ConfigError):
        check_id(value, "id")
    beside = set(folder.parent.iterdir())
    files = CASES["table of QIN"]
    for key in ("dataset_id", "model_id"):
        spoilt = planted(files, ("model_config.yaml", "X", key), value)
        if key == "dataset_id":
            blocks = spoilt["dataset_config.yaml"]
            blocks[value if isinstance(value, (str, int)) else "x"] = blocks["tiny"]
        write_case(spoilt, folder)
        assert key == "model_id" or isinstance(attempt(folder), ConfigError)
    assert set(folder.parent.iterdir()) == beside


@pytest.mark.parametrize("value", ["a", "A_1-b.c", "x" * 200, "数据集", "DIN (2)"])
def test_ids_that_are_file_names(value):
    check_id(value, "id")


# ---- files that are none


def _bomb(levels: int) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (_bomb(30), "values"),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)), "values"),
        ("X: " + "[" * 5000, "nested"),
        ("X: " + "{a: " * 5000, "nested"),
        ("X: &x [*x]", "itself"),
        ("X: {model: QIN, model: DIN}", "already"),
        ("X: {model: QIN}\nX: {model: DIN}", "already"),
        ("3: {model: QIN}", "not text"),
        ("X: {3: a, model: QIN, dataset_id: tiny}", "no text"),
        ("X: {[a]: b}", "a key must be text"),
        ("X: {!!python/tuple [a]: b}", "a key must be text"),
        ("X: {model: " + "9" * 5000 + "}", "int"),
        ("\ufeffX: {model: QIM, dataset_id: tiny}", "Unknown model"),
        ("X: {model: QIN}".encode("utf-16"), "UTF-8"),
        (bytes(range(256)), "UTF-8"),
        (b"\0\0\0", "YAML"),
        (b"X: {a: '" + b"x" * 5_000_000 + b"'}", "larger"),
        ("X: QIN", "mapping"),
        ("- X", "blocks"),
        ("", "No experiment"),
    ],
)
def test_files_that_are_no_configurations(content, word, folder):
    content = content.encode() if isinstance(content, str) else content
    assert word in refused({**CASES["table of QIN"], "model_config.yaml": content}, folder)


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "dangling", "unreadable"])
def test_what_is_no_file(name, kind, folder, monkeypatch):
    write_case(CASES["table of QIN"], folder)
    file = folder / name
    if kind == "unreadable":  # root may read everything, so the refusal is the system's by proxy
        monkeypatch.setattr("builtins.open", lambda path, *a, **k: _open(path, file, *a, **k))
    else:
        file.unlink()
        {
            "folder": file.mkdir,
            "loop": lambda: file.symlink_to(file),
            "pipe": lambda: os.mkfifo(file),
            "dangling": lambda: file.symlink_to("nowhere"),
        }[kind]()
    try:
        assert name in str(attempt(folder))
    finally:
        file.rmdir() if kind == "folder" else file.unlink()


def _open(path, denied, *args, **kwargs):
    if Path(path) == denied:
        raise PermissionError(13, "Permission denied", str(path))
    return io.open(path, *args, **kwargs)  # noqa: UP020 - the name `open` is taken


# ---- ranges and the names that FuxiCTR looks up


@pytest.mark.parametrize(
    ("case", "key", "value", "words"),
    [
        ("table of QIN", "net_dropout", 1.5, ["net_dropout", "less than 1", "1.5"]),
        ("table of QIN", "net_dropout", -0.1, ["at least 0"]),
        ("table of QIN", "net_dropout", float("nan"), ["net_dropout"]),
        ("fields", "net_dropout", [0.1, 1], ["net_dropout", "[0.1, 1.0]"]),
        ("table of QIN", "num_layers", -1, ["num_layers", "0 to 1000"]),
        ("table of QIN", "num_layers", 10**9, ["num_layers", "0 to 1000"]),
        ("table of QIN", "num_row", 10**400, ["num_row"]),
        ("table of QIN", "num_row", 0, ["num_row", "from 1"]),
        ("table of QIN", "embedding_dim", 0, ["embedding_dim"]),
        ("table of QIN", "embedding_dim", -4, ["embedding_dim"]),
        ("table of QIN", "embedding_dim", 2**31, ["embedding_dim"]),
        ("table of QIN", "max_len", 10**9, ["max_len"]),
        ("table of QIN", "batch_size", 0, ["batch_size", "at least 1"]),
        ("table of QIN", "learning_rate", 0, ["learning_rate", "greater than 0"]),
        ("table of QIN", "learning_rate", float("inf"), ["learning_rate"]),
        ("table of QIN", "model", ["QIN"], ["model", "QIN"]),
        ("table of QIN", "model_root", "x" * 300, ["model_root", "250"]),
        ("table of QIN", "optimizer", "SparseAdam", ["optimizer"]),
        ("fields", "dnn_hidden_units", [8, 0], ["dnn_hidden_units"]),
        ("fields", "dnn_hidden_units", [8, -1], ["dnn_hidden_units"]),
        ("fields", "dnn_activations", "Linear", ["dnn_activations", "activation of torch.nn"]),
        ("fields", "dnn_activations", ["ReLU", "RelU6"], ["Did you mean 'ReLU6'"]),
        ("fields", "dnn_activations", "GLU", ["dnn_activations"]),
        ("fields", "attention_output_activation", "Dice", ["hidden layers only"]),
        ("fields", "target_field", [["item", "item"]], ["target_field", "each feature once"]),
    ],
)
def test_values_out_of_range(case, key, value, words, folder):
    message = refused(planted(CASES[case], ("model_config.yaml", "X", key), value), folder)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("key", "value"),
    [("train_data", "x" * 300), ("train_data", "a/" * 2500), ("item_info", "é" * 200), ("data_root", "y" * 300 + "/z")],
)
def test_paths_that_no_file_system_takes(key, value, folder):
    message = refused(planted(CASES["table of QIN"], ("dataset_config.yaml", "tiny", key), value), folder)
    assert key in message


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("feature_cols", 3, "type"), "sequence", ["'item_id'", "categorical", "sequence"]),
        (("label_col", "name"), "likes_level", ["likes_level", "label"]),
    ],
)
def test_columns_that_are_something_else(path, value, words, folder):
    message = refused(planted(CASES["table of QIN"], ("dataset_config.yaml", "tiny", *path), value), folder)
    assert all(word in message for word in words), message


def test_groups_must_be_among_the_features_in_use(folder):
    files = CASES["table of QIN"]
    cols = ("dataset_config.yaml", "tiny", "feature_cols")
    assert "group_id names 'user_id'" in refused(planted(files, (*cols, 0, "active"), False), folder)
    used = planted(files, ("model_config.yaml", "X", "use_features"), ["item_seq", "item_id", "item_emb_d128"])
    assert "use_features leaves out" in refused(used, folder)
