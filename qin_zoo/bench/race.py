"""Contenders in processes of their own, measured in turns."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch

from qin_zoo.bench.contenders import Contender
from qin_zoo.processes.worker import Worker, failure
from qin_zoo.threads import share


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
        """Median of the rates."""
        return statistics.median(self.rates)


def race(contenders: list[Contender], rounds: int, progress: Callable[[str], None] = lambda text: None) -> list[Result]:
    """Measures contenders in turns, ``rounds`` times; while one runs, the others wait, and if it fails, they go on.

    Args:
        contenders: what to measure, each in a process of its own, so that memory and its reuse are its own.
        rounds: measurements of each, after one that does not count.
    """
    results = [Result(contender.name) for contender in contenders]
    workers = [Worker(contender.gpu, share(1), compete) for contender in contenders]

    def ask(number: int, question: object) -> object:
        """What a contender answers; None, and no more questions, once it has failed."""
        result, worker = results[number], workers[number]
        if result.failure:
            return None
        with contextlib.suppress(OSError):  # its process has ended, as receive tells
            worker.send(question)
        kind, answer = worker.receive()
        if kind in ("failed", "died"):
            less = " Use a smaller batch_size or --no-plain, if memory was short." if kind == "died" else ""
            result.failure, answer = f"{answer}.{less}" if less else answer, None
        return answer

    try:
        for number, contender in enumerate(contenders):
            progress(f"{contender.name}: starting")
            if answer := ask(number, (contender, time.time())):
                results[number].ready, results[number].facts = answer
        for turn in range(rounds):
            for number, result in enumerate(results):
                progress(f"{result.name}: measurement {turn + 1} of {rounds}")
                if answer := ask(number, "measure"):
                    result.rates.append(answer)
        for number, result in enumerate(results):
            if answer := ask(number, "finish"):
                result.peak_bytes, result.gpu_bytes = answer
    finally:
        for worker in workers:
            worker.stop(kill=True)
    return results


def compete(job: tuple[Contender, float], gpu: int, connection: Connection) -> tuple[str, object]:
    """What a contender's process does, which was started at that second since 1970: it measures when it is told to."""
    contender, started = job
    try:
        measure, facts = contender.start()
        ready = time.time() - started
        measure()  # does not count: memory is new
        connection.send(("ready", (ready, facts)))
        while connection.recv() == "measure":
            begin = time.perf_counter()
            amount = measure()
            connection.send(("rate", amount / (time.perf_counter() - begin)))
        return "memory", (peak_bytes(), 0 if gpu < 0 else torch.cuda.max_memory_allocated(gpu))
    except (EOFError, BrokenPipeError):
        os._exit(1)  # nobody waits for a result any more
    except Exception as error:  # its process has no other way to say so
        return "failed", failure(error, None)


def peak_bytes() -> int:
    """Largest resident memory of this process so far; 0 where that is not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
