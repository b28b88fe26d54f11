"""Encoded items of a dataset folder, in one HDF5 file that survives being killed and does not pass when damaged.

``item_embeddings.h5`` holds one dataset per modality, ``/<name>`` of shape (N, D) float32, chunked by rows; row i is
item i, row 0 (padding) and items without an input are zeros. Attributes of each: ``encoder``, ``version``,
``fingerprint`` (of the items) and ``progress`` = (rows done, CRC-32 of these attributes and those rows); a dataset is
finished when every row is done.

Two rules make it safe. Rows already in the file are vouched for by ``progress``, one attribute written in place after
the rows themselves have been flushed, so a kill leaves the old progress or the new one. And whatever changes the
file's structure (a new dataset, a replaced one) is done to a copy that then takes the file's place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from qin_zoo.errors import DataError, first_line, suggest
from qin_zoo.files import replace_file

STORE_FILE = "item_embeddings.h5"
ABOUT = ("encoder", "version", "fingerprint")  # what is said of vectors beside their numbers
_CHUNK_BYTES = 1 << 20
# This version of the format has checksums on its metadata, and no "open for writing" mark that a kill would leave.
_LIBVER = ("v108", "v108")
# What h5py raises for a damaged file, depending on where it is damaged.
_H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Stored:
    """What the store says about one modality.

    Attributes:
        name: the modality.
        rows, dim: its shape (N, D).
        encoder, version: what encoded it.
        fingerprint: of the items and their inputs.
        rows_done: rows written so far.
        checksum: CRC-32 of the attributes and of these rows.
    """

    name: str
    rows: int
    dim: int
    encoder: str
    version: str
    fingerprint: str
    rows_done: int
    checksum: int

    @property
    def finished(self) -> bool:
        """Whether every row is there."""
        return self.rows_done == self.rows

    @property
    def seed(self) -> int:
        """The checksum before the first row: it covers the attributes, too."""
        about = [self.name, self.rows, self.dim, self.encoder, self.version, self.fingerprint]
        return zlib.crc32(json.dumps(about).encode())


class EmbeddingStore:
    """The embeddings of a dataset folder.

    Args:
        folder: the dataset folder; its store need not exist yet.

    Raises:
        DataError: no such folder; every method raises it for a store that cannot be read, or is in use.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a dataset folder, found none. Check the path.")
        self.path = folder / STORE_FILE

    def entries(self) -> list[Stored]:
        """Everything it holds, finished or not, by name; their rows are not read."""
        if not self.path.exists():
            return []
        with self._open("r") as file, self._reading():
            return [_stored(file[name]) for name in sorted(file)]

    def find(self, name: str) -> Stored | None:
        """What it says about ``name``; None if it holds no such modality."""
        return next((stored for stored in self.entries() if stored.name == name), None)

    def get(self, name: str) -> Stored:
        """A finished modality whose checksum is right.

        Raises:
            DataError: it is missing, unfinished or damaged.
        """
        listed = {stored.name: stored for stored in self.entries()}
        if name not in listed:
            raise DataError(
                f"{self.path}: expected embeddings called '{name}', found {', '.join(listed) or 'none'}."
                f"{suggest(name, listed)} Make them: qin-zoo embed encode {self.path.parent} --modality {name}."
            )
        stored = listed[name]
        if not stored.finished:
            raise DataError(
                f"{self.path}, '{name}': only {stored.rows_done:,} of {stored.rows:,} rows are encoded. "
                "Give the same `qin-zoo embed encode` command again: it goes on where it stopped."
            )
        if not self.intact(stored):
            raise DataError(
                f"{self.path}, '{name}': damaged: its rows do not have the checksum that was written with them. "
                "Encode it again (qin-zoo embed encode … --force)."
            )
        return stored

    def intact(self, stored: Stored) -> bool:
        """Whether the rows done and the attributes have the checksum that was written with them."""
        checksum = stored.seed
        try:
            for block in self.blocks(stored.name, stored.rows_done):
                checksum = zlib.crc32(block, checksum)
        except _InUseError:
            raise
        except DataError:
            return False
        return checksum == stored.checksum

    def blocks(self, name: str, stop: int | None = None, rows: int = 16_384) -> Iterator[np.ndarray]:
        """Yields the rows before ``stop`` in blocks (≤ rows, D)."""
        with self._open("r") as file:
            with self._reading():
                dataset = file[name]
                stop = dataset.shape[0] if stop is None else stop
            for start in range(0, stop, rows):
                with self._reading():
                    block = dataset[start : min(start + rows, stop)]
                yield block

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (B, D) float32; :meth:`get` says whether they can be trusted."""
        with self._open("r") as file, self._reading():
            return file[name][start:stop]

    def create(self, name: str, rows: int, dim: int, encoder: str, version: str, fingerprint: str) -> Stored:
        """A modality without any row yet; one of the same name is replaced, the others stay as they are."""
        check_name(name)
        stored = Stored(name, rows, dim, encoder, version, fingerprint, 0, 0)
        stored = replace(stored, checksum=stored.seed)
        with replace_file(self.path) as temporary:
            if self.path.exists():
                with self._open("r+"):  # holds the file's lock: nobody writes rows while it is copied
                    shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "a", libver=_LIBVER) as file:
                if name in file:
                    del file[name]
                _create_dataset(file, stored)
        return stored

    @contextmanager
    def writing(self, stored: Stored) -> Iterator[Callable[[np.ndarray], None]]:
        """What appends rows (B, D) behind those done, and only then says that they are there.

        Raises:
            DataError: of the function, where they cannot be written.
        """
        progress = np.array([stored.rows_done, stored.checksum], np.uint64)

        def write(rows: np.ndarray) -> None:
            rows, start = np.ascontiguousarray(rows, np.float32), int(progress[0])
            try:
                dataset[start : start + len(rows)] = rows
                file.flush()
                progress[:] = start + len(rows), zlib.crc32(rows, int(progress[1]))
                dataset.attrs.modify("progress", progress)
                file.flush()
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{self.path}: could not be written: {first_line(error)}. Rows written before are kept; free space "
                    "and give the same command again."
                ) from error

        with self._open("r+") as file:
            with self._reading():
                dataset = file[stored.name]
            yield write

    def set_aside(self) -> Path | None:
        """Renames a store that cannot be opened; returns its new path, or None if it can be opened."""
        try:
            self.entries()
        except _InUseError:
            raise
        except DataError:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            os.replace(self.path, aside)
            return aside
        return None

    @contextmanager
    def _open(self, mode: str) -> Iterator[h5py.File]:
        try:
            file = h5py.File(self.path, mode, libver=_LIBVER)
        except BlockingIOError as error:
            raise _InUseError(f"{self.path}: another process writes it. Wait until it has ended, or end it.") from error
        except PermissionError as error:
            raise DataError(f"{self.path}: no permission to open it. Change its permissions (chmod u+rw).") from error
        except _H5_ERRORS as error:
            raise self._damaged(error) from error
        with file:
            yield file

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _H5_ERRORS as error:
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> DataError:
        return DataError(
            f"{self.path}: expected an HDF5 store of item embeddings, found a truncated or damaged file "
            f"({first_line(error)}). Encode again with --force, which puts this file aside, or delete it."
        )


class _InUseError(DataError):
    """The store is whole, but somebody else's for the moment."""


def check_name(name: str) -> None:
    """Raises DataError unless ``name`` can name a modality."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise DataError(f"Expected a modality's name of letters, digits, '_' and '-', found '{name}'. Choose another.")


def _create_dataset(file: h5py.File, stored: Stored) -> None:
    """Chunks are allocated here and now: later writes of rows then change no structure of the file."""
    chunk = max(1, min(stored.rows, _CHUNK_BYTES // (4 * stored.dim)))
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((chunk, stored.dim))
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((stored.rows, stored.dim))
    h5py.h5d.create(file.id, stored.name.encode(), h5py.h5t.IEEE_F32LE, space, creation)
    attributes = file[stored.name].attrs
    for key in ABOUT:
        # of fixed length, thus inside the header and its checksum: a damaged heap of strings may hang the library
        value = getattr(stored, key).encode()
        attributes.create(key, value, dtype=h5py.string_dtype("utf-8", max(1, len(value))))
    attributes["progress"] = np.array([0, stored.checksum], np.uint64)


def _stored(dataset: h5py.Dataset) -> Stored:
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 2 or dataset.dtype != np.float32:
        raise ValueError(f"'{dataset.name}' is not a table of float32 rows")
    attributes = dataset.attrs
    rows_done, checksum = (int(value) for value in attributes["progress"])
    rows, dim = dataset.shape
    if rows_done > rows:
        raise ValueError(f"'{dataset.name}' claims {rows_done} of {rows} rows")
    texts = (bytes(attributes[key]).decode() for key in ABOUT)
    return Stored(dataset.name.lstrip("/"), rows, dim, *texts, rows_done, checksum)
