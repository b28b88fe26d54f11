"""The application: scores, refusals, token, metrics and pages, without a socket."""

import html
import json
import re
import socket
import threading
import time
import tracemalloc
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from http_service import (
    CONTEXT,
    JSON,
    Local,
    answer_of,
    export,
    path_fixture,  # noqa: F401
    post,
    receive_all,
    request,
    scorer_fixture,  # noqa: F401
    settings,
)

pytest.importorskip("onnxscript")

from qin_zoo.serving import Scorer
from qin_zoo.serving.http import app as app_module
from qin_zoo.serving.http.models import Models
from qin_zoo.serving.http.schema import openapi


@pytest.fixture
def make(path):
    """Clients of applications with settings of their own."""
    with ExitStack() as stack:

        def make(**changes) -> httpx.Client:
            return stack.enter_context(Local(settings(changes.pop("path", path), **changes)))

        yield make


@pytest.fixture
def client(make):
    return make()


class TestScore:
    def test_exactly_the_scorer_s(self, client, scorer):
        for number in range(30):
            asked = request(number, number)
            answer = client.post("/score", json=asked)
            assert answer.status_code == 200
            found = answer.json()
            np.testing.assert_array_equal(np.array(found["scores"], np.float32), scorer.score(**asked))
            assert found["model"] == {"name": "QIN_sample", "fingerprint": scorer.manifest["sha256"]}
            assert found["unknown_items"] == 0

    def test_items_beyond_the_table(self, client, scorer):
        features = {"item_emb_d128": [0.5] * 128, "item_tags": [3]}
        asked = {"history": [500, 7], "candidates": [500, 501, 3], "context": CONTEXT}
        plain = client.post("/score", json=asked).json()
        given = client.post("/score", json={**asked, "embeddings": {"500": features}}).json()
        assert (plain["unknown_items"], given["unknown_items"]) == (3, 1)
        want = scorer.score(**asked, embeddings={500: features})
        np.testing.assert_array_equal(np.array(given["scores"], np.float32), want)
        assert plain["scores"] != given["scores"]

    def test_neighbours_change_nothing(self, client, scorer):
        requests = [request(number, number % 40 + 1) for number in range(200)]
        found: dict[int, list] = {}

        def ask(part):
            for number in part:
                found[number] = client.post("/score", json=requests[number]).json()["scores"]

        threads = [threading.Thread(target=ask, args=(range(first, 200, 8),)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, asked in enumerate(requests):
            np.testing.assert_array_equal(np.array(found[number], np.float32), scorer.score(**asked))


BODY = {"history": [1], "candidates": [2, 3], "context": CONTEXT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": {**CONTEXT, "views_level": 11}}, "context: views_level: expected ids from 0 to 10, found 11"),
        ({"histroy": []}, "unknown key 'histroy'. Did you mean 'history'"),
        ({"candidates": list(range(301))}, "candidates: expected at most 300 items, found 301"),
        ({"history": [1] * 501}, "history: expected at most 500 items, found 501"),
        ({"candidates": [-1]}, "expected ids of 0 or more"),
        ({"candidates": [2**63]}, "below 2^63"),
        ({"candidates": [10**400]}, "expected whole numbers"),
        ({"candidates": [1e400]}, "expected whole numbers, found inf"),
        ({"candidates": "12"}, "expected whole numbers, found '12'"),
        ({"history": {"1": 2}}, "expected whole numbers"),
        ({"context": {"\ud800": 1}}, "unknown feature '\\ud800'"),
        ({"context": {**CONTEXT, "views_level": [[[[1]]]]}}, "one value for each of the 2 candidates"),
        ({"candidates": [500], "embeddings": {"500": {"item_tags": [[1], 5]}}}, "expected a list of ids"),
        ({"candidates": [500], "embeddings": {"500": {"item_tags": [None]}}}, "expected whole numbers"),
        ({"candidates": [500], "embeddings": {"0500": {}}}, "embeddings: expected whole numbers, found '0500'"),
        ({"candidates": [500], "embeddings": {"x" * 10**4: {}}}, "embeddings: expected whole numbers, found 'xxx"),
        ({"candidates": [500], "embeddings": {"500": {"item_emb_d128": [1e300] * 128}}}, "expected finite numbers"),
        ({"candidates": [500], "embeddings": {"500": {"item_emb_d128": [3e38] * 128}}}, "give finite scores"),
        ({"candidates": [500], "embeddings": [1]}, "embeddings: expected item -> features"),
        ({"embeddings": []}, "embeddings: expected item -> features, found []"),
        ({"embeddings": False}, "embeddings: expected item -> features, found False"),
    ],
)
def test_requests_that_are_refused(change, message, client):
    answer = client.post("/score", content=json.dumps({**BODY, **change}).replace("Infinity", "1e400"), headers=JSON)
    assert answer.status_code == 422
    assert list(answer.json()) == ["detail"]
    assert message in answer.json()["detail"]
    assert len(answer.content) < 500


def ask(client: httpx.Client) -> socket.socket:
    """A connection that has sent a request."""
    connection, body = socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60), json.dumps(BODY)
    connection.sendall(post(body.encode(), "Connection: close", length=len(body)))
    return connection


def test_lists_within_lists(client):
    """Whatever the depth, the answer is one of ours."""
    for depth in (10, 70, 200, 900, 990, 5000):
        nested = "[" * depth + "]" * depth
        answer = client.post("/score", content=f'{{"history": {nested}, "candidates": []}}', headers=JSON)
        assert answer.status_code in (400, 422)
        assert answer.json()["detail"]


class TestOtherRefusals:
    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_another_content_type(self, kind, client):
        answer = client.post("/score", content=json.dumps(BODY), headers={"Content-Type": kind})
        assert answer.status_code == 415
        assert "Content-Type: application/json" in answer.json()["detail"]

    def test_a_content_type_with_parameters(self, client):
        kind = "Application/JSON; charset=utf-8"
        assert client.post("/score", content=json.dumps(BODY), headers={"Content-Type": kind}).status_code == 200

    def test_a_compressed_body(self, client):
        for coding, status in (("gzip", 415), ("br", 415), ("Identity", 200)):
            headers = {**JSON, "Content-Encoding": coding}
            answer = client.post("/score", content=json.dumps(BODY), headers=headers)
            assert answer.status_code == status
            assert status == 200 or f"without Content-Encoding, found '{coding}'" in answer.json()["detail"]

    def test_too_large(self, client):
        answer = client.post("/score", content=b"x" * 20_001, headers=JSON)
        assert answer.status_code == 413
        assert "at most 20,000 bytes" in answer.json()["detail"]
        assert client.post("/score", content=b" " * 20_000, headers=JSON).status_code == 400

    def test_more_lists_than_a_request_can_have(self, client):
        """They are counted before they are built."""
        answer = client.post("/score", content=json.dumps({**BODY, "history": [[]] * 500}), headers=JSON)
        assert answer.status_code == 422
        assert "expected at most 155 lists and objects, found 504" in answer.json()["detail"]

    def test_embeddings_up_to_the_limit(self, client):
        features = {"item_emb_d128": [1] * 128, "item_tags": [3]}
        asked = {**BODY, "embeddings": {str(item): features for item in range(500, 550)}}
        assert client.post("/score", json=asked).status_code == 200
        asked["embeddings"]["550"] = None
        answer = client.post("/score", json=asked)
        assert answer.status_code == 422
        assert "embeddings: expected at most 50 items, found 51" in answer.json()["detail"]

    def test_addresses_and_methods(self, client):
        for method, address, status in [("GET", "/score", 405), ("GET", "/nothing", 404), ("GET", "/docs", 404)]:
            answer = client.request(method, address)
            assert answer.status_code == status
            assert list(answer.json()) == ["detail"]

    def test_a_bug_is_logged_and_not_told(self, client, monkeypatch, caplog):
        monkeypatch.setattr(Scorer, "answer", lambda *_: 1 // 0)
        answer = client.post("/score", json=BODY)
        assert answer.status_code == 500
        assert "division" not in answer.text
        assert "ZeroDivisionError" in caplog.text
        assert client.get("/healthz").status_code == 200

    def test_overload(self, make, monkeypatch):
        """While one request is scored others come; more than may wait are told to come again."""
        begun, free = threading.Event(), threading.Event()

        def answer(self, request):
            begun.set()
            free.wait(60)
            return np.zeros(1, np.float32), 0

        client = make(max_waiting=2, timeout=60.0)
        monkeypatch.setattr(Scorer, "answer", answer)
        with ExitStack() as stack:
            asking = [stack.enter_context(ask(client))]
            assert begun.wait(60)
            asking += [stack.enter_context(ask(client)) for _ in range(5)]
            free.set()
            answers = [receive_all(connection) for connection in asking]
        refused = [answer for answer in answers if answer_of(answer)[0] == 503]
        assert len(refused) == 3
        assert answer_of(answers[0])[0] == 200
        assert b"\r\nretry-after: 1\r\n" in refused[0]
        assert "2 requests wait already" in answer_of(refused[0])[1]["detail"]

    def test_a_request_that_waited_too_long_is_not_scored(self, make, monkeypatch):
        begun = threading.Event()

        def answer(self, request):
            begun.set()
            time.sleep(1)
            return np.zeros(1, np.float32), 0

        client = make(timeout=0.5)
        monkeypatch.setattr(Scorer, "answer", answer)
        with ExitStack() as stack:
            asking = [stack.enter_context(ask(client))]
            assert begun.wait(60)
            asking += [stack.enter_context(ask(client)) for _ in range(2)]  # the second of them waits for the first
            answers = [answer_of(receive_all(connection)) for connection in asking]
        assert [status for status, _ in answers] == [200, 200, 503]
        assert "this request waited" in answers[2][1]["detail"]

    def test_many_candidates_keep_nobody_waiting(self, make, monkeypatch):
        """They are scored in a thread, and the answer is the same."""
        client, begun, free = make(max_candidates=5000, max_body=100_000), threading.Event(), threading.Event()
        many = {**BODY, "candidates": [1 + k % 100 for k in range(4000)]}
        plain, score = Scorer.answer, []

        def answer(self, request):
            if len(request["candidates"]) > 10:
                begun.set()
                assert free.wait(60)
            return plain(self, request)

        monkeypatch.setattr(Scorer, "answer", answer)
        thread = threading.Thread(target=lambda: score.append(httpx.post(f"{client.base_url}/score", json=many)))
        thread.start()
        assert begun.wait(60)
        assert client.post("/score", json=BODY).status_code == 200
        free.set()
        thread.join()
        found = np.float32(score[0].json()["scores"])
        assert len(found) == 4000
        np.testing.assert_array_equal(found[:100], found[100:200])


class TestToken:
    @pytest.fixture
    def client(self, make):
        return make(token="s3cret")

    @pytest.mark.parametrize("address", ["/score", "/metrics", "/openapi.json", "/", "/nothing"])
    def test_everything_but_health_asks_for_it(self, address, client):
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"},
                        {"Authorization": "Bearer"}, {"Authorization": "s3cret"},
                        {"Authorization": "Bearer s3cret s3cret"}, {"Authorization": b"Bearer \xff"}):  # fmt: skip
            answer = client.request("POST" if address == "/score" else "GET", address, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200

    def test_with_it(self, client):
        headers = {"Authorization": "bearer s3cret"}
        assert client.post("/score", json=BODY, headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
        described = client.get("/openapi.json", headers=headers).json()
        assert described["paths"]["/score"]["post"]["security"] == [{"token": []}]
        assert "Authorization: Bearer TOKEN" in client.get("/", headers=headers).text
        assert "s3cret" not in client.get("/", headers=headers).text


@pytest.mark.parametrize("ids", ["table", "original"])
def test_millions_of_items_are_not_listed(ids, path, make, monkeypatch):
    """The description shows a few, and is made once for a model."""
    count, made = 5_000_000, []
    monkeypatch.setattr(app_module, "openapi", lambda *args: made.append(args[0]) or openapi(*args))
    models = Models(settings(path))
    requests = models.first.current.requests
    requests.count, requests.named = count, ids == "original"
    if requests.named:
        requests.count, requests._original = count + 2, [None, "a", *range(count)]
    with Local(settings(path, ids=ids), models) as client:
        client.get("/healthz")
        tracemalloc.start()
        pages = [client.get(address).text for address in ("/", "/openapi.json") * 3]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10e6
    assert "4999999" in pages[0]
    assert json.loads(pages[1])["components"]["schemas"]["ScoreRequest"]["example"]["history"] == (
        ["a", 0] if ids == "original" else [1, 2]
    )
    assert len(made) == 1


def test_the_description_is_that_of_the_model_in_use(sample, path):
    models = Models(settings(path))
    live = models.first
    with Local(settings(path), models) as client:
        before = client.get("/openapi.json").json()["info"]["description"]
        live.current = Scorer(export(sample, 2))
        after = client.get("/openapi.json").json()["info"]["description"]
    assert before != after
    assert live.current.manifest["sha256"] in after


def test_metrics(client, scorer):
    client.post("/score", json={**BODY, "candidates": [1, 2, 500]})
    client.post("/score", json=BODY)
    client.post("/score", json={})
    client.post("/score", content="{", headers=JSON)
    client.get("/secret/path")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for line in (
        'qin_zoo_requests_total{endpoint="/score",status="200"} 2.0',
        'qin_zoo_requests_total{endpoint="/score",status="400"} 1.0',
        'qin_zoo_requests_total{endpoint="/score",status="422"} 1.0',
        'qin_zoo_requests_total{endpoint="other",status="404"} 1.0',
        "qin_zoo_request_seconds_count 4.0",
        "qin_zoo_candidates_total 5.0",
        "qin_zoo_unknown_items_total 1.0",
        "qin_zoo_waiting 0.0",
        "qin_zoo_in_flight 1.0",
        f'qin_zoo_model_info{{fingerprint="{scorer.manifest["sha256"]}",name="QIN_sample"}} 1.0',
        'qin_zoo_score_count{model="QIN_sample"} 5.0',
    ):
        assert line in lines
    assert "secret" not in answer.text


def test_two_services_in_one_process_count_for_themselves(make):
    first, second = make(), make()
    first.post("/score", json=BODY)
    assert "qin_zoo_candidates_total 2.0" in first.get("/metrics").text
    assert "qin_zoo_candidates_total 0.0" in second.get("/metrics").text


class TestDescription:
    def test_the_inputs_of_this_model(self, client):
        described = client.get("/openapi.json").json()
        schema = described["components"]["schemas"]["ScoreRequest"]
        assert schema["properties"]["context"]["required"] == ["likes_level", "views_level"]
        level = schema["properties"]["context"]["properties"]["likes_level"]["anyOf"][0]
        assert level == {"type": "integer", "minimum": 0, "maximum": 10}
        assert set(described["paths"]) == {"/score", "/top", "/healthz", "/metrics"}
        assert client.post("/score", json=schema["example"]).status_code == 200

    def test_the_page_loads_nothing_and_its_command_works(self, client):
        answer = client.get("/")
        assert "QIN_sample" in answer.text
        assert "likes_level" in answer.text
        assert not re.search(r"<script|<link|src=|https?://(?!127[.]0[.]0[.]1:[0-9]+/score)", answer.text)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        body = re.search(r"-d '(.*)'", html.unescape(answer.text))[1]
        assert client.post("/score", content=body, headers=JSON).status_code == 200
