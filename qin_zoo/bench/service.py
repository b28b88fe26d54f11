"""The service under load, beside what one would write instead, in one run: requests a second, waiting and CPU time."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from qin_zoo.bench.latency import export_untrained, random_request
from qin_zoo.bench.peers import FILE
from qin_zoo.errors import QinZooError
from qin_zoo.serving.scorer import Scorer

CANDIDATES, CONNECTIONS, WORKERS = (1, 100, 1000), (1, 16, 64), (1, 2)
OURS = "qin-zoo serve"
PEERS = {"bare ASGI, orjson": "bare", "FastAPI": "with_fastapi"}
LITSERVE = "LitServe"  # where it is installed
_KINDS = 64  # different requests of each size
_READY = 120  # seconds for a service to answer
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
# wrk's script: the requests one after the other.
_SCRIPT = """local bodies, k = {%s}, 0
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
function request() k = k %% #bodies + 1; return wrk.format(nil, "/score", nil, bodies[k]) end
"""


@dataclass(frozen=True)
class Load:
    """A service under one load, the medians of some rounds.

    Attributes:
        service: its name.
        workers, connections, candidates: processes, clients, and items of a request.
        rate: answered requests a second.
        p50, p99: seconds from a request to its answer.
        cpu: seconds of processor time that all its processes take for a request; None where /proc does not tell.
    """

    service: str
    workers: int
    candidates: int
    connections: int
    rate: float
    p50: float
    p99: float
    cpu: float | None


def measure_service(
    expid: str,
    candidates: Iterable[int] = CANDIDATES,
    connections: Iterable[int] = CONNECTIONS,
    workers: Iterable[int] = WORKERS,
    *,
    seconds: float = 3,
    rounds: int = 3,
    overrides: Iterable[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> list[Load]:
    """Loads the service and its peers with the same random requests, in turn, histories of full length.

    Args:
        expid, overrides: an experiment on a dataset with an item table; its weights are untrained.
        candidates, connections, workers: numbers of them; the clients of connections ask without a pause.
        seconds: that each load lasts.
        rounds: in which all of them take turns.

    Raises:
        QinZooError: wrk or uvicorn is not installed, or a service does not answer.
    """
    candidates, connections, measured = [*candidates], [*connections], []
    names = [OURS, *PEERS, *([LITSERVE] if find_spec("litserve") else [])]
    if shutil.which("wrk") is None:
        raise QinZooError("this bench needs wrk, which makes the load: apt install wrk, or brew install wrk.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.onnx"
        _, _, max_len = export_untrained(expid, path, overrides)
        scorer = Scorer(path)
        scripts = {n: _script(scorer, n, max_len, Path(folder) / f"{n}.lua") for n in candidates}
        del scorer
        for count in workers:
            with ExitStack() as stack:
                running = {name: stack.enter_context(_started(name, path, count)) for name in names}
                for rows in candidates:
                    for clients in connections:
                        progress(f"{count} workers, {rows} candidates, {clients} connections")
                        found = {name: [] for name in running}
                        for _ in range(rounds):
                            for name, (process, port) in running.items():
                                found[name].append(_load(process, port, scripts[rows], clients, seconds))
                        for name, several in found.items():
                            medians = [None if None in values else median(values) for values in zip(*several)]
                            measured.append(Load(name, count, rows, clients, *medians))
    return measured


def _script(scorer: Scorer, rows: int, max_len: int, path: Path) -> Path:
    bodies = []
    for seed in range(_KINDS):
        asked = random_request(scorer, rows, max_len, seed)
        context = {name: np.asarray(values)[0].item() for name, values in asked["context"].items()}
        asked = {key: np.asarray(asked[key]).tolist() for key in ("history", "candidates")} | {"context": context}
        bodies.append(f"[=[{json.dumps(asked, separators=(',', ':'))}]=]")
    path.write_text(_SCRIPT % ",".join(bodies))
    return path


def _command(service: str, path: Path, workers: int) -> list[str]:
    """What starts a service, all but its port."""
    if service == OURS:
        return ["qin_zoo", "serve", str(path), "--workers", str(workers)]
    if service == LITSERVE:
        return ["qin_zoo.bench.lit", "--workers", str(workers)]
    peer = [f"qin_zoo.bench.peers:{PEERS[service]}", "--factory", "--workers", str(workers)]
    return ["uvicorn", *peer, "--no-access-log", "--log-level", "error"]


@contextmanager
def _started(service: str, path: Path, workers: int) -> Iterator[tuple[subprocess.Popen, int]]:
    """A service that answers, and its port, until the end of the block."""
    command, environment = _command(service, path, workers), {**os.environ, FILE: str(path), "OMP_NUM_THREADS": "1"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", *command, "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            until = time.monotonic() + _READY
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    last = log.read().strip().rpartition("\n")[2]
                    raise QinZooError(f"{service} does not answer. {last}".strip())
                time.sleep(0.1)
            yield process, port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    request = Request(f"http://127.0.0.1:{port}/score", b"{}", {"Content-Type": "application/json"})
    try:
        urlopen(request, timeout=5)
    except URLError as error:
        return hasattr(error, "code")  # an HTTP error is an answer
    except OSError:
        return False
    return True


def _load(process, port: int, script: Path, connections: int, seconds: float) -> tuple:
    """Requests a second, seconds of which half and 99 of 100 take less, and processor seconds of one."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", "30s", "--latency"]
    before = _cpu(process.pid)
    done = subprocess.run(
        [*command, "-s", str(script), f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True
    )
    after, text = _cpu(process.pid), done.stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise QinZooError(f"not every request was answered: {text.strip()}")
    number = int(re.search(r"(\d+) requests in", text)[1])
    quantiles = re.findall(r"(?:50|99)%\s+([\d.]+)(\w+)", text)
    p50, p99 = (float(value) * _UNITS[unit] for value, unit in quantiles)
    cpu = None if before is None or after is None else (after - before) / number
    return float(re.search(r"Requests/sec:\s+(\S+)", text)[1]), p50, p99, cpu


def _cpu(pid: int) -> float | None:
    """Processor seconds of a process and those it has started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
        return own + sum(_cpu(child) or 0.0 for child in children)
    except OSError:
        return None
