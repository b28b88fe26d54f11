"""The zoo's models as a scikit-learn classifier: a table of columns in, click probabilities out."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from qin_zoo.experiment.predict import feed_split
from qin_zoo.experiment.prepare import build_model, prepare_model
from qin_zoo.log import silent, warnings_shown
from qin_zoo.training.trainer import Trainer

_UNKNOWN = 1  # the id of values that the training rows did not have; 0 is padding
_AT_ONCE = 8192  # rows predicted


class QinZooClassifier(ClassifierMixin, BaseEstimator):
    """A model of the zoo that learns clicks from the columns of a table.

    Columns of text, categories, truth values, and those named in ``categorical_features``, are embedded as categories,
    missing ones as a category of their own; other columns are numbers, scaled to mean 0 and deviation 1. Batches,
    epochs and sizes follow the number of rows (:mod:`qin_zoo.config.recipes`) as far as parameters do not say
    otherwise; the weights are those that were best on rows held out of the training.

    A table has no histories: data with histories go through :func:`qin_zoo.train`.

    Args:
        model: name of a model, see ``qin_zoo.list_models()``.
        categorical_features: names, or numbers, of columns of numbers that are categories, such as ids.
        validation_fraction: share of the rows held out, of each class.
        random_state: of the held out rows, first weights, order of the rows and dropout.
        gpu: index of the GPU, -1 for the CPU.
        **params: of model and training, as in a configuration: ``epochs=5``, ``embedding_dim=32``.

    Attributes:
        classes_: (2,) the labels, the one of a click last.
        n_features_in_: number of columns.
        feature_names_in_: (n_features_in_,) their names, where they had some.
        evaluations_: one for each look at the rows held out, :class:`~qin_zoo.training.trainer.Evaluation`.
        model_: the torch module, in evaluation mode.
    """

    def __init__(
        self,
        model: str = "QIN",
        *,
        categorical_features: list[str] | list[int] | None = None,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        gpu: int = -1,
        **params: Any,
    ) -> None:
        self.model = model
        self.categorical_features = categorical_features
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.gpu = gpu
        for name, value in params.items():
            setattr(self, name, value)

    def _of_model(self) -> dict[str, Any]:
        """Parameters of model and training."""
        own = {*super().get_params(deep=False)}
        return {k: v for k, v in vars(self).items() if k not in own and k[0] != "_" and k[-1] != "_"}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by their names, those of model and training among them."""
        return {**super().get_params(deep), **self._of_model()}

    def set_params(self, **params: Any) -> QinZooClassifier:
        """Sets parameters; what is none of the classifier's is one of model and training."""
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X, y) -> QinZooClassifier:
        """Learns from rows.

        Args:
            X: (N, columns), a data frame of pandas or polars, or an array of numbers.
            y: (N,) labels of two kinds.

        Raises:
            ValueError: labels or columns that cannot be used.
            QinZooError: parameters that cannot be used.
        """
        columns, y = self._columns(X, y, fitting=True)
        check_classification_targets(y)
        if (kind := type_of_target(y, input_name="y")) != "binary":
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected labels of two classes, found one class only: {self.classes_[0]!r}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: expected a share between 0 and 1, got {self.validation_fraction}.")
        random = check_random_state(self.random_state)
        rows = _split(labels, self.validation_fraction, random)
        known = [column[rows["train"]].reshape(-1, 1) for column in columns]
        self._encoders = [(_Ids() if c.dtype == object else StandardScaler()).fit(c) for c in known]
        encoded, params = self._encoded(columns), {"verbose": 0, **self._of_model()}
        params.setdefault("seed", int(random.randint(2**31 - 1)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for split, chosen in rows.items():
                splits = {key: values[chosen] for key, values in encoded.items()}
                np.savez(folder / f"{split}.npz", label=labels[chosen].astype(np.float64), **splits)
            (folder / "feature_map.json").write_text(json.dumps(self._feature_map(folder.name)), encoding="utf-8")
            changes = {**params, "model_root": name, "cache_dir": str(folder / "cache")}
            with warnings_shown(logging.ERROR):  # a table has no histories, which need not be said
                prepared = prepare_model(self.model, folder, gpu=self.gpu, overrides=changes)
                dataset = prepared.open_dataset()
                model, known = build_model(prepared, dataset), prepared.params
                of_training = {"max_gradient_norm": known["max_gradient_norm"], "ema_decay": known.get("ema_decay")}
                trainer = Trainer(model, known["epochs"], **of_training, say=silent)
                Path(model.checkpoint).parent.mkdir(parents=True, exist_ok=True)
                trainer.fit(*(feed_split(dataset, split, model) for split in ("train", "valid")))
        model.valid_gen = model.optimizer = None  # the files of the one are gone, the other has done its work
        self.model_, self.evaluations_ = model.eval(), trainer.evaluations
        return self

    def predict_proba(self, X) -> np.ndarray:
        """(N, 2) probability of each of ``classes_``, float64; the network's, to some six digits."""
        check_is_fitted(self)
        columns, _ = self._columns(X)
        click = self.model_.predict(self._batches(self._encoded(columns)))
        return np.column_stack([1 - click, click])

    def predict(self, X) -> np.ndarray:
        """(N,) the more likely of ``classes_``."""
        click = self.predict_proba(X)[:, 1]
        return self.classes_[(click > 0.5).astype(int)]

    def _columns(self, X, y=None, fitting: bool = False) -> tuple[list[np.ndarray], np.ndarray | None]:
        """The columns, (N,) each, float64 where they are numbers and objects where they are categories; the labels."""
        if hasattr(X, "columns") and hasattr(X, "dtypes"):  # a data frame
            validate_data(self, X, reset=fitting, skip_check_array=True)
            if fitting:
                y = column_or_1d(y, warn=True)
                check_consistent_length(X, y)
                assert_all_finite(y, input_name="y")
            columns = [np.asarray(X[name]) for name in X.columns]
        else:
            wanted = {"dtype": np.float64, "reset": fitting}
            X, y = validate_data(self, X, y, **wanted) if fitting else (validate_data(self, X, **wanted), None)
            columns = list(X.T)
        if not columns or not len(columns[0]):
            raise ValueError(f"Found array with {len(columns)} feature(s) and no row while a minimum of 1 is required.")
        if times := [n for n, column in enumerate(columns) if column.dtype.kind in "mM"]:
            raise ValueError(f"Column {times[0]}: expected categories or numbers, found times. Give their hour, say.")
        if fitting:
            self._categorical = [c.dtype.kind not in "iuf" or self._is_named(n) for n, c in enumerate(columns)]
        return [
            column.astype(object) if categorical else _numbers(column, n)
            for n, (column, categorical) in enumerate(zip(columns, self._categorical))
        ], y

    def _is_named(self, number: int) -> bool:
        name = getattr(self, "feature_names_in_", {number: number})[number]
        return any(named in (number, name) for named in self.categorical_features or ())

    def _encoded(self, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Feature -> (N,) ids, or scaled numbers."""
        values = (e.transform(c.reshape(-1, 1))[:, 0] for e, c in zip(self._encoders, columns))
        types = (np.int64 if categorical else np.float32 for categorical in self._categorical)
        return {f"x{n}": v.astype(dtype) for n, (v, dtype) in enumerate(zip(values, types))}

    def _batches(self, encoded: dict[str, np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(encoded["x0"]), _AT_ONCE):
            batch = {name: torch.from_numpy(v[start : start + _AT_ONCE]) for name, v in encoded.items()}
            yield {name: values.to(self.model_.device) for name, values in batch.items()}

    def _feature_map(self, dataset_id: str) -> dict[str, Any]:
        def spec(encoder) -> dict[str, Any]:
            if isinstance(encoder, StandardScaler):
                return {"type": "numeric", "source": ""}
            return {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": encoder.vocab_size}

        features = [{f"x{n}": spec(encoder)} for n, encoder in enumerate(self._encoders)]
        return {"dataset_id": dataset_id, "labels": ["label"], "features": features}


class _Ids(OrdinalEncoder):
    """Categories as ids from 2 on; a missing one is a category, too."""

    def __init__(self) -> None:
        super().__init__(handle_unknown="use_encoded_value", unknown_value=-1)

    @property
    def vocab_size(self) -> int:
        return len(self.categories_[0]) + _UNKNOWN + 1

    def transform(self, X) -> np.ndarray:
        return super().transform(X) + _UNKNOWN + 1


def _numbers(column: np.ndarray, number: int) -> np.ndarray:
    if column.dtype.kind not in "iuf":
        raise ValueError(f"Column {number}: expected numbers, as in the rows that were fitted, found {column.dtype}.")
    assert_all_finite(column, input_name=f"column {number}")
    return column.astype(np.float64)


def _split(labels: np.ndarray, fraction: float, random: np.random.RandomState) -> dict[str, np.ndarray]:
    """Rows to train with and rows held out, of each class the same share; a class of one row stands in both."""
    of_class = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    counts = [max(1, round(fraction * len(rows))) for rows in of_class]
    train = [rows[count:] if len(rows) > count else rows for rows, count in zip(of_class, counts)]
    valid = [rows[:count] for rows, count in zip(of_class, counts)]
    return {"train": np.sort(np.concatenate(train)), "valid": np.sort(np.concatenate(valid))}
