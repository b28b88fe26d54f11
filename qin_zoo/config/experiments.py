"""FuxiCTR's configuration folders: experiments found by id, and read safely.

A folder holds ``model_config.yaml`` (or ``model_config/*.yaml``) with a block ``Base`` and one block per
experiment id, and ``dataset_config.yaml`` (or ``dataset_config/*.yaml``) with one block per dataset id. A folder
without a dataset configuration uses the datasets of ``dataset_configs/`` in the current directory or in this
repository. What the keys may hold is the matter of :mod:`qin_zoo.config.schema`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qin_zoo.config.blocks import (
    BASE,
    Block,
    ExperimentParams,
    check_id,
    config_files,
    list_folder,
    only_block,
    read_blocks,
    yaml_files,
)
from qin_zoo.config.safe_yaml import parse_yaml
from qin_zoo.errors import ConfigError, suggest

_PACKAGE = Path(__file__).resolve().parents[1]
# The checkout around the package, or what an installed package carries of it.
REPOSITORY = _PACKAGE.parent if (_PACKAGE.parent / "dataset_configs").is_dir() else _PACKAGE / "_repository"
_LISTED = 20  # names in a message

Overrides = Iterable[str] | Mapping[str, object] | None
"""Parameters, or texts ``KEY=VALUE``."""


@dataclass(frozen=True)
class Experiment:
    """An experiment that can be run by its id.

    Attributes:
        expid: experiment id.
        model: name of its model.
        dataset_id: id of its dataset.
        config_dir: folder of its configuration.
        file: file that holds its block.
    """

    expid: str
    model: str
    dataset_id: str
    config_dir: Path
    file: Path


def load_experiment(config_dir: str | Path, expid: str, dataset_id: str | None = None) -> ExperimentParams:
    """Reads one experiment: ``Base``, its block, and its dataset's block, later ones overriding earlier ones.

    The result equals that of ``fuxictr.utils.load_config`` for every folder that one can read.

    Args:
        config_dir: the folder of the configuration.
        expid: id of the experiment, a block of its model configuration.
        dataset_id: another dataset than the experiment's own.

    Returns:
        parameters as written, with ``model_id`` set to ``expid``; not yet checked, see
        :func:`qin_zoo.config.schema.check_params`.

    Raises:
        ConfigError: the folder or a file is missing, cannot be read or is not valid; the experiment or its
            dataset is unknown, or defined twice; an id cannot serve as a file name; ``model`` is missing.
    """
    check_id(expid, "experiment id")
    folder = Path(config_dir)
    blocks = _model_blocks(folder)
    block = only_block(expid, [b for b in blocks if b.name == expid and expid != BASE], "experiment")
    if block is None:
        known = sorted({b.name for b in blocks} - {BASE})
        raise ConfigError(f"No experiment '{expid}' in {folder}.{suggest(expid, known)} {_listing(known)}")
    params = _merged(block, blocks)
    if dataset_id is not None:
        params["dataset_id"], params.origin["dataset_id"] = dataset_id, "command line"
    for key in ("dataset_id", "model"):
        if key not in params:
            raise ConfigError(f"Experiment '{expid}' in {block.file} has no '{key}', nor has {BASE}. Add {key}: NAME.")
    params["model_id"] = expid

    dataset_id = params["dataset_id"]
    check_id(dataset_id, "dataset_id", params.origin["dataset_id"])
    dataset = find_dataset(dataset_id, folder)
    params.update(dataset.values)
    params.origin.update(dataset.origin())
    return params


def find_experiments(roots: Iterable[str | Path] | None = None, problems: list[str] | None = None) -> list[Experiment]:
    """All experiments in ``experiments/*/`` of some folders; reads configuration files only, no data.

    Args:
        roots: folders that may have a folder ``experiments``. Default: the current directory and this
            repository.
        problems: receives a message for each folder that cannot be read, which is then left out.

    Raises:
        ConfigError: a configuration cannot be read, and ``problems`` is None.
    """
    found: list[Experiment] = []
    for folder in _experiment_folders([Path.cwd(), REPOSITORY] if roots is None else roots, problems):
        try:
            blocks = _model_blocks(folder)
            for block in blocks:
                params = {} if block.name == BASE else _merged(block, blocks)
                # blocks without these two are there to be merged into others
                if isinstance(params.get("model"), str) and isinstance(params.get("dataset_id"), str):
                    found.append(Experiment(block.name, params["model"], params["dataset_id"], folder, block.file))
        except ConfigError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return found


def defines_experiment(config_dir: Path, expid: str) -> bool:
    """Whether a folder has a model configuration with this experiment."""
    has_any = bool(config_files(config_dir, "model_config"))
    return has_any and any(block.name == expid for block in _model_blocks(config_dir))


def resolve_experiment(expid: str, config_dir: str | Path | None = None) -> Path:
    """The configuration folder of an experiment id: the one named, else the one that :func:`find_experiments` finds.

    Raises:
        ConfigError: the id is unknown, or several folders define it, or it cannot serve as a file name.
    """
    check_id(expid, "experiment id")
    if config_dir is not None:
        return Path(config_dir)
    problems: list[str] = []
    experiments = find_experiments(problems=problems)
    folders = list(dict.fromkeys(e.config_dir for e in experiments if e.expid == expid))
    if len(folders) == 1:
        return folders[0]
    if folders:
        raise ConfigError(
            f"Experiment '{expid}' is defined in several folders: {', '.join(map(str, folders))}. Say which with "
            "--config FOLDER."
        )
    known = sorted({e.expid for e in experiments})
    unread = f" Not read: {' '.join(problems)}" if problems else ""
    raise ConfigError(
        f"No experiment '{expid}' in ./experiments or {REPOSITORY / 'experiments'}.{suggest(expid, known)} "
        f"{_listing(known)} For one elsewhere, name its folder with --config FOLDER.{unread}"
    )


def find_file(file: Path) -> Path:
    """A study's or a tuner's file: where it is named, else among the experiments that the package brings along.

    Args:
        file: a path, or ``experiments/studies/ablation.yaml``, ``studies/ablation`` or ``ablation`` anywhere.

    Raises:
        ConfigError: there is none, or several of that name.
    """
    if file.exists() or file.is_absolute():
        return file
    name = file if file.suffix else file.with_name(f"{file.name}.yaml")
    parts = name.parts[1:] if name.parts[0] == "experiments" else name.parts
    home = REPOSITORY / "experiments"
    found = [home.joinpath(*parts)] if home.joinpath(*parts).is_file() else sorted(home.glob(f"*/{'/'.join(parts)}"))
    if len(found) == 1 and "config" not in found[0].name:
        return found[0]
    files = {str(f.relative_to(home)): f for f in sorted(home.glob("*/*.yaml")) if "config" not in f.name}
    if len(found) > 1:
        names = ", ".join(str(f.relative_to(home)) for f in found)
        raise ConfigError(f"{file}: several files of {home} are called so: {names}. Name its folder, too.")
    raise ConfigError(f"{file}: no such file, here or in {home}.{suggest(name, files)} There are: {', '.join(files)}.")


def apply_overrides(params: dict, overrides: Mapping[str, object], written: str = "command line") -> ExperimentParams:
    """A copy of the parameters with values from the command line, or from where else they were ``written``; unknown
    keys are left to ``check_params``."""
    changed = ExperimentParams(params, origin=getattr(params, "origin", None))
    changed.update(overrides)
    changed.origin.update(dict.fromkeys(overrides, written))
    return changed


def parse_overrides(texts: Overrides) -> dict[str, object]:
    """Values from the command line by their key; the last of a key counts.

    Args:
        texts: ``key=value`` each, the value in YAML: ``epochs=3``, ``metrics=[AUC, gAUC]``, ``group_id=``; or the
            values themselves.

    Raises:
        ConfigError: no ``=``, a key that is no name, or a value that is not YAML.
    """
    if isinstance(texts, Mapping):
        return dict(texts)
    overrides = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise ConfigError(f"Expected KEY=VALUE, as in epochs=3, got '{text}'.")
        overrides[key] = parse_yaml(value, f"value of {key} on the command line").data
    return overrides


def check_params(params: Mapping[str, object], model_class: type) -> ExperimentParams:
    """:func:`qin_zoo.config.schema.check_params`, imported when it is used: listing experiments needs no pydantic."""
    from qin_zoo.config import schema

    return schema.check_params(params, model_class)


def _experiment_folders(roots: Iterable[str | Path], problems: list[str] | None) -> list[Path]:
    folders: dict[Path, Path] = {}
    for root in roots:
        parent = Path(root) / "experiments"
        try:
            for folder in list_folder(parent) if os.path.isdir(parent) else ():
                if os.path.isdir(folder) and config_files(folder, "model_config"):
                    folders.setdefault(folder.resolve(), folder)
        except ConfigError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return list(folders.values())


def _model_blocks(folder: Path) -> list[Block]:
    files = config_files(folder, "model_config")
    if not files:
        raise ConfigError(f"{folder} has neither model_config.yaml nor model_config/*.yaml.")
    return [block for file in files for block in read_blocks(file)]


def _merged(block: Block, blocks: list[Block]) -> ExperimentParams:
    """A block's values over those of ``Base`` of its own file, otherwise of the folder."""
    bases = [b for b in blocks if b.name == BASE]
    base = next((b for b in bases if b.file == block.file), None) or only_block(BASE, bases, "block")
    parts = [base, block] if base else [block]
    params = ExperimentParams()
    for part in parts:
        params.update(part.values)
        params.origin.update(part.origin())
    return params


def find_dataset(dataset_id: str | None, folder: Path) -> Block:
    """The block of a dataset, or of the only one that there is, of a folder with ``dataset_config.yaml`` or
    ``dataset_config/*.yaml``; where that configures none, of the shared ones.

    Raises:
        ConfigError: there is none of this id, or several.
    """
    places = [config_files(folder, "dataset_config")]
    if not places[0]:
        shared = dict.fromkeys((Path.cwd() / "dataset_configs", REPOSITORY / "dataset_configs"))
        places = [yaml_files(place) for place in shared]
    known: set[str] = set()
    for files in places:
        blocks = [block for file in files for block in read_blocks(file)]
        if dataset_id is None and len(blocks) == 1:
            return blocks[0]
        dataset = only_block(dataset_id, [b for b in blocks if b.name == dataset_id], "dataset")
        if dataset is not None:
            return dataset
        known.update(b.name for b in blocks)
    if dataset_id is None:
        raise ConfigError(f"{folder}: expected the configuration of one dataset. {_listing(sorted(known))} Name it.")
    files = ", ".join(str(file) for place in places for file in place)
    looked = f"in {files}" if files else f"({folder} has no dataset_config.yaml, and there is no dataset_configs/)"
    raise ConfigError(f"No dataset '{dataset_id}' {looked}.{suggest(dataset_id, known)} {_listing(sorted(known))}")


def _listing(names: list[str]) -> str:
    if not names:
        return "There are none."
    more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
    return f"There are: {', '.join(names[:_LISTED])}{more}."
