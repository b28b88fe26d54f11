"""Requests to a model of named fields: raw values, as in the files it was trained on, to the graph's inputs.

A request names the columns of the files. Most are a field each; what ``preprocess`` makes of a column is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qin_zoo.errors import RequestError
from qin_zoo.serving.bundle import CONTEXT, HISTORY
from qin_zoo.serving.preprocess import FUNCTIONS, Function
from qin_zoo.serving.raw_values import Field
from qin_zoo.serving.values import check_names, check_number, is_list, shown


class FieldRequests:
    """Reads requests.

    Args:
        manifest: of an export of named fields.
        max_candidates, max_history: a request with more is refused.

    Attributes:
        rows: columns of a row, with the fields made of each; a request holds each in its context or its candidates.
        history: columns of the history, with the fields made of each.
        row_columns, history_columns: each of them in the form of the manifest's inputs, as a request holds it.
        targets: which of ``rows`` are the target's.
    """

    def __init__(self, manifest: Mapping, max_candidates: int, max_history: int):
        inputs, vocabularies = manifest["inputs"], manifest["vocabularies"]
        history = inputs["history"]
        self.rows = _by_column(Field(described, vocabularies) for described in inputs["context"])
        self.history = _by_column(Field(described, vocabularies) for described in history["fields"])
        self.row_columns = [_described(*column) for column in self.rows.items()]
        self.history_columns = [_described(*column) for column in self.history.items()]
        self.targets = [name for name, made in self.rows.items() if {f.name for f in made} & {*history["targets"]}]
        self._pairs: list[list[str]] = history["pairs"]
        self._padded: bool = history["padded"]
        self._paddings = {described["name"]: described["padding_id"] for described in history["fields"]}
        self._max_candidates, self._max_history = max_candidates, max_history

    def feed(self, history: object, candidates: object, context: object = None, embeddings: object = None):
        """What the graph takes of a request.

        Args:
            history: field -> list of values, oldest first; the list alone where there is one field.
            candidates: N of them: field -> value each; the value alone where the target is one field.
            context: field -> a value for all candidates, or a list with one for each.
            embeddings: none.

        Returns:
            inputs that all candidates share; inputs with a row for each; N; and how many values are in no vocabulary.

        Raises:
            RequestError: the request cannot be read.
        """
        if embeddings not in (None, {}):
            raise RequestError("embeddings: a model of named fields takes none. Give an item's fields as a candidate.")
        given = self._candidates(candidates)
        context = {} if context is None else context
        check_names(context, self.rows, "context", "field")
        shared, unknown = self.read_history(history)
        columns = {}
        for name, made in self.rows.items():
            values, where = self._values(name, made, given, context)
            for field in made:
                found, missed = field.encode(values, where)
                if len(values) != len(given):  # one for all
                    found = np.ascontiguousarray(np.broadcast_to(found, (len(given), *found.shape[1:])))
                columns[CONTEXT + field.name], unknown = found, unknown + missed
        return shared, columns, len(given), unknown

    def _candidates(self, candidates: object) -> list[Mapping]:
        if not is_list(candidates):
            raise RequestError(f"candidates: expected a list, found {shown(candidates)}.")
        check_number(len(candidates), self._max_candidates, "candidates")
        given = []
        for place, candidate in enumerate(candidates):
            if len(self.targets) == 1 and not isinstance(candidate, Mapping):
                candidate = {self.targets[0]: candidate}
            check_names(candidate, self.rows, f"candidates: candidate {place}", "field")
            given.append(candidate)
        return given

    def _values(
        self, name: str, made: list[Field], given: list[Mapping], context: Mapping
    ) -> tuple[Sequence[object], str]:
        """A column's values of all candidates, or the one that they share; and where it stands."""
        rows = len(given)
        lacking = next((place for place, candidate in enumerate(given) if name not in candidate), None)
        if name not in context:
            if lacking is not None:
                raise RequestError(
                    f"{name} is missing: expected it in context, or in every candidate, of which candidate {lacking} "
                    f"has none. Fields: {', '.join(self.rows)}."
                )
            return [candidate[name] for candidate in given], f"candidates: {name}"
        if any(name in candidate for candidate in given):
            raise RequestError(f"{name} stands in context and in a candidate: expected it in one of the two.")
        where, value = f"context: {name}", context[name]
        if not made[0].is_each(value):
            return [value], where
        if len(value) != rows:
            raise RequestError(
                f"{where}: expected one value, or one for each of the {rows} candidates, found {len(value)}."
            )
        return value, where

    def read_history(self, history: object) -> tuple[dict[str, np.ndarray], int]:
        """Sequences of ids, (L,) each, L ≥ 1, without padding unless the model sees it, and how many are unknown;
        RequestError where they would be refused."""
        if not isinstance(history, Mapping):
            if history is not None and len(self.history) != 1:
                raise RequestError(f"history: expected field -> list of values, found {shown(history)}.")
            history = dict.fromkeys(self.history, history)
        check_names(history, self.history, "history", "field")
        encoded, counts, unknown = {}, {}, 0
        for name, made in self.history.items():
            value = history.get(name)
            if value is None:
                raise RequestError(f"history: {name} is missing. Fields: {', '.join(self.history)}.")
            if isinstance(value, (Sequence, np.ndarray)):
                check_number(len(value), self._max_history, f"history: {name}")
            for field in made:
                counts[field.name] = field.count(value)
                found, missed = field.encode([value], f"history: {name}")
                encoded[field.name], unknown = found[0], unknown + missed
        shared = {}
        for pair in self._pairs:
            lengths = {name: counts[name] for name in pair}
            if len({*lengths.values()}) > 1:
                raise RequestError(
                    f"history: expected lists of one length in {', '.join(pair)}, which are read position by position, "
                    f"found {', '.join(map(str, lengths.values()))}."
                )
            ids = {name: encoded[name] for name in pair}
            real = ids[pair[0]] != self._paddings[pair[0]]
            order = np.argsort(real, kind="stable")  # what is missing first, as the model has it
            if not self._padded and real.any():  # without any item some models still sum what stands beside it
                order = order[-real.sum() :]
            shared |= {HISTORY + name: found[order] for name, found in ids.items()}
        return shared, unknown

    @property
    def no_history(self) -> dict[str, list]:
        """The history of a user of whom nothing is known, as a request has it."""
        return {name: [] for name in self.history}

    def example(self, candidates: int) -> dict:
        """A request that the model answers, JSON values."""
        own = self.targets or list(self.rows)
        rows = {name: made for name, made in self.rows.items() if name not in own}
        return {
            **({"history": {name: example(made, 0) for name, made in self.history.items()}} if self.history else {}),
            "candidates": [{name: example(self.rows[name], place) for name in own} for place in range(candidates)],
            "context": {name: example(made, 0) for name, made in rows.items()},
        }


def unchanged(made: Iterable[Field]) -> Field | None:
    """The field among those of one column that holds its very values, rather itself than a copy."""
    kept = (field for field in made if not field.functions)
    return min(kept, key=lambda field: field.name != field.column, default=None)


def example(made: list[Field], place: int) -> object:
    """A value of a column that all fields made of it can be made of; another for another place."""
    field, function = unchanged(made), _function(made)
    return field.example(place) if field and (field.words or not function) else function.example(place)


def _function(made: list[Field]) -> Function | None:
    """The one that decides what a value of a column looks like, where functions change it."""
    used = {name for field in made for name in field.functions}
    return next((function for name, function in FUNCTIONS.items() if name in used), None)


def _described(column: str, made: list[Field]) -> dict:
    """What a request holds for a column of the files, in the form of the manifest's inputs.

    Of a column that no field holds as it is, ``expected`` says what its values are.
    """
    if field := unchanged(made):
        return {**field.described, "name": column}
    function = _function(made)
    values = {"type": "categorical", "raw": {"dtype": function.dtype}, "expected": function.expected}
    return {**made[0].described, "name": column, **values}


def _by_column(fields: Iterable[Field]) -> dict[str, list[Field]]:
    columns: dict[str, list[Field]] = {}
    for field in fields:
        columns.setdefault(field.column, []).append(field)
    return columns
