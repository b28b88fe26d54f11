"""Columns of a data file, checked once and then read from compact memory-mapped arrays.

    table = open_table("train.parquet", {"item_id": "id", "item_seq": "history", "label": "label"})
    table["item_id"].take(rows)          # an array of the values in those rows
    RowHistories(table["item_seq"], 64).gather(rows)

The first call converts the columns it is asked for (see ``cache.py`` for where they are kept); later calls,
of this process or another, find them. Kinds of columns: ``stored.py``.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import quote

from qin_zoo.data import cache
from qin_zoo.data.sources import Source, at, check_file, open_source
from qin_zoo.data.stored import KINDS, Column, Progress, convert, map_array
from qin_zoo.errors import DataError, suggest
from qin_zoo.files import read_object

_log = logging.getLogger(__name__)
_PLACEHOLDER = "placeholder"  # a label column that says nothing


@dataclass(frozen=True)
class Table:
    """The columns asked for of one file; ``table[name]`` is a :class:`Column`.

    Attributes:
        path: the data file.
        num_rows: its rows.
        columns: name -> column, without optional columns that the file lacks.
        fingerprint: file name, rows and content hash (blake2b-128), for the record of a run.
    """

    path: Path
    num_rows: int
    columns: dict[str, Column]
    fingerprint: dict[str, object]

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    @property
    def has_label(self) -> bool:
        """Whether there is a label column; only a test split may lack it."""
        return any(column.kind in ("label", "response") for column in self.columns.values())


def open_table(
    path: str | Path,
    columns: Mapping[str, str],
    *,
    optional: Collection[str] = (),
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Table:
    """Opens columns of a parquet or npz file, converting those that were not converted before.

    Args:
        path: the file.
        columns: name -> kind: ``id`` (non-negative integer), ``int``, ``float``, ``label`` (0 or 1), ``response``
            (what a regression predicts), ``history`` (list of ids, newest last, zeros dropped), ``ids`` (list of
            ids, zeros kept), ``floats`` (vectors of one length).
        optional: columns that may be absent. An optional label may also be a placeholder: null throughout,
            or one value other than 0 and 1; it then counts as absent.
        cache_dir: where converted columns are kept. Default: see ``cache.py``.
        progress: called with (file name, rows done, rows in all) while converting.

    Raises:
        DataError: a file that is missing, empty, damaged, of another format; a column that is missing, of the
            wrong type, or holds a value it must not hold; nowhere to write, or not enough space.
    """
    path = Path(path)
    check_file(path)
    entries = cache.entries(path, cache_dir)
    about, found = _look_up(path, columns, optional, entries)
    todo = {name: kind for name, kind in columns.items() if name not in found}
    if todo:
        entry = _convert(path, todo, optional, entries, progress)
        about, converted = _look_up(path, todo, optional, [entry])
        found |= converted
    usable = {name: found[name] for name in columns if found[name] is not None}
    fingerprint = {"file": path.name, "rows": about["rows"], "blake2b": about["blake2b"]}
    return Table(path, about["rows"], usable, fingerprint)


def _look_up(
    path: Path, columns: Mapping[str, str], optional: Collection[str], entries: list[Path]
) -> tuple[dict, dict[str, Column | None]]:
    """What earlier conversions left: what is known of the file, and name -> column (None: rightly absent)."""
    about: dict = {}
    found: dict[str, Column | None] = {}
    for entry in entries:
        here = read_object(entry / "source.json")
        about = about or here
        for name, kind in columns.items() if here else ():
            if name in found:
                continue
            column = _load(path, name, kind, entry / _folder(name, kind))
            if isinstance(column, Column):
                found[name] = column
            elif name in optional and (column == _PLACEHOLDER or name not in here["columns"]):
                found[name] = None
    return about, found


def _load(path: Path, name: str, kind: str, folder: Path) -> Column | str | None:
    """A converted column; ``_PLACEHOLDER``; or None when there is none, or none that is whole."""
    about = read_object(folder / "column.json")
    if "placeholder" in about:
        return _PLACEHOLDER
    try:
        if any(cache.stamp(folder / name) != stamp for name, stamp in about["files"].items()):
            return None  # no more what was converted
        file = folder / "values.npy"
        values, mapping = map_array(file)
        offsets = None
        if KINDS[kind].listed and about["width"] is None:
            offsets, _ = map_array(folder / "offsets.npy")
        known = (about[key] for key in ("width", "longest", "min", "max"))
        return Column(path, name, kind, about["rows"], values, offsets, *known, file, mapping)
    except (OSError, ValueError, KeyError):
        return None


def _folder(name: str, kind: str) -> str:
    return f"{quote(name, safe='')}.{kind}"


def _convert(
    path: Path, columns: Mapping[str, str], optional: Collection[str], entries: list[Path], progress: Progress | None
) -> Path:
    """Converts columns and publishes them; returns the entry they are in."""
    began = time.monotonic()
    source = open_source(path)
    present = _present(source, columns, optional)
    placeholders = {
        name for name in present if name in optional and columns[name] == "label" and source.is_placeholder(name)
    }
    with cache.workspace(entries) as (work, entry), _hashing(path, entry) as digest:
        folders = {name: work / _folder(name, columns[name]) for name in present}
        convert(
            source, {name: (columns[name], folders[name]) for name in present if name not in placeholders}, progress
        )
        for name in placeholders:
            _log.warning("%s: the label holds one value other than 0 and 1; taken as absent", at(path, name))
            folders[name].mkdir()
            cache.write_json(folders[name] / "column.json", {"placeholder": True})
        about = {"file": path.name, "rows": source.num_rows, "columns": source.names, "blake2b": digest()}
        if not entry.name.endswith(cache.source_key(path)):
            raise DataError(f"{path}: the file changed while it was read. Run again once it is complete.")
        entry.mkdir(exist_ok=True)
        cache.write_json(entry / "source.json", about)
        for name, folder in folders.items():
            target = entry / folder.name
            if target.exists() and _load(path, name, columns[name], target) is None:
                shutil.rmtree(target, ignore_errors=True)  # damaged: its successor is ready
            cache.publish(folder, target)
        cache.remove_outdated(entry)
    _log.info(
        "Converted %s of %s (%d rows) in %.1f s", ", ".join(present), path, source.num_rows, time.monotonic() - began
    )
    return entry


def _present(source: Source, columns: Mapping[str, str], optional: Collection[str]) -> list[str]:
    """The columns to convert, without optional ones that the file lacks."""
    missing = [name for name in columns if name not in source.names and name not in optional]
    if missing:
        raise DataError(
            f"{source.path}: expected a column '{missing[0]}', found only: "
            f"{', '.join(source.names)}.{suggest(missing[0], source.names)} Rename it in the file or in "
            "the dataset configuration."
        )
    return [name for name in columns if name in source.names]


@contextmanager
def _hashing(path: Path, entry: Path) -> Iterator[Callable[[], str]]:
    """Hashes the file beside the conversion, on another core; yields a function that waits for the result."""
    if known := read_object(entry / "source.json"):
        yield lambda: known["blake2b"]
        return
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(cache.content_hash, path, stop).result
        finally:
            stop.set()
