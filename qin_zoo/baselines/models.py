"""The baselines: each is fitted to the training rows, and chooses among few settings by the validation rows."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np

from qin_zoo.baselines.features import Features, Table
from qin_zoo.baselines.rows import ITEM, View
from qin_zoo.errors import QinZooError
from qin_zoo.threads import share

_TOO_EARLY = 0.05  # of the training rows
_CONSTANT = 1e-6  # deviation


@dataclass
class Data:
    """What baselines are fitted to.

    Attributes:
        view: the rows.
        label: split -> (n,) 0 or 1, of the splits that have labels.
        when: (n,) when the training rows happened, in any unit.
        seed: of what is drawn.
        seconds: that making columns took so far.
    """

    view: View
    label: dict[str, np.ndarray]
    when: np.ndarray
    seed: int
    seconds: float = 0.0
    _tables: dict[str, Table] = field(default_factory=dict)

    @cached_property
    def order(self) -> np.ndarray:
        """(n,) the training rows as they happened."""
        return np.argsort(self.when, kind="stable")

    @cached_property
    def _features(self) -> Features:
        features = Features(self.view)
        self._tables["train"] = features.fit_transform(self.label["train"], self.order)
        return features

    @cached_property
    def with_a_past(self) -> np.ndarray:
        """(m,) the training rows but the first ones, before which there was too little to count."""
        return np.sort(self.order[int(_TOO_EARLY * len(self.order)) :])

    def table(self, split: str) -> Table:
        """The split's columns, made once for all models."""
        started = time.perf_counter()
        features = self._features
        if split not in self._tables:
            self._tables[split] = features.transform(split)
        self.seconds += time.perf_counter() - started
        return self._tables[split]

    def loss(self, probability: np.ndarray) -> float:
        """Log loss of the validation rows."""
        p, label = np.clip(probability, 1e-7, 1 - 1e-7), self.label["valid"]
        return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))

    def best(self, settings: list, fit: Callable[[Any], Callable[[str], np.ndarray] | None]) -> tuple[Any, Callable]:
        """The setting with the least loss of the validation rows, and its fitted model; ``fit`` may give none."""
        fitted = [(setting, model) for setting in settings if (model := fit(setting)) is not None]
        return min(fitted, key=lambda one: self.loss(one[1]("valid")))


class Baseline(ABC):
    """A model that needs no network.

    Attributes:
        about: what it is, in a few words.
        settings: constants, part of what makes a run this one.
        chosen: after fitting, what the validation rows decided.
        parameters: after fitting, how many numbers it has learned.
        needs_item: whether it knows nothing but items (and users).
        needs_columns: whether it is fitted to those of :mod:`~qin_zoo.baselines.features`.
        needs_both: whether the validation rows must be of both classes, too, as the training rows of all of them.
    """

    about: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    needs_item: ClassVar[bool] = False
    needs_columns: ClassVar[bool] = False
    needs_both: ClassVar[bool] = False

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}
        self.parameters = 0

    @abstractmethod
    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        """Learns; returns what gives the (n,) click probabilities of a split."""


class ItemConstant(Baseline):
    """p = (clicks + a·p₀) / (rows + a) of the item in the training rows, p₀ being the click rate of all of them."""

    about = "one constant per item, its smoothed click rate"
    settings = {"smoothing": 20.0}
    needs_item = True

    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        item, label, a = data.view.items("train"), data.label["train"], self.settings["smoothing"]
        rows, clicks = (np.bincount(item, weight, data.view.sizes[ITEM]) for weight in (None, label))
        rate = (clicks + a * label.mean()) / (rows + a)
        self.parameters = len(np.unique(item)) + 1
        return lambda split: rate[data.view.items(split)]


class RecentPopularity(Baseline):
    """p = σ(a + b·log(1 + clicks)) of the item's clicks, each of which counts 2^(−age / half-life).

    Ages are those at the end of the training rows. a, b and the half-life, a share of the time that the training rows
    span, are fitted to the validation rows.
    """

    about = "how often the item was clicked of late"
    settings = {"half_lives": [1.0, 0.3, 0.1, 0.03, 0.01]}
    needs_item = True
    needs_both = True

    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        when, item = data.when.astype(np.float64), data.view.items("train")
        age = (when.max() - when) / max(when.max() - when.min(), 1)

        def fitted(half_life: float) -> Callable[[str], np.ndarray]:
            clicks = np.bincount(item, data.label["train"] * 0.5 ** (age / half_life), data.view.sizes[ITEM])
            popularity = np.log1p(clicks)[:, None]
            model = LogisticRegression(C=1e6).fit(popularity[data.view.items("valid")], data.label["valid"])
            return lambda split: model.predict_proba(popularity[data.view.items(split)])[:, 1]

        self.chosen["half_life"], predict = data.best(self.settings["half_lives"], fitted)
        self.parameters = len(np.unique(item)) + 3
        return predict


class UserItemMeans(Baseline):
    """p = σ(b + b_user + b_item), the biases shrunk by an L2 penalty."""

    about = "what user and item are worth, added up"
    settings = {"penalties": [0.3, 1.0, 3.0, 10.0]}
    needs_item = True

    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        from scipy.sparse import csr_matrix, hstack
        from sklearn.linear_model import LogisticRegression

        view = data.view

        def ones(split: str):
            parts = [(view.items(split), view.sizes[ITEM])]
            parts += [(view.user_numbers(split), view.users)] if view.user else []
            n, every = view.rows(split), np.arange(view.rows(split))
            return hstack([csr_matrix((np.ones(n), (every, ids)), (n, size))[:, 1:] for ids, size in parts]).tocsr()

        def fitted(penalty: float) -> Callable[[str], np.ndarray]:
            model = LogisticRegression(C=1 / penalty, max_iter=300).fit(train, data.label["train"])
            return lambda split: model.predict_proba(ones(split))[:, 1]

        train = ones("train")
        self.chosen["penalty"], predict = data.best(self.settings["penalties"], fitted)
        self.parameters = int((train.getnnz(axis=0) > 0).sum()) + 1
        return predict


class LogisticRegression(Baseline):
    """A line through the columns of :mod:`~qin_zoo.baselines.features`, each scaled to deviation 1."""

    about = "logistic regression on counted columns"
    settings = {"strengths": [1e-4, 1e-3, 1e-2, 1.0]}
    needs_columns = True

    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        from scipy.linalg import LinAlgWarning
        from sklearn import linear_model

        used = data.with_a_past
        x = _spread(data.table("train"))[used]
        mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        deviation[deviation < _CONSTANT] = np.inf  # says nothing

        def scaled(x: np.ndarray) -> np.ndarray:
            x -= mean
            x /= deviation
            return x

        x, y = scaled(x), data.label["train"][used]
        columns = cache(lambda split: scaled(_spread(data.table(split))))

        def fitted(strength: float) -> Callable[[str], np.ndarray] | None:
            model = linear_model.LogisticRegression(C=strength, solver="newton-cholesky")
            with warnings.catch_warnings():
                warnings.simplefilter("error", LinAlgWarning)
                try:
                    model.fit(x, y)
                except LinAlgWarning:  # too weak a penalty for columns so alike; 99 slow steps would not arrive either
                    return None
            return lambda split: model.predict_proba(columns(split))[:, 1]

        self.chosen["C"], predict = data.best(self.settings["strengths"], fitted)
        self.parameters = int(np.isfinite(deviation).sum()) + 1
        return predict


class BoostedTrees(Baseline):
    """LightGBM on the same columns, as many trees as the validation AUC gains by."""

    about = "boosted trees (LightGBM) on counted columns"
    settings = {
        "learning_rate": 0.05,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "rounds": 2000,
        "patience": 200,
    }
    needs_columns = True
    needs_both = True

    def fit(self, data: Data) -> Callable[[str], np.ndarray]:
        try:
            import lightgbm
        except (ImportError, OSError) as error:  # OSError: a library that it needs
            raise QinZooError(f"Boosted trees need LightGBM (pip install lightgbm): {error}.") from error
        params = {k: v for k, v in self.settings.items() if k not in ("rounds", "patience")}
        params |= {"objective": "binary", "metric": "auc", "verbose": -1, "deterministic": True, "force_row_wise": True}
        params |= {"seed": data.seed % 2**31, "num_threads": share(1)}
        used, table = data.with_a_past, data.table("train")
        train = lightgbm.Dataset(table.values[used], data.label["train"][used])
        valid = lightgbm.Dataset(data.table("valid").values, data.label["valid"], reference=train)
        stop = lightgbm.early_stopping(self.settings["patience"], verbose=False)
        model = lightgbm.train(params, train, self.settings["rounds"], [valid], callbacks=[stop])
        self.chosen["trees"] = model.best_iteration
        self.parameters = sum(tree["num_leaves"] for tree in model.dump_model()["tree_info"][: model.best_iteration])
        return lambda split: np.asarray(model.predict(data.table(split).values))


def _spread(table: Table) -> np.ndarray:
    """(n, columns) float32, small vocabularies as a column for each of their codes."""
    columns = []
    for i, name in enumerate(table.names):
        column = table.values[:, i : i + 1]
        columns.append(column == np.arange(1, table.one_hot[name]) if name in table.one_hot else column)
    return np.concatenate(columns, axis=1, dtype=np.float32)


BASELINES: dict[str, type[Baseline]] = {
    cls.__name__: cls for cls in (ItemConstant, UserItemMeans, RecentPopularity, LogisticRegression, BoostedTrees)
}
