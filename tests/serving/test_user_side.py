"""What a service looks up of a user is what the next day's rows say: the scores that torch gives those rows."""

import json

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from http_service import JSON, Local, settings

from qin_zoo.data.importers import ImportOptions, import_table
from qin_zoo.data.importers.before import Before
from qin_zoo.data.importers.description import read_description
from qin_zoo.data.importers.guess import describe, extension
from qin_zoo.experiment.predict import predict_rows
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.export.export import export_model
from qin_zoo.export.histories import export_histories
from qin_zoo.models.weights import warm_start
from qin_zoo.serving.histories import FileHistories
from qin_zoo.serving.scorer import Scorer

DAYS = 86_400
COUNTED = ("likes_level", "views_level", "rate_level", "user_rate_level")


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Folder: ``first`` and ``second`` import of a log, and of the first an export with histories."""
    folder, g = tmp_path_factory.mktemp("users"), np.random.default_rng(0)
    moments = np.sort(g.integers(0, 20 * DAYS, 3000)) + 1_700_000_000
    log = pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in g.integers(0, 60, 3000)],
            "item_id": [f"sku-{n}" for n in g.zipf(1.4, 3000).clip(max=40)],
            "time": moments,
            "click": g.integers(0, 2, 3000),
        }
    )
    late = moments >= moments[-1] - DAYS // 2
    log.loc[~late & (log["user_id"] == "u3"), "user_id"] = "u4"  # u3 is new on the second day
    users = pd.DataFrame({"user_id": [f"u{n}" for n in range(60)], "age": np.arange(60) * 0.7})
    users["city"] = ["a", "b", "c"] * 20
    for name, rows in (("raw", log[~late]), ("day", log[late])):
        (folder / name).mkdir()
        rows.to_csv(folder / name / "log.csv", index=False)
        users.to_csv(folder / name / "users.csv", index=False)
    first, second = folder / "first", folder / "second"
    import_table(describe([folder / "raw"]), first, ImportOptions(max_history=8))
    before = Before.open(first)
    description = extension([folder / "day"], read_description(before.summary["description"], "x", before.path))
    given = ImportOptions(extend=str(first), only_new=True)
    import_table(description, second, before.options({"extend", "only_new"}, given), before)
    prepared = prepare("DIN", data=first, overrides={"model_root": str(folder / "out"), "embedding_dim": 4})
    dataset = prepared.open_dataset()
    torch.manual_seed(0)
    model = build_model(prepared, dataset).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    model.save_weights(str(folder / "w.model"))
    export_model(prepared, dataset, model, folder / "w.model", folder / "m.onnx", echo=lambda line: None)
    export_histories(dataset, folder / "h.npz")
    return folder


@pytest.fixture(scope="module")
def asked(days):
    """Of the second day, each user's first row of the training split: user, item, and the score by torch."""
    prepared = prepare("DIN", data=days / "second", overrides={"model_root": str(days / "out"), "embedding_dim": 4})
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    warm_start(model, str(days / "w.model"))
    rows = pl.read_parquet(days / "second" / "train.parquet").with_columns(
        score=pl.Series(predict_rows(model, dataset, "train")[0])
    )
    for name in ("user", "item"):
        rows = rows.join(pl.read_parquet(days / "second" / f"ids_{name}.parquet"), on=f"{name}_id").rename(
            {"original_id": name if name == "item" else "name"}
        )
    rows = rows.filter(pl.col("name") != "u3").unique("user_id", keep="first", maintain_order=True)
    # What was counted of an item by the evening before, and what a user's rate is drawn to, moves within the day.
    return rows.select("name", "item", "score", *COUNTED).to_dicts()


def ask(client: httpx.Client, **request) -> list[float]:
    answer = client.post("/score", content=json.dumps(request), headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()["scores"]


def test_scores_of_the_next_days_rows(days, asked):
    chosen = settings(days / "m.onnx", ids="original", histories=str(days / "h.npz"))
    same = 0
    with Local(chosen, histories=FileHistories(days / "h.npz", 8, "original")) as client:
        for row in asked:
            moved = {name: row[name] for name in COUNTED}
            (score,) = ask(client, user_id=row["name"], candidates=[row["item"]], context=moved)
            assert score == pytest.approx(row["score"], abs=1e-5)
            (left,) = ask(client, user_id=row["name"], candidates=[row["item"]])
            same += left == pytest.approx(row["score"], abs=1e-5)
    assert len(asked) > 20
    assert same > len(asked) * 0.6  # the others' counts had moved by the moment of the row


def test_what_nothing_is_known_of(days):
    """A user whom no day has seen counts as one without a row; without user_id the features have to be given."""
    scorer = Scorer(days / "m.onnx", ids="original")
    assert {*scorer.of_user} == {"user", "user_views_level", "user_rate_level", "user_age", "user_city"}
    chosen = settings(days / "m.onnx", ids="original", histories=str(days / "h.npz"))
    with Local(chosen, histories=FileHistories(days / "h.npz", 8, "original")) as client:
        zeros = dict.fromkeys(scorer.of_user, 0)
        none = {"item_seq": [], "item_seq_label": []}
        expected = scorer.score(none, ["sku-1", "sku-2"], zeros).tolist()
        assert ask(client, user_id="nobody", candidates=["sku-1", "sku-2"]) == pytest.approx(expected)
        aged = scorer.score(none, ["sku-1"], {**zeros, "user_age": 0.5}).tolist()
        assert ask(client, user_id="nobody", candidates=["sku-1"], context={"user_age": 0.5}) == pytest.approx(aged)
        refused = client.post("/score", content=json.dumps({"history": none, "candidates": ["sku-1"]}), headers=JSON)
        assert refused.status_code == 422
        assert "user_id tells it" in refused.json()["detail"]
        best = client.post("/top", content=json.dumps({"user_id": "u4", "k": 3}), headers=JSON).json()
        assert best["scores"] == pytest.approx(ask(client, user_id="u4", candidates=best["items"]), abs=1e-6)
        described = client.get("/openapi.json").json()["components"]["schemas"]["ScoreRequest"]
        assert described["required"] == ["candidates"]
        kept = {"user_id": "u4", "item": {"item_seq": "sku-9", "item_seq_label": 2}}
        assert client.post("/events", content=json.dumps(kept), headers=JSON).status_code == 200
        assert FileHistories(days / "h.npz", 8, "original").get("u4").history["item_seq"][-1] == "sku-9"
        for item in ("sku-9", {"item_seq": "sku-9"}, {**kept["item"], "rating": 5}):
            refused = client.post("/events", content=json.dumps({**kept, "item": item}), headers=JSON)
            assert refused.status_code == 422
            assert "item: expected a value of each by name, item_seq, item_seq_label," in refused.json()["detail"]


def test_the_store_is_what_the_log_says(days):
    """By pandas: the newest eight, oldest first, clicks told from the others; a user new on the second day is none."""
    log = pd.read_csv(days / "raw" / "log.csv")
    store = FileHistories(days / "h.npz", 100, "original")
    for user, mine in log.sort_values("time").groupby("user_id"):
        known = store.get(user)
        if user != "u4":  # has an event of another test
            assert known.history["item_seq"] == mine["item_id"].tolist()[-8:]
            assert known.history["item_seq_label"] == (mine["click"] + 1).tolist()[-8:]
        assert known.features["user_views_level"] == len(mine).bit_length()
    assert store.get("u3").history == {"item_seq": [], "item_seq_label": []}
    assert store.get("u3").features["user"] == store.get("u3").features["user_views_level"] == 0
