"""`qin-zoo explain`: why a trained model predicts what it does for one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_table
from qin_zoo.errors import printable

if TYPE_CHECKING:
    from qin_zoo.explain.explanation import Explanation

_SHOWN = 20  # items of the history


def explain(
    run: options.Run,
    row: Annotated[int, typer.Option("--row", help="Row of the split, from 0, as the ID of predictions.")],
    split: options.Split = "valid",
    config: options.Config = None,
    checkpoint: options.Checkpoint = None,
    out: options.Output = None,
    data: options.Data = None,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
) -> None:
    """Explain one prediction: what the attention lets through, and what every feature adds to the logit."""
    from qin_zoo.explain.run import explain_row
    from qin_zoo.results.trained import find_run

    prepared, checkpoint = find_run(run, config, checkpoint, data=data, overrides=overrides, plugins=plugin)
    explanation, files = explain_row(prepared, row, split, checkpoint, out)
    print_explanation(explanation)
    typer.echo(f"report: {files.report}   picture: {files.picture}")


def print_explanation(e: Explanation) -> None:
    """The tables on the terminal; of a long history, what contributes most."""
    from qin_zoo.explain import report

    def show(header: list[str], rows: list[list[str]]) -> None:
        print_table(header, rows, numbers=range(1, len(header)), folded={0, 1})

    lines = (f"{e.expid}, {e.split} row {e.row}, {e.scored}", report.sum_line(e), report.delta_line(e))
    for line in filter(None, (*lines, report.left_out_line(e))):
        typer.echo(printable(line))
    typer.echo()
    show(["feature", "value", "contribution"], report.feature_rows(e))
    for line in report.attention_lines(e):
        typer.echo(line)
    ranked = sorted(e.history, key=lambda item: -abs(item.contribution))
    if shown := sorted(ranked[:_SHOWN], key=lambda item: item.place):
        header = ["item, oldest first", "place", *report.weight_names(e), "contribution"]
        show(header, [report.history_row(e, item) for item in shown])
    if len(ranked) > len(shown):
        typer.echo(f"… and {len(ranked) - len(shown)} items that contribute less")
