"""Exports of named fields: raw values of csv files, scored by the file, are what `predict` says of the encoded rows."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from named_fields import (
    AMAZON,
    AMAZON_PAIR,
    CRITEO,
    EXAMPLE,
    ONE,
    PAIR,
    PAIRS,
    as_request,
    as_typed,
    disturb,
    export,
    made,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import ConfigError, RequestError
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.export.fields import _words
from qin_zoo.serving import Scorer


def check_all_rows(done, scorer, change=lambda row: row) -> None:
    """Bit for bit the inputs, and the scores but for rounding."""
    _, dataset, model, rows = done
    loader = dataset.loader("test", shuffle=False)
    columns, texts = loader.batch(np.arange(len(rows))), [change(row) for row in rows]
    for field in chain(*scorer.fields.rows.values(), *scorer.fields.history.values()):
        values = field.encode([row[field.column] for row in texts], field.column)[0]
        np.testing.assert_array_equal(values, columns[field.name].numpy(), field.name)
    expected = model.predict(loader)
    assert expected.std() > 0.01
    found = [float(scorer.answer(as_request(scorer, row))[0][0]) for row in texts]
    assert np.abs(np.array(found) - expected).max() <= 1e-6


HISTORIES = {
    "QIN": {"num_layers": 2},
    "DIN": {"dnn_hidden_units": [8], "attention_hidden_units": [4], "din_use_softmax": True},
    "Transformer_DCN": {"first_k_cols": 2, "dcn_hidden_units": [8], "mlp_hidden_units": [4]},
    "MLP": {"dnn_hidden_units": [8]},
    "DeepFM": {"hidden_units": [8]},
    "TWIN": {"topk": 2, "short_seq_len": 3, "dnn_hidden_units": [8], "published": True},
}


def test_no_word_of_a_vocabulary_stands_for_the_unknown():
    """2^62 is an id of somebody: with it for an unknown one an export would not agree with its model."""
    described = {"raw": {"vocabulary": "v", "dtype": "int", "unknown": 9}}
    words = _words(described, {"v": {"7": 1, str(2**62): 2, str(2**62 + 1): 3}})
    assert len(set(words.values())) == len(words) == 4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["QIN", "DIN", "Transformer_DCN", "TWIN"])
def test_models_with_two_histories(model, tmp_path):
    done = made(tmp_path, "example", EXAMPLE, model, **PAIRS, **HISTORIES[model])
    assert export(done, tmp_path).difference < 1e-6
    scorer = Scorer(tmp_path / "m.onnx")
    check_all_rows(done, scorer)
    check_all_rows(done, scorer, as_typed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "fields"),
    [("QIN", PAIR), ("DIN", ONE), ("Transformer_DCN", {**ONE, "mask_convention": "history"}), ("DIN", {})],
    ids=["pair", "one", "post-padded Transformer", "none"],
)
def test_other_histories(model, fields, tmp_path):
    done = made(tmp_path, "example", EXAMPLE, model, **fields, **HISTORIES[model])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"), as_typed)


def test_vectors_of_a_pretrained_file(tmp_path):
    """They are embedded, and seen as they are by SimTier."""
    np.savez(tmp_path / "v.npz", key=np.arange(70).astype(str), value=np.random.default_rng(1).normal(size=(70, 5)))
    file = {"pretrained_emb": str(tmp_path / "v.npz"), "pretrain_dim": 5, "freeze_emb": True}
    columns = [
        {"name": ["user_id", "cate_id"], "dtype": "str", "type": "categorical"},
        {"name": "item_id", "dtype": "str", "type": "categorical", **file},
        {**AMAZON[1], **file},
    ]
    fields = {"target_field": "item_id", "sequence_field": "item_history"}
    done = made(tmp_path, "amazon", columns, "DIN", **fields, **HISTORIES["DIN"], simtier_content="item_id")
    assert export(done, tmp_path).difference < 1e-6
    check_all_rows(done, Scorer(tmp_path / "m.onnx"))


@pytest.mark.slow
def test_as_criteo(tmp_path):
    done = made(tmp_path, "criteo", CRITEO, "DeepFM", **HISTORIES["DeepFM"])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"))


@pytest.mark.parametrize("model", [pytest.param("DIN", marks=pytest.mark.slow), "Transformer_DCN"])
def test_as_amazon(model, tmp_path):
    done = made(tmp_path, "amazon", AMAZON, model, **AMAZON_PAIR, **HISTORIES[model])
    export(done, tmp_path)
    check_all_rows(done, Scorer(tmp_path / "m.onnx"))


COPIES = [
    {"name": "item_copy", "dtype": "str", "type": "categorical", "preprocess": "copy_from(item_id)", "fill_na": "none"},
    {"name": "history_copy", "preprocess": "copy_from(item_history)", "share_embedding": "item_copy", "dtype": "str",
     "type": "sequence", "max_len": 8, "padding": "pre", "feature_encoder": None},
]  # fmt: skip
COPIED = {
    "target_field": [["item_id", "item_copy", "cate_id"]],
    "sequence_field": [["item_history", "history_copy", "cate_history"]],
}


@pytest.mark.parametrize("model", [pytest.param("QIN", marks=pytest.mark.slow), "DIN"])
def test_copies_stand_once_in_a_request(model, tmp_path):
    """As in KuaiVideo_x1 and MicroVideo1.7M_x1, whose items have an id and vectors by this id."""
    done = made(tmp_path, "amazon", [*AMAZON, *COPIES], model, **COPIED, **HISTORIES[model])
    export(done, tmp_path)
    scorer = Scorer(tmp_path / "m.onnx")
    check_all_rows(done, scorer)
    asked = scorer.fields.example(2)
    assert (asked["history"].keys(), asked["candidates"][0].keys()) == (
        {"item_history", "cate_history"},
        {"item_id", "cate_id"},
    )
    assert len(scorer.score(**asked)) == 2


BUCKETS = [
    {"name": [f"I{i}" for i in range(1, 14)], "dtype": "float", "type": "categorical", "fill_na": 0,
     "preprocess": "convert_to_bucket"},
    {"name": "Q1", "dtype": "float", "type": "categorical", "preprocess": "copy_from(I1)", "fill_na": 2,
     "category_processor": "quantile_bucket"},
    {"name": ["C1", "C2"], "dtype": "str", "type": "categorical", "category_processor": "hash_bucket"},
    {"name": "N3", "dtype": "str", "type": "numeric", "preprocess": "bucketize_age(I3)"},
]  # fmt: skip


@pytest.mark.parametrize("model", ["MLP", pytest.param("QIN", marks=pytest.mark.slow)])
def test_buckets_and_made_numbers(model, tmp_path):
    done = made(tmp_path, "criteo", BUCKETS, model, **HISTORIES[model])
    export(done, tmp_path)
    scorer = Scorer(tmp_path / "m.onnx")
    check_all_rows(done, scorer)
    assert {*scorer.fields.rows} == {*(f"I{i}" for i in range(1, 14)), "C1", "C2"}


def test_encoded_files_take_ids(tiny_seq, tmp_path):
    """FuxiCTR's npz has no vocabularies: requests hold its ids, which are scored as `predict` scores the rows."""
    prepared = prepare("DIN_tiny_seq", data=tiny_seq)
    dataset = prepared.open_dataset()
    model = disturb(build_model(prepared, dataset)).eval()
    done = export((prepared, dataset, model), tmp_path)
    assert done.manifest["vocabularies"] == {}
    scorer, loader = Scorer(tmp_path / "m.onnx"), dataset.loader("valid", shuffle=False)
    columns = {name: values.tolist() for name, values in loader.batch(np.arange(loader.num_samples)).items()}
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    found = [float(scorer.answer(as_request(scorer, row))[0][0]) for row in rows]
    assert np.abs(np.array(found) - model.predict(loader)).max() <= 1e-6
    with pytest.raises(RequestError, match="expected an id from 0 to"):
        scorer.answer({**as_request(scorer, rows[0]), "history": [10**6]})


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
    known = next(row for row in rows if row["item"] in scorer.fields.rows["item"][0].words)
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
    with pytest.raises(RequestError, match="at most 2 items, found 3"):
        scorer.answer({**asked, "candidates": asked["candidates"] * 3})
    with pytest.raises(RequestError, match="clicks: expected at most 3 items, found 4"):
        scorer.answer({**asked, "history": {**asked["history"], "clicks": ["i1"] * 4}})


def test_scoring_needs_neither_torch_nor_polars(exported):
    path, (*_, rows) = exported
    asked = json.dumps(as_request(Scorer(path), rows[0]))
    code = (
        "import json, sys; from qin_zoo.serving import Scorer; "
        f"Scorer({str(path)!r}).answer(json.loads({asked!r})); "
        "print([m for m in ('torch', 'polars', 'fuxictr', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("options", [{"table": "int8"}, {"new_items": Path("new.parquet")}])
def test_options_of_item_tables_are_refused(options, exported, tmp_path):
    with pytest.raises(ConfigError, match="--table and --items"):
        export(exported[1], tmp_path, **options)
