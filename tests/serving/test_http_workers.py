"""Several processes on one port: what they share, what they count, crashes, reloads and the end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from conftest import REPOSITORY
from http_service import (
    Service,
    answer_of,
    equals,
    export,
    path_fixture,  # noqa: F401
    post,
    receive_all,
    request,
    scorer_fixture,  # noqa: F401
)

pytest.importorskip("onnxscript")

from qin_zoo.serving import Scorer

if not hasattr(os, "fork"):
    pytest.skip("workers are forked", allow_module_level=True)


def processes(service: Service) -> set[int]:
    """The workers' process ids, as the kernel has them."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(service.process.pid)], capture_output=True, text=True
    ).stdout.split()
    return set(map(int, found))


def ask_anew(service: Service, number: int) -> httpx.Response:
    """On a connection of its own, so that it may meet any worker."""
    return httpx.post(f"{service.url}/score", json=request(number, 7), timeout=20)


def test_all_of_them_answer_and_are_counted(path, scorer):
    with Service(path, "--workers", 2) as running:
        workers = processes(running)
        assert len(workers) == 2
        asked, idle = 0, True
        while idle and asked < 6000:  # the kernel counts the time of the processor in hundredths of a second
            for number in range(60):
                assert equals(ask_anew(running, number), scorer, request(number, 7))
            asked += 60
            idle = not all(running.metric(f'process_cpu_seconds_total{{worker="{number}"}}') for number in range(2))
        assert not idle
        for _ in range(5):  # whichever is asked
            lines = httpx.get(f"{running.url}/metrics").text.splitlines()
            assert f'qin_zoo_requests_total{{endpoint="/score",status="200"}} {asked}.0' in lines
            assert f"qin_zoo_request_seconds_count {asked}.0" in lines
            assert f"qin_zoo_candidates_total {asked * 7}.0" in lines
        running.client.close()
        assert running.stop() == 0
        running.wait_for("INFO stopped")
        assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_one_that_crashes_is_replaced(path, scorer):
    with Service(path, "--workers", 2) as running:
        before = processes(running)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        running.wait_for("ERROR a worker ended, another takes its place worker=")
        until = time.monotonic() + 20
        while len(after := processes(running) - {killed}) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert len(after & before) == 1
        for number in range(40):  # who came meanwhile has waited
            assert equals(ask_anew(running, number), scorer, request(number, 7))
        assert running.stop() == 0


def test_reload_reaches_all(sample, tmp_path):
    path = shutil.copy(export(sample), tmp_path / "m.onnx")
    new = export(sample, 2)
    with Service(path, "--workers", 2) as running:
        shutil.copy(new, tmp_path / "new.onnx")
        os.replace(tmp_path / "new.onnx", path)
        running.signal("SIGHUP")
        running.wait_for("INFO reload name=", times=2)
        scorer = Scorer(new)
        for number in range(40):
            assert equals(ask_anew(running, number), scorer, request(number, 7))
        assert running.metric('qin_zoo_reloads_total{result="loaded"}') == 2
        # One that takes another's place has the file of now, not of the start.
        os.kill(min(processes(running)), signal.SIGKILL)
        running.wait_for("INFO reload name=", times=3)
        for number in range(40):
            assert equals(ask_anew(running, number), scorer, request(number, 7))


def test_they_end_with_their_parent(path):
    with Service(path, "--workers", 2) as running:
        workers = processes(running)
        running.signal("SIGKILL")
        until = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in workers):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_port_that_others_share_is_refused(path):
    """With SO_REUSEPORT two services could have it, and half of the requests each."""
    with Service(path, "--workers", 2) as running:
        command = [sys.executable, "-m", "qin_zoo", "serve", str(path), "--workers", "2", "--port", str(running.port)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="no /proc/PID/smaps_rollup")
def test_the_item_table_is_there_once(path, tmp_path):
    """A table of 77 MB, of which no worker has pages of its own: what it has is Python's, twenty or so."""
    import onnx
    from http_service import rewrite
    from onnx import numpy_helper

    large = shutil.copy(path, tmp_path / "large.onnx")
    rows = 300_000

    def graph(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        (table,) = (t for t in model.graph.initializer if tuple(t.dims)[:1] == (101,) and len(t.dims) == 2)
        wide = np.resize(numpy_helper.to_array(table), (rows, table.dims[1]))
        table.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(wide), table.name))
        for node in model.graph.node:
            for attribute in node.attribute:
                assert attribute.name != "bound"
        return model.SerializeToString()

    rewrite(large, lambda manifest: None, graph)
    size = large.stat().st_size
    assert size > 70e6
    with Service(large, "--workers", 2) as running:
        for number in range(20):
            assert ask_anew(running, number).status_code == 200
        own = []
        for pid in processes(running):
            lines = open(f"/proc/{pid}/smaps_rollup").read().splitlines()
            found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
            own.append(1024 * (found["Private_Dirty"] + found["Private_Clean"]))
    assert max(own) < size / 2


def test_idle_clients_are_told(path):
    """As by one process: what is sent within the last seconds is answered."""
    with Service(path, "--workers", 2) as running:
        with httpx.Client(base_url=running.url) as client:
            assert client.post("/score", json=request()).status_code == 200
            running.signal("SIGTERM")
            time.sleep(0.3)
            answer = client.post("/score", json=request())
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        running.client.close()
        assert running.process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", running.port), timeout=5)


def test_nobody_is_let_in_at_the_end(path):
    """As with one process: who connects while one of them still answers is refused at once, and none waits in vain."""
    body = json.dumps(request()).encode()
    with Service(path, "--workers", 2) as running:
        running.client.close()
        with running.connect() as connection:
            connection.sendall(post(body[:10], length=len(body)))
            time.sleep(0.3)
            running.signal("SIGTERM")
            time.sleep(0.3)
            for _ in range(8):  # whichever worker's turn it is
                with pytest.raises(ConnectionRefusedError):
                    running.connect()
            connection.sendall(body[10:])
            assert answer_of(receive_all(connection))[0] == 200
        assert running.process.wait(30) == 0
