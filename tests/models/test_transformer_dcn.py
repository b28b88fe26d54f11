"""Transformer-DCN against its formula, and training on both kinds of input."""

from dataclasses import replace

import pytest
import reference_transformer as reference
import torch
from conftest import VOCAB, item_table_feature_map, make_feature_map, random_item_batch

import qin_zoo
from qin_zoo.layers import dense

SMALL = {
    "embedding_dim": 4,
    "dcn_cross_layers": 2,
    "dcn_hidden_units": [8, 6],
    "mlp_hidden_units": [5],
    "num_heads": 2,
    "transformer_layers": 2,
    "dim_feedforward": 7,
    "first_k_cols": 2,
    "learning_rate": 1e-2,
}
CONVENTIONS = ["published", "history"]


def build(feature_map, **params):
    torch.manual_seed(0)
    return qin_zoo.create_model("Transformer_DCN", feature_map, **{**SMALL, **params})


def train(model, batch, steps=25):
    """Losses of steps on one batch."""
    model.train()
    model._steps_per_epoch, model._max_gradient_norm = steps, 10.0
    losses = []
    for model._batch_index in range(steps):
        losses.append(model.train_step(batch).item())
    return losses


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equals_the_reference(feature_map, convention, training):
    batch = random_item_batch(VOCAB, 8, batch=6, length=4)
    model = build(feature_map, mask_convention=convention, embedding_initializer="partial(nn.init.normal_, std=0.5)")
    model.train(training)
    x = model._inputs(batch)
    plain = reference.transformer_dcn(model, x, dense(x.history))
    fast = model.logits(x)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)
    names, over = zip(*model.named_parameters())
    want, got = (torch.autograd.grad(out.square().sum(), over, retain_graph=True) for out in (plain, fast))
    for name, g, w in zip(names, got, want):
        torch.testing.assert_close(g, w, atol=1e-5 * max(1.0, w.abs().max().item()), rtol=1e-3, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_checkpoint_of_the_published_shape(convention, training, tmp_path):
    """LongCTR's TransAct, from which the winner's code comes: normalised in the DNN, dropped out there, not in the MLP.

    It hides the padding, and given the opposite of the mask, the items, as the winner's does.
    """
    from model_zoo.LongCTR.TransAct import TransAct

    feature_map, batch = item_table_feature_map(VOCAB, 8), random_item_batch(VOCAB, 8, length=4)
    batch.history[:, -1] = 5  # ours is 0 where there is nothing to attend to
    feature_map.default_emb_dim = SMALL["embedding_dim"]
    params = {**SMALL, "batch_norm": True, "net_dropout": 0.2}
    run = {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["AUC"], "verbose": 0}
    theirs = TransAct(feature_map, model_root=str(tmp_path), **run, **params)
    path = tmp_path / "theirs.model"
    renamed = {n.replace("transformer_encoders", "transformer_encoder"): w for n, w in theirs.state_dict().items()}
    torch.save(renamed, path)
    ours = build(feature_map, mask_convention=convention, **params)
    ours.load_weights(str(path))
    for model in (ours, theirs):
        model.train(training)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    rows, items, mask = batch.triple()
    want = theirs((rows, items, mask if convention == "history" else 1 - mask.long()))["y_pred"]
    torch.testing.assert_close(ours(batch)["y_pred"], want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["index", "triple"])
@pytest.mark.parametrize("length", [0, 6])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_learns_on_an_item_table(convention, length, form):
    batch = random_item_batch(VOCAB, 8, batch=32, length=length)
    model = build(item_table_feature_map(VOCAB, 8), mask_convention=convention, transformer_dropout=0.1)
    losses = train(model, batch.triple() if form == "triple" else batch)
    assert losses[-1] < 0.7 * losses[0]


def test_what_the_conventions_can_see(item_batch):
    """Other items where there is a padding: nothing changes for the published convention, much for the other."""
    padded = ~item_batch.mask.all(dim=1)
    others = (item_batch.history % 29 + 1) * item_batch.mask
    changed = replace(item_batch, history=others)
    for convention in CONVENTIONS:
        model = build(item_table_feature_map(VOCAB, 8), mask_convention=convention).eval()
        for table in model.embedding_layer.parameters():
            torch.nn.init.normal_(table)
        moved = (model(changed)["logits"] - model(item_batch)["logits"]).abs().view(-1)
        assert padded.sum() > 5
        if convention == "published":
            assert moved[padded].max() < 1e-5 < moved[~padded].max()
        else:
            assert moved[item_batch.mask.any(dim=1)].min() > 1e-5


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_learns_on_named_fields(convention):
    categorical = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 10}
    sequence = {**categorical, "type": "sequence", "max_len": 5, "share_embedding": "item"}
    feature_map = make_feature_map({"age": categorical, "item": categorical, "clicks": sequence})
    g = torch.Generator().manual_seed(0)
    batch = {name: torch.randint(1, 10, (32,), generator=g) for name in ("age", "item")}
    batch["clicks"] = torch.randint(0, 10, (32, 5), generator=g).sort(dim=1).values
    batch["label"] = torch.randint(0, 2, (32,), generator=g)
    model = build(feature_map, mask_convention=convention, target_field="item", sequence_field="clicks")
    losses = train(model, batch, steps=40)
    assert losses[-1] < 0.7 * losses[0]


def test_the_newest_item_counts_wherever_the_padding_stands():
    """Short histories, padded before, behind or between: the same scores; and the newest item moves them."""
    categorical = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 10}
    sequence = {**categorical, "type": "sequence", "max_len": 5, "share_embedding": "item"}
    feature_map = make_feature_map({"age": categorical, "item": categorical, "clicks": sequence})
    options = {"mask_convention": "history", "first_k_cols": 2, "concat_max_pool": False}
    model = build(feature_map, target_field="item", sequence_field="clicks", **options).eval()
    for table in model.embedding_layer.parameters():
        torch.nn.init.normal_(table)
    rows = {"age": torch.tensor([1, 2]), "item": torch.tensor([3, 4])}
    score = lambda *clicks: model({**rows, "clicks": torch.tensor(clicks)})["logits"].view(-1)  # noqa: E731
    before = score([0, 0, 5, 6, 7], [0, 0, 0, 0, 8])
    assert torch.equal(score([5, 6, 7, 0, 0], [8, 0, 0, 0, 0]), before)
    assert torch.equal(score([5, 0, 6, 0, 7], [0, 0, 8, 0, 0]), before)
    assert (score([5, 6, 9, 0, 0], [9, 0, 0, 0, 0]) - before).abs().min() > 1e-4
