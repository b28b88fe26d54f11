"""The service's bench: its peers say what ours says, and its figures are wrk's."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from qin_zoo.bench import peers, service
from qin_zoo.bench.latency import export_untrained, random_request
from qin_zoo.cli import main
from qin_zoo.errors import QinZooError
from qin_zoo.serving import Scorer


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("service") / "m.onnx"
    export_untrained("QIN_MicroLens_1M_x1", out, ["embedding_dim=8", "num_layers=1"])  # whose sizes are configured
    return out


@pytest.mark.parametrize("name", [*service.PEERS.values()])
def test_peers_give_the_scorer_s_scores(name, path, monkeypatch):
    monkeypatch.setenv(peers.FILE, str(path))
    scorer = Scorer(path)
    with TestClient(getattr(peers, name)()) as client:
        for seed, rows in enumerate((1, 7, 100)):
            asked = random_request(scorer, rows, 64, seed)
            context = {key: int(values[0]) for key, values in asked["context"].items()}
            asked = {key: np.asarray(asked[key]).tolist() for key in ("history", "candidates")} | {"context": context}
            answer = client.post("/score", json=asked)
            np.testing.assert_allclose(answer.json()["scores"], scorer.score(**asked), rtol=1e-6)


def test_without_wrk(monkeypatch):
    monkeypatch.setattr(service.shutil, "which", lambda name: None)
    with pytest.raises(QinZooError, match="needs wrk"):
        service.measure_service("QIN_sample")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt install wrk)")
def test_a_run(capsys):
    options = ["--candidates", "3", "--connections", "2", "--workers", "2", "--seconds", "1", "--rounds", "1"]
    small = ["--set", "embedding_dim=8", "--set", "num_layers=1"]
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "service", "QIN_MicroLens_1M_x1", *small, *options, "--json"])
    loads = json.loads(capsys.readouterr().out)["loads"]
    assert [load["service"] for load in loads] == [service.OURS, *service.PEERS]
    for load in loads:
        assert load["rate"] > 10
        assert 0 < load["p50"] <= load["p99"]
        assert load["rate"] * load["p50"] < 2 * 2  # two clients, one request each
        assert 0 < load["cpu"] < 1
