"""Scores an exported model's requests on ONNX Runtime: one history, many candidates."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qin_zoo.errors import QinZooError, RequestError, first_line, suggest
from qin_zoo.serving.bundle import CONTEXT, NEW, read

MAX_CANDIDATES, MAX_HISTORY = 100_000, 1_000_000
_CHUNK = 256  # candidates scored at a time: their intermediate results stay small, for Transformers too
_KEYS = ("history", "candidates", "context", "embeddings")
_INT = np.iinfo(np.int64)
_HASH = 2**62 - 1


class Scorer:
    """An exported model. Any number of threads may call one scorer.

    Args:
        path: file that ``qin-zoo export`` wrote.
        threads: processor threads that one request uses.
        ids: ``table``: items are named by their row in the item table, as in the training data; ``original``: by the
            ids they had before ``qin-zoo data import``, where the export holds them.

    Attributes:
        manifest: what the file says of itself: inputs, model card, run, data.
        inputs: of each row feature, ``name``, ``type``, ``vocab_size`` or ``dim`` or ``max_len``, and ``default``,
            which is None where a value must be given.
        items: number of rows of the item table, padding included.

    Raises:
        QinZooError: the file is missing, no export, cut short, changed, or without what ``ids`` asks for.
    """

    def __init__(self, path: str | Path, threads: int = 1, ids: str = "table"):
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise QinZooError(f"threads: expected a positive whole number, found {threads!r}.")
        data, self.manifest = read(path)
        self._session = _open(data, threads, path)
        inputs = self.manifest["inputs"]
        self._max_len, self._padded = inputs["history"]["max_len"], inputs["history"]["padded"]
        self.inputs: list[dict] = inputs["context"]
        self._context = {described["name"]: described for described in self.inputs}
        self._new = {described["name"]: described for described in inputs["new"]}
        self._wanted = {i.name for i in self._session.get_inputs()}
        self._no_new = {NEW + name: _zeros(described, 1) for name, described in self._new.items()}
        self.items: int = self.manifest["items"]["count"]
        self._rows = self._original_ids(ids, path)
        self._lock = threading.Lock()
        self._stats = {"requests": 0, "candidates": 0, "unknown_items": 0}

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
            candidates: N item ids.
            context: row features by name: one value for all candidates, or a sequence with one for each.
            embeddings: of items beyond the table, id -> feature -> value; features not given are those of padding.

        Returns:
            (N,) float32: probabilities of a click, or the value itself where the model is a regression.

        Raises:
            RequestError: the request cannot be scored; the message says what was expected and what came.
        """
        history = self._ids(history, "history", MAX_HISTORY)
        candidates = self._ids(candidates, "candidates", MAX_CANDIDATES)
        context = self._check_context({} if context is None else context, len(candidates))
        history, candidates, new, unknown = self._place(history, candidates, embeddings)
        feed = {"history": self._newest(history), **new}
        columns = {"candidates": candidates, **context}
        parts = (slice(first, first + _CHUNK) for first in range(0, len(candidates), _CHUNK))
        scores = [self._run(feed | {name: values[part] for name, values in columns.items()}) for part in parts]
        with self._lock:
            self._stats["requests"] += 1
            self._stats["candidates"] += len(candidates)
            self._stats["unknown_items"] += unknown
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def score_many(self, requests: Sequence[Mapping]) -> list[np.ndarray]:
        """Scores of several requests, each a mapping of :meth:`score`'s arguments, in their order.

        Every request is computed by itself, so that its scores do not depend on its neighbours.

        Raises:
            RequestError: one of them cannot be scored; none is then answered.
        """
        scores = []
        for number, request in enumerate(requests):
            try:
                scores.append(self.score(**_arguments(request)))
            except RequestError as error:
                raise RequestError(f"request {number}: {error}") from None
        return scores

    def _run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        return self._session.run(None, {name: feed[name] for name in self._wanted})[0]

    # ---- items

    def _ids(self, values: Sequence[int], what: str, limit: int) -> np.ndarray:
        """(n,) int64 rows of the table, or numbers beyond it."""
        if self._rows is not None:
            return self._numbers(values, what, limit)
        array = _whole_numbers(values, what)
        if array.ndim != 1:
            raise RequestError(f"{what}: expected a list of item ids, found {_shown(values)}.")
        if len(array) > limit:
            raise RequestError(f"{what}: expected at most {limit:,} items, found {len(array):,}. Split the request.")
        if len(array) and (least := array.min()) < 0:
            raise RequestError(f"{what}: expected ids of 0 or more, found {least}.")
        return array

    def _numbers(self, values, what: str, limit: int) -> np.ndarray:
        """The same of original ids, among which there is no padding."""
        if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
            raise RequestError(f"{what}: expected a list of item ids, found {_shown(values)}.")
        if len(values) > limit:
            raise RequestError(f"{what}: expected at most {limit:,} items, found {len(values):,}. Split the request.")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
                raise RequestError(f"{what}: expected original item ids, numbers or texts, found {_shown(value)}.")
        # Unknown ones get numbers of their own, which stay the same within this process.
        beyond = ((str(v), self.items + (hash(str(v)) & _HASH)) for v in values)
        return np.array([self._rows.get(name, number) for name, number in beyond], np.int64)

    def _place(self, history, candidates, embeddings) -> tuple[np.ndarray, np.ndarray, dict, int]:
        """Ids as the graph takes them, with the features of new items, and how often an item was unknown."""
        if embeddings is not None and not isinstance(embeddings, Mapping):
            raise RequestError(f"embeddings: expected item -> features, found {_shown(embeddings)}.")
        beyond = [ids[ids >= self.items] for ids in (history, candidates)]
        unknown = int((candidates == 0).sum())
        if not embeddings or not (len(beyond[0]) or len(beyond[1])):
            unknown += len(beyond[0]) + len(beyond[1])
            return *(np.where(ids < self.items, ids, 0) for ids in (history, candidates)), self._no_new, unknown
        given = {int(self._ids([item], "embeddings", 1)[0]): features for item, features in embeddings.items()}
        used = [i for i in np.unique(np.concatenate(beyond)).tolist() if i in given]
        order = {item: self.items + k for k, item in enumerate(used)}
        unknown += sum(item not in order for ids in beyond for item in ids.tolist())

        def places(ids: np.ndarray) -> np.ndarray:
            return np.array([i if i < self.items else order.get(i, 0) for i in ids.tolist()], np.int64)

        new = self._features([given[item] for item in used], used) if used else self._no_new
        return places(history), places(candidates), new, unknown

    def _features(self, items: list[Mapping], ids: list[int]) -> dict[str, np.ndarray]:
        """The graph's inputs for new items."""
        columns = {name: _zeros(described, len(items)) for name, described in self._new.items()}
        for row, (features, item) in enumerate(zip(items, ids)):
            where = f"embeddings of item {item}"
            if not isinstance(features, Mapping):
                raise RequestError(f"{where}: expected feature -> value, found {_shown(features)}.")
            for name, value in features.items():
                if name not in columns:
                    raise RequestError(
                        f"{where}: unknown feature {name!r}.{suggest(name, columns)} Features: {', '.join(columns)}."
                    )
                columns[name][row] = _column(self._new[name], value, f"{where}, {name}", 1)[0]
        return {NEW + name: values for name, values in columns.items()}

    def _newest(self, history: np.ndarray) -> np.ndarray:
        """The newest items, without padding; padded to the length of training where the model sees it, or to one."""
        history = history[history != 0]
        history = history[max(len(history) - self._max_len, 0) :]
        missing = (max(self._max_len, 1) if self._padded else 1) - len(history)
        return np.concatenate([np.zeros(missing, np.int64), history]) if missing > 0 else history

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
            raise RequestError(f"context: expected feature -> value, found {_shown(context)}.")
        for name in context:
            if name not in self._context:
                raise RequestError(
                    f"context: unknown feature {name!r}.{suggest(name, self._context)} "
                    f"Features: {', '.join(self._context) or 'none'}."
                )
        values = {}
        for name, described in self._context.items():
            value = context.get(name, described["default"])
            if value is None:
                raise RequestError(f"context: {name} is missing. Features: {', '.join(self._context)}.")
            values[CONTEXT + name] = _column(described, value, f"context: {name}", rows)
        return values


def _open(data: bytes, threads: int, path):
    """An ONNX Runtime session."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common error class
        raise QinZooError(
            f"{path} cannot be run by ONNX Runtime {ort.__version__}: {first_line(error)} Use a newer onnxruntime."
        ) from error


def _arguments(request: Mapping) -> dict:
    if not isinstance(request, Mapping):
        raise RequestError(f"expected a mapping with {', '.join(_KEYS)}, found {_shown(request)}.")
    for key in request:
        if key not in _KEYS:
            raise RequestError(f"unknown key {key!r}.{suggest(key, _KEYS)} Keys: {', '.join(_KEYS)}.")
    for key in ("history", "candidates"):
        if key not in request:
            raise RequestError(f"{key} is missing. Keys: {', '.join(_KEYS)}.")
    return dict(request)


def _column(described: Mapping, value: object, where: str, rows: int) -> np.ndarray:
    """A feature's values for ``rows`` rows, (rows, …): given once for all, or for each."""
    kind, wide = described["type"], _width(described)
    if kind == "sequence":
        value = _padded_lists(value, wide, where)
    numbers = _whole_numbers(value, where) if kind in ("categorical", "sequence") else _floats(value, where)
    one = (wide,) if wide else ()
    if numbers.shape not in (one, (rows, *one)):
        each = f"{wide} numbers" if wide else "one value"
        raise RequestError(
            f"{where}: expected {each}, or {each} for each of the {rows} candidates, found {_shown(value)}"
            + (f" of shape {numbers.shape}." if numbers.ndim else ".")
        )
    if (size := described.get("vocab_size")) and numbers.size:
        least, greatest = numbers.min(), numbers.max()
        if least < 0 or greatest >= size:
            raise RequestError(
                f"{where}: expected ids from 0 to {size - 1}, found {least if least < 0 else greatest}. Use 0 for a "
                "value that was not in the training data."
            )
    return np.ascontiguousarray(np.broadcast_to(numbers, (rows, *one)))


def _padded_lists(value: object, length: int, where: str) -> object:
    """A list of ids, or a list of lists, filled up with 0 at the end."""
    if not isinstance(value, (Sequence, np.ndarray)) or isinstance(value, str):
        raise RequestError(f"{where}: expected a list of ids, or one for each candidate, found {_shown(value)}.")
    nested = len(value) and isinstance(value[0], (Sequence, np.ndarray)) and not isinstance(value[0], str)
    for ids in value if nested else [value]:
        if len(ids) > length:
            raise RequestError(f"{where}: expected at most {length} ids, found {len(ids)}.")
    filled = [[*ids, *[0] * (length - len(ids))] for ids in (value if nested else [value])]
    return filled if nested else filled[0]


def _whole_numbers(values: object, where: str) -> np.ndarray:
    array = _array(values, where)
    if array.dtype.kind not in "iu" and array.size:
        wrong = values
        if isinstance(values, Sequence) and not isinstance(values, str):
            wrong = next((v for v in values if isinstance(v, bool) or not isinstance(v, (int, np.integer))), values)
        raise RequestError(f"{where}: expected whole numbers, found {_shown(wrong)}.")
    if array.dtype.kind == "u" and array.size and array.max() > _INT.max:
        raise RequestError(f"{where}: expected whole numbers below 2^63, found {array.max()}.")
    return array.astype(np.int64, copy=False)


def _floats(values: object, where: str) -> np.ndarray:
    array = _array(values, where)
    if array.dtype.kind not in "iuf":
        raise RequestError(f"{where}: expected numbers, found {_shown(values)}.")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise RequestError(f"{where}: expected finite numbers, found {_shown(values)}.")
    return array


def _array(values: object, where: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"{where}: expected numbers, or lists of one length, found {_shown(values)}.") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _width(described: Mapping) -> int | None:
    """Numbers in one value of a feature; None for a single number."""
    return {"sequence": described.get("max_len"), "embedding": described.get("dim")}.get(described["type"])


def _zeros(described: Mapping, rows: int) -> np.ndarray:
    wide = _width(described)
    dtype = np.int64 if described["type"] in ("categorical", "sequence") else np.float32
    return np.zeros((rows, wide) if wide else (rows,), dtype)
