"""Batches where the model computes: read ahead by a thread, or with the whole split resident on the GPU."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qin_zoo.batch import ItemBatch
from qin_zoo.data.loader import ColumnLoader

_AHEAD = 2  # batches ready before they are wanted
_SHARE = 0.5  # of the GPU's free memory that a resident split may take
_ROWS = 1 << 17  # rows moved to the GPU at a time


def feed(loader: ColumnLoader, device: torch.device) -> Feed:
    """The same batches as ``loader``'s on ``device``, in the same order, epoch after epoch.

    On a GPU the split stays resident when it takes no more than half of the free memory; otherwise batches travel
    from pinned memory. Reading overlaps with computing either way.
    """
    if device.type == "cuda" and loader.batch_layout != "triple":
        free, _ = torch.cuda.mem_get_info(device)
        if split_bytes(loader) <= _SHARE * free:
            return DeviceResident(loader, device)
    return Prefetching(loader, device)


def split_bytes(loader: ColumnLoader) -> int:
    """Bytes of a whole split as tensors."""
    if not loader.num_samples:
        return 0
    return sum(t.nbytes for t in _tensors(loader.batch(np.arange(1)))) * loader.num_samples


class Feed:
    """A loader's batches on a device; what else a loader has is the loader's own.

    Args:
        loader: where the rows come from; its epochs are counted here, too.
        device: where the batches go.
    """

    def __init__(self, loader: ColumnLoader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self._items: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not set yet: an object being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def _place(self, batch: Any, move: Callable[[Tensor], Tensor]) -> Any:
        batch = map_rows(batch, move)
        if isinstance(batch, ItemBatch):
            if self._items is None:  # the same table with every batch
                self._items = {name: t.to(self.device) for name, t in batch.items.items()}
            batch = replace(batch, items=self._items)
        return batch


class Prefetching(Feed):
    """Reads ahead in a thread, so that reading and computing overlap."""

    def __iter__(self) -> Iterator[Any]:
        batches, ready, stopped = iter(self.loader), queue.Queue(_AHEAD), threading.Event()
        pinned = self.device.type == "cuda"

        def put(item: Any) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    break

        def read() -> None:
            try:
                for batch in batches:
                    put((map_rows(batch, Tensor.pin_memory) if pinned else batch, None))
                    if stopped.is_set():
                        return
                put((None, None))
            except BaseException as error:  # raised again where the batches are used
                put((None, error))

        thread = threading.Thread(target=read, daemon=True, name="qin-zoo reader")
        thread.start()
        try:
            while True:
                batch, error = ready.get()
                if error is not None:
                    raise error
                if batch is None:
                    return
                yield self._place(batch, lambda t: t.to(self.device, non_blocking=True))
        finally:
            stopped.set()
            thread.join()


class DeviceResident(Feed):
    """Holds the whole split on the device and makes batches there."""

    def __init__(self, loader: ColumnLoader, device: torch.device) -> None:
        super().__init__(loader, device)
        self._split: Any = None

    def _load(self) -> Any:
        rows, whole = torch.arange(self.loader.num_samples), None
        for part in rows.split(_ROWS):
            batch = self._place(self.loader.batch(part.numpy()), lambda t: t.to(self.device))
            if whole is None:
                whole = self._place(batch, lambda t: t.new_empty((len(rows), *t.shape[1:]), dtype=_compact(t)))
            for into, values in zip(_tensors(whole), _tensors(batch), strict=True):
                into[part[0] : part[-1] + 1] = values
        return whole

    def __iter__(self) -> Iterator[Any]:
        if self._split is None:
            self._split = self._load()
        batches = self.loader.next_batches()
        if not batches:
            return
        order = torch.from_numpy(np.concatenate(batches)).to(self.device)
        for rows in order.split([len(batch) for batch in batches]):
            yield self._place(self._split, lambda t, rows=rows: _usual(t.index_select(0, rows)))


def _compact(t: Tensor) -> torch.dtype:
    """Ids are kept as int32: they number rows of tables, which have fewer than 2³¹."""
    return torch.int32 if t.dtype == torch.int64 and t.dim() > 1 else t.dtype


def _usual(t: Tensor) -> Tensor:
    return t.long() if t.dtype == torch.int32 else t


def map_rows(batch: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """The batch with ``move`` applied to the tensors of its rows, (B, …) each; an item table is left alone."""
    if isinstance(batch, ItemBatch):
        rows, beside = ({name: move(t) for name, t in part.items()} for part in (batch.rows, batch.beside))
        return ItemBatch(rows, move(batch.history), move(batch.target), batch.items, beside)
    if isinstance(batch, dict):
        return {name: move(t) for name, t in batch.items()}
    return tuple(map_rows(part, move) if isinstance(part, dict) else move(part) for part in batch)


def _tensors(batch: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_rows(batch, lambda t: tensors.append(t) or t)
    return tensors
