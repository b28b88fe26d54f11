"""``qin-zoo data``: commands that make, fetch, check and convert data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import check, download, enrich, import_data
from qin_zoo.cli.table import print_table

app = typer.Typer(help="Make, fetch, check and convert data.", no_args_is_help=True)
app.command("download")(download.download)
app.command("enrich")(enrich.enrich)
app.command("check")(check.check)
app.command("stats")(check.stats)
app.command("head")(check.head)
app.add_typer(import_data.app, name="import")


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.", show_default=False)],
    rows: Annotated[int, typer.Option(help="Training rows.")] = 100_000,
    items: Annotated[int, typer.Option(help="Items in the catalogue.")] = 2000,
    seed: Annotated[int, typer.Option(help="Same seed, same sample.")] = 1,
    force: Annotated[bool, typer.Option(help="Make it again, replacing a sample that is there.")] = False,
) -> None:
    """Write a sample dataset in the challenge's layout, whose best reachable AUC is known.

    The files are those of MicroLens_1M_x1; beside them lie sample.json and, in truth/, the exact click
    probability of every validation and test row. A sample of the same parameters is not made twice.
    """
    from qin_zoo.data.sample import write_sample

    summary, table = write_sample(out, rows, items, seed, force=force), []
    for name, split in summary.splits.items():
        aucs = ("" if auc is None else f"{auc:.4f}" for auc in (split.best_auc, split.blind_auc))
        table.append((name, f"{split.rows:,}", f"{split.users:,}", f"{split.click_rate:.4f}", *aucs))
    header = ("split", "rows", "users", "click rate", "best reachable AUC", "AUC blind to the history")
    title = f"{summary.path}: {summary.items:,} items, seed {summary.seed}"
    print_table(header, table, numbers=range(1, 6), title=title)
    typer.echo(f"A model on it: qin-zoo run QIN --data {out}")
    typer.echo(f"What to beat:  qin-zoo baseline {out}")


@app.command()
def cut(
    folder: Annotated[Path, typer.Argument(help="Folder of a dataset whose rows stand in the order of time.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: 0, 1, 2, … in it, one for each period.")],
    periods: Annotated[int, typer.Option(min=2, help="Periods into which the second half is cut.")] = 8,
    valid_share: Annotated[float, typer.Option(help="Share of each period's rows, the last, for validation.")] = 0.1,
) -> None:
    """Cut a dataset into periods, for `qin-zoo continue`: 0 is the first half, each is tested on the one behind it.

    Rows of an import that is split by time stand in its order. What lies beside them, such as the item table, is the
    same in every folder.
    """
    from qin_zoo.data.periods import cut_into_periods

    for number, rows in enumerate(cut_into_periods(folder, out, periods, valid_share)):
        typer.echo(f"{out / str(number)}: " + ", ".join(f"{count:,} {split}" for split, count in rows.items()))
