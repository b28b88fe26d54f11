"""Small JSON files from anywhere: what is none is said to be none, however it is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qin_zoo.calibration import calibration_file, read_calibrator
from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.experiment.record import read_record
from qin_zoo.files import LockFile, parse_json, read_json, replace_file, replace_text
from qin_zoo.results.probes import read_probe
from qin_zoo.serving.bundle import _KEY, _field, _manifest

DEEP = ["[" * 100_000, '{"a":' * 100_000, '{"step": ' + "[" * 100_000, "[" * 990 + "]" * 990]


@pytest.mark.parametrize("text", DEEP)
def test_nested_too_deep(text, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(text)
    if not text.endswith("]"):
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(text)
    assert read_record(file) is None
    assert read_probe(tmp_path / "x.json", {"params": {}, "data": {}}) is None
    calibration_file(tmp_path / "x.model").write_text(text)
    with pytest.raises(CheckpointError, match="holds no calibration step"):
        read_calibrator(tmp_path / "x.model")
    calibration_file(tmp_path / "x.model").write_text('{"step": ' + text + ', "weights_sha256": ""}')
    with pytest.raises(CheckpointError, match="holds no calibration step"):
        read_calibrator(tmp_path / "x.model")
    with pytest.raises(QinZooError, match="expected the manifest"):
        _manifest(_field(1, _KEY) + _field(2, text.encode()), memoryview(b""), tmp_path / "x.onnx")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(OSError, match="it is no file"):
        read_json(tmp_path / "x.json")
    assert read_record(tmp_path / "x.json") is None


@pytest.mark.parametrize("name", ["pipe", "stdout"])
def test_no_file_takes_the_place_of_a_device(name, tmp_path):
    """As root, `--csv /dev/full` left a file there, for every program of the machine."""
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/proc/self/fd/1")
    before = path.lstat()
    with pytest.raises(QinZooError, match="it is a device or a pipe"), replace_file(path):
        raise AssertionError("nothing is written")
    assert os.path.samestat(path.lstat(), before)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_full_disk_is_one_message(tmp_path):
    lock = LockFile(tmp_path / "x.lock")
    assert lock.acquire()
    lock._file.close()
    lock._file = open("/dev/full", "a", encoding="utf-8")
    with pytest.raises(QinZooError, match=r"Cannot write .*x\.lock: "):
        lock.write({"process": 1})
    lock.release(remove=True)
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-m", "qin_zoo", "info", "QIN"]
        ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "Error: No space left on device. What was to be written there is not whole.\n"


def test_only_what_the_disk_refuses_is_said_to_be_its_fault(tmp_path):
    with pytest.raises(RuntimeError, match=r"^out of memory$"), replace_file(tmp_path / "x"):
        raise RuntimeError("out of memory")
    for failing in ("/dev/full", "/nowhere/x"):
        with pytest.raises(QinZooError, match="free space"), replace_file(tmp_path / "x"):
            torch.save(torch.zeros(100_000), failing)
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be(tmp_path):
    """Behind a file as if it were a folder; under a name that is too long for another to stand beside it."""
    (tmp_path / "x").write_text("before")
    for place in (tmp_path / "x" / "y", tmp_path / ("z" * 250)):
        with pytest.raises(QinZooError, match=r"Could not write .*: (File exists|File name too long)"):
            replace_text(place, "after")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
