"""Labels that are numbers: trained, evaluated and predicted from end to end, against scikit-learn's metrics."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error

from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.calibrate import calibrate_run
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.metrics import evaluate_metrics

SMALL = {"epochs": 3, "batch_size": 256, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8, "verbose": 0}
LEFT_OUT = ("metrics", "monitor", "monitor_mode", "loss")


@pytest.fixture(scope="module")
def numbers(sample, tmp_path_factory):
    """The sample with ratings around 3 in the place of its clicks."""
    folder = tmp_path_factory.mktemp("numbers")
    for file in sample.iterdir():
        frame = pl.read_parquet(file) if file.suffix == ".parquet" else None
        if frame is not None and "label" in frame.columns:
            noise = np.random.default_rng(0).normal(0, 0.3, len(frame))
            ratings = 2.5 + noise + frame["label"].to_numpy()
            frame.with_columns(label=ratings).write_parquet(folder / file.name)
        elif frame is not None:
            frame.write_parquet(folder / file.name)
    return folder


def regression(numbers, root, **changes):
    from qin_zoo.config.experiments import load_experiment, resolve_experiment
    from qin_zoo.experiment.prepare import prepare_params

    config = resolve_experiment("QIN_sample", None)
    params = {k: v for k, v in load_experiment(config, "QIN_sample").items() if k not in LEFT_OUT}
    changes = {"task": "regression", "model_root": str(root), **SMALL, **changes}
    return prepare_params("QIN_sample", params, config, data=numbers, overrides=changes)


def test_regression_from_end_to_end(numbers, tmp_path):
    experiment = regression(numbers, tmp_path)
    record = run_experiment(experiment, tmp_path, echo=lambda text: None)
    assert {key: record["params"][key] for key in LEFT_OUT} == {
        "metrics": ["MSE", "MAE"], "monitor": "MSE", "monitor_mode": "min", "loss": "mse_loss"
    }  # fmt: skip
    files = predict_split(experiment, "valid", echo=lambda text: None)
    y_true = pl.read_parquet(numbers / "valid.parquet")["label"].to_numpy()
    y_pred = pl.read_csv(files.prediction)["Task2"].to_numpy()
    assert y_pred.max() > 1, "no sigmoid"
    assert record["valid"]["MSE"] == pytest.approx(mean_squared_error(y_true, y_pred), rel=1e-6)
    assert record["valid"]["MAE"] == pytest.approx(mean_absolute_error(y_true, y_pred), rel=1e-6)
    errors = [e["metrics"]["MSE"] for e in record["evaluations"]]
    assert record["valid"]["MSE"] == pytest.approx(min(errors)), "the weights of the smallest error"
    assert min(errors) < max(errors)
    assert record["calibration"] == {}
    with pytest.raises(ConfigError, match="task regression: only click probabilities"):
        calibrate_run(experiment, "platt")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["AUC", "MSE"]}, "regression has no AUC, which need labels 0 and 1. Set metrics and monitor"),
        ({"monitor": "logloss"}, "regression has no logloss"),
        ({"loss": "binary_crossentropy"}, "cannot be trained with loss binary_crossentropy.* Set loss to one of"),
        ({"monitor_mode": "max"}, "monitor_mode max would keep the worst weights"),
    ],
)
def test_what_is_of_clicks_is_refused_before_training(changes, said, numbers, tmp_path):
    with pytest.raises(ConfigError, match=said):
        regression(numbers, tmp_path, **changes)


def test_ratings_are_no_clicks(numbers, tmp_path):
    overrides = {"model_root": str(tmp_path), **SMALL}
    with pytest.raises(DataError, match="expected a label, 0 or 1"):
        prepare("QIN_sample", data=numbers, overrides=overrides).open_dataset().labels("train")


def test_errors_are_scikit_learns():
    g = np.random.default_rng(1)
    y_true, y_pred = g.normal(3, 2, 500), g.normal(3, 2, 500)
    found = evaluate_metrics(y_true, y_pred, ["MSE", "RMSE", "MAE"])
    mse = mean_squared_error(y_true, y_pred)
    assert found == pytest.approx({"MSE": mse, "RMSE": mse**0.5, "MAE": mean_absolute_error(y_true, y_pred)})
    with pytest.raises(DataError, match="Labels must be 0 or 1"):
        evaluate_metrics(y_true, y_pred, ["MSE", "AUC"])
    with pytest.raises(DataError, match="finite"):
        evaluate_metrics([1.0, np.nan], [1.0, 1.0], ["MSE"])
