"""Processes that train one thing after another; whatever becomes of one of these, the others go on."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.files import fcntl
from qin_zoo.processes.child import begin_child

_POLL_SECONDS = 1.0
_SAVING_SECONDS = 60.0
_LAST_WORDS = ("done", "pruned", "failed", "stopped", "busy", "died")  # whatever else a training says is a question

Train = Callable[[object, int, Connection], tuple]
"""A function of a module: of what was sent, the index of the GPU, and a connection to speak over meanwhile. What it
returns is said at the end, a word and more; it raises nothing."""


class Worker:
    """A process as the one that has started it sees it.

    Args:
        gpu: index of its GPU, -1 for the CPU.
        threads: of its own on the CPU.
        train: what it does with what it is sent.
        lock: file that is kept locked as long as the process lives; None for none.
    """

    def __init__(self, gpu: int, threads: int, train: Train, lock: Path | None = None):
        self.gpu, self.threads, self._train, self._lock = gpu, threads, train, lock
        self.connection: Connection | None = None
        self._process = None

    @property
    def device(self) -> str:
        """For people: ``GPU 0``, ``CPU``."""
        return f"GPU {self.gpu}" if self.gpu >= 0 else "CPU"

    def send(self, job: object) -> None:
        """Starts something, and the process where there is none."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            arguments = (theirs, self._train, self._lock, self.gpu, self.threads)
            self._process = context.Process(target=work, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
        self.connection.send(job)

    def receive(self) -> tuple:
        """What the process has to say; ``("died", message)`` if it has ended without a word."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            status = self.stop()
            died = f"killed by signal {-status}; memory was probably short" if status and status < 0 else f"{status}"
            return "died", f"its process ended (exit status {died})"

    def ask_to_stop(self) -> bool:
        """Lets the training save a checkpoint and end; False where none has begun."""
        if self._process is not None:
            self._process.terminate()
        return self._process is not None

    def stop(self, kill: bool = False) -> int | None:
        """Ends the process, at once if ``kill``; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        self.connection.close()
        if kill:
            process.kill()
        process.join()
        return process.exitcode


class Crew:
    """Workers that train side by side; whatever becomes of one of them, the others go on.

    Args:
        gpus: a worker for each; -1 is a share of the CPU.
        threads, train, lock: as of :class:`Worker`.

    Attributes:
        idle: workers that have nothing to do.
        busy: worker -> the task that it was given.
    """

    def __init__(self, gpus: Iterable[int], threads: int, train: Train, lock: Path | None = None):
        self.idle = [Worker(gpu, threads, train, lock) for gpu in gpus]
        self.busy: dict[Worker, Any] = {}

    def take(self, task: object) -> Worker:
        """An idle worker, to be sent something that belongs to this task."""
        worker = self.idle.pop(0)
        self.busy[worker] = task
        return worker

    def run(self, fill: Callable[[], bool], hear: Callable[..., object], echo: Callable[[str], None]) -> None:
        """Trains until all is done. Who was stopped before the end of its task is still busy with it afterwards.

        Args:
            fill: gives idle workers what there is, once a second at least, and tells whether more may come.
            hear: of a task, what its worker says; in the midst of a training it is sent what this returns.
        """
        asked: set[Worker] = set()  # to stop
        try:
            while fill() or self.busy:
                for worker in _speaking(self.busy):
                    self._hear(worker, hear)
        except BaseException as error:
            asked |= self.busy.keys()
            if asked and isinstance(error, KeyboardInterrupt):
                echo("stopping; trainings save a checkpoint, Ctrl-C again ends them at once")
                asked = {worker for worker in asked if worker.ask_to_stop()}
                until = time.monotonic() + _SAVING_SECONDS
                while asked and time.monotonic() < until:
                    asked -= {worker for worker in _speaking(asked) if self._hear(worker, hear, stopping=True)}
            raise
        finally:
            for worker in (*self.idle, *self.busy):
                worker.stop(kill=worker in asked)

    def _hear(self, worker: Worker, hear: Callable[..., object], stopping: bool = False) -> bool:
        """Whether the worker's training has ended with what it says."""
        task, (kind, *more) = self.busy[worker], worker.receive()
        if kind not in _LAST_WORDS:
            worker.connection.send(hear(task, kind, *more))
            return False
        if stopping and kind in ("stopped", "died"):  # died: before its training began
            return True
        del self.busy[worker]
        self.idle.append(worker)
        if kind == "failed" and worker.gpu >= 0:
            worker.stop()  # an error on a GPU may spoil all that follows in its process
        hear(task, "failed" if kind == "died" else kind, *more)
        return True


def _speaking(workers: Iterable[Worker]) -> list[Worker]:
    """Those that have something to say, after a second at most."""
    by_connection = {worker.connection: worker for worker in workers}
    if not by_connection:
        time.sleep(_POLL_SECONDS)
        return []
    return [by_connection[connection] for connection in wait(list(by_connection), timeout=_POLL_SECONDS)]


def failure(error: Exception, log: Path | None) -> str:
    """What to say of a training that raised the error which is being handled; its traceback is added to its log."""
    if log is not None:
        with suppress(OSError):  # the message is kept in any case
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as file:
                file.write(traceback.format_exc())
    if isinstance(error, QinZooError):
        return str(error)
    return f"{first_line(error)} (the traceback is in {log})" if log else repr(error)


def work(connection: Connection, train: Train, lock: Path | None, gpu: int, threads: int) -> None:
    """What the process does: trains what comes, until nobody has more."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches every process of the terminal's session; the parent decides what becomes of it
    begin_child()
    try:
        held = hold(lock) if lock else None
    except OSError:
        return  # the parent is gone already
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    import torch

    from qin_zoo.log import warnings_on_terminal

    warnings_on_terminal()
    torch.set_num_threads(threads)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            break
        connection.send(train(job, gpu, connection))
        gc.collect()
        if gpu >= 0:
            torch.cuda.empty_cache()
    if held:
        held.close()


def hold(path: Path, mode: str = "r") -> IO:
    """Opens a file and shares its lock, which ends with the last process that does; OSError as of ``open``."""
    file = open(path, mode)
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


class _NoTerminal(io.TextIOWrapper):
    """Standard error without progress bars: those of several workers would overwrite each other."""

    def isatty(self) -> bool:
        return False
