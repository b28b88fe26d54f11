"""Studies: what is missing is run, what is finished is kept, and the table says what the records say."""

import csv
import json
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from qin_zoo.cli import main
from qin_zoo.files import LockFile
from qin_zoo.results.store import Store
from qin_zoo.study.plan import plan_runs, read_study
from qin_zoo.study.slices import slice_rows

SMALL = ["epochs=1", "embedding_dim=4", "max_len=8", "batch_size=256", "num_layers=1"]
FILE = """
experiments: [QIN_sample]
seeds: [1, 2]
variations:
  two: {num_row: 2}
  one: {num_row: 1}
"""


@pytest.fixture
def study(sample, tmp_path, monkeypatch, capfd):
    """Runs `qin-zoo study` on the sample; returns status and what was printed."""
    monkeypatch.chdir(tmp_path)
    data = [f"{split}_data={sample}/{split}.parquet" for split in ("train", "valid", "test")]

    def run(text, *argv, settings=(*SMALL, *data, f"item_info={sample}/item_info.parquet")):
        (tmp_path / "s.yaml").write_text(text)
        settings = [part for pair in settings for part in ("--set", pair)]
        try:
            main(["study", "s.yaml", *settings, *argv])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, capfd.readouterr()

    return run


def numbers(file):
    """The table without the times it took."""
    with open(file, encoding="utf-8") as lines:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(lines)]


@pytest.mark.slow
def test_a_study_runs_and_goes_on(study, tmp_path):
    status, shown = study(FILE, "--workers", "2")
    assert status == 0
    assert "4 runs: 0 finished before, 4 to do" in shown.out
    folder = tmp_path / "checkpoints/studies"
    name = f"{tmp_path.name}_s"
    assert {f.suffix for f in folder.iterdir()} == {".md", ".csv", ".png"}
    rows = numbers(folder / f"{name}.csv")
    assert [(r["variation"], r["seed"]) for r in rows] == [("two", "1"), ("two", "2"), ("one", "1"), ("one", "2")]
    page = (folder / f"{name}.md").read_text()
    for variation in ("two", "one"):
        mean = sum(float(r["AUC"]) for r in rows if r["variation"] == variation) / 2
        assert f"| {variation} | 2 | {mean:.4f} ± " in page
    for picture in folder.glob("*.png"):
        assert f"]({picture.name})" in page

    (tmp_path / "checkpoints/sample/QIN_sample.one.s2.json").unlink()
    status, shown = study(FILE, "--workers", "2")  # sums depend on the threads of a worker
    assert "4 runs: 3 finished before, 1 to do" in shown.out
    assert numbers(folder / f"{name}.csv") == rows, "the same seed gives the same line"
    status, shown = study(FILE.replace("[1, 2]", "[1]"), "--set", "learning_rate=0.01")
    assert "2 runs: 0 finished before" in shown.out


@pytest.mark.slow
def test_names_with_dots_are_taken_apart_where_they_were_joined(study, tmp_path):
    """QIN_v1.5 in the variation lr.01 is called QIN_v1.5.lr.01.s1, of which no dot tells where the variation begins."""
    (tmp_path / "model_config.yaml").write_text("QIN_v1.5: {model: QIN, dataset_id: sample}\n")
    (tmp_path / "dataset_config.yaml").write_text((REPOSITORY / "dataset_configs/sample.yaml").read_text())
    text = "experiments: [QIN_v1.5]\nseeds: [1]\nvariations: {plain: {}, lr.01: {learning_rate: 0.01}}\n"
    lines = [("QIN_v1.5", "plain"), ("QIN_v1.5", "lr.01")]
    status, shown = study(text)
    assert status == 0, shown.err
    table = tmp_path / f"checkpoints/studies/{tmp_path.name}_s.csv"
    assert [(r["experiment"], r["variation"]) for r in numbers(table)] == lines
    record = tmp_path / "checkpoints/sample/QIN_v1.5.plain.s1.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "line"}))  # of old
    assert "2 finished before" in study(text)[1].out
    with pytest.raises(SystemExit):
        main(["results", "add", "checkpoints"])
    entries = Store(tmp_path / "results").entries()
    assert {(e.experiment, e.variation) for e in entries} == set(lines)


@pytest.mark.slow
def test_given_twice_at_once_each_run_is_trained_once(study, sample, tmp_path):
    """Two commands share the work; each ends well, with the same table."""
    settings = [*SMALL, *(f"{split}_data={sample}/{split}.parquet" for split in ("train", "valid", "test"))]
    settings = [part for pair in (*settings, f"item_info={sample}/item_info.parquet") for part in ("--set", pair)]
    (tmp_path / "s.yaml").write_text(FILE)
    command = [sys.executable, "-m", "qin_zoo", "study", "s.yaml", *settings, "--out"]
    at_once = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen([*command, out], **at_once) for out in ("a", "b")]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert any("this study waits for its record" in text for text in said)
    assert not any("failed" in text for text in said)
    logs = [file.read_text() for file in (tmp_path / "checkpoints/sample").glob("*.log")]
    assert [text.count("Training: ") for text in logs] == [1] * 4
    one, other = (numbers(next((tmp_path / out).glob("*.csv"))) for out in ("a", "b"))
    assert one == other
    assert len(one) == 4


@pytest.mark.slow
def test_what_another_process_leaves_undone_is_trained_here(study, tmp_path, monkeypatch):
    monkeypatch.setattr("qin_zoo.study.execute._SECONDS_BETWEEN", 0.5)
    folder = tmp_path / "checkpoints/sample"
    folder.mkdir(parents=True)
    lock = LockFile(folder / ".QIN_sample.two.s1.lock")
    assert lock.acquire()
    timer = threading.Timer(12, lock.release)
    timer.start()
    status, shown = study(FILE)
    timer.join()
    assert status == 0, shown.err
    assert shown.out.count("waits for its record") == 1
    assert len(list(folder.glob("*.json"))) == 4


def test_two_runs_of_one_name_are_refused(study, tmp_path):
    text = "experiments: [A.b, A]\nseeds: [1]\nvariations: {b.c: {}, c: {}}\n"
    status, shown = study(text)
    assert status == 1
    assert "A.b, c, and A, b.c, would both be called A.b.c.s1" in shown.err
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(study, tmp_path):
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        status, shown = study(FILE, "--out", out)
        assert status == 1
        assert f"The table would be written to {out}, but" in shown.err
        assert "is no folder" in shown.err
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(study):
    exploding = "learning_rate: 1.e+30, optimizer: SGD, max_gradient_norm: 1.e+30"
    status, shown = study(FILE.replace("num_row: 1", exploding))
    assert status == 1
    assert shown.out.count("failed: The training loss or its gradient is not a number") == 2
    assert "2 of 4 runs failed" in shown.err


FAULTY = """
    import os, signal, sys

    from torch import nn

    from qin_zoo import ZooModel, register_model


    class Odd(Exception):
        def __init__(self, one, two):  # cannot be unpickled
            super().__init__(f"odd {one}\\nand a second line")


    @register_model()
    class Faulty(ZooModel):
        '''Linear, and fails as it is told to.'''

        def __init__(self, feature_map, model_id="Faulty", fault: str = "no", **kwargs):
            super().__init__(feature_map, model_id=model_id, **kwargs)
            self.fault, self.out = fault, nn.Linear(self.item_dim, 1)

        def logits(self, x):
            if self.fault == "raise":
                raise ValueError("the model is broken")
            if self.fault == "odd":
                raise Odd(1, 2)
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "exit":
                sys.exit(3)
            return self.out(x.target)
"""
FAULTS = """
experiments: [E]
seeds: [1]
config: config
variations:
  plain: {}
  raise: {fault: raise}
  odd: {fault: odd}
  die: {fault: die}
  exit: {fault: exit}
  late: {learning_rate: 0.002}
"""


@pytest.fixture
def faulty(sample, tmp_path):
    """A folder ``config`` with the experiment ``E`` on the sample, and on a dataset that is damaged; ``faulty.py``."""
    (tmp_path / "faulty.py").write_text(textwrap.dedent(FAULTY))
    (tmp_path / "config").mkdir()
    block = {"model": "Faulty", "dataset_id": "sample", "metrics": ["AUC"], "embedding_dim": 4, "batch_size": 256}
    (tmp_path / "config/model_config.yaml").write_text(json.dumps({"E": block}))
    dataset = yaml.safe_load((REPOSITORY / "dataset_configs/sample.yaml").read_text())["sample"]
    files = {key: str(sample / f"{key.removesuffix('_data')}.parquet") for key in dataset if key.endswith("_data")}
    dataset = {**dataset, **files, "item_info": str(sample / "item_info.parquet")}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    datasets = {"sample": dataset, "bad": {**dataset, "train_data": "bad.parquet"}}
    (tmp_path / "config/dataset_config.yaml").write_text(json.dumps(datasets))


@pytest.mark.slow
def test_whatever_becomes_of_one_run_the_others_go_on(study, faulty, tmp_path):
    """Errors nobody expected, a process that is killed, one that ends: told, kept, and the status is not 0."""
    arguments = ("--plugin", "faulty.py", "--workers", "2")
    status, shown = study(FAULTS, *arguments, settings=[])
    assert status == 1
    assert "Traceback" not in shown.out + shown.err
    assert "E.raise.s1 failed: ValueError: the model is broken (the traceback is in " in shown.out
    assert "E.odd.s1 failed: Odd: odd 1 (the traceback is in " in shown.out
    assert "E.die.s1 failed: its process ended (exit status killed by signal 9" in shown.out
    assert "E.exit.s1 failed: its process ended (exit status 3)" in shown.out
    assert "4 of 6 runs failed" in shown.err
    folder = tmp_path / "checkpoints"
    assert "ValueError: the model is broken" in (folder / "sample/E.raise.s1.log").read_text()
    (page,) = (folder / "studies").glob("*.md")
    assert "- `E.die.s1`: its process ended" in page.read_text()
    assert [r["variation"] for r in numbers(page.with_suffix(".csv"))] == ["plain", "late"]
    status, shown = study(FAULTS, *arguments, settings=[])
    assert status == 1
    assert "6 runs: 2 finished before, 4 to do" in shown.out


@pytest.mark.slow
def test_data_that_one_run_cannot_use_is_told_and_the_others_go_on(study, faulty, tmp_path):
    text = "experiments: [E]\nseeds: [1]\nconfig: config\ndatasets: {bad: {}, sample: {}}\n"
    status, shown = study(text, "--plugin", "faulty.py", settings=[])
    assert status == 1
    assert "E.plain.s1 failed: bad.parquet" in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert "E.plain.s1: valid AUC" in shown.out
    assert "1 of 2 runs failed" in shown.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys such as"),
        ("seeds: [1]", "experiments: Field required"),
        ("experiments: [QIN_sample]\nseeds: []", "seeds"),
        ("experiments: [QIN_sample]\nseeds: [1, 1]", "holds a value twice"),
        ("experiments: [QIN_sample]\nseeds: [1]\nsedes: [2]", "Did you mean 'seeds'"),
        ("experiments: [QIN_sample]\nseeds: [true]", "seeds.0"),
        ("experiments: [../x]\nseeds: [1]", "experiments.0: it '../x' becomes a file name"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a/b: {}}", "variations.a/b"),
        ("experiments: [QIN_smaple]\nseeds: [1]", "Did you mean 'QIN_sample'"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: {num_rwo: 1}}", "Did you mean 'num_row'"),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: {dataset_id: smaple}}", "Did you mean 'sample'"),
        ("experiments: [QIN_sample]\nseeds: [1]\ntests: {a: {num_row: 1}}", "unknown key 'num_row'"),
        ("experiments: [QIN_sample]\nseeds: [1]\ntests: {a: {missing_embeddings: 2}}", "from 0 to 1"),
        ("experiments: [QIN_sample]\nseeds: [1]\nslices: [item_click]", "slices.0"),
        ("experiments: [QIN_sample]\nseeds: [1]\ndatasets: {smaple: {}}", "Did you mean 'sample'"),
        (
            "experiments: [QIN_sample]\nseeds: [1]\ndatasets: {sample: {}}\nvariations: {a: {dataset_id: sample}}",
            "contradict",
        ),
        ("experiments: [QIN_sample]\nseeds: [1]\nvariations: {a: !!python/object/apply:os.system [x]}", "refused"),
    ],
)
def test_files_that_are_refused(text, message, study, tmp_path):
    status, shown = study(text)
    assert status == 1
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "checkpoints").exists()


TESTED = FILE + """
tests: {as_before: {train_fraction: 1.0}, missing: {missing_embeddings: 1.0}, shuffled: {shuffle_history: true}}
slices: [item_clicks, user_clicks]
"""


@pytest.mark.slow
def test_trained_models_are_scored_on_harder_data_and_on_slices(study, tmp_path):
    status, shown = study(TESTED)
    assert status == 0, shown.err
    folder = tmp_path / "checkpoints/sample"
    found = json.loads((folder / "QIN_sample.two.s1.tests.json").read_text())["found"]
    record = json.loads((folder / "QIN_sample.two.s1.json").read_text())
    metrics = record["test"] or record["valid"]
    assert found["tests"]["as_before"] == metrics
    assert found["tests"]["missing"] != metrics
    assert found["tests"]["shuffled"]["AUC"] == pytest.approx(metrics["AUC"], abs=1e-6)  # sums have no order
    split = "test" if record["test"] else "valid"
    for parts in found["slices"].values():
        assert sum(part["rows"] for part in parts.values()) == record["rows"][split]
    page = next((tmp_path / "checkpoints/studies").glob("*.md")).read_text()
    assert "Harder data at the test" in page
    assert "By clicks of the item" in page

    status, shown = study(TESTED)
    assert "4 runs: 4 finished before, 0 to do" in shown.out
    status, shown = study(TESTED.replace("missing_embeddings: 1.0", "missing_embeddings: 0.5"))
    assert "4 runs: 0 finished before, 4 to do" in shown.out  # trained before, to be scored again
    again = json.loads((folder / "QIN_sample.two.s1.json").read_text())
    assert again["seconds"] == record["seconds"]


def test_slices_count_the_clicks_of_training(sample):
    from qin_zoo.experiment.prepare import prepare

    dataset = prepare("QIN_sample", data=sample, overrides={"train_fraction": 0.5}).open_dataset()
    rows = set(dataset.used_rows("train").tolist())
    clicks: dict[int, int] = {}
    for row, (item, label) in enumerate(zip(dataset.targets("train").tolist(), dataset.labels("train").tolist())):
        if row in rows and label:
            clicks[item] = clicks.get(item, 0) + 1
    names = {}
    for row, item in enumerate(dataset.targets("valid").tolist()):
        n = clicks.get(item, 0)
        part = "0" if n == 0 else "1–4" if n < 5 else "5–19" if n < 20 else "20–99" if n < 100 else "100+"
        names.setdefault(part, []).append(row)
    found = slice_rows(dataset, "valid", "item_clicks")
    assert {name: part.tolist() for name, part in found.items()} == names
    users = slice_rows(dataset, "valid", "user_clicks")
    assert sorted(np.concatenate(list(users.values())).tolist()) == list(range(dataset.rows("valid")))


def test_each_experiment_on_each_dataset(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "experiments: [QIN_sample, MLP_sample]\nseeds: [1, 2]\ndatasets: {sample: {epochs: 2}, sample_codes: {}}"
    )
    plan = read_study(tmp_path / "s.yaml")
    runs = plan_runs(plan, tmp_path / "s.yaml")
    assert len(runs) == 8
    assert [(r.dataset, r.experiment) for r in runs[:3]] == [
        ("sample", "QIN_sample"), ("sample", "MLP_sample"), ("sample_codes", "QIN_sample"),
    ]  # fmt: skip
    prepared = runs[0].prepare()
    assert prepared.params["epochs"] == 2
    assert prepared.files.record.parts[-2:] == ("sample", "QIN_sample.plain.s1.json")
    assert runs[2].prepare().files.record.parts[-2:] == ("sample_codes", "QIN_sample.plain.s1.json")


RECIPES = [file for name in ("embeddings", "models") for file in REPOSITORY.glob(f"experiments/*/{name}.yaml")]
STUDIES = sorted(RECIPES) + sorted(
    file for file in REPOSITORY.glob("experiments/studies/*.yaml") if file.name != "model_config.yaml"
)


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_studies_of_the_repository_can_be_prepared(file, monkeypatch):
    monkeypatch.setattr("qin_zoo.experiment.prepare.count_rows", lambda params: 80_000)  # recipes ask the data
    plan = read_study(file)
    runs = plan_runs(plan, file)
    assert len(runs) >= 3
    for run in runs[: len(runs) // len(plan.seeds)]:
        prepared = run.prepare()
        name = f"{run.experiment}.pretrained.s{run.seed}" if run.periods else run.name
        assert prepared.files.checkpoint.name == f"{name}.model"
        for changes in plan.tests.values():
            prepared.varied(changes)
