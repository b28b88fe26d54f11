"""`qin-zoo list`: the models there are, and their experiments."""

from __future__ import annotations

import fnmatch
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_table, print_text
from qin_zoo.errors import QinZooError, suggest

if TYPE_CHECKING:
    from qin_zoo.config.experiments import Experiment
    from qin_zoo.registry import ModelEntry

_SUMMARY = 42  # letters of a summary in the short list: a line of 80 columns for each model


def list_models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a model's name, or a shell pattern; the models are then shown whole.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only experiments on this dataset, and their models.")] = None,
    plugin: options.Plugins = None,
    as_json: options.AsJson = False,
) -> None:
    """List the models, a line each; of those that a name or a dataset picks out also papers, figures, experiments."""
    from qin_zoo.config.experiments import find_experiments
    from qin_zoo.registry import discover

    problems: list[str] = []
    experiments = find_experiments(problems=problems)
    if dataset is not None:
        experiments = _on(experiments, dataset)
    models, found = discover(plugin or []), []
    wanted = (pattern or "*").lower()  # part of a name, where it is no shell pattern
    wanted = wanted if set(wanted) & set("*?[") else f"*{wanted}*"
    for entry in models.values():
        own = [e for e in experiments if e.model == entry.name]
        if (own or dataset is None) and fnmatch.fnmatch(entry.name.lower(), wanted):
            found.append((entry, own))
    if as_json:
        print_json([_as_json(*each) for each in found])
    elif not found:
        raise QinZooError(f"No model matches '{pattern}'.{suggest(pattern, models)} There are: {', '.join(models)}.")
    elif pattern is None and dataset is None:
        _print_short(found)
    else:
        for entry, own in found:
            _print_whole(entry, own, pattern is None)
    for problem in problems:
        typer.echo(f"Left out: {problem}", err=True)


def _on(experiments: list[Experiment], dataset: str) -> list[Experiment]:
    known = Counter(e.dataset_id for e in experiments)
    found = [e for e in experiments if fnmatch.fnmatch(e.dataset_id.lower(), dataset.lower())]
    if not found:
        listed = ", ".join(sorted(known))
        raise QinZooError(f"No experiment on a dataset '{dataset}'.{suggest(dataset, known)} There are: {listed}.")
    return found


def _summary(entry: ModelEntry) -> str:
    return entry.summary.replace("``", "")


def _inputs(entry: ModelEntry) -> str:
    return entry.card.get("inputs", "item table, named fields")


def card_lines(entry: ModelEntry) -> list[str]:
    """A model's summary, paper, inputs and published figures."""
    paper = [f"Paper: {entry.card['paper']}"] if entry.card.get("paper") else []
    figures = [f"Published on {dataset}: {figure}" for dataset, figure in entry.card.get("published", {}).items()]
    return [_summary(entry), *paper, f"Inputs: {_inputs(entry)}", *figures]


def _as_json(entry: ModelEntry, experiments: list[Experiment]) -> dict:
    return {
        "model": entry.name,
        "summary": _summary(entry),
        "paper": entry.card.get("paper"),
        "inputs": _inputs(entry),
        "published": entry.card.get("published", {}),
        "origin": entry.origin,
        "experiments": [
            {"expid": e.expid, "dataset_id": e.dataset_id, "config_dir": str(e.config_dir)} for e in experiments
        ],
    }


def _print_short(found: list[tuple[ModelEntry, list[Experiment]]]) -> None:
    rows = [
        [entry.name, str(len(own)), textwrap.shorten(_summary(entry), _SUMMARY, placeholder=" …")]
        for entry, own in found
    ]
    print_table(["model", "experiments", "what it is"], rows, numbers={1}, folded={2})
    typer.echo("Experiments, papers, figures: qin-zoo list NAME, or --dataset ID. Parameters: qin-zoo info MODEL.")


def _print_whole(entry: ModelEntry, experiments: list[Experiment], short: bool) -> None:
    """A model and its experiments by dataset; without paper and figures where only a dataset was asked for."""
    print_text(entry.name, "bold")
    if not short:
        for line in filter(None, card_lines(entry)):
            print_text(line, indent=2)
    for dataset in dict.fromkeys(e.dataset_id for e in experiments):
        names = ", ".join(e.expid for e in experiments if e.dataset_id == dataset)
        print_text(f"on {dataset}: {names}", indent=2)
    if not experiments:
        print_text("no experiments", indent=2)
