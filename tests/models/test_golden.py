"""The published implementations' numbers, reproduced: predictions, losses, gradients and checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import item_table_feature_map

import qin_zoo
from qin_zoo.batch import ItemBatch

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = {
    "qin_plain": "QIN",
    "qin_batchnorm": "QIN",
    "din_baseline": "DIN",
    "din_baseline_dice_softmax": "DIN",
    "transformer_dcn": "Transformer_DCN",
    "sim_soft": "SIM",
    "eta": "ETA",
    "sdim": "SDIM",
    "twin": "TWIN",
}
HASHES = ("powers_of_two", "random_rotations")  # parameters in the published code, too, but not trained
SWITCHES = {name: {"published": True} for name in ("sim_soft", "eta", "sdim", "twin")}


class Golden:
    """One golden file: the model as its meta describes it, and its batch in each form a model accepts."""

    def __init__(self, name: str):
        arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
        meta = json.loads(arrays["meta"].item())
        self.group = lambda prefix: {
            k.removeprefix(prefix): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(prefix)
        }
        self.meta, self.name = meta, name
        self.model = self.create()
        self.model.load_state_dict(self.group("state/"))
        rows = self.group("input/")
        history, target = rows.pop("item_seq"), rows.pop("item_id")
        items = {"item_id": torch.arange(meta["vocab"]["item_id"]), **self.group("item/")}
        table_batch = ItemBatch(rows, history, target, items)
        self.batches = {"index": table_batch, "triple": table_batch.triple()}

    def create(self):
        meta = self.meta
        feature_map = item_table_feature_map(meta["vocab"], meta["item_emb_dim"])
        params = {"embedding_dim": meta["embedding_dim"], **meta["hyperparameters"], **SWITCHES.get(self.name, {})}
        return qin_zoo.create_model(CASES[self.name], feature_map, **params)


@pytest.fixture(params=CASES)
def golden(request):
    return Golden(request.param)


@pytest.mark.parametrize("form", ["triple", "index"])
def test_evaluation(golden, form):
    golden.model.eval()
    y_pred = golden.model(golden.batches[form])["y_pred"]
    np.testing.assert_allclose(y_pred.detach().view(-1), golden.group("eval/")["y_pred"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["triple", "index"])
def test_training(golden, form):
    model, batch, expected = golden.model, golden.batches[form], golden.group("train/")
    model.train()
    result = model(batch)
    loss = model.compute_loss(result, model.get_labels(batch))
    loss.backward()
    np.testing.assert_allclose(result["y_pred"].detach().view(-1), expected["y_pred"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(loss.detach(), expected["loss"], atol=1e-6, rtol=0)
    gradients = golden.group("grad/")
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, parameter in model.named_parameters():
        want = gradients[name]
        # 1e-7: a bias in front of a batch norm or a softmax has gradient 0, computed as rounding noise of float32
        tolerance = max(1e-5 * want.abs().max().item(), 1e-7)
        np.testing.assert_allclose(parameter.grad, want, atol=tolerance, rtol=0, err_msg=name)


def test_parameter_count_and_checkpoint(golden, tmp_path):
    untrained = sum(values.numel() for name, values in golden.group("state/").items() if name in HASHES)
    assert golden.model.count_parameters() + untrained == golden.meta["parameters"]
    path = tmp_path / "published.model"
    torch.save(golden.group("state/"), path)
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
    aux = golden.model(golden.batches[form])["aux_logits"].sigmoid()
    np.testing.assert_allclose(aux.detach().view(-1), golden.group("eval/")["y_aux"], atol=1e-6, rtol=0)
