"""How far a long step is: a bar on a terminal; elsewhere, as in a pipe or a job's log, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

SECONDS = 30.0  # between two lines
_LONG = 200_000  # rows of a file that take long enough to be read for a bar
_reading: dict[str, Progress] = {}


class Progress(tqdm):
    """A bar that is gone when the step is over, on a terminal; else a line on standard error every half a minute.

    Args:
        name: whose step it is, for lines: several processes may write them.
        shown: whether anything is shown.
        iterable, desc, total, leave, more: as of ``tqdm``.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str = "",
        total: int | None = None,
        *,
        name: str = "",
        shown: bool = True,
        leave: bool = False,
        **more,
    ):
        super().__init__(iterable, desc, total, leave=leave, disable=None if shown else True, **more)
        self._lines, self._what = shown and self.disable, f"{name}: {desc}" if name else desc
        self._of = more.get("unit", "batches").strip()
        self._began = time.monotonic()
        self._first, self._next = self.n, self._began + SECONDS

    def __iter__(self) -> Iterator:
        if not self._lines:
            yield from super().__iter__()
            return
        for thing in self.iterable:
            yield thing
            self.update()

    def update(self, n: float = 1) -> bool | None:
        """Counts ``n`` more."""
        if not self._lines:
            return super().update(n)
        self.n += n
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SECONDS
            print(self._line(now), file=sys.stderr, flush=True)
        return None

    def _line(self, now: float) -> str:
        if not self.total:
            return f"{self._what}: {self.n:,} {self._of}"
        left = (self.total - self.n) * (now - self._began) / max(self.n - self._first, 1)
        share = f"{self.n:,} of {self.total:,} {self._of}, {self.n / self.total:.0%}"
        return f"{self._what}: {share}, {tqdm.format_interval(left)} to go"


def show_reading(name: str, done: int, total: int) -> None:
    """A bar while a large data file is read for the first time."""
    if total < _LONG:
        return
    if name not in _reading:
        _reading[name] = Progress(total=total, desc=f"reading {name}", unit=" rows", leave=True)
    _reading[name].update(done - _reading[name].n)
    if done >= total:
        _reading.pop(name).close()
