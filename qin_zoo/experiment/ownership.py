"""Whose files these are: one process at a time writes the files of a run, and no run replaces another's.

Beside its files every run has a lock, ``.<name>.lock``, held while it trains, in which stands what run it is of. A run
whose name is taken by one with other parameters, finished, stopped or training now, is numbered: ``<expid>-2``. The
same parameters on other data are the same run, done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path

import torch

from qin_zoo.distributed import Group
from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.experiment.record import identity, read_record
from qin_zoo.files import LockFile, file_digest

_SHOWN = 3  # parameters in a message


class InTraining(QinZooError):
    """Another process trains this very run."""


@contextmanager
def owned(
    prepared: Prepared,
    data: dict,
    group: Group,
    *,
    resume: bool = False,
    overwrite: bool = False,
    echo: Callable[[str], None] = print,
) -> Iterator[Prepared]:
    """The run under a name whose files are its own, or nobody's; they stay its own as long as the block runs.

    Args:
        data: fingerprints of its data, of which a run that is done again may have others.
        group: the processes that train together; the first one decides.
        resume: go on with a stopped run of these parameters, whatever its number.
        overwrite: replace what another run has left under this name.

    Raises:
        InTraining: another process trains this very run, or the name is held by one and shall be overwritten.
    """
    lock, number = None, torch.zeros(1, dtype=torch.int64)
    if group.leads:
        lock, number[0] = _claim(prepared, data, resume, overwrite, echo)
    try:
        group.share([number])
        yield prepared.named(_files(prepared, int(number)).expid)
    finally:
        if lock is not None:
            files = _files(prepared, int(number))
            unused = not _exists(files)  # it could not even begin
            lock.release(remove=unused)
            for folder in (files.folder, Path(prepared.params["model_root"])) if unused else ():
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()


def verify_weights(checkpoint: Path, record: dict | None = None) -> None:
    """Compares weights with the record of their run. Default: the one that stands beside them, where one does.

    Raises:
        CheckpointError: the file is not the one that the record was written for.
    """
    record = record or read_record(checkpoint.with_suffix(".json"))
    expected = ((record or {}).get("sha256") or {}).get("checkpoint")
    if expected and checkpoint.is_file() and file_digest(checkpoint) != expected:
        raise CheckpointError(
            f"{checkpoint}: its SHA-256 is not the one in {checkpoint.with_suffix('.json').name}: the weights were "
            "damaged or replaced after the run. Fetch them again or train again; if you replaced them on purpose, "
            "remove the record."
        )


def _claim(prepared: Prepared, data: dict, resume: bool, overwrite: bool, echo) -> tuple[LockFile, int]:
    ours = _run_of(prepared.params)
    if resume:
        same = (n for n in _taken(prepared) if _is_same(_files(prepared, n), ours))
        stopped = any(prepared.files.checkpoints.glob("step-*.json"))  # of another run: refused later
        if number := next(same, 1 if stopped else 0):
            if (lock := _lock(_files(prepared, number))) is None:
                raise _busy(_files(prepared, number))
            return lock, number
    for number in count(1):
        files = _files(prepared, number)
        same, lock = _is_same(files, ours), _lock(files)
        if lock is None and (same or overwrite):
            raise _busy(files)
        if lock is not None:
            if overwrite or same or not _exists(files):
                break
            lock.release()
    if number > 1:
        echo(
            f"{prepared.expid} is the name of another run ({_difference(prepared)}): this one is called {files.expid}. "
            "--name gives it another name, --overwrite replaces the other."
        )
    record = read_record(files.record)
    if record is not None and not overwrite and record["data"] != data:
        echo(f"{files.expid} was trained on other data before: that run is replaced.")
    lock.write({"process": os.getpid(), "since": time.time(), "run": ours})
    return lock, number


def _is_same(files: RunFiles, ours: dict) -> bool:
    """Whether the files are of a run like this one; a stopped one may go on for any number of epochs."""
    record = read_record(files.record)
    if record is not None:
        return _run_of(record["params"]) == ours
    theirs = LockFile(files.lock).read().get("run")
    return isinstance(theirs, dict) and theirs.get("digest") == ours["digest"]


def _run_of(params: dict) -> dict:
    """What makes a run this one, under whatever name; short, as it stands in a lock."""
    same = identity({k: v for k, v in params.items() if k not in ("model_id", "epochs")}, {})
    digest = hashlib.blake2b(json.dumps(same, sort_keys=True).encode(), digest_size=16).hexdigest()
    return {"digest": digest, "epochs": params["epochs"]}


def _exists(files: RunFiles) -> bool:
    """Whether anything is there that a run would replace."""
    return files.record.exists() or files.checkpoint.exists() or any(files.checkpoints.glob("step-*.json"))


def _lock(files: RunFiles) -> LockFile | None:
    """The lock of these files; None where another process has it."""
    lock = LockFile(files.lock)
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        return lock if lock.acquire() else None
    except OSError as error:
        raise QinZooError(
            f"Cannot write to {files.folder}: {error.strerror}. Results go to <model_root>/<dataset_id>/; choose "
            "another folder with --set model_root=FOLDER."
        ) from error


def _busy(files: RunFiles) -> InTraining:
    note = LockFile(files.lock).read()
    since = f" since {time.strftime('%H:%M', time.localtime(note['since']))}" if "since" in note else ""
    return InTraining(
        f"{files.expid} is being trained by process {note.get('process', '?')}{since}, in {files.folder}. Wait until "
        "it has ended, or give this run a name of its own: --name NAME."
    )


def _difference(prepared: Prepared) -> str:
    """In what the finished run of this name differs, as far as its record tells."""
    record = read_record(prepared.files.record)
    if record is None:
        return "with other parameters"
    then, now = (identity(params, {})["parameters"] for params in (record["params"], prepared.params))
    keys = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key) and key != "model_id"]
    told = (f"{key} {then.get(key)!r:.40} there, {now.get(key)!r:.40} here" for key in keys[:_SHOWN])
    return "; ".join(told) + ("; …" if len(keys) > _SHOWN else "")


def _taken(prepared: Prepared) -> Iterator[int]:
    """Numbers under which there is a run of this name."""
    return takewhile(lambda n: _exists(_files(prepared, n)) or _files(prepared, n).lock.exists(), count(1))


def _files(prepared: Prepared, number: int) -> RunFiles:
    return RunFiles(prepared.files.folder, prepared.expid if number == 1 else f"{prepared.expid}-{number}")
