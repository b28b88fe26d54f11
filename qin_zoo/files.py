"""Files that are either whole or not there, and files that one process at a time may write."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qin_zoo.errors import QinZooError, first_line, listed

try:
    import fcntl
except ImportError:  # Windows: there, nobody is kept out
    fcntl = None


_TORCH_WRITER = ("inline_container", "iostream", "Parent directory")  # in what it says of a file it cannot write


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
        if _is_device(path):
            raise QinZooError(f"Could not write {path}: it is a device or a pipe, which no file replaces. Name a file.")
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns a failed write into a RuntimeError of its own; others are no matter of the disk
        failed = error if isinstance(error, OSError) else error.__context__
        if not isinstance(failed, OSError) and not any(word in str(error) for word in _TORCH_WRITER):
            raise
        cause = failed.strerror if isinstance(failed, OSError) else first_line(error)
        raise QinZooError(
            f"Could not write {path}: {cause}. What was there before is unchanged; free space or choose a "
            "folder you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written nothing is left
            temporary.unlink()


def _is_device(path: Path) -> bool:
    """Whether there is something that is neither file nor folder; /dev/stdout links to whatever a process has open."""
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def replace_text(path: Path, text: str) -> None:
    """Writes a file of text in one step; QinZooError as of :func:`replace_file`."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for whatever is none, also for one that is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def as_json(value: object) -> Any:
    """JSON values: numbers that JSON has not, NaN and infinite ones, become null, and what else it has not its text."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


def read_json(path: Path) -> Any:
    """The value in a JSON file; OSError where it cannot be read, ValueError where it holds none."""
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise OSError(None, "it is no file", str(path))
    return parse_json(path.read_text(encoding="utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def found_in(folder: Path) -> str:
    """The names in a folder, for messages."""
    return listed(sorted(entry.name for entry in folder.iterdir())) or "an empty folder"


def discard_leftovers(folder: Path) -> None:
    """Deletes what writers of :func:`replace_file` that were killed have left in a folder."""
    for temporary in Path(folder).glob(".*.tmp"):
        owner = temporary.name.split(".")[-2]
        if owner.isdecimal() and not is_running(int(owner)):
            temporary.unlink(missing_ok=True)


class LockFile:
    """A file that one process at a time holds; the lock ends with the process, however that ends.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = None

    def acquire(self) -> bool:
        """Takes the lock; False if another process, or another part of this one, holds it."""
        while True:
            file = open(self.path, "a+", encoding="utf-8")
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            except OSError:
                pass  # a file system without locks
            # whoever held it may have removed the file between our opening and our locking it
            if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                self._file = file
                return True
            file.close()

    def read(self) -> dict:
        """What its holder, or the last one, has noted; empty where that is nothing."""
        return read_object(self.path)

    def write(self, note: dict) -> None:
        """Notes something for others to read; the lock must be held. QinZooError, without the lock, on a full disk."""
        try:
            self._file.truncate(0)
            self._file.write(json.dumps(note))
            self._file.flush()
        except OSError as error:
            file, self._file = self._file, None
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it would write what is left
                file.close()
            raise QinZooError(f"Cannot write {self.path}: {error.strerror}. Choose another folder.") from error

    def release(self, remove: bool = False) -> None:
        """Lets go of the lock; the note stays, unless the file is to be removed."""
        if self._file is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


@contextmanager
def sole_writer(path: Path, doing: str) -> Iterator[None]:
    """Keeps other processes that ask for the same lock file out as long as the block runs.

    ``doing`` completes "another process …", for their message.

    Raises:
        QinZooError: another process is in such a block, or the file cannot be written.
    """
    lock = LockFile(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except OSError as error:
        raise QinZooError(f"Cannot write {path}: {error.strerror}. Choose a folder you may write to.") from error
    if not held:
        process = lock.read().get("process")
        which = f"process {process}" if process else "another process"
        raise QinZooError(f"{path.parent}: {which} {doing}. Wait until that has ended, or end it.")
    try:
        lock.write({"process": os.getpid()})
        yield
    finally:
        lock.release(remove=True)


def file_digest(path: Path, digest: hashlib._Hash | None = None, stop: threading.Event | None = None) -> str:
    """Digest of a file's bytes, hexadecimal: of a ``digest`` that goes on, by default of a new SHA-256; ``""`` once
    ``stop`` is set. OSError as of ``open``.
    """
    digest = digest or hashlib.sha256(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            if stop is not None and stop.is_set():
                return ""
            digest.update(block)
    return digest.hexdigest()


def file_state(path: Path) -> tuple | None:
    """What changes when a file is replaced; None while it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def is_running(process: int) -> bool:
    """Whether a process of this machine is alive."""
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
