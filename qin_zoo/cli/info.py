"""`qin-zoo info`: what a model is, what its parameters and the keys of a run mean, how large its experiments are."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.list_models import card_lines
from qin_zoo.cli.table import print_json, print_table, print_text

if TYPE_CHECKING:
    from qin_zoo.experiment.keys import Key
    from qin_zoo.registry import ModelEntry


def info(
    name: Annotated[
        str | None, typer.Argument(help="A model or a key of a configuration; without, every key of a run.")
    ] = None,
    plugin: options.Plugins = None,
    as_json: options.AsJson = False,
) -> None:
    """Explain a model (source, parameters with defaults, sizes) or a key: what it is, may hold, and is by default."""
    from qin_zoo.errors import ModelError, suggest
    from qin_zoo.experiment.keys import keys_named, known_keys, run_keys
    from qin_zoo.registry import discover

    models = discover(plugin or [])
    if name is None:
        _print_keys(run_keys(), as_json)
    elif name in models:
        _print_model(name, models[name], plugin, as_json)
    elif keys := keys_named(name) + _of_models(name, plugin):
        _print_keys(keys, as_json)
    else:
        hint = suggest(name, [*models, *known_keys()])
        raise ModelError(
            f"No model and no key '{name}'.{hint} `qin-zoo list` names the models, `qin-zoo info` the keys of a run, "
            "`qin-zoo info MODEL` those of a model."
        )


def _of_models(name: str, plugins) -> list[Key]:
    """What a name means as a parameter of models; those that say the same together."""
    from qin_zoo.config.values import RunParams
    from qin_zoo.experiment.keys import Key
    from qin_zoo.registry import discover, get_model

    found: dict[tuple[str, str], list[str]] = {}
    for model in [] if name in RunParams.model_fields else discover():
        for key, default, meaning in parameters(get_model(model)):
            if key == name:
                found.setdefault((default, meaning), []).append(model)
    return [
        Key(name, ", ".join(models), meaning, "", default or None, "default of the model" if default else "")
        for (default, meaning), models in found.items()
    ]


def _print_keys(keys: list[Key], as_json: bool) -> None:
    from qin_zoo.cli.table import text_of

    if as_json:
        print_json([asdict(key) for key in keys])
        return
    for key in keys:
        of = f" of {key.of}" if key.of else ""
        default = f", by default {text_of(key.default)}" if key.source else ""
        source = f" ({key.source.removeprefix('default of ')})" if key.source else ""
        expected = f": {key.expected}" if key.expected else ""
        print_text(f"{key.name}{of}{expected}{default}{source}", "bold" if len(keys) == 1 else "")
        print_text(key.meaning, indent=2)


def _print_model(name: str, entry: ModelEntry, plugins, as_json: bool) -> None:
    from qin_zoo.registry import get_model

    cls = get_model(name, plugins or [])
    sizes = _experiment_sizes(name, plugins)
    if as_json:
        told = {
            "model": name,
            "summary": entry.summary,
            "origin": entry.origin,
            **entry.card,
            "parameters": [dict(zip(("name", "default", "meaning"), row)) for row in parameters(cls)],
            "experiments": dict(sizes),
        }
        print_json(told)
        return
    print_text(name, "bold")
    for line in (*card_lines(entry), f"Source: {entry.origin}", ""):
        print_text(line)
    print_table(["parameter", "default", "meaning"], parameters(cls), folded={0, 1, 2})
    for expid, count in sizes:
        print_text(f"{expid}: {count}")


def parameters(cls: type) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of a model's parameters: its own first, then those of its base classes."""
    import docstring_parser

    rows = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner) or owner.__module__.startswith("torch"):
            continue
        documented = {p.arg_name: p for p in docstring_parser.parse(inspect.getdoc(owner) or "").params}
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            if name in ("self", "feature_map") or parameter.kind == inspect.Parameter.VAR_KEYWORD or name in rows:
                continue
            default = "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
            meaning = documented[name].description if name in documented else ""
            rows[name] = (name, default, " ".join((meaning or "").replace("``", "").split()))
        if owner.__name__ == "BaseModel":
            break
    return list(rows.values())


def _experiment_sizes(model: str, plugins):
    """(experiment id, parameter count or why there is none) of the model's experiments."""
    from qin_zoo.config.experiments import find_experiments
    from qin_zoo.errors import QinZooError
    from qin_zoo.experiment.prepare import build_model, prepare

    for experiment in find_experiments(problems=[]):
        if experiment.model != model:
            continue
        prepared = prepare(experiment.expid, experiment.config_dir, plugins=plugins)
        try:
            # Sizes that the configuration leaves to the data are taken from it where it is at hand.
            dataset = prepared.open_dataset() if Path(prepared.params["train_data"]).exists() else None
            count = sum(p.numel() for p in build_model(prepared, dataset).parameters() if p.requires_grad)
            yield experiment.expid, f"{count:,} parameters"
        except QinZooError as error:
            yield experiment.expid, f"needs its data ({str(error).splitlines()[0]})"
