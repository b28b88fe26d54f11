"""The model that is being served, and its replacement while requests run."""

from __future__ import annotations

import logging
import os

import numpy as np

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.scorer import Scorer

_WARM = 100  # candidates of the request that a new model answers first
_NEUTRAL = {"categorical": 0, "sequence": []}


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
    items = list(range(1, scorer.items))
    if ids == "original":
        items = [item for item in scorer.manifest["items"]["original_ids"] if item is not None]
    context = {
        described["name"]: [0.0] * described["dim"] if "dim" in described else _NEUTRAL.get(described["type"], 0.0)
        for described in scorer.inputs
    }
    return {"history": items[:2], "candidates": items[-candidates:], "context": context}


class LiveModel:
    """The model in use.

    Args:
        settings: the file and the limits of a request.

    Attributes:
        current: its scorer; a request takes it once and ends on it.
        loaded: :meth:`state` of the file that was last loaded or refused.

    Raises:
        QinZooError: the file cannot be served.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.loaded = self.state()
        self.current = self._load()

    def reload(self) -> str:
        """Takes the file as it is now into use; where it cannot be served the old model stays.

        Returns:
            ``loaded``, ``unchanged`` or ``refused``.
        """
        old, self.loaded = self.current, self.state()
        try:
            new = self._load()
        except Exception as error:  # whatever is wrong with the new file, the old model serves on
            event(logging.ERROR, "reload refused, the old model stays", error=error)
            return "refused"
        if identity(new) == identity(old):
            event(logging.INFO, "reload: the file is the same", **identity(new))
            return "unchanged"
        if new.inputs != old.inputs:
            event(logging.WARNING, "reload changes the row features", before=_features(old), after=_features(new))
        self.current = new
        event(logging.INFO, "reload", **identity(new))
        return "loaded"

    def state(self) -> tuple | None:
        """What changes when the file is replaced; None while it is not there."""
        try:
            found = os.stat(self._settings.path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _load(self) -> Scorer:
        s = self._settings
        scorer = Scorer(s.path, ids=s.ids, max_candidates=s.max_candidates, max_history=s.max_history)
        try:
            scores, _ = scorer.answer(example(scorer, s.ids, min(_WARM, s.max_candidates)))
        except Exception as error:  # ONNX Runtime has no common error class
            raise QinZooError(f"{s.path} fails on its first request. {first_line(error)}") from error
        if not np.isfinite(scores).all():
            raise QinZooError(f"{s.path}: expected finite scores of its first request, found {scores[:3]}.")
        return scorer


def _features(scorer: Scorer) -> str:
    return ",".join(described["name"] for described in scorer.inputs)
