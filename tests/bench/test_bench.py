"""The commands of `qin-zoo bench`, on a small sample: what they measure is real, how fast it is is not tested."""

import json
from pathlib import Path

import pytest
from conftest import REPOSITORY, VOCAB, item_table_feature_map
from typer.testing import CliRunner

from qin_zoo.bench.contenders import Contender
from qin_zoo.bench.growth import AXES, draw_growth, grow
from qin_zoo.bench.race import Result, race
from qin_zoo.bench.report import summarise
from qin_zoo.bench.synthetic import random_batch
from qin_zoo.cli import build_app
from qin_zoo.errors import QinZooError

SMALL = ("batch_size=256", "embedding_dim=8", "num_layers=1", "max_len=8")


@pytest.fixture
def bench(sample, tmp_path):
    def call(task, *arguments):
        sets = [part for pair in (*SMALL, f"cache_dir={tmp_path}") for part in ("--set", pair)]
        result = CliRunner().invoke(
            build_app(),
            ["bench", task, "QIN_sample", "--data", str(sample), "--json", *sets, *arguments],
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("task", ["load", "train"])
def test_a_race(bench, task):
    found = bench(task, "--rounds", "1")
    assert {"qin-zoo", "plain", "ratio", "environment"} <= set(found)
    for name in ("qin-zoo", "plain"):
        assert found[name]["rows_per_second"] > 0
        assert found[name]["batch_size"] == 256
        assert found[name]["peak_bytes"] > 50 << 20
    assert found["ratio"] == pytest.approx(found["qin-zoo"]["rows_per_second"] / found["plain"]["rows_per_second"])
    if task == "load":
        assert found["seconds_to_first_cold"] > 0
    if task == "train":
        assert found["epoch_seconds"] == pytest.approx(3000 / found["qin-zoo"]["rows_per_second"])
        assert found["plain"]["flops"] > found["qin-zoo"]["flops"] > 0
        assert 0 < found["product_fraction"] < 1.5


@pytest.mark.slow
def test_without_the_plain_reference(bench):
    assert "plain" not in bench("score", "--rounds", "1", "--no-plain")


def test_trajectory_command(bench):
    found = bench("trajectory", "--steps", "5")
    assert len(found["losses"]) == 5
    assert found["largest_difference"] < 1e-4


def test_growth_and_its_picture(tmp_path):
    axes = dict.fromkeys(AXES, (4, 8))
    points = grow("QIN_MicroLens_1M_x1", axes, 1, overrides=[*SMALL, "batch_size=32"])
    assert [(p.axis, p.value) for p in points] == [(axis, value) for axis in AXES for value in (4, 8)]
    assert all(min(p.gradient, p.update, p.score) > 0 for p in points)
    assert all(0 < p.score_products < p.step_products for p in points)
    assert all(0 < p.score_passes < p.step_passes for p in points)
    draw_growth(points, tmp_path / "growth.png", "a title")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_contender_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    broken = Contender("load", expid="QIN_sample", config=REPOSITORY / "experiments" / "QIN", data=tmp_path)
    failed, product = race([broken, Contender("product", "matrix product")], 1)
    assert "no such file" in failed.failure
    assert (len(product.rates), product.failure) == (1, "")
    summary = summarise([failed, product])
    assert summary["failed"] == {"qin-zoo": failed.failure}
    assert summary["product_flops_per_second"] > 0
    monkeypatch.setattr("qin_zoo.bench.race.race", lambda *_, **__: [failed, product])
    arguments = ["bench", "score", "QIN_sample", "--config", str(broken.config), "--data", str(tmp_path)]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 1
    assert f"qin-zoo failed: {failed.failure}" in result.stderr


def test_summary():
    fast = Result("qin-zoo", [80.0, 100.0, 120.0], facts={"batch_size": 10, "flops": 500})
    product = Result("matrix product", [100.0], facts={"flops": 100})
    summary = summarise([product, fast, Result("plain", [10.0])])
    assert summary["ratio"] == 10
    assert summary["step_seconds"] == pytest.approx(0.1)
    assert summary["products_alone_seconds"] == pytest.approx(0.05)
    assert summary["product_fraction"] == pytest.approx(0.5)


def test_random_batches():
    feature_map = item_table_feature_map(VOCAB, 8)
    batch = random_batch(feature_map, 64, 10, distinct=5)
    assert batch.history.shape == (64, 10)
    assert batch.item_ids.max() < 5
    assert len(batch.items["item_id"]) == VOCAB["item_id"]
    assert (batch.mask == batch.mask.sort(dim=1).values).all()  # padding on the left
    assert 0.4 < random_batch(feature_map, 2000, 10).mask.float().mean() < 0.8


def test_values_of_an_axis(monkeypatch):
    asked = []
    monkeypatch.setattr("qin_zoo.bench.growth.grow", lambda expid, axes, *_, **__: asked.append(axes) or [])
    arguments = ["bench", "growth", "--axis", "max_len=16,1000", "--axis", "items"]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    assert asked == [{"max_len": [16, 1000], "items": AXES["items"]}]
    wrong = CliRunner().invoke(build_app(), ["bench", "growth", "--axis", "max_len=16,many"])
    assert "--axis max_len=16,many: expected whole numbers" in str(wrong.exception)


def test_a_rival_on_random_batches(monkeypatch):
    """LongCTR's own SIM, from FuxiCTR's wheel."""
    import model_zoo.LongCTR

    asked = []
    monkeypatch.setattr("qin_zoo.bench.race.race", lambda contenders, *_, **__: asked.extend(contenders) or [])
    sizes = ["max_len=60", "batch_size=16", "embedding_dim=8", "attention_dim=8", "dnn_hidden_units=[8]"]
    overrides = [part for size in sizes for part in ("--set", size)]
    rival = str(Path(model_zoo.LongCTR.__path__[0]) / "SIM")
    arguments = ["bench", "train", "SIM_MicroLens_1M_x1", "--drawn", "--rival", rival, *overrides]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    assert [contender.name for contender in asked] == ["matrix product", "qin-zoo", "rival"]
    facts = {}
    for contender in asked[1:]:
        measure, facts[contender.name] = contender.start()
        assert measure() == 16 * contender.batches
    assert facts["rival"]["parameters"] == facts["qin-zoo"]["parameters"]
    assert facts["rival"]["flops"] > facts["qin-zoo"]["flops"]
    results = [Result(name, [rate], facts=facts[name]) for name, rate in (("qin-zoo", 30.0), ("rival", 10.0))]
    assert summarise(results)["ratio"] == 3


def test_unknown_axis(tmp_path):
    result = CliRunner().invoke(build_app(), ["bench", "growth", "--axis", "item"])
    assert isinstance(result.exception, QinZooError)
    assert "Did you mean 'items'" in str(result.exception)
