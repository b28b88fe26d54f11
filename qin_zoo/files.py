"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qin_zoo.errors import QinZooError, first_line


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write to the path it yields; on success that file takes the place of ``path``, otherwise nothing changes.

    Raises:
        QinZooError: the folder cannot be written or the disk is full; what stood at ``path`` still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns a failed write into a RuntimeError of its own
        failed = error if isinstance(error, OSError) else error.__context__
        cause = failed.strerror if isinstance(failed, OSError) else first_line(error)
        raise QinZooError(
            f"Could not write {path}: {cause}. What was there before is unchanged; free space or choose a "
            "folder you may write to (model_root)."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for whatever is none, also for one that is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file; OSError where it cannot be read, ValueError where it holds none."""
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise OSError(None, "it is no file", str(path))
    return parse_json(path.read_text(encoding="utf-8"))


def discard_leftovers(folder: Path) -> None:
    """Deletes what writers of :func:`replace_file` that were killed have left in a folder."""
    for temporary in Path(folder).glob(".*.tmp"):
        owner = temporary.name.split(".")[-2]
        if owner.isdecimal() and not _is_running(int(owner)):
            temporary.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Makes a rename last through a power failure; folders cannot be opened everywhere."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
