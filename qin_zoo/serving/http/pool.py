"""Threads that work off what an event loop hands them, several waiting items at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")
_HOP = 0.002  # seconds after which finished items go back, whatever still waits: items are slow, handing over is fast


class Overloaded(Exception):
    """Too many items wait, or one has waited too long."""


@dataclass
class _Job(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    born: float = field(default_factory=time.monotonic)
    result: Result | None = None
    error: Exception | None = None


class Pool(Generic[Item, Result]):
    """A pool of threads.

    A thread that is free takes waiting items one after the other, and hands their results back together: each
    hand-over between threads makes one wait for the interpreter. Each item is worked on by itself.

    Args:
        work: called with an item, in one of the threads.
        threads: how many.
        max_waiting: more waiting items than this are refused.
        max_batch: most items that a thread takes before it hands back results.
        max_seconds: an item that has waited longer is refused instead of worked on.
        told: called with the number of items of each batch, in one of the threads.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        *,
        threads: int,
        max_waiting: int,
        max_batch: int,
        max_seconds: float,
        told: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._told = work, told
        self._max_waiting, self._max_batch, self._max_seconds = max_waiting, max_batch, max_seconds
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        # Daemons: a thread that does not come back must not keep the process alive.
        self._threads = [threading.Thread(target=self._run, name=f"score-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no thread has taken yet."""
        return self._queue.qsize()

    async def run(self, item: Item) -> Result:
        """The result of an item.

        Raises:
            Overloaded: it was not worked on.
        """
        if self.waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting:,} requests wait already")
        future = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(item, future))
        return await future

    def close(self, seconds: float) -> None:
        """Ends the threads, each after the item it works on; waits for that, ``seconds`` at most."""
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            begin, done = time.monotonic(), []
            while job is not None:
                self._do(job)
                done.append(job)
                if len(done) == self._max_batch or time.monotonic() - begin > _HOP:
                    break
                try:
                    job = self._queue.get_nowait()
                except Empty:
                    break
            self._told(len(done))
            with suppress(RuntimeError):  # the loop has ended, and who waited with it
                done[0].future.get_loop().call_soon_threadsafe(_hand_back, done)
            if job is None:
                return

    def _do(self, job: _Job) -> None:
        if job.future.done():  # nobody waits for it any more
            return
        waited = time.monotonic() - job.born
        if waited > self._max_seconds:
            job.error = Overloaded(f"this request waited {waited:.1f} seconds")
            return
        try:
            job.result = self._work(job.item)
        except Exception as error:  # goes back to who waits for the result
            job.error = error


def _hand_back(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
