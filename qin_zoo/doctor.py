"""Whether what is at hand belongs together: `qin-zoo doctor`.

Each function looks at one thing and yields what it found, line by line; nothing is changed, and nothing is trained.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qin_zoo import __version__, threads
from qin_zoo.errors import QinZooError, first_line

Severity = Literal["ok", "note", "warning", "error"]
_LITTLE_SPACE = 2 << 30  # bytes; a run with its checkpoints may need as much
_PACKAGES = ("torch", "fuxictr", "numpy", "polars", "pyarrow", "scikit-learn", "onnxruntime", "captum", "optuna")


@dataclass(frozen=True)
class Remark:
    """Something looked at.

    Attributes:
        severity: ``error`` where a number would not be what it is called, ``warning`` where it may not.
        text: what was found, and how to mend it.
    """

    severity: Severity
    text: str


def look_at(path: Path | None) -> Iterator[Remark]:
    """What there is to say about a run's record, a data folder, an export or a store of results; None: the machine.

    Raises:
        QinZooError: it is none of these.
    """
    if path is None:
        yield from _machine()
    elif path.suffix == ".onnx":
        yield from _export(path)
    elif path.is_dir() and any((path / f"train{suffix}").exists() for suffix in (".parquet", ".csv", ".npz")):
        yield from _data(path)
    elif runs := _runs(path):
        for record in runs:
            yield from _run(record)
    elif path.is_dir() and any(path.glob("*/*.json")):
        yield from _store(path)
    else:
        raise QinZooError(
            f"{path}: expected a run's record (<expid>.json), a folder of runs or of data, an export (NAME.onnx) or a "
            "store of results; found none of them."
        )


def _machine() -> Iterator[Remark]:
    yield Remark("ok", f"qin-zoo {__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield Remark("ok", ", ".join(f"{name} {_version(name) or 'not installed'}" for name in _PACKAGES))
    yield from _requirements()
    count, machine = threads.cores(), os.cpu_count() or 1
    import torch

    from qin_zoo.models.precision import bfloat16_time

    yield Remark("ok", f"{count} of {machine} cores may be used; torch uses {torch.get_num_threads()} threads")
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        yield Remark("warning", "OMP_WAIT_POLICY is active: several trainings at once keep each other idle. Unset it.")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if load > count:
        yield Remark("note", f"{load:.1f} processes want to run on {count} cores: speeds measured now say little")
    times = bfloat16_time()
    text = f"the processor's products in bfloat16 take {times:.1f} times as long as in float32"
    yield Remark("note" if times > 2 else "ok", text)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Remark("ok", f"GPUs: {', '.join(gpus) or 'none that torch sees'}")
    free = shutil.disk_usage(Path.cwd()).free
    severity = "ok" if free > _LITTLE_SPACE else "warning"
    yield Remark(severity, f"{free / 2**30:.1f} GiB free where you are, {Path.cwd()}")


def _requirements() -> Iterator[Remark]:
    """Installed packages that do not fit what this one asks for."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("qin-zoo") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            yield Remark("error", f"{requirement} is missing. Install it: pip install '{requirement}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Remark("error", f"{requirement} is needed, {version} is installed. pip install '{requirement}'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runs(path: Path) -> list[Path]:
    """The records, whole or not, that a path names: itself, those in the folder, or a folder deeper, by dataset."""
    from qin_zoo.experiment.record import read_record

    files = [path, *sorted(path.glob("*.json")), *sorted(path.glob("*/*.json"))]
    files = [file for file in files if file.suffix == ".json" and file.is_file()]
    return [file for file in files if file.with_suffix(".model").exists() or read_record(file) is not None]


def _run(record_file: Path) -> Iterator[Remark]:
    """Whether a run's files are the ones its record was written for, and its data still what it was."""
    from qin_zoo.calibration import read_calibrator
    from qin_zoo.experiment.files import RunFiles
    from qin_zoo.experiment.record import environment, read_record
    from qin_zoo.files import LockFile, file_digest

    record, name = read_record(record_file), record_file.stem
    if record is None:
        yield Remark("error", f"{record_file}: damaged, or no record of a run. Its weights cannot be vouched for.")
        return
    files = RunFiles(record_file.parent, name)
    seed = record["params"].get("seed")
    yield Remark("ok", f"{record_file}: {record['model']} on {record['dataset_id']}, seed {seed}")
    for what, file in (("checkpoint", files.checkpoint), ("prediction", files.prediction)):
        expected = (record.get("sha256") or {}).get(what)
        if expected is None:
            yield Remark("note", f"{file.name}: the record has no hash of it")
        elif not file.exists():
            yield Remark("error" if what == "checkpoint" else "warning", f"{file} is gone; the run has to be repeated")
        elif file_digest(file) != expected:
            later = what == "prediction"  # `predict` writes it anew
            severity: Severity = "note" if later else "error"
            yield Remark(severity, f"{file} is not what the run wrote{', but written later' if later else ''}")
        else:
            yield Remark("ok", f"{file.name}: as the run wrote it")
    try:
        if read_calibrator(files.checkpoint) is not None:
            yield Remark("ok", "a calibration step that belongs to these weights")
    except QinZooError as error:
        yield Remark("error", str(error))
    if any(files.checkpoints.glob("step-*.json")):
        yield Remark("note", f"{files.checkpoints}: left of a run that was stopped; --resume goes on from it")
    if files.lock.exists():
        lock = LockFile(files.lock)
        if lock.acquire():
            lock.release()
        else:
            yield Remark("note", f"{name} is being trained by process {lock.read().get('process', '?')}")
    then, now = record["environment"], environment()
    for name in ("qin_zoo", "torch", "fuxictr"):
        if then.get(name) != now[name]:
            yield Remark("note", f"{name} {then.get(name)} then, {now[name]} now")
    yield from _data_of(record)


def _data_of(record: dict) -> Iterator[Remark]:
    """Whether the data files are those of a run, by their content."""
    from qin_zoo.config.blocks import ExperimentParams
    from qin_zoo.data.dataset import Dataset

    try:
        found = Dataset(ExperimentParams(record["params"]), "index").fingerprints()
    except QinZooError as error:
        yield Remark("warning", f"its data cannot be read: {error}")
        return
    for split, then in record["data"].items():
        now = found.get(split, {})
        for part in ("", "item_info", "user_info"):
            old, new = (d.get(part, {}) if part else d for d in (then, now))
            if old.get("blake2b") != new.get("blake2b"):
                what = f"the {split} split's {part}" if part else f"the {split} split"
                yield Remark("warning", f"{what}, {old.get('file')}, is not what the run was trained on")
    if found == record["data"]:
        yield Remark("ok", "its data files are what they were")


def _data(folder: Path) -> Iterator[Remark]:
    from qin_zoo.data.check import check_folder

    if not (folder / "train.parquet").exists():
        yield Remark("note", f"{folder}: named fields; they are checked while they are encoded, at the first run")
        return
    report = check_folder(folder)
    for finding in report.findings:
        place = finding.file + (f", {finding.column}" if finding.column else "")
        yield Remark(finding.severity, f"{place}: {finding.message}. {finding.mend}")
    if report.ok:
        yield Remark("ok", f"{folder}: keeps to its layout; `qin-zoo data check` says more")


def _export(path: Path) -> Iterator[Remark]:
    from qin_zoo.serving.bundle import read

    data, manifest = read(path)
    size = f"{len(data) / 2**20:.1f} MiB"
    yield Remark("ok", f"{path}: whole, SHA-256 {manifest['sha256'][:12]}…; {manifest.get('model', '?')}, {size}")
    if importlib.util.find_spec("onnxruntime") is None:
        yield Remark("warning", "onnxruntime is not installed: nothing can score it here. pip install onnxruntime")
        return
    from qin_zoo.serving.scorer import Scorer

    try:
        Scorer(path)
        yield Remark("ok", "onnxruntime loads it")
    except Exception as error:  # ONNX Runtime's
        yield Remark("error", f"onnxruntime does not load it: {first_line(error)}")


def _store(folder: Path) -> Iterator[Remark]:
    """Whether every result is whole and stands under its own name."""
    from qin_zoo.files import read_json
    from qin_zoo.results.entry import parse_entry
    from qin_zoo.results.store import Store

    store, whole = Store(folder), 0
    for file in sorted(folder.glob("*/*.json")):
        try:
            entry = parse_entry(read_json(file), str(file))
        except (OSError, ValueError, QinZooError) as error:
            yield Remark("error", str(error))
            continue
        if store.file(entry) != file:
            yield Remark("error", f"{file} holds what belongs in {store.file(entry).name}: it was changed or renamed")
        else:
            whole += 1
    yield Remark("ok", f"{folder}: {whole} results whole and under their own names")
