"""``qin-zoo data import``: public data sets, in the challenge's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(help="Bring a public data set into the challenge's layout.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set; only read.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new or empty.", show_default=False)]
Label = Annotated[
    Optional[str],  # noqa: UP045  (typer on Python 3.10 reads annotations at run time)
    typer.Option(
        help="What is a click: a rule such as 'rating>=4', a column of 0 and 1, or 'implicit'. Default: the column "
        "label, rating>=4, or a column of clicks of 0 and 1, where there is one; else implicit."
    ),
]
History = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What enters a history: clicks, or all interactions. Default: clicks; ml1m, kuairand: all."),
]
HistoryColumn = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Written beside the ids of the history as item_seq_NAME: label (1 no click, 2 click), or a column of "
        "whole numbers such as rating. Default: none; ml1m: rating; kuairand: label."
    ),
]
Known = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="What a row says of its moment: levels (views and likes of the item so far), or all (also the item's "
        "rate, the user's views and rate, and the user). Default: levels; ml1m, kuairand: all."
    ),
]
MaxRowsPerUser = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Training interactions of a user that become rows, the newest. Default: all."),
]
MaxHistory = Annotated[int, typer.Option(help="Entries of a history, padding included; the newest are kept.")]
Split = Annotated[Optional[str], typer.Option(help="time, leave-one-out or given. Default: what fits the source.")]  # noqa: UP045
ValidShare = Annotated[float, typer.Option(help="Validation's share of the interactions, for --split time.")]
TestShare = Annotated[float, typer.Option(help="Test's share of the interactions, for --split time.")]
Negatives = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="Rows sampled for each click, from items not touched so far. Default: 1 if all are clicks, else 0."
    ),
]
Seed = Annotated[int, typer.Option(help="Same seed, same negatives.")]
Force = Annotated[bool, typer.Option(help="Replace an earlier import in OUT.")]
Embedding = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The embedding that enters item_info. Default: image_emb, or the first."),
]


def _log_command(format: str, help: str) -> None:
    """Adds the command of a format that holds a log of interactions."""

    @app.command(format, help=help)
    def command(
        source: Source,
        out: Out,
        label: Label = None,
        history: History = None,
        history_column: HistoryColumn = None,
        max_history: MaxHistory = 100,
        split: Split = None,
        valid_share: ValidShare = 0.1,
        test_share: TestShare = 0.1,
        negatives: Negatives = None,
        known: Known = None,
        max_rows_per_user: MaxRowsPerUser = None,
        seed: Seed = 1,
        embedding: Embedding = None,
        force: Force = False,
    ) -> None:
        more = {"valid_share": valid_share, "test_share": test_share, "embedding": embedding}
        more |= {"history_column": history_column, "known": known, "max_rows_per_user": max_rows_per_user}
        _import(format, source, out, label, history, max_history, split, negatives, seed, force, **more)


_log_command("recbole", "Import RecBole's atomic files (NAME.inter, .item, .user, .kg, .link).")
_log_command(
    "mmrec", "Import MMRec's layout (NAME.inter with x_label, image_feat.npy, audio_feat.npy, text_feat.npy)."
)
_log_command("movielens", "Import MovieLens as GroupLens gives it (100K, 1M, 10M, 20M, 25M, 32M, latest).")
_log_command("ml1m", "Import MovieLens-1M with plot texts (ratings.parquet, movies.parquet, users.parquet).")
_log_command("kuairand", "Import KuaiRand-Pure (interactions.parquet, videos.parquet, users.parquet).")


@app.command()
def fuxictr(
    source: Source,
    out: Out,
    label: Label = None,
    history: History = None,
    max_history: MaxHistory = 100,
    split: Split = None,
    negatives: Negatives = None,
    seed: Seed = 1,
    target_field: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Classic fields: the item, then properties of it; repeat the option."),
    ] = None,
    sequence_field: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Classic fields: the histories of the target fields, in their order."),
    ] = None,
    user_field: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Classic fields: the user. Default: user_id, userid, …, where there is one."),
    ] = None,
    force: Force = False,
) -> None:
    """Import FuxiCTR's data: LongCTR's per-user layout, or classic fields (npz, parquet, csv).

    Rows, histories and splits are the source's own: of the common options, only --label, --max-history, --split
    given and --force apply.
    """
    fields = {"target_field": target_field or (), "sequence_field": sequence_field or (), "user_field": user_field}
    _import("fuxictr", source, out, label, history, max_history, split, negatives, seed, force, fields)


def _import(
    format: str,
    source: Path,
    out: Path,
    label: str | None,
    history: str | None,
    max_history: int,
    split: str | None,
    negatives: int | None,
    seed: int,
    force: bool,
    fields: dict | None = None,
    **more: object,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from qin_zoo.data.importers import ImportOptions, import_folder

    options = ImportOptions(
        label=label,
        history=history,
        max_history=max_history,
        split=split,
        negatives=negatives,
        seed=seed,
        force=force,
        **more,  # type: ignore[arg-type]
    )
    summary = import_folder(format, source, out, options, **(fields or {}))
    table = Table()
    table.add_column("split")
    for heading in ("rows", "users", "click rate", "median history", "of users not in train", "of items not in train"):
        table.add_column(heading, justify="right")
    for name, counts in summary.splits.items():
        cold = (f"{share:.1%}" for share in (counts.cold_users, counts.cold_items))
        row = (f"{counts.rows:,}", f"{counts.users:,}", f"{counts.click_rate:.4f}", f"{counts.history:g}", *cold)
        table.add_row(name, *row)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{summary.path}: {summary.users:,} users, {summary.items:,} items")
    console.print(table)
    for note in summary.notes:
        console.print(f"Note: {note}")
    console.print(f"Dataset configuration: {summary.path / 'dataset_config.yaml'}")
