"""Grouped metrics against loops written from their definitions, and against FuxiCTR's own."""

import itertools
import warnings
from multiprocessing.pool import ThreadPool

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from qin_zoo.errors import ConfigError, DataError, QinZooError
from qin_zoo.metrics import (
    check_metrics,
    default_monitor,
    evaluate_metrics,
    known_metrics,
    metrics_text,
    mode_of,
    mode_of_monitor,
    needs_groups,
)

GROUPED = ["gAUC", "avgAUC", "MRR", "NDCG", "NDCG(k=2)", "NDCG(k=5)"]


def _groups(y_true, y_pred, group_id):
    rows = {}
    for y, p, g in zip(y_true, y_pred, group_id):
        rows.setdefault(g, []).append((y, p))
    return [(np.array([y for y, _ in r]), np.array([p for _, p in r])) for r in rows.values()]


def _aucs(groups):
    """(AUC, size) of the groups that have both classes."""
    return [(roc_auc_score(y, p), len(y)) for y, p in groups if 0 < y.sum() < len(y)]


def _orders(y, p):
    """The labels in every order of descending score that ties allow."""
    index = range(len(y))
    return [
        [y[i] for i in order]
        for order in itertools.permutations(index)
        if all(p[a] >= p[b] for a, b in itertools.pairwise(order))
    ]


def _mrr(labels):
    return sum(y / place for place, y in enumerate(labels, 1)) / max(sum(labels), 1)


def _ndcg(labels, k):
    def dcg(ys):
        return sum((2**y - 1) / np.log2(place + 1) for place, y in enumerate(ys[:k], 1))

    return dcg(labels) / dcg(sorted(labels, reverse=True)) if sum(labels) else 0.0


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def reference(metric, y_true, y_pred, group_id):
    groups = _groups(y_true, y_pred, group_id)
    if metric.endswith("AUC"):
        aucs = _aucs(groups)
        if not aucs:
            return np.nan
        return np.average([a for a, _ in aucs], weights=[n if metric == "gAUC" else 1 for _, n in aucs])
    if metric == "MRR":
        return _mean(_mean(map(_mrr, _orders(y, p))) for y, p in groups)
    k = int(metric[7:-1]) if "(" in metric else 1
    return _mean(_mean(_ndcg(labels, k) for labels in _orders(y, p)) for y, p in groups)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1]),
            st.sampled_from([0.0, 0.25, 0.5, 0.7500001, 1.0]),
            st.sampled_from([-(2**63), -1, 0, 7, 2**63 - 1]),
        ),
        min_size=1,
        max_size=15,
    )
)
@settings(max_examples=150, deadline=None)
def test_grouped_metrics_equal_loops_over_groups_and_over_orders_of_ties(rows):
    y_true, y_pred, group_id = (np.array(column) for column in zip(*rows))
    if np.unique(group_id, return_counts=True)[1].max() > 6:
        return  # the reference walks all orders of a group
    values = evaluate_metrics(y_true, y_pred, GROUPED, group_id)
    for metric in GROUPED:
        np.testing.assert_allclose(values[metric], reference(metric, y_true, y_pred, group_id), atol=1e-12)


@pytest.mark.parametrize("decimals", [1, 12])
def test_larger_groups_and_ties_equal_scikit_learn_per_group(decimals):
    rng = np.random.default_rng(0)
    group_id = rng.integers(0, 300, 5000) * 10**15
    y_pred = rng.random(5000).round(decimals)
    y_true = (rng.random(5000) < 0.3 * y_pred + 0.1).astype(float)
    values = evaluate_metrics(y_true, y_pred, ["gAUC", "avgAUC"], group_id)
    aucs = _aucs(_groups(y_true, y_pred, group_id))
    assert values["gAUC"] == pytest.approx(np.average([a for a, _ in aucs], weights=[n for _, n in aucs]), abs=1e-12)
    assert values["avgAUC"] == pytest.approx(np.mean([a for a, _ in aucs]), abs=1e-12)


def test_equals_fuxictr(monkeypatch):
    import fuxictr.metrics

    # Its pool of processes forks, which a process that has run polars or torch may not survive.
    monkeypatch.setattr(fuxictr.metrics.mp, "Pool", lambda processes: ThreadPool(1))
    rng = np.random.default_rng(1)
    group_id = rng.integers(0, 40, 400)
    y_pred = rng.permutation(400) / 400  # no ties, where FuxiCTR's order is that of the machine's sort
    y_true = (rng.random(400) < 0.3).astype(float)
    metrics = ["logloss", "gAUC", "AUC", "avgAUC", "MRR", "NDCG(k=1)", "NDCG(3)", "NDCG()", "binary_crossentropy"]
    ours = evaluate_metrics(y_true, y_pred, metrics, group_id)
    theirs = fuxictr.metrics.evaluate_metrics(y_true, y_pred, metrics, group_id)
    assert list(ours) == list(theirs) == metrics
    for metric in metrics:
        assert ours[metric] == pytest.approx(theirs[metric], abs=1e-10), metric


def test_plain_metrics_are_scikit_learn_s():
    rng = np.random.default_rng(2)
    y_true, y_pred = rng.integers(0, 2, 100), rng.random(100)
    values = evaluate_metrics(y_true, y_pred, ["AUC", "logloss"])
    expected = {"AUC": roc_auc_score(y_true, y_pred), "logloss": log_loss(y_true, y_pred)}
    assert values == pytest.approx(expected, rel=1e-14)
    found = evaluate_metrics(y_true, y_pred, ["brier"])["brier"]
    assert found == pytest.approx(brier_score_loss(y_true, y_pred), abs=1e-15)
    assert all(type(v) is float for v in values.values())


def test_rows_in_another_order_give_the_same_values_even_with_ties():
    rng = np.random.default_rng(3)
    y_true, y_pred, group_id = rng.integers(0, 2, 1000), rng.random(1000).round(1), rng.integers(0, 50, 1000)
    order = rng.permutation(1000)
    first = evaluate_metrics(y_true, y_pred, GROUPED, group_id)
    assert evaluate_metrics(y_true[order], y_pred[order], GROUPED, group_id[order]) == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("ids", [["b", "a", "b", "a"], ["b", 1, "b", 1], [2**64, 0, 2**64, 0], [0.5, -1, 0.5, -1]])
def test_group_ids_of_any_type(ids):
    y_true, y_pred = [1, 0, 0, 1], [0.9, 0.1, 0.2, 0.05]
    assert evaluate_metrics(y_true, y_pred, ["avgAUC"], np.array(ids, dtype=object)) == {"avgAUC": 0.5}
    assert evaluate_metrics(y_true, y_pred, ["avgAUC"], ids) == {"avgAUC": 0.5}


@pytest.mark.parametrize("label", [0, 1])
def test_a_split_with_one_class_has_no_auc_but_a_logloss(label):
    metrics = ["AUC", "gAUC", "avgAUC", "logloss", "MRR"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate_metrics([label] * 3, [0.2, 0.5, 0.9], metrics, [1, 1, 2])
    assert all(np.isnan(values[m]) for m in metrics[:3])
    assert values["logloss"] == pytest.approx(-np.mean(np.log([0.2, 0.5, 0.9] if label else [0.8, 0.5, 0.1])))
    assert "AUC nan  gAUC nan" in metrics_text(values)
    assert metrics_text(values).endswith("of one class)")
    assert metrics_text({"AUC": 0.5, "R2": np.nan}) == "AUC 0.500000  R2 nan"


def test_one_row():
    values = evaluate_metrics([1], [0.5], [*GROUPED, "AUC", "logloss"], [9])
    assert values["MRR"] == values["NDCG"] == 1
    assert np.isnan(values["gAUC"])


def test_a_million_groups():
    rng = np.random.default_rng(4)
    groups, rows = 1_000_000, 4_000_000
    ids = rng.integers(-(2**62), 2**62, groups)
    group_id = rng.permutation(np.repeat(ids, rows // groups))
    y_pred = rng.random(rows)
    y_true = (rng.random(rows) < 0.25).astype(np.float64)
    value = evaluate_metrics(y_true, y_pred, ["gAUC"], group_id)["gAUC"]
    assert value == pytest.approx(0.5, abs=2e-3)


# ---- what is refused


@pytest.mark.parametrize(
    "name", ["auc", "NDGC(k=5)", "NDCG(k=0)", "NDCG(k=-1)", "gauc", "", "os.system('x')", 3, None, []]
)
def test_unknown_metrics(name):
    with pytest.raises(ConfigError, match=r"Unknown metric.*Known metrics: AUC, logloss"):
        evaluate_metrics([0, 1], [0.1, 0.2], [name])


def test_unknown_metric_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'gAUC'"):
        check_metrics(["AUC", "gauc"])
    with pytest.raises(ConfigError, match=r"Write \[AUC\]"):
        check_metrics("AUC")


def test_known_metrics_pass_the_check():
    check_metrics([*known_metrics()[:-1], "NDCG(k=10)", "NDCG( k = 3 )"])
    assert [m for m in known_metrics() if needs_groups(m)] == ["gAUC", "avgAUC", "MRR", "NDCG", "NDCG(k=n)"]


def test_grouped_metric_without_groups():
    with pytest.raises(ConfigError, match=r"gAUC.*Set group_id"):
        evaluate_metrics([0, 1], [0.1, 0.2], ["AUC", "gAUC"])


def test_broken_predictions_are_counted():
    with pytest.raises(QinZooError, match="2 of 3 predictions are NaN or infinite"):
        evaluate_metrics([0, 1, 1], [np.nan, 0.5, np.inf], ["AUC"])


@pytest.mark.parametrize(
    ("y_true", "y_pred", "group_id", "message"),
    [
        ([], [], None, "empty"),
        ([0, 1], [0.5], None, "2 labels but 1 predictions"),
        ([0, 1], [0.5, 0.5], [1], "2 labels but 1 group ids"),
        ([0, 2], [0.5, 0.5], None, "Labels must be 0 or 1; 1 of 2 are not .*2"),
        ([0, np.nan], [0.5, 0.5], None, "Labels must be 0 or 1"),
        ([0, 1], [0.5, 0.6], [1.0, np.nan], "NaN in 1 rows"),
        ([0, 1], [0.5, 0.6], [None, "a"], "without a group"),
        ([0, 1], [0.5, 0.6], ["a", float("nan")], "without a group"),
        ([0, 1], [0.5, 0.6], pd.Series(["a", None], dtype="string"), "without a group"),
        ([0, 1], ["a", "b"], None, "columns of numbers"),
    ],
)
def test_broken_columns(y_true, y_pred, group_id, message):
    with pytest.raises(DataError, match=message):
        evaluate_metrics(y_true, y_pred, ["AUC"] if group_id is None else ["gAUC"], group_id)


def test_logloss_needs_probabilities():
    assert evaluate_metrics([0, 1], [-3.0, 3.0], ["AUC"]) == {"AUC": 1.0}
    with pytest.raises(DataError, match="between -3 and 3"):
        evaluate_metrics([0, 1], [-3.0, 3.0], ["logloss"])


# ---- which way is better


def test_every_metric_prefers_the_better_predictions():
    """By computing it: predictions that know the labels against their opposites."""
    rng = np.random.default_rng(5)
    y_true, group_id = rng.integers(0, 2, 400), rng.integers(0, 40, 400)
    good = np.clip(0.5 + (y_true - 0.5) * 0.6 + rng.normal(0, 0.05, 400), 0.01, 0.99)
    for metric in [*known_metrics()[:-1], "NDCG(k=3)"]:
        better, worse = (evaluate_metrics(y_true, p, [metric], group_id)[metric] for p in (good, 1 - good))
        assert mode_of(metric) == ("max" if better > worse else "min"), metric


def test_the_mode_of_a_monitor():
    assert mode_of_monitor("AUC") == mode_of_monitor({"AUC": 1, "logloss": -1}) == "max"
    assert mode_of_monitor({"AUC": 1, "logloss": 0}) == "max"
    assert mode_of_monitor("logloss") == mode_of_monitor({"logloss": 1, "gAUC": -2}) == "min"
    assert mode_of_monitor({"AUC": 1, "logloss": 1}) is None
    assert default_monitor(["logloss", "AUC"]) == "AUC"
    assert default_monitor(["logloss", "gAUC"]) == "logloss"
    with pytest.raises(ConfigError, match="Unknown metric"):
        mode_of("F1")


def test_predictions_without_any_difference_have_the_auc_of_chance():
    from sklearn.metrics import roc_auc_score

    labels, same = np.array([0.0, 1, 1, 0, 1]), np.full(5, 0.3)
    assert evaluate_metrics(labels, same, ["AUC"])["AUC"] == roc_auc_score(labels, same) == 0.5
