"""Several processes on this machine for one training: what ``torchrun`` does, from within."""

from __future__ import annotations

import os
import sys
import uuid

from qin_zoo import threads
from qin_zoo.errors import QinZooError


def is_launched() -> bool:
    """Whether this process is one of several already."""
    return "WORLD_SIZE" in os.environ


def launch(devices: int, argv: list[str]) -> int:
    """Runs ``qin-zoo argv…`` in several processes, which form a group; returns the exit status.

    Args:
        devices: number of processes, one for each GPU, or sharing the CPU.
        argv: arguments, without the one that asked for several processes.

    Raises:
        QinZooError: they cannot be started.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["OMP_NUM_THREADS"] = str(threads.share(devices))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "qin_zoo", *argv)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return max(code if code > 0 else 128 - code for code in codes)  # negative: killed by that signal
    except SignalException as error:
        return 128 + int(error.sigval)
    except (RuntimeError, OSError) as error:
        raise QinZooError(f"{devices} processes could not be started: {error}") from error
    return 0
