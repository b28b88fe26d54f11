"""An import's files, in the challenge's layout.

OUT/train.parquet, valid.parquet, test.parquet   user_id, item_id, item_seq, features of the row, label
OUT/item_info.parquet        row i is item i, row 0 padding
OUT/item_feature.parquet     item_id and every embedding of the source, where it has some
OUT/item_text.parquet        item_id, item_title, text, where there are texts
OUT/item_kg.parquet          item_id, facts: lists of "relation:entity", where there is a knowledge graph
OUT/item_levels.parquet      item_id, and what a row after the whole log says of its item: likes_level, views_level, …
OUT/user_state.parquet       user_id, and what a row after the whole log says of its user: history, user_views_level, …
OUT/ids_user.parquet, ids_item.parquet   number and original id
OUT/user_features.parquet    row i is user i, where something is known of users
OUT/vocabularies.json        column -> terms; term i has the code i + 1
OUT/scales.json              column of numbers -> mean and deviation that it was scaled by
OUT/log.parquet              the interactions of one's own table as they came, for a later import that extends this one
OUT/set_aside.csv            rows of one's own table that could not be used: file, line, reason, row
OUT/dataset_config.yaml      a dataset configuration for these files, its id the folder's name
OUT/fitted_NAME.npz          what an import that this one extends has fitted to its items
OUT/import.json              options, rules and counts; written last
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from qin_zoo.data import SPLITS
from qin_zoo.data.import_files import FITTED, ITEM_LEVELS, USER_STATE, take_along
from qin_zoo.data.item_files import table_of
from qin_zoo.errors import DataError
from qin_zoo.files import replace_file, replace_text, sole_writer

SCHEMA_VERSION = 1
SUMMARY_FILE = "import.json"
_OPTIONAL = (
    "item_feature.parquet", "item_text.parquet", "item_kg.parquet", "user_features.parquet", "vocabularies.json",
    "scales.json", "log.parquet", "set_aside.csv", ITEM_LEVELS, USER_STATE,
)  # fmt: skip
_TABLES = tuple(f"{name}.parquet" for name in (*SPLITS, "item_info", "ids_user", "ids_item"))
FILES = (*_TABLES, "dataset_config.yaml", SUMMARY_FILE, *_OPTIONAL)
EMBEDDING_DIM = 32

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SplitCounts:
    """What a split is made of.

    Attributes:
        rows, users: numbers of them.
        click_rate: share of clicks.
        history: median number of items in a history.
        cold_users, cold_items: share of the rows whose user, or item, has neither a training row nor one in the import
            that is extended by new rows alone; of training rows 0.
    """

    rows: int
    users: int
    click_rate: float
    history: float
    cold_users: float
    cold_items: float


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote.

    Attributes:
        path: the folder.
        users, items: numbers of users and items, padding not counted.
        splits: ``train``, ``valid`` and ``test``.
        notes: what was decided or left out.
        columns: of one's own table: file, column, what it was taken for, and what it holds.
    """

    path: Path
    users: int
    items: int
    splits: Mapping[str, SplitCounts]
    notes: list[str] = field(default_factory=list)
    columns: list[tuple[str, str, str, str]] = field(default_factory=list)


class Output:
    """The folder being written: all files are made beside it, and :meth:`finish` moves them in.

    Raises:
        DataError: ``out`` is a file, or holds anything but an import that may be replaced.
    """

    def __init__(self, out: str | Path, force: bool) -> None:
        self.path = Path(out).expanduser().resolve()
        self._work = Path()
        self._counts: dict[str, SplitCounts] = {}
        self._earlier_rows: dict[str, np.ndarray] = {}
        self._trained: dict[str, np.ndarray] = {}
        self._features: list[dict[str, Any]] = []
        self._earlier: dict[str, dict[str, Any]] = {}
        self._force = force
        self._locked = ExitStack()
        self._require_replaceable()

    def _require_replaceable(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path}: expected a new or an empty folder, found a file. Give another path.")
        names = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        names = [name for name in names if not fnmatch.fnmatchcase(name, ".*.lock")]
        foreign = [name for name in names if name not in FILES and not fnmatch.fnmatchcase(name, FITTED)]
        imported = not names or is_import(self.path / SUMMARY_FILE)
        if foreign or not imported or (names and not self._force):
            listed = ", ".join((foreign or names)[:4])
            replaceable = imported and not foreign
            raise DataError(
                f"{self.path}: expected a new or an empty folder, found {listed}. Give another folder"
                + (", or --force to replace it." if replaceable else "; --force replaces nothing but a whole import.")
            )

    def begin(self) -> None:
        """Makes the folder where the files are written first; nobody else imports to the same place meanwhile."""
        try:
            # a mount point cannot be reached by renaming from outside
            beside = self.path if os.path.ismount(self.path) else self.path.parent
            beside.mkdir(parents=True, exist_ok=True)
            lock = beside / f".{self.path.name}.lock"
            self._locked.enter_context(sole_writer(lock, f"imports to {self.path.name}"))
            self._require_replaceable()  # again: it may have been filled in between
            part = f".{self.path.name}.part-"
            for left in [entry for entry in beside.iterdir() if entry.name.startswith(part)]:  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            self._work = Path(tempfile.mkdtemp(prefix=part, dir=beside))
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror}. Choose a folder you may write to.") from error

    def close(self) -> None:
        """Takes away what was written and not finished."""
        if self._work.name:
            shutil.rmtree(self._work, ignore_errors=True)
        self._locked.close()

    def _publish(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fitted = fnmatch.filter(os.listdir(self.path), FITTED)
            for name in (SUMMARY_FILE, *_OPTIONAL, *fitted):  # without its summary there is no import
                (self.path / name).unlink(missing_ok=True)
            for file in sorted(self._work.iterdir(), key=lambda file: file.name == SUMMARY_FILE):
                file.replace(self.path / file.name)
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror}. Choose a folder you may write to.") from error

    def keep_rows(self, users: np.ndarray, items: np.ndarray) -> None:
        """Users and items of earlier rows, which are not written again: to say what is new."""
        self._earlier_rows = {"user_id": users, "item_id": items}

    def write_split(self, name: str, chunks: Iterable[Columns]) -> None:
        """Writes the rows of a split, a row group for each chunk."""
        parts: dict[str, list[np.ndarray]] = {"user_id": [], "item_id": [], "label": [], "lengths": []}

        def counted() -> Iterator[Columns]:
            for chunk in chunks:
                counts = {"user_id": np.empty(0, np.int32), **chunk, "lengths": (chunk["item_seq"] != 0).sum(axis=1)}
                for key, values in parts.items():
                    values.append(counts[key])
                yield chunk

        self._write(f"{name}.parquet", counted())
        rows = sum(map(len, parts["label"]))
        if rows == 0:
            raise DataError(f"{self.path}: the {name} split would have no rows. Choose another --split or --label.")
        found = {key: np.concatenate(values) for key, values in parts.items()}
        label, lengths = found.pop("label"), found.pop("lengths")
        distinct = {key: np.unique(values) for key, values in found.items()}
        if not self._trained:  # the training rows are written first
            self._trained = {key: np.union1d(distinct[key], self._earlier_rows.get(key, [])) for key in distinct}
        cold = (round(float((~np.isin(found[key], self._trained[key])).sum() / rows), 6) for key in found)
        clicks = round(int(label.sum()) / rows, 6)
        self._counts[name] = SplitCounts(rows, len(distinct["user_id"]), clicks, float(np.median(lengths)), *cold)

    def write_table(self, name: str, columns: Columns | pl.DataFrame) -> None:
        """Writes a table in one piece."""
        if isinstance(columns, pl.DataFrame):
            with replace_file(self._work / name) as file:
                columns.write_parquet(file)
            return
        self._write(name, [columns])

    def take_along(self, before: Path) -> list[str]:
        """Copies what was fitted to the items of an import that this one extends; the files' names."""
        return take_along(before, self._work)

    def write_csv(self, name: str, frame: pl.DataFrame) -> None:
        """Writes a table for people."""
        with replace_file(self._work / name) as file:
            frame.write_csv(file)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file."""
        replace_text(self._work / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def feature(self, name: str | list[str], kind: str, *, active: bool = True, **more: Any) -> None:
        """Adds a feature to the dataset configuration."""
        dtype = "float" if kind in ("embedding", "numeric") else "int"
        self._features.append({"name": name, "active": active, "dtype": dtype, "type": kind, **more})

    def keep_features(self, earlier: list[dict[str, Any]]) -> None:
        """Features that an import of before has written stay in their order, and in or out of use, as they were."""
        self._earlier = {str(feature["name"]): feature for feature in earlier}

    def _ordered(self) -> list[dict[str, Any]]:
        order = list(self._earlier)
        rank = [str(f["name"]) for f in self._features]
        features = [{**f, "active": self._earlier.get(name, f)["active"]} for name, f in zip(rank, self._features)]
        place = [order.index(name) if name in self._earlier else len(order) for name in rank]
        return [features[i] for i in np.argsort(place, kind="stable")]

    def finish(
        self,
        about: Mapping[str, Any],
        users: int,
        items: int,
        notes: list[str],
        columns: list[tuple[str, str, str, str]] | None = None,
    ) -> ImportSummary:
        """Writes the dataset configuration and the summary."""
        import yaml

        for name, counts in self._counts.items():
            if counts.click_rate in (0, 1):
                notes.append(
                    f"{name}: every row has the label {counts.click_rate:g}, so there is no AUC. Sample --negatives or "
                    "choose another --label."
                )
        features = self._ordered()
        block = {
            "data_root": f"{self.path.parent}/",
            "data_format": "parquet",
            **{f"{name}_data": str(self.path / f"{name}.parquet") for name in SPLITS},
            "item_info": str(self.path / "item_info.parquet"),
            "rebuild_dataset": False,
            "feature_cols": features,
            "label_col": {"name": "label", "dtype": "float"},
        }
        text = yaml.safe_dump({self.path.name: block}, sort_keys=False, allow_unicode=True)
        replace_text(self._work / "dataset_config.yaml", text)
        summary = ImportSummary(self.path, users, items, dict(self._counts), notes, columns or [])
        written = {k: v for k, v in asdict(summary).items() if k != "path"}
        files = {"user_ids": "ids_user.parquet", "item_ids": "ids_item.parquet", "dataset": "dataset_config.yaml"}
        content = {"schema_version": SCHEMA_VERSION, **about, **written, "features": features, "files": files}
        self.write_json(SUMMARY_FILE, content)
        self._publish()
        return summary

    def _write(self, name: str, chunks: Iterable[Columns]) -> None:
        """Writes a table, a row group for each chunk."""
        writer: pq.ParquetWriter | None = None
        with replace_file(self._work / name) as file, ExitStack() as opened:
            for columns in chunks:
                table = table_of(columns)
                writer = writer or opened.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd"))
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
            if writer is None:
                file.touch()  # a split without a row: an error follows


def is_import(file: Path) -> bool:
    """Whether this is the summary of an import, without which there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"schema_version", "format", "splits"} <= content.keys()
