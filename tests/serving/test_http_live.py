"""The model in use: what may replace it, what may not, and the request it shows as an example."""

import asyncio
import copy
import gc
import logging
import shutil
import time

import numpy as np
import pytest
from http_service import endless, export, live_model, rewrite, settings

pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError
from qin_zoo.files import file_state
from qin_zoo.serving import Scorer
from qin_zoo.serving.http import loading
from qin_zoo.serving.http import models as models_module
from qin_zoo.serving.http.loading import model_facts, try_out
from qin_zoo.serving.http.models import broken
from qin_zoo.serving.items import ItemRequests


@pytest.fixture
def path(sample, tmp_path):
    """An export whose items may be made more or fewer: it says nothing of each of them."""
    path = shutil.copy(export(sample), tmp_path / "m.onnx")
    rewrite(path, lambda manifest: manifest["items"].pop("features"))
    return path


def test_replaced(sample, path, caplog):
    caplog.set_level(logging.INFO)
    live = live_model(path)
    old = live.current
    assert asyncio.run(live.reload()) == "unchanged"
    assert live.current is old
    shutil.copy(export(sample, 2), path)
    assert asyncio.run(live.reload()) == "loaded"
    assert model_facts(live.current)["fingerprint"] != model_facts(old)["fingerprint"]
    assert model_facts(live.current)["fingerprint"] in caplog.text


def test_a_cut_file_is_refused(path, caplog):
    live = live_model(path)
    old = live.current
    path.write_bytes(path.read_bytes()[:-10])
    assert asyncio.run(live.reload()) == "refused"
    assert live.current is old
    assert "cut short" in caplog.text


def test_a_file_that_does_not_score_is_refused(sample, path, monkeypatch, caplog):
    live = live_model(path)
    old = live.current

    def more_items(manifest):
        manifest["items"]["count"] = 200

    rewrite(path, more_items)
    assert asyncio.run(live.reload()) == "refused"
    assert "fails on its first request" in caplog.text
    assert live.current is old
    shutil.copy(export(sample), path)
    for scores in ([0.5, np.nan], [[0.5] * 100]):
        monkeypatch.setattr(Scorer, "answer", lambda *_, scores=scores: (np.array(scores, np.float32), 0))
        with pytest.raises(QinZooError, match="expected 100 finite scores"):
            live_model(path)


def test_other_row_features_are_told(path, caplog):
    live = live_model(path)

    def another_size(manifest):
        manifest["inputs"]["context"][0]["vocab_size"] = 12

    rewrite(path, another_size)
    assert asyncio.run(live.reload()) == "loaded"
    assert "reload changes the row features" in caplog.text
    assert live.current.inputs[0]["vocab_size"] == 12


def more(name, kind="context", **described):
    return lambda manifest: manifest["inputs"][kind].append({"name": name, "type": "numeric", **described})


def less(kind, name=0):
    return lambda manifest: manifest["inputs"][kind].pop(name)


def other(key, value, *place):
    def change(manifest):
        for step in place:
            manifest = manifest[step]
        manifest[key] = value

    return change


class TestContract:
    """What replaces a model answers the requests of its clients, and means the same by them."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (more("age", default=None), "context: age must be given"),
            (other("vocab_size", 10, "inputs", "context", 0), "context: likes_level has the vocab_size 10, had 11"),
            (other("dataset_id", "another"), "dataset_id is 'another', was 'sample'"),
            (other("task", "regression"), "task is 'regression', was 'binary_classification'"),
            (other("count", 100, "items"), "items are numbered up to 99, were up to 100"),
            (other("order", "newest", "inputs", "history"), "its history changed"),
            (other("pairs", ["a"], "inputs"), "its pairs changed"),
        ],
    )
    def test_broken(self, change, message, path, caplog):
        live = live_model(path)
        old = live.current
        rewrite(path, change)
        assert asyncio.run(live.reload()) == "refused"
        assert message in caplog.text
        assert "Start the service anew" in caplog.text
        assert live.current is old
        assert model_facts(live_model(path).current) != model_facts(old)

    @pytest.mark.parametrize("kind", ["context", "new"])
    def test_a_feature_less(self, kind, path):
        """In the old model, as a graph cannot do without an input."""
        before, after = Scorer(path), Scorer(path)
        name = before.manifest["inputs"][kind][0]["name"]
        after.manifest["inputs"][kind].pop(0)
        where = {"context": "context", "new": "embeddings"}[kind]
        assert broken(before, after, "table") == [f"{where}: {name} is no longer taken"]
        assert broken(after, before, "table") == ([f"context: {name} must be given"] if kind == "context" else [])

    @pytest.mark.parametrize(
        "change",
        [
            more("age", default=0.0),
            other("vocab_size", 12, "inputs", "context", 0),
            other("max_len", 20, "inputs", "history"),
            other("name", "better"),
        ],
    )
    def test_kept(self, change, path):
        live = live_model(path)
        rewrite(path, change)
        assert asyncio.run(live.reload()) == "loaded"

    def test_original_ids_may_become_fewer(self, path):
        before, after = Scorer(path), Scorer(path)
        after.items = 50
        assert broken(before, after, "original") == []


class TestTrial:
    def test_no_end(self, path):
        endless(path)
        with pytest.raises(QinZooError, match=r"m\.onnx was not loaded and warmed up within 2 seconds"):
            asyncio.run(try_out(path, settings(path, load_timeout=2.0)))

    def test_a_crash_is_not_ours(self, path, monkeypatch):
        monkeypatch.setattr(loading, "_CODE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(QinZooError, match=r"m\.onnx ended the process that tried it, with status -11\."):
            asyncio.run(try_out(path, settings(path)))

    def test_modules_of_the_working_folder_are_not_taken(self, path, tmp_path, monkeypatch):
        (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
        monkeypatch.chdir(tmp_path)
        assert asyncio.run(try_out(path, settings(path))) == Scorer(path).manifest["sha256"]

    def test_the_service_ends_meanwhile(self, path, monkeypatch, caplog):
        """By Ctrl-C or SIGTERM; there is no traceback in the log."""
        monkeypatch.setattr(loading, "_CODE", "import time; time.sleep(60)")

        async def ends():
            trying = asyncio.create_task(try_out(path, settings(path)))
            await asyncio.sleep(0.5)
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying

        begin = time.monotonic()
        asyncio.run(ends())
        gc.collect()  # asyncio logs an error that nobody has asked for when it is thrown away
        assert not caplog.records
        assert time.monotonic() - begin < 20

    def test_replaced_meanwhile(self, sample, path, monkeypatch, caplog):
        live = live_model(path)

        async def tried(*_):
            shutil.copy(export(sample, 2), path)
            return "0" * 64

        monkeypatch.setattr(models_module, "try_out", tried)
        assert asyncio.run(live.reload()) == "refused"
        assert "was replaced while it was tried" in caplog.text


def test_what_a_replaced_file_shows(path):
    before = live_model(path).loaded
    assert file_state(path) == before
    path.write_bytes(path.read_bytes())
    assert file_state(path) != before
    path.unlink()
    assert file_state(path) is None


def test_examples(path):
    scorer = Scorer(path)
    asked = scorer.requests.example(3)
    assert asked == {"history": [1, 2], "candidates": [98, 99, 100], "context": {"likes_level": 0, "views_level": 0}}
    assert len(scorer.requests.example(1000)["candidates"]) == 100


def test_original_ids(path):
    def named(manifest):
        manifest["items"]["original_ids"] = [None, *(f"item-{n}" for n in range(1, 101))]

    rewrite(path, named)
    live = live_model(path, ids="original")
    asked = live.current.requests.example(3)
    assert asked["history"] == ["item-1", "item-2"]
    _, unknown = live.current.answer(asked)
    assert unknown == 0


def test_examples_of_every_kind_of_feature(path):
    manifest = copy.deepcopy(Scorer(path).manifest)
    manifest["inputs"]["context"] = [
        {"name": "tags", "type": "sequence", "vocab_size": 5, "max_len": 3},
        {"name": "age", "type": "numeric"},
        {"name": "image", "type": "embedding", "dim": 2},
    ]
    requests = ItemRequests(manifest, "table", {"candidates": 9}, path)
    assert requests.example(3)["context"] == {"tags": [], "age": 0.0, "image": [0.0, 0.0]}
