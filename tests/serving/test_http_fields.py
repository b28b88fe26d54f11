"""The service with a model of named fields: raw values in, described, and the same scores as the file gives."""

import json
import shlex
from html import unescape

import numpy as np
import pytest
from http_service import Service
from named_fields import EXAMPLE, MADE, PAIRS, as_request, as_typed, export, made

pytest.importorskip("onnxscript")

from qin_zoo.serving import Scorer

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    *_, rows = done = made(folder, "example", [*MADE, *EXAMPLE], "QIN", **PAIRS, num_layers=1)
    export(done, folder)
    with Service(folder / "m.onnx") as service:
        yield service, Scorer(folder / "m.onnx"), rows


def described(service) -> dict:
    return service.client.get("/openapi.json").json()["components"]["schemas"]["ScoreRequest"]


def test_rows_of_the_file_as_requests(served):
    service, scorer, rows = served
    schema = described(service)
    for row in rows[:25]:
        asked = as_request(scorer, as_typed(row))
        jsonschema.validate(asked, schema)
        answer = service.score(asked)
        assert answer.status_code == 200, answer.text
        scores, unknown = scorer.answer(asked)
        assert np.array_equal(np.float32(answer.json()["scores"]), scores)
        assert answer.json()["unknown_items"] == unknown


def test_columns_are_described_and_not_what_is_made_of_them(served):
    service, *_ = served
    context = described(service)["properties"]["context"]["properties"]
    assert context["time"]["anyOf"][0] == {"type": ["string", "null"], "description": "a time as YYMMDDHH"}
    assert context["price"]["anyOf"][0] == {"type": ["number", "null"]}
    assert not {"night", "weekday", "bucket", "part", "hashed"} & context.keys()


def test_the_example_is_valid_and_answered(served):
    service, *_ = served
    schema = described(service)
    jsonschema.validate(schema["example"], schema)
    answer = service.score(schema["example"])
    assert (answer.status_code, len(answer.json()["scores"]), answer.json()["unknown_items"]) == (200, 3, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"context": {"time": "noon"}},
            "context: time: expected a time as YYMMDDHH, of which convert_hour makes 'night'",
        ),
        ({"context": {"weekday": 3}}, "context: unknown field 'weekday'"),
        ({"candidates": [{"item": 1.5, "cate": ["c"]}]}, "cate: expected a text or a number"),
        ({"history": {}}, "history: clicks is missing"),
        ({"embeddings": {"3": {}}}, "takes none"),
        ({"embeddings": 0}, "takes none"),
    ],
)
def test_mistakes(change, words, served):
    service, scorer, rows = served
    asked = as_request(scorer, rows[0])
    answer = service.score({**asked, **change, "context": {**asked["context"], **change.get("context", {})}})
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_the_page_shows_fields_and_a_request_that_works(served):
    service, *_ = served
    page = service.client.get("/").text
    for words in ("Named fields, raw values", "<td>clicks</td>", "texts, ", "of them known", "<td>price</td>"):
        assert words in page
    assert "a time as YYMMDDHH" in page
    assert "<td>weekday</td>" not in page
    command = page[page.index("curl ") : page.index("</pre>")]
    body = shlex.split(unescape(command))[-1]
    assert service.client.post("/score", json=json.loads(body)).status_code == 200
