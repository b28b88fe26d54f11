"""What one's own files are taken for: a small yaml that the command writes first and the person corrects.

label: click                      # a column of 0 and 1, a rule such as rating>=4, or implicit: all rows are clicks
files:
- file: interactions.csv
  about: interactions             # interactions, items, users, vectors
  columns:
    customer: user
    sku: item
    at: time (seconds)
    click: label
    device: category
- file: image.npy
  about: vectors
  ids: image_ids.txt              # or items.csv: row i is the item of its row i
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qin_zoo.data.importers.own_files import OwnFile
from qin_zoo.data.importers.units import check_unit
from qin_zoo.errors import DataError, printable, suggest

LEFT_OUT = "leave out"
ROLES = {
    "interactions": ("user", "item", "time", "label", "category", "number", LEFT_OUT),
    "items": ("item", "title", "text", "category", "number", "list", "vector", LEFT_OUT),
    "users": ("user", "category", "number", LEFT_OUT),
}
ABOUT = (*ROLES, "vectors")
_ONCE = ("user", "item", "time", "title")
_NEEDED = ("user", "item")
_ROLE = re.compile(r"\s*([a-z ]+?)\s*(?:\((.+)\))?\s*", re.DOTALL)
_HOW = ("time", "list", "number", "vector")  # roles that say more in brackets


@dataclass(frozen=True)
class Column:
    """What a column is taken for.

    Attributes:
        role: one of :data:`ROLES`.
        how: of a time its unit; of a list or a vector in text ``json``, or what stands between its entries; of a number
            ``decimal comma`` (1.234,5), ``thousands comma`` (1,234.5), or nothing.
        because: why it was guessed.
    """

    role: str
    how: str = ""
    because: str = ""

    def __str__(self) -> str:
        return f"{self.role} ({self.how})" if self.how else self.role


@dataclass(frozen=True)
class Entry:
    """A file, or several with the same columns.

    Attributes:
        files: their names, relative to the description's folder.
        about: one of :data:`ABOUT`.
        columns: name -> what it is taken for.
        ids: of vectors, the file (or in HDF5 the dataset) of their ids.
        vectors: of HDF5, the dataset of the vectors.
        because: why it was taken for that.
    """

    files: tuple[str, ...]
    about: str
    columns: dict[str, Column] = field(default_factory=dict)
    ids: str = ""
    vectors: str = ""
    because: str = ""

    def of(self, role: str) -> str | None:
        """The first column of a role."""
        return next(iter(self.all_of(role)), None)

    def all_of(self, role: str) -> list[str]:
        """The columns of a role."""
        return [name for name, column in self.columns.items() if column.role == role]

    @property
    def used(self) -> list[str]:
        """The columns that are not left out."""
        return [name for name, column in self.columns.items() if column.role != LEFT_OUT]


@dataclass(frozen=True)
class Description:
    """What files are taken for.

    Attributes:
        folder: what their names are relative to.
        entries: one for each file, or for several alike.
        label: which rows are clicks; see ``labels.py``.
        because: why it was guessed.
        doubts: what nobody but the person can say.
        notes: what was left out.
    """

    folder: Path
    entries: tuple[Entry, ...]
    label: str
    because: str = ""
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def about(self, what: str) -> list[Entry]:
        """The entries of files about something."""
        return [entry for entry in self.entries if entry.about == what]

    def moved(self, folder: Path) -> Description:
        """The same with names relative to another folder."""

        def there(name: str) -> str:
            return os.path.relpath(self.folder / name, folder)

        entries = [
            replace(e, files=tuple(map(there, e.files)), ids=e.ids if e.vectors or not e.ids else there(e.ids))
            for e in self.entries
        ]
        return replace(self, folder=folder, entries=tuple(entries))

    def as_json(self) -> dict[str, Any]:
        """Plain values, which :func:`read_description` takes."""
        files = [
            {"file": list(entry.files), "about": entry.about, "ids": entry.ids, "vectors": entry.vectors}
            | {"columns": {name: str(column) for name, column in entry.columns.items()}}
            for entry in self.entries
        ]
        return {"label": self.label, "files": [{key: v for key, v in file.items() if v} for file in files]}

    def as_yaml(self) -> str:
        """The same for people, with what it was guessed from."""
        lines = [
            "# What `qin-zoo data import table` takes these files for. Correct it, then import it:",
            "#   qin-zoo data import table THIS_FILE OUT",
            *(f"# DECIDE: {printable(doubt)}" for doubt in self.doubts),
            *(f"# {printable(note)}" for note in self.notes),
            _line("label", self.label, self.because or "a column of 0 and 1, a rule (rating>=4), or implicit"),
            "files:",
        ]
        for entry in self.entries:
            names = entry.files[0] if len(entry.files) == 1 else list(entry.files)
            lines += [f"- {_line('file', names)}", f"  {_line('about', entry.about, entry.because)}"]
            lines += [f"  {_line(key, getattr(entry, key))}" for key in ("ids", "vectors") if getattr(entry, key)]
            if entry.columns:
                lines += [f"  # possible: {', '.join(ROLES[entry.about])}", "  columns:"]
            lines += [f"    {_line(name, str(column), column.because)}" for name, column in entry.columns.items()]
        return "\n".join(lines) + "\n"


def read_description(content: object, where: str, folder: Path) -> Description:
    """A description from what a yaml file holds.

    Raises:
        DataError: anything but what the module's docstring shows.
    """
    top = _mapping(content, where, ("label", "files"))
    label = top.get("label")
    if not isinstance(label, str):
        raise DataError(f"{where}, label: expected a column, a rule such as rating>=4, or implicit, found {label!r}.")
    files = top.get("files")
    if not isinstance(files, list) or not files:
        raise DataError(f"{where}, files: expected a list of files, found {files!r:.80}.")
    entries = tuple(_entry(part, f"{where}, files[{n}]") for n, part in enumerate(files, 1))
    files = Counter(name for entry in entries for name in entry.files)
    if twice := [name for name, count in files.items() if count > 1]:
        raise DataError(f"{where}: '{twice[0]}' is there twice. Leave one of them out.")
    description = Description(folder, entries, label)
    if not description.about("interactions"):
        raise DataError(f"{where}: expected a file about interactions, found none. Say which it is.")
    return description


def for_files(
    description: Description, folder: Path, files: Sequence[Path], tables: Mapping[Path, OwnFile]
) -> Description:
    """The description of other files with the columns of the described ones.

    Args:
        description: of the earlier files.
        folder, files: the new ones, csv, parquet, npy or HDF5.
        tables: those of them that are tables.

    Raises:
        DataError: a file that has the columns of none.
    """
    entries: list[Entry] = []
    told = {entry.ids for entry in description.about("vectors")}
    for path in files:
        name = path.name
        if path not in tables:
            fits = [e for e in description.about("vectors") if name in e.files]
        else:
            names = set(tables[path].names)
            fits = [e for e in description.entries if e.about in ROLES and names >= set(e.used)]
            fits.sort(key=lambda e: (name not in e.files, -len(e.used)))
        if not fits and name in told:
            continue  # ids of vectors, and nothing else
        if not fits:
            known = "; ".join(f"{e.about}: {', '.join(e.used or e.files)}" for e in description.entries)
            found = ", ".join(tables[path].names) if path in tables else "another name"
            raise DataError(
                f"{path}: expected the columns, or the name, of one of the earlier files ({known}), found "
                f"{found:.200}. Rename them, or say what they are (--describe NEW.yaml), and import NEW.yaml."
            )
        entries.append(replace(fits[0], files=(name,)))
    return replace(description, folder=folder, entries=tuple(entries))


def _entry(content: object, where: str) -> Entry:
    part = _mapping(content, where, ("file", "about", "columns", "ids", "vectors"))
    names = part.get("file")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}, file: expected a name or a list of names, found {names!r:.80}.")
    about, where = part.get("about"), f"{where} ({names[0]})"
    if about not in ABOUT:
        raise DataError(f"{where}, about: expected one of {', '.join(ABOUT)}, found {about!r}.{suggest(about, ABOUT)}")
    ids, vectors = (part.get(key, "") for key in ("ids", "vectors"))
    if not isinstance(ids, str) or not isinstance(vectors, str) or (about == "vectors") != bool(ids):
        raise DataError(f"{where}, ids: expected, for vectors alone, the file or dataset of their ids, found {ids!r}.")
    if about == "vectors":
        return Entry(tuple(names), about, {}, ids, vectors)
    columns = _mapping(part.get("columns", {}), f"{where}, columns", None)
    found = {str(name): _column(role, about, f"{where}, column '{name}'") for name, role in columns.items()}
    entry = Entry(tuple(names), about, found)
    for role in _ONCE:
        several = entry.all_of(role)
        if len(several) > 1 or (not several and role in _NEEDED and role in ROLES[about]):
            raise DataError(
                f"{where}: expected one column as {role}, found {', '.join(several) or 'none'}. Say which it is, for "
                f"example 'id: {role}', and leave out the others."
            )
    return entry


def _column(text: object, about: str, where: str) -> Column:
    match = _ROLE.fullmatch(text) if isinstance(text, str) else None
    roles = ROLES[about]
    if not match or match[1] not in roles:
        raise DataError(f"{where}: expected one of {', '.join(roles)}, found {text!r}.{suggest(text, roles)}")
    role, how = match[1], match[2] or ""
    if how and role not in _HOW:
        raise DataError(f"{where}: a {role} has nothing in brackets, found '({how})'. Leave it out.")
    if role == "time":
        check_unit(how, where)
    if role == "number" and how not in ("", "decimal comma", "thousands comma"):
        raise DataError(f"{where}: expected number, number (decimal comma) or (thousands comma), found '{text}'.")
    return Column(role, how)


def _mapping(content: object, where: str, known: Sequence[str] | None) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        raise DataError(f"{where}: expected keys and values, found {content!r:.80}.")
    for key in content:
        if known is not None and key not in known:
            raise DataError(f"{where}: unknown key {key!r}.{suggest(key, known)} Known: {', '.join(known)}.")
    return content


def _line(key: str, value: object, comment: str = "") -> str:
    import yaml

    flow = isinstance(value, list)
    text = yaml.safe_dump({key: value}, default_flow_style=flow, allow_unicode=True, width=100_000).rstrip("\n")
    text = text[1:-1] if flow else text
    if "\n" in text:  # a long name, or one of several lines, which yaml writes as one
        text = f"{json.dumps(key)}: {json.dumps(value)}"
    return f"{text}  # {printable(' '.join(comment.split()))}" if comment else text
