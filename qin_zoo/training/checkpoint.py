"""Checkpoints of a training: whole or not there, checked when they are read, the last two kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qin_zoo.errors import first_line
from qin_zoo.files import discard_leftovers, file_digest, replace_file, replace_text

_SCHEMA = 1
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    Attributes:
        step: optimiser batches behind it.
        facts: JSON values: position, early stopping, evaluations so far, parameters, data.
        tensors: nested dictionaries and lists of tensors and numbers: weights, optimiser, random states.
    """

    step: int
    facts: dict[str, Any]
    tensors: dict[str, Any]


class CheckpointStore:
    """A folder of checkpoints.

    A checkpoint is two files: the tensors, then a JSON file that holds their checksum and one of itself. Either file
    is written beside its place, flushed to the disk and renamed, so a checkpoint without a whole JSON file does not
    exist. Tensors are read with ``weights_only``: a file can make no code run.

    Args:
        folder: where they lie; made when the first one is saved.
        warn: receives a message for each damaged checkpoint that is passed over.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = print) -> None:
        self.folder = Path(folder)
        self._warn = warn
        self._old: set[int] = set()
        self._whole: dict[int, tuple] = {}  # step -> its files' state when they were last known to be whole

    def save(self, checkpoint: Checkpoint) -> None:
        """Adds a checkpoint and lets go of all but the last two that are undamaged.

        Raises:
            QinZooError: it could not be written; the checkpoints that were there still are.
        """
        tensors = self._tensors(checkpoint.step)
        with replace_file(tensors) as temporary:
            with open(temporary, "wb") as file:
                torch.save(checkpoint.tensors, file)
            digest = file_digest(temporary)
        body = {"schema_version": _SCHEMA, "step": checkpoint.step, "tensors": digest, "facts": checkpoint.facts}
        replace_text(self._facts(checkpoint.step), json.dumps({"digest": _digest(body), **body}))
        self._whole[checkpoint.step] = self._state(checkpoint.step)
        old, self._old = self._old - {checkpoint.step}, set()
        kept: list[int] = []
        for step in reversed(self._steps()):
            if step not in old and len(kept) < _KEPT and self._is_whole(step):
                kept.append(step)
            else:
                self._facts(step).unlink(missing_ok=True)  # first: without it there is no checkpoint
                self._tensors(step).unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """Whether there is no checkpoint, not even a damaged one."""
        return not self._steps()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is undamaged; None where there is none."""
        for step in reversed(self._steps()):
            try:
                return self._read(step)
            except Exception as error:  # torch raises many kinds for damaged or foreign files
                self._warn(f"{self._facts(step)} is damaged ({first_line(error)}): passed over for the one before it.")
        return None

    def clear(self) -> None:
        """Deletes every checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, resume: bool) -> None:
        """Deletes what writers that were killed have left.

        Args:
            resume: whether the checkpoints that are there shall be used; otherwise the first new one replaces them.
        """
        self._old = set() if resume else set(self._steps())
        discard_leftovers(self.folder)
        for tensors in self.folder.glob("step-*.pt"):
            if not tensors.with_suffix(".json").exists():
                tensors.unlink(missing_ok=True)

    def _read(self, step: int) -> Checkpoint:
        facts = self._verified(step)
        # Mapped, as the tables of a training may leave no room for a copy: who takes a tensor over copies it.
        tensors = torch.load(self._tensors(step), map_location="cpu", weights_only=True, mmap=True)
        return Checkpoint(step, facts, tensors)

    def _verified(self, step: int) -> dict[str, Any]:
        """The facts of a checkpoint whose checksums are right; raises whatever a damaged file makes it raise."""
        record = json.loads(self._facts(step).read_text(encoding="utf-8"))
        digest = record.pop("digest")
        if digest != _digest(record):
            raise ValueError("its checksum does not fit")
        if record["schema_version"] != _SCHEMA:
            raise ValueError(f"its version is {record['schema_version']}, expected {_SCHEMA}")
        tensors = self._tensors(step)
        if file_digest(tensors) != record["tensors"]:
            raise ValueError(f"the checksum of {tensors.name} does not fit")
        return record["facts"]

    def _is_whole(self, step: int) -> bool:
        """Whether a checkpoint is undamaged; its files are read unless they are as they were when that was known."""
        if self._whole.get(step) != self._state(step):
            try:
                self._verified(step)
            except Exception:  # as in latest()
                return False
            self._whole[step] = self._state(step)
        return True

    def _state(self, step: int) -> tuple:
        stats = [path.stat() for path in (self._facts(step), self._tensors(step)) if path.exists()]
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)

    def _steps(self) -> list[int]:
        names = (path.stem.removeprefix("step-") for path in self.folder.glob("step-*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _facts(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.json"

    def _tensors(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
