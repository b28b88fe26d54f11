"""``qin-zoo embed``: item texts and images into vectors, vectors into the item table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import embed_learn
from qin_zoo.cli.table import print_lines, print_table

app = typer.Typer(help="Encode items, fuse, align and quantize their embeddings.", no_args_is_help=True)
app.command()(embed_learn.align)
app.command()(embed_learn.quantize)


@app.command()
def encode(
    folder: embed_learn.Folder,
    encoder: Annotated[
        str,
        typer.Option(
            help="tfidf-svd[:DIM], sentence-transformers:MODEL, clip:MODEL@PRETRAINED, efficientnet-lite0, "
            "precomputed:FILE[:COLUMN]."
        ),
    ] = "tfidf-svd",
    modality: Annotated[
        str | None,
        typer.Option(help="Name of the vectors in the store. Default: image with --images, else text.", metavar="NAME"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of text, of item_text, item_kg, item_feature or item_info.parquet; repeat it. Default: text.",
            metavar="COLUMN",
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images, named by item id.", metavar="FOLDER")] = None,
    original: Annotated[bool, typer.Option("--original-ids", help="Images are named as before the import.")] = False,
    source: Annotated[Path | None, typer.Option(help="Parquet file with item_id and columns.", metavar="FILE")] = None,
    batch_size: Annotated[int, typer.Option(help="Items per batch; after each the rows are safe.", min=1)] = 256,
    force: Annotated[bool, typer.Option("--force/--resume", help="Encode all again, or what is not done yet.")] = False,
    refit: embed_learn.Refit = False,
) -> None:
    """Encode the items of a dataset into DIR/item_embeddings.h5.

    A command that was stopped goes on where it stopped when it is given again.
    """
    from qin_zoo.embed.encode import encode_items
    from qin_zoo.embed.encoders import make_encoder
    from qin_zoo.embed.items import ImageInputs, count_items, original_ids, read_texts
    from qin_zoo.embed.precomputed import Precomputed
    from qin_zoo.errors import DataError

    if images is not None and (text or source is not None):
        raise DataError("Expected --images, or --text and --source, found both. Encode one after the other.")
    made = make_encoder(encoder, "text" if images is None else "image")
    if isinstance(made, Precomputed):
        if modality is None:
            raise DataError("Encoder precomputed: expected a name for the vectors. Give --modality NAME.")
        if images is not None or text or source is not None:
            raise DataError("Encoder precomputed: expected no --text, --source or --images. Leave them out.")
        inputs = made.inputs(count_items(folder))
    elif images is not None:
        inputs = ImageInputs(images, count_items(folder), original_ids(folder) if original else None)
    else:
        inputs = read_texts(folder, text or ["text"], source)
    name = modality or ("text" if images is None else "image")
    done = encode_items(folder, made, inputs, name, batch_size=batch_size, force=force, progress=True, refit=refit)

    stored = done.stored
    for note in done.notes:
        print_lines(f"Note: {note}")
    if done.started_at == stored.rows:
        print_lines(f"{name}: all {stored.rows:,} rows were encoded before; nothing to do.")
    else:
        print_lines(
            f"{name}: rows {done.started_at:,} to {stored.rows - 1:,} encoded with {stored.encoder} "
            f"({stored.version}), {stored.dim} numbers each, in {done.seconds:.1f} s; "
            f"{done.without_input:,} items without an input."
        )


@app.command()
def fuse(
    folder: embed_learn.Folder,
    strategy: Annotated[
        str, typer.Option(help="text_only, image_only, concat_then_pca or pca_then_concat.")
    ] = "pca_then_concat",
    text: Annotated[str, typer.Option(help="The text's name in the store.", metavar="NAME")] = "text",
    image: Annotated[str, typer.Option(help="The image's name in the store.", metavar="NAME")] = "image",
    dim: Annotated[int, typer.Option(help="Numbers per item.", min=1)] = 128,
    whiten: Annotated[bool, typer.Option(help="Scale each number to variance 1.")] = False,
    refit: embed_learn.Refit = False,
) -> None:
    """Fuse stored embeddings into DIR/item_info_STRATEGY.parquet, with a report in JSON beside it."""
    from qin_zoo.embed.strategies import fuse as fuse_embeddings

    report, rows = fuse_embeddings(folder, strategy, text=text, image=image, dim=dim, whiten=whiten, refit=refit), []
    for part in report.parts:
        counts = (f"{n:,}" for n in (part.dim_in, part.dim, part.items, part.left_out))
        rows.append((" + ".join(part.sources), *counts, f"{part.explained:.2%}"))
    header = ("PCA of", "numbers", "kept", "items fitted", "items left out", "explained variance")
    title = f"{report.column} by {report.strategy}{', whitened' if whiten else ''}"
    print_table(header, rows, numbers=range(1, 6), folded={0}, title=title)
    if any(part.reused for part in report.parts):
        print_lines("Fitted to the items of the import that this one extends, and used as it is (--refit: anew).")
    print_lines(f"{report.path} (report: {report.path.with_suffix('.json').name})")


@app.command("list")
def list_store(folder: embed_learn.Folder) -> None:
    """List the embeddings in DIR's store; their checksums are checked."""
    from qin_zoo.embed.store import EmbeddingStore

    store, rows, damaged = EmbeddingStore(folder), [], False
    for stored in store.entries():
        state = "finished" if stored.finished else "unfinished"
        if not store.intact(stored):
            state, damaged = "damaged", True
        done = f"{stored.rows_done:,} of {stored.rows:,}"
        rows.append((stored.name, stored.encoder, stored.version, done, str(stored.dim), state))
    header = ("name", "encoder", "version", "rows done", "size", "state")
    print_table(header, rows, numbers={3, 4}, folded={0, 1, 2}, title=str(store.path))
    if damaged:
        raise typer.Exit(1)
