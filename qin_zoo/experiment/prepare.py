"""An experiment, read and checked: its parameters, its model class, its data, and where its results lie."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from qin_zoo.config.blocks import ExperimentParams, check_id
from qin_zoo.config.experiments import (
    Overrides,
    apply_overrides,
    check_params,
    load_experiment,
    parse_overrides,
    resolve_experiment,
)
from qin_zoo.config.recipes import with_recipe
from qin_zoo.config.signature import constructor_params
from qin_zoo.data.dataset import Dataset, count_rows, has_item_table, open_feature_map, relocate, tables_beside
from qin_zoo.data.encode import is_raw
from qin_zoo.data.grown import grown_sizes, require_same_numbers
from qin_zoo.data.import_files import ID_FILE
from qin_zoo.errors import ConfigError, DataError, ModelError, QinZooError, first_line
from qin_zoo.experiment.files import RunFiles
from qin_zoo.experiment.from_data import compose, is_model, telling_where_data_come_from
from qin_zoo.experiment.record import require_record
from qin_zoo.experiment.tasks import check_labels, check_task, is_regression, task_defaults
from qin_zoo.metrics import default_monitor, mode_of_monitor
from qin_zoo.progress import show_reading
from qin_zoo.registry import get_model

# What a configuration may leave out; models give the defaults of their own parameters.
DEFAULTS = {
    "seed": 1029,
    "epochs": 10,  # with early stopping
    "batch_size": 1024,
    "shuffle": True,
    "max_gradient_norm": 10.0,
    "checkpoint_steps": None,
    "on_nan": "stop",
    "model_root": "./checkpoints/",
    "metrics": ["AUC", "logloss"],
    "optimizer": "adam",
    "verbose": 1,
}


@dataclass(frozen=True)
class Prepared:
    """An experiment whose configuration has been read and checked, and whose model class has been found.

    Attributes:
        expid: name of the run and its files.
        asked_for: the name it should have had, where that is another run's (:mod:`qin_zoo.experiment.ownership`).
        trained: record of the run whose weights are used, where there is one: its data must fit them.
        described: keys of the dataset's own description, where the experiment is made of a model and a folder of data
            (:mod:`qin_zoo.experiment.from_data`); its configuration is written beside the run then.
        notes: lines that say what the configuration's old names became, and what was left out.
    """

    expid: str
    params: dict
    model_class: type
    config_dir: Path
    plugins: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    asked_for: str = ""
    trained: dict | None = field(default=None, repr=False)
    described: tuple[str, ...] = ()

    @property
    def files(self) -> RunFiles:
        """Where everything of the run lies."""
        return RunFiles(Path(self.params["model_root"]) / self.params["dataset_id"], self.expid)

    def varied(self, changes: Mapping[str, object]) -> Prepared:
        """The same with other parameters; the name, and with it the files, stays.

        Raises:
            ConfigError: a key or value that cannot be used.
        """
        return replace(self, params=check_params(apply_overrides(self.params, changes), self.model_class))

    def named(self, name: str) -> Prepared:
        """The same under another name."""
        asked_for = self.expid if name != self.expid else ""
        return replace(self, expid=name, params=apply_overrides(self.params, {"model_id": name}), asked_for=asked_for)

    @property
    def is_zoo_model(self) -> bool:
        """Whether the model is a ``ZooModel``, and not one that reads its batches itself."""
        from qin_zoo.models import ZooModel

        return issubclass(self.model_class, ZooModel)

    def open_dataset(self) -> Dataset:
        """The dataset as the model reads it: the zoo's own by indices into the item table, others by public triples.

        Those shall give the same figures as in FuxiCTR, so their rows are shuffled as there. Where weights are used
        that were trained before, it has the sizes of then; that an item table or the users' histories are other ones
        is said as a warning, if their rows may be numbered otherwise.

        Raises:
            DataError: besides what the files are refused for, a number that stood for something else in the data that
                the weights were trained on.
        """
        params, ours = self.params, self.is_zoo_model
        if self.trained and self.trained.get("sizes") and has_item_table(params):
            sizes = [{"name": name, **sizes} for name, sizes in self.trained["sizes"].items()]
            params = apply_overrides(params, {"feature_specs": [*sizes, *(params.get("feature_specs") or [])]})
        if params.get("continues") and not self.trained:
            params = grown(params)
        if not ours and params.get("sample_weight"):  # its loss knows of none, as a note has said
            params = apply_overrides(params, {"sample_weight": None})
        as_fuxictr = not ours or params["shuffle"] == "fuxictr"
        with telling_where_data_come_from(params):
            dataset = Dataset(params, "index" if ours else "triple", show_reading, as_fuxictr)
        if self.trained:
            old, recorded = self.trained["params"].get("train_data"), self.trained.get("numbering")
            encoded = has_item_table(params) or not is_raw(params)  # raw files get the vocabularies of the weights
            known = old and recorded and encoded
            same = require_same_numbers(Path(old).parent, dataset.folder, recorded) if known else []
            _tell_other_tables(self.trained["data"], dataset.fingerprints(), ID_FILE in same)
        return dataset


def prepare(
    expid: str,
    config_dir: Path | None = None,
    *,
    gpu: int = -1,
    data: Path | None = None,
    overrides: Overrides = None,
    plugins: Iterable[Path] | None = None,
    name: str | None = None,
) -> Prepared:
    """Reads and checks an experiment; touches no data and writes nothing.

    Args:
        expid: experiment id, or with ``data`` the name of a model, which is trained on that folder as it says itself.
        config_dir: folder with ``model_config.yaml``. Default: found by the id.
        gpu: index of the GPU, -1 for the CPU.
        data: folder that replaces the configured folder of the dataset's files.
        overrides: parameters, or ``key=value`` texts; a ``dataset_id`` puts another dataset in the place of the
            experiment's own.
        plugins: files or folders with further models.
        name: of the run, that is of its files. Default: the experiment id.

    Raises:
        QinZooError: anything in configuration or command line that cannot be used.
    """
    plugins = tuple(plugins or ())
    if config_dir is None and is_model(expid, plugins):
        return prepare_model(expid, data, gpu=gpu, overrides=overrides, plugins=plugins, name=name)
    config_dir = resolve_experiment(expid, config_dir)
    overrides = parse_overrides(overrides)
    params = load_experiment(config_dir, expid, dataset_id=overrides.pop("dataset_id", None))
    return prepare_params(name or expid, params, config_dir, gpu=gpu, data=data, overrides=overrides, plugins=plugins)


def prepare_model(
    model: str, data: Path | None, *, plugins: Iterable[Path] | None = None, name: str | None = None, **options
) -> Prepared:
    """A model on a folder of data, without a configuration: see :mod:`qin_zoo.experiment.from_data`.

    Args:
        plugins, options: see :func:`prepare`.
        name: of the run. Default: that of the model.

    Raises:
        QinZooError: anything that cannot be used; no folder is given.
    """
    from qin_zoo.models.adapter import adapt

    plugins = tuple(plugins or ())
    params, of_data = compose(model, data, constructor_params(adapt(get_model(model, plugins))))
    given = parse_overrides(options.get("overrides"))
    if given.get("embedding_optimizer") == "lazy":
        params.pop("ema_decay", None)  # which would pass over every row of the tables
    if is_regression(given):
        params.pop("metrics", None)  # of clicks
    prepared = prepare_params(name or model, params, Path(data), plugins=plugins, **options)
    return replace(prepared, described=of_data, notes=(*params.notes, *prepared.notes))


def prepare_params(
    name: str,
    params: dict,
    config_dir: Path,
    *,
    gpu: int = -1,
    data: Path | None = None,
    overrides: Overrides = None,
    plugins: Iterable[Path] | None = None,
) -> Prepared:
    """The same from parameters of an experiment and its dataset that are at hand, not checked yet.

    ``config_dir`` names the results CSV; what else is given is described at :func:`prepare`.

    Raises:
        QinZooError: anything that cannot be used.
    """
    from qin_zoo.models.adapter import adapt

    overrides = parse_overrides(overrides)
    params = apply_overrides(params, overrides)
    name = overrides.get("model_id", name)  # FuxiCTR's key for it
    check_id(name, "name of the run")
    params["model_id"] = name
    endless = "epochs" not in params
    for key, value in {**DEFAULTS, **task_defaults(params)}.items():
        params.setdefault(key, value)
    params["gpu"] = gpu
    if not isinstance(params.get("model"), str):
        raise ConfigError(f"{name}: model: expected the name of a model, found {params.get('model')!r:.80}.")
    plugins = tuple(plugins or ())
    model_class = adapt(get_model(params["model"], plugins))
    params = check_params(params, model_class)
    if data is not None:
        moved = relocate(params, data)
        params = ExperimentParams(moved, origin=params.origin, former=params.former, notes=params.notes)
    if "recipe" in params:
        with telling_where_data_come_from(params):
            rows = count_rows(params)
        chosen = with_recipe(params, rows, constructor_params(model_class), params.origin)
        params = check_params(apply_overrides(params, chosen, f"recipe {params['recipe']}"), model_class)
    params.setdefault("monitor", default_monitor(params["metrics"]))
    params.setdefault("monitor_mode", mode_of_monitor(params["monitor"]))
    check_task(params)
    notes = params.notes
    if endless and "epochs" not in params.origin:  # nor did a recipe say
        notes += (f"epochs is not configured: {params['epochs']} at most, fewer where early stopping ends them.",)
    if beside := tables_beside(params):
        params = apply_overrides(params, beside)
        notes += (f"Not configured, taken from beside the training rows: {', '.join(beside.values())}.",)
    return Prepared(name, params, model_class, Path(config_dir), plugins, notes)


def grown(params: Mapping[str, object]) -> dict:
    """Parameters with which data are read that continue a run: the ids of then stay, new ones come behind.

    Raises:
        QinZooError: the run's record is missing, or no record; or what was kept of the encoding of raw files.
    """
    record = require_record(Path(params["continues"]))
    if has_item_table(params):
        specs = grown_sizes(params, record["sizes"])
        return apply_overrides(params, {"feature_specs": [*specs, *(params.get("feature_specs") or [])]})
    encoder = Path(params["continues"]).with_suffix(".encoder.json")
    if is_raw(params) and not encoder.is_file():
        raise DataError(f"{encoder} is gone: what the numbers of the run stand for. Put it back, or train anew.")
    known = {"encoder_file": str(encoder)} if encoder.is_file() else {}
    return {**params, **known, "grow_vocabularies": True}


def build_model(prepared: Prepared, dataset: Dataset | None = None):
    """The experiment's model, freshly initialised from its seed.

    Without a dataset only the feature map is built, from the configuration where it is complete.

    Raises:
        ModelError: the model cannot be built of these parameters.
    """
    from qin_zoo.fuxi import seed_everything

    feature_map = dataset.feature_map if dataset else open_feature_map(prepared.params)
    feature_map = copy.deepcopy(feature_map)  # models of FuxiCTR's add features of their own, which no file holds
    check_labels(prepared.model_class, feature_map.labels, prepared.params)
    seed_everything(prepared.params["seed"])
    try:
        return prepared.model_class(feature_map, **prepared.params)
    except QinZooError:
        raise
    except Exception as error:  # whatever a layer says of parameters that pass the checks one by one
        raise ModelError(
            f"Experiment '{prepared.expid}': {prepared.model_class.__name__} cannot be built with these parameters. "
            f"{first_line(error)}"
        ) from error


def load_trained(prepared: Prepared, dataset: Dataset, checkpoint: Path):
    """The experiment's model with trained weights, in evaluation mode; exact: float32, not compiled."""
    exact = replace(prepared, params={**prepared.params, "precision": "fp32", "compile": False})
    model = build_model(exact, dataset)
    model.load_weights(str(checkpoint))
    return model.eval()


def _tell_other_tables(then: dict, now: dict, same_items: bool) -> None:
    """Warns where item table or users' histories are not the ones that a run was trained with."""
    for part in ("user_info",) if same_items else ("item_info", "user_info"):
        old, new = (next((d[part] for d in data.values() if part in d), None) for data in (then, now))
        if old and new and old["blake2b"] != new["blake2b"]:
            logging.warning(
                f"{new['file']} differs from the {old['file']} that the weights were trained with ({old['rows']:,} "
                f"rows then, {new['rows']:,} now): where its rows are numbered otherwise, predictions are wrong."
            )
