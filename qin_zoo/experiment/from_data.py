"""A model on a folder of data without a line of yaml: `qin-zoo run MODEL --data DIR`.

Features are those of the data set's own description, sizes and rates those of the recipe for its number of rows. What
comes of it is an experiment like any other, whose configuration is written beside the run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qin_zoo.config.blocks import config_files
from qin_zoo.config.experiments import REPOSITORY, ExperimentParams, find_dataset, find_experiments
from qin_zoo.config.recipes import recipe_for, steady
from qin_zoo.data.dataset import count_rows, has_item_table, relocate
from qin_zoo.data.describe import describe_folder, user_column
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.experiment.tasks import is_regression
from qin_zoo.files import replace_text
from qin_zoo.registry import discover

_OF_A_RUN = ("model_id", "gpu", "dataset_id")
_LISTED = 3  # experiments in a message


def is_model(name: str, plugins: Iterable[Path] | None = None) -> bool:
    """Whether this is the name of a model, and of no experiment."""
    return name in discover(plugins or ()) and all(e.expid != name for e in find_experiments(problems=[]))


def describe_data(folder: Path) -> ExperimentParams:
    """The dataset configuration of a folder: the one in it, or what its files tell.

    Raises:
        QinZooError: there is none, or the files do not tell.
    """
    folder = Path(folder).expanduser()
    if folder.is_dir() and config_files(folder, "dataset_config"):
        block = find_dataset(None, folder)
        moved = relocate(block.values, folder.resolve())
        return ExperimentParams({**moved, "dataset_id": block.name}, origin=block.origin())
    found, notes = describe_folder(folder.resolve() if folder.is_dir() else folder)
    origin = dict.fromkeys(found, f"the files of {folder}")
    return ExperimentParams(found, origin=origin, notes=notes)


def compose(model: str, folder: Path | None, accepted: Collection[str]) -> tuple[ExperimentParams, tuple[str, ...]]:
    """The parameters of a model on a folder of data, not checked yet, and which of them belong to the data.

    ``accepted`` are the parameters that the model takes.

    Raises:
        QinZooError: no folder is given, or it does not say what its columns are.
    """
    if folder is None:
        known = [e.expid for e in find_experiments(problems=[]) if e.model == model]
        listed = ", ".join([*known[:_LISTED], *(["…"] if len(known) > _LISTED else [])])
        raise ConfigError(
            f"'{model}' is a model; it needs data: `qin-zoo run {model} --data DIR` trains it on a folder that "
            "`qin-zoo data import` has written, and `qin-zoo data sample data/sample` makes one to try."
            + (f" Or run one of its experiments: {listed}." if known else "")
        )
    params = describe_data(folder)
    rows = count_rows(params)
    chosen: dict[str, Any] = {"model": model, "recipe": recipe_for(rows)}
    chosen |= steady(accepted, rows, has_item_table(params))
    if params.get("group_id") is None and (user := user_column(params)):
        chosen["group_id"] = user
    if (params.get("group_id") or "group_id" in chosen) and not is_regression(params):  # whose clicks they are is known
        chosen["metrics"] = ["AUC", "gAUC", "logloss"]
    of_data = tuple(key for key in {**params, "group_id": None} if key != "dataset_id")
    params.update(chosen)
    params.origin.update(dict.fromkeys(chosen, "what the data are"))
    return params, of_data


def write_configuration(folder: Path, expid: str, params: Mapping[str, Any], described: Iterable[str]) -> None:
    """Writes the configuration of an experiment that was made of a model and its data, for whoever goes on from it.

    Args:
        folder: gets ``model_config.yaml`` and ``dataset_config.yaml``.
        expid: of the run.
        params: its parameters, all of them.
        described: keys that belong to the dataset.
    """
    import yaml

    plain = json.loads(json.dumps({k: v for k, v in params.items() if k not in _OF_A_RUN}, default=str))
    of_data = {key: plain.pop(key) for key in described if key in plain}
    head = f"# Written by `qin-zoo run`. To go on from it: qin-zoo run {expid} --config {folder}\n"
    blocks = {
        "model_config.yaml": {expid: {"dataset_id": params["dataset_id"], **plain}},
        "dataset_config.yaml": {params["dataset_id"]: of_data},
    }
    for name, block in blocks.items():
        replace_text(folder / name, head + yaml.safe_dump(block, sort_keys=False, allow_unicode=True))


@contextmanager
def telling_where_data_come_from(params: Mapping[str, Any]) -> Iterator[None]:
    """Adds to the DataError of data that are not there the command that makes them."""
    try:
        yield
    except DataError as error:
        file = Path(str(params.get("train_data") or ""))
        if not file.name or any(file.parent.glob(f"{file.name}*")):
            raise
        raise DataError(f"{error} {_whence(str(params['dataset_id']), file.parent)}") from None


def _whence(dataset_id: str, folder: Path) -> str:
    from qin_zoo.data.download import KNOWN

    if dataset_id == "sample":
        return f"Make them: `qin-zoo data sample {folder}`."
    if dataset_id in KNOWN:
        return f"Fetch them: `qin-zoo data download {dataset_id}`."
    pages = sorted(REPOSITORY.glob("experiments/*/README.md"), key=lambda page: -len(page.parent.name))
    page = next((page for page in pages if dataset_id.startswith(page.parent.name)), None)
    return (f"How to make them: {page}. " if page else "") + "Where they lie elsewhere: --data DIR."
