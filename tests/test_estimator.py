"""The scikit-learn classifier: scikit-learn's own checks, and what it learns."""

import logging
import pickle
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from qin_zoo import QinZooClassifier, QinZooError
from qin_zoo.experiment.prepare import prepare_model


@pytest.mark.slow
@parametrize_with_checks([QinZooClassifier()])  # none is expected to fail
def test_scikit_learns_checks(estimator, check, monkeypatch):
    """Results that shall be alike, of rows in another order, say, are so with scikit-learn's tolerance for float32.

    It has float64's for whatever is called float64; a network's products round a row by how many stand beside it. Some
    checks fit a dozen times: twenty epochs each, in the place of a hundred.
    """
    monkeypatch.setattr("qin_zoo.estimator.prepare_model", _prepare_few_epochs)
    alike = estimator_checks.assert_allclose_dense_sparse
    monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", partial(_alike_in_float32, alike))
    check(estimator)


def _prepare_few_epochs(*arguments, overrides, **options):
    return prepare_model(*arguments, overrides={"epochs": 20, **overrides}, **options)


def _alike_in_float32(alike, x, y, rtol=None, **others):
    alike(x, y, rtol=1e-4, **others)


@pytest.fixture(scope="module")
def table():
    """Users with a taste, items of a kind; a click where they meet, which no column tells alone."""
    g = np.random.default_rng(0)
    user, item, price = g.integers(0, 6, 4000), g.integers(0, 9, 4000), g.random(4000)
    chance = 1 / (1 + np.exp(-(3 * ((user % 3) == (item % 3)) - 1.5 - price)))
    frame = pd.DataFrame({"user": [f"u{u}" for u in user], "item": item, "price": price})
    return frame, (g.random(4000) < chance).astype(int)


@pytest.fixture(scope="module")
def fitted(table):
    X, y = table
    classifier = QinZooClassifier("DCNv2", categorical_features=["item"], random_state=1)
    return classifier.fit(X[:3000], y[:3000])


def test_it_learns_what_a_line_of_single_columns_cannot(table, fitted):
    X, y = table
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["user", "item"]),
        remainder="passthrough",
    )
    line = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(X[:3000], y[:3000])
    theirs, ours = (roc_auc_score(y[3000:], m.predict_proba(X[3000:])[:, 1]) for m in (line, fitted))
    assert ours > theirs + 0.05
    assert fitted.feature_names_in_.tolist() == ["user", "item", "price"]


def test_polars_unknown_and_missing_values(table, fitted):
    X, _ = table
    expected = fitted.predict_proba(X[3000:3010])
    np.testing.assert_allclose(fitted.predict_proba(pl.from_pandas(X[3000:3010])), expected, atol=1e-6)
    odd = pd.DataFrame({"user": ["never seen", None], "item": [10**6, 3], "price": [0.5, 0.5]})
    assert np.isfinite(fitted.predict_proba(odd)).all()
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict_proba(odd.assign(price=[np.nan, 0.5]))


def test_pickled_it_predicts_the_same(table, fitted):
    X, _ = table
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X[:50]), fitted.predict_proba(X[:50]))


def test_parameters_of_the_model_are_parameters(table):
    X, y = table
    classifier = QinZooClassifier("QIN", epochs=1, num_layers=1, random_state=0)
    assert classifier.get_params()["num_layers"] == 1
    other = clone(classifier).set_params(num_layers=2, embedding_dim=4, model="QNN")
    assert (other.model, other.get_params()["num_layers"], other.get_params()["embedding_dim"]) == ("QNN", 2, 4)
    assert "embedding_dim" not in classifier.get_params(), "the other's are its own"
    other.fit(X[:200], y[:200])
    assert len(other.evaluations_) >= 1
    with pytest.raises(QinZooError, match=r"num_layer'.*num_layers"):
        classifier.set_params(num_layer=3).fit(X[:200], y[:200])


def test_times_are_neither_categories_nor_numbers():
    frame = pd.DataFrame({"when": pd.date_range("2026-01-01", periods=30), "x": range(30)})
    with pytest.raises(ValueError, match=r"Column 0.*found times"):
        QinZooClassifier().fit(frame, [0, 1] * 15)


@pytest.mark.parametrize(
    ("labels", "told"),
    [([0, 1, 2] * 10, "Only binary classification"), ([1] * 30, "one class"), ([0.5, 0.1, 0.2] * 10, "continuous")],
)
def test_labels_that_are_no_clicks(labels, told):
    with pytest.raises(ValueError, match=told):
        QinZooClassifier().fit(np.arange(60.0).reshape(30, 2), labels)


def test_that_there_is_no_history_need_not_be_said(caplog):
    """Not in a notebook either whose log goes somewhere already: FuxiCTR's first line opens one."""
    g = np.random.default_rng(0)
    x = pd.DataFrame({"a": g.integers(0, 4, 60), "b": g.normal(size=60)})
    logging.getLogger().warning("of others")
    QinZooClassifier("DCNv2", epochs=1).fit(x, g.integers(0, 2, 60))
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == ["of others"]
