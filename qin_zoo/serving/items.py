"""Requests to a model of an item table: items by numbers or original ids, row features, to the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from qin_zoo.errors import QinZooError, RequestError, suggest
from qin_zoo.feature_types import type_of
from qin_zoo.serving.bundle import BESIDE, CONTEXT, NEW
from qin_zoo.serving.catalogue import codes_of_words, unpack
from qin_zoo.serving.values import check_names, check_number, column, is_list, shown, whole_numbers

ITEMS = "item_seq"  # what a history that tells more of its items calls their list
_HASH = 2**62 - 1
_FEW = 200  # numbers of which Python finds the least sooner than NumPy


class ItemRequests:
    """Reads requests.

    Args:
        manifest: of an export of an item table.
        ids: how items are named, ``table`` or ``original``.
        limits: most ``candidates``, ``history`` items and ``embeddings``.
        path: of the file, for messages.

    Attributes:
        count: number of rows of the item table, padding included.
        named: whether items are named by original ids.
        any: an item that there is.

    Raises:
        QinZooError: the export holds no original ids.
    """

    def __init__(self, manifest: Mapping, ids: str, limits: Mapping[str, int], path: object):
        inputs = manifest["inputs"]
        self.count: int = manifest["items"]["count"]
        self._original = manifest["items"].get("original_ids")
        self._limits = {**limits, "exclude": limits["candidates"]}
        self._max_len, self._padded = inputs["history"]["max_len"], inputs["history"]["padded"]
        self._context = {described["name"]: described for described in inputs["context"]}
        self._new = {described["name"]: described for described in inputs["new"]}
        self._no_new = {NEW + name: type_of(described).zeros(1, described) for name, described in self._new.items()}
        self._codes = codes_of_words((*inputs["context"], *inputs["new"]))
        self._beside = inputs["history"].get("beside", [])
        self._numbered = self._original_ids(ids, path)
        self.named = self._numbered is not None
        self.any = next(iter(self._numbered), "") if self.named else 1
        self._of_item = {
            name: unpack(one["of_item"]).astype(np.int64) for name, one in self._context.items() if "of_item" in one
        }
        self._plain_context = [
            (name, CONTEXT + name, one.get("vocab_size"), self._of_item.get(name))
            for name, one in self._context.items()
        ]
        self._is_plain = not self.named and not self._beside and self._max_len > 0
        self._is_plain &= all(described["type"] == "categorical" for described in self._context.values())

    @property
    def no_history(self) -> list | dict[str, list]:
        """The history of a user of whom nothing is known, as a request has it."""
        return {name: [] for name in (ITEMS, *(d["name"] for d in self._beside))} if self._beside else []

    def example(self, candidates: int) -> dict:
        """A request that the model answers, JSON values."""

        def some(rows: range, number: int) -> list:
            known = (row for row in rows if not self.named or self._original[row] is not None)
            return self.names([*islice(known, number)])

        items, last = some(range(1, self.count), 2), some(range(self.count - 1, 0, -1), candidates)
        beside = {described["name"]: [1] * len(items) for described in self._beside}
        context = {
            name: [] if type_of(described).form == "ids" else type_of(described).zeros(1, described)[0].tolist()
            for name, described in self._context.items()
            if "of_item" not in described
        }
        history = {ITEMS: items, **beside} if beside else items
        return {"history": history, "candidates": last[::-1], "context": context}

    def names(self, rows: list[int]) -> list:
        """Rows as requests name them."""
        return [self._original[row] for row in rows] if self.named else rows

    def feed(self, history, candidates, context=None, embeddings=None) -> tuple[dict, dict, int, int]:
        """What the graph takes of a request; see :meth:`qin_zoo.serving.scorer.Scorer.score`.

        Returns:
            inputs that all candidates share; inputs with a row for each; how many; and how often an item was unknown.

        Raises:
            RequestError: the request cannot be read.
        """
        if self._is_plain and embeddings is None and (found := self._plain(history, candidates, context)) is not None:
            return found
        history, beside = self.read_history(history)
        candidates = self.ids(candidates, "candidates")
        context, missed = self._check_context({} if context is None else context, candidates)
        history, candidates, new, unknown = self._place(history, candidates, embeddings)
        columns = {"candidates": candidates, **context}
        newest = self._newest(history, {"history": history, **beside})
        return {**newest, **new}, columns, len(candidates), unknown + missed

    def _plain(self, history, candidates, context) -> tuple[dict, dict, int, int] | None:
        """The same of a request as most are: known items, nothing missing, one value for all candidates. It is found
        in a third of the time; None of any other request."""
        if not (type(history) is type(candidates) is list and history and candidates):
            return None
        context = {} if context is None else context
        if type(context) is not dict or not context.keys() <= self._context.keys():
            return None
        length, rows = len(history), len(candidates)
        if rows > self._limits["candidates"] or length > self._limits["history"]:
            return None
        if self._padded and length < self._max_len:
            return None
        ids = history + candidates  # checked at once: calls take longer than what they do
        if {*map(type, ids)} != {int}:
            return None
        try:
            array = np.array(ids, np.int64)
        except OverflowError:
            return None
        least, most = (min(ids), max(ids)) if len(ids) <= _FEW else (array.min(), array.max())
        if least <= 0 or most >= self.count:
            return None
        columns = {"candidates": array[length:]}
        for name, key, size, of_item in self._plain_context:
            value = context.get(name)
            if value is None and of_item is not None:
                columns[key] = of_item[array[length:]]
                continue
            if type(value) is not int or not 0 <= value < size:
                return None
            columns[key] = values = np.empty(rows, np.int64)
            values.fill(value)
        return {"history": array[max(length - self._max_len, 0) : length], **self._no_new}, columns, rows, 0

    def read_history(self, history: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The ids of the history's items, and what is told of them besides; RequestError where it would be refused."""
        names = [ITEMS, *(described["name"] for described in self._beside)]
        if not self._beside:
            return self.ids(history, "history"), {}
        if not isinstance(history, Mapping) or {*history} != {*names}:
            found = ", ".join(map(str, history)) if isinstance(history, Mapping) else shown(history)
            raise RequestError(f"history: expected lists by name, {', '.join(names)}, found {found}.")
        ids, beside = self.ids(history[ITEMS], "history"), {}
        for described in self._beside:
            where = f"history: {described['name']}"
            if not isinstance(values := history[described["name"]], (Sequence, np.ndarray)) or len(values) != len(ids):
                raise RequestError(f"{where}: expected a list of {len(ids)} values, one for each item.")
            beside[BESIDE + described["name"]] = column(described, values, where, len(ids))
        return ids, beside

    def ids(self, values: Sequence[int], what: str) -> np.ndarray:
        """(n,) int64 rows of the table, or numbers beyond it."""
        if is_list(values):
            check_number(len(values) if isinstance(values, Sequence) else values.size, self._limits[what], what)
        if self.named:
            return self._numbers(values, what)
        array = whole_numbers(values, what)
        if array.ndim != 1:
            raise RequestError(f"{what}: expected a list of item ids, found {shown(values)}.")
        if len(array) and (least := array.min()) < 0:
            raise RequestError(f"{what}: expected ids of 0 or more, found {least}.")
        return array

    def _numbers(self, values, what: str) -> np.ndarray:
        """The same of original ids, among which there is no padding."""
        if not is_list(values):
            raise RequestError(f"{what}: expected a list of item ids, found {shown(values)}.")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
                raise RequestError(f"{what}: expected original item ids, numbers or texts, found {shown(value)}.")
        # Unknown ones get numbers of their own, which stay the same within this process.
        beyond = ((str(v), self.count + (hash(str(v)) & _HASH)) for v in values)
        return np.array([self._numbered.get(name, number) for name, number in beyond], np.int64)

    def _place(self, history, candidates, embeddings) -> tuple[np.ndarray, np.ndarray, dict, int]:
        """Ids as the graph takes them, with the features of new items, and how often an item was unknown."""
        if embeddings is not None and not isinstance(embeddings, Mapping):
            raise RequestError(f"embeddings: expected item -> features, found {shown(embeddings)}.")
        check_number(len(embeddings or ()), self._limits["embeddings"], "embeddings")
        beyond = [ids[ids >= self.count] for ids in (history, candidates)]
        unknown = int((candidates == 0).sum())
        if not embeddings:
            unknown += len(beyond[0]) + len(beyond[1])
            return *(np.where(ids < self.count, ids, 0) for ids in (history, candidates)), self._no_new, unknown
        ids = self.ids(list(embeddings), "embeddings").tolist()
        features = self._features(embeddings)  # of all: none of them is taken unchecked
        given = {item: row for row, item in enumerate(ids)}
        used = [i for i in np.unique(np.concatenate(beyond)).tolist() if i in given]
        order = {item: self.count + k for k, item in enumerate(used)}
        unknown += sum(item not in order for ids in beyond for item in ids.tolist())

        def places(ids: np.ndarray) -> np.ndarray:
            return np.array([i if i < self.count else order.get(i, 0) for i in ids.tolist()], np.int64)

        rows = [given[item] for item in used]
        new = {name: values[rows] for name, values in features.items()} if used else self._no_new
        return places(history), places(candidates), new, unknown

    def _features(self, items: Mapping) -> dict[str, np.ndarray]:
        """The graph's inputs for new items, which messages call what the request does."""
        columns = {name: type_of(described).zeros(len(items), described) for name, described in self._new.items()}
        for row, (item, features) in enumerate(items.items()):
            where = f"embeddings of item {shown(item) if isinstance(item, str) else item}"
            check_names(features, columns, where)
            for name, value in features.items():
                value, _ = self._coded(name, value)
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
        if self._original is None:
            raise QinZooError(
                f"{path} holds no original ids: its dataset has no ids_item.parquet (`qin-zoo data import` writes it). "
                "Name items by their row in the item table: ids='table'."
            )
        return {str(value): row for row, value in enumerate(self._original) if value is not None}

    def of_items(self, context: object, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's inputs for the row features that a request leaves to what is known of its candidates, (N,) each.

        Args:
            context: of a request that has been read.
            rows: (N,) of the item table; beyond it are new items, of which nothing is known.
        """
        known = np.minimum(rows, self.count - 1)
        return {
            CONTEXT + name: np.where(rows < self.count, levels[known], 0)
            for name, levels in self._of_item.items()
            if (context or {}).get(name) is None
        }

    def _check_context(self, context: Mapping, candidates: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """The graph's inputs for the row features, (N, …) each, and how many of their words are unknown."""
        check_names(context, self._context, "context")
        rows, values, unknown = len(candidates), self.of_items(context, candidates), 0
        for name, described in self._context.items():
            if CONTEXT + name in values:
                continue
            value = context.get(name, described["default"])
            if value is None:
                told = " A user_id tells it (serve --histories)." if described.get("of_user") else ""
                raise RequestError(f"context: {name} is missing.{told} Features: {', '.join(self._context)}.")
            value, missed = self._coded(name, value)
            values[CONTEXT + name], unknown = column(described, value, f"context: {name}", rows), unknown + missed
        return values, unknown

    def _coded(self, name: str, value: object) -> tuple[object, int]:
        """A feature's value with codes for its words, and how many of these are unknown."""
        codes = self._codes.get(name)
        if codes is None or not isinstance(value, (str, list)):
            return value, 0
        if isinstance(value, str):
            return codes.get(value, 0), int(value not in codes)
        words = [one for one in value if isinstance(one, str)]
        coded = [codes.get(one, 0) if isinstance(one, str) else one for one in value] if words else value
        return coded, sum(word not in codes for word in words)
