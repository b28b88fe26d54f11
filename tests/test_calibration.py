"""The reliability curve against its definition."""

import numpy as np
import pytest

from qin_zoo.calibration import fit_calibrator, reliability


def test_bins_of_equal_mass_and_the_weighted_distance():
    y_pred = np.array([0.9, 0.1, 0.2, 0.8, 0.4, 0.6])
    y_true = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    found = reliability(y_true, y_pred, bins=3)
    assert found.rows == [2, 2, 2]
    assert found.predicted == pytest.approx([0.15, 0.5, 0.85])
    assert found.clicked == pytest.approx([0.5, 0.0, 1.0])
    assert found.ece == pytest.approx((0.35 + 0.5 + 0.15) / 3)


def test_honest_probabilities_have_almost_no_error_and_boasted_ones_have():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    clicks = (rng.random(200_000) < p).astype(float)
    assert reliability(clicks, p).ece < 0.005
    assert reliability(clicks, p**2).ece > 0.1


@pytest.mark.parametrize("rows", [1, 2, 14, 16])
def test_few_rows(rows):
    found = reliability(np.ones(rows), np.full(rows, 0.75))
    assert sum(found.rows) == rows
    assert min(found.rows) > 0
    assert found.ece == pytest.approx(0.25)


@pytest.mark.parametrize("decimals", [1, 2, 12])
@pytest.mark.parametrize("bins", [1, 3, 10, 15])
def test_bins_are_scikit_learn_s_quantile_bins(decimals, bins):
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(bins)
    y_pred = rng.beta(1, 4, 500).round(decimals)
    y_true = (rng.random(500) < y_pred).astype(float)
    found = reliability(y_true, y_pred, bins)
    clicked, predicted = calibration_curve(y_true, y_pred, n_bins=bins, strategy="quantile")
    assert found.predicted == pytest.approx(predicted)
    assert found.clicked == pytest.approx(clicked)
    assert found.ece == pytest.approx(np.average(np.abs(predicted - clicked), weights=found.rows))


def test_a_constant_share_of_clicks_is_perfect_in_any_order():
    y_true = np.zeros(1000)
    y_true[:250] = 1
    for labels in (y_true, y_true[::-1], np.random.default_rng(0).permutation(y_true)):
        found = reliability(labels, np.full(1000, 0.25))
        assert (found.rows, found.predicted, found.clicked, found.ece) == ([1000], [0.25], [0.25], 0.0)


@pytest.mark.parametrize("method", [None, "isotonic", "platt"])
def test_the_order_of_rows_with_equal_predictions_does_not_matter(method):
    rng = np.random.default_rng(1)
    y_pred = rng.random(3000).round(1)
    y_true = (rng.random(3000) < y_pred**2).astype(float)
    by_clicks = np.lexsort((y_true, y_pred))  # the order in which a tie that is cut looks worst
    orders = [np.arange(3000), by_clicks, by_clicks[::-1], rng.permutation(3000)]
    measure = reliability if method is None else (lambda y, p: fit_calibrator(method, y, p)(np.linspace(0, 1, 99)))
    first, *others = (measure(y_true[order], y_pred[order]) for order in orders)
    for other in others:
        if method is None:
            assert other == first
        else:
            np.testing.assert_allclose(other, first, rtol=1e-9)
