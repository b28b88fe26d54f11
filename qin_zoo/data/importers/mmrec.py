"""MMRec's layout: ``NAME.inter`` with userID, itemID and x_label, and ``*_feat.npy`` whose row i is item i."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.ids import aligned, column
from qin_zoo.data.importers.log import InteractionLog, Side
from qin_zoo.data.importers.moments import read_times
from qin_zoo.data.importers.tables import Table, folder_of
from qin_zoo.data.sources import check_file, readable
from qin_zoo.errors import DataError
from qin_zoo.files import found_in

EXPECTED = "MMRec's layout: NAME.inter (userID, itemID, x_label) and *_feat.npy"


def read(path: str | Path) -> InteractionLog:
    """The log of a folder in MMRec's layout; DataError for a file or value that cannot be used."""
    folder = folder_of(path, EXPECTED)
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        raise DataError(
            f"{folder}: expected {EXPECTED}: one file *.inter, found {len(files)} of them (the folder holds "
            f"{found_in(folder)}). Give the folder of one data set."
        )
    (file,) = files
    table = Table(file, "\t")
    (user,) = aligned([column(table, "userID")], table.notes)
    (item,) = aligned([column(table, "itemID")], table.notes)
    if not item.dtype.is_integer():
        raise DataError(f"{file}, column 'itemID': expected whole numbers, the rows of *_feat.npy, found text such as "
                        f"'{item[0]}'. Number the items from 0.")  # fmt: skip
    log = InteractionLog(file, user, item, notes=table.notes)
    if "timestamp" in table.names:
        log.time = read_times([table], "timestamp", log.notes)
    others = [name for name in table.names if name not in ("userID", "itemID", "timestamp", "x_label")]
    log.columns = {name: partial(table.numbers, name) for name in others}
    if "x_label" in table.names:
        split = table.numbers("x_label")
        wrong = np.flatnonzero(~np.isin(split, (0, 1, 2))).tolist()
        if wrong:
            found = table.frame["x_label"][wrong[0]]
            raise table.wrong(wrong[0], "x_label 0 (train), 1 (valid) or 2 (test)", found)
        log.given = split.astype(np.int8)
    embeddings = {f.name.removesuffix("_feat.npy"): _features(f) for f in sorted(folder.glob("*_feat.npy"))}
    size = int(item.max()) + 1
    for name, values in embeddings.items():
        if len(values) < size:
            raise DataError(
                f"{folder / f'{name}_feat.npy'}: expected a row for each item up to {size - 1}, found {len(values)} "
                f"rows. Take both files from the same data set."
            )
    lengths = sorted({len(values) for values in embeddings.values()})
    if len(lengths) > 1:
        raise DataError(f"{folder}: expected as many rows in every *_feat.npy, found {lengths}. Fetch them again.")
    everything = pl.Series(np.arange(max([size, *lengths]), dtype=np.int64))
    log.items = Side(everything, embeddings={f"{name}_emb": values for name, values in embeddings.items()})
    return log


def _features(file: Path) -> np.ndarray:
    check_file(file)
    with readable(file, "Fetch it again."):
        values = np.load(file, allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{file}: expected numbers (items, width), found {values.dtype} {values.shape}. Fetch it anew.")
    values = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise DataError(f"{file}, row {wrong[0]}: expected finite numbers, found NaN or infinity. Replace them.")
    return values
