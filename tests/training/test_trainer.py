"""Our loop against FuxiCTR's own `fit`, and what the loop adds."""

import math

import pytest
import torch
from conftest import VOCAB, random_item_batch

import qin_zoo
from qin_zoo.errors import QinZooError
from qin_zoo.training.trainer import Trainer


class Batches(list):
    """A loader that yields the same batches every epoch."""


TRAIN = Batches(random_item_batch(VOCAB, 8, batch=16, seed=s) for s in range(5))
VALID = Batches([random_item_batch(VOCAB, 8, batch=64, seed=9)])


def build(feature_map, tmp_path, **params):
    torch.manual_seed(0)
    options = {"learning_rate": 0.02, "net_dropout": 0.2, "early_stop_patience": 2, "verbose": 0, **params}
    return qin_zoo.create_model("QIN", feature_map, model_id="t", embedding_dim=4, model_root=str(tmp_path), **options)


@pytest.mark.parametrize("params", [{}, {"eval_steps": 2}, {"monitor": "logloss", "monitor_mode": "min"}])
def test_same_weights_as_fuxictrs_fit(feature_map, tmp_path, params):
    """Dropout, clipping, evaluation schedule, learning-rate decay, early stopping and best weights included."""
    params = {"metrics": ["AUC", "logloss"], **params}
    theirs = build(feature_map, tmp_path / "theirs", **params)
    torch.manual_seed(1)
    theirs.fit(TRAIN, epochs=12, validation_data=VALID, max_gradient_norm=1.0)
    ours = build(feature_map, tmp_path / "ours", **params)
    torch.manual_seed(1)
    evaluations = Trainer(ours, epochs=12, max_gradient_norm=1.0).fit(TRAIN, VALID)
    for (name, a), b in zip(theirs.state_dict().items(), ours.state_dict().values()):
        assert torch.equal(a, b), name
    assert theirs._total_steps == ours._total_steps == evaluations[-1].step
    assert theirs.optimizer.param_groups[0]["lr"] == ours.optimizer.param_groups[0]["lr"]


def test_record_of_an_evaluation(feature_map, tmp_path):
    model = build(feature_map, tmp_path, early_stop_patience=1, factor=0.5)
    seen = []
    evaluations = Trainer(model, epochs=20, on_evaluation=seen.append).fit(TRAIN, VALID)
    assert seen == evaluations
    assert [e.step for e in evaluations] == [5 * (i + 1) for i in range(len(evaluations))]
    assert evaluations[0].best
    assert not evaluations[-1].best, "stopped because the last one was no better"
    assert len(evaluations) < 20
    assert all(set(e.metrics) == {"AUC", "logloss"} for e in evaluations)
    best = max(e.metrics["AUC"] for e in evaluations)
    assert model.evaluate(VALID)["AUC"] == pytest.approx(best), "the best weights are left in the model"


def test_train_loss_is_the_mean_over_the_batches(feature_map, tmp_path):
    model = build(feature_map, tmp_path, learning_rate=0.0, net_dropout=0.0)
    (evaluation,) = Trainer(model, epochs=1).fit(TRAIN, VALID)
    with torch.no_grad():
        losses = [float(model.compute_loss(model(b), model.get_labels(b))) for b in TRAIN]
    assert evaluation.train_loss == pytest.approx(sum(losses) / 5, rel=1e-6)


def test_a_loss_that_explodes_stops_with_a_message(feature_map, tmp_path):
    model = build(feature_map, tmp_path)
    with torch.no_grad():
        model.qnn.fc.weight.fill_(math.nan)
    with pytest.raises(QinZooError, match=r"not a number at epoch 1, batch 1 .*weights qnn.fc.weight.*num_row"):
        Trainer(model, epochs=2).fit(TRAIN, VALID)


def test_a_monitor_that_is_not_among_the_metrics(feature_map, tmp_path):
    model = build(feature_map, tmp_path, metrics=["AUC"], monitor="logloss", monitor_mode="min")
    (evaluation,) = Trainer(model, epochs=1).fit(TRAIN, VALID)
    assert model._best_metric == evaluation.metrics["logloss"] > 0


def test_a_validation_split_of_one_class(feature_map, tmp_path):
    model = build(feature_map, tmp_path)
    batch = random_item_batch(VOCAB, 8)
    batch.rows["label"].fill_(1.0)
    with pytest.raises(QinZooError, match="rows with and without a click"):
        Trainer(model, epochs=1).fit(TRAIN, [batch])


def test_eval_steps_that_are_never_reached(feature_map, tmp_path):
    with pytest.raises(QinZooError, match=r"eval_steps is 100, .*10 batches"):
        Trainer(build(feature_map, tmp_path, eval_steps=100), epochs=2).fit(TRAIN, VALID)
