"""One run's results, as they are kept and passed on."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from qin_zoo.bootstrap import Draws
from qin_zoo.config.values import Id
from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.experiment.record import content_of, course_of, identity, monitored
from qin_zoo.metrics import check_metrics, without_label

SCHEMA_VERSION = 1
OF_SEED = ("seed", "continues", "continued_weights")  # which run of its seed a run continues
PLAIN = "plain"  # the variation of an experiment as it is configured


def _check_draws(data: dict) -> dict:
    try:
        Draws.from_dict(data)
    except QinZooError as error:
        raise ValueError(str(error)) from None
    return data


Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]  # null in files


def _check_slices(data: dict) -> dict:
    if any("rows" not in part for parts in data.values() for part in parts.values()):
        raise ValueError("expected the number of rows of each part")
    return data


def _check_curve(data: dict) -> dict:
    if len(data["predicted"]) != len(data["clicked"]):
        raise ValueError("expected as many of predicted as of clicked")
    return data


@with_config(ConfigDict(extra="allow"))
class _Tuning(TypedDict):
    """What is shown of a tuning."""

    asked: str
    trials: int
    minutes: float


@with_config(ConfigDict(extra="allow"))
class _Calibration(TypedDict):
    """What is shown of a calibration."""

    ece: Number
    predicted: list[float]
    clicked: list[float]


class _Reachable(TypedDict):
    best_auc: float
    blind_auc: float


class Entry(BaseModel):
    """What is kept of a run.

    Attributes:
        experiment, variation, seed: which run; ``variation`` is a study's, else ``plain``.
        model, dataset_id: what was trained on what.
        identity: hash of all parameters and data, the same for repetitions on any machine.
        setting: the same without the seed: runs that are one line of a table.
        rows_of: hash of the files of the scored rows; see :attr:`scored_rows`.
        content_of: hash of what all files held, wherever they lay; empty in entries of old.
        split: ``test``, or ``valid`` where the test rows have no labels.
        metrics: of both splits.
        parameters: number of trainable parameters.
        rows: of each split.
        draws: metrics of ``split`` for other users, see :class:`~qin_zoo.bootstrap.Draws`.
        tuning: what was spent on its parameters, see :mod:`qin_zoo.study.tuned`; None of parameters that nobody tuned.
        curve: the monitored value after each evaluation.
        seconds: of the training.
        scored: rows scored per second.
        calibration: see :class:`~qin_zoo.calibration.Reliability`; of ``split``.
        reachable: best AUC of ``valid`` that is possible, with and without the history, where it is known.
        tests, slices: see :func:`qin_zoo.study.probe.probe`.
        environment: versions and machine.
        params: parameters.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    experiment: Id
    variation: Id = PLAIN
    seed: int
    model: str
    dataset_id: Id  # these three become a path in a store
    identity: str
    setting: str
    rows_of: str
    content_of: str = ""
    split: str
    metrics: dict[str, dict[str, Number]]
    parameters: int
    rows: dict[str, int]
    draws: Annotated[dict[str, Any], AfterValidator(_check_draws)] | None = Field(default=None, repr=False)
    tuning: _Tuning | None = None
    curve: list[Number] = []
    seconds: float
    scored: float | None = None
    calibration: Annotated[_Calibration, AfterValidator(_check_curve)] | None = None
    reachable: _Reachable | None = None
    tests: dict[str, dict[str, Number]] = {}
    slices: Annotated[dict[str, dict[str, dict[str, Number]]], AfterValidator(_check_slices)] = {}
    environment: dict[str, Any] = {}
    params: dict[str, Any] = Field(default={}, repr=False)

    @property
    def values(self) -> dict[str, float]:
        """Metrics of the compared split."""
        return self.metrics[self.split]

    @property
    def drawn(self) -> Draws | None:
        """``draws``, read."""
        return None if self.draws is None else Draws.from_dict(self.draws)

    @property
    def scored_rows(self) -> set[str]:
        """What tells the scored rows: results that share one of these can be compared."""
        return {self.rows_of, (self.draws or {}).get("truth") or self.rows_of}

    @property
    def course(self) -> str:
        """See :func:`qin_zoo.experiment.record.course_of`."""
        return course_of(self.curve, self.params.get("monitor_mode", "max"))

    @property
    def digest(self) -> str:
        """Of what a repetition must find again: parameters, data and metrics, but not the time it took."""
        return _hash(self.identity, self.metrics)[:10]


def entry_of(record: dict, found: dict | None = None) -> Entry:
    """The entry of a run's record, with the ``tests`` and ``slices`` that a study found."""
    seed, (parameters, data) = record["params"]["seed"], identity(record["params"], record["data"]).values()
    asked_for = record.get("asked_for", record["expid"])  # a run that was numbered belongs with the others of its name
    name = asked_for.removesuffix(f".s{seed}")
    experiment, _, variation = name.partition(".") if name != asked_for else (name, "", "")
    experiment, variation = record.get("line") or (experiment, variation)
    params = {key: value for key, value in parameters.items() if key != "model_id"}
    split = "test" if record["test"] else "valid"
    evaluations, scoring = record["evaluations"], record.get("scoring")
    looks = [monitored(record["params"], e["metrics"]) for e in evaluations]
    return Entry(
        experiment=experiment,
        variation=variation or PLAIN,
        seed=seed,
        model=record["model"],
        dataset_id=record["dataset_id"],
        identity=_hash(params, data),
        setting=_hash({key: value for key, value in params.items() if key not in OF_SEED}, data),
        rows_of=_hash({s: _rows(record["data"][s]) for s in ("valid", "test") if s in record["data"]}),
        content_of=content_of(record["data"]),
        split=split,
        metrics={s: record[s] for s in ("valid", "test") if record[s]},
        parameters=record["parameters"],
        rows=record["rows"],
        draws=record.get("draws"),
        tuning=record.get("tuning"),
        curve=[value for value in looks if value is not None],
        seconds=evaluations[-1]["seconds"] if evaluations else record["seconds"],
        scored=scoring["rows"] / scoring["seconds"] if scoring and scoring["seconds"] > 0 else None,
        calibration=record.get("calibration", {}).get(split),
        reachable=record["reachable"],
        **{key: (found or {}).get(key, {}) for key in ("tests", "slices")},
        environment=record["environment"],
        params=params,
    )


def record_of(entry: Entry, where: str) -> dict:
    """Of a run's record what :func:`qin_zoo.experiment.repeat.prepare_repetition` needs, from its line alone.

    Raises:
        QinZooError: it was stored by a version that did not keep all parameters.
    """
    if "feature_cols" not in entry.params:
        raise QinZooError(f"{where} was stored without its feature_cols; repeat the run's own record instead.")
    name = f"{entry.experiment}.{entry.variation}.s{entry.seed}"
    scores = {"valid": {}, "test": {}} | entry.metrics
    return {"expid": name, "params": entry.params, "environment": entry.environment, "data": entry.content_of, **scores}


def parse_entry(data: object, where: str) -> Entry:
    """An entry from JSON values.

    Raises:
        QinZooError: it is none, is damaged, or was written by a newer version.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise QinZooError(
            f"{where}: expected a result of schema version {SCHEMA_VERSION} or older, found {version}. It was "
            "written by a newer qin-zoo: update this one."
        )
    try:
        entry = Entry.model_validate(data)
        if not entry.metrics.get(entry.split):
            raise QinZooError(f"{where}: expected metrics of the {entry.split} split, found {entry.metrics}.")
        if entry.split not in entry.rows:
            raise QinZooError(f"{where}: expected the number of {entry.split} rows, found {entry.rows}.")
        check_metrics(map(without_label, entry.values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = first.get("ctx", {}).get("error") or first["msg"]
        raise QinZooError(f"{where} is no result of qin-zoo: {key}: {what}.") from None
    except ConfigError as error:
        raise QinZooError(f"{where}: {error}") from None
    return entry


def _rows(fingerprint: dict) -> dict:
    """Which rows they are, not where the file lies or what items look like."""
    return {key: value for key, value in fingerprint.items() if key not in ("item_info", "user_info", "file", "path")}


def _hash(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
