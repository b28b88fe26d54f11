"""The process that trains the trials of one device: it knows a trial's parameters, and nothing of the search."""

from __future__ import annotations

import gc
import glob
import io
import multiprocessing
import os
import shutil
import sys
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.training.child import begin_child
from qin_zoo.training.record import kept_evaluation


@dataclass(frozen=True)
class Job:
    """A trial to train.

    Attributes:
        expid: its id, which its files are named after.
        base_expid: id of the base experiment.
        base: configuration folder of the base experiment.
        folder: configuration folder of the trials; the results CSV is named after it.
        point: parameters that differ from the base experiment's.
        data: as of :func:`~qin_zoo.training.prepare.prepare`.
        plugins: as of :func:`~qin_zoo.training.prepare.prepare`.
    """

    expid: str
    base_expid: str
    base: Path
    folder: Path
    point: dict
    data: Path | None
    plugins: tuple[Path, ...]

    def prepare(self, gpu: int):
        """The trial, checked; see :func:`~qin_zoo.training.prepare.prepare`."""
        from qin_zoo.training.prepare import prepare

        prepared = prepare(
            self.base_expid, self.base, gpu=gpu, data=self.data, overrides=self.point, plugins=self.plugins,
            name=self.expid,
        )  # fmt: skip
        return replace(prepared, config_dir=self.folder)


class Pruned(Exception):
    """The trial is not worth going on with."""


class Worker:
    """A worker as its tuner sees it.

    Args:
        gpu: index of its GPU, -1 for the CPU.
        threads: of its own on the CPU.
        lock: the tuner's lock, held as long as this process lives.
    """

    def __init__(self, gpu: int, threads: int, lock: Path):
        self.gpu, self.threads, self._lock = gpu, threads, lock
        self.connection: Connection | None = None
        self._process = None

    @property
    def device(self) -> str:
        return f"GPU {self.gpu}" if self.gpu >= 0 else "CPU"

    def send(self, job: Job) -> None:
        """Starts a trial, and the process where there is none."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            arguments = (theirs, self._lock, self.gpu, self.threads)
            self._process = context.Process(target=work, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
        self.connection.send(job)

    def ask_to_stop(self) -> None:
        """Lets the trial save a checkpoint and end; it says ``stopped`` then."""
        self._process.terminate()

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


def work(connection: Connection, lock: Path, gpu: int, threads: int) -> None:
    """Trains what comes, until the tuner has no more or is gone.

    Sends ``("evaluation", value, number)``, answered by whether to prune, and at the end of a trial ``("done",
    result)``, ``("pruned", result)``, ``("failed", message)`` or, after a SIGTERM, ``("stopped", {})``.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches every process of the terminal's session; the tuner decides what becomes of it
    begin_child()
    try:
        held = _hold(lock)
    except OSError:
        return  # the tuner is gone already
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    import torch

    from qin_zoo.training.log import warnings_on_terminal

    warnings_on_terminal()

    torch.set_num_threads(threads)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            break
        connection.send(_train(job, gpu, connection))
        gc.collect()
        if gpu >= 0:
            torch.cuda.empty_cache()
    held.close()


def _train(job: Job, gpu: int, connection: Connection) -> tuple:
    from qin_zoo.fuxi import Monitor
    from qin_zoo.training.log import silent
    from qin_zoo.training.run import run_experiment
    from qin_zoo.training.stop import Stopped

    prepared = None
    evaluations: list[dict] = []
    try:
        prepared = job.prepare(gpu)
        value_of = Monitor(prepared.params["monitor"]).get_value
        epochs, steps = prepared.params["epochs"], prepared.params.get("eval_steps")

        def on_evaluation(evaluation):
            evaluations.append(evaluation.as_dict())
            # a trial that goes on from a checkpoint has told the earlier ones before
            number = evaluation.step // steps if steps else evaluation.epoch
            connection.send(("evaluation", value_of(evaluation.metrics), number))
            # in the last epoch there is nothing left to save
            if connection.recv() and evaluation.epoch < epochs:
                raise Pruned

        argv = ["qin-zoo", "run", job.expid, "--config", str(job.folder)]
        record = run_experiment(
            prepared, Path.cwd(), argv, echo=silent, on_evaluation=on_evaluation, resume=True, overwrite=True
        )
        return "done", _result(prepared.params, record["evaluations"])
    except Pruned:
        _keep_only_log(prepared)
        return "pruned", _result(prepared.params, evaluations)
    except Stopped:
        return "stopped", {}
    except (EOFError, BrokenPipeError):
        os._exit(1)  # the tuner is gone
    except Exception as error:
        if prepared is not None:
            _keep_only_log(prepared)
            _append(prepared.files.log, traceback.format_exc())
        if isinstance(error, QinZooError):
            return "failed", str(error)
        return "failed", f"{first_line(error)} (the traceback is in {prepared.files.log})" if prepared else repr(error)


def _result(params: dict, evaluations: list[dict]) -> dict:
    """The monitor's value, the metrics and the epoch of the weights that are kept, and the number of evaluations."""
    from qin_zoo.fuxi import Monitor

    kept = kept_evaluation(evaluations)
    value = Monitor(params["monitor"]).get_value(kept["metrics"])
    return {"value": value, "metrics": kept["metrics"], "epoch": kept["epoch"], "evaluations": len(evaluations)}


def _keep_only_log(prepared) -> None:
    """Removes what a run that did not end has written beside its log."""
    files = prepared.files
    for path in files.folder.glob(f"{glob.escape(files.expid)}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path != files.log:
            path.unlink(missing_ok=True)


def _append(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        pass  # the message of the failure is kept in any case


def _hold(path: Path):
    file = open(path)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH)
    except ImportError:
        pass
    return file


class _NoTerminal(io.TextIOWrapper):
    """Standard error without progress bars: those of several workers would overwrite each other."""

    def isatty(self) -> bool:
        return False
