"""Where converted columns are kept, and how nothing half-written is ever found there.

One folder per data file, ``<root>/<file name>-<key>/``, with ``source.json`` and one folder per column. The
key follows what the file system knows of the file (size, times, inode), so a changed file is converted anew, and so is
one whose converted columns changed. ``root`` is, in this
order, the ``cache_dir`` of the caller, ``$QIN_ZOO_CACHE``, ``.qin_zoo_cache`` beside the data, and
``~/.cache/qin_zoo`` where the data's folder cannot be written to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from qin_zoo import files
from qin_zoo.errors import DataError
from qin_zoo.files import is_running

FORMAT = 2  # raise it whenever what is stored changes: older entries are then made anew
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_ABANDONED = 24 * 3600  # seconds after which another machine's temporary folder counts as left behind


def source_key(path: Path) -> str:
    """16 hexadecimal digits that change whenever the file or the format does."""
    return hashlib.blake2b(f"{FORMAT}:{stamp(path)}".encode(), digest_size=8).hexdigest()


def stamp(path: Path) -> str:
    """Another text whenever a file is written to or replaced: who restores its time changes that of its inode."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"


def content_hash(path: Path, stop: threading.Event | None = None) -> str:
    """blake2b-128 of the file's bytes; ``""`` when ``stop`` is set meanwhile; DataError where it cannot be read."""
    try:
        return files.file_digest(path, hashlib.blake2b(digest_size=16), stop)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check the file and its disk.") from None


def entries(path: Path, cache_dir: str | Path | None = None) -> list[Path]:
    """The folders that may hold the converted columns of ``path``, best first; they need not exist."""
    name = f"{path.name}-{source_key(path)}"
    return [root / name for root in roots(path.parent, path.parent / ".qin_zoo_cache", cache_dir)]


def roots(folder: Path, beside: Path, cache_dir: str | Path | None = None) -> list[Path]:
    """Where what is made of the data of ``folder`` may be kept, best first; ``beside`` unless something else is set."""
    # Files of one name from different folders must not meet in a shared root.
    apart = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
    if cache_dir is not None:
        return [Path(cache_dir) / apart]
    chosen = os.environ.get("QIN_ZOO_CACHE")
    return [Path(chosen) / apart] if chosen else [beside, Path("~/.cache/qin_zoo").expanduser() / apart]


@contextlib.contextmanager
def workspace(candidates: list[Path]) -> Iterator[tuple[Path, Path]]:
    """A temporary folder beside the first entry that can be written to; gone afterwards, whatever happens.

    Yields:
        (the temporary folder, the entry to publish into).

    Raises:
        DataError: no candidate can be written to; or the disk is full, or writing is refused, within.
    """
    folder = None
    for entry in candidates:
        try:
            _respect_mode(entry.parent)
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".tmp-{socket.gethostname()}-{os.getpid()}-", dir=entry.parent))
            break
        except OSError as error:
            if error.errno not in _UNWRITABLE or entry is candidates[-1]:
                raise _cannot_write(entry.parent, error) from None
    try:
        remove_abandoned(folder.parent)
        yield folder, entry
    except OSError as error:
        raise _cannot_write(folder.parent, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _respect_mode(folder: Path) -> None:
    """Raises PermissionError where a folder is marked read-only: root could write there, but is not meant to."""
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    if not folder.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _cannot_write(folder: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        mend = "Free some space there, or set QIN_ZOO_CACHE to a folder on another disk."
    else:
        mend = "Make the folder writable, or set QIN_ZOO_CACHE to a folder that is."
    return DataError(f"{folder}: the converted columns cannot be written there: {error.strerror or error}. {mend}")


def publish(folder: Path, target: Path) -> None:
    """Moves a finished folder into place in one step; one that another process put there first stays."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def write_json(path: Path, value: object) -> None:
    """Writes a small JSON file in one step."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(value, indent=1))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_outdated(entry: Path) -> None:
    """Removes the entries of earlier versions of the same data."""
    name, _, key = entry.name.rpartition("-")
    for other in entry.parent.iterdir():
        if re.fullmatch(f"{re.escape(name)}-[0-9a-f]{{{len(key)}}}", other.name) and other.name != entry.name:
            shutil.rmtree(other, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Removes temporary folders whose process was killed before it could."""
    for folder in root.glob(".tmp-*"):
        host, _, rest = folder.name[len(".tmp-") :].rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):
            here = host == socket.gethostname() and rest.isdigit()
            age = time.time() - folder.stat().st_mtime
            if (here and not is_running(int(rest))) or (not here and age > _ABANDONED):
                shutil.rmtree(folder, ignore_errors=True)
