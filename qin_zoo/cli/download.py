"""`qin-zoo data download`: fetch a public dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def download(
    dataset: Annotated[str, typer.Argument(help="Name, such as MicroLens_1M_x1.", show_default=False)],
    out: Annotated[Path | None, typer.Argument(help="Folder; default: data/DATASET.", show_default=False)] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Also the raw titles, embeddings and sequences.")] = False,
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Fetch from this folder, not its own.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Files fetched at a time.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what does not match its checksum.")] = False,
) -> None:
    """Download a public dataset; run it again to go on after an interruption.

    Files get their names only once they are whole and checked. Their checksums are kept in checksums.json; a file
    that matches it is not fetched again.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from qin_zoo.data.download import download_dataset

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    tasks = {}

    def progress(name: str, done: int, total: int | None) -> None:
        if name not in tasks:  # each file is one thread's
            tasks[name] = bars.add_task(name, total=None)
        bars.update(tasks[name], completed=done, total=total)

    note = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    try:
        with bars:
            results = download_dataset(
                dataset, out, raw=raw, mirror=mirror, jobs=jobs, force=force, progress=progress, note=note
            )
    except KeyboardInterrupt:
        typer.echo("Interrupted. What has been fetched is kept (.part); the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    for file in results:
        unsure = "" if file.checked else ", not compared with the server"
        typer.echo(f"{file.path}: {file.state}{unsure}, {file.size:,} bytes, SHA-256 {file.sha256}")
    if raw:
        typer.echo(f"Levels of likes and views of every item: qin-zoo data enrich {results[0].path.parent}")
