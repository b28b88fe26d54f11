"""What clients of a model may rely on when another takes its place."""

from __future__ import annotations

from qin_zoo.feature_types import type_of
from qin_zoo.serving.scorer import Scorer
from qin_zoo.serving.values import is_required

_OURS = ("max_len", "padded", "fields", "pairs", "targets")  # what is done with a history is not the client's
_DIFFERENT, _SMALLER = ("type", "dim", "values"), ("vocab_size", "max_len")
_WIDER = ("int", "float", "str")  # each takes what those before it take


def broken(old: Scorer, new: Scorer, ids: str) -> list[str]:
    """Why requests that the old model answers are refused by the new one, or mean something else to it.

    More values of a feature, further features that need not be given, and other histories are no reason.

    Args:
        old, new: the models.
        ids: how requests name items, ``table`` or ``original``.
    """
    found = [
        f"{key} is {new.manifest[key]!r}, was {old.manifest[key]!r}"
        for key in ("task", "dataset_id")
        if new.manifest[key] != old.manifest[key]
    ]
    if ids == "table" and new.items < old.items:
        found.append(f"items are numbered up to {new.items - 1:,}, were up to {old.items - 1:,}")
    before, after = _inputs(old), _inputs(new)
    for where in ("context", "embeddings", "history"):
        found += _features(before[where], after[where], where)
    if before["target"] not in (after["target"], None):
        found.append(f"a candidate that is no object is no longer its {before['target']}")
    before, after = before["others"], after["others"]
    return found + [f"its {kind} changed" for kind in sorted({*before, *after}) if before.get(kind) != after.get(kind)]


def _inputs(scorer: Scorer) -> dict:
    """What a client sees of a model's inputs: features by where they stand, and whatever else there is."""
    others = dict(scorer.manifest["inputs"])
    found = {"context": others.pop("context"), "embeddings": others.pop("new"), "history": [], "target": None}
    others["history"] = {key: value for key, value in others["history"].items() if key not in _OURS}
    if (fields := scorer.fields) is not None:
        columns = {"context": fields.row_columns, "history": fields.history_columns}
        found |= {where: list(map(_column, some)) for where, some in columns.items()}
        found["target"] = fields.targets[0] if len(fields.targets) == 1 else None
    return found | {"others": others}


def _column(described: dict) -> dict:
    """Of named fields: unknown values may be given, and longer sequences, so that sizes are not the client's."""
    raw = described.get("raw")
    keys = ("name", "type", "dim") if raw else ("name", "type", "dim", "vocab_size")
    found = {key: described[key] for key in keys if key in described} | {"default": None}
    words = raw and type_of(described).ids
    return found | {"values": "raw values" if raw else "ids", "dtype": raw["dtype"] if words else _WIDER[0]}


def _features(before: list[dict], after: list[dict], where: str) -> list[str]:
    old, new = ({described["name"]: described for described in features} for features in (before, after))
    found = [f"{where}: {name} is no longer taken" for name in old.keys() - new.keys()]
    for name, described in new.items():
        was = old.get(name, {})
        if where != "embeddings" and is_required(described) and (not was or not is_required(was)):
            found.append(f"{where}: {name} must be given")
        for key in _DIFFERENT:
            if was and described.get(key) != was.get(key):
                found.append(f"{where}: {name} has the {key} {described.get(key)}, had {was.get(key)}")
        dtypes = [one.get("dtype", _WIDER[0]) for one in (described, was)]
        if _WIDER.index(dtypes[0]) < _WIDER.index(dtypes[1]):
            found.append(f"{where}: {name} has the dtype {dtypes[0]}, had {dtypes[1]}")
        for key in _SMALLER:
            if key in was and key in described and described[key] < was[key]:
                found.append(f"{where}: {name} has the {key} {described[key]}, had {was[key]}")
    return sorted(found)
