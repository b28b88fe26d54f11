"""Staleness, weights and the choice of rows: the recorded plain reference, and the double loop."""

import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import REPOSITORY

from qin_zoo.periods.fesail import aged, cover, weights_of

GOLDEN = REPOSITORY / "tests" / "golden" / "fesail_paper_inverse.npz"


def lists(rows):
    """As ``cover`` takes them."""
    return np.cumsum([0, *map(len, rows)]), np.concatenate([np.asarray(r, np.int64) for r in rows])


def plain(rows, weights, count):
    """Algorithm 1 as it is written: every row looked at each time, of equals the first."""
    covered, chosen, gains = set(), [], []
    for _ in range(count):
        gain = [sum(weights[v] for v in row if v not in covered) for row in rows]
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        chosen.append(best)
        gains.append(gain[best])
        covered |= set(rows[best])
    return chosen, gains


def test_the_recorded_periods():
    golden = np.load(GOLDEN)
    meta = json.loads(str(golden["meta"]))
    features, size = golden["input/features"], meta["rows_per_period"]
    first = np.cumsum([0, *(n + 1 for n in meta["sizes"])])
    features = features + first[:-1]  # values of all fields, numbered through
    staleness, reservoir, periods = np.zeros(first[-1], np.int64), np.zeros(0, np.int64), meta["periods"]
    for t in range(meta["window"], periods):
        last = np.arange(0 if t == meta["window"] else (t - 1) * size, t * size)
        pool = np.concatenate([np.sort(reservoir), last])
        occurs = np.zeros(len(staleness), bool)
        occurs[first[:-1]] = True
        occurs[features[t * size : (t + 1) * size]] = True
        staleness = aged(staleness, occurs)
        weights = weights_of(staleness, meta["func"], meta["bias"])
        rows = [row[weights[row] > 0] for row in features[pool]]
        chosen, gains = cover(*lists(rows), weights, meta["capacity"])
        reservoir = pool[chosen]
        key = f"period{t}"
        np.testing.assert_array_equal(pool, golden[f"{key}/pool"])
        np.testing.assert_array_equal(reservoir, golden[f"{key}/chosen_in_order"])
        np.testing.assert_allclose(gains, golden[f"{key}/gain"], rtol=0, atol=1e-9)
        for n in range(3):
            np.testing.assert_array_equal(staleness[first[n] : first[n + 1]], golden[f"{key}/staleness.{n}"])


@pytest.mark.parametrize("function", ["inverse", "exp"])
def test_it_chooses_as_the_double_loop_does(function):
    g = np.random.default_rng(3)
    rows = [g.choice(60, g.integers(0, 7), replace=False) for _ in range(150)]
    staleness = g.integers(0, 5, 60)
    weights = weights_of(staleness, function, 0.5)
    held = [row[weights[row] > 0] for row in rows]
    whole = weights.tolist()
    if function == "inverse":  # sums of floats depend on their order, and equals would not tie
        whole = [Fraction(w).limit_denominator(100) for w in whole]
    for count in (5, 150):
        chosen, gains = cover(*lists(held), weights, count)
        expected, worth = plain(held, whole, count)
        assert chosen.tolist() == expected
        np.testing.assert_allclose(gains, np.array(worth, float))
    assert len(chosen) < 60, "it stops when nothing is left to cover"
    worth = {"inverse": 0.5, "exp": np.exp(-2)}[function]
    assert weights_of(np.array([0, 2]), function, 1.0).tolist() == [0, 1 + worth]
