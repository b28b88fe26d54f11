"""Runs what is missing of a study, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qin_zoo.errors import CheckpointError
from qin_zoo.experiment.ownership import InTraining
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import write_record
from qin_zoo.experiment.run import finished_record, run_experiment
from qin_zoo.files import LockFile
from qin_zoo.log import silent
from qin_zoo.metrics import metrics_text
from qin_zoo.processes.worker import Crew, failure
from qin_zoo.study.periods import over_periods
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.study.probe import probe, stored_probe
from qin_zoo.threads import share
from qin_zoo.training.stop import Stopped

_SECONDS_BETWEEN = 10.0  # looks at what another process trains


def run_missing(
    study: Study,
    runs: list[StudyRun],
    gpus: list[int],
    options: dict,
    echo: Callable[[str], None] = print,
    until: float | None = None,
) -> tuple[dict[StudyRun, dict], dict[StudyRun, str]]:
    """Runs what has no record yet, and scores what the study's tests and slices ask for.

    Args:
        gpus: one process for each; -1 is a share of the CPU.
        options: of :func:`~qin_zoo.experiment.prepare.prepare`, the same for all runs.
        until: :func:`time.monotonic` after which no run is started. Default: never.

    Returns:
        records of all finished runs, with ``tests`` and ``slices`` of :func:`~qin_zoo.study.probe.probe`, and the
        messages of those that failed: whatever becomes of one run, the others go on.

    Raises:
        QinZooError: a run's configuration cannot be used; nothing has been started then.
    """
    prepared = {run: run.prepare(**options) for run in runs}
    for run, p in prepared.items():
        for changes in (run.changes, *study.tests.values()):
            p.varied(changes)
    records: dict[StudyRun, dict] = {}
    failures: dict[StudyRun, str] = {}
    for run, p in prepared.items():
        try:
            record = over_periods(run, p, options) if run.periods else _finished(p, study, run)
        except Exception as error:  # of this run's data, say; the others have their own
            failures[run] = failure(error, p.files.log)
            echo(f"{run.name} failed: {failures[run]}")
        else:
            if record is not None:
                records[run] = record
    missing = [run for run in runs if run not in records and run not in failures]
    failed = f"{len(failures)} failed, " if failures else ""
    echo(f"{len(runs)} runs: {len(records)} finished before, {failed}{len(missing)} to do")
    # as many threads for the last runs, as sums depend on it
    crew, number = Crew(gpus[: len(missing)], share(len(gpus)), train), count(1)
    waiting, elsewhere = dict.fromkeys(missing, 0.0), set()  # run -> when it is begun, at the earliest

    def fill() -> bool:
        over = until is not None and time.monotonic() > until
        due = [run for run, when in waiting.items() if when <= time.monotonic() and not over]
        for run in due[: len(crew.idle)]:
            del waiting[run]
            crew.take(run).send((study, run, options))
        return bool(waiting) and not over

    def hear(run: StudyRun, kind: str, what: Any) -> None:
        if kind == "busy":  # begun again, it ends at once with what the other process has left
            if run not in elsewhere:
                echo(f"{what}; this study waits for its record")
            elsewhere.add(run)
            waiting[run] = time.monotonic() + _SECONDS_BETWEEN
            return
        done = f"[{next(number)}/{len(missing)}] {run.name}"
        if kind == "done":
            records[run] = what
            echo(f"{done}: valid {metrics_text(what['valid'])}, {what['seconds']:.0f} s")
        else:
            failures[run] = what
            echo(f"{done} failed: {what}")

    crew.run(fill, hear, echo)
    return records, failures


def train(job: tuple[Study, StudyRun, dict], gpu: int, connection: Connection) -> tuple:
    """Trains a run and scores what is asked, for a :class:`~qin_zoo.processes.worker.Worker`.

    Says ``("done", record)``, ``("failed", message)``, ``("busy", message)`` where another process trains it, or, after
    a SIGTERM, ``("stopped", message)``.
    """
    study, run, options = job
    prepared = None
    try:
        prepared = run.prepare(**options, gpu=gpu)
        return "done", _train(prepared, study, run, options)
    except InTraining as error:
        return "busy", str(error).partition(". ")[0]
    except Stopped:
        return "stopped", "its process was told to stop; the same command goes on from here"
    except Exception as error:
        return "failed", failure(error, prepared and prepared.files.log)


def _finished(prepared: Prepared, study: Study, run: StudyRun) -> dict | None:
    record, notes = finished_record(prepared), _notes(run)
    if record is None:
        return None
    if any(record.get(key) != note for key, note in notes.items()):  # a tuning has gone on, and found nothing better
        record |= notes
        write_record(prepared.files.record, record)
    found = stored_probe(prepared, record, study.tests, study.slices)
    return None if found is None else record | found


def _notes(run: StudyRun) -> dict:
    """What the record of a run keeps of the study."""
    found = {"tuning": run.tuning, "line": run.of_line}
    return {key: note for key, note in found.items() if note is not None}


def _train(prepared: Prepared, study: Study, run: StudyRun, options: dict) -> dict:
    argv = ["qin-zoo", "study", run.name]
    common = {"echo": silent, "overwrite": True, "notes": _notes(run)}

    def trained(prepared: Prepared) -> dict:
        try:
            return run_experiment(prepared, Path.cwd(), argv, resume=True, **common)
        except CheckpointError:  # what was stopped under this name had other parameters or data
            return run_experiment(prepared, Path.cwd(), argv, **common)

    if run.periods:
        with _alone(prepared):  # the first training is that of other runs, too
            trained(prepared)
        return over_periods(run, prepared, options, trained)
    record = trained(prepared)
    return record | probe(prepared, record, study.tests, study.slices)


@contextmanager
def _alone(prepared: Prepared) -> Iterator[None]:
    """Waits until no other worker is in such a block for the same training."""
    prepared.files.folder.mkdir(parents=True, exist_ok=True)
    lock = LockFile(prepared.files.folder / f".{prepared.expid}.shared.lock")
    while not lock.acquire():
        time.sleep(1)
    try:
        yield
    finally:
        lock.release(remove=True)
