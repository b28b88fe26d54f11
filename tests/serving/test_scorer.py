"""The scorer: requests it answers, requests and files it refuses, threads, and what it may import."""

import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import REPOSITORY

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError, RequestError
from qin_zoo.serving import Scorer, bundle

CONTEXT = {"likes_level": 3, "views_level": 4}


@pytest.fixture(scope="module")
def path(sample, tmp_path_factory):
    """An exported QIN with random weights; 101 items."""
    from qin_zoo.experiment.prepare import build_model, prepare
    from qin_zoo.export.export import export_model

    folder = tmp_path_factory.mktemp("exported")
    prepared = prepare("QIN_sample", data=sample, overrides=["embedding_initializer=partial(nn.init.normal_, std=0.3)"])
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    model.save_weights(str(folder / "m.model"))
    export_model(prepared, dataset, model, folder / "m.model", folder / "m.onnx", echo=lambda line: None)
    return folder / "m.onnx"


@pytest.fixture
def scorer(path):
    return Scorer(path)


class TestScores:
    def test_one_value_for_all_candidates_or_one_each(self, scorer):
        each = {name: [value] * 3 for name, value in CONTEXT.items()}
        got = scorer.score([1, 2], [3, 4, 5], CONTEXT)
        assert got.shape == (3,)
        assert got.dtype == np.float32
        assert ((got > 0) & (got < 1)).all()
        np.testing.assert_array_equal(got, scorer.score([1, 2], [3, 4, 5], each))
        np.testing.assert_array_equal(got, scorer.score(np.array([1, 2], np.int32), (3, 4, 5), CONTEXT))

    def test_padding_and_old_items_change_nothing(self, scorer):
        history = list(range(1, 65))
        want = scorer.score(history, [7], CONTEXT)
        assert scorer.score([0, 0, *history, 0], [7], CONTEXT) == want
        assert scorer.score([99, 98, *history], [7], CONTEXT) == want
        assert scorer.score([98, *history[1:]], [7], CONTEXT) != want

    def test_nothing(self, scorer):
        assert scorer.score([1], [], CONTEXT).shape == (0,)
        assert scorer.score([], [5], CONTEXT) == scorer.score([0, 0], [5], CONTEXT)

    def test_many_candidates_in_parts(self, scorer):
        candidates = np.arange(2500) % 100 + 1
        got = scorer.score([1, 2], candidates, CONTEXT)
        np.testing.assert_allclose(got[:100], scorer.score([1, 2], candidates[:100], CONTEXT), atol=1e-6)
        np.testing.assert_allclose(got[2400:], got[:100], atol=1e-6)

    def test_unknown_items_are_padding_and_counted(self, scorer):
        want = scorer.score([5], [0], CONTEXT)
        got = scorer.score([5, 101, 10**12], [101], CONTEXT)
        assert got == want
        assert scorer.stats == {"requests": 2, "candidates": 2, "unknown_items": 4}

    def test_features_of_an_unknown_item(self, scorer):
        g = np.random.default_rng(0)
        given = {500: {"item_emb_d128": g.normal(size=128).tolist(), "item_tags": [3]}, 1: {}}
        plain = scorer.score([500, 5], [500, 6], CONTEXT)
        got = scorer.score([500, 5], [500, 6], CONTEXT, embeddings=given)
        assert (abs(got - plain) > 1e-6).all()
        assert scorer.stats["unknown_items"] == 2

    def test_many_requests(self, scorer):
        requests = [{"history": [n], "candidates": [n + 1, n + 2], "context": CONTEXT} for n in range(1, 6)]
        for got, request in zip(scorer.score_many(requests), requests, strict=True):
            np.testing.assert_array_equal(got, scorer.score(**request))

    def test_threads_get_their_own_scores(self, scorer):
        requests = [([n % 50 + 1], np.arange(1, n % 30 + 2), CONTEXT) for n in range(200)]
        want = [scorer.score(*request) for request in requests]
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda request: scorer.score(*request), requests))
        assert all(np.array_equal(g, w) for g, w in zip(got, want))
        assert scorer.stats["requests"] == 400

    def test_with_the_unknown_items_of_the_request(self, scorer):
        scores, unknown = scorer.answer({"history": [1, 102], "candidates": [3, 101], "context": CONTEXT})
        np.testing.assert_array_equal(scores, scorer.score([1, 102], [3, 101], CONTEXT))
        assert unknown == 2

    def test_limits(self, path):
        scorer = Scorer(path, max_candidates=2, max_history=3)
        assert len(scorer.score([1, 2, 3], [1, 2], CONTEXT)) == 2
        with pytest.raises(RequestError, match="candidates: expected at most 2 items, found 3"):
            scorer.score([], [1, 2, 3], CONTEXT)
        with pytest.raises(RequestError, match="history: expected at most 3 items, found 4"):
            scorer.score([1] * 4, [1], CONTEXT)
        scorer = Scorer(path, max_embeddings=2)
        assert len(scorer.score([1], [500], CONTEXT, {500: {}, 501: {}})) == 1
        with pytest.raises(RequestError, match="embeddings: expected at most 2 items, found 3"):
            scorer.score([1], [500], CONTEXT, {500: {}, 501: {}, 502: {}})

    def test_what_it_says_of_itself(self, scorer):
        assert [found["name"] for found in scorer.inputs] == ["likes_level", "views_level"]
        assert scorer.inputs[0] == {"name": "likes_level", "type": "categorical", "vocab_size": 11, "default": None}
        assert scorer.items == 101


def test_whole_numbers_of_any_size_are_numbers(scorer):
    large = {500: {"item_emb_d128": [10**20, *[0] * 127]}}
    same = {500: {"item_emb_d128": [1e20, *[0.0] * 127]}}
    found, expected = (scorer.score([1], [500], CONTEXT, given) for given in (large, same))
    assert np.array_equal(found, expected, equal_nan=True)
    with pytest.raises(RequestError, match="expected"):
        scorer.score([1], [500], CONTEXT, {500: {"item_emb_d128": [10**400, *[0] * 127]}})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"context": {"likes_levl": 1}}, "context: unknown feature 'likes_levl'. Did you mean 'likes_level'"),
        ({"context": {"likes_level": 1}}, "context: views_level is missing"),
        ({"context": {**CONTEXT, "views_level": 11}}, "context: views_level: expected ids from 0 to 10, found 11"),
        ({"context": {**CONTEXT, "views_level": -1}}, "found -1"),
        ({"context": {**CONTEXT, "views_level": 1.5}}, "expected whole numbers, found 1.5"),
        ({"context": {**CONTEXT, "views_level": [1, 2, 3]}}, "one value for each of the 2 candidates"),
        ({"context": {**CONTEXT, "views_level": None}}, "views_level is missing"),
        ({"context": 5}, "context: expected feature -> value"),
        ({"history": [1, -2]}, "history: expected ids of 0 or more, found -2"),
        ({"history": [1, "2"]}, "history: expected whole numbers, found '2'"),
        ({"history": [1, 2.0]}, "history: expected whole numbers, found 2.0"),
        ({"history": [True]}, "expected whole numbers"),
        ({"history": [1, True]}, "expected whole numbers, found True"),
        ({"candidates": [1, "x"]}, "expected whole numbers, found 'x'"),
        ({"context": {**CONTEXT, "views_level": [1, True]}}, "expected whole numbers, found True"),
        ({"candidates": [500], "embeddings": {500: {"item_emb_d128": [True, *[1.0] * 127]}}}, "expected numbers"),
        ({"candidates": [500], "embeddings": {500: {"item_tags": [[]] * 9}}}, "a list of ids, or 1 of them, found 9"),
        ({"history": [[[[[[[[[1]]]]]]]]]}, "history: expected numbers, or lists of one length"),
        ({"history": [10**30]}, "history: expected whole numbers"),
        ({"history": 5}, "history: expected a list of item ids, found 5"),
        ({"history": [[1], [2, 3]]}, "history: expected numbers, or lists of one length"),
        ({"candidates": [[1]]}, "candidates: expected a list"),
        ({"candidates": [1] * 100_001}, "candidates: expected at most 100,000 items, found 100,001"),
        ({"candidates": None}, "candidates: expected whole numbers, found None"),
        ({"candidates": [500], "embeddings": {500: {"item_tag": [1]}}}, "Did you mean 'item_tags'"),
        ({"candidates": [500], "embeddings": {500: {"item_tags": [999]}}}, "expected ids from 0 to"),
        ({"candidates": [500], "embeddings": {500: {"item_tags": [1] * 6}}}, "expected at most 5 ids, found 6"),
        ({"candidates": [500], "embeddings": {500: {"item_emb_d128": [1.0]}}}, "expected 128 numbers"),
        ({"candidates": [500], "embeddings": {500: {"item_emb_d128": [float("nan")] * 128}}}, "finite"),
        ({"candidates": [500], "embeddings": {500: {"item_emb_d128": [1e300] * 128}}}, "finite"),
        ({"candidates": [500], "embeddings": {500: {"item_tags": [[1], 5]}}}, "expected a list of ids"),
        ({"candidates": [500], "embeddings": {500: 3}}, "expected feature -> value, found 3"),
        ({"candidates": [500], "embeddings": 3}, "embeddings: expected item -> features"),
        ({"candidates": [], "embeddings": {"": ""}}, "embeddings: expected whole numbers, found ''"),
        ({"embeddings": {500: {"item_tag": [1]}}}, "Did you mean 'item_tags'"),  # though nobody asks for item 500
    ],
)
def test_requests_that_are_refused(request_, message, scorer):
    request_ = {"history": [1], "candidates": [2, 3], "context": CONTEXT, **request_}
    with pytest.raises(RequestError) as error:
        scorer.score(**request_)
    assert message in str(error.value)
    with pytest.raises(RequestError, match=r"^request 1: "):
        scorer.score_many([{"history": [], "candidates": [], "context": CONTEXT}, request_])
    assert scorer.stats["requests"] == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"histroy": [1]}, "unknown key 'histroy'. Did you mean 'history'"),
        ({"history": [1]}, "candidates is missing"),
        ([1], "expected a mapping"),
    ],
)
def test_requests_of_other_form(request_, message, scorer):
    with pytest.raises(RequestError, match=message):
        scorer.score_many([request_])


@pytest.mark.parametrize(
    "request_",
    [
        {"long" * 200_000: 1},
        {"context": {"likes" * 180_000: 1}},
        {"candidates": [500], "embeddings": {500: {"item_tag" * 110_000: 1}}},
        {"candidates": [500], "embeddings": {item: {} for item in range(500, 80_000)}},
        {"candidates": ["x" * 50_000, *[1] * 5000]},
        {"candidates": [[["x" * 50_000], *[[1]] * 5000]]},
        {"context": {**CONTEXT, "views_level": ["x" * 50_000, *[1] * 5000]}},
        {"candidates": [500], "embeddings": {500: {"item_tags": [[]] * 300_000}}},
    ],
    ids=["key", "row feature", "item feature", "embeddings", "text", "text in a list", "text in context", "lists"],
)
def test_a_refusal_costs_little(request_, scorer):
    """A megabyte of JSON cannot hold up the interpreter, nor become a gigabyte of NumPy."""
    request_ = {"history": [1], "candidates": [2, 3], "context": CONTEXT, **request_}
    begin = time.thread_time()
    with pytest.raises(RequestError):
        scorer.answer(request_)
    assert time.thread_time() - begin < 0.05
    tracemalloc.start()
    with pytest.raises(RequestError):
        scorer.answer(request_)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


class TestFiles:
    """A tampered or truncated export is refused, wherever it was touched."""

    def refused(self, data: bytes, tmp_path) -> str:
        file = tmp_path / "m.onnx"
        file.write_bytes(data)
        with pytest.raises(QinZooError) as error:
            Scorer(file)
        assert str(file) in str(error.value)
        return str(error.value)

    def test_every_kind_of_change(self, path, tmp_path):
        data = path.read_bytes()
        for place in np.random.default_rng(0).integers(0, len(data), 60):
            changed = bytearray(data)
            changed[place] ^= 1
            self.refused(bytes(changed), tmp_path)

    @pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.9999])
    def test_cut_short(self, share, path, tmp_path):
        data = path.read_bytes()
        assert "cut short" in self.refused(data[: int(len(data) * share)], tmp_path)

    def test_weights_changed(self, path, tmp_path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 64
        message = self.refused(bytes(data), tmp_path)
        assert "expected SHA-256" in message
        assert "found" in message

    def test_manifest_changed(self, path, tmp_path):
        data = path.read_bytes()
        assert b'"max_len": 64' in data
        assert "SHA-256" in self.refused(data.replace(b'"max_len": 64', b'"max_len": 63'), tmp_path)

    def test_something_behind_it(self, path, tmp_path):
        self.refused(path.read_bytes() + b"x", tmp_path)
        self.refused(path.read_bytes() * 2, tmp_path)

    def test_another_format(self, path, tmp_path, monkeypatch):
        _, manifest = bundle.read(path)
        monkeypatch.setattr(bundle, "FORMAT", 2)
        file = tmp_path / "m.onnx"
        file.write_bytes(bundle.seal(b"", manifest)[0])
        monkeypatch.undo()
        with pytest.raises(QinZooError, match="has format 2"):
            Scorer(file)

    @pytest.mark.parametrize("content", [b"hello", b"\xff" * 100, b"PK\x03\x04 a zip file"])
    def test_other_files(self, content, tmp_path):
        self.refused(content, tmp_path)

    def test_no_file(self, tmp_path):
        with pytest.raises(QinZooError, match="No such file"):
            Scorer(tmp_path / "none.onnx")

    def test_sealed_but_no_model(self, path, tmp_path):
        _, manifest = bundle.read(path)
        (tmp_path / "m.onnx").write_bytes(bundle.seal(bundle._field(7, b"nonsense"), manifest)[0])
        with pytest.raises(QinZooError, match="is no ONNX model"):
            Scorer(tmp_path / "m.onnx")
        (tmp_path / "m.onnx").write_bytes(bundle.seal(bundle._field(7, b""), manifest)[0])
        with pytest.raises(QinZooError, match="cannot be run by ONNX Runtime"):
            Scorer(tmp_path / "m.onnx")


@pytest.mark.parametrize(("options", "message"), [({"threads": 0}, "threads"), ({"ids": "orginal"}, "Did you mean")])
def test_options(options, message, path):
    with pytest.raises(QinZooError, match=message):
        Scorer(path, **options)


def test_original_ids_are_refused_where_there_are_none(path):
    with pytest.raises(QinZooError, match="holds no original ids"):
        Scorer(path, ids="original")


def test_imports_nothing_heavy(path):
    heavy = ["torch", "fuxictr", "ray", "polars", "pandas", "sklearn", "onnx", "typer", "yaml"]
    code = (
        f"import sys; from qin_zoo.serving import Scorer; Scorer({str(path)!r}).score([1], [2], {CONTEXT!r}); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_short_way_says_what_the_long_one_does(scorer, monkeypatch):
    """Requests as most are take a way of their own; others, and their messages, must not notice."""
    g = np.random.default_rng(0)
    asked = [
        {
            "history": g.integers(1 - number % 2, 101 + number % 3, number % 70).tolist(),
            "candidates": g.integers(1 - number % 5 // 4, 101 + number % 7 // 6, 1 + number % 40).tolist(),
            "context": {"likes_level": number % 12, "views_level": [None, 1, True, 2.0, "3"][number % 5]},
        }
        for number in range(300)
    ]
    for one in asked[::2]:
        one["context"]["views_level"], one["context"]["likes_level"] = 3, one["context"]["likes_level"] % 11
    asked += [{"history": [], "candidates": [1]}, {"history": [1], "candidates": [2], "context": {}}]

    def told(one):
        try:
            scores, unknown = scorer.answer(one)
            return scores.tolist(), unknown
        except RequestError as error:
            return str(error)

    short = [told(one) for one in asked]
    taken = [scorer.requests._plain(**one) for one in asked[:300]]
    assert 50 < sum(found is not None for found in taken) < 250
    monkeypatch.setattr(scorer.requests, "_plain", lambda *_: None)
    assert [told(one) for one in asked] == short
