"""The model that is being served, and its replacement while requests run."""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import islice

import numpy as np
import orjson

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.feature_types import type_of
from qin_zoo.serving.http.contract import broken
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.http.trial import try_out
from qin_zoo.serving.items import ITEMS
from qin_zoo.serving.scorer import Scorer

_WARM = 100  # candidates of the request that a new model answers first


def identity(scorer: Scorer) -> dict[str, str]:
    """What answers name a model by: its ``name``, and as ``fingerprint`` the SHA-256 in its manifest."""
    return {"name": scorer.manifest["name"], "fingerprint": scorer.manifest["sha256"]}


def example(scorer: Scorer, ids: str, candidates: int = 3) -> dict:
    """A request that a model answers, JSON values.

    Args:
        scorer: the model.
        ids: how it takes items, ``table`` or ``original``.
        candidates: how many, at most.
    """
    if scorer.fields is not None:
        return scorer.fields.example(candidates)
    items = range(1, scorer.items)
    first, last = items[:2], items[-candidates:]
    if ids == "original":
        names = scorer.manifest["items"]["original_ids"]
        first = islice((name for name in names if name is not None), 2)
        last = reversed(list(islice((name for name in reversed(names) if name is not None), candidates)))
    context = {
        found["name"]: [] if (kind := type_of(found)).ids and kind.width else kind.zeros(1, found)[0].tolist()
        for found in scorer.inputs
        if "of_item" not in found
    }
    history = first = list(first)
    if scorer.beside:
        history = {ITEMS: first} | {described["name"]: [1] * len(first) for described in scorer.beside}
    return {"history": history, "candidates": list(last), "context": context}


def load(settings: Settings) -> Scorer:
    """The file's model, after its first answer.

    Raises:
        QinZooError: the file cannot be served.
    """
    scorer = Scorer(
        settings.path,
        ids=settings.ids,
        max_candidates=settings.max_candidates,
        max_history=settings.max_history,
        max_embeddings=settings.max_embeddings,
    )
    asked = example(scorer, settings.ids, min(_WARM, settings.max_candidates))
    try:
        scores, _ = scorer.answer(asked)
    except Exception as error:  # ONNX Runtime has no common error class
        raise QinZooError(f"{settings.path} fails on its first request. {first_line(error)}") from error
    if scores.shape != (len(asked["candidates"]),) or not np.isfinite(scores).all():
        raise QinZooError(
            f"{settings.path}: expected {len(asked['candidates'])} finite scores of its first request, found "
            f"{scores.ravel()[:3]}, shape {scores.shape}."
        )
    return scorer


class LiveModel:
    """The model in use.

    Args:
        settings: the file and the limits of a request.

    Attributes:
        current: its scorer; a request takes it once and ends on it.
        name: what metrics call it, whatever is loaded later.
        loaded: :meth:`state` of the file that was last loaded or refused.

    Raises:
        QinZooError: the file cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.loaded = self.state()
        self.current = load(settings)
        self.name = settings.name or self.current.manifest["name"]
        self._told: tuple[Scorer | None, bytes] = (None, b"")

    @property
    def identity(self) -> dict[str, str]:
        """What answers name the model by: :func:`identity`, under the name that the service has for it."""
        return self._identity(self.current)

    def _identity(self, scorer: Scorer) -> dict[str, str]:
        found = identity(scorer)
        return {**found, "name": self._settings.name or found["name"]}

    def told(self, scorer: Scorer) -> bytes:
        """The same as JSON, of the scorer that a request took: meanwhile another may be in use."""
        known, text = self._told
        if known is not scorer:
            text = orjson.dumps(self._identity(scorer))
            self._told = scorer, text
        return text

    async def reload(self) -> str:
        """Takes the file as it is now into use; where it cannot be served, or asks for other requests, the old model
        stays. It is tried in a process of its own first, which ends with this call.

        Returns:
            ``loaded``, ``unchanged`` or ``refused``.
        """
        old, self.loaded = self.current, self.state()
        try:
            fingerprint = await try_out(self._settings)
            new = await asyncio.to_thread(load, self._settings)
            if identity(new)["fingerprint"] != fingerprint:
                raise QinZooError(f"{self._settings.path} was replaced while it was tried. Reload it again.")
            if reasons := broken(old, new, self._settings.ids):
                raise QinZooError(
                    f"{self._settings.path} takes other requests than the model in use: {'; '.join(reasons)}. Start "
                    "the service anew to serve it."
                )
        except Exception as error:  # whatever is wrong with the new file, the old model serves on
            event(logging.ERROR, "reload refused, the old model stays", error=error, **self._named())
            return "refused"
        if identity(new) == identity(old):
            event(logging.INFO, "reload: the file is the same", **identity(new))
            return "unchanged"
        if new.inputs != old.inputs:
            event(logging.WARNING, "reload changes the row features", before=_features(old), after=_features(new))
        self.current = new
        event(logging.INFO, "reload", **identity(new))
        return "loaded"

    def _named(self) -> dict[str, str]:
        """Which of several models it is."""
        return {"model": self.name} if self._settings.name else {}

    def state(self) -> tuple | None:
        """What changes when the file is replaced; None while it is not there."""
        try:
            found = os.stat(self._settings.path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def _features(scorer: Scorer) -> str:
    return ",".join(described["name"] for described in scorer.inputs)
