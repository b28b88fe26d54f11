"""Studies: what is missing is run, what is finished is kept, and the table says what the records say."""

import csv
import math

import pytest
from conftest import REPOSITORY

from qin_zoo.cli import main
from qin_zoo.errors import ConfigError
from qin_zoo.study.compare import compare
from qin_zoo.study.plan import Study, plan_runs, read_study

SMALL = ["epochs=1", "embedding_dim=4", "max_len=8", "batch_size=256", "num_layers=1"]
FILE = """
experiments: [QIN_sample]
seeds: [1, 2]
metrics: [AUC, logloss]
variations:
  two: {num_row: 2}
  one: {num_row: 1}
"""


@pytest.fixture
def study(sample, tmp_path, monkeypatch, capfd):
    """Runs `qin-zoo study` on the sample; returns status and what was printed."""
    monkeypatch.chdir(tmp_path)
    data = [f"{split}_data={sample}/{split}.parquet" for split in ("train", "valid", "test")]

    def run(text, *argv):
        (tmp_path / "s.yaml").write_text(text)
        pairs = [*SMALL, *data, f"item_info={sample}/item_info.parquet"]
        settings = [part for pair in pairs for part in ("--set", pair)]
        try:
            main(["study", "s.yaml", *settings, *argv])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, capfd.readouterr()

    return run


def test_a_study_runs_and_goes_on(study, tmp_path):
    status, shown = study(FILE, "--workers", "2")
    assert status == 0
    assert "4 runs: 0 finished before, 4 to do" in shown.out
    folder = tmp_path / "checkpoints/studies"
    name = f"{tmp_path.name}_s"
    assert {f.name for f in folder.iterdir()} == {f"{name}.md", f"{name}.csv", f"{name}.png"}
    first = (folder / f"{name}.csv").read_bytes()
    rows = list(csv.DictReader(first.decode().splitlines()))
    assert [(r["variation"], r["seed"]) for r in rows] == [("two", "1"), ("two", "2"), ("one", "1"), ("one", "2")]
    page = (folder / f"{name}.md").read_text()
    for variation in ("two", "one"):
        mean = sum(float(r["AUC"]) for r in rows if r["variation"] == variation) / 2
        assert f"| QIN_sample | {variation} | 2 | {mean:.4f} ± " in page

    (tmp_path / "checkpoints/sample/QIN_sample.one.s2.json").unlink()
    status, shown = study(FILE, "--workers", "2")  # sums depend on the threads of a worker
    assert "4 runs: 3 finished before, 1 to do" in shown.out
    assert (folder / f"{name}.csv").read_bytes() == first, "the same seed gives the same line"
    status, shown = study(FILE, "--set", "learning_rate=0.01")
    assert "4 runs: 0 finished before" in shown.out


def test_a_run_that_fails_does_not_stop_the_others(study):
    exploding = "learning_rate: 1.e+30, optimizer: SGD, max_gradient_norm: 1.e+30"
    status, shown = study(FILE.replace("num_row: 1", exploding))
    assert status == 1
    assert shown.out.count("failed: The training loss or its gradient is not a number") == 2
    assert "2 of 4 runs failed" in shown.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys such as"),
        ("seeds: [1]", "experiments: Field required"),
        ("experiments: [QIN_sample]\nseeds: []", "seeds"),
        ("experiments: [QIN_sample]\nseeds: [1, 1]", "holds a value twice"),
        ("experiments: [QIN_sample]\nseeds: [1]\nsedes: [2]", "Did you mean 'seeds'"),
        ("experiments: [QIN_sample]\nseeds: [true]", "seeds.0"),
        ("experiments: [../x]\nseeds: [1]", "experiment id"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a/b: {}}", "variation"),
        ("experiments: [QIN_smaple]\nseeds: [1]", "Did you mean 'QIN_sample'"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: {num_rwo: 1}}", "Did you mean 'num_row'"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: {dataset_id: smaple}}", "Did you mean 'sample'"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: !!python/object/apply:os.system [x]}", "refused"),
    ],
)
def test_files_that_are_refused(text, message, study, tmp_path):
    status, shown = study(text)
    assert status == 1
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "checkpoints").exists()


def record(**metrics):
    return {"test": metrics, "valid": {}, "parameters": 7, "seconds": 1.0, "expid": "E"}


def test_means_spreads_and_paired_differences(tmp_path):
    plan = Study(experiments=["E"], variations={"a": {}, "b": {}}, seeds=[1, 2, 3], metrics=["AUC"])
    values = {("a", 1): 0.5, ("a", 2): 0.6, ("a", 3): 0.7, ("b", 1): 0.51, ("b", 2): 0.62, ("b", 3): 0.73}
    runs = plan_runs(plan, tmp_path / "s.yaml")
    a, b = compare(plan, {run: record(AUC=values[run.variation, run.seed]) for run in runs})
    assert a.mean("AUC") == pytest.approx(0.6)
    assert a.spread("AUC") == pytest.approx(0.1)
    assert a.differences == {}
    assert b.differences["AUC"] == pytest.approx([0.01, 0.02, 0.03])
    # t = mean / (s / √n) = 0.02 / (0.01 / √3), two degrees of freedom
    from qin_zoo.study.compare import _paired_p_value

    t = 0.02 / (0.01 / math.sqrt(3))
    assert _paired_p_value(b.differences["AUC"]) == pytest.approx(1 - t / math.sqrt(t * t + 2))
    with pytest.raises(ConfigError, match="metrics: gAUC is not among"):
        compare(plan.model_copy(update={"metrics": ["gAUC"]}), {runs[0]: record(AUC=0.5)})


@pytest.mark.parametrize("name", ["ml-100k", "tiktok"])
def test_studies_of_the_repository_can_be_prepared(name):
    file = REPOSITORY / "experiments" / name / "embeddings.yaml"
    runs = plan_runs(read_study(file), file)
    assert len(runs) == 63
    for run in runs[:21]:
        assert run.prepare().files.checkpoint.name == f"{run.name}.model"
