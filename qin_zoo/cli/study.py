"""`qin-zoo study`: experiments in variations and over seeds, compared."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.errors import QinZooError


def study(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML with experiments, variations and seeds; or one of ours by name, as `ablation`.",
            show_default=False,
        ),
    ],
    gpu: options.Gpus = None,
    workers: options.Workers = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the table. Default: <model_root>/studies.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="After so many nothing further is started; again goes on from there.")
    ] = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Run what is missing of a study and compare: means and intervals, as table, CSV and picture.

    With `tuning` in the file, every experiment first gets the same trials, or minutes, on the validation split.
    A run that is finished with the same parameters on the same data is not repeated; a study that was stopped goes
    on when its command is given again. Whatever becomes of one run, the others go on.
    """
    from qin_zoo.cli.results import show_boards
    from qin_zoo.config.experiments import find_file, parse_overrides
    from qin_zoo.results.entry import entry_of
    from qin_zoo.results.lines import boards
    from qin_zoo.results.render import write_csv, write_markdown
    from qin_zoo.study.execute import run_missing
    from qin_zoo.study.plan import plan_runs, read_study
    from qin_zoo.study.tuned import tune_lines

    file = find_file(file)
    plan = read_study(file)
    runs = plan_runs(plan, file)
    common = {"overrides": parse_overrides(overrides), "plugins": plugin}
    name = f"{file.resolve().parent.name}_{file.stem}"
    folder = out or Path(runs[0].prepare(**common).params["model_root"]) / "studies"
    _check_folder(folder)
    gpus, until = gpu or [-1] * workers, None if minutes is None else time.monotonic() + 60 * minutes
    ready, untuned = runs, {}
    try:
        if plan.tuning is not None:
            ready, untuned = tune_lines(plan, file, runs, gpus, common, typer.echo, until)
        records, failures = run_missing(plan, ready, gpus, common, typer.echo, until)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished runs are kept; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    failures |= untuned
    compared = boards(entry_of(records[run], records[run]) for run in ready if run in records)
    show_boards(compared)
    page = folder / f"{name}.md"
    write_markdown(compared, page, name, {run.name: why for run, why in failures.items()})
    if compared:
        write_csv(compared, page.with_suffix(".csv"))
    typer.echo(f"table: {page}")
    if left := len(runs) - len(records) - len(failures):
        typer.echo(f"{left} of {len(runs)} runs are still to do: the time is over. The same command goes on from here.")
    if failures:
        typer.echo(f"{len(failures)} of {len(runs)} runs failed; see above.", err=True)
        raise typer.Exit(1)


def _check_folder(folder: Path) -> None:
    """Raises QinZooError unless the table can be written, which is at the very end."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is no folder"
        raise QinZooError(f"The table would be written to {folder}, but {there} {why}. Name another folder with --out.")
