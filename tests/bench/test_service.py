"""The service's bench: its peers say what ours says, and its figures are wrk's."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest

pytest.importorskip("onnxruntime")
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
    lit = [service.LITSERVE] * (find_spec("litserve") is not None)
    assert [load["service"] for load in loads] == [service.OURS, *service.PEERS, *lit]
    for load in loads:
        assert load["rate"] > 10
        assert 0 < load["p50"] <= load["p99"]
        assert load["rate"] * load["p50"] < 2 * 2  # two clients, one request each
        assert 0 < load["cpu"] < 1


def test_sizes_come_from_the_data_where_the_configuration_leaves_them_out(sample, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(sample)
    monkeypatch.chdir(tmp_path)
    export_untrained("QIN_sample", tmp_path / "m.onnx", ["embedding_dim=8", "num_layers=1"])
    assert Scorer(tmp_path / "m.onnx").items == len(pl.read_parquet(sample / "item_info.parquet"))
    (tmp_path / "data" / "sample").unlink()
    with pytest.raises(QinZooError, match="qin-zoo data sample"):
        export_untrained("QIN_sample", tmp_path / "m.onnx", ["embedding_dim=8", "num_layers=1"])


@pytest.mark.parametrize(
    ("name", "chunk", "layers"),
    [
        ("QIN", 1024, "num_layers=1"),
        pytest.param("Transformer_DCN", 256, "transformer_layers=1", marks=pytest.mark.slow),
    ],
)
def test_what_is_wide_is_scored_in_small_parts(name, chunk, layers, tmp_path, monkeypatch):
    """Of a Transformer each candidate has 64 items of its own; both give what ONNX Runtime gives in one piece."""
    path = tmp_path / "m.onnx"
    export_untrained(f"{name}_MicroLens_1M_x1", path, ["embedding_dim=32", layers])
    scorer = Scorer(path)
    assert scorer.manifest["chunk"] == chunk
    asked = random_request(scorer, chunk + 3, 64, 0)
    shared, columns, _, _ = scorer.requests.feed(asked["history"], asked["candidates"], asked["context"], None)
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    feed = {i.name: (shared | columns)[i.name] for i in session.get_inputs()}
    parts, run = [], scorer._run
    monkeypatch.setattr(scorer, "_run", lambda part: parts.append(len(part["candidates"])) or run(part))
    np.testing.assert_allclose(scorer.score(**asked), session.run(None, feed)[0], rtol=1e-5, atol=1e-7)
    assert parts == [chunk, 3]
