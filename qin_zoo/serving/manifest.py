"""The form of a manifest, checked before anything relies on it."""

from __future__ import annotations

_WIDEST = 2**20  # numbers in one value of a feature
_NEEDED = {
    "categorical": ("vocab_size",),
    "sequence": ("vocab_size", "max_len"),
    "embedding": ("dim",),
    "numeric": (),
}


def check(manifest: dict) -> None:
    """Whether a manifest has what a scorer reads of it.

    Args:
        manifest: JSON values.

    Raises:
        ValueError: it does not; the message says what was expected and what was found.
    """
    for key in ("name", "task", "dataset_id"):
        _want(isinstance(manifest.get(key), str), key, "a text", manifest.get(key))
    inputs, items = _object(manifest, "inputs"), _object(manifest, "items")
    history = _object(inputs, "history", "inputs.")
    _number(history, "max_len", "inputs.history", 0, 2**31)
    _want(isinstance(history.get("padded"), bool), "inputs.history.padded", "true or false", history.get("padded"))
    for kind in ("context", "new"):
        found = inputs.get(kind)
        _want(isinstance(found, list), f"inputs.{kind}", "a list", found)
        for place, described in enumerate(found):
            _feature(described, f"inputs.{kind}[{place}]")
        names = [described["name"] for described in found]
        _want(len(set(names)) == len(names), f"inputs.{kind}", "each name once", names)
    for described in inputs["context"]:
        _want("default" in described, f"inputs.context, {described['name']}", "a default, or null", described)
    _number(items, "count", "items", 0, 2**31)
    ids = items.get("original_ids")
    if ids is not None:
        _want(isinstance(ids, list), "items.original_ids", "a list", ids)
        _want(len(ids) == items["count"], "items.original_ids", f"{items['count']} of them", len(ids))
        _want(set(map(type, ids)) <= {int, str, type(None)}, "items.original_ids", "numbers, texts and null", ids)


def _feature(described: object, where: str) -> None:
    _want(isinstance(described, dict), where, "an object", described)
    name, kind = described.get("name"), described.get("type")
    _want(isinstance(name, str), f"{where}.name", "a text", name)
    _want(isinstance(kind, str) and kind in _NEEDED, f"{where}.type", f"one of {', '.join(_NEEDED)}", kind)
    for key in _NEEDED[kind]:
        _number(described, key, where, 1, 2**31 if key == "vocab_size" else _WIDEST)


def _object(values: dict, key: str, where: str = "") -> dict:
    _want(isinstance(values.get(key), dict), where + key, "an object", values.get(key))
    return values[key]


def _number(values: dict, key: str, where: str, least: int, most: int) -> None:
    value = values.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    _want(whole and least <= value <= most, f"{where}.{key}", f"a whole number from {least} to {most}", value)


def _want(holds: bool, where: str, expected: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{where}: expected {expected}, found {found!r:.60}")
