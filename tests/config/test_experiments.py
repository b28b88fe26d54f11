"""Configurations: found by id, read as FuxiCTR reads them, refused with one message where they are broken."""

import itertools
import os
import textwrap
from pathlib import Path

import fuxictr.utils
import pytest

from qin_zoo.config import blocks, safe_yaml
from qin_zoo.config import experiments as config
from qin_zoo.config.blocks import ExperimentParams
from qin_zoo.config.experiments import (
    Experiment,
    apply_overrides,
    find_experiments,
    load_experiment,
    parse_overrides,
    resolve_experiment,
)
from qin_zoo.errors import ConfigError

MODEL = """
    Base:
      model_root: ./checkpoints/
      metrics: [AUC, logloss]
      epochs: 100
    QIN_a: &a
      model: QIN
      dataset_id: tiny
      epochs: 3
      learning_rate: 1e-3
      layers: [1, 2]
    QIN_b:
      <<: *a
      dataset_id: other
    """
DATASET = """
    tiny:
      data_root: ./data/
      epochs: 5
      feature_cols:
        - {name: [a, b], active: True, dtype: int, type: categorical, vocab_size: 11}
      label_col: {name: label, dtype: float}
    other:
      data_root: ./elsewhere/
    """


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes files into a configuration folder; the repository's own files are out of sight."""
    monkeypatch.setattr(config, "REPOSITORY", tmp_path / "repository")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "cwd" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
        return tmp_path / "cwd" / "config"

    return write


def files(model: str | bytes = MODEL, dataset: str | bytes = DATASET) -> dict[str, str | bytes]:
    return {"config/model_config.yaml": model, "config/dataset_config.yaml": dataset}


def bomb(first: str, line: str) -> str:
    """Aliases of aliases, 17 times."""
    return "\n".join([first, *(line.format(x=x, y=y) for x, y in itertools.pairwise("abcdefghijklmnopqr"))])


# ---- reading


@pytest.mark.parametrize("expid", ["QIN_a", "QIN_b"])
@pytest.mark.parametrize("split", [False, True])
def test_equals_fuxictr(folder, expid, split):
    model, dataset = textwrap.dedent(MODEL), textwrap.dedent(DATASET)
    if split:  # one file per block, each with the Base it needs
        path = folder(
            {
                "config/model_config/qin.yaml": model,
                "config/model_config/din.yaml": "Base: {epochs: 7}\nDIN_a: {model: DIN, dataset_id: tiny}",
                "config/dataset_config/a.yaml": dataset.split("other:")[0],
                "config/dataset_config/b.yaml": "other:" + dataset.split("other:")[1],
                "config/dataset_config/.hidden.yaml": "not read: [",
            }
        )
    else:
        path = folder(files())
    params = load_experiment(path, expid)
    assert params == fuxictr.utils.load_config(str(path), expid)
    assert params["model_id"] == expid
    assert params["epochs"] == (5 if expid == "QIN_a" else 3)
    assert params["learning_rate"] == "1e-3"  # YAML 1.1; check_params knows that a number is meant


def test_a_tuner_s_results_are_no_data_file(folder):
    """FuxiCTR's tuner writes a block for each of its combinations, with every key in it."""
    keys = "".join(f"  key_{i}: ./checkpoints/of_an_experiment_with_a_long_name/{i}\n" for i in range(20))
    blocks = [f"QIN_{i:04d}:\n  model: QIN\n  dataset_id: tiny\n  number: {i}\n{keys}" for i in range(900)]
    path = folder(files(model="\n".join(blocks)))
    assert (path / "model_config.yaml").stat().st_size > 1_000_000
    params = load_experiment(path, "QIN_0899")
    assert params["number"] == 899
    assert params.origin["key_19"] == f"{path / 'model_config.yaml'}, line {900 * 25 - 1}"


def test_values_know_where_they_were_written(folder):
    path = folder(files())
    origin = load_experiment(path, "QIN_b").origin
    assert origin["metrics"] == f"{path / 'model_config.yaml'}, line 4, Base"
    assert origin["dataset_id"] == f"{path / 'model_config.yaml'}, line 14"
    assert origin["layers"] == f"{path / 'model_config.yaml'}, line 12"  # came with <<
    assert origin["data_root"] == f"{path / 'dataset_config.yaml'}, line 9"


def test_a_folder_without_datasets_uses_the_shared_ones(folder, tmp_path):
    path = folder({"config/model_config.yaml": MODEL})
    with pytest.raises(ConfigError, match=r"No dataset 'tiny'.*has no dataset_config"):
        load_experiment(path, "QIN_a")
    shared = tmp_path / "repository" / "dataset_configs"
    shared.mkdir(parents=True)
    (shared / "tiny.yaml").write_text("tiny: {data_root: of the repository}")
    assert load_experiment(path, "QIN_a")["data_root"] == "of the repository"
    folder({"dataset_configs/mine.yaml": "tiny: {data_root: mine}"})
    assert load_experiment(path, "QIN_a")["data_root"] == "mine"
    with pytest.raises(ConfigError, match=r"No dataset 'other'.*mine.yaml.*There are: tiny"):
        load_experiment(path, "QIN_b")


def test_files_may_be_empty_and_start_with_a_byte_order_mark(folder):
    path = folder(
        {"config/model_config/a.yaml": "# nothing yet\n", "config/model_config/b.yaml": textwrap.dedent(MODEL)}
    )
    folder({"config/dataset_config.yaml": b"\xef\xbb\xbf" + textwrap.dedent(DATASET).encode()})
    assert load_experiment(path, "QIN_a")["model"] == "QIN"


def test_equal_definitions_in_two_files_are_one_but_different_ones_are_refused(folder):
    path = folder({"config/model_config/a.yaml": MODEL, "config/model_config/b.yaml": MODEL, **files()})
    (path / "model_config.yaml").unlink()
    assert load_experiment(path, "QIN_a")["epochs"] == 5
    folder({"config/model_config/b.yaml": "QIN_a: {model: DIN}"})
    with pytest.raises(ConfigError, match=r"'QIN_a' is defined differently in .*a.yaml, .*b.yaml"):
        load_experiment(path, "QIN_a")


def test_an_experiment_without_base_in_its_file_needs_one_base_in_the_folder(folder):
    path = folder(
        {
            "config/model_config/a.yaml": "A: {model: QIN, dataset_id: tiny}",
            "config/model_config/b.yaml": "Base: {epochs: 1}",
            "config/dataset_config.yaml": DATASET,
        }
    )
    assert load_experiment(path, "A")["epochs"] == 5
    folder({"config/model_config/c.yaml": "Base: {epochs: 2}"})
    with pytest.raises(ConfigError, match="'Base' is defined differently"):
        load_experiment(path, "A")


@pytest.mark.parametrize(
    ("expid", "changes", "message"),
    [
        ("QIN_c", {}, r"No experiment 'QIN_c' in .*Did you mean 'QIN_[ab]'\? There are: QIN_a, QIN_b\."),
        ("Base", {}, r"No experiment 'Base'"),
        ("QIN_a", {"model": "QIN_a: {model: QIN}"}, r"has no 'dataset_id', nor has Base"),
        ("QIN_a", {"model": "QIN_a: {dataset_id: tiny}"}, r"has no 'model'"),
        ("QIN_a", {"model": "QIN_a: {model: QIN, dataset_id: tine}"}, r"No dataset 'tine'.*Did you mean 'tiny'"),
        ("QIN_a", {"model": "QIN_a: {model: QIN, dataset_id: ../x}"}, r"dataset_id '../x'.*line 1.*file name"),
        ("QIN_a", {"model": "QIN_a: {model: QIN, dataset_id: 7}"}, r"dataset_id 7 .*must be text"),
        ("QIN_a", {"model": "QIN_a: [1]"}, r"line 1: block 'QIN_a' must be a mapping"),
        ("QIN_a", {"model": "QIN_a: {1: 2}"}, r"'QIN_a' has the key 1, which is no text"),
        ("QIN_a", {"model": "7: {a: 2}"}, r"line 1: the id 7 is not text"),
        ("QIN_a", {"model": "- a"}, r"model_config.yaml: expected blocks .* got list"),
        ("QIN_a", {"model": "just text"}, r"expected blocks .* got str"),
        ("QIN_a", {"model": ""}, r"No experiment 'QIN_a'.*There are none"),
        ("QIN_a", {"model": "a: [1\nb: 2"}, r"model_config.yaml, line 2: not valid YAML"),
        ("QIN_a", {"model": "a: 1\n\tb: 2"}, r"line 2: not valid YAML: .*\btab\b"),
        ("QIN_a", {"model": "a: 1\n---\nb: 2"}, r"line 2: not valid YAML: .*another document"),
        ("QIN_a", {"model": b"a: \xff"}, r"line 1: not UTF-8 text"),
        ("QIN_a", {"model": b"a: 1\nb: \x07"}, r"not valid YAML: .*control characters"),
        ("QIN_a", {"model": "A: {x: 1}\nB: {x: 1, y: 2, x: 3}"}, r"line 2: the key 'x' stands on line 2 already"),
        ("QIN_a", {"model": "A: {x: 10,\n  y: 064}"}, r"line 2: YAML reads 064 as 52\. Write that"),
        ("QIN_a", {"model": "A: {x: -1:30.5}"}, r"line 1: YAML reads -1:30\.5 as -90\.5"),
        ("QIN_a", {"model": "A: {}\nB: {}\nA: {}"}, r"line 3: the key 'A' stands on line 1 already"),
        ("QIN_a", {"dataset": "tiny: {x: 1, x: 1}"}, r"dataset_config.yaml, line 1: the key 'x'"),
        ("QIN_a", {"model": "A:\n  f: !!python/tuple a"}, r"line 2: not valid YAML: expected a sequence"),
        ("QIN_a", {"model": "A: !!python/tuple [a, !!python/name:os.system x]"}, r"line 1: the tag !!python/name"),
        ("QIN_a", {"model": "A: &a !!python/tuple [*a]"}, r"line 1: this value contains itself"),
        ("QIN_a", {"model": "A: !!python/object/apply:os.system ['x']"}, r"line 1: the tag !!python/object.*run code"),
        ("QIN_a", {"model": "A: !mine 1"}, r"line 1: not valid YAML: .*'!mine'"),
        ("QIN_a", {"model": "A: 2024-13-01"}, r"line 1: .*cannot be read as timestamp.*quotes"),
        ("QIN_a", {"model": f"A: {'9' * 5000}"}, r"line 1: .*cannot be read as int"),
        ("QIN_a", {"model": "A: !!bool maybe"}, r"line 1: .*cannot be read as bool"),
        ("QIN_a", {"model": 'A: "\\UFFFFFFFF"'}, r"not valid YAML"),
        ("QIN_a", {"model": 'A: {"\\0": 1}'}, r"NUL"),
        ("QIN_a", {"model": 'A: "\\ud800"'}, r"line 1: not valid YAML: .*Unicode"),
        ("QIN_a", {"model": "A: &a [*a]"}, r"line 1: this value contains itself"),
        ("QIN_a", {"model": "A: " + "[" * 1000}, r"line 1: not valid YAML: nested deeper than 32"),
        ("QIN_a", {"model": "{" * 400_000}, r"nested deeper than 32"),
        ("QIN_a", {"model": "A: [" + "1," * 2_500_000}, r"larger than 5,000,000 bytes"),
        ("QIN_a", {"model": bomb("a: &a [1]", "{y}: &{y} [*{x}, *{x}, *{x}]")}, r"line 12: with its aliases .* 300,"),
        ("QIN_a", {"model": bomb("a: &a {k: 1}", "{y}: &{y} {{<<: [*{x}, *{x}]}}")}, r"with its aliases"),
        ("QIN_a", {"model": bomb("a: &a [[[[1]]]]", "{y}: &{y} [[[[*{x}]]]]")}, r"with its aliases .* 32 levels"),
    ],
)
def test_unreadable_configurations(folder, expid, changes, message):
    path = folder(files(**changes))
    with pytest.raises(ConfigError, match=message):
        load_experiment(path, expid)


def test_more_values_than_any_configuration_has(folder, monkeypatch):
    monkeypatch.setattr(safe_yaml, "MAX_NODES", 1000)
    with pytest.raises(ConfigError, match=r"line 1: not valid YAML: over 1,000 values"):
        load_experiment(folder(files(model="A: [" + "1," * 1000 + "1]")), "A")


@pytest.mark.parametrize(
    "expid", ["", " ", "a/b", "a\\b", "..", "../QIN_a", "a..b", ".", "a\0b", "a\nb", "C:x", "x" * 300, None, 3]
)
def test_ids_that_are_no_file_names(folder, expid):
    path = folder(files())
    for use in (lambda: load_experiment(path, expid), lambda: resolve_experiment(expid)):
        with pytest.raises(ConfigError, match=r"experiment id .*(file name|bytes|text)"):
            use()


def test_missing_folders_and_files(folder, tmp_path):
    path = folder(files())
    for wrong, message in (
        (tmp_path / "nowhere", "does not exist"),
        (path / "model_config.yaml", "is a file; name the folder"),
        (tmp_path / ("x" * 300), "Could not read the folder"),
        (str(tmp_path) + "\0", "Could not read the folder"),
        (tmp_path, "neither model_config.yaml nor"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_experiment(wrong, "QIN_a")


def test_permission_denied_and_things_that_are_no_files(folder, monkeypatch):
    path = folder(files())

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # chmod does not stop root, who may run the tests
        patch.setattr(safe_yaml, "open", denied, raising=False)
        with pytest.raises(ConfigError, match=r"Could not read .*model_config.yaml: Permission denied"):
            load_experiment(path, "QIN_a")
    with monkeypatch.context() as patch:
        patch.setattr(blocks.os, "listdir", denied)
        with pytest.raises(ConfigError, match=r"Could not read the folder .*config: Permission denied"):
            load_experiment(path, "QIN_a")
    (path / "model_config.yaml").unlink()
    os.mkfifo(path / "model_config.yaml")  # opening it would wait for a writer
    with pytest.raises(ConfigError, match="not a regular file"):
        load_experiment(path, "QIN_a")


# ---- finding


def test_experiments_are_found_by_id(folder, tmp_path):
    folder({"experiments/QIN/model_config.yaml": MODEL, "experiments/notes.md": "", "experiments/empty/x.yaml": ""})
    theirs = tmp_path / "repository" / "experiments" / "DIN" / "model_config"
    theirs.mkdir(parents=True)
    (theirs / "a.yaml").write_text("defaults: &d {epochs: 1}\nDIN_a: {<<: *d, model: DIN, dataset_id: tiny}")
    mine = Path.cwd() / "experiments" / "QIN"
    assert find_experiments() == [
        Experiment("QIN_a", "QIN", "tiny", mine, mine / "model_config.yaml"),
        Experiment("QIN_b", "QIN", "other", mine, mine / "model_config.yaml"),
        Experiment("DIN_a", "DIN", "tiny", theirs.parent, theirs / "a.yaml"),
    ]
    assert resolve_experiment("DIN_a") == theirs.parent
    assert resolve_experiment("DIN_a", "elsewhere") == Path("elsewhere")
    assert find_experiments([]) == []
    with pytest.raises(
        ConfigError, match=r"No experiment 'QIN_c'.*Did you mean.*There are: DIN_a, QIN_a, QIN_b\..*--config"
    ):
        resolve_experiment("QIN_c")


def test_an_id_in_two_folders_is_ambiguous_but_the_same_folder_twice_is_not(folder, tmp_path):
    folder({"experiments/QIN/model_config.yaml": MODEL})
    (tmp_path / "repository").symlink_to(tmp_path / "cwd")
    assert len(find_experiments()) == 2
    folder({"experiments/QIN2/model_config.yaml": MODEL})
    with pytest.raises(ConfigError, match=r"defined in several folders: .*QIN, .*QIN2\. Say which with --config"):
        resolve_experiment("QIN_a")


def test_a_broken_folder_hides_no_other(folder):
    folder({"experiments/QIN/model_config.yaml": MODEL, "experiments/broken/model_config.yaml": "["})
    assert resolve_experiment("QIN_a").name == "QIN"
    problems = []
    assert len(find_experiments(problems=problems)) == 2
    assert len(problems) == 1
    assert "broken" in problems[0]
    with pytest.raises(ConfigError, match="broken"):
        find_experiments()
    with pytest.raises(ConfigError, match=r"No experiment 'x'.*Not read: .*broken"):
        resolve_experiment("x")


# ---- overriding


def test_overrides_are_yaml_and_leave_the_original_alone():
    params = ExperimentParams({"epochs": 1, "group_id": "u"}, origin={"epochs": "file, line 1"})
    overrides = parse_overrides(["epochs=3", "metrics=[AUC, gAUC]", "group_id=", "note=a=b", "learning_rate=1e-3"])
    changed = apply_overrides(params, overrides)
    assert changed == {
        "epochs": 3,
        "group_id": None,
        "metrics": ["AUC", "gAUC"],
        "note": "a=b",
        "learning_rate": "1e-3",
    }
    assert changed.origin["epochs"] == "command line"
    assert params == {"epochs": 1, "group_id": "u"}
    assert params.origin == {"epochs": "file, line 1"}
    assert apply_overrides({"a": 1}, {}) == {"a": 1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "Expected KEY=VALUE"),
        ("=3", "Expected KEY=VALUE"),
        ("a.b=3", "Expected KEY=VALUE"),
        ("a=[", r"value of a on the command line, line 1: not valid YAML"),
        ("a=!!python/object/apply:os.system ['x']", "refused"),
    ],
)
def test_overrides_that_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        parse_overrides([override])


def test_our_studies_are_found_by_name_anywhere(tmp_path, monkeypatch):
    """As of an installed package, which lies elsewhere than one works."""
    monkeypatch.chdir(tmp_path)
    ablation = config.REPOSITORY / "experiments/studies/ablation.yaml"
    for name in ("experiments/studies/ablation.yaml", "studies/ablation", "ablation.yaml", "ablation"):
        assert config.find_file(Path(name)) == ablation
    with pytest.raises(ConfigError, match=r"several files .*ml-100k/embeddings.yaml.*Name its folder"):
        config.find_file(Path("embeddings"))
    with pytest.raises(ConfigError, match=r"Did you mean 'studies/ablation.yaml'"):
        config.find_file(Path("studies/ablatoin.yaml"))
    (tmp_path / "ablation").write_text("")
    assert config.find_file(Path("ablation")) == Path("ablation")
    with pytest.raises(ConfigError):
        config.find_file(Path("model_config"))
