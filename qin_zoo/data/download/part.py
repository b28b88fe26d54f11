"""The unfinished half of a download: ``<name>.part`` and, beside it, ``<name>.part.json``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qin_zoo.data.download.integrity import Origin, write_json
from qin_zoo.errors import DataError
from qin_zoo.files import read_json

try:
    import fcntl
except ImportError:  # Windows: no lock; two downloads at once of one file are not noticed there
    fcntl = None

# After so many bytes the part is forced to disk and its digest so far is noted, so that a part damaged
# between two runs (a crash of the machine) is noticed. 16 MiB take well under a second.
CHECKPOINT_BYTES = 16 << 20


class Part:
    """A file being fetched; bytes are appended as they come, so killing the process loses none of them.

    Attributes:
        origin: which file of which server these bytes are the start of; None before the first answer.
        size: bytes so far.
        ended: the server said that this was all, without having said how much it would be.
    """

    def __init__(self, target: Path) -> None:
        """Opens or creates the part of ``target`` and reads what is there.

        Raises:
            DataError: another download is writing it.
            OSError: the folder cannot be written.
        """
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._sidecar = target.with_name(f"{target.name}.part.json")
        self._file = open(self.path, "a+b", buffering=0)
        try:
            self._lock()
            self._load()
        except BaseException:
            self._file.close()
            raise

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.origin is not None and (self.ended or self.size == self.origin.size)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes so far."""
        return self._digest.hexdigest()

    def restart(self, origin: Origin | None = None) -> None:
        """Throws the bytes away; what comes next is the start of ``origin``."""
        self._file.truncate(0)
        self.size, self.ended, self._noted = 0, False, 0
        self._digest = hashlib.sha256()
        self.origin = origin
        self._note()

    def append(self, chunk: bytes) -> None:
        """Writes ``chunk`` to the end."""
        rest = memoryview(chunk)
        while rest:
            written = self._file.write(rest)
            self._digest.update(rest[:written])
            self.size += written
            rest = rest[written:]
        if self.size - self._noted >= CHECKPOINT_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Forces the bytes to disk and notes their digest."""
        os.fsync(self._file.fileno())
        self._note()

    def finish(self) -> None:
        """Gives the part the name of its target, in one step."""
        os.fsync(self._file.fileno())
        if fcntl is None:  # Windows renames no open file; elsewhere the lock is kept to the end
            self._file.close()
        os.replace(self.path, self.target)
        self._sidecar.unlink(missing_ok=True)

    def discard(self) -> None:
        """Deletes the part: its bytes turned out bad."""
        if fcntl is None:
            self._file.close()
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the part for another time; one without a byte is deleted."""
        if not self.size:
            self.discard()
        self._file.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder may have renamed the file between our open and our lock.
            ours = self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except BlockingIOError:
            ours = False
        except OSError:
            return  # a file system without locks
        if not ours:
            raise DataError(
                f"{self.path}: another download is writing this file. Wait for it, or stop it and run this again."
            )

    def _load(self) -> None:
        self.size = os.fstat(self._file.fileno()).st_size
        self.ended, self._noted = False, 0
        self._digest = hashlib.sha256()
        self.origin, noted, digest = self._read_sidecar()
        if self.origin is None or noted > self.size or (self.origin.size or self.size) < self.size:
            self.restart()
            return
        self._file.seek(0)
        self._hash(noted)
        if self.sha256 != digest:
            self.restart()
            return
        self._hash(self.size - noted)
        self._noted = noted

    def _hash(self, count: int) -> None:
        while count and (block := self._file.read(min(1 << 20, count))):
            self._digest.update(block)
            count -= len(block)

    def _note(self) -> None:
        if self.origin is None:
            self._sidecar.unlink(missing_ok=True)
            return
        self._noted = self.size
        write_json(self._sidecar, {**vars(self.origin), "noted": {"bytes": self.size, "sha256": self.sha256}})

    def _read_sidecar(self) -> tuple[Origin | None, int, str]:
        try:
            content = read_json(self._sidecar)
            noted = content.pop("noted")
            if not isinstance(content["size"], int | None):
                return None, 0, ""
            return Origin(**content), int(noted["bytes"]), noted["sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, 0, ""  # without it nobody knows what the bytes are the start of
