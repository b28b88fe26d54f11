"""Losses and gradients that are no numbers: caught at their step, traced, and where wanted undone."""

import re

import pytest
import torch
from trained import train

from qin_zoo.models import ZooModel
from qin_zoo.training.stability import NotFinite, Watch


def plant(monkeypatch, at_step, action, every_time=False):
    """Does something to the model before a step of the training."""
    original, done = ZooModel.train_step, []

    def step(self, batch):
        if self._total_steps == at_step and (every_time or not done):
            done.append(action(self, batch))
        return original(self, batch)

    monkeypatch.setattr(ZooModel, "train_step", step)
    return done


def spoil_an_embedding(model, batch):
    with torch.no_grad():
        model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight[int(batch.target[5])] = float("nan")


def test_a_bad_embedding_row(sample, tmp_path, monkeypatch):
    plant(monkeypatch, 13, spoil_an_embedding)
    where = r"epoch 1, batch 13 \(step 13\).*item_id\.weight are not finite in row \d+ .*rollback"
    with pytest.raises(NotFinite, match=where):
        train(sample, tmp_path, accumulation_steps=1)


def test_a_bad_input(sample, tmp_path, monkeypatch):
    """Rows are named by their number in the file."""
    seen = {}

    def spoil(model, batch):
        batch.rows["label"][3] = float("inf")
        seen["user"] = int(batch.rows["user_id"][3])

    plant(monkeypatch, 30, spoil)
    with pytest.raises(NotFinite, match=r"epoch 2, batch 6 .*input 'label' is not finite in row [\d,]+\.") as caught:
        train(sample, tmp_path, accumulation_steps=1)
    import polars as pl

    row = int(re.search(r"in row ([\d,]+)\.", str(caught.value))[1].replace(",", ""))
    assert pl.read_parquet(sample / "train.parquet")["user_id"][row] == seen["user"]


def test_a_layer_that_overflows(sample, tmp_path, monkeypatch):
    def spoil(model, batch):
        with torch.no_grad():
            model.attention_layers.W_q.weight.fill_(1e30)
            model.attention_layers.W_k.weight.fill_(1e30)

    plant(monkeypatch, 2, spoil)
    with pytest.raises(NotFinite, match=r"step 2\).*first layer with such values is attention_layers \(ASTA\)"):
        train(sample, tmp_path, accumulation_steps=1)


def test_a_gradient_that_overflows(sample, tmp_path, monkeypatch):
    """The loss is finite, and the weights stay as they were."""
    before = {}

    def spoil(model, batch):
        before.update({name: p.detach().clone() for name, p in model.named_parameters()})
        model.qnn.fc.weight.register_hook(lambda gradient: gradient * float("inf"))
        before["model"] = model

    plant(monkeypatch, 4, spoil)
    with pytest.raises(NotFinite, match=r"step 4\).*the gradient of qnn\.fc\.weight is not"):
        train(sample, tmp_path, accumulation_steps=1)
    model = before.pop("model")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_exploding_learning_rate(sample, tmp_path):
    with pytest.raises(NotFinite, match=r"not a number at epoch 1, batch \d+"):
        train(sample, tmp_path, learning_rate=1e30, optimizer="SGD", max_gradient_norm=1e30, batch_norm=False)


def test_rollback_recovers(sample, tmp_path, monkeypatch):
    plant(monkeypatch, 31, spoil_an_embedding)
    said = []
    record = train(sample, tmp_path, on_nan="rollback", echo=said.append)
    (back,) = record["rollbacks"]
    assert (back["from_step"], back["to_step"]) == (31, 30)
    before, after = record["evaluations"][2:4]
    assert back["learning_rate"] == after["learning_rate"] <= 0.5 * before["learning_rate"]
    assert any("Rolled back to step 30" in line for line in said)
    assert record["evaluations"][-1]["epoch"] == 3
    assert torch.isfinite(torch.tensor([e["train_loss"] for e in record["evaluations"]])).all()


def test_rollback_before_the_first_checkpoint(sample, tmp_path, monkeypatch):
    plant(monkeypatch, 1, spoil_an_embedding)
    record = train(sample, tmp_path, on_nan="rollback", checkpoint_steps=50)
    assert record["rollbacks"][0]["to_step"] == 0
    assert record["rollbacks"][0]["learning_rate"] == 0.5 * record["params"]["learning_rate"]


def test_rollback_gives_up(sample, tmp_path, monkeypatch):
    tried = plant(monkeypatch, 11, spoil_an_embedding, every_time=True)
    with pytest.raises(NotFinite, match=r"Going back to step 10 with half the learning rate did not help 5 times"):
        train(sample, tmp_path, on_nan="rollback", accumulation_steps=1)
    assert len(tried) == 6


def test_the_watch_looks_one_step_later_on_a_gpu():
    watch = Watch(torch.device("cuda"))
    bad, good = torch.tensor(float("nan")), torch.tensor(1.0)
    assert watch.look(good, None, 1) is None
    assert watch.look(good, bad, 2) is None
    assert watch.look(good, good, 3) == 2
    assert watch.rest() is None
    watch.look(bad, None, 4)
    assert watch.rest() == 4


def test_gradient_norms_are_kept(sample, tmp_path):
    record = train(sample, tmp_path)
    for evaluation in record["evaluations"]:
        assert 0 < evaluation["gradient_norm"] <= evaluation["largest_gradient_norm"]


def test_event_files(sample, tmp_path):
    from tensorboardX.proto import event_pb2

    train(sample, tmp_path)
    (file,) = (tmp_path / "sample/QIN_sample.events").iterdir()
    content, scalars, place = file.read_bytes(), {}, 0
    while place < len(content):  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[place : place + 8], "little")
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + size])
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append(event.step)
        place += size + 16
    assert scalars["train/loss"] == list(range(1, 73))
    assert scalars["train/gradient_norm"] == [s for s in range(1, 73) if s % 24 % 3 == 0]
    assert scalars["valid/AUC"] == [9, 18, 27, 36, 45, 54, 63, 72]
    assert set(scalars) == {
        "train/loss", "train/gradient_norm", "train/learning_rate", "train/mean_loss",
        "valid/AUC", "valid/logloss", "valid/gAUC", "best/AUC", "best/logloss", "best/gAUC",
        "_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info",
    }  # fmt: skip


def test_a_disk_that_is_full_ends_the_events_only(sample, tmp_path, monkeypatch, caplog):
    from tensorboardX.event_file_writer import EventsWriter

    original, written = EventsWriter._write_serialized_event, []

    def full(self, event):
        written.append(event)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return original(self, event)

    monkeypatch.setattr(EventsWriter, "_write_serialized_event", full)
    record = train(sample, tmp_path)
    assert record["evaluations"][-1]["epoch"] == 3
    assert sum("Event files" in r.message for r in caplog.records) == 1
