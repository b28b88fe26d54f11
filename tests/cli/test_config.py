"""`qin-zoo config`: every key with its value, its place and its meaning, for the zoo's models and for others."""

import json
import re
import textwrap

import pytest

from qin_zoo.cli import main
from qin_zoo.config.schema import known_params

PLUGIN = '''
from fuxictr.pytorch.models import BaseModel


class OldDIN(BaseModel):
    """A model for FuxiCTR.

    Args:
        depth (int): How deep it is.
    """

    def __init__(self, feature_map, depth=3, din_target_field=[("item_id", "cate_id")], **kwargs):
        super().__init__(feature_map, **kwargs)
'''
MODEL = """
    Base: {model_root: ./checkpoints/, epochs: 3}
    OldDIN_1:
        model: OldDIN
        dataset_id: tiny
        din_target_field: !!python/tuple [item, cate]
        patience: 4
        use_hdf5: true
        width: 8
        learning_rate: 1.e-3
    """
DATASET = """
    tiny:
        data_format: csv
        train_data: ./train.csv
        feature_cols:
        - {name: [item, cate], active: true, dtype: str, type: categorical}
        label_col: {name: clk, dtype: float}
    """


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model_config.yaml").write_text(textwrap.dedent(MODEL))
    (tmp_path / "old/dataset_config.yaml").write_text(textwrap.dedent(DATASET))


def shown(capsys, *args) -> str:
    main_status(*args)
    return capsys.readouterr().out


def main_status(*args) -> int:
    with pytest.raises(SystemExit) as done:
        main(["config", *args])
    return done.value.code or 0


OLD = ("OldDIN_1", "--config", "old", "--plugin", "plugin.py")


def test_json_holds_every_key_with_its_source(capsys):
    whole = json.loads(shown(capsys, *OLD, "--json", "--set", "seed=5"))
    keys = {p["key"]: p for p in whole["parameters"]}
    assert set(known_params()) <= keys.keys() | whole["not_set"].keys()
    assert keys["epochs"]["value"] == 3
    assert keys["epochs"]["source"] == "old/model_config.yaml, line 2, Base"
    assert keys["epochs"]["meaning"] == known_params()["epochs"]
    assert keys["seed"] == {**keys["seed"], "value": 5, "source": "command line"}
    assert keys["early_stop_patience"] == {**keys["early_stop_patience"], "value": 4, "former": "patience"}
    assert keys["early_stop_patience"]["source"].endswith("line 7")
    assert keys["depth"] == {
        "key": "depth", "value": 3, "source": "default of OldDIN", "former": "", "meaning": "How deep it is.",
    }  # fmt: skip
    assert keys["din_target_field"]["value"] == [["item", "cate"]]
    assert keys["on_nan"]["source"] == "default of the runner"
    assert keys["train_fraction"]["source"] == "default of the loader"
    assert keys["width"]["value"] == 8  # FuxiCTR hands it to **kwargs
    assert "Not a parameter" in keys["width"]["meaning"]
    assert len(whole["notes"]) == 3
    assert any("use_hdf5" in note for note in whole["notes"])


@pytest.mark.parametrize("width", [80, 150])
def test_the_page_fits_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(capsys, *OLD)
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"early_stop_patience.*4 +a:7, as patience", text)
    assert re.search(r"epochs.*3 +a:2 Base", text)
    assert "item, cate: categorical, dtype str" in text
    assert "Passes over the training rows" in text
    assert "Mapped and left out" in text


def test_the_zoo_s_own_answers_which_keys_there_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    text = shown(capsys, "QIN_sample")
    for key in ("epochs", "batch_size", "max_len", "seed", "on_nan", "train_fraction", "num_row", "padding"):
        assert re.search(rf"^{key} ", text, re.MULTILINE), key
    assert "Mapped" not in text


def test_strict(capsys):
    assert main_status(*OLD, "--strict") == 1
    assert "Unknown key 'width'" in capsys.readouterr().err
    assert main_status("QIN_sample", "--set", "epoch=3") == 1  # the zoo's own are strict as they are
    assert "Did you mean 'epochs'" in capsys.readouterr().err
