"""MMRec's layout: ``NAME.inter`` with userID, itemID and x_label, and ``*_feat.npy`` whose row i is item i."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.log import InteractionLog, ItemSide
from qin_zoo.data.importers.tables import folder_of, ids, numbers, only, read_text, require
from qin_zoo.errors import DataError, first_line

EXPECTED = "MMRec's layout: NAME.inter (userID, itemID, x_label) and *_feat.npy"


def read(path: str | Path) -> InteractionLog:
    """The log of a folder in MMRec's layout."""
    folder = folder_of(path, EXPECTED)
    file = only(folder, "*.inter", EXPECTED)
    frame = read_text(file, "\t")
    for name in ("userID", "itemID"):
        require(file, frame.columns, name)
    item = ids(file, frame, "itemID")
    if not item.dtype.is_integer():
        raise DataError(f"{file}, column 'itemID': expected whole numbers, the rows of *_feat.npy, found text such as "
                        f"'{item[0]}'. Number the items from 0.")  # fmt: skip
    log = InteractionLog(file, ids(file, frame, "userID"), item)
    if "timestamp" in frame.columns:
        log.time = numbers(file, frame, "timestamp")
    if "rating" in frame.columns:
        log.columns["rating"] = numbers(file, frame, "rating", optional=True)
    if "x_label" in frame.columns:
        split = numbers(file, frame, "x_label")
        wrong = np.flatnonzero(~np.isin(split, (0, 1, 2)))
        if wrong.size:
            raise DataError(
                f"{file}, line {wrong[0] + 2}: expected x_label 0 (train), 1 (valid) or 2 (test), found "
                f"{split[wrong[0]]:g}. Mend or drop the line."
            )
        log.given = split.astype(np.int8)
    embeddings = {f.name.removesuffix("_feat.npy"): _features(f) for f in sorted(folder.glob("*_feat.npy"))}
    size = int(item.max()) + 1
    for name, values in embeddings.items():
        if len(values) < size:
            raise DataError(
                f"{folder / f'{name}_feat.npy'}: expected a row for each item up to {size - 1}, found {len(values)} "
                f"rows. Take both files from the same data set."
            )
    lengths = {len(values) for values in embeddings.values()}
    if len(lengths) > 1:
        raise DataError(
            f"{folder}: expected as many rows in every *_feat.npy, found {sorted(lengths)}. Fetch them again."
        )
    everything = pl.Series(np.arange(max([size, *lengths]), dtype=np.int64))
    log.items = ItemSide(everything, embeddings={f"{name}_emb": values for name, values in embeddings.items()})
    return log


def _features(file: Path) -> np.ndarray:
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: cannot be read as an array ({first_line(error)}). Fetch it again.") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: expected numbers (items, width), found {values.dtype} {values.shape}. Fetch it again."
        )
    values = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise DataError(f"{file}, row {wrong[0]}: expected finite numbers, found NaN or infinity. Replace them.")
    return values
