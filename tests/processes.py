"""Processes of their own for tests: one that may be killed, and several that form a group.

They come from a server that has imported everything and done nothing yet. A process forked from the one that runs the
tests would inherit the locks of its threads, polars' among them, and now and then wait for one of them for ever.
"""

import multiprocessing
import os
import socket
import sys

import cloudpickle  # functions within tests, which pickle cannot send
import torch

from qin_zoo.plugins import MODULE_PREFIX

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["qin_zoo.study.execute", "qin_zoo.tuning.tuner", "qin_zoo.data.importers"])


def start(work, *args):
    """A process that runs ``work(*args)``, here and with this process's environment."""
    process = CONTEXT.Process(target=_run, args=(_packed(work, args), dict(os.environ), os.getcwd()))
    process.start()
    return process


def _packed(work, args):
    for name, module in sys.modules.items():
        if name.startswith(MODULE_PREFIX):  # of a plugin: known to this process only
            cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps((work, args))


def _run(call, environment, folder):
    work, args = _prepare(call, environment, folder)
    work(*args)


def _prepare(call, environment, folder):
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    return cloudpickle.loads(call)


def together(size, work, *args):
    """Runs ``work(*args)`` in several processes that form a group; what each returned, by rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ends = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    call = _packed(work, args)
    processes = [
        CONTEXT.Process(target=_member, args=(call, dict(os.environ), os.getcwd(), rank, size, port, theirs))
        for rank, (_, theirs) in enumerate(ends)
    ]
    for process, (_, theirs) in zip(processes, ends):
        process.start()
        theirs.close()
    try:
        assert all(ours.poll(90) for ours, _ in ends), "a process of the group says nothing"
        return [cloudpickle.loads(ours.recv_bytes()) for ours, _ in ends]
    finally:
        for process in processes:
            process.join(1)
            process.kill()


def _member(call, environment, folder, rank, size, port, out):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})
    work, args = _prepare(call, environment, folder)
    out.send_bytes(cloudpickle.dumps(work(*args)))
