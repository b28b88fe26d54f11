"""The reliability curve against its definition."""

import numpy as np
import pytest

from qin_zoo.calibration import reliability


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
