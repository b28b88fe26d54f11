"""``qin-zoo data import table``: one's own csv and parquet files, described first where guesses may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qin_zoo.errors import ConfigError, DataError
from qin_zoo.files import replace_text

_DESCRIPTIONS = (".yaml", ".yml")


def table(paths: Sequence[Path], describe: Path | None, given: set[str], options: dict) -> None:
    """Describes or imports.

    Args:
        paths: sources, and behind them the folder to write, unless ``describe`` is given.
        describe: the description to write.
        given: names of the options that were given.
        options: all of them.
    """
    from qin_zoo.data.importers import ImportOptions, import_table
    from qin_zoo.data.importers.before import Before
    from qin_zoo.data.importers.guess import describe as guess

    if describe is not None:
        _describe(guess(paths), describe, options["force"])
        return
    if len(paths) < 2:
        raise DataError(
            f"{paths[0]}: expected files and the folder to write, found one path. Give RAW OUT, or --describe."
        )
    *sources, out = paths
    chosen = ImportOptions(**options)
    before = Before.open(chosen.extend) if chosen.extend else None
    description = _description(sources, before, chosen.label)
    if before is not None:
        chosen = before.options(given, chosen)
    show(import_table(description, out, chosen, before))


def _description(sources: Sequence[Path], before, label: str | None):
    """What the sources are taken for: as a yaml says, as the earlier ones were, or as they look."""
    from qin_zoo.config.safe_yaml import read_yaml
    from qin_zoo.data.importers.description import read_description
    from qin_zoo.data.importers.guess import describe, extension

    if len(sources) == 1 and sources[0].suffix.lower() in _DESCRIPTIONS:
        return read_description(read_yaml(sources[0]).data, str(sources[0]), sources[0].parent)
    if before is not None:
        content = before.summary.get("description")
        if content is None:
            raise DataError(
                f"--extend {before.path}: it was no import of a table, so nothing says what the columns of "
                f"{sources[0]} are. Extend it with the format it was imported from: "
                f"{before.summary.get('format', 'unknown')}."
            )
        return extension(sources, read_description(content, f"{before.path}, description", before.path))
    description = describe(sources)
    doubts = [doubt for doubt in description.doubts if label is None or not doubt.startswith("label:")]
    if doubts:
        named = " ".join(str(path) for path in sources)
        raise ConfigError(
            f"{named}: what the files hold has to be decided:\n"
            + "".join(f"- {doubt}\n" for doubt in doubts)
            + f"Write down what they are taken for (qin-zoo data import table {named} --describe table.yaml), correct "
            "it, and import table.yaml."
        )
    return description


def _describe(description, path: Path, force: bool) -> None:
    from rich.console import Console

    if path.suffix.lower() not in _DESCRIPTIONS:
        raise DataError(f"--describe {path}: expected a file to write, NAME.yaml.")
    if path.exists() and not force:
        raise DataError(f"{path} is there already. Name another file, or --force to replace it.")
    files = [str((description.folder / name).resolve()) for entry in description.entries for name in entry.files]
    if path.resolve().parent != description.folder.resolve():
        description = description.moved(path.resolve().parent)
    replace_text(path, description.as_yaml())
    rows = [
        (Path(entry.files[0]).name, name, str(column), column.because)
        for entry in description.entries
        for name, column in entry.columns.items()
    ]
    rows += [(Path(e.files[0]).name, "", f"ids: {e.ids}", e.because) for e in description.about("vectors")]
    console = Console(soft_wrap=True, markup=False, highlight=False)
    _columns(rows, "why")
    console.print(f"label: {description.label} ({description.because})")
    for doubt in description.doubts:
        console.print(f"DECIDE: {doubt}")
    for note in description.notes:
        console.print(f"Note: {note}")
    console.print(f"{len(files)} files described in {path}. Correct it, then: qin-zoo data import table {path} OUT")


def _columns(rows: Sequence[tuple[str, str, str, str]], last: str) -> None:
    """What each column is taken for, in 80 columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(width=80)
    for heading in ("column", "taken as", last):
        shown.add_column(heading, overflow="fold")
    file = ""
    for name, column, role, found in rows:
        if name != file:
            shown.add_row(Text(name, style="bold"), end_section=False)
            file = name
        shown.add_row(*(Text(cell) for cell in (f"  {column}", role, found)))
    Console(width=80, highlight=False).print(shown)


def show(summary) -> None:
    """What an import wrote."""
    from rich.console import Console
    from rich.table import Table

    if summary.columns:
        _columns(summary.columns, "holds")
    table = Table(width=80)
    table.add_column("split")
    for heading in ("rows", "users", "click rate", "median history", "new users", "new items"):
        table.add_column(heading, justify="right")
    for name, counts in summary.splits.items():
        cold = (f"{share:.1%}" for share in (counts.cold_users, counts.cold_items))
        row = (f"{counts.rows:,}", f"{counts.users:,}", f"{counts.click_rate:.4f}", f"{counts.history:g}", *cold)
        table.add_row(name, *row)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{summary.path}: {summary.users:,} users, {summary.items:,} items")
    Console(width=80, highlight=False).print(table)
    console.print("New: share of the rows whose user, or item, has no training row, nor one of before (--only-new).")
    for note in summary.notes:
        console.print(f"Note: {note}")
    console.print(f"Dataset configuration: {summary.path / 'dataset_config.yaml'}")
    console.print(f"A model on it: qin-zoo run QIN --data {summary.path}")
    console.print(f"What to beat:  qin-zoo baseline {summary.path}")
