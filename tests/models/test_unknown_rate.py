"""`unknown_rate`: in training some rows' users are as those that nobody knows."""

import json

import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch
from named_fields import AMAZON, made
from scipy.stats import binomtest

from qin_zoo.data.specs import feature_specs
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.predict import feed_split
from qin_zoo.registry import create_model

ROWS, USERS = 4000, 50


def looked_up(model, feature, run):
    """The ids that a feature's table is asked for meanwhile."""
    seen = []
    table = model.embedding_layer.embedding_layer.embedding_layers[feature]
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


def test_encoded_files_have_a_number_for_the_unknown(tmp_path):
    columns = [{"name": "user_id", "dtype": "str", "type": "categorical", "unknown_rate": 0.9}, *AMAZON[1:]]
    columns[1:1] = [{"name": ["item_id", "cate_id"], "dtype": "str", "type": "categorical"}]
    _, dataset, model, _ = made(tmp_path, "amazon", columns, "DeepFM", hidden_units=[8])
    (file,) = tmp_path.rglob("feature_vocab.json")
    unknown = json.loads(file.read_text())["user_id"]["__OOV__"]
    (batch,) = feed_split(dataset, "train", model)
    found = looked_up(model.train(), "user_id", lambda: model(batch))
    assert 0.8 < (found == unknown).float().mean() < 1
    found = looked_up(model.eval(), "user_id", lambda: model(batch))
    assert (found == unknown).float().mean() < 0.1


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, True, "0.3", [0.3]])
def test_no_share(rate):
    column = {"name": "user", "type": "categorical", "unknown_rate": rate}
    with pytest.raises(ConfigError, match="'user': expected unknown_rate to be a number of at least 0 and below 1"):
        feature_specs({"dataset_id": "d", "feature_cols": [column]})


def test_of_ids_only():
    column = {"name": "tags", "type": "sequence", "unknown_rate": 0.3}
    with pytest.raises(ConfigError, match="unknown_rate is of features of type categorical, not sequence"):
        feature_specs({"dataset_id": "d", "feature_cols": [column]})
