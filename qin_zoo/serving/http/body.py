"""A request's body as JSON, read strictly."""

from __future__ import annotations

import json
from collections import Counter

import orjson

_PLAIN = {int, float, bool, type(None)}


class NoJSON(Exception):
    """A body that is no JSON; the message is the client's."""

    def __init__(self, found: str) -> None:
        super().__init__(f"body: expected JSON, found {found}.")


def parse(body: bytes) -> object:
    """The JSON value of a body, quickly. What it takes for one value, :func:`parse_strictly` does, too, but for whole
    numbers of more than 64 bits: here they are floats.

    Raises:
        NoJSON: it is no JSON in UTF-8, holds NaN or Infinity, or names a key twice in one object.
    """
    try:
        value = orjson.loads(body)
        # Of a key that comes twice orjson keeps the last value. Then fewer texts are left than there are quotes. Most
        # requests have none in their lists, which are long.
        quotes = body.count(b'"')
        if quotes == 2 * _keys(value) or quotes == 2 * _texts(value):
            return value
    except (orjson.JSONDecodeError, RecursionError):
        pass
    return parse_strictly(body)


def _keys(value: object) -> int:
    """Keys in a value and the objects in it, but for those in lists."""
    if type(value) is not dict:
        return 0
    found = len(value)
    for part in value.values():
        if type(part) is dict:
            found += _keys(part)
    return found


def _texts(value: object) -> int:
    """Texts in a value, keys among them."""
    kind = type(value)
    if kind in _PLAIN:
        return 0
    if kind is list:
        kinds = set(map(type, value))
        return 0 if kinds <= _PLAIN else len(value) if kinds == {str} else sum(map(_texts, value))
    return 1 if kind is str else len(value) + sum(map(_texts, value.values()))


def parse_strictly(body: bytes) -> object:
    """The same with whole numbers of any size.

    Raises:
        NoJSON: as above.
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except ValueError:  # Python's own limit
        reason = "a number with thousands of digits"
    except RecursionError:
        reason = "lists within lists, too deep"
    raise NoJSON(reason if body else "nothing")


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise NoJSON(f"the key {key[:60]!r} twice in one object")
    return found


def _constant(text: str) -> None:
    raise NoJSON(f"{text}, which is no JSON number")
