"""``qin-zoo data import``: public data sets, in the challenge's layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qin_zoo.data.importers import ImportOptions
    from qin_zoo.data.importers.before import Before

app = typer.Typer(help="Bring one's own tables, or public data, into the challenge's layout.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set; only read.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new or empty.", show_default=False)]


def _log_options(
    label: Annotated[
        str | None,
        typer.Option(
            help="What is a click: a rule such as 'rating>=4', a column of 0 and 1, or 'implicit'. Default: the column "
            "label, rating>=4, or a column of clicks of 0 and 1, where there is one; else implicit."
        ),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            help="What enters a history: clicks, or all interactions. Default: clicks; ml1m, kuairand, a table whose "
            "rows are not all clicks: all."
        ),
    ] = None,
    history_column: Annotated[
        str | None,
        typer.Option(
            help="Written beside the ids of the history as item_seq_NAME: label (1 no click, 2 click), or a column of "
            "whole numbers such as rating. Default: none; ml1m: rating; kuairand, a table whose rows are not all "
            "clicks: label."
        ),
    ] = None,
    max_history: Annotated[int, typer.Option(help="Entries of a history with its padding; the newest are kept.")] = 100,
    split: Annotated[str | None, typer.Option(help="time, leave-one-out or given. Default: what fits.")] = None,
    valid_share: Annotated[float, typer.Option(help="Validation's share of the interactions, for --split time.")] = 0.1,
    test_share: Annotated[float, typer.Option(help="Test's share of the interactions, for --split time.")] = 0.1,
    negatives: Annotated[
        int | None,
        typer.Option(help="Rows sampled for each click, of items not touched. Default: 1 if all are clicks, else 0."),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            help="What a row says of its moment: levels (views and likes of the item so far), or all (also the item's "
            "rate, the user's views and rate, and the user). Default: levels; ml1m, kuairand, a table whose rows are "
            "not all clicks: all."
        ),
    ] = None,
    max_rows_per_user: Annotated[
        int | None, typer.Option(help="Training interactions of a user that become rows, the newest. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same negatives.")] = 1,
    embedding: Annotated[
        str | None, typer.Option(help="The embedding that enters item_info. Default: image_emb, or the first.")
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="An earlier import, written to another folder: its numbers of users, items and categories stay, new "
            "ones come behind, its options are taken over.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an earlier import in OUT.")] = False,
) -> None:
    """What every import of a log of interactions can be told."""


def _with_log_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with the options of these names, or with all, in place of its ``**options``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        *own, _ = inspect.signature(command, eval_str=True).parameters.values()
        shared = inspect.signature(_log_options, eval_str=True).parameters
        chosen = [*own, *(shared[name] for name in names or shared)]
        command.__signature__ = inspect.Signature(chosen)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in chosen}
        return command

    return decorate


def _log_command(format: str, help: str) -> None:
    """Adds the command of a format that holds a log of interactions."""

    @app.command(format, help=help)
    @_with_log_options()
    def command(context: typer.Context, source: Source, out: Out, **options: object) -> None:
        _import(format, source, out, context)


@app.command()
@_with_log_options()
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
        Path | None,
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
    from qin_zoo.cli.import_table import described, show, write_description
    from qin_zoo.data.importers import import_table
    from qin_zoo.errors import DataError

    if describe is not None:
        write_description(paths, describe, context.params["force"])
        return
    if len(paths) < 2:
        raise DataError(f"{paths[0]}: expected files and a folder to write, found one. Give RAW OUT or --describe.")
    chosen, before = _options(context)
    description = described(paths[:-1], before, context.params["label"])
    show(import_table(description, paths[-1], chosen, before))


_log_command("recbole", "Import RecBole's atomic files (NAME.inter, .item, .user, .kg, .link).")
_log_command("mmrec", "Import MMRec's layout (NAME.inter with x_label, image_feat.npy, audio_feat.npy, text_feat.npy).")
_log_command("movielens", "Import MovieLens as GroupLens gives it (100K, 1M, 10M, 20M, 25M, 32M, latest).")
_log_command("ml1m", "Import MovieLens-1M with plot texts (ratings.parquet, movies.parquet, users.parquet).")
_log_command("kuairand", "Import KuaiRand-Pure (interactions.parquet, videos.parquet, users.parquet).")


@app.command()
@_with_log_options("label", "history", "max_history", "split", "negatives", "force")
def fuxictr(
    context: typer.Context,
    source: Source,
    out: Out,
    target_field: Annotated[
        list[str] | None, typer.Option(help="Classic fields: the item, then properties of it; repeat the option.")
    ] = None,
    sequence_field: Annotated[
        list[str] | None, typer.Option(help="Classic fields: the histories of the target fields, in their order.")
    ] = None,
    user_field: Annotated[
        str | None, typer.Option(help="Classic fields: the user. Default: user_id, userid, …, where there is one.")
    ] = None,
    **options: object,
) -> None:
    """Import FuxiCTR's data: LongCTR's per-user layout, or classic fields (npz, parquet, csv).

    Rows, histories and splits are the source's own: of the common options, only --label, --max-history, --split
    given and --force apply.
    """
    fields = {"target_field": target_field or (), "sequence_field": sequence_field or (), "user_field": user_field}
    _import("fuxictr", source, out, context, fields)


def _options(context: typer.Context) -> tuple[ImportOptions, Before | None]:
    """The options of an import, and the earlier one that it extends, whose options hold where none is given."""
    from dataclasses import fields

    from qin_zoo.data.importers import ImportOptions
    from qin_zoo.data.importers.before import Before

    known = {field.name for field in fields(ImportOptions)} & context.params.keys()
    options = ImportOptions(**{name: context.params[name] for name in known})
    if options.extend is None:
        return options, None
    before = Before.open(options.extend)
    given = {name for name in known if context.get_parameter_source(name).name != "DEFAULT"}
    return before.options(given, options), before


def _import(format: str, source: Path, out: Path, context: typer.Context, fields: dict | None = None) -> None:
    from qin_zoo.cli.import_table import show
    from qin_zoo.data.importers import import_folder

    options, _ = _options(context)
    show(import_folder(format, source, out, options, **(fields or {})))
