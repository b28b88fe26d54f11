"""Requests made up from the service's own OpenAPI description, and bodies of random bytes and values."""

import json

import pytest
from http_service import CONTEXT, JSON, Service, export
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("onnxscript")
schemathesis = pytest.importorskip("schemathesis")


QUICK = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@pytest.fixture(scope="module")
def service(sample):
    with Service(export(sample)) as running:
        yield running
        assert running.metric('qin_zoo_requests_total{endpoint="/score",status="500"}') == 0
        assert not [line for line in running.log if "serving address" not in line]


def with_whole_numbers(case):
    """JSON Schema takes 3.0 for an integer, the service does not."""
    case.body = as_written(case.body)
    return case


def as_written(value):
    if isinstance(value, dict):
        return {key: as_written(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_written(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.slow
@pytest.mark.parametrize(("address", "examples"), [("/score", 400), ("/healthz", 10), ("/metrics", 10)])
def test_as_described(address, examples, service):
    """Whatever is sent, the status, the headers and the form of the answer are described; nothing is a 500."""
    described = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    (operation,) = described[address].values()
    mode = schemathesis.GenerationMode
    good, bad = (operation.as_strategy(generation_mode=m) for m in (mode.POSITIVE, mode.NEGATIVE))
    statuses = set()

    @hypothesis_settings(max_examples=examples, **QUICK)
    @given(case=good.map(with_whole_numbers) | bad)
    def ask(case):
        answer = case.call()
        statuses.add(answer.status_code)
        # Lists for each candidate have their number, which the description cannot say.
        excluded = (
            [schemathesis.specs.openapi.checks.positive_data_acceptance] if b"for each of the" in answer.content else []
        )
        case.validate_response(answer, excluded_checks=excluded)

    ask()
    assert 200 in statuses
    assert address != "/score" or 422 in statuses


numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none(), st.text(max_size=5), st.integers(0, 120)
)
values = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)
keys = st.sampled_from(["500", "1", "101", "-1", "x"])
features = st.dictionaries(st.sampled_from(["item_tags", "item_emb_d128", "item_id", "other"]), values, max_size=3)
requests = st.fixed_dictionaries(
    {},
    optional={
        "history": st.lists(st.integers(0, 600), max_size=80) | values,
        "candidates": st.lists(st.integers(0, 600), max_size=20) | values,
        "context": st.just(CONTEXT) | st.fixed_dictionaries({"likes_level": values, "views_level": values}) | values,
        "embeddings": st.dictionaries(keys, features | values, max_size=3) | values,
        "more": values,
    },
)


@hypothesis_settings(max_examples=300, **QUICK)
@given(asked=requests)
def test_requests_that_are_nearly_right(asked, service):
    answer = service.client.post("/score", content=json.dumps(asked), headers=JSON)
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        assert len(answer.json()["scores"]) == len(asked["candidates"])
    else:
        assert answer.json()["detail"].strip()


@hypothesis_settings(max_examples=300, **QUICK)
@given(body=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"history": {text}}}'.encode()))
def test_bytes(body, service):
    assert service.client.post("/score", content=body, headers=JSON).status_code in (400, 422)
