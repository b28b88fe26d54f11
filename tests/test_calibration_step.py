"""Calibration steps against known distortions, and as JSON."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit

from qin_zoo.calibration import Isotonic, Platt, calibrator_from_dict, calibrator_to_dict, fit_calibrator, reliability
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.metrics import evaluate_metrics


def clicks(rows: int, seed: int):
    """Honest probabilities and clicks drawn from them."""
    g = np.random.default_rng(seed)
    p = g.beta(1.2, 2.5, rows)
    return p, (g.random(rows) < p).astype(float)


def test_platt_recovers_a_known_distortion():
    p, y = clicks(400_000, 0)
    boasted = expit(2.5 * logit(p) + 0.7)
    step = fit_calibrator("platt", y, boasted)
    assert step.slope == pytest.approx(1 / 2.5, rel=0.02)
    assert step.intercept == pytest.approx(-0.7 / 2.5, abs=0.02)
    np.testing.assert_allclose(step(boasted), p, atol=0.01)


def test_platt_is_finite_where_the_model_makes_no_mistake():
    p = np.array([0.1, 0.2, 0.3, 0.7, 0.8])
    step = fit_calibrator("platt", (p > 0.5).astype(float), p)
    assert 0 < step.slope < 20
    assert step(p)[2] < 0.5 < step(p)[3]


def test_platt_is_the_formula_and_finite_at_the_ends():
    step = Platt(0.5, 0.25)
    p = np.array([0.1, 0.5, 0.97])
    np.testing.assert_allclose(step(p), expit(0.5 * logit(p) + 0.25), rtol=1e-12)
    found = step(np.array([0.0, 1.0], np.float32))
    assert 0 < found[0] < 1e-2
    assert 0.99 < found[1] < 1


@pytest.mark.parametrize("rows", [50, 5000])
def test_isotonic_rises_and_is_never_certain(rows):
    p, y = clicks(rows, 1)
    y[np.argsort(p)[: rows // 10]] = 0  # a block without clicks, and one of clicks only
    y[np.argsort(p)[-rows // 10 :]] = 1
    step = fit_calibrator("isotonic", y, p)
    found = step(np.linspace(0, 1, 2001))
    assert (np.diff(found) >= 0).all()
    assert (np.diff(step.predicted) > 0).all()
    assert (np.diff(step.clicked) > 0).all()  # strictly: only beyond the outermost blocks are there new ties
    assert 0 < found[0] <= found[-1] < 1


def test_isotonic_by_hand():
    """Blocks {0.1, 0.2}, {0.3, 0.4, 0.5} by pooling, {0.6}: each at its mean prediction; certainty is held back."""
    y = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    step = fit_calibrator("isotonic", y, p)
    np.testing.assert_allclose(step.predicted, [0.15, 0.4, 0.6])
    np.testing.assert_allclose(step.clicked, [1 / 8, 1 / 3, 7 / 8])
    np.testing.assert_allclose(step(np.array([0.0, 0.275, 0.9])), [1 / 8, (1 / 8 + 1 / 3) / 2, 7 / 8])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_the_error_falls_on_rows_it_was_not_fitted_to(method):
    distort = lambda p: expit(2 * logit(p) + 1)  # noqa: E731
    (p, y), (p_held, y_held) = clicks(10_000, 2), clicks(40_000, 3)
    step = fit_calibrator(method, y, distort(p))
    before, after = distort(p_held), step(distort(p_held))
    assert reliability(y_held, before).ece > 0.1
    assert reliability(y_held, after).ece < 0.02
    auc = [evaluate_metrics(y_held, scores, ["AUC"])["AUC"] for scores in (before, after)]
    assert auc[1] == pytest.approx(auc[0], abs=1e-9 if method == "platt" else 1e-3)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_saved_and_read_again_it_is_the_same(method):
    p, y = clicks(2000, 4)
    step = fit_calibrator(method, y, p)
    again = calibrator_from_dict(json.loads(json.dumps(calibrator_to_dict(step))))
    assert again == step
    np.testing.assert_array_equal(again(p), step(p))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "spline"},
        {"method": "platt", "slope": 1.0},
        {"method": "platt", "slope": "steep", "intercept": 0.0},
        {"method": "platt", "slope": -1.0, "intercept": 0.0},
        {"method": "isotonic", "predicted": [0.1, 0.2], "clicked": [0.1]},
        {"method": "isotonic", "predicted": [0.1, 0.9], "clicked": [0.5, float("nan")]},
        {"method": "isotonic", "predicted": [], "clicked": []},
        [],
    ],
)
def test_what_is_no_step(values):
    with pytest.raises(QinZooError, match="Expected a calibration step"):
        calibrator_from_dict(values)


def test_what_cannot_be_fitted():
    p, y = clicks(500, 5)
    with pytest.raises(ConfigError, match=r"found 'isotone'\. Did you mean 'isotonic'"):
        fit_calibrator("isotone", y, p)
    with pytest.raises(QinZooError, match="all alike"):
        fit_calibrator("platt", np.ones(500), p)
    for method in ("platt", "isotonic"):
        with pytest.raises(QinZooError, match="no rise of clicks"):
            fit_calibrator(method, (p < 0.3).astype(float), p)


def test_the_kinds():
    p, y = clicks(500, 6)
    assert isinstance(fit_calibrator("platt", y, p), Platt)
    assert isinstance(fit_calibrator("isotonic", y, p), Isotonic)
