"""Several processes that form a group, for tests."""

import multiprocessing
import os
import socket

import torch

CONTEXT = multiprocessing.get_context("fork")


def together(size, work, *args):
    """Runs ``work(*args)`` in several processes that form a group; what each returned, by rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    results = CONTEXT.Queue()

    def begin(rank):
        torch.set_num_threads(1)
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        results.put((rank, work(*args)))

    processes = [CONTEXT.Process(target=begin, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=90) for _ in processes)
    finally:
        for process in processes:
            process.join(1)
            process.kill()
    return [found[rank] for rank in range(size)]
