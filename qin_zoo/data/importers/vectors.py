"""Files of vectors beside a table: npy or HDF5, whose rows are told by ids of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from qin_zoo.data.importers.description import Entry
from qin_zoo.data.importers.own_files import SUFFIXES, OwnFile
from qin_zoo.data.sources import check_file, hdf5_datasets, readable, require_exact
from qin_zoo.errors import DataError

_IDS = ("id", "ids", "item_id", "item_ids", "keys", "sku", "skus", "names")
_ENDINGS = ("_ids", "_id", ".ids", "-ids", "_index", "_keys")
_H5 = (".h5", ".hdf5")


def guess_ids(
    path: Path, folder: Path, items: Sequence[Entry], tables: Mapping[Path, OwnFile], doubts: list[str]
) -> Entry | None:
    """What tells the ids of a file of vectors; None where it holds ids itself, or nothing tells its own."""
    name = path.name
    if path.suffix.lower() in _H5:
        return _in_hdf5(path, name, doubts)
    values = _npy(path)
    if values.ndim != 2:
        return None  # ids of another file
    about = f"{len(values):,} vectors of {values.shape[1]}"
    names = [f"{path.stem}{ending}{suffix}" for ending in _ENDINGS for suffix in (*SUFFIXES, ".npy")]
    if ids := next((other for other in names if path.with_name(other).is_file()), None):
        return Entry((name,), "vectors", ids=ids, because=f"{about}; {ids} is called so")
    for entry in items:
        file = entry.files[0]
        if len(entry.files) == 1 and tables[folder / file].frame.height == len(values):
            return Entry((name,), "vectors", ids=file, because=f"{about}, as many as {file} has rows")
    doubts.append(
        f"{name} is left out: nothing tells which items its {len(values):,} rows are. Write their ids, one a line, to "
        f"{path.stem}_ids.txt with the first line item_id."
    )
    return None


def read_vectors(entry: Entry, folder: Path, items: Sequence[Entry]) -> tuple[str, np.ndarray, pl.Series, str]:
    """Name, (n, width) float32, the ids of the rows as text, and where those stand.

    Raises:
        DataError: files that cannot be read, or numbers of rows that do not fit.
    """
    path = folder / entry.files[0]
    if path.suffix.lower() in _H5:
        values, ids, where = _of_hdf5(path, entry)
    else:
        values = _npy(path)
        ids, where = _ids_of(folder / entry.ids, items, entry.ids)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise DataError(f"{path}: expected numbers (items, width), found {values.dtype} of shape {values.shape}.")
    if len(ids) != len(values):
        raise DataError(
            f"{path}: expected a row for each of the {len(ids):,} ids in {where}, found {len(values):,} rows. Write "
            "both from the same items; the first line of a text names the column, and is no id."
        )
    return path.stem, np.asarray(values, np.float32), ids, where


def _ids_of(path: Path, items: Sequence[Entry], name: str) -> tuple[pl.Series, str]:
    if path.suffix.lower() == ".npy":
        return _as_text(_npy(path), path.name), path.name
    table = OwnFile(path)
    column = next((e.of("item") for e in items if name in e.files), None) or table.names[0]
    table.require([column])
    return table.ids(column), f"{path.name}, column '{column}'"


def _npy(path: Path) -> np.ndarray:
    check_file(path)
    with readable(path, "Write it with numpy.save, texts as str and no objects."):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _datasets(path: Path) -> dict[str, np.ndarray]:
    check_file(path)
    with readable(path), h5py.File(path, "r") as file:
        return {name: file[name][()] for name in hdf5_datasets(file)}


def _in_hdf5(path: Path, name: str, doubts: list[str]) -> Entry | None:
    datasets = _datasets(path)
    tables = [key for key, values in datasets.items() if values.ndim == 2]
    for vectors in tables:
        near = [k for k, v in datasets.items() if v.ndim == 1 and len(v) == len(datasets[vectors])]
        near.sort(key=lambda key: key.split("/")[-1].lower() not in _IDS)
        if near:
            because = f"{len(datasets[vectors]):,} vectors, and as many '{near[0]}'"
            return Entry((name,), "vectors", ids=near[0], vectors=vectors, because=because)
    doubts.append(f"{name} is left out: no dataset of ids is as long as one of vectors ({', '.join(datasets)[:100]}).")
    return None


def _of_hdf5(path: Path, entry: Entry) -> tuple[np.ndarray, pl.Series, str]:
    datasets = _datasets(path)
    vectors = entry.vectors or next((key for key, values in datasets.items() if values.ndim == 2), "")
    for key in (vectors, entry.ids):
        if key not in datasets:
            raise DataError(f"{path}: expected a dataset '{key}', found {', '.join(datasets) or 'none'}. Name another.")
    where = f"{path.name}, dataset '{entry.ids}'"
    return datasets[vectors], _as_text(datasets[entry.ids], where), where


def _as_text(values: np.ndarray, where: str) -> pl.Series:
    """Ids as text."""
    flat = values.reshape(-1)
    require_exact(where, flat)
    if flat.dtype.kind in "SO":
        texts = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in flat]
        return pl.Series(texts, dtype=pl.String)
    return pl.Series(flat.astype(str) if flat.dtype.kind == "U" else flat).cast(pl.String)
