"""What a training asks of the machine: the memory that it frees to use again, and quick work with tiny numbers."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT = 35 << 20  # bytes: more of it is faster, and scattered sizes cost more memory
_STEPS, _MOST_FREE = 4, 1 << 30  # steps between two looks, bytes


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2``."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def keep_freed_memory() -> None:
    """Asks the C library to keep what is freed, and the kernel for huge pages; of no effect but on glibc.

    By default glibc gives every tensor of more than 32 MiB back and gets it anew, page by page: a third of the time
    of a training step on a CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first large tensor
    if library := _glibc():
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Within the block this thread, and those that torch begins meanwhile, count numbers below 1.2e-38 as zero.

    Without a penalty Adam's moments of rows that do not occur end there, and stay; ten times as slow on a CPU.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # what else runs in this process may count on them


def tidy_memory(step: int) -> None:
    """Gives back what lies free between what is used, every few steps, where it is over 1 GiB.

    Batches differ in how many distinct items they have, so that what one frees does not fit the next: the published QIN
    took 2.4 GB in its first steps and 2.9 after twenty.

    Args:
        step: number of the training step that has been taken.
    """
    if step % _STEPS == 0 and (library := _glibc()) and library.mallinfo2().fordblks > _MOST_FREE:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc, of 2.33 or later."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _MallInfo
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # another one
        return None
