"""`unknown_rate`: in training some rows' users are as those that nobody knows."""

import json
import shutil

import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch
from foreign import foreign
from named_fields import AMAZON, made
from scipy.stats import binomtest

from qin_zoo.cli import main
from qin_zoo.data.raw_fields import raw_fields
from qin_zoo.data.specs import feature_specs
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.predict import feed_split
from qin_zoo.experiment.prepare import build_model
from qin_zoo.registry import create_model

ROWS, USERS = 4000, 50


def looked_up(model, feature, run):
    """The ids that a feature's table is asked for meanwhile."""
    seen = []
    table = next(module for name, module in model.named_modules() if name.endswith(f"embedding_layers.{feature}"))
    handle = table.register_forward_pre_hook(lambda _, ids: seen.append(ids[0].clone()))
    run()
    handle.remove()
    return torch.cat(seen).flatten()


@pytest.mark.parametrize("name", ["QIN", "DIN", "MLP"])
@pytest.mark.parametrize("rate", [0.3, 0.0, None])
def test_so_many_rows_and_only_in_training(name, rate):
    features = item_table_feature_map(VOCAB, 8)
    features.features["user"] = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": USERS}
    if rate is not None:
        features.features["user"]["unknown_rate"] = rate
    batch = random_item_batch(VOCAB, 8, batch=ROWS)
    users = batch.rows["user"] = torch.arange(ROWS) % (USERS - 1) + 1
    model = create_model(name, features)
    model.eval()
    assert torch.equal(looked_up(model, "user", lambda: model(batch)), users)
    model.train()
    found = looked_up(model, "user", lambda: model(batch))
    assert torch.equal(found[found != 0], users[found != 0])
    unknown = int((found == 0).sum())
    assert binomtest(unknown, ROWS, rate).pvalue > 1e-6 if rate else unknown == 0
    if rate:
        again = looked_up(model, "user", lambda: model(batch))
        assert not torch.equal(found, again), "others in the next step"
    assert torch.equal(batch.rows["user"], users), "the batch stays as it is"


@pytest.mark.parametrize("where", ["feature_cols", "feature_specs"])
def test_encoded_files_have_a_number_for_the_unknown(where, tmp_path):
    columns = [{"name": "user_id", "dtype": "str", "type": "categorical"}, *AMAZON[1:]]
    columns[1:1] = [{"name": ["item_id", "cate_id"], "dtype": "str", "type": "categorical"}]
    specs = [{"name": "user_id", "unknown_rate": 0.9}] if where == "feature_specs" else None
    columns[0] |= {} if specs else {"unknown_rate": 0.9}
    _, dataset, model, _ = made(tmp_path, "amazon", columns, "DeepFM", hidden_units=[8], feature_specs=specs)
    (file,) = tmp_path.rglob("feature_vocab.json")
    unknown = json.loads(file.read_text())["user_id"]["__OOV__"]
    (batch,) = feed_split(dataset, "train", model)
    found = looked_up(model.train(), "user_id", lambda: model(batch))
    assert 0.8 < (found == unknown).float().mean() < 1
    found = looked_up(model.eval(), "user_id", lambda: model(batch))
    assert (found == unknown).float().mean() < 0.1


@pytest.mark.parametrize("name", ["FieldsNet", "TripleNet"])
def test_models_from_elsewhere(name, sample, tiny_seq, tmp_path):
    """Whose tables are asked by FuxiCTR's own embedding layer."""
    feature, data = "likes_level", sample
    if name == "FieldsNet":
        feature, data = "userid", tmp_path / "tiny_seq"
        shutil.copytree(tiny_seq, data, ignore=shutil.ignore_patterns(".*"))
        with pytest.raises(DataError, match=r"feature_vocab\.json"):  # the number of the unknown is nowhere
            foreign(name, data, tmp_path, feature_specs=[{"name": feature, "unknown_rate": 0.9}]).open_dataset()
        (data / "feature_vocab.json").write_text(json.dumps({feature: {"__PAD__": 0, "__OOV__": 25}}))
    prepared = foreign(name, data, tmp_path, feature_specs=[{"name": feature, "unknown_rate": 0.9}])
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    batch = next(iter(dataset.loader("train")))
    rows = batch if name == "FieldsNet" else batch[0]
    unknown = 25 if name == "FieldsNet" else 0
    before = rows[feature].clone()
    found = looked_up(model.train(), feature, lambda: model(batch))
    assert 0.75 < (found == unknown).float().mean() < 0.99
    assert torch.equal(looked_up(model.eval(), feature, lambda: model(batch)), before)
    assert torch.equal(rows[feature], before), "the batch stays as it is"


def test_info_says_what_is_taken(capsys):
    with pytest.raises(SystemExit):
        main(["info", "unknown_rate"])
    assert "at least 0 and below 1" in capsys.readouterr().out


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, True, "0.3", [0.3]])
def test_no_share(rate):
    column = {"name": "user", "type": "categorical", "unknown_rate": rate}
    with pytest.raises(ConfigError, match="'user': expected unknown_rate to be a number of at least 0 and below 1"):
        feature_specs({"dataset_id": "d", "feature_cols": [column]})


@pytest.mark.parametrize("kind", [{"type": "sequence"}, {"type": "categorical", "source": "history"}])
def test_of_ids_of_rows_only(kind):
    column = {"name": "tags", "unknown_rate": 0.3, **kind}
    with pytest.raises(ConfigError, match="'tags': expected unknown_rate of a feature of type categorical with an id"):
        feature_specs({"dataset_id": "d", "feature_cols": [column]})


def test_of_no_buckets():
    column = {"name": "price", "dtype": "float", "type": "categorical", "category_processor": "quantile_bucket"}
    with pytest.raises(ConfigError, match="'price': expected unknown_rate of a feature"):
        raw_fields({"dataset_id": "d", "feature_cols": [{**column, "unknown_rate": 0.3}]})
