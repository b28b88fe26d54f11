"""A study file, read and checked: which experiments, in which variations, with which seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from qin_zoo.config.experiments import defines_experiment
from qin_zoo.config.safe_yaml import read_yaml
from qin_zoo.config.values import Id
from qin_zoo.data.variations import KEYS as VARIATION_KEYS
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.experiment.prepare import Prepared, prepare

Seed = Annotated[int, Field(strict=True, ge=0)]


def _each_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("it holds a value twice; name each once")
    return values


class Tuning(BaseModel):
    """What every experiment gets on every dataset, in every variation, before its runs with the study's seeds.

    Attributes:
        trials: trainings of each; fewer only where a space of lists has fewer combinations.
        minutes: of training for all trials of each together, instead of ``trials``; the last one is finished.
        space: parameter -> list of values, or range (``{low: 1.e-4, high: 1.e-2, log: true}``), as in a tuner file.
            What a variation sets is not varied there.
        spaces: experiment -> further parameters of its own.
        seed: of the searches and of their trainings.
        pruner: stops hopeless trials: ``median``, ``halving`` or ``none``. Default: as of ``qin-zoo tune``.
    """

    model_config = ConfigDict(extra="forbid")

    trials: Annotated[int, Field(strict=True, ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    space: dict[str, Any] = {}
    spaces: dict[str, dict[str, Any]] = {}
    seed: Seed = 0
    pruner: Literal["median", "halving", "none"] | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> Tuning:
        if (self.trials is None) == (self.minutes is None):
            raise ValueError("expected trials or minutes, one of the two: what each model is given")
        return self


class Study(BaseModel):
    """What a study file may hold.

    Attributes:
        experiments: experiment ids; each is run on every dataset in every variation.
        datasets: dataset id -> parameters for all experiments on it. Default: each experiment's own dataset.
        variations: name -> parameters that differ from the experiment's, ``dataset_id`` included. The others are
            compared with ``plain``, or ``none``, or the first. Default: ``plain``, without differences.
        seeds: every experiment and variation is run with each of them.
        tests: name -> keys of :class:`~qin_zoo.data.variations.Variation`; each trained model is scored besides on
            the split that is compared, so varied.
        periods: folders to continue on after the training on the dataset itself, one after the other, as `qin-zoo
            continue` does; variations differ there only. What is compared are means over the periods.
        slices: ways to cut that split into parts with metrics of their own; see :mod:`qin_zoo.study.slices`.
        tuning: see :class:`Tuning`. Default: parameters are as configured.
        config: folder of the experiments, relative to the study file. Default: the study file's own for those that
            it defines; the others are looked up by their ids.
    """

    model_config = ConfigDict(extra="forbid")

    experiments: Annotated[list[Id], Field(min_length=1), AfterValidator(_each_once)]
    datasets: dict[Id, dict[str, Any]] = Field(default={}, min_length=1)
    variations: dict[Id, dict[str, Any]] = Field(default={"plain": {}}, min_length=1)
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_once)]
    tests: dict[Id, dict[str, Any]] = {}
    slices: list[Literal["item_clicks", "user_clicks"]] = []
    periods: list[str] = []
    tuning: Tuning | None = None
    config: str | None = None

    @model_validator(mode="after")
    def _without_contradictions(self) -> Study:
        if self.datasets and any("dataset_id" in changes for changes in self.variations.values()):
            raise ValueError("datasets and a variation's dataset_id contradict each other; use one of them")
        if self.periods and (self.tests or self.slices or self.tuning):
            raise ValueError("tests, slices and tuning are not for periods; leave them out, or periods")
        for name in self.tuning.spaces if self.tuning else ():
            if name not in self.experiments:
                hint = suggest(name, self.experiments)
                raise ValueError(f"tuning.spaces: {name!r} is none of the study's experiments.{hint}")
        for name, changes in self.tests.items():
            if unknown := [key for key in changes if key not in VARIATION_KEYS]:
                known = f"{suggest(unknown[0], VARIATION_KEYS)} A test may set {', '.join(sorted(VARIATION_KEYS))}"
                raise ValueError(f"tests.{name}: unknown key {unknown[0]!r}.{known}")
        return self


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One training of a study.

    Attributes:
        experiment: experiment id.
        dataset: dataset id; None for the experiment's own.
        variation: name of the variation.
        seed: of the training.
        overrides: the dataset's and the variation's parameters, and the seed.
        config: folder of the experiment; None to look it up.
        tuning: what was spent on its parameters, JSON; None where they are as configured.
        periods: folders to continue on, one after the other.
        changes: where there are periods, the variation's parameters, which are theirs only.
    """

    experiment: str
    dataset: str | None
    variation: str
    seed: int
    overrides: dict[str, Any]
    config: Path | None
    tuning: dict[str, Any] | None = None
    periods: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> tuple[str, str, str | None]:
        """What it has in common with its other seeds: experiment, variation, dataset."""
        return self.experiment, self.variation, self.dataset

    @property
    def of_line(self) -> list[str] | None:
        """Experiment and variation where :attr:`name` does not tell them apart; else None."""
        return [self.experiment, self.variation] if "." in self.experiment else None

    @property
    def name(self) -> str:
        """Name of the run's files, which lie in a folder of their dataset."""
        return f"{self.experiment}.{self.variation}.s{self.seed}"

    def prepare(self, **options) -> Prepared:
        """The run, before its periods where it has some, checked; ``options`` are those of ``prepare``."""
        overrides = {**self.overrides, **(options.pop("overrides", None) or {})}
        name = f"{self.experiment}.pretrained.s{self.seed}" if self.periods else self.name
        return prepare(self.experiment, self.config, overrides=overrides, name=name, **options)


def read_study(file: Path) -> Study:
    """Reads a study file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or holds keys or values that no study has.
    """
    data = read_yaml(file).data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected keys such as experiments and seeds, found {type(data).__name__}.")
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = first.get("ctx", {}).get("error") or first["msg"]
        hint = suggest(key, list(Study.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{file}: {key}{': ' if key else ''}{what}.{hint}") from error


def plan_runs(study: Study, file: Path) -> list[StudyRun]:
    """Every run of a study, seed by seed, so that a study that is stopped has whole seeds behind it.

    Raises:
        ConfigError: two of them would write the same files.
    """
    folder, own = file.parent / (study.config or "."), study.config is not None
    folders = {name: folder if own or defines_experiment(folder, name) else None for name in study.experiments}
    datasets = {name: {"dataset_id": name, **changes} for name, changes in study.datasets.items()}
    periods = tuple(study.periods)
    runs = [
        StudyRun(
            experiment,
            dataset,
            variation,
            seed,
            {**common, **({} if periods else changes), "seed": seed},
            folders[experiment],
            periods=periods,
            changes=changes if periods else {},
        )
        for seed in study.seeds
        for dataset, common in (datasets or {None: {}}).items()
        for experiment in study.experiments
        for variation, changes in study.variations.items()
    ]
    named: dict[tuple, StudyRun] = {}
    for run in runs:
        other = named.setdefault((run.name, run.overrides.get("dataset_id")), run)
        if other is not run:
            lines = " and ".join(f"{one.experiment}, {one.variation}," for one in (other, run))
            raise ConfigError(f"{file}: {lines} would both be called {run.name}; give one of them another name.")
    return runs
