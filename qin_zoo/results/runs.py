"""Runs where they were trained, found by name or by short id."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qin_zoo.errors import QinZooError, suggest
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.record import read_record
from qin_zoo.files import LockFile, is_running
from qin_zoo.results.entry import Entry
from qin_zoo.results.store import find_files

ROOTS = (Path("checkpoints"), Path("results"))  # where runs and stored results lie unless somebody says otherwise
_SHORTEST = 4  # letters of a short id
_LISTED = 8  # runs in a message


@dataclass(frozen=True)
class Run:
    """A run that is finished.

    Attributes:
        file: its record, ``<expid>.json``, or its result in a store.
        entry: what is compared of it.
    """

    file: Path
    entry: Entry

    @property
    def name(self) -> str:
        """Under which its files lie."""
        return self.file.stem

    @property
    def record(self) -> dict | None:
        """What was recorded of it; None of a stored result, which has no weights."""
        return None if self.is_stored else read_record(self.file)

    @property
    def is_stored(self) -> bool:
        """Whether it is a line in a store, and not the run itself."""
        return self.name.endswith(f"-{self.entry.digest}")

    @property
    def id(self) -> str:
        """Its short id, ``#4e15a``: of its parameters, its data and its metrics."""
        return f"#{self.entry.digest[:6]}"

    def is_called(self, text: str) -> bool:
        """Whether a name, ``DATASET/NAME`` or the beginning of an id means it.

        Ids are those of runs (:attr:`id`, ``qin-zoo results list``) and of lines (``qin-zoo leaderboard``).
        """
        if text.startswith("#"):
            digits, entry = text[1:], self.entry
            ids = (entry.digest, entry.setting, entry.identity)
            return len(digits) >= _SHORTEST and any(i.startswith(digits) for i in ids)
        dataset, _, name = text.rpartition("/")
        return name == self.name and dataset in ("", self.entry.dataset_id)


def find_runs(roots: Iterable[Path] = ROOTS, warn: Callable[[str], None] = logging.warning) -> list[Run]:
    """The finished runs below some folders, the newest first; a run that lies in a store, too, is there once.

    Args:
        roots: folders of runs (``model_root``) or of stored results; those that are not there are passed over.
        warn: told of each damaged file, and what is left out.
    """
    there = [root for root in map(Path, roots) if root.is_dir()]
    runs = [Run(file, entry) for file, entry in find_files(there, warn)]
    runs.sort(key=lambda run: (run.is_stored, -run.file.stat().st_mtime))
    trained = {run.entry.digest for run in runs if not run.is_stored}
    known = {run.file.resolve(): run for run in runs if not (run.is_stored and run.entry.digest in trained)}
    return list(known.values())


def find_unfinished(roots: Iterable[Path] = ROOTS) -> Iterator[tuple[RunFiles, int | None]]:
    """Runs that have no result yet, by name: where they lie, and the process that trains them now.

    None instead of a process where the run was stopped with a checkpoint.
    """
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            locks = {name[1 : -len(".lock")] for name in files if name.startswith(".") and name.endswith(".lock")}
            stopped = {name.removesuffix(".checkpoints") for name in folders if name.endswith(".checkpoints")}
            for name in sorted(locks | stopped):
                of = RunFiles(Path(folder), name)
                process = LockFile(of.lock).read().get("process")
                running = process if isinstance(process, int) and is_running(process) else None
                if not of.record.exists() and (running or any(of.checkpoints.glob("step-*.json"))):
                    yield of, running


def resolve(text: str, roots: Iterable[Path] = ROOTS) -> list[Run]:
    """The runs that a text means: one, or with the id of a leaderboard's line all its seeds.

    Args:
        text: a file (a record, or a stored result), a name, ``DATASET/NAME``, or the beginning of an id with a ``#``.
        roots: see :func:`find_runs`.

    Raises:
        QinZooError: there is none, or several that are not one line.
    """
    if text.endswith(".json"):
        return [Run(file, entry) for file, entry in find_files([Path(text)])]
    runs = find_runs(roots)
    found = [run for run in runs if run.is_called(text)]
    places = ", ".join(map(str, roots))
    if not found:
        short = " A short id has four letters or more." if text.startswith("#") and len(text) <= _SHORTEST else ""
        hint = short or suggest(text, [run.id if text.startswith("#") else run.name for run in runs])
        raise QinZooError(f"No run '{text}' in {places}.{hint} `qin-zoo runs` lists them; --root names other folders.")
    if len(found if not text.startswith("#") else {run.entry.setting for run in found}) > 1:
        raise _several(text, found)
    return found


def resolve_one(text: str, roots: Iterable[Path] = ROOTS) -> Run:
    """The one run that a text means.

    Raises:
        QinZooError: there is none, or several.
    """
    found = resolve(text, roots)
    if len(found) > 1:
        raise _several(text, found)
    return found[0]


def file_of(path: Path, roots: Iterable[Path] = ROOTS) -> Path:
    """A file or folder that is there, or is named as a record; else that of the run which is called so.

    Raises:
        QinZooError: there is no such run, or several.
    """
    return path if path.exists() or path.suffix == ".json" else resolve_one(str(path), roots).file


def _several(text: str, found: list[Run]) -> QinZooError:
    told = ", ".join(f"{run.id} {run.entry.dataset_id}/{run.name}" for run in found[:_LISTED])
    more = f", … ({len(found)} in all)" if len(found) > _LISTED else ""
    return QinZooError(f"'{text}' means {len(found)} runs: {told}{more}. Say which: its id, DATASET/NAME or its file.")
