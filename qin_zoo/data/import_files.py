"""What an import leaves beside its data.

What numbers stand for: ids, titles and words of the source. What is known of every item and every user once the whole
log has happened: where the next day's rows begin. And what was fitted to the items, arrays of one transform in each
``fitted_NAME.npz``: ``qin-zoo data import … --extend`` takes them along, and what was fitted in a folder that extends
another one is used instead of fitting anew, since axes that flip, words that move and codes that change would be other
inputs to a model that goes on being trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from qin_zoo.data.sources import readable
from qin_zoo.data.vocabulary import FittedEncoder
from qin_zoo.errors import DataError
from qin_zoo.files import read_object, replace_file

if TYPE_CHECKING:
    from qin_zoo.data.dataset import Dataset

ID_FILE = "ids_item.parquet"
WORD_FILE = "vocabularies.json"  # of an import: column -> words; word i has the code i + 1
# Files that `qin-zoo data import` writes and the challenge's raw one, with their columns of titles, the best first.
_TITLES = {"item_text.parquet": ("item_title", "text"), "item_feature.parquet": ("item_title",)}
ITEM_LEVELS, USER_STATE = "item_levels.parquet", "user_state.parquet"
_USER_FEATURES = "user_features.parquet"
FITTED = "fitted_*.npz"
_IMPORT = "import.json"


# ---- what numbers stand for


def original_ids(file: Path, number: str = "item_id") -> dict[int, object]:
    """Row of the item table -> id in the dataset's source; empty without such a file, or without such columns in it.

    Args:
        file: the dataset's :data:`ID_FILE`, or a table of new items.
        number: the column with the rows; ``user_id`` of the users' file.
    """
    columns = [number, "original_id"]
    if not file.is_file() or not set(columns) <= set(pl.scan_parquet(file, glob=False).collect_schema()):
        return {}
    return dict(pl.read_parquet(file, glob=False, columns=columns).iter_rows())


def item_titles(folder: Path, items: Iterable[int]) -> dict[int, str]:
    """Row of the item table -> title or text, of those ``items`` of the dataset in a folder that have one."""
    wanted = list(items)
    for name, columns in _TITLES.items():
        file = Path(folder) / name
        there = set(pl.scan_parquet(file, glob=False).collect_schema()) if file.is_file() else set()
        column = next((c for c in columns if c in there), None)
        if column is not None and "item_id" in there:
            number = pl.col("item_id").cast(pl.Int64, strict=False)
            rows = pl.scan_parquet(file, glob=False).filter(number.is_in(wanted)).select(number, column).collect()
            return {item: str(title) for item, title in rows.iter_rows() if title}
    return {}


def words_of(dataset: Dataset) -> Callable[[str, int], str | None]:
    """A function that says what a feature's number was in the source of a dataset; None where that is not known."""
    features = dataset.feature_map.features
    if dataset.encoder_file is not None:
        vocabularies = FittedEncoder.read(dataset.encoder_file).vocabularies

        def encoded(name: str, number: int) -> str | None:
            owner = features.get(name, {}).get("share_embedding") or name
            return vocabularies[owner].word(number) if owner in vocabularies else None

        return encoded
    kept = read_object(dataset.folder / WORD_FILE)

    def imported(name: str, number: int) -> str | None:
        words = kept.get(name)
        known = isinstance(words, list) and 0 < number <= len(words)
        return str(words[number - 1]) if known else None

    return imported


# ---- after the whole log


def item_levels(folder: Path, features: Iterable[str]) -> dict[str, np.ndarray]:
    """Row features that the log tells of an item, (items,) int64 each, row i being item i.

    Returns:
        those of ``features`` that ``qin-zoo data import`` counted in the log; empty of other datasets.
    """
    table = _by_number(Path(folder) / ITEM_LEVELS)
    return {name: table[name].cast(pl.Int64).to_numpy() for name in features if name in table.columns[1:]}


def user_side(folder: Path, features: Iterable[str]) -> dict[str, np.ndarray]:
    """Row features that are the user's, (users,) each, row i being user i: counted in the log, or of a users' table.

    Returns:
        those of ``features`` that ``qin-zoo data import`` knows of its users; empty of other datasets.
    """
    tables = [_by_number(Path(folder) / name) for name in (USER_STATE, _USER_FEATURES)]
    known = {column.name: column for table in tables for column in table.get_columns()[1:]}
    return {n: known[n].to_numpy() for n in features if n in known and not isinstance(known[n].dtype, pl.List)}


def user_lists(folder: Path, names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Every user's history after the whole log, oldest first.

    Args:
        folder: of the dataset.
        names: of the lists: the items, and what stands beside them.

    Returns:
        (users + 1,) where each user's entries end and the next one's begin, the first being 0; and name -> entries of
        all users. None of datasets that ``qin-zoo data import`` has not written.
    """
    table = _by_number(Path(folder) / USER_STATE)
    lists = {name: table[name] for name in names if name in table.columns[1:]}
    if not lists:
        return None
    lengths = next(iter(lists.values())).list.len().to_numpy()
    entries = {name: column.to_arrow().flatten().to_numpy(zero_copy_only=False) for name, column in lists.items()}
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), entries


def log_end(folder: Path) -> float | None:
    """When the last interaction happened that an import of one's own table holds, in seconds since 1970.

    Returns:
        None of other datasets, and of logs without times.
    """
    file = Path(folder) / "log.parquet"
    if not file.is_file() or "time" not in pl.scan_parquet(file, glob=False).collect_schema():
        return None
    return pl.scan_parquet(file, glob=False).select(pl.col("time").max()).collect().item() / 1e9


def _by_number(file: Path) -> pl.DataFrame:
    """A table whose row i is number i, the numbers in its first column; an empty one where there is none."""
    table = pl.read_parquet(file, glob=False) if file.is_file() else pl.DataFrame()
    if not table.width or not (table.to_series(0) == pl.int_range(len(table), eager=True)).all():
        return pl.DataFrame()
    return table


# ---- what was fitted


def keep(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a transform of the folder's items, if the folder is an import's: others number nothing that stays."""
    if (folder / _IMPORT).is_file():
        with replace_file(_file(folder, name)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def kept(folder: Path, name: str, expected: Mapping[str, object]) -> dict[str, np.ndarray] | None:
    """The transform that a dataset's folder has from the import that it extends; None where it is to be fitted.

    Args:
        folder, name: of the dataset, of the transform.
        expected: entries of the arrays that say what it was fitted to, and have to be these.

    Raises:
        DataError: it was fitted to something else, or is damaged.
    """
    file = _file(folder, name)
    if not file.is_file() or not _extends(folder):
        return None
    with readable(file, "Fit it anew with --refit."), np.load(file, allow_pickle=False) as found:
        arrays = dict(found)
    for key, value in expected.items():
        then = arrays[key].tolist() if key in arrays else None
        if then != value:
            raise DataError(
                f"{file}: what the extended import has fitted is of {key} {then}, and this would be {value}. Give the "
                "options of then, or fit it anew with --refit, after which models have to be trained anew, too."
            )
    return arrays


def take_along(old: Path, new: Path) -> list[str]:
    """Copies the transforms of an import to one that extends it; their names."""
    files = sorted(old.glob(FITTED)) if old.resolve() != new.resolve() else []
    for file in files:
        with replace_file(new / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return [file.name for file in files]


def _file(folder: Path, name: str) -> Path:
    return folder / f"fitted_{name}.npz"


def _extends(folder: Path) -> bool:
    options = read_object(folder / _IMPORT).get("options")
    return isinstance(options, dict) and bool(options.get("extend"))
