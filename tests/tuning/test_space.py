"""Tuner files: what they may say, and that a grid is FuxiCTR's."""

import random
import shutil

import pytest
import yaml
from fuxictr.utils import load_config
from toy_search import project_fixture, tuner_file_fixture  # noqa: F401

from qin_zoo.config.experiments import load_experiment
from qin_zoo.errors import ConfigError
from qin_zoo.tuning.space import read_space, write_base
from qin_zoo.tuning.tuner import plan_search


class TestGrid:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_fuxictrs(self, tuner_file, project, seed):
        """Combinations, order and ids, for spaces drawn at random."""
        from fuxictr.autotuner import enumerate_params

        values = {
            "learning_rate": [1e-2, 1e-3, 5e-4], "embedding_dim": [4, 8], "optimizer": ["adam", "sgd"],
            "embedding_regularizer": [0, 1e-4], "seed": 7, "batch_size": [128], "units": [[64, 32], [16], None],
        }  # fmt: skip
        keys = list(values)
        random.Random(seed).shuffle(keys)
        file = tuner_file({key: values[key] for key in keys[: 3 + seed % 4]})
        shutil.copy(file, "theirs.yaml")
        enumerate_params("theirs.yaml")
        theirs = yaml.safe_load((project / "theirs" / "model_config.yaml").read_text())

        space = read_space(file)
        points = [space.point(i) for i in range(space.size)]
        ours = {space.trial_expid(n, point): space.trial_blocks(point)[0] for n, point in enumerate(points, 1)}
        assert sorted(ours) == sorted(theirs)
        assert {k: dict(sorted(v.items())) for k, v in ours.items()} == {
            k: dict(sorted(v.items())) for k, v in theirs.items()
        }
        assert len(ours) == space.size

    def test_parameters_of_the_dataset(self, tuner_file, project):
        """Each combination is a dataset with an id of its own, the innermost loop, as in FuxiCTR."""
        from fuxictr.autotuner import enumerate_params

        path = project / "config" / "dataset_config.yaml"
        datasets = yaml.safe_load(path.read_text())
        datasets["small"] |= {"rebuild_dataset": True, "min_categr_count": 1}
        path.write_text(yaml.safe_dump(datasets, sort_keys=False))
        file = tuner_file({"min_categr_count": [1, 2], "embedding_dim": [4, 8]})
        shutil.copy(file, "theirs.yaml")
        with pytest.raises(KeyError):  # FuxiCTR 2.3 writes the datasets, then stops at the second one
            enumerate_params("theirs.yaml")
        theirs = yaml.safe_load((project / "theirs" / "dataset_config.yaml").read_text())

        space = read_space(file)
        assert {name: {"dataset_id": "small", **block} for name, block in space.datasets.items()} == theirs
        assert [(p["embedding_dim"], p["dataset_id"]) for p in map(space.point, range(4))] == [
            (dim, name) for dim in (4, 8) for name in space.datasets
        ]
        write_base(space, project / "out")
        for name in theirs:
            assert load_experiment(project / "out", "base", name)["dataset_id"] == name

    def test_is_the_same_in_every_process(self, tuner_file):
        space = read_space(tuner_file({"learning_rate": [1e-2, 1e-3], "seed": [1, 2]}))
        assert space.trial_expid(1, space.point(0)) == "base_001_" + space.trial_expid(9, space.point(0))[-8:]
        assert read_space(space.file).as_dict() == space.as_dict()

    def test_constants_are_part_of_the_base(self, tuner_file, project):
        space = read_space(tuner_file({"epochs": 5, "seed": [1, 2], "num_workers": [0]}), ["learning_rate=0.5"])
        assert space.lists == {"seed": [1, 2]}
        write_base(space, project / "out")
        params = load_experiment(project / "out", "base")
        assert (params["epochs"], params["num_workers"], params["learning_rate"]) == (5, 0, 0.5)


class TestBase:
    def test_inline(self, tuner_file, project):
        """Model and dataset may stand in the tuner file itself."""
        models = yaml.safe_load((project / "config" / "model_config.yaml").read_text())
        datasets = yaml.safe_load((project / "config" / "dataset_config.yaml").read_text())
        plain = read_space(tuner_file({"seed": [1, 2]}))
        for keys in ({"model_config": models}, {"dataset_config": datasets}):
            assert read_space(tuner_file({"seed": [1, 2]}, **keys)).as_dict() == plain.as_dict()
        both = tuner_file({"seed": [1, 2]}, model_config=models, dataset_config=datasets, base_config="nowhere")
        assert read_space(both).as_dict() == plain.as_dict()

    def test_open_dataset(self, tuner_file, project):
        """``dataset_id: TBD`` in the experiment: the tuner file names it, and the ids begin with model and dataset."""
        path = project / "config" / "model_config.yaml"
        path.write_text(path.read_text().replace("dataset_id: small", "dataset_id: TBD"))
        space = read_space(tuner_file({"seed": [1, 2]}, dataset_id="small"))
        assert space.prefix == "Toy_small"
        assert list(space.datasets) == ["small"]

    def test_beside_the_file(self, tuner_file, project, monkeypatch):
        file = tuner_file({"seed": [1, 2]})
        monkeypatch.chdir("/")
        assert read_space(project / file).size == 2
        shutil.copy(project / file, project / "config" / "here.yaml")
        text = (project / file).read_text().replace("base_config: config\n", "")
        (project / "config" / "here.yaml").write_text(text)
        assert read_space(project / "config" / "here.yaml").size == 2


class TestRanges:
    def test_kinds(self, tuner_file):
        space = read_space(
            tuner_file(
                {
                    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                    "embedding_dim": {"low": 2, "high": 6, "step": 2},
                    "max_len": {"low": 1, "high": 8},
                    "pause": {"low": 0, "high": 0.3, "step": 0.1},
                    "optimizer": ["adam", "sgd"],
                }
            )
        )
        assert not space.is_grid
        assert {key: r.whole for key, r in space.ranges.items()} == {
            "learning_rate": False, "embedding_dim": True, "max_len": True, "pause": False,
        }  # fmt: skip
        assert space.ranges["max_len"].step == 1
        assert [c["optimizer"] for c in space.corners()].count("sgd") == 1

    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ({"low": 1, "high": 1}, "needs low below high"),
            ({"low": 0, "high": 1, "log": True}, "low must be above 0"),
            ({"low": 1, "high": 5, "step": 3}, "never reaches high"),
            ({"low": 1.0, "high": 5.0, "step": 1.0, "log": True}, "both log and step"),
            ({"low": 1, "high": 5, "step": -1}, "step above 0"),
            ({"low": 1}, "has no 'high'"),
            ({"low": "a", "high": 2}, "'low' of 'max_len' must be a number"),
            ({"low": 1, "high": True}, "'high' of 'max_len' must be a number"),
            ({"low": 1, "high": 2, "log": 1}, "'log' of 'max_len' must be true or false"),
            ({"low": 1, "high": 2, "stepp": 1}, "Did you mean 'step'?"),
        ],
    )
    def test_mistakes(self, tuner_file, written, message):
        with pytest.raises(ConfigError, match=r"search\.yaml, line \d+: ") as error:
            read_space(tuner_file({"max_len": written}))
        assert message in str(error.value)


class TestMistakes:
    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({"learning_rat": [1e-3, 1e-2]}, "Did you mean 'learning_rate'?"),
            ({"learning_rate": [1e-3, "fast"]}, "Key 'learning_rate' (search.yaml, line 4): expected"),
            ({"learning_rate": {"low": -1.0, "high": 1.0}}, "Key 'learning_rate' (search.yaml, line 4): expected"),
            ({"epochs": [1, 0]}, "Key 'epochs' (search.yaml, line 4): expected"),
            ({"epochs": []}, "is an empty list"),
            ({"epochs": [1, 2, 1]}, "holds 1 twice"),
            ({"learning_rate": ["1e-3", 0.01, 0.001]}, "holds 1e-3 twice"),
            ({"dnn_hidden_units": [[64, 32], ["64", 32.0]]}, "twice. Keep one"),
            ({"dataset_id": ["a", "b"]}, "'dataset_id' cannot be tuned"),
            ({"learning_rate": {"low": 0, "high": 1, "step": 1e-320}}, "too small to be told apart between 0 and 1"),
            ({"learning_rate": {"low": 0, "high": 1, "step": 1e-18}}, "too small to be told apart"),
            ({"learning_rate": {"low": -1e308, "high": 1e308}}, "is too wide"),
            ({"metrics": [["AUC"], ["logloss"]]}, "'metrics' cannot be varied"),
            ({"monitor": ["AUC", "logloss"]}, "'monitor' cannot be varied"),
            ({"data_format": {"low": 1, "high": 2}}, "is of the dataset"),
            ({"model": ["Toy", "Toi"]}, "Unknown model 'Toi'"),
            ({key: list(range(1, 100)) for key in ("epochs", "seed", "batch_size")}, "970,299 combinations"),
            ("lots", "tuner_space must be a mapping"),
        ],
    )
    def test_before_anything_starts(self, tuner_file, project, space, message):
        from qin_zoo.errors import QinZooError

        with pytest.raises(QinZooError) as error:
            plan_search(read_space(tuner_file(space)), plugins=[project / "toy.py"])
        assert message in str(error.value)
        assert not (project / "checkpoints").exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("base_exid: base\ntuner_space: {}\n", "Did you mean 'base_expid'?"),
            ("base_expid: base\n", "has no 'tuner_space'"),
            ("base_config: nowhere\nbase_expid: base\ntuner_space: {}\n", "no folder here nor beside the file"),
            ("base_config: config\nbase_expid: bse\ntuner_space: {}\n", "Did you mean 'base'?"),
            ("base_config: config\nbase_expid: base\ndataset_id: smal\ntuner_space: {}\n", "Did you mean 'small'?"),
            ("base_expid: !!python/object:os.system x\n", "can run code"),
            ("- 1\n", "expected keys such as base_expid"),
        ],
    )
    def test_in_the_file(self, project, text, message):
        (project / "search.yaml").write_text(text)
        with pytest.raises(ConfigError) as error:
            read_space(project / "search.yaml")
        assert message in str(error.value)

    def test_overridden_and_varied(self, tuner_file):
        with pytest.raises(ConfigError, match="--set seed"):
            read_space(tuner_file({"seed": [1, 2]}), ["seed=3"])

    def test_trials_of_a_grid(self, tuner_file, project):
        with pytest.raises(Exception, match="--trials is for ranges"):
            plan_search(read_space(tuner_file({"seed": [1, 2]})), trials=5, plugins=[project / "toy.py"])


def test_tuples_stay_tuples(tuner_file, project, tmp_path):
    space = read_space(tuner_file({"num_layers": [1, 2]}))
    space.model["target_field"] = ("item", "cate")
    write_base(space, tmp_path)
    assert load_experiment(tmp_path, space.expid)["target_field"] == ("item", "cate")
    assert load_config(str(tmp_path), space.expid)["target_field"] == ("item", "cate")  # FuxiCTR's own reader


def test_a_key_that_fuxictrs_tuner_does_not_read_either(tuner_file, caplog):
    file = tuner_file({"num_layers": [1, 2]})
    file.write_text(file.read_text() + "\nremark: for the paper\n")
    assert read_space(file).size == 2
    assert "left out 'remark'" in caplog.text
    file.write_text(file.read_text() + "\nbase_exp_id: X\n")
    with pytest.raises(ConfigError, match="Did you mean 'base_expid'"):
        read_space(file)
