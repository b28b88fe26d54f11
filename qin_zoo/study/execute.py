"""Runs what is missing of a study, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.study.probe import probe, stored_probe
from qin_zoo.threads import share
from qin_zoo.training.child import begin_child
from qin_zoo.training.log import silent, warnings_on_terminal
from qin_zoo.training.prepare import Prepared
from qin_zoo.training.run import finished_record, run_experiment

_gpu = -1


def run_missing(
    study: Study,
    runs: list[StudyRun],
    gpus: list[int],
    options: dict,
    echo: Callable[[str], None] = print,
) -> tuple[dict[StudyRun, dict], dict[StudyRun, str]]:
    """Runs what has no record yet, and scores what the study's tests and slices ask for.

    Args:
        study: what is asked of the runs.
        runs: of the study.
        gpus: one process for each; -1 is a share of the CPU.
        options: of :func:`~qin_zoo.training.prepare.prepare`, the same for all runs.
        echo: receives a line for every run.

    Returns:
        records of all finished runs, with ``tests`` and ``slices`` of :func:`~qin_zoo.study.probe.probe`, and the
        messages of those that failed.

    Raises:
        QinZooError: a run's configuration cannot be used; nothing has been started then.
    """
    prepared = {run: run.prepare(**options) for run in runs}
    for p in prepared.values():
        for changes in study.tests.values():
            p.varied(changes)
    records = {run: record for run, p in prepared.items() if (record := _finished(p, study)) is not None}
    missing = [run for run in runs if run not in records]
    echo(f"{len(runs)} runs: {len(records)} finished before, {len(missing)} to do")
    failures: dict[StudyRun, str] = {}
    if not missing:
        return records, failures
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for gpu in gpus[: len(missing)]:
        devices.put(gpu)
    workers = min(len(gpus), len(missing))
    threads = share(len(gpus))  # the same for the last runs: sums depend on it
    if workers > 1:
        os.environ["TQDM_DISABLE"] = "1"  # for the processes: bars of several would overwrite each other
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(devices, threads))
    try:
        futures = {pool.submit(_train, study, run, options): run for run in missing}
        for count, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            done = f"[{count}/{len(missing)}] {run.name}"
            try:
                records[run] = _result(future)
                echo(f"{done}: valid {_metrics(records[run]['valid'])}, {records[run]['seconds']:.0f} s")
            except QinZooError as error:
                failures[run] = str(error)
                echo(f"{done} failed: {error}")
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return records, failures


def _result(future: Future) -> dict:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise QinZooError("its process was killed, or one beside it; memory was probably short") from error


def _begin(devices: multiprocessing.Queue, threads: int) -> None:
    """Starts a process of the pool: it takes a device and keeps it."""
    import torch

    global _gpu
    begin_child()
    _gpu = devices.get()
    torch.set_num_threads(threads)
    warnings_on_terminal()


def _finished(prepared: Prepared, study: Study) -> dict | None:
    record = finished_record(prepared)
    found = None if record is None else stored_probe(prepared, record, study.tests, study.slices)
    return None if found is None else record | found


def _train(study: Study, run: StudyRun, options: dict) -> dict:
    prepared = run.prepare(**options, gpu=_gpu)
    argv = ["qin-zoo", "study", run.name]
    try:
        record = run_experiment(prepared, Path.cwd(), argv, echo=silent, resume=True, overwrite=True)
    except CheckpointError:  # what was stopped under this name had other parameters or data
        record = run_experiment(prepared, Path.cwd(), argv, echo=silent, overwrite=True)
    return record | probe(prepared, record, study.tests, study.slices)


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
