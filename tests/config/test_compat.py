"""Configurations of other years: present names, field lists in FuxiCTR's meaning, and one line for each change."""

import json
import textwrap

import fuxictr.utils
import pytest
import torch

from qin_zoo import ZooModel
from qin_zoo.config.compat import translate
from qin_zoo.config.experiments import apply_overrides, load_experiment
from qin_zoo.config.schema import check_params
from qin_zoo.errors import ConfigError
from qin_zoo.fuxi import BaseModel

# In the form of a tuner's results for FuxiCTR 1.0, with the keys that the public leaderboard's files have.
LEADERBOARD = """
    DIN_tiny_001_ab12cd34:
        batch_size: 10000
        dataset_id: tiny_ab12
        debug: false
        din_sequence_field: !!python/tuple [clicks, cate_clicks]
        din_target_field: !!python/tuple [item, cate]
        embedding_dim: [16]
        embedding_dropout: 0
        every_x_epochs: 1
        metrics: [AUC, logloss]
        model: DIN
        model_id: DIN_base
        monitor: {AUC: 1, logloss: -1}
        ordered_features: null
        partition_block_size: -1
        patience: 2
        pickle_feature_encoder: true
        use_hdf5: true
        version: pytorch
        workers: 3
    """
DATASET = """
    tiny_ab12:
        data_block_size: -1
        data_format: csv
        data_root: ../data/Tiny/
        feature_cols:
        - {active: true, dtype: int, name: group_id, preprocess: copy_from(user), remap: false, type: meta}
        -   active: true
            dtype: [str, int]
            name: [item, cate]
            type: categorical
        - {active: true, dtype: float, encoder: numeric_bucket, name: price, num_buckets: 10, type: categorical}
        - {active: true, dtype: str, encoder: MaskedSumPooling, max_len: 3, name: clicks, splitter: ^, type: sequence}
        - {active: true, dtype: list, encoder: null, max_len: 3, name: cate_clicks, type: sequence}
        label_col: {dtype: float, name: clk}
        min_categr_count: 2
        train_data: ../data/Tiny/train.csv
        valid_data: ../data/Tiny/valid.csv
    """


class Foreign(BaseModel):
    """A model of FuxiCTR's kind, with field lists as some of them declare them."""

    def __init__(
        self,
        feature_map,
        learning_rate=1e-3,
        embedding_dim=10,
        target_field=("item_id", "cate_id"),
        bst_target_field=[("item_id", "cate_id")],  # noqa: B006 - as FuxiCTR writes it
        neg_seq_field=None,
        embedding_dropout=0.5,
        **kwargs,
    ):
        super().__init__(feature_map, **kwargs)


@pytest.fixture
def load(tmp_path):
    """Writes and loads the experiment, with changes."""

    def loaded(**changes):
        (tmp_path / "model_config.yaml").write_text(textwrap.dedent(LEADERBOARD))
        (tmp_path / "dataset_config.yaml").write_text(textwrap.dedent(DATASET))
        return apply_overrides(load_experiment(tmp_path, "DIN_tiny_001_ab12cd34"), changes)

    return loaded


def test_a_leaderboard_s_configuration_is_read(load):
    params = check_params(load(), ZooModel)
    assert params["early_stop_patience"] == 2
    assert params["num_workers"] == 3
    assert params["eval_steps"] is None  # once an epoch
    assert params["embedding_dim"] == 16
    assert params["data_block_size"] == 0
    assert params["target_field"] == [("item", "cate")]
    assert params["sequence_field"] == [("clicks", "cate_clicks")]
    gone = {"debug", "use_hdf5", "version", "partition_block_size", "embedding_dropout", "ordered_features"}
    assert not gone & set(params)
    columns = {str(column["name"]): column for column in params["feature_cols"]}
    assert columns["item"]["dtype"] == "str"
    assert columns["cate"]["dtype"] == "int"
    assert columns["price"]["category_processor"] == "quantile_bucket"
    assert columns["clicks"]["feature_encoder"] == "layers.MaskedSumPooling()"
    assert columns["cate_clicks"]["feature_encoder"] is None
    assert columns["cate_clicks"]["dtype"] == "str"
    assert not any("encoder" in column for column in columns.values())


def test_it_is_what_fuxictr_reads(load, tmp_path):
    expid = "DIN_tiny_001_ab12cd34"
    assert dict(load()) == fuxictr.utils.load_config(str(tmp_path), expid)
    assert load()["din_target_field"] == ("item", "cate")


def test_every_change_is_said_in_one_line(load, tmp_path):
    params = check_params(load(), ZooModel)
    said = "\n".join(params.notes)
    assert f"patience: 2 is taken as early_stop_patience: 2 ({tmp_path / 'model_config.yaml'}, line 17)." in said
    assert "every_x_epochs: 1 is taken as eval_steps: null" in said
    assert "Left out: debug, partition_block_size, pickle_feature_encoder, use_hdf5, version (" in said
    assert "Left out: embedding_dropout, ordered_features (without effect" in said
    assert "feature_cols, clicks: encoder:" in said
    for key in ("din_target_field", "data_block_size", "embedding_dim", "workers", "numeric_bucket", "dtype"):
        assert sum(key in note for note in params.notes) == 1, key
    assert params.former["early_stop_patience"] == "patience"
    assert params.origin["early_stop_patience"] == f"{tmp_path / 'model_config.yaml'}, line 17"


def test_what_was_checked_passes_again_unchanged(load):
    for model in (ZooModel, Foreign):
        params = check_params(load(bst_target_field=[["item", "cate"], "price"]) if model is Foreign else load(), model)
        again = check_params(json.loads(json.dumps(params)), model)  # as a run's record holds it
        assert again == params
        assert not [note for note in again.notes if not note.startswith("Unknown to")]


@pytest.mark.parametrize(
    ("written", "checked"),
    [
        ("item", "item"),
        (["item"], ["item"]),
        (["item", "cate"], ["item", "cate"]),  # two targets, each for itself
        (("item", "cate"), [("item", "cate")]),  # one, of two parts
        ([("item", "cate"), "price"], [("item", "cate"), "price"]),
        ([["item", "cate"], "price"], [("item", "cate"), "price"]),
        ([("item",)], ["item"]),
        ([], []),
        (None, None),
    ],
)
def test_field_lists(load, written, checked):
    changes = {"din_target_field": None, "din_sequence_field": None, "target_field": written}
    assert check_params(load(**changes), ZooModel)["target_field"] == checked


@pytest.mark.parametrize(
    "written", [(), [()], [[]], ["item", 3], {"item": 1}, [[["item"]]], 3, True, ["../x"], [("item", "")], ["nobody"]]
)
def test_what_is_no_field_list(load, written):
    with pytest.raises(ConfigError, match="target_field"):
        check_params(load(target_field=written), ZooModel)


@pytest.mark.parametrize(
    ("key", "written", "handed"),
    [
        # FuxiCTR's DMR and DMIN look a field up that is no tuple, its BST and DIN walk through a list
        ("target_field", ("item", "cate"), ("item", "cate")),
        ("target_field", [["item", "cate"]], ("item", "cate")),
        ("target_field", ["item", "cate"], ("item", "cate")),
        ("target_field", "item", "item"),
        ("bst_target_field", ("item", "cate"), [("item", "cate")]),
        ("bst_target_field", [["item", "cate"], "price"], [("item", "cate"), "price"]),
        ("neg_seq_field", ("item", "cate"), [("item", "cate")]),
        ("neg_seq_field", None, None),
        ("other_field", ("item", "cate"), [("item", "cate")]),  # for **kwargs
        ("other_units", [[64], [32]], [[64], [32]]),
    ],
)
def test_models_from_elsewhere_get_field_lists_in_the_form_of_their_defaults(load, key, written, handed):
    params = check_params(load(din_target_field=None, **{key: written}), Foreign)
    assert params[key] == handed
    assert type(params[key]) is type(handed)
    assert check_params(json.loads(json.dumps(params)), Foreign)[key] == handed


def test_a_key_that_the_model_declares_is_the_model_s(load):
    params = check_params(load(embedding_dropout=0.2, din_target_field="item"), Foreign)
    assert params["embedding_dropout"] == 0.2
    assert params["target_field"] == "item"  # of the present name, which this model declares


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"every_x_epochs": 0.5}, "once an epoch, or every eval_steps batches; for one every 0.5 epochs"),
        ({"eval_interval": 2}, "for one every 2 epochs give eval_steps"),
        ({"embedding_dropout": 0.1}, "without 0.1 it is not the model of then"),
        ({"ordered_features": ["item"]}, "not the model of then"),
        ({"aux_loss_alpha": 0.5}, "without 0.5"),
        ({"embedding_dim": [16, 32]}, "--set embedding_dim="),
    ],
)
def test_what_has_no_present_meaning_is_an_error_or_a_warning(load, change, said):
    with pytest.raises(ConfigError, match=said):
        check_params(load(**change), ZooModel)

    class Undeclared(BaseModel):
        def __init__(self, feature_map, **kwargs):
            super().__init__(feature_map, **kwargs)

    params = check_params(load(**change), Undeclared)
    assert [note for note in params.notes if said in note and note.startswith("Unknown to Undeclared")]
    (key,) = change
    assert params[key] == change[key]  # FuxiCTR would hand it on
    with pytest.raises(ConfigError, match=said):
        check_params(load(**change, strict=True), Undeclared)


@pytest.mark.parametrize(
    ("written", "now"),
    [
        ("lambda w: nn.init.normal_(w, std=1e-4)", "partial(nn.init.normal_, std=1e-4)"),
        ("lambda x: torch.nn.init.xavier_normal_(x)", "torch.nn.init.xavier_normal_"),
    ],
)
def test_initializers_of_fuxictr_1(load, written, now):
    from fuxictr.pytorch.torch_utils import get_initializer

    checked = check_params(load(embedding_initializer=written), ZooModel)["embedding_initializer"]
    assert checked == now
    weights = [torch.empty(50, 4), torch.empty(50, 4)]
    for text, weight in zip((written, checked), weights):
        torch.manual_seed(0)
        get_initializer(text)(weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "written",
    [
        "lambda w: print(w)",
        "lambda w: nn.init.normal_(v, std=1)",
        "lambda w: nn.init.normal_(w, std=open('x', 'w'))",
        "lambda w: nn.init.normal_(w, __import__)",
        "lambda w: (nn.init.normal_(w), print(w))",
    ],
)
def test_other_lambdas_are_refused(load, written):
    with pytest.raises(ConfigError, match=r"nn\.init\.NAME_"):
        check_params(load(embedding_initializer=written), ZooModel)


def test_auxiliary_keys_go_where_the_loss_is_off(load):
    auxiliary = {"aux_loss_alpha": 0, "aux_hidden_units": [100], "dien_neg_seq_field": [], "item_info_fields": 2}
    params = check_params(load(**auxiliary), ZooModel)
    assert not set(auxiliary) & set(params)


def test_fields_of_a_dataset_with_an_item_table_are_information(load):
    params = check_params(load(item_info="./item_info.parquet"), ZooModel)
    assert "target_field" not in params
    assert any("item table" in note for note in params.notes)


def test_the_present_name_counts_unless_the_old_one_is_on_the_command_line(load):
    both = load()
    both["early_stop_patience"] = 9
    assert check_params(both, ZooModel)["early_stop_patience"] == 9
    assert any("early_stop_patience is given too" in note for note in check_params(both, ZooModel).notes)
    assert check_params(apply_overrides(both, {"patience": 4}), ZooModel)["early_stop_patience"] == 4


def test_a_stray_key_of_a_column(load):
    params = load()
    params["feature_cols"] = [*params["feature_cols"], {"name": "x", "dtype": "int", "type": "meta", "comment": "y"}]
    with pytest.raises(ConfigError, match="unknown key 'comment'"):
        check_params(params, ZooModel)
    assert any("comment in feature_cols" in note for note in check_params(params, Foreign).notes)


def test_present_configurations_are_left_alone():
    params = {"epochs": 3, "embedding_dim": 4, "data_block_size": 0, "feature_cols": [{"name": "a", "dtype": "int"}]}
    done, _ = translate(params, [], ["epochs", "embedding_dim", "data_block_size", "feature_cols"])
    assert done == params
    assert not done.notes
