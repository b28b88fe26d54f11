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
}


class Golden:
    """One golden file: the model as its meta describes it, and its batch in each form a model accepts."""

    def __init__(self, name: str):
        arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
        meta = json.loads(arrays["meta"].item())
        self.group = lambda prefix: {
            k.removeprefix(prefix): torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith(prefix)
        }
        self.meta = meta
        self.model = qin_zoo.create_model(
            CASES[name],
            item_table_feature_map(meta["vocab"], meta["item_emb_dim"]),
            embedding_dim=meta["embedding_dim"],
            **meta["hyperparameters"],
        )
        self.model.load_state_dict(self.group("state/"))
        rows = self.group("input/")
        history, target = rows.pop("item_seq"), rows.pop("item_id")
        items = {"item_id": torch.arange(meta["vocab"]["item_id"]), **self.group("item/")}
        table_batch = ItemBatch(rows, history, target, items)
        self.batches = {"index": table_batch, "triple": table_batch.triple()}


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
    assert golden.model.count_parameters() == golden.meta["parameters"]
    path = tmp_path / "published.model"
    torch.save(golden.group("state/"), path)
    fresh = qin_zoo.create_model(
        type(golden.model).__name__,
        golden.model.feature_map,
        embedding_dim=golden.meta["embedding_dim"],
        **golden.meta["hyperparameters"],
    )
    fresh.load_weights(str(path))
    fresh.eval()
    y_pred = fresh(golden.batches["triple"])["y_pred"].detach().view(-1)
    np.testing.assert_allclose(y_pred, golden.group("eval/")["y_pred"], atol=1e-6, rtol=0)
