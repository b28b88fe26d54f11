"""Scores an exported model's requests on ONNX Runtime: one history, many candidates.

A model of an item table names items by numbers or original ids; what it takes of a request is worked out here. A model
of named fields takes their raw values: see ``fields.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qin_zoo.calibration import calibrator_from_dict
from qin_zoo.errors import QinZooError, RequestError, first_line, suggest
from qin_zoo.feature_types import type_of
from qin_zoo.serving.bundle import BESIDE, CONTEXT, HISTORY, NEW, read
from qin_zoo.serving.fields import FieldRequests
from qin_zoo.serving.values import column, shown, whole_numbers, width

MAX_CANDIDATES, MAX_HISTORY, MAX_EMBEDDINGS = 100_000, 1_000_000, 10_000
_CHUNK = 256  # candidates scored at a time: their intermediate results stay small, for Transformers too
_KEYS = ("history", "candidates", "context", "embeddings")
ITEMS = "item_seq"  # what a history that tells more of its items calls their list
_HASH = 2**62 - 1


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
            which is None where a value must be given.
        beside: of each feature of the history's items, ``name``, ``type`` and ``vocab_size``.
        items: number of rows of the item table, padding included; 0 of named fields.
        fields: how requests of a model of named fields are read; None with an item table.

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
        self._limits = {"candidates": max_candidates, "history": max_history, "embeddings": max_embeddings}
        data, self.manifest = read(path)
        self._session = _open(data, threads, path)
        inputs = self.manifest["inputs"]
        self._max_len, self._padded = inputs["history"]["max_len"], inputs["history"]["padded"]
        self.inputs: list[dict] = inputs["context"]
        self._context = {described["name"]: described for described in self.inputs}
        self._new = {described["name"]: described for described in inputs["new"]}
        self.beside: list[dict] = inputs["history"].get("beside", [])
        self._wanted = {i.name for i in self._session.get_inputs()}
        of_fields = "vocabularies" in self.manifest
        self.fields = FieldRequests(self.manifest, max_candidates, max_history) if of_fields else None
        self._check_graph(path)
        self._no_new = {NEW + name: type_of(described).zeros(1, described) for name, described in self._new.items()}
        self.items: int = self.manifest["items"]["count"]
        self._rows = self._original_ids(ids, path)
        calibration = self.manifest.get("calibration")
        self._step = None if calibration is None else calibrator_from_dict(calibration)
        self._lock = threading.Lock()
        self._stats = {"requests": 0, "candidates": 0, "unknown_items": 0}

    def _check_graph(self, path) -> None:
        """Whether the graph takes what the manifest describes."""
        ids = ["history", "candidates"]
        if self.fields is not None:
            ids = [HISTORY + described["name"] for described in self.manifest["inputs"]["history"]["fields"]]
        known = dict.fromkeys([*ids, *(BESIDE + described["name"] for described in self.beside)], ("int64", None))
        for prefix, features in ((CONTEXT, self._context), (NEW, self._new)):
            for name, described in features.items():
                known[prefix + name] = ("int64" if type_of(described).ids else "float", width(described))
        for found in self._session.get_inputs():
            wide = found.shape[1] if len(found.shape) == 2 else None
            kind = found.type.removeprefix("tensor(").removesuffix(")")
            if known.get(found.name) != (kind, wide):
                raise QinZooError(
                    f"{path}: its manifest does not describe the input {shown(found.name)} of its graph, {found.type} "
                    f"of shape {found.shape}. Export it anew (qin-zoo export)."
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
        """The scores of one request, a mapping of :meth:`score`'s arguments, and how often an item of it was unknown.

        Raises:
            RequestError: the request cannot be scored.
        """
        return self._score(**_arguments(request, ("history",) if self.fields is None or self.fields.history else ()))

    def _score(self, history=None, candidates=(), context=None, embeddings=None) -> tuple[np.ndarray, int]:
        read = self._feed if self.fields is None else self.fields.feed
        feed, columns, count, unknown = read(history, candidates, context, embeddings)
        parts = (slice(first, first + _CHUNK) for first in range(0, count, _CHUNK))
        scores = [self._run(feed | {name: values[part] for name, values in columns.items()}) for part in parts]
        with self._lock:
            self._stats["requests"] += 1
            self._stats["candidates"] += count
            self._stats["unknown_items"] += unknown
        return (np.concatenate(scores) if scores else np.empty(0, np.float32)), unknown

    def _feed(self, history, candidates, context, embeddings) -> tuple[dict, dict, int, int]:
        """The graph's inputs that all candidates share, those with a row for each, how many, and the unknown items."""
        history, beside = self._lists(history)
        candidates = self._ids(candidates, "candidates")
        context = self._check_context({} if context is None else context, len(candidates))
        history, candidates, new, unknown = self._place(history, candidates, embeddings)
        columns = {"candidates": candidates, **context}
        newest = self._newest(history, {"history": history, **beside})
        return {**newest, **new}, columns, len(candidates), unknown

    def _lists(self, history: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The ids of the history's items, and what is told of them besides."""
        names = [ITEMS, *(described["name"] for described in self.beside)]
        if not self.beside:
            return self._ids(history, "history"), {}
        if not isinstance(history, Mapping) or {*history} != {*names}:
            found = ", ".join(map(str, history)) if isinstance(history, Mapping) else shown(history)
            raise RequestError(f"history: expected lists by name, {', '.join(names)}, found {found}.")
        ids, beside = self._ids(history[ITEMS], "history"), {}
        for described in self.beside:
            where = f"history: {described['name']}"
            if not isinstance(values := history[described["name"]], (Sequence, np.ndarray)) or len(values) != len(ids):
                raise RequestError(f"{where}: expected a list of {len(ids)} values, one for each item.")
            beside[BESIDE + described["name"]] = column(described, values, where, len(ids))
        return ids, beside

    def score_many(self, requests: Sequence[Mapping]) -> list[np.ndarray]:
        """Scores of several requests, each a mapping of :meth:`score`'s arguments, in their order.

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
        scores = self._session.run(None, {name: feed[name] for name in self._wanted})[0]
        return scores if self._step is None else self._step(scores).astype(np.float32)

    # ---- items

    def _ids(self, values: Sequence[int], what: str) -> np.ndarray:
        """(n,) int64 rows of the table, or numbers beyond it."""
        if isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes)):
            self._limit(len(values) if isinstance(values, Sequence) else values.size, what)
        if self._rows is not None:
            return self._numbers(values, what)
        array = whole_numbers(values, what)
        if array.ndim != 1:
            raise RequestError(f"{what}: expected a list of item ids, found {shown(values)}.")
        if len(array) and (least := array.min()) < 0:
            raise RequestError(f"{what}: expected ids of 0 or more, found {least}.")
        return array

    def _limit(self, found: int, what: str) -> None:
        if found > (most := self._limits[what]):
            raise RequestError(f"{what}: expected at most {most:,} items, found {found:,}. Split the request.")

    def _numbers(self, values, what: str) -> np.ndarray:
        """The same of original ids, among which there is no padding."""
        if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
            raise RequestError(f"{what}: expected a list of item ids, found {shown(values)}.")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
                raise RequestError(f"{what}: expected original item ids, numbers or texts, found {shown(value)}.")
        # Unknown ones get numbers of their own, which stay the same within this process.
        beyond = ((str(v), self.items + (hash(str(v)) & _HASH)) for v in values)
        return np.array([self._rows.get(name, number) for name, number in beyond], np.int64)

    def _place(self, history, candidates, embeddings) -> tuple[np.ndarray, np.ndarray, dict, int]:
        """Ids as the graph takes them, with the features of new items, and how often an item was unknown."""
        if embeddings is not None and not isinstance(embeddings, Mapping):
            raise RequestError(f"embeddings: expected item -> features, found {shown(embeddings)}.")
        self._limit(len(embeddings or ()), "embeddings")
        beyond = [ids[ids >= self.items] for ids in (history, candidates)]
        unknown = int((candidates == 0).sum())
        if not embeddings:
            unknown += len(beyond[0]) + len(beyond[1])
            return *(np.where(ids < self.items, ids, 0) for ids in (history, candidates)), self._no_new, unknown
        ids = self._ids(list(embeddings), "embeddings").tolist()
        features = self._features(list(embeddings.values()), ids)  # of all: none of them is taken unchecked
        given = {item: row for row, item in enumerate(ids)}
        used = [i for i in np.unique(np.concatenate(beyond)).tolist() if i in given]
        order = {item: self.items + k for k, item in enumerate(used)}
        unknown += sum(item not in order for ids in beyond for item in ids.tolist())

        def places(ids: np.ndarray) -> np.ndarray:
            return np.array([i if i < self.items else order.get(i, 0) for i in ids.tolist()], np.int64)

        rows = [given[item] for item in used]
        new = {name: values[rows] for name, values in features.items()} if used else self._no_new
        return places(history), places(candidates), new, unknown

    def _features(self, items: list[Mapping], ids: list[int]) -> dict[str, np.ndarray]:
        """The graph's inputs for new items."""
        columns = {name: type_of(described).zeros(len(items), described) for name, described in self._new.items()}
        for row, (features, item) in enumerate(zip(items, ids)):
            where = f"embeddings of item {item}"
            if not isinstance(features, Mapping):
                raise RequestError(f"{where}: expected feature -> value, found {shown(features)}.")
            for name, value in features.items():
                if name not in columns:
                    raise RequestError(
                        f"{where}: unknown feature {shown(name)}.{suggest(name, columns)} "
                        f"Features: {', '.join(columns)}."
                    )
                columns[name][row] = column(self._new[name], value, f"{where}, {name}", 1)[0]
        return {NEW + name: values for name, values in columns.items()}

    def _newest(self, history: np.ndarray, lists: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Lists of the newest items, without padding; padded to the length of training where the model sees it, or to
        one."""
        kept = np.flatnonzero(history)
        kept = kept[max(len(kept) - self._max_len, 0) :]
        missing = max(0, (max(self._max_len, 1) if self._padded else 1) - len(kept))
        return {name: np.concatenate([np.zeros(missing, np.int64), values[kept]]) for name, values in lists.items()}

    def _original_ids(self, ids: str, path) -> dict[str, int] | None:
        if ids == "table":
            return None
        if ids != "original":
            near = suggest(ids, ("table", "original"))
            raise QinZooError(f"ids: expected 'table' or 'original', found {ids!r}.{near}")
        original = self.manifest["items"].get("original_ids")
        if original is None:
            raise QinZooError(
                f"{path} holds no original ids: its dataset has no ids_item.parquet (`qin-zoo data import` writes it). "
                "Name items by their row in the item table: ids='table'."
            )
        return {str(value): row for row, value in enumerate(original) if value is not None}

    # ---- row features

    def _check_context(self, context: Mapping, rows: int) -> dict[str, np.ndarray]:
        """The graph's inputs for the row features, (N, …) each."""
        if not isinstance(context, Mapping):
            raise RequestError(f"context: expected feature -> value, found {shown(context)}.")
        for name in context:
            if name not in self._context:
                raise RequestError(
                    f"context: unknown feature {shown(name)}.{suggest(name, self._context)} "
                    f"Features: {', '.join(self._context) or 'none'}."
                )
        values = {}
        for name, described in self._context.items():
            value = context.get(name, described["default"])
            if value is None:
                raise RequestError(f"context: {name} is missing. Features: {', '.join(self._context)}.")
            values[CONTEXT + name] = column(described, value, f"context: {name}", rows)
        return values


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
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common error class
        raise QinZooError(
            f"{path} cannot be run by ONNX Runtime {ort.__version__}: {first_line(error)} Use a newer onnxruntime."
        ) from error


def _arguments(request: Mapping, wanted: Sequence[str]) -> dict:
    if not isinstance(request, Mapping):
        raise RequestError(f"expected a mapping with {', '.join(_KEYS)}, found {shown(request)}.")
    for key in request:
        if key not in _KEYS:
            raise RequestError(f"unknown key {shown(key)}.{suggest(key, _KEYS)} Keys: {', '.join(_KEYS)}.")
    for key in (*wanted, "candidates"):
        if key not in request:
            raise RequestError(f"{key} is missing. Keys: {', '.join(_KEYS)}.")
    return dict(request)
