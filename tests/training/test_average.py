"""`ema_decay` against FuxiCTR's own `fit` with torch's own averaged model beside it."""

import pytest
import torch
from test_lazy import Halting
from test_trainer import TRAIN, VALID, build
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from trained import train

from qin_zoo.errors import ConfigError
from qin_zoo.training.average import WeightAverage
from qin_zoo.training.checkpoint import CheckpointStore
from qin_zoo.training.trainer import Trainer

DECAY = 0.15  # below what the first steps have at most, so that it is the same from the first one on


def test_weights_are_torchs_average_of_fuxictrs_training(feature_map, tmp_path):
    params = {"early_stop_patience": 100, "reduce_lr_on_plateau": False, "save_best_only": False}
    theirs = build(feature_map, tmp_path / "theirs", **params)
    averaged, step = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(DECAY)), theirs.train_step

    def train_step(batch):
        loss = step(batch)
        averaged.update_parameters(theirs)
        return loss

    theirs.train_step = train_step
    torch.manual_seed(1)
    theirs.fit(TRAIN, epochs=6, validation_data=VALID, max_gradient_norm=1.0)
    ours = build(feature_map, tmp_path / "ours", **params)
    torch.manual_seed(1)
    trainer = Trainer(ours, epochs=6, max_gradient_norm=1.0, ema_decay=DECAY)
    last = trainer.fit(TRAIN, VALID)[-1]
    for (name, a), b in zip(averaged.module.named_parameters(), ours.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)  # of thirty steps; the first begins elsewhere
        assert not torch.equal(b, theirs.get_parameter(name)), "the newest weights are others"
    assert ours.evaluate(VALID)["AUC"] == last.metrics["AUC"], "what was evaluated is what was kept"


def test_the_first_steps_leave_the_start_behind():
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(model, 0.999), model.weight.item()
    for step in range(1, 50):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update()
        expected += (step - expected) * 9 / (10 + step)  # what TensorFlow's num_updates does
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 49


def test_statistics_of_batch_norm():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3, affine=False))
    model[2].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for seed in range(40):
        model(torch.randn(8, 2, generator=torch.Generator().manual_seed(seed)))
        average.update()
        reference.update_parameters(model)
    with average.in_place():
        for place in (1, 2):
            for key in ("running_mean", "running_var"):
                ours, theirs = (m[place].get_buffer(key) for m in (model, reference.module))
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_resumes_in_the_middle(feature_map, tmp_path, accumulation_steps):
    def fit(folder, batches, resume=False):
        model = build(feature_map, tmp_path / folder, accumulation_steps=accumulation_steps, early_stop_patience=100)
        torch.manual_seed(1)
        store = CheckpointStore(tmp_path / folder / "checkpoints")
        trainer = Trainer(model, epochs=4, checkpoints=store, checkpoint_steps=1, ema_decay=0.9)
        return model, trainer.fit(batches, VALID, resume)

    whole, expected = fit("whole", TRAIN)
    with pytest.raises(KeyboardInterrupt):
        fit("halted", Halting(TRAIN))
    again, evaluations = fit("halted", TRAIN, resume=True)
    assert [e.metrics for e in evaluations] == [e.metrics for e in expected]
    for a, b in zip(whole.parameters(), again.parameters()):
        assert torch.equal(a, b)


def test_a_run_keeps_the_average(sample, tmp_path):
    """The training is the same; what is evaluated is not."""
    plain = train(sample, tmp_path / "plain")
    averaged = train(sample, tmp_path / "averaged", ema_decay=0.9)
    same, other = ([look[key] for look in run["evaluations"]] for run in (plain, averaged) for key in ("train_loss",))
    assert same[0] == other[0], "up to the first look, after which learning rates may differ"
    assert averaged["evaluations"][0]["metrics"] != plain["evaluations"][0]["metrics"]
    best = max(look["metrics"]["AUC"] for look in averaged["evaluations"])
    assert averaged["valid"]["AUC"] == pytest.approx(best, abs=1e-9)


def test_not_with_lazy_tables(sample, tmp_path):
    with pytest.raises(ConfigError, match=r"ema_decay averages every row .* Leave one of them out"):
        train(sample, tmp_path, ema_decay=0.9, embedding_optimizer="lazy")
