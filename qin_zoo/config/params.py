"""Parameters, with where each of them was written."""

from __future__ import annotations

from collections.abc import Iterable


class ExperimentParams(dict):
    """Parameters of an experiment; a plain dict that also knows where each value was written.

    Attributes:
        origin: key -> ``"FILE, line N"``, with ``", Base"`` where it is the block for all, or ``"command line"``.
        former: key -> its old name, where it was written under one; see :mod:`qin_zoo.config.compat`.
        notes: lines that say what was mapped, left out or is unknown to the model; known once it is checked.
    """

    def __init__(self, *args, origin: dict[str, str] | None = None, former=None, notes: Iterable[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.origin: dict[str, str] = dict(origin or {})
        self.former: dict[str, str] = dict(former or {})
        self.notes = tuple(notes)

    def copy(self) -> ExperimentParams:
        return ExperimentParams(self, origin=self.origin, former=self.former, notes=self.notes)
