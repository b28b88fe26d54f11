"""Scores an exported model's requests on ONNX Runtime: one history, many candidates.

What a model of an item table takes of a request is worked out in ``items.py``, of named fields in ``fields.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qin_zoo.calibration import calibrator_from_dict
from qin_zoo.errors import QinZooError, RequestError, first_line
from qin_zoo.feature_types import type_of
from qin_zoo.serving.bundle import BESIDE, CONTEXT, HISTORY, NEW, read
from qin_zoo.serving.catalogue import Catalogue, best
from qin_zoo.serving.fields import FieldRequests
from qin_zoo.serving.items import ItemRequests
from qin_zoo.serving.values import check_keys, shown, width

MAX_CANDIDATES, MAX_HISTORY, MAX_EMBEDDINGS = 100_000, 1_000_000, 10_000
_CHUNK = 256  # candidates scored at a time where the file does not say how many
_KEYS = dict.fromkeys(("history", "candidates", "context", "embeddings"))


class Scorer:
    """An exported model. Any number of threads may call one scorer.

    Args:
        path: file that ``qin-zoo export`` wrote.
        threads: processor threads that one request uses.
        ids: ``table``: items are named by their row in the item table, as in the training data; ``original``: by the
            ids they had before ``qin-zoo data import``, where the export holds them.
        max_candidates, max_history, max_embeddings: a request with more items there is refused.

    Attributes:
        manifest: what the file says of itself: inputs, model card, run, data.
        inputs: of each row feature, ``name``, ``type``, ``vocab_size`` or ``dim`` or ``max_len``, and ``default``,
            which is None where a value must be given; with ``of_item`` it is known of each candidate where none is.
        of_user: row features that are the user's -> what they are of a user of whom nothing is known.
        beside: of each feature of the history's items, ``name``, ``type`` and ``vocab_size``.
        items: number of rows of the item table, padding included; 0 of named fields.
        fields: how requests of a model of named fields are read; None with an item table.
        requests: the same of either.
        catalogue: by what items can be chosen; None of named fields.

    Raises:
        QinZooError: the file is missing, no export, cut short, changed, or without what ``ids`` asks for.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int = 1,
        ids: str = "table",
        *,
        max_candidates: int = MAX_CANDIDATES,
        max_history: int = MAX_HISTORY,
        max_embeddings: int = MAX_EMBEDDINGS,
    ):
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise QinZooError(f"threads: expected a positive whole number, found {threads!r}.")
        limits = {"candidates": max_candidates, "history": max_history, "embeddings": max_embeddings}
        data, self.manifest = read(path)
        self._session = _open(data, threads, path)
        # ONNX Runtime's own function: what Python does around it, such as to ask for each input's name, takes 5 µs.
        self._compute = getattr(self._session, "_sess", self._session).run
        self._wanted = {i.name for i in self._session.get_inputs()}
        self._outputs = [self._session.get_outputs()[0].name]
        inputs = self.manifest["inputs"]
        self.inputs: list[dict] = inputs["context"]
        self.beside: list[dict] = inputs["history"].get("beside", [])
        of_user = [described for described in self.inputs if described.get("of_user")]
        self.of_user = {described["name"]: type_of(described).zeros(1, described)[0].tolist() for described in of_user}
        self._check_graph(path)
        self.items: int = self.manifest["items"]["count"]
        self._chunk: int = self.manifest.get("chunk", _CHUNK)
        self._most, of_fields = max_candidates, "vocabularies" in self.manifest
        self.fields = FieldRequests(self.manifest, max_candidates, max_history) if of_fields else None
        has_history = self.fields is None or self.fields.history
        self._needed = dict.fromkeys(("history", "candidates") if has_history else ("candidates",)).keys()
        self.catalogue = None if of_fields else Catalogue(self.manifest["items"])
        self.requests: FieldRequests | ItemRequests = self.fields or ItemRequests(self.manifest, ids, limits, path)
        calibration = self.manifest.get("calibration")
        self._step = None if calibration is None else calibrator_from_dict(calibration)
        self._lock = threading.Lock()
        self._stats = {"requests": 0, "candidates": 0, "unknown_items": 0}

    def _check_graph(self, path) -> None:
        """Whether the graph takes what the manifest describes."""
        ids = ["history", "candidates"]
        inputs = self.manifest["inputs"]
        if "vocabularies" in self.manifest:
            ids = [HISTORY + described["name"] for described in inputs["history"]["fields"]]
        known = dict.fromkeys([*ids, *(BESIDE + described["name"] for described in self.beside)], ("int64", None))
        named = {CONTEXT + d["name"]: d for d in self.inputs} | {NEW + d["name"]: d for d in inputs["new"]}
        known |= {name: ("int64" if type_of(d).ids else "float", width(d)) for name, d in named.items()}
        for given in self._session.get_inputs():
            wide = given.shape[1] if len(given.shape) == 2 else None
            kind = given.type.removeprefix("tensor(").removesuffix(")")
            if known.get(given.name) != (kind, wide):
                raise QinZooError(
                    f"{path}: its manifest does not describe the input {shown(given.name)} of its graph, {given.type} "
                    f"of shape {given.shape}. Export it anew (qin-zoo export)."
                )

    @property
    def stats(self) -> dict[str, int]:
        """``requests`` and ``candidates`` scored so far; ``unknown_items``, how often an item was unknown."""
        with self._lock:
            return dict(self._stats)

    def score(
        self,
        history: Sequence[int],
        candidates: Sequence[int],
        context: Mapping[str, object] | None = None,
        embeddings: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    ) -> np.ndarray:
        """Scores of candidates for one user.

        An item beyond the table counts as unknown. Given its features in ``embeddings`` it is scored through them, with
        nothing learnt for its id; otherwise as the padding item, row 0, and left out of the history.

        Args:
            history: item ids, oldest first; zeros are padding. The newest of them are used, as many as in training.
                Where the model wants more of the history's items (:attr:`beside`), such as their ratings, the lists
                by name, the ids' being ``item_seq``: one value for each item, 0 for one that is not known.
            candidates: N item ids.
            context: row features by name: one value for all candidates, or a sequence with one for each.
            embeddings: of items beyond the table, id -> feature -> value; features not given are those of padding.

        With named fields ``history`` is field -> values, and a candidate field -> value, all as in the files that the
        model was trained on; see :meth:`~qin_zoo.serving.fields.FieldRequests.feed`.

        Returns:
            (N,) float32: probabilities of a click, calibrated where the export holds such a step; or the value itself
            where the model is a regression.

        Raises:
            RequestError: the request cannot be scored; the message says what was expected and what came.
        """
        return self._score(history, candidates, context, embeddings)[0]

    def answer(self, request: Mapping) -> tuple[np.ndarray, int]:
        """The scores (N,) of a request, :meth:`score`'s arguments by name, and how often an item of it was unknown.

        Raises:
            RequestError: the request cannot be scored.
        """
        if not (type(request) is dict and self._needed <= request.keys() <= _KEYS.keys()):
            check_keys(request, _KEYS, self._needed)
        return self._score(**request)

    def _score(self, history=None, candidates=(), context=None, embeddings=None) -> tuple[np.ndarray, int]:
        feed, columns, count, unknown = self.requests.feed(history, candidates, context, embeddings)
        chunk = self._chunk
        if 0 < count <= chunk:
            scores = [self._run(feed | columns)]
        else:
            parts = (slice(first, first + chunk) for first in range(0, count, chunk))
            scores = [self._run(feed | {name: values[part] for name, values in columns.items()}) for part in parts]
        with self._lock:
            self._stats["requests"] += 1
            self._stats["candidates"] += count
            self._stats["unknown_items"] += unknown
        return (scores[0] if len(scores) == 1 else np.concatenate([np.empty(0, np.float32), *scores])), unknown

    def top(
        self,
        k: int,
        history: Sequence[int],
        context: Mapping[str, object] | None = None,
        candidates: Sequence[int] | None = None,
        where: Mapping[str, object] | None = None,
        exclude: Sequence[int] = (),
        going: Callable[[], bool] = lambda: True,
    ) -> tuple[list, np.ndarray, int]:
        """The best items of the catalogue for one user: exactly those that :meth:`score` finds best.

        Args:
            k: how many.
            history: as of :meth:`score`.
            context: row features, one value each for all items.
            candidates: items among which to choose. Default: the whole catalogue.
            where: item feature -> value that the items have, or values of which one.
            exclude: items to leave out.
            going: asked between blocks of items; once it is false, nothing more is scored.

        Returns:
            item ids, the best first; (k,) float32 scores of them, fewer where there are fewer items; and how many items
            were scored. Of equal scores the item comes first that does so in the table.

        Raises:
            RequestError: the request cannot be read, or the model has no item table.
        """
        if self.catalogue is None:
            raise RequestError("a model of named fields has no catalogue: give candidates to /score.")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self._most:
            raise RequestError(f"k: expected a whole number from 1 to {self._most:,}, found {shown(k)}.")
        requests = self.requests
        shared, columns, _, _ = requests.feed(history, [requests.any], context)
        rows = self.catalogue.rows(where, requests.named)
        if candidates is not None:
            rows = np.intersect1d(rows, requests.ids(candidates, "candidates"))
        rows = np.setdiff1d(rows, requests.ids(exclude, "exclude"), assume_unique=True)
        scores = [np.empty(0, np.float32)]
        for first in range(0, len(rows), self._chunk):
            if not going():
                break
            block = rows[first : first + self._chunk]
            feed = {name: np.repeat(values, len(block), axis=0) for name, values in columns.items()}
            feed |= requests.of_items(context, block)
            scores.append(self._run({**shared, **feed, "candidates": block}))
        scored = np.concatenate(scores)
        items, kept = best(rows[: len(scored)], scored, k)
        return requests.names(items.tolist()), kept, len(rows)

    def score_many(self, requests: Sequence[Mapping]) -> list[np.ndarray]:
        """Scores (N,) of several requests, each a mapping of :meth:`score`'s arguments, in their order.

        Every request is computed by itself, so that its scores do not depend on its neighbours.

        Raises:
            RequestError: one of them cannot be scored; none is then answered.
        """
        scores = []
        for number, request in enumerate(requests):
            try:
                scores.append(self.answer(request)[0])
            except RequestError as error:
                raise RequestError(f"request {number}: {error}") from None
        return scores

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        if len(feed) > len(self._wanted):  # a graph has no input for what it makes nothing of
            feed = {name: feed[name] for name in self._wanted}
        scores = self._compute(self._outputs, feed, None)[0]
        return scores if self._step is None else self._step(scores).astype(np.float32)


def _open(data: bytes, threads: int, path):
    """An ONNX Runtime session."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise QinZooError("scoring needs the package onnxruntime: pip install onnxruntime.") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was hashed and checked, no other
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common error class
        raise QinZooError(
            f"{path} cannot be run by ONNX Runtime {ort.__version__}: {first_line(error)} Use a newer onnxruntime."
        ) from error
    session._model_bytes = None  # kept for a fallback to other providers, of which there is none: as long as the file
    return session
