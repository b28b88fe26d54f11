"""What the tests of the HTTP service share: exports, settings, requests, and a service in a process of its own."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import REPOSITORY

from qin_zoo.serving import Scorer, bundle
from qin_zoo.serving.histories import Histories
from qin_zoo.serving.http.app import Service as Answering
from qin_zoo.serving.http.connection import Connection
from qin_zoo.serving.http.metrics import Metrics
from qin_zoo.serving.http.models import LiveModel, Models
from qin_zoo.serving.http.settings import Served, Settings

CONTEXT = {"likes_level": 3, "views_level": 4}
JSON = {"Content-Type": "application/json"}


def export(sample: Path, seed: int = 1) -> Path:
    """An exported QIN with random weights; 101 items. Do not write into it."""
    from qin_zoo.experiment.prepare import build_model, prepare
    from qin_zoo.export.export import export_model

    out = sample.parent / f"http_{seed}.onnx"
    if out.exists():  # made for another test module
        return out
    overrides = ["embedding_initializer=partial(nn.init.normal_, std=0.3)", f"seed={seed}"]
    prepared = prepare("QIN_sample", data=sample, overrides=overrides)
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    weights = out.with_suffix(".model")
    model.save_weights(str(weights))
    export_model(prepared, dataset, model, weights, out, echo=lambda line: None)
    return out


@pytest.fixture(scope="module", name="path")
def path_fixture(sample):
    """An export that the tests of a module share."""
    return export(sample)


@pytest.fixture(scope="module", name="scorer")
def scorer_fixture(path):
    return Scorer(path)


def rewrite(path: Path, change=lambda manifest: None, graph=lambda data: data) -> None:
    """An export sealed again, with another manifest and another graph."""
    data, manifest = bundle.read(path)
    begin, _ = bundle._last_field(data, path)
    manifest = {key: value for key, value in manifest.items() if key not in ("sha256", "format")}
    change(manifest)
    path.write_bytes(bundle.seal(graph(data[:begin]), manifest)[0])


def endless(path: Path) -> None:
    """Gives the graph of an export a loop without end."""
    import onnx
    from onnx import TensorProto, helper

    def graph(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        kinds = {"i": (TensorProto.INT64, []), "on": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, [])}
        inputs = [helper.make_tensor_value_info(name, *kinds[name]) for name in kinds]
        outputs = [helper.make_tensor_value_info(f"{name}_", *kinds[name]) for name in ("on", "x")]
        body = helper.make_graph(
            [helper.make_node("Identity", [name], [f"{name}_"]) for name in ("on", "x")], "body", inputs, outputs
        )
        for node in model.graph.node:
            node.output[:] = ["looped" if name == "score" else name for name in node.output]
        model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        model.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
        model.graph.node.append(helper.make_node("Loop", ["", "yes", "zero"], ["never"], body=body))
        model.graph.node.append(helper.make_node("Add", ["looped", "never"], ["score"]))
        return model.SerializeToString()

    rewrite(path, graph=graph)


def settings(path: Path, **changes) -> Settings:
    defaults = {
        "host": "127.0.0.1", "port": 0, "ids": "table", "workers": 1, "token": None, "max_body": 20_000,
        "max_candidates": 300, "max_history": 500, "max_embeddings": 50, "max_connections": 100, "max_waiting": 100,
        "timeout": 10.0, "grace": 5, "load_timeout": 60.0, "watch": None,
    }  # fmt: skip
    return Settings(**({"models": (Served("", path, 1.0),)} | defaults | changes))


def live_model(path: Path, **changes) -> LiveModel:
    chosen = settings(path, **changes)
    return LiveModel(chosen.models[0], chosen)


def request(number: int = 0, candidates: int = 5) -> dict:
    """One of many different requests."""
    history = [(number * 7 + k) % 100 + 1 for k in range(number % 70)]
    return {
        "history": history,
        "candidates": [(number * 3 + k) % 100 + 1 for k in range(candidates)],
        "context": {"likes_level": number % 11, "views_level": number * 5 % 11},
    }


class Local:
    """The service in a thread of this process, and a client of it, until the end of a ``with`` block."""

    def __init__(self, chosen: Settings, models: Models | None = None, histories: Histories | None = None):
        models = models or Models(chosen)
        used = lambda: [live.model_facts for live in models.all.values()]  # noqa: E731
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.answering = Answering(chosen, models, Metrics(1, [*models.all], used), histories)

    async def _begin(self) -> int:
        self._task = self._loop.create_task(self.answering.look_after())
        self._server = await self._loop.create_server(lambda: Connection(self.answering), "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._task.cancel()
        for connection in [*self.answering.connections]:
            connection.abort()
        self.answering.close()

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._do(self._begin())}", timeout=60)
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Service:
    """`qin-zoo serve` in a process of its own, until the end of a ``with`` block."""

    def __init__(self, path: Path, *options: object, token: str | None = None, port: int = 0):
        environment = {key: value for key, value in os.environ.items() if key != "QIN_ZOO_TOKEN"}
        environment |= {"OMP_NUM_THREADS": "1"} | ({} if token is None else {"QIN_ZOO_TOKEN": token})
        command = [sys.executable, "-m", "qin_zoo", "serve", path, "--port", port, *options]
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()

    def __enter__(self) -> "Service":
        line = self.wait_for("serving address=")
        self.url = re.search(r"address=(\S+)", line)[1]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def wait_for(self, text: str, seconds: float = 60, times: int = 1) -> str:
        """The last of the first ``times`` log lines with a text."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [line for line in self.log if text in line]
            if len(found) >= times:
                return found[times - 1]
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no line with {text!r} in {self.log}")

    def signal(self, name: str) -> None:
        self.process.send_signal(getattr(signal, name))

    def stop(self) -> int:
        """Exit status after SIGTERM."""
        self.signal("SIGTERM")
        return self.process.wait(30)

    def score(self, request: dict) -> httpx.Response:
        return self.client.post("/score", json=request)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str, headers: dict | None = None) -> float:
        """One figure of /metrics, for example ``qin_zoo_reloads_total{result="loaded"}``."""
        lines = self.client.get("/metrics", headers=headers).text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)

    def wait_for_metric(self, name: str, value: float) -> None:
        until = time.monotonic() + 20
        while self.metric(name) != value:
            assert time.monotonic() < until, f"{name} stays at {self.metric(name)}"


def equals(answer: httpx.Response, scorer: Scorer, asked: dict) -> bool:
    """Whether an answer is exactly that of a scorer, and names it."""
    found = answer.json()
    same = np.array_equal(np.array(found["scores"], np.float32), scorer.score(**asked))
    return same and found["model"]["fingerprint"] == scorer.manifest["sha256"]


def receive_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """The bytes of a request to /score."""
    lines = ["POST /score HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer_of(raw: bytes) -> tuple[int, dict]:
    """Status and JSON value of a raw answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
