"""Threads: as many as this process may use, waiting so that others can work."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from qin_zoo import threads

SHOW = "import os; from qin_zoo.threads import *; be_a_good_neighbour(); import torch; print(cores(), share(2), torch.get_num_threads(), os.environ.get('GOMP_SPINCOUNT'))"  # noqa: E501


def shown(command=(), **changes):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment |= {"PYTHONPATH": str(REPOSITORY), **changes}
    done = subprocess.run([*command, sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.slow
def test_what_the_environment_says_stays():
    assert shown(OMP_WAIT_POLICY="active", OMP_NUM_THREADS="1")[1:] == ["1", "1", "None"]
    assert shown(GOMP_SPINCOUNT="7")[3] == "7"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_affinity_counts():
    core = str(min(os.sched_getaffinity(0)))
    assert shown(("taskset", "-c", core)) == ["1", "1", "1", threads.SPINS]


@pytest.mark.parametrize(("limit", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64)])
def test_a_container_counts(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(threads, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(threads, "_asked_for", None)
    assert threads.cores() == expected
    assert threads.share(1000) == 1
