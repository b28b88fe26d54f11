"""FSDNet, FCN, DCNv2 and DeepFM: the published numbers, FuxiCTR's own models, and a history's mean beside them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import VOCAB, item_table_feature_map, make_feature_map, random_item_batch, shared_data
from fuxictr.pytorch import layers
from fuxictr.pytorch.models import BaseModel
from torch import nn
from torch.nn import functional as F

import qin_zoo
from qin_zoo.config.experiments import check_params, load_experiment
from qin_zoo.errors import ModelError
from qin_zoo.models.weights import renamed
from qin_zoo.registry import get_model

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = {"fsdnet_batchnorm": ("FSDNet", {"published": True}), "fcn_heads": ("FCN", {})}
HEADS = ("FSDNet", "FCN", "DCNv2", "DeepFM")
SMALL = {
    "FSDNet": {"parallel_dnn_hidden_units": [6, 6], "num_cross_layers": 2},
    "FCN": {"num_heads": 2, "num_deep_cross_layers": 2, "num_shallow_cross_layers": 1},
    "DCNv2": {"parallel_dnn_hidden_units": [6]},
    "DeepFM": {"hidden_units": [6]},
}


def fields_map(vocab: dict, **further):
    one = {"type": "categorical", "source": "", "padding_idx": 0}
    return make_feature_map({name: {**one, "vocab_size": size} for name, size in vocab.items()} | further)


@cache
def golden(name):
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    group = lambda prefix: {  # noqa: E731
        k.removeprefix(prefix): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(prefix)
    }
    return json.loads(arrays["meta"].item()), group


def published(name, **changes):
    """The model as its file describes it, with the file's weights."""
    (meta, group), (model, params) = golden(name), CASES[name]
    params = {**meta["hyperparameters"], "embedding_dim": meta["embedding_dim"], **params, **changes}
    built = qin_zoo.create_model(model, fields_map(meta["vocab"]), **params)
    built.load_state_dict(renamed(group("state/"), built.published_names))
    return built, meta, group


@pytest.mark.parametrize("name", CASES)
def test_published_predictions_losses_and_gradients(name):
    model, meta, group = published(name)
    assert model.count_parameters() == meta["parameters"]
    found = model.eval()(group("input/"))
    np.testing.assert_allclose(found["y_pred"].detach().view(-1), group("eval/")["y_pred"], atol=1e-6)
    found, y = model.train()(group("input/")), model.get_labels(group("input/"))
    loss = model.compute_loss(found, y)
    loss.backward()
    np.testing.assert_allclose(found["y_pred"].detach().view(-1), group("train/")["y_pred"], atol=1e-6)
    np.testing.assert_allclose(loss.detach(), group("train/")["loss"].squeeze(), atol=1e-6)
    gradients = renamed(group("grad/"), model.published_names)
    for weight, parameter in model.named_parameters():
        want = gradients[weight]
        tolerance = max(1e-5 * want.abs().max().item(), 1e-7)  # a bias in front of a batch norm: rounding noise
        np.testing.assert_allclose(parameter.grad, want, atol=tolerance, rtol=0, err_msg=weight)


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_fsdnet_published_losses_by_choice(choice):
    model, _, group = published("fsdnet_batchnorm", choice=choice)
    loss = model.add_loss(model.train()(group("input/")), model.get_labels(group("input/")))
    np.testing.assert_allclose(loss.detach(), group("train/")[f"loss_choice{choice}"], atol=1e-6)


def test_what_single_layers_and_networks_predict():
    fsdnet, _, group = published("fsdnet_batchnorm")
    found = fsdnet.eval()(group("input/"))["layer_logits"].detach()
    np.testing.assert_allclose(found.T, group("eval/")["logit_layers"], atol=1e-6)
    fcn, _, group = published("fcn_heads")
    found = fcn.eval()(group("input/"))
    for name in ("d", "s"):
        y_pred = found[f"logits_{name}"].sigmoid().detach().view(-1)
        np.testing.assert_allclose(y_pred, group("eval/")[f"y_{name}"], atol=1e-6)


def test_fsdnet_papers_loss_is_a_divergence():
    """Against torch's KL divergence of two classes, and a sum over the fusions' dimensions."""
    model, meta, group = published("fsdnet_batchnorm", published=False)
    found, y = model.train()(group("input/")), model.get_labels(group("input/"))
    student, teacher = found["layer_logits"].unbind(1)
    log_p = [torch.stack([F.logsigmoid(z / 1.8), F.logsigmoid(-z / 1.8)], 1) for z in (student, teacher)]
    soft = F.kl_div(*log_p, reduction="batchmean", log_target=True)
    hint = (found["fusions"][:, 1] - found["fusions"][:, 0]).square().sum(1).mean()
    labels = sum(F.binary_cross_entropy_with_logits(z, y.view(-1)) for z in (student, teacher))
    params = meta["hyperparameters"]
    alpha, beta = params["loss_coefficient"], params["fea_coefficient"]
    torch.testing.assert_close(model.add_loss(found, y), alpha * labels + (1 - alpha) * soft + beta * hint)


# ---- FuxiCTR's own

SEQUENCE = {"type": "sequence", "source": "", "padding_idx": 0, "vocab_size": 9, "max_len": 4}
MEAN = {"feature_encoder": "layers.MaskedAveragePooling()"}
PLAIN = {
    "price": {"type": "numeric", "source": ""},
    "clicks": {**SEQUENCE, **MEAN, "share_embedding": "f2"},
}


class FuxiCTRsDeepFM(BaseModel):
    """As FuxiCTR's model zoo puts its own layers together."""

    def __init__(self, feature_map, embedding_dim, hidden_units, batch_norm):
        super().__init__(feature_map, verbose=0, model_root=".", metrics=["AUC"])
        self.embedding_layer = layers.FeatureEmbedding(feature_map, embedding_dim)
        self.fm = layers.FactorizationMachine(feature_map)
        inputs = feature_map.sum_emb_out_dim()
        self.mlp = layers.MLP_Block(inputs, hidden_units, output_dim=1, batch_norm=batch_norm)

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        embedded = self.embedding_layer(x)
        return {"y_pred": (self.fm(x, embedded) + self.mlp(embedded.flatten(start_dim=1))).sigmoid()}


def plain_batch(rows=20):
    g = torch.Generator().manual_seed(0)
    ids = lambda high, *shape: torch.randint(0, high, shape, generator=g)  # noqa: E731
    batch = {"f1": ids(5, rows), "f2": ids(9, rows), "clicks": ids(9, rows, 4), "label": ids(2, rows).float()}
    return batch | {"price": torch.rand(rows, generator=g)}


def trained_apart(theirs, ours):
    """FuxiCTR's weights, made to matter, loaded into ours by their names."""
    for parameter in theirs.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    for module in theirs.modules():
        if isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight[0].detach())
    ours.load_state_dict(theirs.state_dict())


def same(theirs, ours, given, batch):
    for training in (False, True):
        losses = []
        for model, inputs in ((theirs.train(training), given), (ours.train(training), batch)):
            y_pred = model(inputs)["y_pred"]
            losses.append((y_pred, F.binary_cross_entropy(y_pred, model.get_labels(inputs))))
        torch.testing.assert_close(*(y_pred for y_pred, _ in losses), atol=1e-6, rtol=1e-5)
        assert losses[0][0].std() > 0.05
    gradients = []
    for model, (_, loss) in zip((theirs, ours), losses):
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_deepfm_is_fuxictrs_on_plain_fields():
    feature_map = fields_map({"f1": 5, "f2": 9}, **PLAIN)
    feature_map.default_emb_dim = 4
    theirs = FuxiCTRsDeepFM(feature_map, 4, [6, 5], True)
    ours = qin_zoo.create_model("DeepFM", feature_map, embedding_dim=4, hidden_units=[6, 5], batch_norm=True)
    trained_apart(theirs, ours)
    batch = plain_batch()
    same(theirs, ours, batch, batch)


@pytest.mark.parametrize("structure", ["crossnet_only", "stacked", "parallel", "stacked_parallel"])
@pytest.mark.parametrize("low_rank", [False, True])
def test_dcnv2_is_the_wheels_on_an_item_table(structure, low_rank):
    """LongCTR's DCNv2, which FuxiCTR installs: the mean of the history beside the target."""
    from model_zoo.LongCTR.DCNv2.DCNv2 import DCNv2 as Theirs

    feature_map = item_table_feature_map(VOCAB, 8)
    feature_map.default_emb_dim = 8
    params = {
        "embedding_dim": 8, "model_structure": structure, "use_low_rank_mixture": low_rank, "low_rank": 3,
        "num_experts": 2, "num_cross_layers": 2, "stacked_dnn_hidden_units": [6], "parallel_dnn_hidden_units": [7, 5],
        "batch_norm": True,
    }  # fmt: skip
    theirs = Theirs(
        feature_map, **params, optimizer="adam", loss="binary_crossentropy", verbose=0, model_root=".", metrics=["AUC"]
    )
    ours = qin_zoo.create_model("DCNv2", feature_map, **params)
    trained_apart(theirs, ours)
    batch = random_item_batch(VOCAB, 8)
    rows, items, mask = batch.triple()
    same(theirs, ours, ({n: v for n, v in rows.items() if n != "user_id"}, items, mask), batch)


# ---- every one of them


@pytest.mark.parametrize("name", HEADS)
def test_of_the_history_it_sees_the_mean(name):
    """A history is worth its mean item: of rows without any, nothing is NaN, and order does not count."""
    torch.manual_seed(0)
    init = "partial(nn.init.normal_, std=0.5)"
    feature_map = item_table_feature_map(VOCAB, 8)
    model = qin_zoo.create_model(name, feature_map, embedding_dim=4, embedding_initializer=init, **SMALL[name]).eval()
    batch = random_item_batch(VOCAB, 8)
    found = model(batch)["logits"]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, model(batch.triple())["logits"], atol=1e-5, rtol=1e-5)
    x = model._inputs(batch)
    seen = []
    model.pooling.register_forward_hook(lambda *args: seen.append(args[2]))
    model.logits(x)
    items = x.history.table[x.history.index].double() if hasattr(x.history, "table") else None
    real = x.mask.double().unsqueeze(2)
    mean = (items * real).sum(1) / real.sum(1).clamp(min=1)
    torch.testing.assert_close(seen[0].double(), mean, atol=1e-6, rtol=1e-5)
    assert (seen[0][0] == 0).all()  # the row without a history


@pytest.mark.parametrize("name", HEADS)
def test_pairs_of_named_fields(name):
    vocab = {"item": 9, "cate": 9, "age": 5}
    sequences = {"clicks": {**SEQUENCE, "share_embedding": "item"}, "cates": {**SEQUENCE, "share_embedding": "cate"}}
    feature_map = fields_map(vocab, **sequences)
    pairs = {"target_field": ["item", "cate"], "sequence_field": ["clicks", "cates"]}
    model = qin_zoo.create_model(name, feature_map, embedding_dim=4, **pairs, **SMALL[name])
    g = torch.Generator().manual_seed(0)
    batch = {n: torch.randint(1, v, (12,), generator=g) for n, v in vocab.items()}
    batch |= {n: torch.randint(0, 9, (12, 4), generator=g) for n in sequences}
    batch["label"] = (torch.arange(12) % 2).float()
    found = model.train()(batch)
    model.add_loss(found, model.get_labels(batch)).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("FSDNet", {"parallel_dnn_hidden_units": [6, 5], "num_cross_layers": 2}),
        ("FSDNet", {"parallel_dnn_hidden_units": [6], "num_cross_layers": 2}),
        ("FSDNet", {"Temp": 0.0}),
        ("FCN", {"embedding_dim": 5}),
    ],
)
def test_parameters_that_make_no_model(name, params):
    with pytest.raises(ModelError, match=f"{name}: expected"):
        get_model(name)(item_table_feature_map(VOCAB, 8), **params)


@pytest.mark.parametrize("folder", ["bars/DCNv2_*", "bars/DeepFM_*"])
def test_the_leaderboards_configurations_are_taken(folder):
    """Every experiment of every folder at hand, as it is."""
    folders = sorted((shared_data().parent / "configs").glob(folder))
    if not folders:
        pytest.skip("no public configurations at hand")
    for folder in folders:
        experiments = yaml.safe_load((folder / "model_config.yaml").read_text())
        for expid in [name for name in experiments if name != "Base"][:5]:
            params = load_experiment(folder, expid)
            assert check_params(params, get_model(params["model"]))["model"] == folder.name.partition("_")[0]
