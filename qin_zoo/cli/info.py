"""`qin-zoo info MODEL`: what a model is, what its parameters mean, and how large its experiments are."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


def info(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    plugin: options.Plugins = None,
) -> None:
    """Show a model's source, parameters with defaults and meaning, and its parameter counts."""
    from rich.console import Console
    from rich.table import Table

    from qin_zoo.registry import discover, get_model

    cls = get_model(model, plugin or [])
    entry = discover(plugin or [])[model]
    console = Console()
    console.print(f"[bold]{entry.name}[/bold]  {entry.summary}")
    if "paper" in entry.card:
        console.print(f"Paper: {entry.card['paper']}")
    for dataset, figure in entry.card.get("published", {}).items():
        console.print(f"Published on {dataset}: {figure}")
    console.print(f"Source: {entry.origin}")
    table = Table(title="Parameters", title_justify="left")
    for column in ("parameter", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for name, default, meaning in parameters(cls):
        table.add_row(name, default, meaning)
    console.print(table)
    for expid, count in _experiment_sizes(model, plugin):
        console.print(f"{expid}: {count}", highlight=False)


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
