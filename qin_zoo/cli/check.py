"""``qin-zoo data check``, ``stats`` and ``head``: looking at data before training on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_lines, print_table
from qin_zoo.errors import printable

if TYPE_CHECKING:
    from qin_zoo.data.check import Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with train, valid, test and item_info.", show_default=False)
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as a page, too.")] = None,
    fix: Annotated[Path | None, typer.Option(metavar="OUT", help="Write a mended copy; a new or empty folder.")] = None,
    tags: Annotated[
        int | None,
        typer.Option(help="Tag ids lie below; 0 allows any.", show_default="11740 in the challenge's layout", min=0),
    ] = None,
) -> None:
    """Check every file of a dataset against its layout and print all findings at once.

    The status is 1 if there is an error, also when --fix mended it in the copy; warnings alone leave it at 0.
    --fix leaves out rows with wrong values, contradictory labels, duplicates and users with extreme numbers of
    rows, and replaces broken embeddings by the mean; the test split keeps its rows.
    """
    from qin_zoo.data.check import check_folder

    report = check_folder(folder, tags=tags, progress=True)
    _print_report(report)
    if html is not None:
        from qin_zoo.data.check.page import write_page

        write_page(report, html)
        print_lines(f"page: {html}")
    if fix is not None:
        from qin_zoo.data.check.fix import fix_folder

        mended = fix_folder(report, fix, tags=tags, progress=True)
        print_lines(f"\nmended copy: {mended.path}")
        if mended.limit:
            print_lines(f"  users of at most {mended.limit:,} training rows were kept")
        changes = [f"  {file}: {what}: {count:,}" for file, what, count in mended.changes]
        print_lines(*(changes or ["  nothing had to be changed"]))
    if not report.ok:
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape

    from qin_zoo.data.check.page import split_figures, vector_figures, verdict

    console = Console(highlight=False)
    if report.statistics.splits:
        header = ["", *report.statistics.splits]
        rows = [[heading, *cells] for heading, cells in split_figures(report)]
        print_table(header, rows, numbers=range(1, len(header)), title=str(report.path))
    if report.statistics.items is not None:
        print_lines(f"items: {report.statistics.items:,}")
    for name, dim, *norms in vector_figures(report):
        words = ", ".join(f"{w} {n}" for w, n in zip(("least", "median", "mean", "greatest"), norms))
        print_lines(f"{name}: {dim} numbers; norms: {words}")
    print_lines("")
    for f in report.findings:
        place = f.file + (f", {f.column}" if f.column else "")
        count = f", {f.count:,} {'row' if f.count == 1 else 'rows'}" if f.count else ""
        console.print(f"[{_STYLES[f.severity]}]{f.severity}[/] [bold]{f.code}[/] {escape(printable(place + count))}")
        print_lines(f"  {f.message}.")
        if f.rows and f.severity != "note":
            rows = ", ".join(map(str, f.rows)) + (", …" if f.count > len(f.rows) else "")
            print_lines(f"  {'row' if f.count == 1 else 'rows'} {rows}")
        if f.severity != "note":
            print_lines(f"  {f.mend}")
    print_lines(verdict(report))


def stats(
    path: Annotated[
        Path, typer.Argument(metavar="FILE_OR_DIR", help="parquet, npz, npy, hdf5, a folder.", show_default=False)
    ],
    as_json: options.AsJson = False,
) -> None:
    """Print what every column of a file holds: type, nulls, range, mean, distinct values, list lengths."""
    from qin_zoo.data.check.look import abbreviated, column_stats, data_files

    found = {str(file): column_stats(file) for file in data_files(path)}
    if as_json:
        told = {file: [asdict(column) for column in columns] for file, columns in found.items()}
        print_json(told)
        return
    for file, columns in found.items():
        rows = []
        for column in columns:
            lengths = "" if column.lengths is None else "–".join(f"{n:,}" for n in sorted(set(column.lengths)))
            values = ["" if v is None else abbreviated(v) for v in (column.low, column.high, column.mean)]
            distinct = "" if column.distinct is None else f"{column.distinct:,}"
            nulls = f"{column.nulls:,}" if column.nulls else ""
            kind = column.type.replace("list<element: ", "list<") + (f" × {lengths}" if lengths else "")
            rows.append([column.name, kind, nulls, "–".join(values[:2]) if values[0] else "", values[2], distinct])
        title = f"{file}: {max((c.rows for c in columns), default=0):,} rows"
        header = ["column", "type × length", "nulls", "least–greatest", "mean", "distinct"]
        print_table(header, rows, numbers={2, 4, 5}, folded={0, 1, 3}, title=title)


def head(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="parquet, npz, npy or hdf5.", show_default=False)],
    rows: Annotated[int, typer.Option("-n", "--rows", help="Rows to print.", min=1, max=10_000)] = 5,
) -> None:
    """Print the first rows of a file; of long lists the first and last entries."""
    from qin_zoo.data.check.look import abbreviated, first_rows

    names, values, total = first_rows(file, rows)
    cells = [["" if value is None else abbreviated(value) for value in row] for row in values]
    print_table(names, cells, folded=range(len(names)), title=f"{file}: {len(values):,} of {total:,} rows")
