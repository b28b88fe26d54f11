"""What clients of a model may rely on when another takes its place."""

from __future__ import annotations

from qin_zoo.serving.scorer import Scorer

_OURS = ("max_len", "padded")  # what is done with a history is not the client's
_DIFFERENT, _SMALLER = ("type", "dim"), ("vocab_size", "max_len")


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
    before, after = dict(old.manifest["inputs"]), dict(new.manifest["inputs"])
    for inputs in (before, after):
        inputs["history"] = {k: v for k, v in inputs["history"].items() if k not in _OURS}
    for kind, where in (("context", "context"), ("new", "embeddings")):
        found += _features(before.pop(kind), after.pop(kind), where)
    return found + [f"its {kind} changed" for kind in sorted({*before, *after}) if before.get(kind) != after.get(kind)]


def _features(before: list[dict], after: list[dict], where: str) -> list[str]:
    old, new = ({described["name"]: described for described in features} for features in (before, after))
    found = [f"{where}: {name} is no longer taken" for name in old.keys() - new.keys()]
    for name, described in new.items():
        was = old.get(name, {})
        if where == "context" and described["default"] is None and (not was or was["default"] is not None):
            found.append(f"{where}: {name} must be given")
        for key in _DIFFERENT:
            if was and described.get(key) != was.get(key):
                found.append(f"{where}: {name} has the {key} {described.get(key)}, had {was.get(key)}")
        for key in _SMALLER:
            if key in was and key in described and described[key] < was[key]:
                found.append(f"{where}: {name} has the {key} {described[key]}, had {was[key]}")
    return sorted(found)
