"""``qin-zoo data import table``: one's own csv and parquet files, described first where guesses may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from qin_zoo.cli.table import print_lines, print_table
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.files import replace_text

if TYPE_CHECKING:
    from qin_zoo.data.importers import ImportSummary
    from qin_zoo.data.importers.before import Before
    from qin_zoo.data.importers.description import Description

_DESCRIPTIONS = (".yaml", ".yml")


def described(sources: Sequence[Path], before: Before | None, label: str | None) -> Description:
    """What the sources are taken for: as a yaml says, as the earlier ones were, or as they look.

    Args:
        sources: a description, a folder, or files.
        before: the import that is extended.
        label: the rule of the clicks, where it is given: then it is in no doubt.
    """
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


def write_description(sources: Sequence[Path], path: Path, force: bool) -> None:
    """Writes and prints what the sources look like."""
    from qin_zoo.data.importers.guess import describe

    description = describe(sources)
    if path.suffix.lower() not in _DESCRIPTIONS:
        raise DataError(f"--describe {path}: expected a file to write, NAME.yaml.")
    if path.exists() and not force:
        raise DataError(f"{path} is there already. Name another file, or --force to replace it.")
    files = {(description.folder / name).resolve() for entry in description.entries for name in entry.files}
    if path.resolve().parent != description.folder.resolve():
        description = description.moved(path.resolve().parent)
    replace_text(path, description.as_yaml())
    rows = []
    for entry in description.entries:
        file = Path(entry.files[0]).name
        rows += [(file, name, str(column), column.because) for name, column in entry.columns.items()]
        rows += [(file, "", f"ids: {entry.ids}", entry.because)] if entry.about == "vectors" else []
    _print_columns(rows, "why")
    print_lines(
        f"label: {description.label} ({description.because})",
        *(f"DECIDE: {doubt}" for doubt in description.doubts),
        *(f"Note: {note}" for note in description.notes),
        f"{len(files)} files described in {path}. Correct it, then: qin-zoo data import table {path} OUT",
    )


def _print_columns(rows: Sequence[tuple[str, str, str, str]], last: str) -> None:
    """What each column is taken for, file by file."""
    for file, columns in groupby(rows, key=lambda row: row[0]):
        print_table(("column", "taken as", last), [row[1:] for row in columns], folded=range(3), title=file)


def show(summary: ImportSummary) -> None:
    """What an import wrote."""
    _print_columns(summary.columns, "holds")
    rows = []
    for name, counts in summary.splits.items():
        cold = (f"{share:.1%}" for share in (counts.cold_users, counts.cold_items))
        numbers = (f"{counts.rows:,}", f"{counts.users:,}", f"{counts.click_rate:.4f}", f"{counts.history:g}")
        rows.append((name, *numbers, *cold))
    header = ("split", "rows", "users", "click rate", "median history", "new users", "new items")
    title = f"{summary.path}: {summary.users:,} users, {summary.items:,} items"
    print_table(header, rows, numbers=range(1, 7), title=title)
    print_lines(
        "New: share of the rows whose user, or item, has no training row, nor one of before (--only-new).",
        *(f"Note: {note}" for note in summary.notes),
        f"Dataset configuration: {summary.path / 'dataset_config.yaml'}",
        f"A model on it: qin-zoo run QIN --data {summary.path}",
        f"What to beat:  qin-zoo baseline {summary.path}",
    )
