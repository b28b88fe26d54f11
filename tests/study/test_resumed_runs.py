"""A study's run that was stopped in the middle goes on, or begins anew where its parameters have changed."""

import pytest

from qin_zoo.errors import CheckpointError
from qin_zoo.study import execute
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.study.probe import probe

STUDY = Study(experiments=["QIN_sample"], seeds=[1])
SMALL = {"epochs": 2, "embedding_dim": 4, "max_len": 8, "batch_size": 256, "num_layers": 1, "eval_steps": 4}


class Died(Exception):
    pass


@pytest.mark.parametrize("rate", [5e-3, 1e-2])
def test_a_stopped_run(rate, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []

    def say(line):
        said.append(line)
        if line.startswith("epoch") and len(said) == 4:
            raise Died

    monkeypatch.setattr(execute, "silent", say)
    run = StudyRun("QIN_sample", None, "a", 1, {**SMALL, "seed": 1}, None)
    with pytest.raises(Died):
        execute._train(run.prepare(data=sample), STUDY, run, {"data": sample})
    del said[:]
    again = StudyRun("QIN_sample", None, "a", 1, {**SMALL, "seed": 1, "learning_rate": rate}, None)
    monkeypatch.setattr(execute, "silent", said.append)
    record = execute._train(again.prepare(data=sample), STUDY, again, {"data": sample})
    assert record["params"]["learning_rate"] == rate
    assert any("Resumed after" in line for line in said) == (rate == 5e-3)
    assert record["evaluations"][-1]["step"] == 24


def test_weights_of_another_study_are_not_scored_for_this_one(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, other = (
        StudyRun("QIN_sample", None, "a", 1, {**SMALL, "epochs": 1, "learning_rate": rate}, None)
        for rate in (5e-3, 1e-2)
    )
    record = execute._train(mine.prepare(data=sample), STUDY, mine, {"data": sample})
    execute._train(other.prepare(data=sample), STUDY, other, {"data": sample})
    with pytest.raises(CheckpointError, match="damaged or replaced after the run"):
        probe(mine.prepare(data=sample), record, {"noisy": {"embedding_noise": 1.0}}, [])
