"""Warm starts: old rows stay, new ones begin anew."""

import pytest
import torch
from conftest import VOCAB, item_table_feature_map

import qin_zoo
from qin_zoo.errors import CheckpointError
from qin_zoo.models.weights import read_state, warm_start


def build(vocab, tmp_path, name="QIN", seed=0, **params):
    torch.manual_seed(seed)
    options = {"model_id": "t", "embedding_dim": 4, "model_root": str(tmp_path), "verbose": 0, **params}
    return qin_zoo.create_model(name, item_table_feature_map(vocab, 8), **options)


@pytest.fixture
def old(tmp_path):
    model = build(VOCAB, tmp_path)
    model.save_weights(str(tmp_path / "old.model"))
    return model.state_dict(), str(tmp_path / "old.model")


def test_the_same_tables(old, tmp_path):
    state, file = old
    model = build(VOCAB, tmp_path, seed=1)
    done = warm_start(model, file)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert (done.kept, done.grown, done.fresh, done.unused) == (list(state), {}, [], [])


def test_a_grown_table(old, tmp_path):
    state, file = old
    model = build({**VOCAB, "item_id": VOCAB["item_id"] + 7}, tmp_path, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    done = warm_start(model, file)
    (name,) = done.grown
    rows = VOCAB["item_id"]
    assert done.grown[name] == (rows, rows + 7)
    after = model.state_dict()
    assert torch.equal(after[name][:rows], state[name])
    assert torch.equal(after[name][rows:], before[name][rows:])
    assert all(torch.equal(after[k], state[k]) for k in done.kept)
    assert f"{name}: {rows} rows taken over, 7 new" in done.lines()


def test_other_layers_begin_anew(old, tmp_path):
    _, file = old
    model = build(VOCAB, tmp_path, num_layers=5)
    done = warm_start(model, file)
    assert done.kept
    assert all("layers.3" in n or "layers.4" in n or ".3." in n or ".4." in n for n in done.fresh)


def test_what_is_refused(old, tmp_path):
    _, file = old
    with pytest.raises(CheckpointError, match=r"item_id\.weight has [\d,]+ rows, the model 5\. A table may grow, not"):
        warm_start(build({**VOCAB, "item_id": 5}, tmp_path), file)
    with pytest.raises(CheckpointError, match="no weight of it fits"):
        warm_start(torch.nn.Linear(3, 2), file)
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        read_state(str(tmp_path / "none"))
    (tmp_path / "text").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        warm_start(build(VOCAB, tmp_path), str(tmp_path / "text"))
