"""What the C library does with memory that has been freed."""

import ctypes
import subprocess
import sys

import pytest
import torch

from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.training import memory

FREED_BETWEEN = """
import torch
from qin_zoo.training import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

memory._MOST_FREE = 64 << 20
memory.keep_freed_memory()
blocks = [torch.ones(2_000_000) for _ in range(40)]  # of 8 MB
del blocks[:-1]  # one is left above them
kept = resident()
memory.tidy_memory(3)
between = resident()
memory.tidy_memory(4)
print(kept - between, between - resident())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="another C library")
def test_what_is_free_between_blocks_is_given_back_every_few_steps():
    done = subprocess.run([sys.executable, "-c", FREED_BETWEEN], capture_output=True, text=True, check=True)
    before, given_back = map(int, done.stdout.split())
    assert abs(before) < 10 << 20  # step 3: not looked at
    assert given_back > 200 << 20


TINY = """
import torch
from qin_zoo.training.memory import denormals_as_zero

torch.set_num_threads(2)
with denormals_as_zero():
    tiny = torch.full((1 << 22,), 3e-39)
    print(int((tiny * 0.9).count_nonzero()))
print(float(tiny[0] * 0.9))
"""


def test_numbers_below_the_smallest_normal_one_are_zero_for_all_threads():
    """In a process whose threads begin there; what comes after has them again."""
    done = subprocess.run([sys.executable, "-c", TINY], capture_output=True, text=True, check=True)
    within, after = map(float, done.stdout.split())
    assert within == 0
    assert after == pytest.approx(2.7e-39, rel=1e-6)


def test_a_run_counts_them_as_zero(sample, tmp_path):
    sizes = {"embedding_dim": 4, "max_len": 8, "batch_size": 512, "num_layers": 1, "epochs": 1, "metrics": ["AUC"]}
    prepared = prepare("QIN_sample", data=sample, overrides={**sizes, "model_root": str(tmp_path)})
    tiny, seen = torch.tensor(3e-39), []
    run_experiment(prepared, tmp_path, echo=lambda _: None, on_evaluation=lambda _: seen.append(float(tiny * 0.9)))
    assert seen
    assert set(seen) == {0}
    assert tiny * 0.9 > 0


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()
    memory.tidy_memory(4)
