"""The form of a manifest, checked before anything relies on it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from qin_zoo.feature_types import FEATURE_TYPES, type_of
from qin_zoo.serving.catalogue import unpack
from qin_zoo.serving.preprocess import FUNCTIONS
from qin_zoo.serving.raw_values import FORMS
from qin_zoo.serving.tokens import TOKENS

_WIDEST = 2**20  # numbers in one value of a feature
_GREATEST = 1.7976931348623157e308  # of float64
_KINDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}
_NEEDED = {name: tuple(kind.sizes) for name, kind in FEATURE_TYPES.items() if kind.embedded}


def check(manifest: dict) -> None:
    """Whether a manifest, JSON values, has what a scorer reads of it.

    Raises:
        ValueError: it does not; the message says what was expected and what was found.
    """
    for key in ("name", "task", "dataset_id"):
        _typed(manifest, key, str)
    inputs, items = _typed(manifest, "inputs", dict), _typed(manifest, "items", dict)
    history = _typed(inputs, "history", dict, "inputs.")
    _number(history, "max_len", "inputs.history", 0, 2**31)
    _typed(history, "padded", bool, "inputs.history.")
    _features(inputs.get("context"), "inputs.context")
    _features(inputs.get("new"), "inputs.new")
    _features(history.get("beside", []), "inputs.history.beside", ("categorical",))
    _number(items, "count", "items", 0, 2**31)
    for described in inputs["context"]:
        where = f"inputs.context, {described['name']}"
        _want("default" in described, where, "a default, or null", described)
        if "of_user" in described:
            _typed(described, "of_user", bool, f"{where}.")
        if "of_item" in described:
            codes, most = _codes(described, "of_item", f"{where}.", items["count"]), described.get("vocab_size", 0)
            fits = codes.ndim == 1 and codes.min(initial=0) >= 0 and codes.max(initial=0) < most
            _want(fits, f"{where}.of_item", f"ids below {most}", codes.shape)
    if "vocabularies" in manifest:
        _fields(inputs, _typed(manifest, "vocabularies", dict))
    if "chunk" in manifest:
        _number(manifest, "chunk", "manifest", 1, 2**20)
    if items.get("original_ids") is not None:
        ids, where = _typed(items, "original_ids", list, "items."), "items.original_ids"
        _want(len(ids) == items["count"], where, f"{items['count']} of them", len(ids))
        _want(set(map(type, ids)) <= {int, str, type(None)}, where, "numbers, texts and null", ids)
    if "features" in items:
        for place, described in enumerate(_typed(items, "features", list, "items.")):
            where = f"items.features[{place}]"
            _want(isinstance(described, dict) and isinstance(described.get("name"), str), where, "a name", described)
            _words(described, where)
            _codes(described, "codes", f"{where}.", items["count"])


def _words(described: dict, where: str) -> None:
    """What codes from 1 on stand for."""
    words = described.get("words", [])
    _want(isinstance(words, list) and set(map(type, words)) <= {str}, f"{where}.words", "texts", words)
    _want(len(words) < described.get("vocab_size", len(words) + 1), f"{where}.words", "fewer than codes", len(words))


def _codes(described: dict, key: str, where: str, count: int) -> np.ndarray:
    """Packed codes of all items."""
    try:
        codes = unpack(_typed(described, key, dict, where))
    except (KeyError, TypeError, ValueError) as error:
        _want(False, f"{where}{key}", "packed codes", error)
    _want(codes.ndim in (1, 2) and len(codes) == count, f"{where}{key}", f"codes of {count} items", codes.shape)
    return codes


def _features(features: object, where: str, types: Collection[str] = _NEEDED) -> None:
    """A list of features, each with its sizes."""
    _want(isinstance(features, list), where, "a list", features)
    for place, described in enumerate(features):
        at = f"{where}[{place}]"
        _want(isinstance(described, dict), at, "an object", described)
        _typed(described, "name", str, f"{at}.")
        _choice(described, "type", at, types)
        for key in _NEEDED[described["type"]]:
            _number(described, key, at, 1, 2**31 if key == "vocab_size" else _WIDEST)
        _words(described, at)
    names = [described["name"] for described in features]
    _want(len(set(names)) == len(names), where, "each name once", names)


def _fields(inputs: dict, vocabularies: dict) -> None:
    """What there is of named fields beside it."""
    context, history, where = inputs["context"], inputs["history"], "inputs.history"
    fields = history.get("fields")
    _features(fields, f"{where}.fields", ("sequence",))
    lengths = {described["name"]: described["max_len"] for described in fields}
    pairs = _typed(history, "pairs", list, f"{where}.")
    for place, pair in enumerate(pairs):
        _names(pair, lengths, f"{where}.pairs[{place}]")
        _want(len({lengths[name] for name in pair}) == 1, f"{where}.pairs[{place}]", "names of one max_len", pair)
    unused = lengths.keys() - {name for pair in pairs for name in pair}
    _want(not unused, f"{where}.pairs", "every field of the history", sorted(unused))
    _names(history.get("targets"), {described["name"] for described in context}, f"{where}.targets")
    for name in vocabularies:
        _typed(vocabularies, name, dict, "vocabularies.")
    for described in (*context, *fields):
        at = f"field '{described['name']}'"
        if type_of(described).form == "ids":
            _number(described, "padding_id", at, 0, described["vocab_size"] - 1)
            _choice(described, "padding", at, ("pre", "post"))
        if "raw" in described:
            _raw(described, _typed(described, "raw", dict, f"{at}."), vocabularies, f"{at}.raw")


def _raw(described: dict, raw: dict, vocabularies: dict, where: str) -> None:
    """What a field's values were before they were encoded."""
    form = type_of(described).form
    _choice(raw, "dtype", where, TOKENS)
    for key in ("fill", "missing", "splitter"):
        _typed(raw, key, str, f"{where}.")
    _want(raw["splitter"] != "", f"{where}.splitter", "a text that is not empty", "")
    for key in ("shift", "scale"):
        _want(_finite(raw.get(key)), f"{where}.{key}", "a finite number", raw.get(key))
    _want(raw.get("boolean", True) is True, f"{where}.boolean", "true, or nothing", raw.get("boolean"))
    _want(raw["scale"] != 0, f"{where}.scale", "a number that is not 0", raw["scale"])
    ways = [key for key in ("vocabulary", "boundaries", "buckets") if key in raw]
    possible = {"id": ways[:1], "ids": ["vocabulary"]}.get(form, [])
    one = "one of vocabulary, boundaries, buckets" if form == "id" else ", ".join(possible) or "none of them"
    _want(ways == possible and (ways or form not in ("id", "ids")), where, one, ways)
    if form == "number" or "boundaries" in raw or (form == "id" and raw["dtype"] != "str"):
        dtype = "int" if form == "id" and raw["dtype"] == "int" else "float"
        _want(_is_number(raw["fill"] or "0", dtype), f"{where}.fill", "a number as text", raw["fill"])
    if form == "vector":
        _want(_is_number(raw["missing"] or "0", "float"), f"{where}.missing", "a number as text", raw["missing"])
    if form == "ids":
        _choice(raw, "keep", where, ("newest", "first"))
    if "vocabulary" in raw:
        size = described["vocab_size"]
        _number(raw, "unknown", where, 0, size - 1)
        _choice(raw, "vocabulary", where, vocabularies)
        words, at = vocabularies[raw["vocabulary"]], f"vocabularies.{raw['vocabulary']}"
        wrong = [number for number in words.values() if type(number) is not int or not 0 <= number < size]
        _want(not wrong, at, f"ids from 0 to {size - 1}, which {described['name']} has", wrong[:1])
        wrong = [word for word in words if raw["dtype"] != "str" and not _is_number(word, raw["dtype"])]
        _want(not wrong, at, f"words of dtype {raw['dtype']}, as {described['name']} has", wrong[:1])
    if "forms" in raw:
        _names(raw["forms"], FORMS, f"{where}.forms")
    if "buckets" in raw:
        _number(raw, "buckets", where, 1, described["vocab_size"])
    if "boundaries" in raw:
        bounds = raw["boundaries"]
        fits = isinstance(bounds, list) and all(map(_finite, bounds)) and bounds == sorted(bounds)
        _want(fits, f"{where}.boundaries", "finite numbers, ascending", bounds)
        _want(len(bounds) < described["vocab_size"], f"{where}.boundaries", "fewer than its ids", len(bounds))
    if "made" in raw:
        made = _typed(raw, "made", dict, f"{where}.")
        _typed(made, "column", str, f"{where}.made.")
        _choice(made, "dtype", f"{where}.made", TOKENS)
        for step in _typed(made, "steps", list, f"{where}.made."):
            fits = isinstance(step, dict) and len(step) == 1
            fits = fits and ("call" in step or (_finite(step.get("fill")) or isinstance(step.get("fill"), str)))
            _want(fits, f"{where}.made.steps", "objects with call or fill", step)
            if "call" in step:
                _choice(step, "call", f"{where}.made.steps", FUNCTIONS)


def _names(values: object, known, where: str) -> None:
    """A list of some of the known names."""
    fits = isinstance(values, list) and all(isinstance(name, str) and name in known for name in values)
    _want(fits, where, f"names among {', '.join(known) or 'none'}", values)


def _choice(values: dict, key: str, where: str, choices: Collection[str]) -> None:
    value, expected = values.get(key), f"{'one of ' * (len(choices) != 1)}{', '.join(choices)}"
    _want(isinstance(value, str) and value in choices, f"{where}.{key}", expected, value)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _GREATEST


def _is_number(text: str, dtype: str) -> bool:
    try:
        {"int": int, "float": float}[dtype](text)
    except ValueError:
        return False
    return True


def _typed(values: dict, key: str, kind: type, where: str = ""):
    """A value of that type."""
    value = values.get(key)
    _want(isinstance(value, kind), where + key, _KINDS[kind], value)
    return value


def _number(values: dict, key: str, where: str, least: int, most: int) -> None:
    value = values.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    _want(whole and least <= value <= most, f"{where}.{key}", f"a whole number from {least} to {most}", value)


def _want(holds: bool, where: str, expected: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{where}: expected {expected}, found {found!r:.60}")
