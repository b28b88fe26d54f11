"""What FuxiCTR's own ``run_expid.py`` has to be taught to train the models of the zoo as ``qin-zoo run`` does.

Importing ``model_zoo`` calls :func:`teach`; nothing else in this project needs it. FuxiCTR's functions stay what they
are, and what they look up is replaced at three places, for configurations whose ``model`` is one of the zoo's:

- ``FeatureProcessor``, and through it ``build_dataset``: raw files are encoded by :mod:`qin_zoo.data.encode`, without
  Ray, into a folder of their own; of files that need no encoding nothing is written. FuxiCTR's would replace the
  ``feature_map.json`` of encoded files by one of its own, which is empty without ``feature_cols``.
- ``FeatureMap.load``: from the encoded files; of an item table from the configuration and the data.
- the loaders that ``RankDataLoader`` chooses: ours, which need no Ray, know item tables, and give the rows in the order
  of ``qin-zoo run``. A ``data_loader`` in the parameters, and folders of blocks, are FuxiCTR's as before.

For every other model FuxiCTR does what it always does. A script may import FuxiCTR's parts before ``model_zoo`` or
after it; the places are replaced where they are already there, and else as soon as they are imported, for importing
them here would import Ray.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from qin_zoo.errors import ConfigError

_OF_OUR_RUNS = ("recipe", "ema_decay", "init_from")  # what is not the model's, and changes its training


@cache
def teach() -> None:
    """Replaces the three places, now or when they are imported; a second call does nothing."""
    for name, lesson in _LESSONS.items():
        if name in sys.modules:
            lesson(sys.modules[name])
    sys.meta_path.insert(0, _Teacher())


class _Teacher(MetaPathFinder):
    """Gives the lessons of modules that are imported later, right after their own code has run."""

    def find_spec(self, fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path) if fullname in _LESSONS else None
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _LESSONS[fullname](module)

            spec.loader.exec_module = exec_module
        return spec


def _model_of(params: Mapping[str, Any]) -> type | None:
    """The model of the zoo that a configuration names; None for any other."""
    from qin_zoo.registry import discover, get_model

    name = params.get("model")
    return get_model(name) if isinstance(name, str) and name in discover() else None


def _is_zoo_model(model: type) -> bool:
    from qin_zoo.models import ZooModel

    return issubclass(model, ZooModel)


def _teach_processor(module: ModuleType) -> None:
    taught = module.FeatureProcessor
    prepare, fit = taught.__init__, taught.fit

    @wraps(prepare)
    def __init__(self, *args, **params):
        from qin_zoo.config.experiments import check_params
        from qin_zoo.data.dataset import has_item_table
        from qin_zoo.data.encode import encode_fields, is_raw

        model = _model_of(params)
        if model is None:
            prepare(self, *args, **params)
            return
        check_params(params, model)  # before FuxiCTR evaluates what it reads there
        if left_out := [key for key in _OF_OUR_RUNS if params.get(key) not in (None, "published")]:
            logging.warning(
                f"{', '.join(left_out)}: left out, as only `qin-zoo run` does it; this training is another one."
            )
        prepare(self, *args, **params)
        if has_item_table(params):
            if params.get("rebuild_dataset", True):
                raise ConfigError(
                    f"dataset '{params.get('dataset_id')}': the files of an item table are read as they are, but "
                    "FuxiCTR encodes those of every dataset that does not say otherwise. Add rebuild_dataset: False."
                )
        elif is_raw(params):
            # build_dataset finds a feature map in this folder, so it encodes nothing and names the files beside it.
            self.data_dir = str(Path(encode_fields(params)["train_data"]).parent)

    @wraps(fit)
    def fit_(self, *args, **params):
        if _model_of(params) is None:
            fit(self, *args, **params)
        else:
            logging.info("The data files are used as they are; nothing is written.")

    taught.__init__, taught.fit = __init__, fit_


def _teach_feature_map(module: ModuleType) -> None:
    load = module.FeatureMap.load

    @wraps(load)
    def taught(self, json_file, params):
        from qin_zoo.data.dataset import Dataset, has_item_table
        from qin_zoo.data.encode import is_raw
        from qin_zoo.data.feature_map import load_feature_map

        model = _model_of(params)
        if model is None:
            load(self, json_file, params)
            return
        if has_item_table(params):
            found = Dataset(params).feature_map
        elif is_raw(params):  # still said of the dataset; by now its files are those that build_dataset named
            found = load_feature_map(Path(params["train_data"]).with_name("feature_map.json"), params)
        else:
            found = load_feature_map(params.get("feature_map_json") or json_file, params)
        vars(self).update(vars(found))
        # For the loaders, which are not told how the training rows are shuffled unless they are those.
        shuffle, drawing = params.get("shuffle", True), params.get("data_format", "npz") == "npz"
        wanted = shuffle == "fuxictr" or not _is_zoo_model(model)
        self.as_fuxictr = wanted and bool(shuffle or drawing or has_item_table(params))

    module.FeatureMap.load = taught


def _teach_loaders(module: ModuleType) -> None:
    for name in ("NpzDataLoader", "ParquetDataLoader"):
        setattr(module, name, _taught_loader(getattr(module, name)))


def _taught_loader(theirs: type) -> Callable[..., Any]:
    @wraps(theirs, updated=())
    def loader(feature_map, data_path, **options):
        from fuxictr.pytorch.torch_utils import get_device

        from qin_zoo.data.dataset import has_item_table
        from qin_zoo.data.feed import feed
        from qin_zoo.data.loader import FieldsLoader, ItemTableLoader

        model, items = _model_of(options), has_item_table(options)
        if model is None or (Path(data_path).is_dir() and not items):
            return theirs(feature_map, data_path, **options)
        options["as_fuxictr"] = getattr(feature_map, "as_fuxictr", False)
        if items:
            options["batch_layout"] = "index" if _is_zoo_model(model) else "triple"
        ours = (ItemTableLoader if items else FieldsLoader)(feature_map, data_path, **options)
        return feed(ours, get_device(options.get("gpu", -1)))

    return loader


_LESSONS: dict[str, Callable[[ModuleType], None]] = {
    "fuxictr.preprocess.feature_processor": _teach_processor,
    "fuxictr.features": _teach_feature_map,
    "fuxictr.pytorch.dataloaders.rank_dataloader": _teach_loaders,
}
