"""Encoding the items of a dataset folder in batches, going on where an earlier, killed run stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qin_zoo.data.import_files import keep, kept
from qin_zoo.embed.encoders import Encoder, Keeping
from qin_zoo.embed.items import Inputs
from qin_zoo.embed.libraries import expect_modality
from qin_zoo.embed.store import EmbeddingStore, Stored, check_name
from qin_zoo.errors import DataError
from qin_zoo.files import sole_writer
from qin_zoo.progress import Progress


@dataclass(frozen=True)
class Encoded:
    """What :func:`encode_items` did.

    Attributes:
        stored: what the store now says.
        started_at: the first row this run encoded; N if an earlier run had encoded all.
        without_input: items of this run's rows without an input, padding not counted.
        seconds: what it took, fitting included.
        notes: what had to be done over, and why.
    """

    stored: Stored
    started_at: int
    without_input: int
    seconds: float
    notes: list[str] = field(default_factory=list)


def encode_items(
    folder: str | Path,
    encoder: Encoder,
    inputs: Inputs,
    name: str,
    *,
    batch_size: int = 256,
    force: bool = False,
    progress: bool = False,
    refit: bool = False,
) -> Encoded:
    """Encodes all items into the folder's store, or those that an earlier run did not come to.

    Args:
        folder: the dataset folder.
        encoder: not fitted yet; it is fitted only if there is something to encode.
        inputs: what to encode.
        name: the modality's name in the store.
        batch_size: items a batch; after each batch the rows are safe.
        force: encode all again, whatever the store holds under this name.
        progress: whether to show a bar on a terminal.
        refit: fit the encoder anew where the folder extends an import in which it was fitted.

    Raises:
        DataError: the store holds vectors of another encoder, another version or other items under this name; it is
            damaged or in use; the encoder returns anything but finite vectors of its size.
    """
    check_name(name)
    if batch_size < 1:
        raise DataError(f"Expected a batch size of at least 1, found {batch_size}. Correct --batch-size.")
    expect_modality(encoder.name, inputs.modality, encoder.modality)
    store = EmbeddingStore(folder)
    begun, notes = time.perf_counter(), []
    with sole_writer(store.path.with_name(f".{store.path.name}.lock"), "encodes into its store"):
        if force and (aside := store.set_aside()):
            notes.append(f"{store.path.name} could not be read and is now {aside.name}; its other embeddings are gone.")
        about = {"encoder": encoder.name, "version": encoder.version, "fingerprint": inputs.fingerprint}
        stored = None if force else store.find(name)
        if stored is not None:
            _expect_same(store, stored, {"rows": len(inputs), **about})
            if not store.intact(stored):
                notes.append(f"'{name}' was damaged (wrong checksum of its rows): all of it was encoded again.")
                stored = None
        if stored is not None and stored.finished:
            return Encoded(stored, stored.rows, 0, time.perf_counter() - begun, notes)

        if isinstance(encoder, Keeping):
            notes += _fit(store.path.parent, encoder, inputs, name, refit)
        else:
            encoder.fit(inputs)
        if stored is None:
            stored = store.create(name, len(inputs), encoder.dim, **about)
        elif stored.dim != encoder.dim:
            raise DataError(
                f"{store.path}, '{name}': expected vectors of {stored.dim} numbers as in its first "
                f"{stored.rows_done:,} rows, but {encoder.name} now makes {encoder.dim}. Encode all again with --force."
            )
        started_at, without_input = stored.rows_done, 0
        with (
            store.writing(stored) as write,
            Progress(
                total=stored.rows,
                initial=started_at,
                desc=f"encode {name}",
                unit=" items",
                unit_scale=True,
                shown=progress,
            ) as bar,
        ):
            for start in range(started_at, stored.rows, batch_size):
                stop = min(start + batch_size, stored.rows)
                ids, batch = inputs.batch(start, stop)
                rows = np.zeros((stop - start, stored.dim), np.float32)
                if len(ids):
                    rows[ids - start] = _checked(encoder, encoder.encode(batch), ids, stored.dim)
                write(rows)
                without_input += stop - start - len(ids) - (start == 0)
                bar.update(stop - start)
        return Encoded(store.find(name), started_at, without_input, time.perf_counter() - begun, notes)


def _fit(folder: Path, encoder: Keeping, inputs: Inputs, name: str, refit: bool) -> list[str]:
    """Fits an encoder, or takes what was fitted to the items of the import that the folder extends; what to say."""
    asked = {"encoder": encoder.name}
    arrays = None if refit else kept(folder, name, asked)
    if arrays is not None:
        encoder.restore(arrays)
        return [f"'{name}' was fitted to the items of the extended import, and is used as it is (--refit: anew)."]
    encoder.fit(inputs)
    keep(folder, name, {**encoder.arrays(), **asked})
    return []


def _expect_same(store: EmbeddingStore, stored: Stored, expected: dict[str, object]) -> None:
    """Rows of different encoders or items must not come together under one name."""
    for key, value in expected.items():
        what = f"it was encoded with {key} {getattr(stored, key)}, and this would be {key} {value}"
        if key == "fingerprint":
            what = "the items or their inputs have changed since it was encoded"
        if getattr(stored, key) != value:
            raise DataError(
                f"{store.path}, '{stored.name}': {what} ({stored.rows_done:,} of {stored.rows:,} rows are done). "
                "Encode all again with --force, or under another name with --modality."
            )


def _checked(encoder: Encoder, vectors: np.ndarray, ids: np.ndarray, dim: int) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.shape != (len(ids), dim):
        raise DataError(
            f"Encoder {encoder.name}: expected vectors of shape {(len(ids), dim)}, found {vectors.shape}. The encoder "
            "has to be mended."
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if broken.size:
        raise DataError(
            f"Encoder {encoder.name}: item {ids[broken[0]]} has a vector with NaN or infinite values. Correct or empty "
            "its input; rows before it are kept."
        )
    return vectors
