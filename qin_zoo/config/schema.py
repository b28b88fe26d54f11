"""Checks an experiment's parameters before FuxiCTR, a loader or a model sees them.

A key must be in the tables of :mod:`qin_zoo.config.values` or a named parameter of the model's
constructors, or be an old name of such a key (:mod:`qin_zoo.config.compat`). Anything else is a mistake, most often of
spelling; for a model from elsewhere, whose ``**kwargs`` FuxiCTR hands it and no more is said, it is one warning. Values
are checked against the tables' types, those of a model's own parameters against the constructor's annotations where it
has any.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Union

from pydantic import BaseModel, ValidationError

from qin_zoo.config.blocks import ExperimentParams
from qin_zoo.config.compat import translate
from qin_zoo.config.signature import NOT_CONFIGURABLE, Rejected, check_undeclared, constructor_params
from qin_zoo.config.values import Expect, FeatureColumn, LabelColumn, RunParams
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.feature_types import can_be_embedded
from qin_zoo.metrics import default_monitor, mode_of_monitor, needs_groups

_FIELD_LISTS = ("target_field", "sequence_field")


def check_params(params: Mapping[str, object], model_class: type) -> ExperimentParams:
    """Checks every key and value.

    Args:
        params: parameters of an experiment, as :func:`~qin_zoo.config.experiments.load_experiment` returns them;
            from any other mapping it works as well, only that messages cannot name files.
        model_class: class of the model; the named parameters of its constructor, and of those it inherits from,
            are keys too.

    Returns:
        the parameters under their present names, with numbers converted to the type they are to have and field lists in
        their one form, otherwise unchanged: nothing is added, defaults are those of the signatures. Its ``notes`` say
        what was mapped, left out or unknown.

    Raises:
        ConfigError: unknown keys (with the nearest known one), values of a wrong type or out of range, metrics
            that need a ``group_id``, features that are named but not defined. All mistakes are in one message.
    """
    constructor = constructor_params(model_class)
    known = [*constructor, *RunParams.model_fields]
    current, refused = translate(params, constructor, known)
    is_ours = any((c.__module__, c.__name__) == ("qin_zoo.models.base", "ZooModel") for c in model_class.__mro__)
    strict = params.get("strict") is True or is_ours
    problems: list[str] = []
    unknown: list[str] = []
    checked = ExperimentParams(origin=current.origin, former=current.former, notes=current.notes)
    for key, value in current.items():
        place = f" ({current.origin[key]})" if key in current.origin else ""
        try:
            if isinstance(key, str) and key in known and key not in refused:
                checked[key] = _check_value(key, value, constructor)
                continue
            why = refused.get(key)
            mend = f" {why[0].upper()}{why[1:]}." if why else suggest(key, known)
            if strict or not isinstance(key, str) or key in NOT_CONFIGURABLE:
                mend = mend or f" Remove it, or make it a parameter of {model_class.__name__}."
                problems.append(f"Unknown key {key!r:.80}{place}.{mend}")
            else:
                checked[key] = check_undeclared(key, value)
                # a model's parameters of other times are like many keys; only a slip of the finger is worth a hint
                hint = why or suggest(key, known, cutoff=0.85).strip()
                unknown.append(f"{key:.80} ({hint})" if hint else f"{key:.80}")
        except Rejected as error:
            problems.append(f"Key '{key}'{place}: {error}")
    unknown += _check_columns(checked, strict, problems)
    _check_references(checked, params, problems)
    if problems:
        expid = params.get("model_id")
        of = f" of experiment '{expid}'" if isinstance(expid, str) else ""
        if len(problems) == 1:
            raise ConfigError(f"Configuration{of}: {problems[0]}")
        raise ConfigError(f"{len(problems)} mistakes in the configuration{of}:\n- " + "\n- ".join(problems))
    if unknown:
        checked.notes += (
            f"Unknown to {model_class.__name__}, which ignores them as in FuxiCTR (an error with --strict): "
            f"{', '.join(unknown)}.",
        )
    return checked


def known_params() -> dict[str, str]:
    """Keys that do not belong to a model, each with a line of description."""
    return {key: field.description or "" for key, field in RunParams.model_fields.items()}


def expectation(table: type[BaseModel], key: str) -> str:
    """What a key of a table may hold, in words."""
    field = table.model_fields[key]
    return _expected(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)


# ---- the tables


def _check_value(key: str, value: object, constructor: Mapping[str, Callable[[object], object]]) -> object:
    if key not in RunParams.model_fields:
        return constructor[key](value)
    value = _check_known(RunParams, key, value)
    return constructor[key](value) if key in _FIELD_LISTS and key in constructor else value


def _check_known(table: type[BaseModel], key: str, value: object) -> object:
    if key == "label_col" and table is RunParams and isinstance(value, dict):
        return _check_known(table, key, [value])[0]  # FuxiCTR takes one label without the list
    try:
        return getattr(table.model_validate({key: value}), key)
    except ValidationError as error:
        expected = expectation(table, key)
        causes = (e.get("ctx", {}).get("error") for e in error.errors(include_url=False))
        raise Rejected(expected, value, next((str(c) for c in causes if str(c or "")), "")) from None


def _expected(annotation: object) -> str:
    if annotation is type(None):
        return "null"
    text = next((m.text for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Expect)), None)
    if text:
        return text
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(map(_expected, arguments))
    return f"a list of {_expected(arguments[0])}" if typing.get_origin(annotation) is list else str(annotation)


def _check_columns(params: ExperimentParams, strict: bool, problems: list[str]) -> list[str]:
    """Checks the entries of ``feature_cols`` and its like, and puts the converted ones in ``params``.

    Returns:
        what is unknown and left out, where that is no mistake.
    """
    unknown: list[str] = []
    for key, table, required in (
        ("feature_cols", FeatureColumn, ("name", "dtype", "type")),
        ("label_col", LabelColumn, ("name", "dtype")),
        ("feature_specs", FeatureColumn, ("name",)),
        ("feature_config", FeatureColumn, ("name",)),
    ):
        entries = params.get(key)
        if entries is None:
            continue
        place = f" ({params.origin[key]})" if key in params.origin else ""
        single = isinstance(entries, dict)
        checked = []
        for index, entry in enumerate([entries] if single else entries):
            of = entry.get("name")
            where = f"{key}[{index}]{f' ({of:.60})' if isinstance(of, str) else ''}{place}"
            checked.append({})
            for name, value in entry.items():
                known = table.model_fields
                if name in known:
                    try:
                        checked[-1][name] = _check_known(table, name, value)
                    except Rejected as error:
                        problems.append(f"{where}: key '{name}': {error}")
                elif strict:
                    mend = suggest(name, known) or f" Known: {', '.join(known)}."
                    problems.append(f"{where}: unknown key {name!r:.80}.{mend}")
                else:
                    unknown.append(f"{name!s:.80} in {key}")
            if missing := [name for name in required if name not in entry]:
                problems.append(f"{where}: has no {' and no '.join(missing)}.")
        params[key] = checked[0] if single else checked
    return list(dict.fromkeys(unknown))


# ---- what keys say about each other


def _check_references(params: dict[str, object], written: Mapping[str, object], problems: list[str]) -> None:
    monitor = params.get("monitor") or (params.get("metrics") and default_monitor(params["metrics"])) or ()
    if monitor:
        problems += _misdirected(monitor, params.get("monitor_mode"))
    wanted = [*params.get("metrics", ()), *([monitor] if isinstance(monitor, str) else monitor)]
    grouped = list(dict.fromkeys(metric for metric in wanted if needs_groups(metric)))
    if grouped and written.get("group_id") is None:
        problems.append(
            f"Metric {grouped[0]} is computed within groups: set group_id to the column that says which group "
            "(user, session, …) a row is of."
        )
    used = params.get("use_features")
    if used and params.get("group_id") is not None and params["group_id"] not in used:
        problems.append(f"group_id names '{params['group_id']}', which use_features leaves out. Add it there.")
    if not params.get("feature_cols"):
        return  # the features are those of a feature map, which is not read here
    columns = [column for column in params["feature_cols"] if column.get("active") is not False]
    # rows and items may both have a feature, which is one then
    features = [(name, column.get("source") == "item") for column in columns for name in _names(column.get("name"))]
    known = dict.fromkeys(name for name, _ in features)
    if len(set(features)) < len(features):
        twice = next(name for name, of in features if features.count((name, of)) > 1)
        problems.append(f"feature_cols defines the feature '{twice}' twice. Keep one of the two.")
    problems += [
        f"The feature '{name}' cannot be embedded under this name (it holds a dot, or torch modules have an attribute "
        f"of that name). Rename the column."
        for column in columns
        for name in (_names(column.get("name")) if column.get("type") != "meta" else ())
        if not can_be_embedded(name)
    ]
    references = [(key, params.get(key)) for key in ("group_id", "use_features", *_FIELD_LISTS)]
    for key in ("feature_specs", "feature_config"):
        references += [(key, entry.get("name")) for entry in params.get(key) or ()]
    references += [("share_embedding", column.get("share_embedding")) for column in columns]
    for key, value in references:
        for name in _names(value):
            if name not in known:
                what = f"{key} names '{name}', which is no active feature of feature_cols."
                problems.append(what + suggest(name, known))


def _misdirected(monitor: str | Mapping[str, float], mode: str | None) -> list[str]:
    """What is wrong with a monitor by which the worst weights would be kept."""
    fitting = mode_of_monitor(monitor)
    if fitting is None:
        return [
            f"monitor {monitor}: of some of these metrics more is better, of others less, and no monitor_mode fits. "
            "Give those of the other kind a negative weight, as in {AUC: 1, logloss: -1}."
        ]
    if mode not in (None, fitting):
        better = "more" if fitting == "max" else "less"
        return [
            f"monitor_mode {mode} would keep the worst weights: {better} of the monitor {monitor} is better. Set "
            f"monitor_mode: {fitting}, or leave it out."
        ]
    return []


def _names(value: object) -> list[str]:
    """The names in a name, or in a list or tuple of such."""
    if isinstance(value, str):
        return [value]
    return [name for part in value for name in _names(part)] if isinstance(value, (list, tuple)) else []
