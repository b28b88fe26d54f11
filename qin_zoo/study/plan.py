"""A study file, read and checked: which experiments, in which variations, with which seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qin_zoo.config.blocks import check_id
from qin_zoo.config.safe_yaml import read_yaml
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.training.prepare import Prepared, prepare

Seed = Annotated[int, Field(strict=True, ge=0)]


class Study(BaseModel):
    """What a study file may hold.

    Attributes:
        experiments: experiment ids; each is run in every variation.
        variations: name -> parameters that differ from the experiment's, ``dataset_id`` included. The first one is
            what the others are compared with. Default: one variation, ``plain``, without differences.
        seeds: every experiment and variation is run with each of them.
        metrics: of the test split (of the validation split where the test rows have no labels), which are compared;
            the first is drawn.
        config: folder of the experiments, relative to the study file. Default: the study file's own where it has a
            ``model_config.yaml``; otherwise they are looked up by their ids.
    """

    model_config = ConfigDict(extra="forbid")

    experiments: list[str] = Field(min_length=1)
    variations: dict[str, dict[str, Any]] = Field(default={"plain": {}}, min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    metrics: list[str] = Field(default=["AUC"], min_length=1)
    config: str | None = None


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One training of a study.

    Attributes:
        experiment: experiment id.
        variation: name of the variation.
        seed: of the training.
        overrides: the variation's parameters and the seed.
        config: folder of the experiment; None to look it up.
    """

    experiment: str
    variation: str
    seed: int
    overrides: dict[str, Any]
    config: Path | None

    @property
    def name(self) -> str:
        """Name of the run's files."""
        return f"{self.experiment}.{self.variation}.s{self.seed}"

    def prepare(self, **options) -> Prepared:
        """The run, checked; ``options`` are those of :func:`~qin_zoo.training.prepare.prepare`."""
        overrides = {**self.overrides, **(options.pop("overrides", None) or {})}
        return prepare(self.experiment, self.config, overrides=overrides, name=self.name, **options)


def read_study(file: Path) -> Study:
    """Reads a study file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or holds keys or values that no study has.
    """
    data = read_yaml(file).data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected keys such as experiments and seeds, found {type(data).__name__}.")
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = suggest(key, list(Study.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{file}: {key}: {first['msg']}.{hint}") from error
    for kind, names in (("experiment id", study.experiments), ("variation", list(study.variations))):
        for name in names:
            check_id(name, kind, str(file))
    for kind, values in (("experiments", study.experiments), ("seeds", study.seeds)):
        if len(set(values)) < len(values):
            raise ConfigError(f"{file}: {kind} holds a value twice; name each once.")
    return study


def plan_runs(study: Study, file: Path) -> list[StudyRun]:
    """Every run of a study, seed by seed, so that a study that is stopped has whole seeds behind it."""
    if study.config is not None:
        config = file.parent / study.config
    else:
        config = file.parent if (file.parent / "model_config.yaml").exists() else None
    return [
        StudyRun(experiment, variation, seed, {**changes, "seed": seed}, config)
        for seed in study.seeds
        for experiment in study.experiments
        for variation, changes in study.variations.items()
    ]
