"""What the labels of an experiment are: clicks or numbers, one or several; and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping

from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.metrics import ERROR_METRICS

CLICKS, REGRESSION = "binary_classification", "regression"
_LOSSES = {CLICKS: "binary_crossentropy", REGRESSION: "mse_loss"}
_LOSSES_OF_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def tasks(params: Mapping) -> list[str]:
    """The task of each label, or the one of all."""
    task = params.get("task") or CLICKS
    return task if isinstance(task, list) else [task]


def is_regression(params: Mapping) -> bool:
    """Whether any label is a number to be met and no click."""
    return REGRESSION in tasks(params)


def task_defaults(params: Mapping) -> dict[str, object]:
    """What an experiment's task suggests for the keys that it leaves out."""
    losses = [_LOSSES.get(task, "") for task in tasks(params)]
    defaults: dict[str, object] = {"loss": losses if isinstance(params.get("task"), list) else losses[0]}
    if is_regression(params):
        defaults["metrics"] = ["MSE", "MAE"]
    return defaults


def check_task(params: Mapping) -> None:
    """Raises ConfigError for a loss or a metric of clicks where labels are numbers."""
    if not is_regression(params):
        return
    monitor = params["monitor"]
    metrics = [*params["metrics"], *([monitor] if isinstance(monitor, str) else monitor)]
    wrong = [metric for metric in dict.fromkeys(metrics) if metric not in ERROR_METRICS]
    if wrong:
        raise ConfigError(
            f"task: regression has no {', '.join(wrong)}, which need labels 0 and 1. Set metrics and monitor to some "
            f"of {', '.join(ERROR_METRICS)}, or leave them out."
        )
    loss, of = params["loss"], tasks(params)
    losses = loss if isinstance(loss, list) else [loss] * len(of)
    for loss, task in zip(losses, of):
        if task == REGRESSION and loss not in _LOSSES_OF_NUMBERS:
            raise ConfigError(
                f"task: regression cannot be trained with loss {loss}, which needs labels 0 and 1. Set loss to one of "
                f"{', '.join(_LOSSES_OF_NUMBERS)}, or leave it out."
            )
    if isinstance(monitor, str) and params.get("monitor_mode", "min") != "min":
        raise ConfigError(f"monitor_mode max would keep the worst weights: less {monitor} is better. Leave it out.")


def check_labels(model_class: type, labels: list[str], params: Mapping) -> None:
    """Raises ModelError for more labels than a model predicts, or than the experiment has tasks for."""
    from qin_zoo.fuxi import BaseModel
    from qin_zoo.models import ZooModel
    from qin_zoo.models.adapter import Adapted

    if len(labels) == 1:
        return
    own = next(vars(c)["evaluate"] for c in model_class.__mro__ if "evaluate" in vars(c) and c is not Adapted)
    if own in (BaseModel.evaluate, ZooModel.evaluate):  # those of one prediction
        raise ModelError(
            f"{model_class.__name__} predicts one label, and the data has {len(labels)}: {', '.join(labels)}. Leave "
            f"one of them in label_col, as in --set 'label_col={{name: {labels[0]}, dtype: float}}', or take a model "
            "that derives from FuxiCTR's MultiTaskModel."
        )
    numbers = {key: len(params[key]) for key in ("task", "loss") if isinstance(params.get(key), list)}
    for key, given in {"num_tasks": params.get("num_tasks"), **numbers}.items():
        if given not in (None, len(labels)):
            raise ModelError(f"{key}: expected {len(labels)}, one for each label ({', '.join(labels)}), found {given}.")
