"""How many threads this process may use, and that they do not spin in the way of others.

OpenMP's threads wait for the next piece of work by spinning. Beside other processes on the same cores that keeps the
work itself waiting. Measured on two cores, 60 steps of QIN_sample with two threads: four at once took 31 to 39 s each,
with the short spin of :data:`SPINS` 5 to 7 s, with one thread each 5 s; one alone 1.9 s, with the short spin 2.4 s.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

SPINS = "1000"  # turns of GNU OpenMP's waiting loop before a thread sleeps
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_asked_for = os.environ.get("OMP_NUM_THREADS")


def be_a_good_neighbour() -> None:
    """Sets how OpenMP's threads wait, and how many there are where a container has fewer cores than the machine.

    It must be called before torch is imported; what the environment says already stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if _asked_for is None and cores() < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(cores())


def cores() -> int:
    """Cores that this process may use: the machine's, less what its affinity or its container leaves out."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return count


def share(processes: int) -> int:
    """Threads for each of several processes: ``OMP_NUM_THREADS`` where it was set, else an equal part of the cores."""
    if _asked_for is not None and _asked_for.isdecimal() and int(_asked_for) > 0:
        return int(_asked_for)
    return max(1, cores() // processes)
