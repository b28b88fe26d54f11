"""Requests to a model of named fields: raw values, as in the files it was trained on, to the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qin_zoo.errors import RequestError, suggest
from qin_zoo.serving.bundle import CONTEXT, HISTORY
from qin_zoo.serving.raw_values import Field
from qin_zoo.serving.values import shown


class FieldRequests:
    """Reads requests.

    Args:
        manifest: of an export of named fields.
        max_candidates, max_history: a request with more is refused.

    Attributes:
        rows: fields of a row, by name; a request holds each in its context or in its candidates.
        history: fields of the history, by name.
        targets: which of ``rows`` are the target's.
    """

    def __init__(self, manifest: Mapping, max_candidates: int, max_history: int):
        inputs, vocabularies = manifest["inputs"], manifest["vocabularies"]
        history = inputs["history"]
        self.rows = {described["name"]: Field(described, vocabularies) for described in inputs["context"]}
        self.history = {described["name"]: Field(described, vocabularies) for described in history["fields"]}
        self.targets: list[str] = history["targets"]
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
        if embeddings:
            raise RequestError("embeddings: a model of named fields takes none. Give an item's fields as a candidate.")
        given = self._candidates(candidates)
        context = {} if context is None else context
        if not isinstance(context, Mapping):
            raise RequestError(f"context: expected field -> value, found {shown(context)}.")
        _check_names(context, self.rows, "context")
        shared, unknown = self._histories(history)
        columns = {}
        for name, field in self.rows.items():
            columns[CONTEXT + name], missed = self._column(field, given, context)
            unknown += missed
        return shared, columns, len(given), unknown

    def _candidates(self, candidates: object) -> list[Mapping]:
        if not isinstance(candidates, (Sequence, np.ndarray)) or isinstance(candidates, (str, bytes)):
            raise RequestError(f"candidates: expected a list, found {shown(candidates)}.")
        _check_number(len(candidates), self._max_candidates, "candidates")
        given = []
        for place, candidate in enumerate(candidates):
            where = f"candidates: candidate {place}"
            if not isinstance(candidate, Mapping):
                if len(self.targets) != 1:
                    raise RequestError(f"{where}: expected field -> value, found {shown(candidate)}.")
                candidate = {self.targets[0]: candidate}
            _check_names(candidate, self.rows, where)
            given.append(candidate)
        return given

    def _column(self, field: Field, given: list[Mapping], context: Mapping) -> tuple[np.ndarray, int]:
        """A field's values of all candidates, (N, …), and how many of them are unknown."""
        name, rows = field.name, len(given)
        lacking = next((place for place, candidate in enumerate(given) if name not in candidate), None)
        if name not in context:
            if lacking is not None:
                raise RequestError(
                    f"{name} is missing: expected it in context, or in every candidate, of which candidate {lacking} "
                    f"has none. Fields: {', '.join(self.rows)}."
                )
            return field.encode([candidate[name] for candidate in given], f"candidates: {name}")
        if any(name in candidate for candidate in given):
            raise RequestError(f"{name} stands in context and in a candidate: expected it in one of the two.")
        where, value = f"context: {name}", context[name]
        if not field.is_each(value):
            one, unknown = field.encode([value], where)
            return np.ascontiguousarray(np.broadcast_to(one, (rows, *one.shape[1:]))), unknown
        if len(value) != rows:
            raise RequestError(
                f"{where}: expected one value, or one for each of the {rows} candidates, found {len(value)}."
            )
        return field.encode(value, where)

    def _histories(self, history: object) -> tuple[dict[str, np.ndarray], int]:
        """Sequences of ids, (L,) each, L ≥ 1; without padding unless the model sees it."""
        if not isinstance(history, Mapping):
            if history is not None and len(self.history) != 1:
                raise RequestError(f"history: expected field -> list of values, found {shown(history)}.")
            history = dict.fromkeys(self.history, history)
        _check_names(history, self.history, "history")
        shared, unknown = {}, 0
        for pair in self._pairs:
            ids = {}
            counts = {name: self.history[name].count(history.get(name)) for name in pair}
            if len({*counts.values()}) > 1:
                raise RequestError(
                    f"history: expected lists of one length in {', '.join(pair)}, which are read position by position, "
                    f"found {', '.join(map(str, counts.values()))}."
                )
            for name in pair:
                value = history.get(name)
                if value is None:
                    raise RequestError(f"history: {name} is missing. Fields: {', '.join(self.history)}.")
                if isinstance(value, (Sequence, np.ndarray)):
                    _check_number(len(value), self._max_history, f"history: {name}")
                found, missed = self.history[name].encode([value], f"history: {name}")
                ids[name], unknown = found[0], unknown + missed
            real = ids[pair[0]] != self._paddings[pair[0]]
            order = np.argsort(real, kind="stable")  # what is missing first, as the model has it
            if not self._padded and real.any():  # without any item some models still sum what stands beside it
                order = order[-real.sum() :]
            shared |= {HISTORY + name: found[order] for name, found in ids.items()}
        return shared, unknown

    def example(self, candidates: int) -> dict:
        """A request that the model answers, JSON values."""
        own = self.targets or list(self.rows)
        return {
            **({"history": {name: field.example(0) for name, field in self.history.items()}} if self.history else {}),
            "candidates": [{name: self.rows[name].example(place) for name in own} for place in range(candidates)],
            "context": {name: field.example(0) for name, field in self.rows.items() if name not in own},
        }


def _check_names(given: Mapping, known: Mapping, where: str) -> None:
    for name in given:
        if name not in known:
            raise RequestError(
                f"{where}: unknown field {shown(name)}.{suggest(name, known)} Fields: {', '.join(known) or 'none'}."
            )


def _check_number(found: int, most: int, where: str) -> None:
    if found > most:
        raise RequestError(f"{where}: expected at most {most:,}, found {found:,}. Split the request.")
