"""What the process of a device does with a trial: it knows its parameters, and nothing of the search."""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from qin_zoo.experiment.record import kept_evaluation, monitored
from qin_zoo.processes.worker import failure


@dataclass(frozen=True)
class Job:
    """A trial to train.

    Attributes:
        expid: its id, which its files are named after.
        base_expid: id of the base experiment.
        base: configuration folder of the base experiment.
        folder: configuration folder of the trials; the results CSV is named after it.
        point: parameters that differ from the base experiment's.
        data, plugins: as of :func:`~qin_zoo.experiment.prepare.prepare`.
    """

    expid: str
    base_expid: str
    base: Path
    folder: Path
    point: dict
    data: Path | None
    plugins: tuple[Path, ...]

    def prepare(self, gpu: int):
        """The trial, checked; see :func:`~qin_zoo.experiment.prepare.prepare`."""
        from qin_zoo.experiment.prepare import prepare

        prepared = prepare(
            self.base_expid, self.base, gpu=gpu, data=self.data, overrides=self.point, plugins=self.plugins,
            name=self.expid,
        )  # fmt: skip
        return replace(prepared, config_dir=self.folder)


class Pruned(Exception):
    """The trial is not worth going on with."""


def train(job: Job, gpu: int, connection: Connection) -> tuple:
    """Trains a trial, for a :class:`~qin_zoo.processes.worker.Worker`.

    Says ``("evaluation", value, number)``, answered by whether to prune, and at its end ``("done", result)``,
    ``("pruned", result)``, ``("failed", message)`` or, after a SIGTERM, ``("stopped", {})``.
    """
    from qin_zoo.experiment.run import run_experiment
    from qin_zoo.log import silent
    from qin_zoo.training.stop import Stopped

    prepared = None
    evaluations: list[dict] = []
    try:
        prepared = job.prepare(gpu)
        params, steps = prepared.params, prepared.params.get("eval_steps")

        def on_evaluation(evaluation):
            evaluations.append(evaluation.as_dict())
            # a trial that goes on from a checkpoint has told the earlier ones before
            number = evaluation.step // steps if steps else evaluation.epoch
            connection.send(("evaluation", monitored(params, evaluation.metrics), number))
            # in the last epoch there is nothing left to save
            if connection.recv() and evaluation.epoch < params["epochs"]:
                raise Pruned

        argv = ["qin-zoo", "run", job.expid, "--config", str(job.folder)]
        record = run_experiment(
            prepared, Path.cwd(), argv, echo=silent, on_evaluation=on_evaluation, resume=True, overwrite=True,
            notes={"trial_of": job.folder.name},
        )  # fmt: skip
        return "done", _result(params, record["evaluations"])
    except Pruned:
        _keep_only_log(prepared)
        return "pruned", _result(params, evaluations)
    except Stopped:
        return "stopped", {}
    except (EOFError, BrokenPipeError):
        os._exit(1)  # the tuner is gone
    except Exception as error:
        if prepared is not None:
            _keep_only_log(prepared)
        return "failed", failure(error, prepared and prepared.files.log)


def _result(params: dict, evaluations: list[dict]) -> dict:
    """The monitor's value, the metrics and the epoch of the weights that are kept, and the number of evaluations."""
    kept = kept_evaluation(evaluations)
    value, told = monitored(params, kept["metrics"]), {key: kept[key] for key in ("metrics", "epoch")}
    return {"value": value, **told, "evaluations": len(evaluations)}


def _keep_only_log(prepared) -> None:
    """Removes what a run that did not end has written beside its log."""
    files = prepared.files
    for path in files.folder.glob(f"{glob.escape(files.expid)}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path != files.log:
            path.unlink(missing_ok=True)
