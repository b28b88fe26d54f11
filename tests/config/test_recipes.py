"""Recipes: what they choose, and what goes before them."""

import shutil

import numpy as np
import polars as pl
import pytest

from qin_zoo.config.recipes import recipe
from qin_zoo.config.signature import constructor_params
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.registry import MODEL_ZOO, create_model, discover, get_model

OURS = {name for name, entry in discover().items() if entry.origin.startswith(str(MODEL_ZOO))}
TAKEN = ("embedding_dim", "net_dropout", "dnn_hidden_units")


@pytest.mark.parametrize(
    ("rows", "batch_size", "looks"),
    [(3, 32, 1), (3000, 32, 47), (20_000, 128, 78), (80_000, 256, 156), (800_167, 1024, 391), (3_600_000, 4096, 439)],
)
def test_looks_and_batches_follow_the_rows(rows, batch_size, looks):
    chosen = recipe("small", rows, TAKEN)
    assert (chosen["batch_size"], chosen["eval_steps"]) == (batch_size, looks)
    assert chosen["dnn_hidden_units"] == [128, 64]
    assert recipe("medium", rows, TAKEN)["dnn_hidden_units"] == [256, 128]
    assert recipe("published", rows, TAKEN) == {}
    assert "dnn_hidden_units" not in recipe("small", rows, ["embedding_dim"])


def test_no_batch_has_one_row():
    """Of which batch normalisation, which steady() asks for, has no statistics."""
    for rows in [*range(2, 3000), 9601, 19_201, 76_801, 33 * 32 + 1, 3_600_001]:
        assert rows % recipe("small", rows, ())["batch_size"] != 1, rows


def test_few_rows_get_steps_enough():
    for rows in (3, 300, 5000):
        chosen = recipe("small", rows, TAKEN)
        steps = -(-rows // chosen["batch_size"])
        assert chosen["epochs"] * steps >= 1000
        assert chosen["early_stop_patience"] * chosen["eval_steps"] >= 150
    assert recipe("small", 80_000, TAKEN)["epochs"] == 10
    assert recipe("small", 1000, TAKEN, batch_size=600)["eval_steps"] == 1, "two looks at the batches that are settled"


def test_no_hidden_layers_are_forgotten():
    for name in OURS:
        accepted = constructor_params(get_model(name))
        hidden = {key for key in accepted if key.endswith("hidden_units")}
        assert hidden <= recipe("small", 1000, accepted).keys(), name


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_every_model_can_be_built(kind, feature_map):
    for name in sorted(OURS - {"Transformer_DCN_Quant"}):  # which needs codes among the features
        chosen = recipe(kind, 1000, constructor_params(get_model(name)))
        sizes = {key: value for key, value in chosen.items() if key not in recipe(kind, 1000, ())}
        model = create_model(name, feature_map, **sizes)
        assert model.item_dims["item_id"] >= sizes["embedding_dim"], name  # more for FCN, of each head, and DeepFM


@pytest.fixture
def folder(tmp_path):
    """A configuration with keys in Base and in a block, over 1,000 rows."""
    (tmp_path / "model_config.yaml").write_text(
        "Base: {learning_rate: 0.5}\n"
        "X: {model: DIN, dataset_id: d, embedding_dim: 40, recipe: small}\n"
        "Y: {model: DIN, dataset_id: d, embedding_dim: 40}\n"
    )
    pl.DataFrame({"c": np.arange(1000)}).write_parquet(tmp_path / "train.parquet")
    (tmp_path / "dataset_config.yaml").write_text(
        f"d:\n    data_format: parquet\n    train_data: {tmp_path}/train.parquet\n    item_info: i.parquet\n"
        "    feature_cols: [{name: c, active: True, dtype: int, type: categorical, source: item, vocab_size: 9}]\n"
        "    label_col: {name: label, dtype: float}\n"
    )
    return tmp_path


def test_what_is_written_nearer_goes_first(folder):
    in_block = prepare("X", folder).params
    assert in_block["embedding_dim"] == 40, "the block's own"
    assert in_block["learning_rate"] == 1e-3, "before Base's"
    assert in_block["embedding_regularizer"] == 1e-3, "before the model's default, none"
    assert in_block["batch_size"] == 32, "before the runner's default"
    assert in_block.origin["batch_size"] == "recipe small"
    given = prepare("Y", folder, overrides=["recipe=medium", "net_dropout=0.7"]).params
    assert (given["embedding_dim"], given["net_dropout"]) == (32, 0.7)
    assert prepare("X", folder, overrides=["recipe=published"]).params["learning_rate"] == 0.5
    assert "eval_steps" not in prepare("Y", folder).params


def test_rows_are_those_of_the_data_that_is_given(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    pl.DataFrame({"c": np.zeros(300_000, np.int8)}).write_parquet(other / "train.parquet")
    assert prepare("X", folder, data=other).params["batch_size"] == 512
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet: no such file"):
        prepare("X", folder)
    shutil.copy(other / "train.parquet", folder / "train.parquet")
    with pytest.raises(ConfigError, match="recipe"):
        prepare("X", folder, overrides=["recipe=large"])
