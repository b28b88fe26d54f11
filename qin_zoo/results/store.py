"""A folder of results, a small file each, so that two machines' results merge by copying, or by git."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from qin_zoo.errors import QinZooError
from qin_zoo.experiment.record import read_record
from qin_zoo.files import as_json, read_json, replace_text
from qin_zoo.results.entry import Entry, entry_of, parse_entry, record_of
from qin_zoo.results.probes import read_probe

Warn = Callable[[str], None]


class Store:
    """Results in ``<folder>/<dataset>/<experiment>.<variation>.s<seed>-<digest>.json``.

    The digest is of parameters, data and metrics: a repetition that finds the same gets the same name, one that does
    not gets another, and nothing is ever overwritten by something else.

    Args:
        folder: need not exist before something is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def file(self, entry: Entry) -> Path:
        """Where an entry lies."""
        name = f"{entry.experiment}.{entry.variation}.s{entry.seed}-{entry.digest}.json"
        return self.folder / entry.dataset_id / name

    def add(self, entry: Entry) -> Literal["new", "known", "completed"]:
        """Adds an entry; of one that is there already only what it lacks.

        Raises:
            QinZooError: the folder cannot be written, or holds a damaged file of that name.
        """
        file, said = self.file(entry), "new"
        if file.exists():
            old = _read_entry(file)
            both = {key: {**getattr(old, key), **getattr(entry, key)} for key in ("tests", "slices")}
            both |= {key: getattr(old, key) or getattr(entry, key) for key in ("draws", "tuning")}
            if both == {key: getattr(old, key) for key in both}:
                return "known"
            entry, said = old.model_copy(update=both), "completed"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QinZooError(f"Cannot write to {file.parent}: {error.strerror}. Name another --store.") from error
        found = as_json(entry.model_dump(mode="json")) | {"params": entry.params}
        text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
        replace_text(file, text + "\n")
        return said

    def entries(self, warn: Warn = logging.warning) -> list[Entry]:
        """All entries, in the order of their names; ``warn`` is told of damaged or unknown files, which are left out.

        Raises:
            QinZooError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise QinZooError(
                f"{self.folder} is no folder of results. Fill one with `qin-zoo results add RUN.json --store FOLDER`."
            )
        files = sorted(self.folder.glob("*/*.json"))
        return [entry for file in files if (entry := _try_entry(_read_entry, file, warn)) is not None]


def find_results(paths: Iterable[Path], warn: Warn = logging.warning) -> Iterator[Entry]:
    """The entries of :func:`find_files`."""
    return (entry for _, entry in find_files(paths, warn))


def find_files(paths: Iterable[Path], warn: Warn = logging.warning) -> Iterator[tuple[Path, Entry]]:
    """Files and entries of run records, of folders with such records, and of other stores.

    Args:
        paths: files, each of which must be one; folders, in which other files are passed over, and trials of a
            search, too.
        warn: told of each result in a folder that is damaged, and left out.

    Raises:
        QinZooError: a path does not exist, or a file is neither a record nor an entry.
    """
    from_folder = partial(_from_file, trials=False)
    for path in map(Path, paths):
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                for name in sorted(files):
                    file = Path(folder, name)
                    if file.suffix == ".json" and (entry := _try_entry(from_folder, file, warn)) is not None:
                        yield file, entry
        elif path.is_file():
            entry = _from_file(path)
            if entry is None:
                raise QinZooError(f"{path}: expected the record of a run (<expid>.json) or a stored result.")
            yield path, entry
        else:
            raise QinZooError(f"{path}: no such file or folder. Expected records, <model_root>/<dataset_id>/*.json.")


def stored_run(file: Path) -> dict | None:
    """Of a result in a store what repeating its run needs, see :func:`~qin_zoo.results.entry.record_of`.

    None for any other file.

    Raises:
        QinZooError: it is damaged, or lacks some of that.
    """
    data = _read_dict(file)
    return record_of(parse_entry(data, str(file)), str(file)) if "setting" in data else None


def _read_dict(file: Path) -> dict:
    """What a JSON file holds; empty where that is no mapping."""
    try:
        data = read_json(file)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _try_entry(read: Callable[[Path], Entry | None], file: Path, warn: Warn) -> Entry | None:
    """One of many: what cannot be read must not keep the others back."""
    try:
        return read(file)
    except QinZooError as error:
        warn(f"left out: {error}")
        return None


def _from_file(file: Path, trials: bool = True) -> Entry | None:
    data = _read_dict(file)
    if "setting" in data:
        return parse_entry(data, str(file))
    record = read_record(file)
    if record is None:
        # beside weights stands a record; any other JSON file is nobody's business
        if {"expid", "params", "evaluations"} <= data.keys() or (not data and file.with_suffix(".model").exists()):
            raise QinZooError(f"{file}: the record is damaged, or was written by another version. Delete it.")
        return None
    if not (record.get("valid") or record.get("test")) or ("trial_of" in record and not trials):
        return None
    try:
        return entry_of(record, read_probe(file, record))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise QinZooError(f"{file}: the record is damaged: {type(error).__name__} {error}.") from error


def _read_entry(file: Path) -> Entry:
    try:
        return parse_entry(read_json(file), str(file))
    except OSError as error:
        raise QinZooError(f"{file}: {error.strerror}.") from error
    except ValueError as error:
        raise QinZooError(f"{file} is not JSON: {error}.") from None
