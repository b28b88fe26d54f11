"""The models of one service: by which a request is scored, how they are replaced, what clients may rely on then."""

from __future__ import annotations

import asyncio
import logging
import random
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate

import orjson

from qin_zoo.errors import QinZooError, RequestError, suggest
from qin_zoo.feature_types import type_of
from qin_zoo.files import file_state
from qin_zoo.serving.http.loading import load, model_facts, try_out
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.settings import Served, Settings
from qin_zoo.serving.scorer import Scorer
from qin_zoo.serving.values import is_required

_OURS = ("max_len", "padded", "fields", "pairs", "targets")  # what is done with a history is not the client's
_DIFFERENT, _SMALLER = ("type", "dim", "values"), ("vocab_size", "max_len")
_WIDER = ("int", "float", "str")  # each takes what those before it take


class LiveModel:
    """The model in use.

    Attributes:
        current: its scorer; a request takes it once and ends on it.
        name: what metrics call it, whatever is loaded later.
        path: of its file.
        loaded: :func:`~qin_zoo.files.file_state` of the file that was last loaded or refused.

    Raises:
        QinZooError: the file cannot be served.
    """

    def __init__(self, served: Served, settings: Settings) -> None:
        self.path, self._name, self._settings = served.path, served.name, settings
        self.loaded = file_state(self.path)
        self.current = load(self.path, settings)
        self.name = self._name or self.current.manifest["name"]
        self._told: tuple[Scorer | None, bytes] = (None, b"")

    @property
    def model_facts(self) -> dict[str, str]:
        """What answers name the model by, under the name that the service has for it."""
        return model_facts(self.current, self._name)

    def told(self, scorer: Scorer) -> bytes:
        """The same as JSON, of the scorer that a request took: meanwhile another may be in use."""
        known, text = self._told
        if known is not scorer:
            text = orjson.dumps(model_facts(scorer, self._name))
            self._told = scorer, text
        return text

    async def reload(self) -> str:
        """Takes the file as it is now into use; where it cannot be served, or asks for other requests, the old model
        stays. It is tried in a process of its own first, which ends with this call.

        Returns:
            ``loaded``, ``unchanged`` or ``refused``.
        """
        old, self.loaded = self.current, file_state(self.path)
        try:
            fingerprint = await try_out(self.path, self._settings)
            new = await asyncio.to_thread(load, self.path, self._settings)
            if model_facts(new)["fingerprint"] != fingerprint:
                raise QinZooError(f"{self.path} was replaced while it was tried. Reload it again.")
            if reasons := broken(old, new, self._settings.ids):
                raise QinZooError(
                    f"{self.path} takes other requests than the model in use: {'; '.join(reasons)}. Start "
                    "the service anew to serve it."
                )
        except Exception as error:  # whatever is wrong with the new file, the old model serves on
            which = {"model": self.name} if self._name else {}  # of several
            event(logging.ERROR, "reload refused, the old model stays", error=error, **which)
            return "refused"
        if model_facts(new) == model_facts(old):
            event(logging.INFO, "reload: the file is the same", **model_facts(new))
            return "unchanged"
        if new.inputs != old.inputs:
            before, after = (",".join(feature["name"] for feature in one.inputs) for one in (old, new))
            event(logging.WARNING, "reload changes the row features", before=before, after=after)
        self.current = new
        event(logging.INFO, "reload", **model_facts(new))
        return "loaded"


class Models:
    """Models that take the same requests.

    Attributes:
        all: each with its name, as they were given.
        shadows: those of them that score requests without being shown.
        first: one that is shown.

    Raises:
        QinZooError: one of the files cannot be served, or takes other requests than the first.
    """

    def __init__(self, settings: Settings) -> None:
        lives = [LiveModel(served, settings) for served in settings.models]
        self.all = {live.name: live for live in lives}
        shares = [served.share for served in settings.models]
        self._shown = [live for live, share in zip(lives, shares) if share > 0]
        self.shadows = [live for live, share in zip(lives, shares) if share == 0]
        bounds = [*accumulate(share for share in shares if share > 0)]
        self._bounds = [bound / bounds[-1] for bound in bounds[:-1]]
        self.first = self._shown[0]
        for live in lives:
            if reasons := broken(self.first.current, live.current, settings.ids):
                raise QinZooError(
                    f"{live.name} takes other requests than {self.first.name}: "
                    f"{'; '.join(reasons)}. Serve it on a port of its own."
                )

    def choose(self, user: str | None = None, name: object = None) -> LiveModel:
        """The model that scores a request: of a name, or drawn by the shares; a user stays with one.

        Raises:
            RequestError: there is none of that name.
        """
        if name is not None:
            if not isinstance(name, str) or name not in self.all:
                raise RequestError(
                    f"model: expected {', '.join(self.all)}, found {name!r:.60}.{suggest(name, self.all)}"
                )
            return self.all[name]
        if not self._bounds:
            return self.first
        place = random.random()
        if user is not None:
            digest = blake2b(user.encode(errors="surrogatepass"), digest_size=8).digest()
            place = int.from_bytes(digest, "big") / 2**64
        return self._shown[bisect_right(self._bounds, place)]


def broken(old: Scorer, new: Scorer, ids: str) -> list[str]:
    """Why requests that the old model answers are refused by the new one, or mean something else to it.

    More values of a feature, further features that need not be given, and other histories are no reason; nor is a
    smaller catalogue where requests name items by ``original`` ids.
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
