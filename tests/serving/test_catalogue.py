"""The best of a catalogue, against a plain sort of what ONNX Runtime says of all its items; and filters."""

import json
import shutil
import time
import tracemalloc

import numpy as np
import pytest
from http_service import CONTEXT, Local, path_fixture, rewrite, scorer_fixture, settings  # noqa: F401

pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError, RequestError
from qin_zoo.serving import Scorer, bundle
from qin_zoo.serving.catalogue import Catalogue, best, pack, unpack


@pytest.fixture(scope="module")
def shop(path, tmp_path_factory):
    """The export with ids of the caller's, words for tags, and two items that have no id."""
    out = shutil.copy(path, tmp_path_factory.mktemp("shop") / "shop.onnx")

    def named(manifest):
        names = [None, *(f"sku-{row}" for row in range(1, manifest["items"]["count"]))]
        names[5] = names[6] = None
        manifest["items"]["original_ids"] = names
        (tags,) = (one for one in manifest["items"]["features"] if one["name"] == "item_tags")
        tags["words"] = [f"tag {code}" for code in range(1, int(unpack(tags["codes"]).max()) + 1)]

    rewrite(out, named)
    return out


def all_scores(path, history: list) -> np.ndarray:
    """Of every item but padding, (U - 1,): ONNX Runtime called with the graph alone."""
    import onnxruntime as ort

    data, manifest = bundle.read(path)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    count = manifest["items"]["count"] - 1
    feed = {"history": np.array(history, np.int64), "candidates": np.arange(1, count + 1)}
    for name, value in CONTEXT.items():
        feed[f"context.{name}"] = np.full(count, value, np.int64)
    for given in session.get_inputs():
        if given.name.startswith("new."):
            kind = np.int64 if "int" in given.type else np.float32
            feed[given.name] = np.zeros((1, *given.shape[1:]), kind)
    return session.run(None, feed)[0]


def tags_of(path) -> np.ndarray:
    """(U, T) tags as the manifest has them, read without our code."""
    import base64
    import zlib

    _, manifest = bundle.read(path)
    (packed,) = (one["codes"] for one in manifest["items"]["features"] if one["name"] == "item_tags")
    return np.frombuffer(zlib.decompress(base64.b85decode(packed["zlib"])), "<i4").reshape(packed["shape"])


class TestTop:
    @pytest.mark.parametrize("block", [7, 64, 4096])
    def test_as_a_plain_sort_has_it(self, block, path, scorer, monkeypatch):
        monkeypatch.setattr(scorer, "_chunk", block)
        for history in ([3, 17, 5], [99] * 3, [*range(1, 65)]):
            scores = all_scores(path, history)
            order = np.argsort(-scores, kind="stable")
            for k in (1, 10, 100, 300):
                items, found, scored = scorer.top(k, history, CONTEXT)
                assert scored == 100
                np.testing.assert_allclose(found, scores[order[:k]], rtol=1e-5)
                assert items == (order[:k] + 1).tolist()

    def test_equal_scores_come_in_the_order_of_the_table(self):
        rows, scores = np.array([9, 4, 7, 1]), np.float32([1, 2, 2, 2])
        assert best(rows, scores, 3)[0].tolist() == [1, 4, 7]
        assert best(rows, scores, 2)[0].tolist() == [1, 4]

    def test_a_part_of_it(self, path, scorer):
        items, scores, scored = scorer.top(5, [3], CONTEXT, candidates=[5, 6, 7, 8, 5], exclude=[6])
        assert (sorted(items), scored) == ([5, 7, 8], 3)
        np.testing.assert_allclose(scores, scorer.score([3], items, CONTEXT), rtol=1e-5)
        tags = tags_of(path)
        tag, other = (int(code) for code in np.unique(tags[tags > 0])[:2])
        items, _, scored = scorer.top(300, [3], CONTEXT, where={"item_tags": tag})
        assert sorted(items) == np.flatnonzero((tags == tag).any(axis=1)).tolist()
        items, _, _ = scorer.top(300, [3], CONTEXT, where={"item_tags": [tag, other]})
        assert sorted(items) == np.flatnonzero(np.isin(tags, [tag, other]).any(axis=1)).tolist()
        assert scorer.top(3, [3], CONTEXT, where={"item_tags": 10**9})[0] == []

    def test_ids_and_words_of_the_caller(self, shop, path):
        scorer = Scorer(shop, ids="original")
        scores = all_scores(path, [3, 17])
        items, found, scored = scorer.top(10, ["sku-3", "sku-17"], CONTEXT, exclude=["sku-1"])
        left = [row for row in (np.argsort(-scores, kind="stable") + 1).tolist() if row not in (1, 5, 6)]
        assert scored == 97
        assert items == [f"sku-{row}" for row in left[:10]]
        np.testing.assert_allclose(found, scores[np.array(left[:10]) - 1], rtol=1e-5)
        tags = tags_of(path)
        tag = int(tags.max())
        items, _, _ = scorer.top(300, [], CONTEXT, where={"item_tags": f"tag {tag}"})
        assert {*items} == {f"sku-{row}" for row in np.flatnonzero((tags == tag).any(axis=1))} - {"sku-5", "sku-6"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"k": 0}, "k: expected a whole number from 1"),
            ({"k": True}, "k: expected a whole number"),
            ({"k": 10**9}, "from 1 to 100,000"),
            ({"where": {"item_tag": 1}}, "unknown feature 'item_tag'. Did you mean 'item_tags'"),
            ({"where": {"item_tags": "x"}}, "item_tags: expected a whole number, found 'x'"),
            ({"where": {"item_tags": True}}, "expected a whole number, found True"),
            ({"where": [1]}, "where: expected feature -> value"),
            ({"where": []}, r"where: expected feature -> value, found \[\]"),
            ({"context": {}}, "likes_level is missing"),
            ({"context": {**CONTEXT, "likes_level": [1, 2]}}, "one value"),
            ({"history": "x"}, "history: expected whole numbers"),
            ({"exclude": ["x"]}, "exclude: expected whole numbers"),
        ],
    )
    def test_refused(self, change, message, scorer):
        with pytest.raises(RequestError, match=message.replace("(", r"\(")):
            scorer.top(**{"k": 3, "history": [3], "context": CONTEXT, **change})

    def test_nothing_more_is_scored_once_nobody_waits(self, scorer, monkeypatch):
        monkeypatch.setattr(scorer, "_chunk", 10)
        left = iter([True, True])
        items, _, _ = scorer.top(100, [3], CONTEXT, going=lambda: next(left, False))
        assert sorted(items) == list(range(1, 21))

    def test_memory_is_bounded_by_blocks(self, scorer, monkeypatch):
        """A million items that the session does not know are asked for; it is told of the first rows instead."""
        count = 1_000_000
        monkeypatch.setattr(scorer, "catalogue", Catalogue({"count": count}))
        compute = scorer._compute

        def of_first_rows(names, feed, options):
            return compute(names, {**feed, "candidates": feed["candidates"] % 100 + 1}, options)

        monkeypatch.setattr(scorer, "_compute", of_first_rows)
        tracemalloc.start()
        begin = time.monotonic()
        items, _, scored = scorer.top(10, [3], CONTEXT, exclude=[1])
        assert time.monotonic() - begin < 120
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert scored == count - 2
        assert len(items) == 10
        assert peak < 50e6  # rows, eight bytes each; not a hundred of them for each item


class TestService:
    def test_top(self, shop, path):
        with Local(settings(shop, ids="original")) as client:
            asked = {"k": 4, "history": ["sku-3", "sku-17"], "context": CONTEXT}
            answer = client.post("/top", json=asked)
            assert answer.status_code == 200
            found = answer.json()
            items, scores, _ = Scorer(shop, ids="original").top(**asked)
            assert found["items"] == items
            np.testing.assert_array_equal(np.float32(found["scores"]), scores)
            assert found["scored"] == 98
            assert client.post("/top", json={**asked, "embeddings": {}}).status_code == 422
            assert client.post("/top", json={"history": []}).json()["detail"].startswith("k is missing")
            schema = client.get("/openapi.json").json()["components"]["schemas"]["TopRequest"]
            assert client.post("/top", json=schema["example"]).status_code == 200
            assert list(schema["properties"]["where"]["properties"]) == ["item_tags"]

    def test_errors_name_what_the_caller_named(self, shop):
        scorer = Scorer(shop, ids="original")
        with pytest.raises(RequestError, match="embeddings of item 'sku-new', item_tags"):
            scorer.score(["sku-1"], ["sku-new"], CONTEXT, {"sku-new": {"item_tags": ["x"]}})


class TestPack:
    def test_there_and_back(self):
        for codes in (np.zeros(0, int), np.arange(1000), np.arange(50).reshape(10, 5)):
            np.testing.assert_array_equal(unpack(json.loads(json.dumps(pack(codes)))), codes)

    @pytest.mark.parametrize(
        "packed",
        [
            {"shape": [10**9], "zlib": pack(np.zeros(10, int))["zlib"]},
            {"shape": [9], "zlib": pack(np.zeros(10**6, int))["zlib"]},  # no more is unpacked than fits
            {"shape": [10, 2**59], "zlib": pack(np.zeros(10, int))["zlib"]},  # more than there are bytes
            {"shape": [1], "zlib": "é"},
            {"shape": [1], "zlib": "abcd"},
        ],
    )
    def test_refused(self, packed, path, tmp_path):
        with pytest.raises(ValueError):  # noqa: PT011
            unpack(packed)
        out = shutil.copy(path, tmp_path / "m.onnx")

        def spoil(manifest):
            manifest["items"]["features"][0]["codes"] = packed

        rewrite(out, spoil)
        with pytest.raises(QinZooError, match=r"items.features\[0\].codes"):
            Scorer(out)
