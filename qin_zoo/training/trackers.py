"""MLflow and Weights & Biases, for those who keep their runs there; neither is needed otherwise.

Where they write is told as everywhere: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_MODE, WANDB_PROJECT, ….
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qin_zoo.errors import ConfigError, install
from qin_zoo.files import read_json, replace_text
from qin_zoo.training.tracking import EventFiles, Sink

_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
_PARAMS_TOGETHER, _METRICS_TOGETHER = 100, 1000  # as many as an MLflow server takes in one request
_LONGEST = 500  # letters of a parameter that every MLflow server takes


def check_tracker(tracker: str | None) -> None:
    """Raises ConfigError where a tracker's package is not installed: before the training, not in it."""
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        raise ConfigError(
            f"tracker: {tracker} needs the package {tracker}, which is not installed: "
            f"{install('track', _PACKAGES[tracker])}. Or leave tracker out: TensorBoard's files are written anyway."
        )


def sinks_of(tracker: str | None, events: Path, name: str, group: str) -> list[Sink]:
    """Where the numbers of a run go.

    Args:
        tracker: ``mlflow`` or ``wandb``; None for TensorBoard only.
        events: folder of event files, and of what the tracker keeps.
        name: of the run.
        group: what it is listed under, unless the tracker's own environment says otherwise.
    """
    more = {"mlflow": MLflow, "wandb": WandB}
    return [EventFiles(events), *([more[tracker](events, name, group)] if tracker else [])]


class MLflow:
    """A run of MLflow, on the server or in the folder that MLFLOW_TRACKING_URI names.

    Args:
        folder: keeps the run's id, so that a training that was stopped goes on in the same run.
        name: of the run.
        group: name of the experiment.
    """

    name = "MLflow"

    def __init__(self, folder: Path, name: str, group: str) -> None:
        self._kept, self._run_name = folder / "mlflow.json", name
        self._experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", group)
        self._waiting: list = []

    def begin(self, step: int, params: Mapping[str, object], metrics: list[str]) -> None:
        # a server that is gone must not hold a training up for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        self._id = _kept_id(self._kept) if step > 1 else None
        if self._id is not None:
            self._client.update_run(self._id, status="RUNNING")
            return
        known = self._client.get_experiment_by_name(self._experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._id = self._client.create_run(experiment, run_name=self._run_name).info.run_id
        _keep_id(self._kept, self._id)
        for part in _parts([Param(key, str(value)[:_LONGEST]) for key, value in params.items()], _PARAMS_TOGETHER):
            self._client.log_batch(self._id, params=part)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        names = {name: re.sub(r"[^\w\-. /]", "_", name) for name in values}  # the only letters that it takes
        self._waiting += [self._metric(names[name], value, now, step) for name, value in values.items()]
        self._last = step

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for part in _parts(waiting, _METRICS_TOGETHER):
            self._client.log_batch(self._id, metrics=part)

    def close(self, best: Mapping[str, float], finished: bool) -> None:
        if finished:
            self.scalars(self._last, best)
        self.flush()
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class WandB:
    """A run of Weights & Biases, or with WANDB_MODE=offline a folder that ``wandb sync`` sends.

    Args:
        folder: for its files; keeps the run's id.
        name: of the run.
        group: name of the project.
    """

    name = "Weights & Biases"

    def __init__(self, folder: Path, name: str, group: str) -> None:
        self._folder, self._kept, self._run_name = folder, folder / "wandb.json", name
        self._project = os.environ.get("WANDB_PROJECT", group)

    def begin(self, step: int, params: Mapping[str, object], metrics: list[str]) -> None:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        before = _kept_id(self._kept) if step > 1 else None
        self._run = wandb.init(
            project=self._project,
            name=self._run_name,
            id=before,
            resume="allow" if before else None,
            config=dict(params),
            dir=str(self._folder),
        )
        _keep_id(self._kept, self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def close(self, best: Mapping[str, float], finished: bool) -> None:
        self._run.summary.update(dict(best) if finished else {})
        self._run.finish(exit_code=0 if finished else 1)


def _kept_id(file: Path) -> str | None:
    try:
        return str(read_json(file)["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep_id(file: Path, run: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps({"run": run}))


def _parts(values: Sequence, size: int) -> Iterator[Sequence]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]
