"""Bodies: what is JSON and what is not, how long it may be and how long it may take."""

import asyncio
import json

import pytest
from fastapi import HTTPException, Request

from qin_zoo.serving.http import body as body_module
from qin_zoo.serving.http.body import parse, read_body


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
    with pytest.raises(HTTPException) as error:
        parse(body)
    assert error.value.status_code == 400
    assert message in error.value.detail
    assert error.value.detail.startswith("body: expected JSON, found ")


def test_json():
    value = {"a": [1, 2.5, None, True, "é😀"], "b": {"a": {}}}
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


def read(chunks, limit=10, seconds=5.0, headers=(), pause=0.0) -> bytes:
    """Reads a body that comes in chunks, with a pause before each."""
    left = list(chunks)

    async def receive():
        await asyncio.sleep(pause)
        if not left:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    scope = {"type": "http", "headers": list(headers)}
    return asyncio.run(read_body(Request(scope, receive), limit, seconds))


def refused(*args, **kwargs) -> HTTPException:
    with pytest.raises(HTTPException) as error:
        read(*args, **kwargs)
    assert error.value.headers == {"Connection": "close"}
    return error.value


class TestRead:
    def test_whole(self):
        assert read([b"01234", b"", b"56789"]) == b"0123456789"

    def test_too_long_without_a_length(self):
        error = refused([b"01234", b"567890"])
        assert error.status_code == 413
        assert "expected at most 10 bytes" in error.detail

    def test_an_endless_one_is_not_read_to_its_end(self, monkeypatch):
        monkeypatch.setattr(body_module, "_DRAINED", 100)
        left = iter([b"x" * 50] * 1000)

        async def receive():
            return {"type": "http.request", "body": next(left), "more_body": True}

        with pytest.raises(HTTPException, match="413"):
            asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 10, 5))
        assert len(list(left)) == 997

    def test_a_length_beyond_all_is_refused_unread(self):
        async def receive():
            raise AssertionError("read")

        scope = {"type": "http", "headers": [(b"content-length", b"99999999999")]}
        with pytest.raises(HTTPException, match="413"):
            asyncio.run(read_body(Request(scope, receive), 10, 5))

    def test_slow(self):
        error = refused([b"0"] * 100, limit=1000, seconds=0.1, pause=0.02)
        assert error.status_code == 408
        assert "within 0.1 seconds" in error.detail

    def test_gone(self):
        left = [{"type": "http.request", "body": b"0", "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return left.pop(0)

        with pytest.raises(HTTPException, match="went away"):
            asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 10, 5))
