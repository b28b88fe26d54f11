"""A new export takes the place of the old one while requests run, and a bad one does not."""

import os
import shutil
import threading
import time

import httpx
import numpy as np
import pytest
from http_service import Service, endless, equals, export, request, rewrite

pytest.importorskip("onnxscript")

from qin_zoo.serving import Scorer


@pytest.fixture(scope="module")
def exports(sample):
    """Two exports of one experiment with different weights."""
    return [export(sample, seed) for seed in (1, 2)]


@pytest.fixture
def path(exports, tmp_path):
    """A file that a test may replace."""
    return shutil.copy(exports[0], tmp_path / "m.onnx")


def replace(path, source) -> None:
    """As an export does it: at one stroke."""
    temporary = path.with_suffix(".tmp")
    shutil.copy(source, temporary)
    os.replace(temporary, path)


class Load:
    """Clients that ask without a pause; every answer must be exactly that of one of the scorers."""

    def __init__(self, service: Service, scorers: list[Scorer], clients: int = 4):
        self.service, self.ended, self.wrong = service, threading.Event(), []
        self.requests = [request(number, 20) for number in range(20)]
        self.scores = {s.manifest["sha256"]: [s.score(**asked) for asked in self.requests] for s in scorers}
        self.count = dict.fromkeys(self.scores, 0)
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.service.url, timeout=20) as client:
            while not self.ended.is_set():
                number = (number + 1) % len(self.requests)
                try:
                    found = client.post("/score", json=self.requests[number]).json()
                    fingerprint = found["model"]["fingerprint"]
                    if not np.array_equal(np.float32(found["scores"]), self.scores[fingerprint][number]):
                        raise ValueError(found)
                    self.count[fingerprint] += 1
                except Exception as error:
                    self.wrong.append(error)
                    return

    def wait_for(self, fingerprint: str, more: int = 20) -> None:
        until, want = time.monotonic() + 20, self.count[fingerprint] + more
        while self.count[fingerprint] < want and not self.wrong:
            assert time.monotonic() < until
            time.sleep(0.01)


def children(service: Service) -> list[int]:
    """Processes that a service has started."""
    pid = service.process.pid
    tasks = os.listdir(f"/proc/{pid}/task")
    lists = (open(f"/proc/{pid}/task/{task}/children").read() for task in tasks)
    return [int(child) for found in lists for child in found.split()]


class TestReload:
    def test_under_load(self, exports, path):
        """Back and forth, and a bad file between: no request is dropped, each is answered by one model."""
        scorers = [Scorer(export) for export in exports]
        names = [scorer.manifest["sha256"] for scorer in scorers]
        with Service(path) as running, Load(running, scorers) as load:
            load.wait_for(names[0])
            for number in range(1, 5):
                replace(path, exports[number % 2])
                running.signal("SIGHUP")
                running.wait_for("INFO reload name=", times=number)
                load.wait_for(names[number % 2])
                path.write_bytes(exports[0].read_bytes()[:-100])
                running.signal("SIGHUP")
                running.wait_for("ERROR reload refused", times=number)
                load.wait_for(names[number % 2])
            assert running.metric('qin_zoo_reloads_total{result="loaded"}') == 4
            assert running.metric('qin_zoo_reloads_total{result="refused"}') == 4
            load.ended.set()
        assert load.wrong == []

    def test_refusals_leave_the_old_model(self, exports, path):
        scorer, good = Scorer(exports[0]), exports[0].read_bytes()
        with Service(path) as running:
            tampered = bytearray(good)
            tampered[len(good) // 2] ^= 1
            for number, content in enumerate((b"", b"PK\x03\x04 a zip file", bytes(tampered), good[:1000]), start=1):
                path.write_bytes(content)
                running.signal("SIGHUP")
                running.wait_for("ERROR reload refused, the old model stays", times=number)
                assert equals(running.score(request(4)), scorer, request(4))
            path.unlink()
            running.signal("SIGHUP")
            assert "No such file" in running.wait_for("reload refused", times=5)
            path.write_bytes(good)
            running.signal("SIGHUP")
            running.wait_for("reload: the file is the same")
            assert running.metric('qin_zoo_reloads_total{result="refused"}') == 5
            assert running.stop() == 0

    @pytest.mark.slow
    def test_no_end(self, exports, path):
        """A load that does not end is ended, by its limit or with the service; meanwhile requests are answered."""
        scorer = Scorer(exports[0])
        with Service(path, "--load-timeout", 3) as running:
            endless(path)
            running.signal("SIGHUP")
            while not children(running):
                assert equals(running.score(request(4)), scorer, request(4))
            running.wait_for("within 3 seconds", seconds=30)
            assert children(running) == []
            replace(path, exports[1])
            running.signal("SIGHUP")
            running.wait_for("INFO reload name=")
            assert equals(running.score(request(4)), Scorer(exports[1]), request(4))
        with Service(path, "--load-timeout", 600) as running:
            endless(path)
            running.signal("SIGHUP")
            while not (left := children(running)):
                time.sleep(0.01)
            running.client.close()
            begin = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - begin < 5
            while any(os.path.exists(f"/proc/{child}") for child in left):  # init has to see that they ended
                assert time.monotonic() - begin < 20
                time.sleep(0.01)

    @pytest.mark.slow
    def test_no_end_from_the_start(self, path):
        endless(path)
        with pytest.raises(AssertionError, match="was not loaded and warmed up within 2 seconds"):
            Service(path, "--load-timeout", 2).__enter__()

    def test_killed_while_it_tries(self, exports, path):
        """The process that tries a file ends with the service, however that ends."""
        with Service(path) as running:
            endless(path)
            running.signal("SIGHUP")
            while not (left := children(running)):
                time.sleep(0.01)
            running.signal("SIGKILL")
            until = time.monotonic() + 20
            while any(os.path.exists(f"/proc/{child}") for child in left):
                assert time.monotonic() < until
                time.sleep(0.05)

    def test_another_dataset(self, exports, path):
        """Clients go on as before when they would be refused or misread."""
        scorer = Scorer(exports[0])
        with Service(path) as running:
            rewrite(path, lambda m: m["inputs"]["context"].append({"name": "age", "type": "numeric", "default": None}))
            running.signal("SIGHUP")
            assert "context: age must be given" in running.wait_for("ERROR reload refused")
            assert equals(running.score(request(4)), scorer, request(4))

    def test_watch(self, exports, path):
        with Service(path, "--watch", 0.1) as running:
            replace(path, exports[1])
            running.wait_for("INFO reload name=")
            assert equals(running.score(request(4)), Scorer(exports[1]), request(4))
            path.unlink()
            time.sleep(0.3)
            assert running.score(request()).status_code == 200
            replace(path, exports[0])
            running.wait_for("INFO reload name=", times=2)
            assert equals(running.score(request(4)), Scorer(exports[0]), request(4))
            assert running.metric('qin_zoo_reloads_total{result="refused"}') == 0
