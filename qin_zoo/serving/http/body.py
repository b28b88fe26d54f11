"""A request's body: read within limits of size and time, and parsed strictly."""

from __future__ import annotations

import json
from collections import Counter

import anyio
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

_DRAINED = 2**24  # bytes too many that are read and dropped, for a client that reads no answer before it has sent all
_CLOSE = {"Connection": "close"}  # the rest of the body is not read


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body.

    Raises:
        HTTPException: 413, longer than ``max_bytes``; 408, not there after ``seconds``; 400, the client went away.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes + _DRAINED:
        raise _too_large(max_bytes)
    body, size = bytearray(), 0
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= max_bytes:
                    body += chunk
                elif size > max_bytes + _DRAINED:
                    break
    except TimeoutError:
        raise HTTPException(
            408, f"body: expected all of it within {seconds:g} seconds, found {size:,} bytes.", _CLOSE
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "body: the client went away before it had sent all of it.", _CLOSE) from None
    if size > max_bytes:
        raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"body: expected at most {max_bytes:,} bytes, found more. Split the request.", _CLOSE)


def parse(body: bytes) -> object:
    """The JSON value of a body; stricter than ``json.loads``.

    Raises:
        HTTPException: 400, it is no JSON in UTF-8, holds NaN or Infinity, or names a key twice in one object.
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except _NotAllowed as error:
        reason = str(error)
    except ValueError:  # Python's own limit
        reason = "a number with thousands of digits"
    except RecursionError:
        reason = "lists within lists, too deep"
    raise HTTPException(400, f"body: expected JSON, found {reason}." if body else "body: expected JSON, found nothing.")


class _NotAllowed(Exception):
    """Python would read it, the standard says otherwise."""


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _NotAllowed(f"the key {key[:60]!r} twice in one object")
    return found


def _constant(text: str) -> None:
    raise _NotAllowed(f"{text}, which is no JSON number")
