"""``qin-zoo data import``: public data sets, in the challenge's layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Bring one's own tables, or a public data set, into the challenge's layout.", no_args_is_help=True
)

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
    typer.Option(
        help="What enters a history: clicks, or all interactions. Default: clicks; ml1m, kuairand, a table whose rows "
        "are not all clicks: all."
    ),
]
HistoryColumn = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Written beside the ids of the history as item_seq_NAME: label (1 no click, 2 click), or a column of "
        "whole numbers such as rating. Default: none; ml1m: rating; kuairand, a table whose rows are not all clicks: "
        "label."
    ),
]
Known = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="What a row says of its moment: levels (views and likes of the item so far), or all (also the item's "
        "rate, the user's views and rate, and the user). Default: levels; ml1m, kuairand, a table whose rows are not "
        "all clicks: all."
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


Extend = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="DIR",
        help="An earlier import, written to another folder: its numbers of users, items and categories stay, new ones "
        "come behind, its options are taken over.",
        show_default=False,
    ),
]


def _log_options(
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
    extend: Extend = None,
    force: Force = False,
) -> None:
    """What every import of a log of interactions can be told."""


def _with_log_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options in place of its ``**options``."""
    *own, _ = inspect.signature(command, eval_str=True).parameters.values()
    shared = inspect.signature(_log_options, eval_str=True).parameters.values()
    command.__signature__ = inspect.Signature([*own, *shared])
    command.__annotations__ |= _log_options.__annotations__
    return command


def _log_command(format: str, help: str) -> None:
    """Adds the command of a format that holds a log of interactions."""

    @app.command(format, help=help)
    @_with_log_options
    def command(context: typer.Context, source: Source, out: Out, **options: object) -> None:
        _import(format, source, out, context)


@app.command()
@_with_log_options
def table(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RAW... OUT",
            help="Folder or files of one's own, or the yaml that describes them; and the folder to write.",
            show_default=False,
        ),
    ],
    describe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="YAML", help="Look at RAW and write down what it is taken for; import nothing."),
    ] = None,
    only_new: Annotated[
        bool,
        typer.Option(help="With --extend: rows are those of new interactions alone; histories and counts see all."),
    ] = False,
    **options: object,
) -> None:
    """Import one's own csv or parquet: interactions, items, users; vectors in npy, HDF5 or parquet by their ids.

    Files, columns, units and separators are guessed and told. To correct a guess, write a description first (--describe
    shop.yaml), and import that: `qin-zoo data import table shop.yaml OUT`. Rows that cannot be used are counted, and
    set aside in OUT/set_aside.csv. With --extend, RAW may hold the new rows alone, or old ones, too.
    """
    from qin_zoo.cli.import_table import table as run

    run(paths, describe, _given(context), _options(context))


_log_command("recbole", "Import RecBole's atomic files (NAME.inter, .item, .user, .kg, .link).")
_log_command("mmrec", "Import MMRec's layout (NAME.inter with x_label, image_feat.npy, audio_feat.npy, text_feat.npy).")
_log_command("movielens", "Import MovieLens as GroupLens gives it (100K, 1M, 10M, 20M, 25M, 32M, latest).")
_log_command("ml1m", "Import MovieLens-1M with plot texts (ratings.parquet, movies.parquet, users.parquet).")
_log_command("kuairand", "Import KuaiRand-Pure (interactions.parquet, videos.parquet, users.parquet).")


@app.command()
def fuxictr(
    context: typer.Context,
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
    _import("fuxictr", source, out, context, fields)


def _options(context: typer.Context) -> dict:
    """The options of an import, as they were given or by default."""
    from dataclasses import fields

    from qin_zoo.data.importers import ImportOptions

    known = {field.name for field in fields(ImportOptions)}
    options = {name: value for name, value in context.params.items() if name in known}
    return options | {"extend": str(options["extend"]) if options.get("extend") else None}


def _given(context: typer.Context) -> set[str]:
    """The names of the options that were given."""
    return {name for name in context.params if context.get_parameter_source(name).name != "DEFAULT"}


def _import(format: str, source: Path, out: Path, context: typer.Context, fields: dict | None = None) -> None:
    from qin_zoo.cli.import_table import show
    from qin_zoo.data.importers import ImportOptions, import_folder
    from qin_zoo.data.importers.before import Before

    options = ImportOptions(**_options(context))
    if options.extend:
        options = Before.open(options.extend).options(_given(context), options)
    show(import_folder(format, source, out, options, **(fields or {})))
