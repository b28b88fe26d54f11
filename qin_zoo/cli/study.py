"""`qin-zoo study`: experiments in variations and over seeds, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


def study(
    file: Annotated[Path, typer.Argument(help="YAML with experiments, variations and seeds.", show_default=False)],
    gpu: Annotated[
        list[int] | None, typer.Option("--gpu", help="Index of a GPU; repeat it to train on several at once.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once without a GPU.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the table. Default: <model_root>/studies.")
    ] = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Run what is missing of a study and compare: means and spreads over seeds, as table, CSV and picture.

    A run that is finished with the same parameters on the same data is not repeated; a study that was stopped goes
    on when its command is given again. Whatever becomes of one run, the others go on.
    """
    from qin_zoo.config.experiments import parse_overrides
    from qin_zoo.results.entry import entry_of
    from qin_zoo.results.lines import boards
    from qin_zoo.results.render import write_csv, write_markdown
    from qin_zoo.results.show import show_boards
    from qin_zoo.study.execute import run_missing
    from qin_zoo.study.plan import plan_runs, read_study

    plan = read_study(file)
    runs = plan_runs(plan, file)
    common = {"overrides": parse_overrides(overrides or []), "plugins": plugin}
    name = f"{file.resolve().parent.name}_{file.stem}"
    folder = out or Path(runs[0].prepare(**common).params["model_root"]) / "studies"
    try:
        records, failures = run_missing(plan, runs, gpu or [-1] * workers, common, echo=typer.echo)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished runs are kept; the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    found = boards(entry_of(records[run], records[run]) for run in runs if run in records)
    show_boards(found)
    page = folder / f"{name}.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_markdown(found, page, name, {run.name: failures[run] for run in runs if run in failures})
    if found:
        write_csv(found, page.with_suffix(".csv"))
    typer.echo(f"table: {page}")
    if failures:
        typer.echo(f"{len(failures)} of {len(runs)} runs failed; see above.", err=True)
        raise typer.Exit(1)
