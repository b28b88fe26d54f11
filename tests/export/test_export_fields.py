"""Exports of named fields: raw values of csv files, scored by the file, are what `predict` says of the encoded rows."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from exporting import disturb

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import ConfigError, RequestError
from qin_zoo.export.export import export_model
from qin_zoo.serving import Scorer
from qin_zoo.training.prepare import build_model, prepare

LABEL = {"name": "click", "dtype": "float"}
_SEQUENCE = {"dtype": "str", "type": "sequence", "splitter": "^", "feature_encoder": None}
EXAMPLE = [
    {"name": "user", "dtype": "str", "type": "meta"},
    {"name": ["item", "cate"], "dtype": "str", "type": "categorical"},
    {"name": "hour", "dtype": "int", "type": "categorical", "fill_na": 0, "embedding_dim": 3},
    {"name": "level", "dtype": "float", "type": "categorical"},
    {"name": "clicks", "max_len": 6, "padding": "pre", "share_embedding": "item", **_SEQUENCE},
    {"name": "cates", "max_len": 6, "padding": "pre", "share_embedding": "cate", **_SEQUENCE},
    {"name": "recent", "max_len": 4, "share_embedding": "item", **_SEQUENCE},  # padded behind, as by default
    {"name": "tags", "dtype": "int", "type": "sequence", "splitter": " ", "max_len": 3},
    {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler", "fill_na": 0},
    {"name": "age", "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    {"name": "vector", "dtype": "float", "type": "embedding", "splitter": "^"},
]
PAIR = {"target_field": [["item", "cate"]], "sequence_field": [["clicks", "cates"]]}
PAIRS = {"target_field": [["item", "cate"], "cate"], "sequence_field": [["clicks", "cates"], "recent"]}
ONE = {"target_field": "item", "sequence_field": "recent"}
CRITEO = [
    {"name": [f"I{i}" for i in range(1, 14)], "dtype": "float", "type": "numeric", "fill_na": 0},
    {"name": [f"C{i}" for i in range(1, 27)], "dtype": "str", "type": "categorical", "fill_na": ""},
]
AMAZON = [
    {"name": ["user_id", "item_id", "cate_id"], "dtype": "str", "type": "categorical"},
    {"name": "item_history", "max_len": 8, "padding": "pre", "share_embedding": "item_id", **_SEQUENCE},
    {"name": "cate_history", "max_len": 8, "padding": "pre", "share_embedding": "cate_id", **_SEQUENCE},
]
AMAZON_PAIR = {"target_field": [["item_id", "cate_id"]], "sequence_field": [["item_history", "cate_history"]]}


def example_row(g):
    """A row of texts as in a csv file; now and then something is missing, rare, or written in another way."""
    maybe = lambda text, chance=0.1: "" if g.random() < chance else text  # noqa: E731
    length = int(g.integers(0, 9))
    items = g.integers(0, 30, length)
    return {
        "user": f"u{g.integers(0, 9)}",
        "item": maybe(f"i{g.integers(0, 40)}"),
        "cate": maybe(f"c {g.integers(0, 5)}"),
        "hour": maybe(str(g.integers(-3, 24))),
        "level": maybe(("1", "1.0", "0.5", "1e-7", "-2.25", "1e20")[g.integers(0, 6)]),
        "clicks": "^".join(f"i{i}" if i else "" for i in items),
        "cates": "^".join(f"c {i % 5}" if g.random() < 0.8 else "" for i in items),
        "recent": "^".join(f"i{i}" for i in g.integers(0, 40, g.integers(0, 6))),
        "tags": maybe(" ".join(str(t) for t in g.integers(0, 9, g.integers(1, 5)))),
        "price": maybe(f"{g.lognormal(3, 1):.2f}"),
        "age": maybe(str(g.integers(10, 80))),
        "vector": "^".join(f"{v:.4f}" for v in g.normal(size=3)),
        "click": str(g.integers(0, 2)),
    }


def criteo_row(g):
    numbers = {f"I{i}": "" if g.random() < 0.3 else str(int(g.lognormal(2, 2))) for i in range(1, 14)}
    words = {f"C{i}": "" if g.random() < 0.1 else f"{g.integers(0, 4 * i):08x}" for i in range(1, 27)}
    return {**numbers, **words, "click": str(g.integers(0, 2))}


def amazon_row(g):
    items = g.integers(0, 60, g.integers(1, 12))
    target = g.integers(0, 80)
    return {
        "user_id": str(g.integers(0, 30)), "item_id": str(target), "cate_id": str(target % 7),
        "item_history": "^".join(map(str, items)), "cate_history": "^".join(str(i % 7) for i in items),
        "click": str(g.integers(0, 2)),
    }  # fmt: skip


ROWS = {"example": example_row, "criteo": criteo_row, "amazon": amazon_row}


def made(folder: Path, kind: str, columns: list, model: str, rows=120, **params):
    """A dataset of csv files, a model for it, and the texts of its test rows: (prepared, dataset, model, rows)."""
    g, texts = np.random.default_rng(0), {}
    for split in ("train", "valid", "test"):
        texts[split] = [ROWS[kind](g) for _ in range(rows)]
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, texts[split][0])
            writer.writeheader()
            writer.writerows(texts[split])
    dataset = {f"{split}_data": str(folder / f"{split}.csv") for split in texts}
    dataset |= {"data_root": str(folder), "data_format": "csv", "min_categr_count": 2, "feature_cols": columns}
    fields = {key: params.pop(key) for key in ("target_field", "sequence_field") if key in params}
    write_config(folder, {**dataset, "label_col": LABEL, **fields}, {"model": model, "embedding_dim": 4, **params})
    prepared = prepare("x", folder)
    opened = prepared.open_dataset()
    return prepared, opened, disturb(build_model(prepared, opened)).eval(), texts["test"]


def write_config(folder: Path, dataset: dict, experiment: dict) -> None:
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump({"raw": dataset}))
    experiment |= {"dataset_id": "raw", "model_root": str(folder), "metrics": ["AUC"], "seed": 1}
    (folder / "model_config.yaml").write_text(yaml.safe_dump({"x": experiment}))


def export(done, folder, **options):
    prepared, dataset, model, *_ = done
    weights = folder / "weights.model"
    model.save_weights(str(weights))
    return export_model(prepared, dataset, model, weights, folder / "m.onnx", echo=lambda line: None, **options)


def as_request(scorer, row: dict) -> dict:
    """A row of the csv file as a request: its texts as they are, history and candidate apart."""
    targets = scorer.fields.targets or list(scorer.fields.rows)[:5]
    context = {name: row[name] for name in scorer.fields.rows if name not in targets}
    history = {name: row[name] for name in scorer.fields.history}
    return {"history": history, "candidates": [{name: row[name] for name in targets}], "context": context}


def as_typed(row: dict) -> dict:
    """The texts of a row as a client of JSON would send them: numbers, lists, null."""

    def typed(name, text):
        if text == "":
            return [] if name in ("clicks", "cates", "recent") else None
        if name in ("clicks", "cates", "recent", "vector"):
            return [float(v) for v in text.split("^")] if name == "vector" else text.split("^")
        if name == "tags":
            return [int(t) for t in text.split(" ")]
        return json.loads(text) if name in ("hour", "level", "price", "age") else text

    return {name: typed(name, text) for name, text in row.items()}


def check_all_rows(done, scorer, change=lambda row: row) -> None:
    _, dataset, model, rows = done
    expected = model.predict(dataset.loader("test", shuffle=False))
    assert expected.std() > 0.01
    found = [float(scorer.answer(as_request(scorer, change(row)))[0][0]) for row in rows]
    assert np.abs(np.array(found) - expected).max() <= 1e-6


HISTORIES = {
    "QIN": {"num_layers": 2},
    "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [4], "din_use_softmax": True},
    "DIN_DCN": {"num_heads": 2, "parallel_dnn_hidden_units": [8]},
    "DIN_SENet": {"num_heads": 2, "dnn_hidden_units": [8]},
    "FusionNet": {"fusion": "gate", "fusion_dim": 5, "dnn_hidden_units": [8]},
    "Transformer_DCN": {"first_k_cols": 2, "dcn_hidden_units": [8], "mlp_hidden_units": [4]},
    "MLP": {"dnn_hidden_units": [8]},
    "QNN": {"num_layers": 2},
}


@pytest.mark.parametrize("model", HISTORIES)
def test_every_model_with_two_histories(model, tmp_path):
    done = made(tmp_path, "example", EXAMPLE, model, **PAIRS, **HISTORIES[model])
    assert export(done, tmp_path).difference < 1e-6
    scorer = Scorer(tmp_path / "m.onnx")
    check_all_rows(done, scorer)
    check_all_rows(done, scorer, as_typed)


@pytest.mark.parametrize(
    ("model", "fields"),
    [("QIN", PAIR), ("DIN", ONE), ("Transformer_DCN", {**ONE, "mask_convention": "history"}), ("DIN", {})],
    ids=["pair", "one", "post-padded Transformer", "none"],
)
def test_other_histories(model, fields, tmp_path):
    done = made(tmp_path, "example", EXAMPLE, model, **fields, **HISTORIES[model])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"), as_typed)


@pytest.mark.parametrize("model", ["MLP", "QIN"])
def test_as_criteo(model, tmp_path):
    done = made(tmp_path, "criteo", CRITEO, model, **HISTORIES[model])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"))


@pytest.mark.parametrize("model", ["DIN", "Transformer_DCN"])
def test_as_amazon(model, tmp_path):
    done = made(tmp_path, "amazon", AMAZON, model, **AMAZON_PAIR, **HISTORIES[model])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    done = made(folder, "example", EXAMPLE, "QIN", **PAIRS, num_layers=1)
    export(done, folder)
    return folder / "m.onnx", done


def test_one_history_many_candidates(exported):
    """A request scores as its rows one by one; what is shared may stand in the context."""
    path, (*_, rows) = exported
    scorer = Scorer(path)
    one = as_request(scorer, rows[3])
    whole = {name: rows[3][name] for name in scorer.fields.rows}
    candidates = [{**whole, "item": row["item"], "cate": row["cate"]} for row in rows[:20]]
    single = [float(scorer.score(one["history"], [candidate])[0]) for candidate in candidates]
    shared = {name: value for name, value in whole.items() if name not in ("item", "cate")}
    apart = [{"item": row["item"], "cate": row["cate"]} for row in rows[:20]]
    np.testing.assert_allclose(scorer.score(one["history"], candidates), single, atol=1e-6)
    np.testing.assert_allclose(scorer.score(one["history"], apart, shared), single, atol=1e-6)
    each = {**shared, "cate": [row["cate"] for row in rows[:20]]}
    items = [{"item": row["item"]} for row in rows[:20]]
    np.testing.assert_allclose(scorer.score(one["history"], items, each), single, atol=1e-6)


def test_unknown_values_are_counted_missing_ones_are_not(exported):
    path, (*_, rows) = exported
    scorer = Scorer(path)
    known = next(row for row in rows if row["item"] in scorer.fields.rows["item"].words)
    asked = as_request(scorer, {**known, "clicks": "", "cates": "", "recent": "", "tags": ""})
    _, before = scorer.answer(asked)
    changed = {**asked, "candidates": [{**asked["candidates"][0], "item": "never seen"}]}
    assert scorer.answer(changed)[1] == before + (asked["candidates"][0]["item"] != "never seen")
    _, missing = scorer.answer({**asked, "candidates": [{**asked["candidates"][0], "item": None}]})
    assert missing == before
    history = {**asked["history"], "recent": ["never", "seen"]}
    assert scorer.answer({**asked, "history": history})[1] == before + 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": [{"item": "i1"}]}, "cate is missing"),
        ({"candidates": ["i1"]}, "candidate 0: expected field -> value"),
        ({"candidates": "i1"}, "expected a list"),
        ({"candidates": [{"item": "i1", "cate": "c 1", "prise": 1}]}, "unknown field 'prise'. Did you mean 'price'"),
        ({"history": {"clicks": [], "cates": []}}, "history: recent is missing"),
        ({"history": [1]}, "history: expected field -> list"),
        ({"history": {"clicks": 3, "cates": [], "recent": []}}, "history: clicks: expected a list"),
        ({"context": {"hour": "noon"}}, "context: hour: expected a whole number, found 'noon'"),
        ({"context": {"price": "cheap"}}, "context: price: expected a finite number"),
        ({"context": {"price": 1e300}}, "float32"),
        ({"context": {"vector": [1.0]}}, "vector: expected a list of 3 numbers"),
        ({"context": {"item": "i1"}}, "item stands in context and in a candidate"),
        ({"context": {"hour": [1, 2]}}, "one for each of the 1 candidates"),
        ({"context": {"item": True}, "candidates": [{"cate": "c 1"}]}, "a text or a number, found True"),
        ({"embeddings": {"1": {}}}, "takes none"),
    ],
)
def test_requests_that_cannot_be_read(change, words, exported):
    path, (*_, rows) = exported
    scorer = Scorer(path)
    asked = as_request(scorer, rows[0])
    changed = {**asked, **change, "context": {**asked["context"], **change.get("context", {})}}
    with pytest.raises(RequestError, match=words):
        scorer.answer(changed)


def test_limits(exported):
    path, (*_, rows) = exported
    scorer = Scorer(path, max_candidates=2, max_history=3)
    asked = as_request(scorer, rows[0])
    with pytest.raises(RequestError, match="at most 2, found 3"):
        scorer.answer({**asked, "candidates": asked["candidates"] * 3})
    with pytest.raises(RequestError, match="clicks: expected at most 3, found 4"):
        scorer.answer({**asked, "history": {**asked["history"], "clicks": ["i1"] * 4}})


def test_scoring_needs_neither_torch_nor_polars(exported):
    import subprocess
    import sys

    path, (*_, rows) = exported
    asked = json.dumps(as_request(Scorer(path), rows[0]))
    code = (
        "import json, sys; from qin_zoo.serving import Scorer; "
        f"Scorer({str(path)!r}).answer(json.loads({asked!r})); "
        "print([m for m in ('torch', 'polars', 'fuxictr', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_a_file_cannot_do_to_raw_values_is_refused(exported, tmp_path):
    """As where a column is made by preprocessing: named, and nothing is written."""
    _, (prepared, dataset, model, _) = exported
    described = dataset.folder / "raw_fields.json"
    before = described.read_text()
    fields = json.loads(before)
    fields["hour"]["not_carried"] = ["preprocess"]
    described.write_text(json.dumps(fields))
    try:
        with pytest.raises(ConfigError, match="'hour' is made with preprocess"):
            export((prepared, dataset, model), tmp_path)
    finally:
        described.write_text(before)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("options", [{"table": "int8"}, {"new_items": Path("new.parquet")}])
def test_options_of_item_tables_are_refused(options, exported, tmp_path):
    with pytest.raises(ConfigError, match="--table and --items"):
        export(exported[1], tmp_path, **options)
