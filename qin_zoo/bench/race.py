"""Contenders in processes of their own, measured in turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qin_zoo.bench.contenders import Contender
from qin_zoo.errors import QinZooError


@dataclass
class Result:
    """What a contender did.

    Attributes:
        name: of the contender.
        rates: rows, or matrix products, a second of each measurement.
        ready: seconds from the start of its process to its first batch or step, imports included.
        peak_bytes: largest resident memory of its process.
        gpu_bytes: largest memory allocated on the GPU; 0 without one.
        facts: what it knows of itself: ``batch_size``, ``flops`` of a step, ``parameters``.
        failure: why it was given up; empty where it was not.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    ready: float = 0.0
    peak_bytes: int = 0
    gpu_bytes: int = 0
    facts: dict = field(default_factory=dict)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def race(contenders: list[Contender], rounds: int, progress: Callable[[str], None] = lambda text: None) -> list[Result]:
    """Measures contenders in turns, ``rounds`` times; while one runs, the others wait, and if it fails, they go on.

    Args:
        contenders: what to measure, each in a process of its own, so that memory and its reuse are its own.
        rounds: measurements of each, after one that does not count.
        progress: told what happens now.

    Returns:
        what each did, those that failed with the reason.
    """
    runners: list[_Runner] = []
    try:
        for contender in contenders:
            progress(f"{contender.name}: starting")
            runners.append(_Runner(contender))
            runners[-1].attempt(runners[-1].wait_until_ready)
        for number in range(rounds):
            for runner in runners:
                progress(f"{runner.result.name}: measurement {number + 1} of {rounds}")
                runner.attempt(runner.measure)
        for runner in runners:
            runner.attempt(runner.finish)
    finally:
        for runner in runners:
            runner.stop()
    return [runner.result for runner in runners]


class _Runner:
    def __init__(self, contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, contender, time.time()), daemon=True)
        self._process.start()
        other.close()
        self.result = Result(contender.name)

    def attempt(self, part: Callable[[], None]) -> None:
        """Does a part of the race, unless an earlier one has failed."""
        if self.result.failure:
            return
        try:
            part()
        except QinZooError as error:
            self.result.failure = str(error)

    def wait_until_ready(self) -> None:
        self.result.ready, self.result.facts = self._receive()

    def measure(self) -> None:
        self._send("measure")
        self.result.rates.append(self._receive())

    def finish(self) -> None:
        self._send("finish")
        self.result.peak_bytes, self.result.gpu_bytes = self._receive()

    def stop(self) -> None:
        self._connection.close()
        self._process.join(timeout=5)
        self._process.terminate()
        self._process.join()

    def _send(self, word: str) -> None:
        with contextlib.suppress(OSError):  # its process has ended: there is nothing to receive, either
            self._connection.send(word)

    def _receive(self):
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise QinZooError(
                f"its process ended with status {self._process.exitcode} without a result; when it "
                "was killed, memory was probably short: use a smaller batch_size or --no-plain."
            ) from None
        if kind == "error":
            raise QinZooError(value)
        return value


def _serve(connection, contender: Contender, started: float) -> None:
    """The process of a contender: gets ready, then measures whenever it is told to."""
    try:
        measure, facts = contender.start()
        ready = time.time() - started
        measure()  # does not count: memory is new
        connection.send(("ready", (ready, facts)))
        while connection.recv() == "measure":
            begin = time.perf_counter()
            amount = measure()
            connection.send(("rate", amount / (time.perf_counter() - begin)))
        connection.send(("memory", (_peak_bytes(), _gpu_bytes(contender))))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # nobody waits for a result any more
        pass
    except QinZooError as error:
        connection.send(("error", str(error)))
    except Exception as error:  # its process has no other way to say so
        connection.send(("error", f"{type(error).__name__}: {error}"))


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpu_bytes(contender: Contender) -> int:
    if contender.gpu < 0:
        return 0
    import torch

    return torch.cuda.max_memory_allocated(contender.gpu)
