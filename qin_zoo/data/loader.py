"""Loaders: classes for FuxiCTR's ``RankDataLoader(data_loader=…)`` that make batches by slicing columns.

    train, valid = RankDataLoader(feature_map, stage="train", data_loader=ItemTableLoader, **params)

No worker processes and no Python per row: a batch is a handful of array look-ups.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qin_zoo.batch import ItemBatch
from qin_zoo.data.columns import Table, open_table
from qin_zoo.data.histories import Histories, RowHistories, UserHistories
from qin_zoo.data.item_layout import (
    HISTORY,
    PER_ROW,
    PER_USER,
    USER,
    USER_HISTORY,
    data_file,
    history_specs,
    item_column_types,
    item_info_of,
    item_specs,
    open_split,
    row_specs,
)
from qin_zoo.data.item_table import open_item_table
from qin_zoo.data.item_tensors import load_item_table
from qin_zoo.data.rows import RowReader, Specs, check_spec, check_weight, row_kinds, weight_kind
from qin_zoo.data.sources import at
from qin_zoo.data.stored import Column, Progress, blocks
from qin_zoo.data.variations import Variation
from qin_zoo.errors import ConfigError, DataError, suggest

_log = logging.getLogger(__name__)
Triple = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]


class ColumnLoader(ABC):
    """Batches of a table's rows: in order, or shuffled in an order that follows from (seed, epoch), or as in FuxiCTR.

    Each ``iter()`` is one epoch; the last, smaller batch is kept. Only the train split is ever shuffled.

    FuxiCTR's loaders are torch's ``DataLoader``: every epoch, of any split, takes a seed for its workers from torch's
    random generator, and a shuffled one another for its order. With ``as_fuxictr`` both are taken here, too, so that
    rows and dropout come in the same order as there. Several processes, which FuxiCTR does not know, would draw
    different numbers: their order follows from (seed, epoch).

    Args:
        feature_map: FuxiCTR's feature map.
        data_path: the split's file; the suffix may be left out.
        split: ``train``, ``valid`` or ``test``.
        batch_size: rows per batch.
        shuffle: whether the train split is shuffled.
        seed: a whole number; the same seed repeats the same epochs.
        cache_dir: where converted columns are kept. Default: see ``cache.py``.
        task: ``binary_classification`` (labels 0 and 1) or ``regression``; a list where labels differ.
        sample_weight: a further column of the training rows, what each counts; batches have it under its name.
        progress: called with (file name, rows done, rows in all) while a file is converted.
        as_fuxictr: take from torch's generator what FuxiCTR's loaders take, and the order of the rows from that.
        kwargs: the keys of :class:`~qin_zoo.data.variations.Variation`; whatever else a configuration holds is
            ignored.

    Attributes:
        drawn: what the order of the current epoch follows from, where it was drawn; see :meth:`set_epoch`.
        num_samples, num_batches, num_blocks: rows, batches per epoch, files (1).
        table: the open split.
        has_label: whether its rows hold every label; only a test split may lack them.
        fingerprint: file name, rows and content hash, for the record of a run.

    Raises:
        DataError: a file or column that cannot be used, an id beyond the item table or a vocabulary.
        ConfigError: an argument that cannot be used.
    """

    num_blocks = 1
    batch_layout = "fields"

    drawn: int | None = None

    def __init__(
        self,
        feature_map: Any,
        data_path: str | Path,
        split: str = "train",
        batch_size: int = 32,
        shuffle: bool | str = False,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        task: str | Sequence[str] = "binary_classification",
        sample_weight: str | None = None,
        progress: Progress | None = None,
        as_fuxictr: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size: expected a positive whole number, found {batch_size!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed: expected a whole number, found {seed!r}.")
        self.feature_map, self.split, self.batch_size, self.as_fuxictr = feature_map, split, batch_size, as_fuxictr
        self.shuffle = bool(shuffle) and split == "train"
        self._options = {"cache_dir": cache_dir, "progress": progress}
        self._variation = Variation.of({**kwargs, "seed": seed})
        labels = feature_map.labels
        weight = weight_kind(sample_weight, split, feature_map.features, labels)
        table, specs = self._open(data_path, task, weight)
        for name in weight:
            check_weight(table[name])
        self.table, self._reader = table, RowReader(table, specs, [*labels, *weight])
        self.has_label = all(label in table for label in labels)
        self.num_samples = table.num_rows
        self.num_batches = -(-table.num_rows // batch_size)
        self.fingerprint: dict[str, object] = dict(table.fingerprint)
        self._seed = seed % 2**64  # seeds of numpy count from 0
        self._next_epoch = self._next_start = 0
        self._rank, self._size = 0, 1
        self._columns = list(table.columns.values())  # what an epoch reads

    @abstractmethod
    def _open(self, data_path: str | Path, task: str | Sequence[str], weight: Mapping[str, str]) -> tuple[Table, Specs]:
        """The split, with the column of weights, if there is one; and the features that stand in its rows."""

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        if self.shuffle:
            for column in self._columns:
                column.prefetch()
        return self._batches(self.next_batches())

    def next_batches(self) -> list[np.ndarray]:
        """Begins an epoch: the rows of each of its batches, (B,) int64 each."""
        epoch, start = self._next_epoch, self._next_start
        self._next_epoch, self._next_start = epoch + 1, 0
        if not start:
            self.drawn = self._draw() if self.as_fuxictr and self._size == 1 else None
        order = self.order(epoch)
        firsts = range(start * self.batch_size, self.num_samples, self.batch_size)
        return self._own([order[first : first + self.batch_size] for first in firsts])

    def take_share(self, rank: int, size: int) -> None:
        """Gives each of ``size`` processes, from ``rank`` 0 on, its share of the rows; each calls it on its own loader.

        Of the train split it is part of every batch, so that the processes train on the same batch together. Batches
        of fewer than two rows for each process go to all of them whole. Of any other split it is a run of whole
        batches, so that rows are scored with the same rows beside them, however many processes there are.
        """
        self._rank, self._size = rank, size

    def _own(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        rank, size = self._rank, self._size
        if self.split == "train":
            whole = 2 * size
            return [np.array_split(b, size)[rank] if len(b) >= whole and size > 1 else b for b in batches]
        return batches[rank * len(batches) // size : (rank + 1) * len(batches) // size]

    @staticmethod
    def _random_seed() -> int:
        return int(torch.empty((), dtype=torch.int64).random_())

    def _draw(self) -> int | None:
        """What ``DataLoader`` and its ``RandomSampler`` draw when an epoch begins; the sampler's seed."""
        self._random_seed()
        return self._random_seed() if self.shuffle else None

    def set_epoch(self, epoch: int, start: int = 0, drawn: int | None = None) -> None:
        """Makes the next ``iter()`` epoch number ``epoch``, from batch ``start`` on; both count from 0.

        Any ``start`` but 0 goes on with an epoch that was begun, for which nothing is drawn again: ``drawn`` was.
        """
        self._next_epoch, self._next_start, self.drawn = epoch, start, drawn

    def batch_rows(self, epoch: int, index: int) -> np.ndarray:
        """The file's rows in a batch of an epoch, this process's share, (B,) int64; both count from 0."""
        first = index * self.batch_size
        rows = self.order(epoch)[first : first + self.batch_size]
        return self.table_rows(self._own([rows])[0] if self.split == "train" else rows)

    def _read(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Features and labels of the table's rows (B,): name -> (B,) or (B, ...)."""
        return {name: torch.from_numpy(values) for name, values in self._reader(rows).items()}

    def table_rows(self, rows: np.ndarray) -> np.ndarray:
        """Where the loader's rows stand in the table; elsewhere only where a part of the table is used."""
        return rows

    def order(self, epoch: int) -> np.ndarray:
        """The rows in the order in which an epoch visits them, (num_samples,) int64."""
        if not self.shuffle:
            return np.arange(self.num_samples)
        if self.drawn is not None:
            return torch.randperm(self.num_samples, generator=torch.Generator().manual_seed(self.drawn)).numpy()
        return np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self.num_samples)

    def _batches(self, batches: list[np.ndarray]) -> Iterator[Any]:
        return map(self.batch, batches)

    @abstractmethod
    def batch(self, rows: np.ndarray) -> Any:
        """The batch of these rows, (B,) int64."""


class ItemTableLoader(ColumnLoader):
    """Rows, histories and targets over an item table.

    Args:
        feature_map, data_path, args, options: see :class:`ColumnLoader`. The rows of the parquet file hold ``item_id``
            and ``item_seq``; or, with ``user_info``, ``item_index``, ``user_index`` and ``seq_len``. With
            ``as_fuxictr``, histories of ``user_info`` in triples are as long as the longest of their batch, as
            LongCTR's loader makes them.
        item_info: the item table, row i describing item i and row 0 padding. Default: ``item_info.parquet``
            beside the data.
        user_info: the users' histories, column ``full_item_seq``; whose they are says a column ``user_index``, without
            it row i is user i. Default: histories stand in the rows.
        max_len: items per history, the newest; 0 for none, None for the longest there is. Default: 100.
        batch_layout: ``triple``, the public ``(batch_dict, item_dict, mask)``, or ``index``, an
            :class:`~qin_zoo.batch.ItemBatch`. Default: ``triple``.

    Attributes:
        histories: the history of every row of the file.
        items: the item table, name -> (N, …); the same tensors in every loader of it.
        target: the column with each row's item.
    """

    def __init__(
        self,
        feature_map: Any,
        data_path: str | Path,
        *args: Any,
        item_info: str | Path | None = None,
        user_info: str | Path | None = None,
        max_len: int | None = 100,
        batch_layout: str = "triple",
        **options: Any,
    ) -> None:
        if batch_layout not in ("triple", "index"):
            raise ConfigError(
                f"batch_layout: expected 'triple' or 'index', found {batch_layout!r}."
                f"{suggest(batch_layout, ('triple', 'index'))}"
            )
        self.batch_layout, self._layout = batch_layout, PER_USER if user_info else PER_ROW
        super().__init__(feature_map, data_path, *args, **options)
        specs, table, target = feature_map.features, self.table, self._layout.target
        self.target = table[target]
        cache_dir, split = self._options["cache_dir"], self.split
        info, features = item_info_of({"item_info": item_info}, table.path), item_specs(specs)
        items = open_item_table(info, item_column_types(specs), target, cache_dir)
        for name, spec in features.items():
            if name in items:
                check_spec(items[name], name, spec)
        self.items: dict[str, Tensor] = load_item_table(info, features, target, cache_dir, self._variation)
        self.fingerprint["item_info"] = items.fingerprint

        self.histories: Histories
        beside = history_specs(specs)
        if user_info:
            kinds = {USER_HISTORY: "ids", USER: "id"} | dict.fromkeys(beside, "ids")
            users = open_table(data_file(user_info), kinds, optional=[USER], **self._options)
            lists = {
                name: UserHistories(users[name], table[USER], table["seq_len"], max_len, users.columns.get(USER))
                for name in (USER_HISTORY, *beside)
            }
            self.fingerprint["user_info"] = users.fingerprint
            history = users[USER_HISTORY]
        else:
            history = table[HISTORY]
            lists = {name: RowHistories(table[name], max_len) for name in (HISTORY, *beside)}
        self.histories, *others = lists.values()
        self._beside = dict(zip(beside, others))
        for name, spec in beside.items():
            check_spec(self._beside[name].column, name, spec)
            _check_beside(history, self._beside[name].column)
        for column in (self.target, history):
            column.check_below(items.num_rows, f"the rows of the item table {info}")
        _report_padding(self.target, split)
        if user_info:
            self._columns += [found.column for found in lists.values()]
        self._part = self._hidden = None
        if split == "train" and self._variation.named:
            self._leave_out(items.num_rows)

    def _open(self, data_path: str | Path, task: str | Sequence[str], weight: Mapping[str, str]) -> tuple[Table, Specs]:
        specs, labels = self.feature_map.features, self.feature_map.labels
        options = {"task": task, "further": weight, **self._options}
        table = open_split(data_file(data_path), specs, labels, self.split, self._layout, **options)
        return table, row_specs(specs)

    def _leave_out(self, items: int) -> None:
        """Keeps the training rows and the history items that the variation lets through."""
        if self._variation.unseen_items:
            self._hidden = self._variation.hidden_items(items)
        self._part = self._variation.training_rows(self.target.take(slice(None)), self._hidden)
        if not len(self._part):
            raise DataError(f"{self.table.path}: no training row is left with {', '.join(self._variation.named)}.")
        self.num_samples = len(self._part)
        self.num_batches = -(-self.num_samples // self.batch_size)

    def table_rows(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._part is None else self._part[rows]

    def _batches(self, batches: list[np.ndarray]) -> Iterator[ItemBatch | Triple]:
        ahead = self.histories.rows_ahead(self.batch_size) // self.batch_size
        for first in range(0, len(batches), ahead):
            together = [self.table_rows(rows) for rows in batches[first : first + ahead]]
            lists = None  # lets go of the last ones first
            lists = self._lists(np.concatenate(together), np.int32)
            begin = 0
            for rows in together:
                yield self._batch(rows, [values[begin : begin + len(rows)] for values in lists])
                begin += len(rows)

    def batch(self, rows: np.ndarray) -> ItemBatch | Triple:
        rows = self.table_rows(rows)
        return self._batch(rows, self._lists(rows, np.int64))

    def _lists(self, rows: np.ndarray, dtype: type[np.generic]) -> list[np.ndarray]:
        """The rows' histories, and what stands beside them."""
        return [lists.gather(rows, dtype) for lists in (self.histories, *self._beside.values())]

    def _batch(self, rows: np.ndarray, lists: list[np.ndarray]) -> ItemBatch | Triple:
        lists = self._variation.history(lists[0], rows, self._hidden, lists[1:])
        if self.as_fuxictr and self.batch_layout == "triple":
            lists = [values[:, values.shape[1] - self.histories.longest(rows) :] for values in lists]
        history, *beside = (torch.from_numpy(values.astype(np.int64, copy=False)) for values in lists)
        batch = ItemBatch(
            rows=self._read(rows),
            history=history,
            target=torch.from_numpy(self.target.take(rows).astype(np.int64)),
            items=self.items,
            beside=dict(zip(self._beside, beside)),
        )
        return batch if self.batch_layout == "index" else batch.triple()


def _check_beside(history: Column, column: Column) -> None:
    """Raises DataError unless each item of a history has a value beside it."""
    for rows in blocks(history.rows):
        (begin, end), (first, last) = history.bounds(rows), column.bounds(rows)
        wrong = np.flatnonzero(end - begin != last - first)
        if wrong.size:
            row = rows[wrong[0]]
            raise DataError(
                f"{at(column.path, column.name, row)}: expected {(end - begin)[wrong[0]]} values other than 0, one for "
                f"each item of '{history.name}', found {(last - first)[wrong[0]]}. Values count from 1; 0 is padding."
            )


def _report_padding(target: Column, split: str) -> None:
    """Says how many rows ask about no item: their target is as blank as an empty place of a history."""
    count = int(np.count_nonzero(target.values == 0)) if target.min == 0 else 0
    if count:
        _log.warning(
            "%s: the target of %d of the %d %s rows is 0, which is padding, not an item: number the items from 1, or "
            "leave these rows out",
            at(target.path, target.name), count, target.rows, split,
        )  # fmt: skip


class FieldsLoader(ColumnLoader):
    """FuxiCTR's classic fields: one dictionary of columns per batch, from an npz or an encoded parquet file.

    A batch maps categorical and meta features to (B,) int64, sequences to (B, max_len) int64 (shorter ones
    padded with 0 at the end), numeric features and labels to (B,) float32, embeddings to (B, dim) float32.

    Args: see :class:`ColumnLoader`; the file is ``.npz`` or ``.parquet``.
    """

    def _open(self, data_path: str | Path, task: str | Sequence[str], weight: Mapping[str, str]) -> tuple[Table, Specs]:
        if varied := self._variation.named:
            raise ConfigError(f"{varied[0]} is for datasets with an item table; {data_path} has named fields.")
        specs, labels = self.feature_map.features, self.feature_map.labels
        path, kinds = data_file(data_path, (".npz", ".parquet")), row_kinds(specs, labels, task) | weight
        return open_table(path, kinds, optional=labels if self.split == "test" else (), **self._options), specs

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        return self._read(rows)
