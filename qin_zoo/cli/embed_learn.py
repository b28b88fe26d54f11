"""``qin-zoo embed align`` and ``quantize``: item embeddings learned from clicks, and their codes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli.table import print_lines, print_table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with item_info.parquet.", show_default=False)]
Column = Annotated[str, typer.Option(help="The embedding column of the item table.")]
Info = Annotated[str, typer.Option(metavar="FILE", help="The item table; a bare name lies in DIR.")]
Output = Annotated[str, typer.Option(metavar="FILE", help="The table to write; a bare name lies in DIR.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output, and columns of these names.")]
Refit = Annotated[
    bool,
    typer.Option("--refit", help="Fit anew in a folder that extends another import, whose fit is used by default."),
]


def align(
    context: typer.Context,
    folder: Folder,
    column: Column = "item_emb_d128",
    out_column: Annotated[str, typer.Option(help="The column to add.")] = "item_emb_aligned",
    dim: Annotated[int, typer.Option(help="Size of the new embedding.", min=1)] = 128,
    hidden: Annotated[int, typer.Option(help="Units of a hidden layer; 0 for a linear projection.", min=0)] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: Annotated[int, typer.Option(help="Pairs in a batch; they are each other's negatives.", min=2)] = 1024,
    temperature: Annotated[float, typer.Option(help="Divides the similarities in the loss.")] = 0.4,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    pairs_per_row: Annotated[int, typer.Option(help="Pairs drawn from each click and epoch.", min=1)] = 4,
    held_out: Annotated[float, typer.Option(help="Share of the users kept for the report.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same result.", min=0)] = 1,
    info: Info = "item_info.parquet",
    output: Output = "item_info_aligned.parquet",
    force: Force = False,
) -> None:
    """Fit an embedding to what users click: items clicked by one user become similar.

    Trains a projection on pairs of a clicked item and an item of its history, from train.parquet alone, and writes
    a copy of the item table with the new column. The report (printed, and as JSON beside the table) says how well
    similarity finds the other item of pairs of held-out users, before and after.
    """
    from qin_zoo.embed.align import TOP, AlignOptions, align_folder

    options = AlignOptions(**{field.name: context.params[field.name] for field in fields(AlignOptions)})
    path, report = align_folder(folder, column, out_column, options, info=info, output=output, force=force)
    print_lines(
        f"{report.items:,} items; {report.clicks:,} clicks with a history, {report.users:,} users, "
        f"{report.held_out_users:,} of them held out; {report.pairs:,} pairs an epoch"
    )
    print_lines("loss by epoch: " + ", ".join(f"{loss:.4f}" for loss in report.losses))
    if report.before is None or report.after is None:
        print_lines("No pair of a held-out user: the effect could not be measured.")
    else:
        ranked = ((column, report.before), (out_column, report.after))
        rows = [(name, f"{ranking.recall:.4f}", f"{ranking.mrr:.4f}") for name, ranking in ranked]
        header = ("embedding", f"recall@{TOP}", "mean reciprocal rank")
        print_table(header, rows, numbers={1, 2}, title=f"{report.held_out_pairs:,} held-out pairs")
        if report.after.mrr <= report.before.mrr:
            print_lines("Held-out pairs rank no better than before. Try a higher --temperature or a --hidden layer.")
    about = f"dtype: float, type: embedding, source: item, embedding_dim: {dim}, pretrain_dim: {dim}"
    _print_use(path, f"- {{name: {out_column}, active: True, {about}}}")


def quantize(
    folder: Folder,
    column: Column = "item_emb_d128",
    levels: Annotated[int, typer.Option(help="Codes of each item, coarse to fine.", min=1)] = 3,
    codebook_size: Annotated[int, typer.Option(help="Codewords of each level.", min=1)] = 256,
    iterations: Annotated[int, typer.Option(help="Of the k-means of each level.", min=1)] = 25,
    seed: Annotated[int, typer.Option(help="Same seed, same codes.", min=0)] = 1,
    info: Info = "item_info.parquet",
    output: Output = "item_info_codes.parquet",
    refit: Refit = False,
    force: Force = False,
) -> None:
    """Turn an embedding into discrete codes, columns code_1, code_2, … of a copy of the item table.

    Residual k-means: each level quantises what the levels before have left. Codes count from 1; 0 is for padding
    and items without an embedding. The report (printed, and as JSON beside the table) has the codebook usage, the
    relative squared error after each level, and the share of items whose whole code another item has, too.
    """
    from qin_zoo.embed.codes import feature_line, quantize_folder

    path, report = quantize_folder(
        folder, column, levels, codebook_size, iterations, seed, info=info, output=output, refit=refit, force=force
    )
    if report.reused:
        print_lines("Codebooks of the import that this one extends, used as they are (--refit: anew).")
    rows = [
        (f"code_{number}", f"{level.used:.1%}", f"{level.perplexity:.1f}", f"{level.error:.4f}")
        for number, level in enumerate(report.levels, start=1)
    ]
    title = f"{report.items:,} items, {codebook_size:,} codewords a level"
    print_table(("column", "codes used", "perplexity", "relative error"), rows, numbers={1, 2, 3}, title=title)
    print_lines(
        f"{report.distinct:,} different codes; collision rate {report.collision_rate:.2%}; "
        f"{report.without_embedding:,} items without an embedding have code 0"
    )
    _print_use(path, feature_line(report))


def _print_use(path: Path, feature: str) -> None:
    """How a dataset configuration names what was written."""
    print_lines(f"table: {path}   report: {path.with_suffix('.json')}")
    print_lines(f"In the dataset configuration, item_info: {path} and in feature_cols:", f"    {feature}")
