"""Users drawn again: every draw against scikit-learn's metrics of the rows written out, or weighted."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from qin_zoo.bootstrap import Draws, _times, draw_users, draw_users_of_parts
from qin_zoo.errors import QinZooError
from qin_zoo.metrics import evaluate_metrics

METRICS = ["AUC", "gAUC", "avgAUC", "MRR", "NDCG(k=2)", "logloss", "RMSE"]


def rows(n=400, users=25, levels=30, seed=0):
    """Labels, scores with ties, and users, some of whom have clicks only."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n) * 7 - 3
    y_true = (rng.random(n) < 0.3 + 0.02 * (user % 20)).astype(float)
    y_true[user == user[0]] = 1
    return y_true, np.clip((rng.integers(1, levels, n) + 8 * y_true) / (levels + 9), 0, 1), user


@pytest.mark.parametrize("levels", [4, 10_000], ids=["ties", "no ties"])
def test_a_draw_scores_what_its_rows_written_out_score(levels):
    y_true, y_pred, user = rows(levels=levels)
    found = draw_users(y_true, y_pred, METRICS, user, draws=12)
    (times,) = _times(found.groups, 12, len(user))
    for k, counts in enumerate(times):
        weight = dict(zip(dict.fromkeys(user.tolist()), counts))
        w = np.array([weight[u] for u in user])
        assert found.values["AUC"][k] == pytest.approx(roc_auc_score(y_true, y_pred, sample_weight=w), abs=1e-7)
        assert found.values["logloss"][k] == pytest.approx(log_loss(y_true, y_pred, sample_weight=w), abs=1e-7)
        written = [(r, f"{u} {i}") for r, u in enumerate(user) for i in range(int(weight[u]))]  # drawn twice: two users
        where, who = (np.array(part) for part in zip(*written))
        expected = evaluate_metrics(y_true[where], y_pred[where], METRICS, who)
        for metric in METRICS:
            assert found.values[metric][k] == pytest.approx(expected[metric], abs=1e-6), metric


def test_spread_is_that_of_other_users():
    """Against the truth, the deviation of an AUC over samples of users drawn anew from their population."""
    rng = np.random.default_rng(3)

    def sample():
        taste = np.repeat(rng.normal(size=120), 10)  # rows of a user are alike
        y_true = (rng.random(1200) < 1 / (1 + np.exp(-2 * taste))).astype(float)
        score = 0.3 * taste + np.repeat(rng.normal(size=120), 10) + 0.3 * rng.normal(size=1200)
        return y_true, score, np.repeat(np.arange(120), 10)

    true = np.std([roc_auc_score(*sample()[:2]) for _ in range(150)])
    by_user, by_row = [], []
    for _ in range(4):
        y_true, score, user = sample()
        by_user.append(draw_users(y_true, score, ["AUC"], user, 200).values["AUC"].std())
        by_row.append(draw_users(y_true, score, ["AUC"], None, 200).values["AUC"].std())
    assert np.mean(by_user) == pytest.approx(true, rel=0.25)
    assert np.mean(by_row) < 0.8 * true  # rows drawn by themselves promise too much


def test_the_same_rows_are_drawn_alike_whatever_users_are_called():
    y_true, y_pred, user = rows()
    one = draw_users(y_true, y_pred, ["AUC"], user, 20)
    two = draw_users(y_true, y_pred, ["AUC"], np.array([f"u{u}" for u in user], object), 20)
    assert one.drawn == two.drawn
    np.testing.assert_array_equal(one.values["AUC"], two.values["AUC"])
    user[0] = 99
    assert draw_users(y_true, y_pred, ["AUC"], user, 20).drawn != one.drawn


def test_blocks_change_nothing(monkeypatch):
    y_true, y_pred, user = rows()
    whole = draw_users(y_true, y_pred, METRICS, user, 20)
    monkeypatch.setattr("qin_zoo.bootstrap._AT_ONCE", 3 * len(user))
    parts = draw_users(y_true, y_pred, METRICS, user, 20)
    for metric in METRICS:
        np.testing.assert_allclose(parts.values[metric], whole.values[metric], rtol=1e-6)
    assert parts.drawn == whole.drawn


def test_a_user_of_two_periods_is_drawn_with_the_rows_of_both():
    """Every draw is the mean of what scikit-learn finds for each part, weighted by one draw of all users."""
    one, two = rows(seed=1, users=20), rows(seed=2, users=30, n=500)
    found = draw_users_of_parts([one, two], METRICS, draws=12)
    users = list(dict.fromkeys([*one[2].tolist(), *two[2].tolist()]))
    assert found.groups == len(users) < len(set(one[2])) + len(set(two[2]))
    (times,) = _times(found.groups, 12, 500)
    for k, counts in enumerate(times):
        weight = dict(zip(users, counts))
        single = []
        for y_true, y_pred, user in (one, two):
            w = np.array([weight[u] for u in user])
            single.append([f(y_true, y_pred, sample_weight=w) for f in (roc_auc_score, log_loss)])
        expected = np.mean(single, axis=0)
        assert [found.values["AUC"][k], found.values["logloss"][k]] == pytest.approx(expected, abs=1e-6)
    alone = draw_users(*one[:2], METRICS, one[2], draws=12)
    assert draw_users_of_parts([one], METRICS, draws=12).values["gAUC"] == pytest.approx(alone.values["gAUC"])


def test_a_draw_of_one_class_has_no_auc():
    found = draw_users(np.array([0.0, 1.0]), np.array([0.2, 0.7]), ["AUC", "logloss"], None, 50)
    assert 0 < np.isnan(found.values["AUC"]).sum() < 50
    assert np.isfinite(found.values["logloss"]).all()


def test_kept_as_text():
    y_true, y_pred, user = rows()
    found = draw_users(y_true, y_pred, ["AUC"], user, 20)
    again = Draws.from_dict(found.as_dict())
    np.testing.assert_array_equal(again.values["AUC"], found.values["AUC"])
    assert (again.groups, again.drawn) == (found.groups, found.drawn)
    for broken in ({}, {"groups": 1, "drawn": "x", "values": {"AUC": "é"}}, {"groups": 1, "drawn": "x", "values": []}):
        with pytest.raises(QinZooError, match="expected metrics of drawn users"):
            Draws.from_dict(broken)


def test_the_same_rows_are_told_by_users_and_labels():
    users, labels, scores = np.array([7, 7, 3, 3]), np.array([0.0, 1, 1, 0]), np.array([0.1, 0.4, 0.3, 0.2])
    truth = draw_users(labels, scores, ["AUC"], users, 10).truth
    assert draw_users(labels.astype(np.float32), 1 - scores, ["logloss"], np.array(list("bbaa")), 5).truth == truth
    others = [(1 - labels, users), (labels, users[[0, 2, 1, 3]]), (labels, None)]
    assert truth not in {draw_users(y_true, scores, ["logloss"], who, 10).truth for y_true, who in others}
    assert Draws.from_dict(draw_users(labels, scores, ["AUC"], users, 10).as_dict()).truth == truth
