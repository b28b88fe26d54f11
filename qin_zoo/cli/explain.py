"""`qin-zoo explain`: why a trained model predicts what it does for one row."""

from __future__ import annotations

from typing import Annotated

import typer

from qin_zoo.cli import options


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
    from qin_zoo.explain.report import print_explanation
    from qin_zoo.explain.run import explain_row
    from qin_zoo.results.trained import find_run

    prepared, checkpoint = find_run(run, config, checkpoint, data=data, overrides=overrides, plugins=plugin)
    explanation, files = explain_row(prepared, row, split, checkpoint, out)
    print_explanation(explanation)
    typer.echo(f"report: {files.report}   picture: {files.picture}")
