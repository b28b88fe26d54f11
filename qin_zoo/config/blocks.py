"""The files of a configuration folder as the named blocks they hold; what a name may be; values with their places."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from qin_zoo.config.safe_yaml import read_yaml
from qin_zoo.errors import ConfigError

BASE = "Base"  # the block whose values hold for all experiments


@dataclass(frozen=True)
class Block:
    """One mapping of a configuration file's top level.

    Attributes:
        name: its key: an experiment id, a dataset id or ``Base``.
        file: the file it stands in.
        values: what it holds.
        lines: key -> line, from 1; ``""`` is the line of the block itself.
    """

    name: str
    file: Path
    values: dict[str, object]
    lines: dict[object, int] = field(repr=False)

    def origin(self) -> dict[str, str]:
        """Where each key was written; keys that came through ``<<`` count as written with the block."""
        of = f", {BASE}" if self.name == BASE else ""
        return {key: f"{self.file}, line {self.lines.get(key, self.lines.get('', 1))}{of}" for key in self.values}


class ExperimentParams(dict):
    """Parameters of an experiment; a plain dict that also knows where each value was written.

    Attributes:
        origin: key -> ``"FILE, line N"``, with ``", Base"`` where it is the block for all, or ``"command line"``.
        former: key -> its old name, where it was written under one; see :mod:`qin_zoo.config.compat`.
        notes: lines that say what was mapped, left out or is unknown to the model; known once it is checked.
    """

    def __init__(self, *args, origin: dict[str, str] | None = None, former=None, notes: Iterable[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.origin: dict[str, str] = dict(origin or {})
        self.former: dict[str, str] = dict(former or {})
        self.notes = tuple(notes)

    def copy(self) -> ExperimentParams:
        return ExperimentParams(self, origin=self.origin, former=self.former, notes=self.notes)


def list_folder(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files.

    Raises:
        ConfigError: there is no such folder, or it may not be read.
    """
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError as error:
        raise ConfigError(f"The folder {folder} does not exist.") from error
    except NotADirectoryError as error:
        raise ConfigError(f"{folder} is a file; name the folder it lies in.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"Could not read the folder {folder}: {reason}.") from error


def yaml_files(folder: Path) -> list[Path]:
    """Its ``*.yaml``, sorted; none where there is no such folder."""
    # os.path, unlike pathlib, takes a folder that may not be looked at for none
    return [file for file in list_folder(folder) if file.suffix == ".yaml"] if os.path.isdir(folder) else []


def config_files(folder: Path, stem: str) -> list[Path]:
    """``stem.yaml`` or, where there is none, ``stem/*.yaml``, as FuxiCTR looks for them."""
    single = folder / f"{stem}.yaml"
    return [single] if single in list_folder(folder) else yaml_files(folder / stem)


def read_blocks(file: Path) -> list[Block]:
    """The blocks of a configuration file, in its order; none of an empty file.

    Raises:
        ConfigError: the file cannot be read, or is not a mapping of ids to mappings.
    """
    document = read_yaml(file)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected blocks of the form 'ID: {{key: value}}', got {type(data).__name__}.")
    blocks = []
    for name, values in data.items():
        lines = document.lines.get(name, {})
        place = f"{file}, line {lines.get('', 1)}"
        if not isinstance(name, str):
            raise ConfigError(f"{place}: the id {name!r} is not text but {type(name).__name__}; put it in quotes.")
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError(f"{place}: block '{name}' must be a mapping of keys to values, got {values!r:.80}.")
        for key in values:
            if not isinstance(key, str):
                raise ConfigError(f"{place}: block '{name}' has the key {key!r}, which is no text; put it in quotes.")
        blocks.append(Block(name, file, values, lines))
    return blocks


def only_block(name: str, blocks: list[Block], what: str) -> Block | None:
    """The one block of that name; equal repetitions in several files count as one.

    Raises:
        ConfigError: the blocks differ. FuxiCTR takes the one its file system lists first.
    """
    if any(block.values != blocks[0].values for block in blocks):
        files = ", ".join(str(block.file) for block in blocks)
        raise ConfigError(f"The {what} '{name}' is defined differently in {files}. Keep one of them.")
    return blocks[0] if blocks else None


def check_id(value: object, what: str, where: str = "") -> None:
    """Checks an id, which becomes a file name: ``<model_root>/<dataset_id>/<expid>.model``.

    Raises:
        ConfigError: it is not text, empty, too long, holds a character file names cannot have on some system,
            would hide the file, or would lead to another folder.
    """
    problem = None
    if not isinstance(value, str):
        problem = "must be text; put it in quotes"
    elif not value.strip() or value != value.strip() or len(value.encode("utf-8", "replace")) > 200:
        problem = "must have 1 to 200 bytes and no space at its ends"
    elif any(c in '/\\<>:"|?*' or not c.isprintable() for c in value) or ".." in value or value.startswith("."):
        problem = "becomes a file name: no path ('/', '\\', '..'), none of <>:\"|?* and no dot at its start are allowed"
    if problem:
        raise ConfigError(f"{what} {value!r:.80}{f' ({where})' if where else ''} {problem}.")
