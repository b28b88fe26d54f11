"""Keeps the memory that training frees for training to use again."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT = 35 << 20  # bytes: more of it is faster, and scattered sizes cost more memory


def keep_freed_memory() -> None:
    """Asks the C library to keep what is freed, and the kernel for huge pages; of no effect but on glibc.

    By default glibc gives every tensor of more than 32 MiB back and gets it anew, page by page: a third of the time
    of a training step on a CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it before its first large tensor
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, -1)
