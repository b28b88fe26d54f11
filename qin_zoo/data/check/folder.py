"""Checking a folder: every file against the layout, all findings at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qin_zoo.data import SPLITS
from qin_zoo.data.check.across import check_rows, check_splits
from qin_zoo.data.check.findings import CODES, Finding, Findings
from qin_zoo.data.check.items import TAG_VOCABULARY, USER_FILE, Items, read_items, read_users
from qin_zoo.data.check.splits import Rules, Split, read_split
from qin_zoo.data.check.statistics import Statistics, statistics_of
from qin_zoo.data.check.tables import Lists, ParquetTable
from qin_zoo.data.item_files import ITEM_FILE
from qin_zoo.data.item_layout import PER_ROW, PER_USER, Layout
from qin_zoo.errors import DataError
from qin_zoo.files import found_in
from qin_zoo.progress import Progress


@dataclass
class Report:
    """What a check says.

    Attributes:
        path: the folder.
        findings: the worst first.
        statistics: the numbers a person wants to know.
        layout: where histories stand.
        splits, items, users: what was read: the splits, the item table and the users' histories.
    """

    path: Path
    findings: list[Finding]
    statistics: Statistics
    layout: Layout
    splits: dict[str, Split] = field(repr=False)
    items: Items | None = field(repr=False)
    users: Lists | None = field(repr=False)

    @property
    def per_user(self) -> bool:
        """Whether histories stand once per user."""
        return self.layout is PER_USER

    @property
    def errors(self) -> list[Finding]:
        """The findings because of which training fails or is wrong."""
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that somebody should look at."""
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors


def check_folder(folder: str | Path, tags: int | None = None, progress: bool = False) -> Report:
    """Checks every file of a dataset in the challenge's layout or in the per-user one.

    A folder with user_info.parquet is taken for the per-user layout. Files are read in one pass each, a few
    thousand rows at a time; of each row some 40 bytes are kept to compare it with others.

    Args:
        folder: train, valid, test and item_info, each .parquet.
        tags: tag ids lie below it; 0 allows any. Default: the challenge's number in its layout, else any.
        progress: whether to show a bar on a terminal.

    Raises:
        DataError: no such folder, or none of the files in it.
    """
    folder = open_folder(folder)
    layout = PER_USER if (folder / USER_FILE).exists() else PER_ROW
    tags = tag_limit(tags, layout)
    findings = Findings()
    files = [f"{name}.parquet" for name in SPLITS] + [ITEM_FILE] + ([USER_FILE] if layout is PER_USER else [])
    tables: dict[str, ParquetTable] = {}
    for file in files:
        if not (folder / file).exists():
            severity = "warning" if file == "test.parquet" else None
            findings.add("missing-file", file, None, f"expected {file} in {folder}, found none", severity=severity)
            continue
        with _unreadable(file, findings):
            tables[file] = ParquetTable(folder / file)
    splits: dict[str, Split] = {}
    items = users = None
    total = sum(table.num_rows for table in tables.values())
    with Progress(total=total, desc="check", shown=progress, unit=" rows", unit_scale=True) as bar:
        if ITEM_FILE in tables:
            with _unreadable(ITEM_FILE, findings):
                items = read_items(tables[ITEM_FILE], layout, tags, findings, bar.update)
        count = items.rows if items and items.rows else None
        if USER_FILE in tables:
            with _unreadable(USER_FILE, findings):
                users = read_users(tables[USER_FILE], count, findings, bar.update)
        for name in SPLITS:
            file = f"{name}.parquet"
            if file in tables:
                with _unreadable(file, findings):
                    split = read_split(tables[file], name, layout, Rules(count, users), findings, bar.update)
                    splits |= {name: split} if split else {}
    for split in splits.values():
        check_rows(split, findings)
    check_splits(splits, findings)
    return Report(folder, findings.sorted(), statistics_of(splits, items), layout, splits, items, users)


def tag_limit(tags: int | None, layout: Layout) -> int:
    """What tag ids lie below; 0: any."""
    if tags is not None:
        return tags
    return TAG_VOCABULARY if layout is PER_ROW else 0


def open_folder(folder: str | Path) -> Path:
    """The folder, or DataError where it holds no dataset."""
    folder = Path(folder).expanduser()
    expected = "expected a folder with train.parquet, valid.parquet, test.parquet and item_info.parquet"
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; {expected}. Check the path.")
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {expected}, found a file. Name its folder, or look at it with `qin-zoo data stats {folder}`."
        )
    if not any((folder / name).exists() for name in (*(f"{split}.parquet" for split in SPLITS), ITEM_FILE)):
        raise DataError(
            f"{folder}: {expected}, found {found_in(folder)}. Name the folder that holds these files; `qin-zoo data "
            "sample DIR` makes one."
        )
    return folder.resolve()


@contextmanager
def _unreadable(file: str, findings: Findings) -> Iterator[None]:
    """A file that cannot be read is a finding; the other files are still checked."""
    try:
        yield
    except DataError as error:
        findings.add("unreadable-file", file, None, str(error).removesuffix(CODES["unreadable-file"][1]).strip())
