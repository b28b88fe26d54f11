"""On a GPU: the same numbers as on the CPU, in every precision; training, resident rows, stopping and going on.

With ``GPU_CHECK_SMALL=1`` on the CPU instead, to see that the tests themselves run.
"""

import json
import os

import numpy as np
import pytest
import torch
from conftest import MODELS, VOCAB, item_table_feature_map, random_item_batch

from qin_zoo.batch import ItemBatch
from qin_zoo.data.feed import DeviceResident, Prefetching, feed
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.registry import create_model
from qin_zoo.training.stability import Watch

REHEARSED = bool(os.environ.get("GPU_CHECK_SMALL"))
INDEX, GPU = (-1, torch.device("cpu")) if REHEARSED else (0, torch.device("cuda:0"))
pytestmark = pytest.mark.skipif(not (REHEARSED or torch.cuda.is_available()), reason="needs a CUDA GPU")
not_rehearsed = pytest.mark.skipif(REHEARSED, reason="needs a CUDA GPU")
BOUNDS = {"fp32": (1e-4, 1e-3), "tf32": (1e-2, 1e-2), "bf16": (5e-2, 1e-1)}  # of logits and losses, by precision
LEAVE_PADDING_OUT = {"DIN", "DIN_CrossAttention"}  # and wait once, to know how much is left
PARAMS = {"metrics": ["AUC"], "embedding_dim": 8, "model_root": ".", "verbose": 0, "embedding_regularizer": 1e-3}


def build(name, gpu, **params):
    torch.manual_seed(0)
    return create_model(name, item_table_feature_map(VOCAB, 8), gpu=gpu, **PARAMS, **params)


def pair(name, **params):
    """A model on the CPU, in float32, and on the GPU, with the same weights."""
    exact, model = build(name, -1), build(name, INDEX, **params)
    with torch.no_grad():
        for weight in exact.parameters():
            weight.add_(0.05)  # away from the tiny initial embeddings
    model.load_state_dict(exact.state_dict())
    return exact, model


def steps(model, batch, count):
    """Losses of steps without dropout."""
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for rate in ("dropout", "net_dropout"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return [model.train_step(batch).item() for _ in range(count)]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", ["QIN", "DIN"] if REHEARSED else MODELS)
def test_the_cpu_s_numbers(name, precision):
    batch = random_item_batch(VOCAB, 8, batch=64)
    exact, model = pair(name, precision=precision)
    of_logits, of_losses = BOUNDS[precision]
    for one in (exact, model):
        one.eval()
    with torch.no_grad():
        logits = model(batch)["logits"]
        assert logits.device == GPU
        torch.testing.assert_close(logits.cpu(), exact(batch)["logits"], atol=of_logits, rtol=of_logits)
    assert steps(model, batch, 3) == pytest.approx(steps(exact, batch, 3), abs=of_losses, rel=of_losses)


@not_rehearsed
@pytest.mark.parametrize("name", [name for name in MODELS if name not in LEAVE_PADDING_OUT])
def test_a_step_does_not_wait_for_the_gpu(name):
    _, model = pair(name)
    batch = random_item_batch(VOCAB, 8, batch=64)
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = 10.0, 1, 0
    rows, items = ({n: t.to(GPU) for n, t in part.items()} for part in (batch.rows, batch.items))
    placed = ItemBatch(rows, batch.history.to(GPU), batch.target.to(GPU), items)
    model.train()
    model.train_step(placed)  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.train_step(placed)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@not_rehearsed
def test_the_watch_notices_a_step_late():
    watch = Watch(GPU)
    bad, good = torch.tensor(float("nan"), device=GPU), torch.tensor(1.0, device=GPU)
    assert watch.look(good, bad, 1) is None
    assert watch.look(good, good, 2) == 1
    assert watch.rest() is None


@pytest.fixture
def loader(sample, tmp_path):
    def make():
        prepared = prepare("QIN_sample", data=sample, overrides=[f"cache_dir={tmp_path}", "batch_size=700"])
        return prepared.open_dataset().loader("train")

    return make


@pytest.mark.parametrize("kind", [Prefetching, DeviceResident])
def test_rows_on_the_gpu_are_the_loader_s(loader, kind):
    for _ in range(2):
        for got, want in zip(kind(loader(), GPU), loader(), strict=True):
            assert got.history.device == GPU
            assert torch.equal(got.item_ids.cpu(), want.item_ids)
            for of_got, of_want in ((got.rows, want.rows), (got.items, want.items)):
                assert all(torch.equal(of_got[name].cpu(), values) for name, values in of_want.items())


@not_rehearsed
def test_a_small_split_is_resident(loader):
    assert isinstance(feed(loader(), GPU), DeviceResident)


class Died(Exception):
    pass


def train(sample, folder, resume=False, echo=lambda text: None, **changes):
    settings = {"model_root": str(folder), "epochs": 3, "eval_steps": 2, "checkpoint_steps": 1, **changes}
    prepared = prepare("QIN_sample", data=sample, overrides=settings, gpu=INDEX)
    run_experiment(prepared, folder, echo=echo, resume=resume)
    record = json.loads((folder / "sample/QIN_sample.json").read_text())
    weights = torch.load(folder / "sample/QIN_sample.model", weights_only=True, map_location="cpu")
    return record, weights


def test_a_stopped_training_goes_on_to_the_same_result(sample, tmp_path):
    record, weights = train(sample, tmp_path / "whole")

    def die(text):
        if text.startswith("epoch   2"):
            raise Died

    with pytest.raises(Died):
        train(sample, tmp_path / "stopped", echo=die)
    again, resumed = train(sample, tmp_path / "stopped", resume=True)
    assert len(again["evaluations"]) == len(record["evaluations"])
    for name, values in weights.items():
        torch.testing.assert_close(resumed[name], values, atol=1e-5, rtol=1e-4)


def test_predictions_of_a_trained_model_on_the_cpu(sample, tmp_path):
    train(sample, tmp_path)
    on_gpu = np.loadtxt(tmp_path / "sample/QIN_sample.prediction.csv", delimiter=",", skiprows=1)[:, 1]
    predict_split(prepare("QIN_sample", data=sample, overrides={"model_root": str(tmp_path)}), "test")
    on_cpu = np.loadtxt(tmp_path / "sample/QIN_sample.prediction.csv", delimiter=",", skiprows=1)[:, 1]
    np.testing.assert_allclose(on_cpu, on_gpu, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its compiler
@pytest.mark.parametrize("name", ["QIN", "DIN"])
def test_compiled(name):
    batch = random_item_batch(VOCAB, 8, batch=64)
    exact, model = pair(name, compile=True)
    assert steps(model, batch, 3) == pytest.approx(steps(exact, batch, 3), abs=1e-3, rel=1e-3)
