"""What `qin-zoo bench gpu` measures and writes, on the CPU; how fast it is is not tested."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, VOCAB, item_table_feature_map
from typer.testing import CliRunner

from qin_zoo.bench.gpu import BOUNDS, EXPERIMENTS, RandomRows, Setting, check_gpu, differences, measure, profile
from qin_zoo.bench.report import write_gpu_table
from qin_zoo.cli import build_app
from qin_zoo.data.feed import DeviceResident
from qin_zoo.experiment.prepare import build_model

SMALL = ("batch_size=64", "embedding_dim=8", "num_layers=1", "max_len=8")
EXPID = "QIN_MicroLens_1M_x1"


def test_random_rows_are_visited_once_an_epoch_and_the_same_where_they_are_resident():
    loaders = [RandomRows(item_table_feature_map(VOCAB, 8), 1000, 300, 5, drawn=400) for _ in range(2)]
    assert len(loaders[0]) == 4
    for _ in range(2):
        seen = []
        for got, rows in zip(DeviceResident(loaders[0], torch.device("cpu")), loaders[1].next_batches(), strict=True):
            seen += rows.tolist()
            want = loaders[1].batch(rows)
            assert torch.equal(got.item_ids, want.item_ids)
            assert torch.equal(got.rows["label"], want.rows["label"])
        assert sorted(seen) == list(range(1000))
    first, again = (loaders[0].batch(np.array([row])) for row in (7, 407))
    assert torch.equal(first.item_ids, again.item_ids)


@pytest.mark.parametrize("precision", ["fp32"])  # bf16's products of a card's size take a CPU minutes
def test_a_setting(precision):
    found = measure(Setting(EXPID, precision, False), -1, 60, 0, 300, SMALL)
    assert found["steps"] == 5
    assert found["epoch_seconds"] == pytest.approx(300 / found["rows_per_second"])
    assert found["step_seconds"] * 5 == pytest.approx(found["epoch_seconds"])
    assert found["logits"] <= (1e-6 if precision == "fp32" else BOUNDS["bf16"])
    assert (found["gradients"] > 1e-5) == (precision == "bf16")
    assert min(found[key] for key in ("flops", "product_rate", "memory_rate", "peak_bytes", "product_share")) > 0
    assert found["products"] > 0
    assert 0 <= found["idle"] < 1


def test_a_profile_knows_products_from_the_rest():
    x = torch.randn(700, 700)
    assert profile(lambda: x @ x, x.device)["products"] > 0.5
    shares = profile(lambda: (x.sin(), x.cos()), x.device)
    assert shares["products"] == 0
    assert {"aten::sin", "aten::cos"} <= {name for name, _ in shares["kernels"]}


def test_other_numbers_are_noticed():
    setting = Setting(EXPID, "fp32", False)
    model = build_model(setting.prepare(-1, SMALL))
    batch = RandomRows(model.feature_map, 64, 64, 8).batch(np.arange(64))
    heads = model.heads
    model.heads = lambda x: {name: 1.5 * values + 0.5 for name, values in heads(x).items()}
    found = differences(model, setting, SMALL, batch)
    assert found["logits"] > BOUNDS["bf16"]
    assert found["gradients"] > 0.1


def test_what_has_no_time_or_fails_is_told(tmp_path):
    late = check_gpu(-1, 100, 0, (EXPID,), SMALL)
    assert len(late) == 6
    assert {line["failure"] for line in late} == {"no time left: its process had 0 s"}
    arguments = ["bench", "gpu", str(tmp_path / "new/table"), "--gpu", "-1", "--rows", "100", "--seconds", "60"]
    arguments += ["--experiment", EXPID, "--set", "num_layers=none", "--note", "a note"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 1
    assert "0 of 6 settings as expected" in result.stdout
    lines = json.loads((tmp_path / "new/table.json").read_text())["lines"]
    assert all("num_layers" in line["failure"] for line in lines)
    text = (tmp_path / "new/table.md").read_text()
    assert "a note" in text
    assert f"- {EXPID}, bf16, compiled: no result. " in text


def test_the_table(tmp_path):
    line = {
        "expid": "A", "precision": "tf32", "compiled": True, "rows_per_second": 360_000.0, "step_seconds": 0.0228,
        "steps": 220, "epoch_seconds": 10.0, "first_seconds": 31.0, "resident": True, "peak_bytes": 3 << 30,
        "flops": 10**12, "product_rate": 4e14, "memory_rate": 3e12, "product_share": 0.11, "products": 0.2,
        "others": 0.7, "idle": 0.1, "kernels": [], "logits": 0.5, "gradients": 0.01,
    }  # fmt: skip
    facts = {"environment": {"gpus": ["a card"], "torch": "2"}, "rows": 3_600_000, "notes": []}
    write_gpu_table([line], facts, BOUNDS, tmp_path / "t")
    text = (tmp_path / "t.md").read_text()
    assert "tf32: matrix products 400.00 TFLOP/s; a copy 3.00 TB/s" in text
    assert (
        "| A | tf32, compiled in 31 s | 360,000 | 10.00 s (from 220 steps) | 22.80 ms | 3.00 GiB, rows resident | 11% "
        "| 20%, 70%, 10% | 5.0e-01 **too far** | 1.0e-02 | memory: gathers and elementwise passes |" in text
    )


@pytest.mark.slow
def test_the_tests_for_a_gpu_rehearsed():
    options = ["-q", "-p", "no:cacheprovider", "-k", "not compiled", "tests/gpu/test_on_gpu.py"]
    environment = os.environ | {"GPU_CHECK_SMALL": "1"}
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif("QIN_ZOO_REHEARSE" not in os.environ, reason="takes a CPU many minutes: set QIN_ZOO_REHEARSE")
def test_the_script_rehearsed(tmp_path):
    environment = os.environ | {"GPU_CHECK_SMALL": "1", "PYTHON": sys.executable}
    script = REPOSITORY / "experiments" / "gpu_check.sh"
    subprocess.run(["bash", script, tmp_path], env=environment, capture_output=True)
    lines = json.loads((tmp_path / "table.json").read_text())["lines"]
    assert {line["expid"] for line in lines if not line["compiled"] and "failure" not in line} == set(EXPERIMENTS)
    assert " passed" in (tmp_path / "tests.txt").read_text()
    assert "Tests on the GPU: status 0" in (tmp_path / "table.md").read_text()
