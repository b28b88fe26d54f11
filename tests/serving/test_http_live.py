"""The model in use: what may replace it, what may not, and the request it shows as an example."""

import asyncio
import logging
import shutil

import numpy as np
import pytest
from http_service import export, settings

pytest.importorskip("fastapi")
pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError
from qin_zoo.serving import Scorer, bundle
from qin_zoo.serving.http.live import LiveModel, example, identity


@pytest.fixture
def path(sample, tmp_path):
    return shutil.copy(export(sample), tmp_path / "m.onnx")


def rewrite(path, change) -> None:
    """The same graph, sealed again with another manifest."""
    data, manifest = bundle.read(path)
    begin, _ = bundle._last_field(data, path)
    manifest = {key: value for key, value in manifest.items() if key not in ("sha256", "format")}
    change(manifest)
    path.write_bytes(bundle.seal(data[:begin], manifest)[0])


def test_replaced(sample, path, caplog):
    caplog.set_level(logging.INFO)
    live = LiveModel(settings(path))
    old = live.current
    assert asyncio.run(live.reload()) == "unchanged"
    assert live.current is old
    shutil.copy(export(sample, 2), path)
    assert asyncio.run(live.reload()) == "loaded"
    assert identity(live.current)["fingerprint"] != identity(old)["fingerprint"]
    assert identity(live.current)["fingerprint"] in caplog.text


def test_a_cut_file_is_refused(path, caplog):
    live = LiveModel(settings(path))
    old = live.current
    path.write_bytes(path.read_bytes()[:-10])
    assert asyncio.run(live.reload()) == "refused"
    assert live.current is old
    assert "cut short" in caplog.text


def test_a_file_that_does_not_score_is_refused(path, monkeypatch, caplog):
    live = LiveModel(settings(path))
    old = live.current

    def without_features(manifest):
        manifest["inputs"]["context"] = []

    rewrite(path, without_features)
    assert asyncio.run(live.reload()) == "refused"
    assert "fails on its first request" in caplog.text
    monkeypatch.setattr(Scorer, "answer", lambda *_: (np.array([0.5, np.nan], np.float32), 0))
    assert asyncio.run(live.reload()) == "refused"
    assert "expected finite scores" in caplog.text
    assert live.current is old
    with pytest.raises(QinZooError, match="expected finite scores"):
        LiveModel(settings(path))


def test_other_row_features_are_told(path, caplog):
    live = LiveModel(settings(path))

    def another_size(manifest):
        manifest["inputs"]["context"][0]["vocab_size"] = 12

    rewrite(path, another_size)
    assert asyncio.run(live.reload()) == "loaded"
    assert "reload changes the row features" in caplog.text
    assert live.current.inputs[0]["vocab_size"] == 12


def test_what_a_replaced_file_shows(path):
    live = LiveModel(settings(path))
    before = live.state()
    assert live.state() == before
    path.write_bytes(path.read_bytes())
    assert live.state() != before
    path.unlink()
    assert live.state() is None


def test_examples(path):
    scorer = Scorer(path)
    asked = example(scorer, "table")
    assert asked == {"history": [1, 2], "candidates": [98, 99, 100], "context": {"likes_level": 0, "views_level": 0}}
    assert len(example(scorer, "table", 1000)["candidates"]) == 100


def test_original_ids(path):
    def named(manifest):
        manifest["items"]["original_ids"] = [None, *(f"item-{n}" for n in range(1, 101))]

    rewrite(path, named)
    live = LiveModel(settings(path, ids="original"))
    asked = example(live.current, "original")
    assert asked["history"] == ["item-1", "item-2"]
    _, unknown = live.current.answer(asked)
    assert unknown == 0


def test_examples_of_every_kind_of_feature(path):
    scorer = Scorer(path)
    scorer.inputs = [
        {"name": "tags", "type": "sequence", "vocab_size": 5, "max_len": 3},
        {"name": "age", "type": "numeric"},
        {"name": "image", "type": "embedding", "dim": 2},
    ]
    assert example(scorer, "table")["context"] == {"tags": [], "age": 0.0, "image": [0.0, 0.0]}
