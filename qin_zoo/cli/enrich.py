"""``qin-zoo data enrich``: columns of other files about the items, joined into the item table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli.table import print_lines, print_table


def enrich(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with item_info.parquet.", show_default=False)],
    source: Annotated[
        str, typer.Option("--from", metavar="FILE", help="Parquet or csv with item numbers; npy, row i being item i.")
    ] = "item_feature.parquet",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Column to join, NEW=NAME to rename it; repeat it for more.",
            show_default="single numbers that the item table lacks",
        ),
    ] = None,
    known_before: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A column that holds nothing from after the clicks; repeat it for more."),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option("--id", metavar="NAME", help="Column of item numbers in FILE.", show_default="the item table's"),
    ] = None,
    info: Annotated[str, typer.Option(help="The item table.")] = "item_info.parquet",
    output: Annotated[str, typer.Option(help="The new item table.")] = "item_info_enriched.parquet",
    force: Annotated[bool, typer.Option(help="Replace an output, or columns, that exist.")] = False,
) -> None:
    """Join columns of a file about items into DIR's item table: a new file beside the old one, and a report.

    After `qin-zoo data download MicroLens_1M_x1 --raw`, `qin-zoo data enrich data/MicroLens_1M_x1` gives every item its
    likes_level and views_level. A column that was counted over a whole log knows what came after each click: such
    columns are announced, unless --known-before says that they do not.
    """
    from qin_zoo.data.enrich import enrich as join

    done = join(
        folder, source, column or (), known_before=known_before or (), id_column=id_column, info=info, output=output,
        force=force,
    )  # fmt: skip
    rows = []
    for joined in done.columns:
        span = ("" if value is None else f"{value:g}" for value in (joined.least, joined.greatest))
        rows.append((joined.name, joined.kind, f"{joined.found:,}", f"{joined.missing:,}", *span))
    header = ("column", "kind", "items with it", "without", "least", "greatest")
    title = f"{done.source}: {done.rows:,} rows, {done.strangers:,} of no item"
    print_table(header, rows, numbers=range(2, 6), folded={0}, title=title)
    if done.left_out:
        print_lines(f"left out: {', '.join(done.left_out)}")
    counted = [joined.name for joined in done.columns if joined.known_before is False]
    if counted:
        print_lines(
            f"WARNING: {', '.join(counted)}: by the name, counted over a log. If that went on after the clicks of the "
            "training rows, a model learns from what nobody could know, and promises too much. Once you know that it "
            "did not: --known-before NAME."
        )
    print_lines(f"{done.path} (report: {Path(done.path).with_suffix('.json').name})")
    print_lines("In a dataset configuration, with this item_info:", *(f"  - {c.feature}" for c in done.columns))
