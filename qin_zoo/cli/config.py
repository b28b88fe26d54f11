"""`qin-zoo config`: what a run would really use, where each value comes from, and what it means."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_table, print_text, text, text_of

_COLUMNS = ("feature_cols", "feature_specs", "feature_config", "label_col")  # shown a line for each entry
_PLACE = re.compile(r"(.*), line (\d+)(, Base)?")
_WIDE = 110  # columns of a terminal that has room for meanings beside the values


@dataclass(frozen=True)
class Parameter:
    """A key of a run.

    Attributes:
        key: its name.
        value: what the run would use; None also where nothing is set.
        source: where the value comes from; empty where nothing is set.
        former: the old name it was written under, if any.
        meaning: what it is.
    """

    key: str
    value: Any
    source: str
    former: str
    meaning: str


def config(
    experiment: Annotated[str, typer.Argument(help="Experiment id, or a model's name with --data.")],
    config: options.Config = None,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    strict: options.Strict = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what a run would use: every key, its value, where it comes from, what it means; and the keys not set."""
    from qin_zoo.experiment.prepare import prepare

    prepared = prepare(experiment, config, data=data, overrides=options.changes(overrides, strict), plugins=plugin)
    used, unset = _parameters(prepared)
    if as_json:
        everything = {
            "expid": prepared.expid,
            "model": prepared.params["model"],
            "config_dir": str(prepared.config_dir),
            "parameters": [asdict(parameter) for parameter in used],
            "not_set": {parameter.key: parameter.meaning for parameter in unset},
            "notes": list(prepared.notes),
        }
        print_json(everything)
        return
    _print(prepared, used, unset)


def _parameters(prepared) -> tuple[list[Parameter], list[Parameter]]:
    """The parameters that a run has, first those of the model alone, and those that are not set."""
    from qin_zoo.cli.info import parameters
    from qin_zoo.config.schema import known_params
    from qin_zoo.data.dataset import has_item_table
    from qin_zoo.data.loader import FieldsLoader, ItemTableLoader
    from qin_zoo.experiment.keys import signature_defaults

    cls, params = prepared.model_class, prepared.params
    of_run = known_params()
    of_model = {name: meaning for name, _, meaning in parameters(cls)}
    own = [name for name in of_model if name not in of_run]
    elsewhere = [key for key in params if key not in of_run and key not in of_model]
    defaults = signature_defaults(cls, ItemTableLoader if has_item_table(params) else FieldsLoader)
    used, unset = [], []
    for key in (*own, *elsewhere, *of_run):
        meaning = of_run.get(key) or of_model.get(key, "")
        if key in elsewhere:
            meaning = f"Not a parameter that {cls.__name__} declares."
        if key in params:
            source = params.origin.get(key, "default of the runner")
            used.append(Parameter(key, params[key], source, params.former.get(key, ""), meaning))
        elif key in defaults:
            used.append(Parameter(key, *defaults[key], "", meaning))
        else:
            unset.append(Parameter(key, None, "", "", meaning))
    return used, unset


# ---- printing


def _print(prepared, used: list[Parameter], unset: list[Parameter]) -> None:
    from rich.table import Table

    files = _files(used)
    print_text(f"{prepared.expid}: {prepared.params['model']} on {prepared.params['dataset_id']}", "bold")
    for letter, file in files.items():
        print_text(f"{letter}: {file}", indent=2)
    names = {str(file): letter for letter, file in files.items()}
    rows = [(p.key, _value(p), _short(p, names), p.meaning) for p in used]
    if get_terminal_size().columns >= _WIDE:
        print_table(("key", "value", "from", "meaning"), rows, folded={1, 2, 3})
    else:  # the meaning on lines of its own
        for key, value, source, meaning in rows:
            head = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
            head.add_column(ratio=1, overflow="fold")
            head.add_column(justify="right", style="dim")
            head.add_row(text(f"{key}: {value}"), text(source))
            print_text(head)
            if meaning:
                print_text(meaning, indent=4)
    for parameter in used:
        if parameter.key in _COLUMNS and parameter.value:
            print_text(f"\n{parameter.key}", "bold")
            for entry in parameter.value if isinstance(parameter.value, list) else [parameter.value]:
                print_text(_entry(entry), indent=2)
    if unset:
        print_text("\nNot set", "bold")
        print_table(("key", "meaning"), [(parameter.key, parameter.meaning) for parameter in unset], folded={1})
    if prepared.notes:
        print_text("Mapped and left out", "bold")
    for note in prepared.notes:
        print_text(note, indent=2)


def _files(used: list[Parameter]) -> dict[str, Path]:
    """The files that values stand in, each under a letter."""
    found = dict.fromkeys(m[1] for p in used if (m := _PLACE.fullmatch(p.source)))
    return {chr(ord("a") + number) if number < 26 else str(number): Path(file) for number, file in enumerate(found)}


def _short(parameter: Parameter, names: dict[str, str]) -> str:
    match = _PLACE.fullmatch(parameter.source)
    source = f"{names[match[1]]}:{match[2]}{' Base' if match[3] else ''}" if match else parameter.source
    return f"{source}, as {parameter.former}" if parameter.former else source


def _value(parameter: Parameter) -> str:
    if parameter.key in _COLUMNS and parameter.value:
        count = len(parameter.value) if isinstance(parameter.value, list) else 1
        return f"{count} {'entries' if count > 1 else 'entry'}, below"
    return text_of(parameter.value)


def _entry(column: dict) -> str:
    """A column of the data on a line: its names, then what it is."""
    names = column.get("name")
    rest = {key: value for key, value in column.items() if key not in ("name", "type", "active")}
    kind = [str(column["type"])] if "type" in column else []
    active = ["not active"] if column.get("active") is False else []
    what = [*kind, *active, *(f"{key} {text_of(value)}" for key, value in rest.items())]
    return f"{', '.join(names) if isinstance(names, list) else names}: {', '.join(what)}"
