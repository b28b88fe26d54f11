"""The published implementations' numbers, reproduced: predictions, losses, gradients and checkpoints."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import item_table_feature_map

import qin_zoo
from qin_zoo.batch import ItemBatch
from qin_zoo.models.weights import renamed

GOLDEN = Path(__file__).parent.parent / "golden"


class Case(NamedTuple):
    """What a file does not say of itself: the model, and how its hyperparameters are called here (None: not at all)."""

    model: str
    params: dict = {}
    names: dict = {}


PAIRWISE = {"rms_norm": "separate", "loss": "pairwise", "pos_weight": 0.4}
THIRD = {"model_structure": "stacked", "use_low_rank_mixture": True, "attention_dim": 64, "num_heads": 4}
THIRD_NAMES = {
    "cross_layers": "num_cross_layers",
    "cross_dnn_hidden_units": "stacked_dnn_hidden_units",
    "cross_dnn_activations": "dnn_activations",
    "attention_hidden_units": None,
    "attention_hidden_activations": None,
}
CASES = {
    "qin_plain": Case("QIN"),
    "qin_batchnorm": Case("QIN"),
    "din_baseline": Case("DIN"),
    "din_baseline_dice_softmax": Case("DIN"),
    "transformer_dcn": Case("Transformer_DCN"),
    "din_att6_published": Case("DIN_CrossAttention", {"rms_norm": "shared"}),
    "din_att_rms_published": Case("DIN_CrossAttention", PAIRWISE, {"alpha": "loss_alpha"}),
    "din_dcn_third": Case("DIN_DCN", THIRD, THIRD_NAMES),
    "sim_soft": Case("SIM", {"published": True}),
    "eta": Case("ETA", {"published": True}),
    "sdim": Case("SDIM", {"published": True}),
    "twin": Case("TWIN", {"published": True}),
}


class Golden:
    """One golden file: the model as its meta describes it, and its batch in each form a model accepts."""

    def __init__(self, name: str):
        arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
        self.meta, case = json.loads(arrays["meta"].item()), CASES[name]
        self.group = lambda prefix: {
            k.removeprefix(prefix): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(prefix)
        }
        self.state, rows = self.group("state/"), self.group("input/")
        items = {"item_id": torch.arange(self.meta["vocab"]["item_id"]), **self.group("item/")}
        feature_map = item_table_feature_map(self.meta["vocab"], self.meta["item_emb_dim"])
        features = feature_map.features
        if "user_id" in self.meta["vocab"]:
            features["user_id"] = {**features["likes_level"], "vocab_size": self.meta["vocab"]["user_id"]}
        if "likes_level" in items:  # of every item, in the tables of the rows' own
            for level in ("likes_level", "views_level"):
                features[level]["of_items"] = True
        params = {case.names.get(key, key): value for key, value in self.meta["hyperparameters"].items()}
        params.pop(None, None)
        self.create = lambda: qin_zoo.create_model(
            case.model, feature_map, embedding_dim=self.meta["embedding_dim"], **case.params, **params
        )
        self.model = self.create()
        self.model.load_state_dict(self.named_here(self.state))
        history, target = rows.pop("item_seq"), rows.pop("item_id")
        table_batch = ItemBatch(rows, history, target, items)
        self.batches = {"index": table_batch, "triple": table_batch.triple()}

    def named_here(self, weights: dict) -> dict:
        return renamed(weights, self.model.published_names)

    def unused(self) -> list[torch.Tensor]:
        """Weights of the published model that take part in nothing but its penalty."""
        return [weight for name, weight in self.state.items() if not self.named_here({name: weight})]


@pytest.fixture(params=CASES)
def golden(request):
    return Golden(request.param)


@pytest.mark.parametrize("form", ["triple", "index"])
def test_evaluation(golden, form):
    golden.model.eval()
    found, expected = golden.model(golden.batches[form]), golden.group("eval/")
    np.testing.assert_allclose(found["y_pred"].detach().view(-1), expected["y_pred"], atol=1e-6, rtol=0)
    if "logit" in expected:
        np.testing.assert_allclose(found["logits"].detach().view(-1), expected["logit"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["triple", "index"])
def test_training(golden, form):
    model, batch, expected = golden.model, golden.batches[form], golden.group("train/")
    model.train()
    result = model(batch)
    loss = model.compute_loss(result, model.get_labels(batch))
    loss.backward()
    strength = golden.meta["hyperparameters"].get("net_regularizer") or 0
    loss = loss.detach() + strength / 2 * sum(weight.square().sum() for weight in golden.unused())
    np.testing.assert_allclose(result["y_pred"].detach().view(-1), expected["y_pred"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(loss, expected["loss"], atol=1e-6, rtol=0)
    gradients = golden.named_here(golden.group("grad/"))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        want = gradients[name]
        # 1e-7: a bias in front of a batch norm or a softmax has gradient 0, computed as rounding noise of float32
        tolerance = max(1e-5 * want.abs().max().item(), 1e-7)
        np.testing.assert_allclose(parameter.grad, want, atol=tolerance, rtol=0, err_msg=name)


def test_parameter_count_and_checkpoint(golden, tmp_path):
    unused = sum(weight.numel() for weight in golden.unused())
    unused += golden.state.get("random_rotations", torch.empty(0)).numel()  # a parameter there, though not trained
    assert golden.model.count_parameters() + unused == golden.meta["parameters"]
    path = tmp_path / "published.model"
    torch.save(golden.state, path)
    fresh = golden.create()
    fresh.load_weights(str(path))
    fresh.eval()
    y_pred = fresh(golden.batches["triple"])["y_pred"].detach().view(-1)
    np.testing.assert_allclose(y_pred, golden.group("eval/")["y_pred"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["triple", "index"])
def test_the_prediction_of_sims_search(form):
    golden = Golden("sim_soft")
    golden.model.eval()
    golden.model.training = True  # of the model alone: batch norm keeps to its running statistics
    aux = golden.model(golden.batches[form])["logits_aux"].sigmoid()
    np.testing.assert_allclose(aux.detach().view(-1), golden.group("eval/")["y_aux"], atol=1e-6, rtol=0)
