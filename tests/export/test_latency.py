"""`qin-zoo bench latency`, on a small model: what it measures is real, how fast it is is not tested."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.bench.latency import Latency, draw_latency
from qin_zoo.cli import build_app
from qin_zoo.cli.bench import print_latency
from qin_zoo.errors import ConfigError

SMALL = ("embedding_dim=8", "num_layers=1", "max_len=8")


@pytest.mark.slow
def test_command(tmp_path):
    picture = tmp_path / "latency.png"
    settings = [argument for value in SMALL for argument in ("--set", value)]
    counts = ["--candidates", "1", "--candidates", "20", "--threads", "1", "--requests", "6"]
    arguments = ["bench", "latency", *counts, *settings, "--picture", str(picture), "--json"]
    result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
    found = json.loads(result.stdout)["requests"]
    assert [(m["model"], m["candidates"]) for m in found] == [
        ("exported", 1), ("plain", 1), ("exported", 20), ("plain", 20),
    ]  # fmt: skip
    assert all(0 < m["p50"] <= m["p95"] <= m["p99"] for m in found)
    assert all(m["difference"] < 1e-4 for m in found if m["model"] == "plain")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_table(capsys):
    fast, slow = Latency("exported", 1, 100, 9, 0.005, 0.006, 0.007), Latency("plain", 1, 100, 5, 0.1, 0.2, 0.3, 1e-7)
    print_latency([fast, slow], "a title")
    shown = capsys.readouterr().out
    assert "5.00" in shown
    assert "20.0 ×" in shown
    assert "1e-07 apart" in shown


def test_only_the_exported_model(tmp_path, capsys):
    fast = [Latency("exported", n, 100, 9, 0.005, 0.006, 0.007) for n in (1, 2)]
    print_latency(fast, "a title")
    assert "×" not in capsys.readouterr().out
    draw_latency(fast, tmp_path / "a.png", "a title")


def test_no_item_table():
    result = CliRunner().invoke(build_app(), ["bench", "latency", "QIN_tiny_seq"])
    assert isinstance(result.exception, ConfigError)
    assert "has no item table" in str(result.exception)
