"""Bodies: what is JSON and what is not. How long they may be and take stands in test_http_server.py."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qin_zoo.serving.http.body import NoJSON, parse, parse_strictly


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "found nothing"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1}\n{', "Extra data, line 2, column 1"),
        (b'{"a": NaN}', "NaN, which is no JSON number"),
        (b"[-Infinity]", "-Infinity, which"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        (b'{"a": "\xff"}', "byte 7 is no UTF-8"),
        ("{}".encode("utf-16"), "no UTF-8"),
        ("\ufeff{}".encode(), "BOM"),
        (b"[" * 100_000, "too deep"),
        (b"9" * 5000, "thousands of digits"),
        (b"\x00", "line 1, column 1"),
    ],
)
def test_no_json(body, message):
    with pytest.raises(NoJSON) as error:
        parse(body)
    assert message in str(error.value)
    assert str(error.value).startswith("body: expected JSON, found ")


def test_json():
    value = {"a": [1, 2.5, None, True, "é😀"], "b": {"a": {}}}
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": [{"b": 1, "b": 2}, "x"]}',
        b'{"a\\u0062": 1, "ab": 2}',
        b'{"a": "x", "a": "y"}',
    ],
)
def test_keys_that_come_twice(body):
    """orjson takes the last of them."""
    with pytest.raises(NoJSON, match="twice in one object"):
        parse(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    )
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_as_the_standard_library_reads_it(value):
    """Numbers, texts with quotes and all."""
    body = json.dumps(value).encode()
    assert parse(body) == parse_strictly(body) == json.loads(body)
