"""Several processes that train one model: what they add up, hand over and agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate

import torch
from torch import Tensor
from torch import distributed as dist

from qin_zoo.errors import QinZooError, first_line

_TIMEOUT = timedelta(minutes=30)  # one process may convert data files while the others wait
_ROWS_SENT = 65536  # at once, to the process that collects them


class Group:
    """The processes of a training. A group of one does nothing, at no cost.

    Args:
        rank: of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._paused = False

    @property
    def active(self) -> bool:
        """Whether there is anybody to talk to."""
        return self.size > 1 and not self._paused

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place, of a tensor of whatever shape."""
        if self.active:
            _talk(dist.all_reduce, values)
        return values

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        device = "cuda" if self.active and dist.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor(float(wish), device=device)) > 0) if self.active else wish

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients of all processes, in place, in one message for each type."""
        if not self.active:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None and parameter.requires_grad:  # this process's rows did not use it
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            together = self.sum(torch.cat([g.reshape(-1) for g in gradients]))
            for gradient, total in zip(gradients, together.split([g.numel() for g in gradients])):
                gradient.copy_(total.view_as(gradient))

    def gather_rows(self, values: Tensor) -> Tensor:
        """The rows of all processes, (n, …) of any n each, one after the other in the order of their ranks."""
        if not self.active:
            return values
        sizes = [torch.zeros((), dtype=torch.int64, device=values.device) for _ in range(self.size)]
        _talk(dist.all_gather, sizes, torch.tensor(len(values), device=values.device))
        largest = int(max(sizes))
        padded = values.new_zeros((largest, *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        _talk(dist.all_gather, parts, padded)
        return torch.cat([part[: int(size)] for part, size in zip(parts, sizes)])

    def collect_rows(self, values: Tensor) -> Tensor | None:
        """What :meth:`gather_rows` returns, (N, …), in the first process's host memory only; None in the others."""
        if not self.active:
            return values.cpu()
        sizes = self.gather_rows(torch.tensor([len(values)], device=values.device)).tolist()
        whole = torch.empty((sum(sizes), *values.shape[1:]), dtype=values.dtype) if self.leads else None
        for rank, place in enumerate(accumulate([0, *sizes[:-1]])):
            if self.rank not in (0, rank):
                continue
            for first in range(0, sizes[rank], _ROWS_SENT):  # a few at a time: a GPU may have room for no more
                rows = min(_ROWS_SENT, sizes[rank] - first)
                part = values.detach()[first : first + rows]
                if rank != 0 and self.leads:
                    part = values.new_empty(rows, *values.shape[1:])
                    _talk(dist.recv, part, rank)
                elif rank != 0:
                    _talk(dist.send, part, 0)
                if self.leads:
                    whole[place + first : place + first + rows] = part
        return whole

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process the first one's values, in place."""
        if self.active:
            for tensor in tensors:
                _talk(dist.broadcast, tensor.detach(), 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.active:
            _talk(dist.barrier)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Alone for a while: what one process does now, the others do not."""
        self._paused, before = True, self._paused
        try:
            yield
        finally:
            self._paused = before


ALONE = Group()


@contextmanager
def joined(gpu: int) -> Iterator[Group]:
    """The group that ``torchrun``, or ``qin-zoo run --devices``, has started this process in; otherwise a group of one.

    Args:
        gpu: index of this process's GPU, -1 for the CPU.

    Raises:
        QinZooError: the processes cannot reach each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE
        return
    if gpu >= 0:
        torch.cuda.set_device(gpu)
    try:
        dist.init_process_group("nccl" if gpu >= 0 else "gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise QinZooError(
            f"Process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']} cannot join the others: {error}. "
            "Start it with torchrun, or with --devices."
        ) from error
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _talk(message, *values) -> None:
    try:
        message(*values)
    except RuntimeError as error:
        raise QinZooError(
            f"The other processes of this training cannot be reached: one of them has probably ended. Its own message "
            f"says why. ({first_line(error)})"
        ) from error


def others_wait() -> bool:
    """Whether this process is in a group that a model may join."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def own_gpu(gpu: int) -> int:
    """The GPU of this process: the first one's index plus its place on this machine; -1 stays -1."""
    return gpu if gpu < 0 else gpu + int(os.environ.get("LOCAL_RANK", "0"))
