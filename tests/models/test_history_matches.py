"""What history and target have in common: against counts by plain Python, in every model, exported and scored."""

import math

import numpy as np
import pytest
import torch
from conftest import MODELS, VOCAB, item_table_feature_map, make_feature_map, random_item_batch

from qin_zoo.batch import ItemBatch
from qin_zoo.errors import ModelError
from qin_zoo.layers import HistoryMatches
from qin_zoo.models.inputs import MATCHES
from qin_zoo.registry import create_model

RATED = {"type": "categorical", "source": "history", "padding_idx": 0, "vocab_size": 4}


def problem():
    """A feature map with a rating beside the history, and a batch of short vocabularies, so that much is shared."""
    vocab = {**VOCAB, "item_id": 9, "item_tags": 6}
    features = item_table_feature_map(vocab, 4)
    features.features["rated"] = RATED
    batch = random_item_batch(vocab, 4, batch=40, length=8)
    history = batch.history.clone()
    history[:5, :] = 0
    history[5:12, :3] = 0
    g = torch.Generator().manual_seed(1)
    rated = torch.randint(0, 4, history.shape, generator=g) * (history != 0)
    tags = torch.randint(0, 6, (9, 5), generator=g)
    tags[0], tags[3] = 0, 0  # padding, and an item without tags
    vectors = torch.randn(9, 4, generator=g)
    vectors[0] = 0
    items = {"item_id": torch.arange(9), "item_tags": tags, "item_emb_d128": vectors}
    return features, ItemBatch(batch.rows, history, batch.target, items, {"rated": rated})


def counted(batch, row):
    """The numbers of one row, from the definition."""
    target = int(batch.target[row])
    places = [place for place, item in enumerate(batch.history[row].tolist()) if item]
    code = {place: max(int(batch.beside["rated"][row, place]) - 1, 0) / 2 for place in places}
    mean = sum(code.values()) / max(len(places), 1)
    newest = places[-5:]
    numbers = [math.log1p(len(places)), mean, sum(code[p] for p in newest) / max(len(newest), 1)]

    def tags(item):
        return {tag for tag in batch.items["item_tags"][item].tolist() if tag}

    def of_tags(item):
        wanted = [tag for tag in batch.items["item_tags"][target].tolist() if tag]
        return sum(tag in tags(item) for tag in wanted) / max(len(wanted), 1)

    def of_vectors(item):
        a, b = (batch.items["item_emb_d128"][i].double().numpy() for i in (item, target))
        length = np.linalg.norm(a) * np.linalg.norm(b)
        return max(0.0, a @ b / length) ** 2 if length else 0.0

    for weight in (lambda item: float(item == target and target > 0), of_tags, of_vectors):
        weights = {place: weight(int(batch.history[row, place])) for place in places}
        total = sum(weights.values())
        numbers += [math.log1p(total), 4 * sum(w * (code[p] - mean) for p, w in weights.items()) / (1 + total)]
    return numbers


def seen(model, batch):
    """The numbers before they are mapped."""
    found = []
    handle = model.history_matches.linear.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    x = model._inputs(batch)
    handle.remove()
    return found[0], x


@pytest.mark.parametrize("triple", [False, True])
def test_as_counted_by_hand(triple):
    features, batch = problem()
    model = create_model("DIN", features, history_matches=True, embedding_dim=6).eval()
    numbers, x = seen(model, batch.triple() if triple else batch)
    want = np.array([counted(batch, row) for row in range(len(batch))])
    np.testing.assert_allclose(numbers.detach().numpy(), want, atol=1e-5)
    assert (want.std(axis=0) > 0).all()
    assert (list(model.context_dims)[-1], model.context_dims[MATCHES]) == (MATCHES, 6)
    assert x.context.shape == (len(batch), model.context_dim)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_it(name):
    """It scores rows, learns by them, and without it nothing is changed."""
    features, batch = problem()
    torch.manual_seed(0)
    model = create_model(name, features, history_matches=True, embedding_dim=8)
    model.compute_loss(model(batch), model.get_labels(batch)).backward()
    assert model.history_matches.linear.weight.grad.abs().sum() > 0
    with torch.no_grad():
        logits = model.eval()(batch)["logits"]
        torch.testing.assert_close(logits, model(batch.triple())["logits"], rtol=1e-4, atol=1e-5)
    assert "history_matches.linear.weight" in model.state_dict()
    assert "history_matches" not in " ".join(create_model(name, features, embedding_dim=8).state_dict())


def test_a_history_that_all_rows_share():
    """One for all candidates of a request: the same as written out."""
    layer = HistoryMatches(1, [3], 2)
    g = torch.Generator().manual_seed(0)
    mask, codes, weight = torch.ones(4, 6, dtype=torch.bool), torch.randint(0, 3, (1, 6), generator=g), torch.rand(4, 6)
    torch.testing.assert_close(layer(mask, [weight], [codes]), layer(mask, [weight], [codes.expand(4, 6)]))


def test_named_fields_have_none():
    fields = make_feature_map({"item": {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 5}})
    with pytest.raises(ModelError, match="history_matches: expected a dataset with an item table"):
        create_model("DIN", fields, history_matches=True)
