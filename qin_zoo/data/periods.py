"""A dataset folder cut into periods of time, for training from period to period."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from qin_zoo.data import SPLITS
from qin_zoo.data.sources import check_file
from qin_zoo.errors import DataError
from qin_zoo.files import replace_file


def cut_into_periods(folder: Path, out: Path, periods: int, valid_share: float = 0.1) -> list[dict[str, int]]:
    """Cuts a folder's rows, which stand in the order of time, into ``OUT/0`` with the first half and equal periods.

    Of each folder the last rows are for validation, and the rows of the period behind it are its test: a model that has
    been trained up to a period is tested on the next. So the last period is nobody's training.

    Args:
        folder: ``train.parquet``, ``valid.parquet``, ``test.parquet``, later rows behind earlier ones, from split to
            split too, as imports that are split by time write them; what else lies beside them is the same in every
            period.
        out: a folder that is not there yet.
        periods: into which the second half is cut.
        valid_share: of each period's rows.

    Returns:
        rows of each split of each folder.

    Raises:
        DataError: files that are missing or differ in their columns, too few rows, or ``out`` is there.
    """
    files = [folder / f"{split}.parquet" for split in SPLITS]
    for file in files:
        check_file(file)
    frames = [pl.scan_parquet(file, glob=False) for file in files]
    schemas = [frame.collect_schema() for frame in frames]
    if any(schema != schemas[0] for schema in schemas):
        raise DataError(f"{folder}: expected the same columns in the files of all splits, found others in one of them.")
    if out.exists():
        raise DataError(f"{out} is there already. Name a folder that is not, or remove it.")
    rows = pl.concat(frames)
    count = rows.select(pl.len()).collect().item()
    ends = [count // 2 + (count - count // 2) * t // periods for t in range(periods + 1)]
    starts = [0, *ends[:-1]]
    cuts = [end - round((end - start) * valid_share) for start, end in zip(starts, ends)]
    if any(not start < cut < end for start, cut, end in zip(starts, cuts, ends)):
        raise DataError(f"{folder}: {count} rows are too few for {periods} periods with training and validation rows.")
    beside = [file for file in folder.iterdir() if file.is_file() and file not in files and file.name[0] != "."]
    sizes = []
    for t in range(periods):
        parts = {"train": (starts[t], cuts[t]), "valid": (cuts[t], ends[t]), "test": (starts[t + 1], ends[t + 1])}
        for split, (first, last) in parts.items():
            with replace_file(out / str(t) / f"{split}.parquet") as temporary:
                rows.slice(first, last - first).sink_parquet(temporary)
        for file in beside:
            shutil.copyfile(file, out / str(t) / file.name)
        sizes.append({split: last - first for split, (first, last) in parts.items()})
    return sizes
