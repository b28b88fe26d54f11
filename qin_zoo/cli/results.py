"""`qin-zoo results` and `qin-zoo leaderboard`: runs collected, merged, and set side by side."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_table
from qin_zoo.errors import QinZooError, printable, suggest

if TYPE_CHECKING:
    from qin_zoo.results.lines import Board

app = typer.Typer(help="Collect the results of runs, of this machine and of others.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--store", help="Folder of the results.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Only this dataset; may be repeated.")]
_STORE = Path("results")


@app.command("add")
def add(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Runs by name, short id (#4e15) or record, folders that hold some, or other stores.",
            show_default=False,
        ),
    ],
    store: Folder = _STORE,
) -> None:
    """Add the results of runs. What is there already is left alone; two stores merge by adding one to the other."""
    from qin_zoo.results.runs import resolve
    from qin_zoo.results.store import Store, find_results

    results = Store(store)
    named = {path: [path] if path.exists() or path.suffix == ".json" else None for path in paths}
    files = [file for path, there in named.items() for file in there or (run.file for run in resolve(str(path)))]
    entries = list(find_results(files))  # all of them are read before anything is written
    if not entries:
        raise QinZooError(f"No records of runs in {', '.join(map(str, paths))}.")
    said = Counter(results.add(entry) for entry in entries)
    told = {"new": "new", "completed": "completed with tests", "known": "known already"}
    typer.echo(f"{store}: " + ", ".join(f"{said[key]} {text}" for key, text in told.items() if said[key]))


@app.command("list")
def list_results(store: Folder = _STORE, dataset: Datasets = None, as_json: options.AsJson = False) -> None:
    """List the runs in a store."""
    boards = _boards(store, dataset)
    entries = [(board.name, entry) for board in boards for line in board.lines for entry in line.entries]
    if as_json:
        print_json([{"digest": e.digest, **e.model_dump(mode="json", exclude={"draws", "params"})} for _, e in entries])
        return
    names = list(dict.fromkeys(metric for board in boards for metric in board.metrics))
    rows = [
        [
            *(board, e.experiment, e.variation, str(e.seed), e.split),
            *(f"{e.values[m]:.6f}" if m in e.values else "" for m in names),
            *(f"{e.seconds:,.0f}", e.digest),
        ]
        for board, e in entries
    ]
    header = ["dataset", "experiment", "variation", "seed", "split", *names, "training s", "digest"]
    _print_wide(header, rows, f"{len(rows)} runs in {store}")


def leaderboard(
    store: Folder = _STORE,
    dataset: Datasets = None,
    html: Annotated[Path | None, typer.Option(help="Write one page, which needs nothing else.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, with pictures beside it.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row for each run.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the pages.")] = "Leaderboard",
) -> None:
    """Show side by side what was scored on the same rows: means and deviations over seeds, costs, significance."""
    from qin_zoo.results.render import write_csv, write_html, write_markdown

    boards = _boards(store, dataset)
    show_boards(boards)
    page, text = partial(write_html, title=title), partial(write_markdown, title=title)
    for file, write in ((html, page), (markdown, text), (csv, write_csv)):
        if file is not None:
            require_folder(file)
            write(boards, file)
            typer.echo(f"written: {file}")


def show_boards(boards: list[Board]) -> None:
    """Prints the tables of boards."""
    from qin_zoo.results.tables import tables

    for board in boards:
        for table in tables(board):
            rows = [[cell.text for cell in row] for row in table.rows]
            _print_wide(table.header, rows, f"{board.name}: {table.title}")
            print(printable(f"{table.note}\n"))


def _print_wide(header: list[str], rows: list[list[str]], title: str) -> None:
    print_table(header, rows, numbers=range(1, len(header)), title=title, width=400)


def require_folder(file: Path) -> None:
    """Raises QinZooError unless the folder of a file to write is there."""
    if not file.parent.is_dir():
        raise QinZooError(f"{file}: there is no folder {file.parent}. Make it, or name another file.")
    if file.is_dir():
        raise QinZooError(f"{file} is a folder; expected the name of a file.")


def _boards(store: Path, datasets: list[str] | None) -> list[Board]:
    from qin_zoo.results.lines import boards
    from qin_zoo.results.store import Store

    entries = Store(store).entries()
    if not entries:
        raise QinZooError(f"{store} holds no results. Add some: qin-zoo results add RUN.json --store {store}")
    found = boards(entries)
    known = {name for board in found for line in board.lines for name in (board.name, line.first.dataset_id)}
    for name in datasets or []:
        if name not in known:
            hint = suggest(name, known)
            raise QinZooError(f"{store} has no results on '{name}'.{hint} There are: {', '.join(sorted(known))}.")
    wanted = set(datasets or known)
    return [b for b in found if wanted & {b.name, *(line.first.dataset_id for line in b.lines)}]
