"""FuxiCTR's tuner files, read safely: a base experiment, and what is varied.

    base_config: FOLDER            # default: the file's own folder, else the experiment is looked up by its id
    base_expid: QIN_sample
    dataset_id: NAME               # default: that of the experiment
    tuner_space:
      net_dropout: [0., 0.1]                              # a list: each of its values
      learning_rate: {low: 1.e-4, high: 1.e-2, log: true} # a range, which FuxiCTR does not have
      num_layers: {low: 2, high: 6, step: 1}              # whole numbers where low, high and step are

Lists alone span a grid, whose combinations, order and names are those of FuxiCTR's tuner. ``model_config`` and
``dataset_config`` may stand in the file itself instead of in a folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from qin_zoo.config.blocks import ExperimentParams, check_id, config_files, read_blocks
from qin_zoo.config.experiments import load_experiment, parse_overrides, resolve_experiment
from qin_zoo.config.safe_yaml import TUPLE_TAG, read_yaml
from qin_zoo.config.values import to_number
from qin_zoo.errors import ConfigError, suggest

_log = logging.getLogger(__name__)
_FILE_KEYS = ("base_config", "base_expid", "dataset_id", "model_config", "dataset_config", "tuner_space")
_RANGE_KEYS = ("low", "high", "step", "log")
# One value may be given; several would make trials that cannot be compared, or not be told apart.
_CONSTANT = ("model_root", "metrics", "monitor", "monitor_mode", "gpu", "cache_dir")
_LARGEST_GRID = 100_000
_MOST_STEPS = 2**31
_WIDEST = 1e300  # sums of such numbers are still finite


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low: smallest value.
        high: largest value.
        step: distance of the values; None for any real number.
        log: whether ratios, not differences, are drawn evenly.
        whole: whether the values are whole numbers.
    """

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool


@dataclass(frozen=True)
class Space:
    """What a tuner file says.

    Attributes:
        file: the file.
        expid: id of the base experiment.
        prefix: what the trials' ids begin with: the base experiment's, or ``<model>_<dataset_id>`` where that one
            leaves its dataset open (``TBD``).
        model: parameters of the base experiment, as written, those of the dataset left out.
        datasets: dataset id -> parameters; several where parameters of the dataset are varied.
        lists: varied key -> values, in the order in which FuxiCTR nests them; ``dataset_id`` is the innermost.
        ranges: varied key -> range.
        origin: key -> where it was written.
        name: what the search and its files are named after.
        drawn: which combinations of a grid are tried, in this order; None: all.
    """

    file: Path
    expid: str
    prefix: str
    model: dict[str, object]
    datasets: dict[str, dict[str, object]]
    lists: dict[str, list]
    ranges: dict[str, Range]
    origin: dict[str, str] = field(repr=False)
    name: str
    drawn: tuple[int, ...] | None = None

    @property
    def is_grid(self) -> bool:
        """Whether it has values only, no ranges: then every combination is tried, or those drawn, each once."""
        return not self.ranges

    @property
    def size(self) -> int:
        """Number of combinations of the lists that are tried."""
        return math.prod(map(len, self.lists.values())) if self.drawn is None else len(self.drawn)

    def draw(self, count: int, seed: int) -> Space:
        """The same with ``count`` different combinations of its grid, by chance."""
        return replace(self, drawn=tuple(random.Random(seed).sample(range(self.size), count)))

    def point(self, index: int) -> dict[str, object]:
        """A combination of the lists, in FuxiCTR's order or as drawn; ``index`` is from 0 to below :attr:`size`."""
        index = index if self.drawn is None else self.drawn[index]
        point = {}
        for key in reversed(self.lists):
            index, place = divmod(index, len(self.lists[key]))
            point[key] = self.lists[key][place]
        return {key: point[key] for key in self.lists}

    def corners(self) -> list[dict[str, object]]:
        """What is worth checking before a trial starts: every combination of a grid; with ranges, every single value
        of the lists and the ends of the ranges."""
        if self.is_grid:
            return [self.point(index) for index in range(self.size)]
        first = self.point(0) | {key: r.low for key, r in self.ranges.items()}
        others = [{key: value} for key, values in self.lists.items() for value in values[1:]]
        others += [{key: r.high} for key, r in self.ranges.items()]
        return [first, *({**first, **other} for other in others)]

    def trial_expid(self, number: int, point: Mapping[str, object]) -> str:
        """The id of a trial, as FuxiCTR names it; ``number`` is from 1."""
        params = {**self.model, "dataset_id": next(iter(self.datasets)), **point}
        return f"{self.prefix}_{number:03d}_{_fuxictr_hash(params)}"

    def trial_blocks(self, point: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        """Model and dataset parameters of a trial, as blocks of a configuration."""
        dataset_id = point.get("dataset_id", next(iter(self.datasets)))
        return {**self.model, **point, "dataset_id": dataset_id}, self.datasets[dataset_id]

    def as_dict(self) -> dict:
        """Everything that tells this search from another."""
        return {
            "expid": self.expid,
            "prefix": self.prefix,
            "model": self.model,
            "datasets": self.datasets,
            "lists": self.lists,
            "ranges": {key: {name: getattr(r, name) for name in _RANGE_KEYS} for key, r in self.ranges.items()},
            **({} if self.drawn is None else {"drawn": self.drawn}),
        }


def read_space(file: Path, overrides: Iterable[str] = ()) -> Space:
    """Reads a tuner file and its base experiment; values are not yet checked against the model.

    ``overrides``, ``key=value``, replace parameters of the base experiment.

    Raises:
        ConfigError: the file, its experiment or its dataset cannot be read; an unknown key; an empty list, a value
            that stands twice in a list; a range without low and high, with low not below high, or whose step does not
            lead from low to high; a key that is both varied and overridden.
    """
    document = read_yaml(file)
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected keys such as base_expid and tuner_space, got {type(data).__name__}.")
    lines = document.lines.get("tuner_space", {})
    _check_keys(file, data)
    written = data.get("tuner_space") or {}
    if not isinstance(written, dict):
        raise ConfigError(f"{file}: tuner_space must be a mapping of keys to lists or ranges, got {written!r:.80}.")
    params, prefix = _base(file, data)
    places = {key: f"{file}, line {lines.get(key, lines.get('', 1))}" for key in written}
    return make_space(file, params, prefix, written, places, parse_overrides(overrides), file.stem)


def make_space(
    file: Path,
    params: ExperimentParams,
    prefix: str,
    written: Mapping[str, object],
    places: Mapping[str, str],
    overrides: Mapping[str, object],
    name: str,
) -> Space:
    """The space of what is ``written``, key -> list, range or value, over an experiment of ``load_experiment``.

    The trials' ids begin with ``prefix``; ``places``, key -> where it stands, are for messages.

    Raises:
        ConfigError: as of :func:`read_space`.
    """
    base_expid = params["model_id"]
    model, dataset = _split(params)
    constants, lists, ranges = {}, {}, {}
    for key, value in written.items():
        place = places[key]
        if not isinstance(key, str):
            raise ConfigError(f"{place}: the key {key!r} is no text; put it in quotes.")
        params.origin[key] = place
        if key in ("dataset_id", "model_id"):
            raise ConfigError(f"{place}: '{key}' cannot be tuned. For another dataset write dataset_id: NAME outside.")
        if isinstance(value, dict) and {"low", "high"} & value.keys():
            ranges[key] = _range(key, value, place)
        elif isinstance(value, list) and len(value) != 1:
            lists[key] = _checked_list(key, value, place)
        else:
            constants[key] = value[0] if isinstance(value, list) else value
    for key in _CONSTANT:
        if key in lists or key in ranges:
            raise ConfigError(f"{params.origin[key]}: '{key}' cannot be varied; give one value.")
    for key, value in overrides.items():
        if key in written or key == "dataset_id":
            raise ConfigError(f"--set {key}: {file} gives its value; change it there.")
        constants[key] = value
        params.origin[key] = "command line"
    for key, value in constants.items():
        (dataset if key in dataset else model)[key] = value
    model_lists = {key: lists[key] for key in (*model, *lists) if key in lists and key not in dataset}
    datasets = _datasets(dataset, {key: lists[key] for key in dataset if key in lists})
    for key in ranges:
        if key in dataset:
            raise ConfigError(f"{params.origin[key]}: '{key}' is of the dataset; give a list of values, not a range.")
    if len(datasets) > 1:
        model_lists["dataset_id"] = list(datasets)
    space = Space(file, base_expid, prefix, model, datasets, model_lists, ranges, params.origin, name)
    if space.is_grid and space.size > _LARGEST_GRID:
        raise ConfigError(f"{file}: {space.size:,} combinations; give ranges, which are searched, or shorter lists.")
    return space


def write_base(space: Space, folder: Path) -> None:
    """Writes the base experiment as a configuration folder of its own, so that later edits do not reach a search."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"dataset_id": next(iter(space.datasets)), **space.model}
    (folder / "model_config.yaml").write_text(dump({space.expid: model}), encoding="utf-8")
    (folder / "dataset_config.yaml").write_text(dump(space.datasets), encoding="utf-8")


def dump(blocks: Mapping[str, object]) -> str:
    """Blocks of a configuration as YAML."""
    return yaml.dump(dict(blocks), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes repeated values out instead of referring to the first one."""

    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_sequence(TUPLE_TAG, value))


def show(value: object) -> str:
    """A parameter's value as text, as one would write it in a configuration."""
    if isinstance(value, str):
        return value
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


# ---- the file


def _check_keys(file: Path, data: dict) -> None:
    for key in data:
        if key not in _FILE_KEYS:
            mend = suggest(key, _FILE_KEYS)
            if mend:
                raise ConfigError(f"{file}: unknown key {key!r:.80}.{mend}")
            _log.warning(f"{file}: left out {key!r:.80}, which FuxiCTR's tuner does not read either.")
    for key in ("base_expid", "tuner_space"):
        if key not in data:
            raise ConfigError(f"{file}: has no '{key}'; base_expid names an experiment, tuner_space what to vary.")
    check_id(data["base_expid"], "base_expid", str(file))
    for key in ("model_config", "dataset_config"):
        inline = data.get(key)
        if inline is not None and not (isinstance(inline, dict) and all(isinstance(v, dict) for v in inline.values())):
            raise ConfigError(f"{file}: {key} must hold blocks of the form 'ID: {{key: value}}', got {inline!r:.80}.")
    if not isinstance(data.get("base_config", ""), str):
        raise ConfigError(f"{file}: base_config must be a folder, got {data['base_config']!r:.80}.")


def _base(file: Path, data: dict) -> tuple[ExperimentParams, str]:
    """The base experiment's parameters, and what its trials' ids begin with."""
    expid, dataset_id = data["base_expid"], data.get("dataset_id")
    inline = [stem for stem in ("model_config", "dataset_config") if stem in data]
    folder = None if len(inline) == 2 else _base_folder(file, data)
    if not inline:
        return load_experiment(folder, expid, dataset_id), _prefix(folder, expid, dataset_id)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for stem in ("model_config", "dataset_config"):
            if stem in inline:
                (staged / f"{stem}.yaml").write_text(dump(data[stem]), encoding="utf-8")
                continue
            for source in config_files(folder, stem):
                (staged / stem).mkdir(exist_ok=True)
                shutil.copyfile(source, staged / stem / source.name)
        try:
            params, prefix = load_experiment(staged, expid, dataset_id), _prefix(staged, expid, dataset_id)
        except ConfigError as error:
            message = str(error).replace(str(staged), "its model_config and dataset_config")
            raise ConfigError(f"{file}: {message}") from None
    params.origin = dict.fromkeys(params, str(file))
    return params, prefix


def _base_folder(file: Path, data: dict) -> Path:
    """Where the base experiment stands: as FuxiCTR takes it, relative to the current folder, else to the file."""
    named = data.get("base_config")
    if named is None:
        beside = config_files(file.parent, "model_config") or "model_config" in data
        return file.parent if beside else resolve_experiment(data["base_expid"])
    for folder in (Path(named), file.parent / named):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{file}: base_config names {named}, which is no folder here nor beside the file.")


def _prefix(folder: Path, expid: str, dataset_id: str | None) -> str:
    if dataset_id is None:
        return expid
    blocks = [b for f in config_files(folder, "model_config") for b in read_blocks(f) if b.name in (expid, "Base")]
    written = {key: value for b in sorted(blocks, key=lambda b: b.name == expid) for key, value in b.values.items()}
    return f"{written.get('model')}_{dataset_id}" if written.get("dataset_id") == "TBD" else expid


def _split(params: ExperimentParams) -> tuple[dict, dict]:
    """Model parameters and dataset parameters; ``load_experiment`` puts ``model_id`` between the two."""
    keys = list(params)
    cut = keys.index("model_id")
    model = {key: params[key] for key in keys[:cut] if key != "dataset_id"}
    return model, {"dataset_id": params["dataset_id"], **{key: params[key] for key in keys[cut + 1 :]}}


def _datasets(dataset: dict, varied: dict[str, list]) -> dict[str, dict]:
    """Every combination of a dataset's parameters, each under an id of its own where there are several."""
    dataset_id = dataset["dataset_id"]
    datasets = {}
    for values in itertools.product(*varied.values()):
        params = {**dataset, **dict(zip(varied, values))}
        name = f"{dataset_id}_{_fuxictr_hash(params)}" if varied else dataset_id
        datasets[name] = {key: value for key, value in params.items() if key != "dataset_id"}
    return datasets


def _fuxictr_hash(params: Mapping[str, object]) -> str:
    """FuxiCTR's name for parameters; of the sorted letters of their text, so it needs the number beside it."""
    text = json.dumps({key: str(params[key]) for key in sorted(params) if key != "model_id"}, indent=4)
    return hashlib.md5("".join(sorted(text)).encode("utf-8"), usedforsecurity=False).hexdigest()[:8]


# ---- values


def _checked_list(key: str, values: list, place: str) -> list:
    if not values:
        raise ConfigError(f"{place}: '{key}' is an empty list; give the values to try.")
    texts = [json.dumps(_meant(value), sort_keys=True, default=str) for value in values]
    counts = Counter(texts)
    if twice := [value for value, text in zip(values, texts) if counts[text] > 1]:
        raise ConfigError(f"{place}: '{key}' holds {show(twice[0])} twice. Keep one of the two.")
    return values


def _meant(value: object) -> object:
    """A value with its numbers as they are used: '1e-3' is 0.001, and 64.0 is 64."""
    if isinstance(value, (list, tuple)):
        return [_meant(part) for part in value]
    try:
        number = to_number(value)
    except ValueError:
        return value
    return int(number) if number == number // 1 else number


def _range(key: str, written: dict, place: str) -> Range:
    of = f"{place}: the range of '{key}'"
    if unknown := [name for name in written if name not in _RANGE_KEYS]:
        mend = suggest(unknown[0], _RANGE_KEYS) or f" Known: {', '.join(_RANGE_KEYS)}."
        raise ConfigError(f"{of} has the unknown key {unknown[0]!r}.{mend}")
    if missing := {"low", "high"} - written.keys():
        raise ConfigError(f"{of} has no '{missing.pop()}'; write {{low: NUMBER, high: NUMBER}}.")
    numbers = {"low": written["low"], "high": written["high"]}
    numbers |= {} if written.get("step") is None else {"step": written["step"]}
    for name, value in numbers.items():
        try:
            numbers[name] = to_number(value)
        except ValueError:
            raise ConfigError(f"{place}: '{name}' of '{key}' must be a number, got {value!r:.80}.") from None
        if math.isinf(numbers[name]):
            raise ConfigError(f"{place}: '{name}' of '{key}' must be finite.")
    low, high, step, log = numbers["low"], numbers["high"], numbers.get("step"), written.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{place}: 'log' of '{key}' must be true or false, got {log!r:.80}.")
    width = high - low
    steps = width / step if step and width <= _WIDEST else 0
    too_many = steps > _MOST_STEPS
    reached = step is None or too_many or abs(round(steps) * step - width) <= 1e-9 * abs(width)
    problems = {
        f"needs low below high, got {low} and {high}": low >= high,
        f"is too wide, from {low} to {high}": width > _WIDEST,
        f"is logarithmic, so low must be above 0, got {low}": log and low <= 0,
        "cannot have both log and step": log and step is not None,
        f"needs a step above 0, got {step}": step is not None and step <= 0,
        f"has a step of {step}, too small to be told apart between {low} and {high}": too_many,
        f"never reaches high: {low} plus steps of {step} does not lead to {high}": not reached,
    }
    if problem := next((text for text, is_one in problems.items() if is_one), None):
        raise ConfigError(f"{of} {problem}.")
    whole = all(isinstance(number, int) for number in numbers.values())
    return Range(low, high, step or (1 if whole else None), log, whole)
