"""One file over HTTP into its :class:`Part`: resuming, waiting and trying again where that can help.

By hand, on requests: pooch checks what it fetched, but begins a file of gigabytes anew after every broken connection.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import requests

from qin_zoo import __version__
from qin_zoo.errors import DataError, QinZooError, first_line
from qin_zoo.files import read_json, replace_text

TIMEOUTS = (15.0, 30.0)  # seconds to connect, and without a byte
RETRIES = 6  # failures in a row, between which nothing came
CONNECT_RETRIES = 2  # fewer where no connection comes about: an offline machine should learn so soon
BACKOFF, BACKOFF_LIMIT = 1.0, 30.0  # seconds before the first retry, doubled up to the second, times 0.5…1
RETRY_AFTER_LIMIT = 120  # a server that asks for a longer pause gets it from the user
CHECKPOINT_BYTES = 16 << 20  # at most so much of a file is fetched again after a kill
CHUNK_BYTES = 1 << 16
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[str, int, "int | None"], None]
Note = Callable[[str], None]


class Stopped(Exception):
    """The user interrupts, or another file met :class:`Unreachable`; the part is kept."""


class Unreachable(DataError):
    """There is no connection to the server: nor will there be for the other files."""


class _Transient(Exception):
    """A failure that may pass; ``reached``: there was a connection, ``pause``: seconds the server asks to wait."""

    def __init__(self, what: str, *, reached: bool = True, pause: float | None = None) -> None:
        super().__init__(what)
        self.reached, self.pause = reached, pause


class Part:
    """``<name>.part``, the start of a file, and ``<name>.part.json``: of which, and a digest of what is on the disk.

    Attributes:
        target: the name the file gets when it is whole.
        source: what the server said of the file (:func:`source_of`); None before its first answer.
        size: bytes so far.
        digest: of the bytes so far, SHA-256.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path, self._sidecar = (target.with_name(target.name + end) for end in (".part", ".part.json"))
        self._file = open(self.path, "a+b", buffering=0)
        self._begin(None, 0, hashlib.sha256())
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            noted = read_json(self._sidecar)
            digest, remaining = hashlib.sha256(), noted["size"]
            self._file.seek(0)
            while remaining and (block := self._file.read(min(1 << 22, remaining))):
                digest.update(block)
                remaining -= len(block)
            if digest.hexdigest() == noted["sha256"] and noted["source"].keys() == source_of("", {}).keys():
                self._begin(noted["source"], noted["size"], digest)
        self._file.truncate(self.size)  # what lies behind may be what a crash of the machine left

    def _begin(self, source: dict | None, size: int, digest: hashlib._Hash) -> None:
        self.source, self.size, self._noted, self.digest = source, size, size, digest

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.source is not None and self.size == self.source["size"]

    def restart(self, source: dict | None = None) -> None:
        """Throws the bytes away; what comes next is the start of ``source``."""
        self._file.truncate(0)
        self._begin(source, 0, hashlib.sha256())

    def append(self, chunk: bytes) -> None:
        """Writes ``chunk`` to the end."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.digest.update(chunk)
        self.size += len(chunk)
        if self.size - self._noted >= CHECKPOINT_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Forces the bytes to disk and notes what they are; raises where that fails."""
        os.fsync(self._file.fileno())
        note = {"source": self.source, "size": self.size, "sha256": self.digest.hexdigest()}
        replace_text(self._sidecar, json.dumps(note))
        self._noted = self.size

    def close(self) -> None:
        """Leaves the part for another time; one without a byte is deleted."""
        if self.size > self._noted:
            with contextlib.suppress(OSError, QinZooError):  # on a full disk the note before this one serves
                self.checkpoint()
        self._file.close()
        if not self.size:
            self.discard()

    def discard(self) -> None:
        """Deletes the closed part."""
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def finish(self) -> None:
        """Gives the closed part the name of its target, in one step."""
        os.replace(self.path, self.target)
        self._sidecar.unlink(missing_ok=True)


class Transfer:
    """What fetches files, from several threads, until it is stopped.

    Args:
        progress: called with file name, bytes so far, bytes in all or None.
        note: called with a line for the user about each retry.
    """

    def __init__(self, progress: Progress, note: Note) -> None:
        self._progress, self._note = progress, note
        self._stopped, self._responses = threading.Event(), set()
        self.session = requests.Session()
        # "identity": a compressed transfer has neither the size nor the ranges of the file
        self.session.headers.update({"User-Agent": f"qin-zoo/{__version__}", "Accept-Encoding": "identity"})

    def stop(self) -> None:
        """Ends what is being fetched, in all threads."""
        self._stopped.set()
        for response in list(self._responses):
            with contextlib.suppress(Exception):
                response.raw.shutdown()  # wakes a thread that waits for a silent server; urllib3 ≥ 2.3

    def fetch(self, url: str, part: Part, size: int | None) -> None:
        """Completes ``part`` from ``url``.

        Args:
            url: http or https.
            part: what is there so far; used when the server confirms that its file is still the same.
            size: bytes the file must have by the local record, or None.

        Raises:
            Stopped: :meth:`stop` was called.
            Unreachable: no connection comes about.
            DataError: the server has no such file, or keeps failing.
            OSError: the part cannot be written.
        """
        failures, most = 0, part.size
        while not part.complete:
            if self._stopped.is_set():
                raise Stopped
            try:
                self._attempt(url, part, size)
            except _Transient as error:
                failures = 1 if part.size > most else failures + 1  # bytes fetched again are no progress
                most = max(most, part.size)
                if failures > (RETRIES if error.reached else CONNECT_RETRIES):
                    raise _give_up(url, part, error, failures) from None
                pause = min(BACKOFF_LIMIT, BACKOFF * 2 ** (failures - 1)) * random.uniform(0.5, 1)
                pause = pause if error.pause is None else error.pause
                place = f"going on at byte {part.size:,}" if part.size else "trying again"
                self._note(f"{part.target.name}: {error}; {place} in {pause:.0f} s")
                self._stopped.wait(pause)
        part.checkpoint()
        self._progress(part.target.name, part.size, part.size)

    def _attempt(self, url: str, part: Part, size: int | None) -> None:
        validator = part.source and part.source["url"] == without_login(url) and part.source["validator"]
        if not validator:
            part.restart()  # nothing tells whether the server's file still is the one these bytes come from
        headers = {"Range": f"bytes={part.size}-", "If-Range": validator} if part.size else {}
        response = None
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
                self._responses.add(response)
                _begin(response, url, part, size)
                for chunk in response.iter_content(CHUNK_BYTES):
                    if self._stopped.is_set():
                        break
                    part.append(chunk)
                    self._progress(part.target.name, part.size, part.source["size"])
        except requests.RequestException as error:
            if not self._stopped.is_set():
                raise _as_failure(error, url) from None
        finally:
            self._responses.discard(response)
        if self._stopped.is_set():
            raise Stopped
        if part.source["size"] is None:  # the server said by its end how much it is
            part.source["size"] = part.size
        if not part.complete:
            length = f"{part.size:,} of {part.source['size']:,} bytes"
            if part.size > part.source["size"]:
                part.restart()
            raise _Transient(f"the connection ended at {length}")


def _begin(response: requests.Response, url: str, part: Part, size: int | None) -> None:
    """Looks at status and headers; afterwards the body belongs at the end of ``part``."""
    where, status, answer = without_login(url), response.status_code, f"{response.status_code} {response.reason}"
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise DataError(f"{where}: the server redirects to an unencrypted address, {without_login(response.url)}.")
    pause = response.headers.get("Retry-After", "")
    pause = int(pause) if pause.isdecimal() else None
    if status in _TRANSIENT and (pause or 0) <= RETRY_AFTER_LIMIT:
        raise _Transient(f"the server answered {answer}", pause=pause)
    encoding = response.headers.get("Content-Encoding", "identity")
    if status not in (200, 206, 416) or encoding != "identity":
        answer += f", to be left alone for {pause} s" if pause else f" (encoding: {encoding})"
        raise DataError(
            f"{part.target}: expected the file from {where}, the server answered {answer}. What has been fetched is "
            "kept. Fetch the file with a browser into that folder, or name another server with --mirror URL."
        )
    source = source_of(url, response.headers)
    if status == 200:  # a fresh start, a changed file, or a server that knows no ranges
        part.restart(source)
    else:
        piece = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        source["size"] = int(piece[2]) if piece and piece[2] != "*" else None
        differs = part.size and any(v is not None and part.source[k] not in (None, v) for k, v in source.items())
        if not part.size or not piece or int(piece[1]) != part.size or differs:
            part.restart()
            raise _Transient("the server sent another piece, or one of another file, than asked for: starting over")
    whole = part.source["size"]
    if None not in (whole, size) and whole != size:
        part.restart()
        raise DataError(
            f"{part.target}: the server's file has {whole:,} bytes, but the one downloaded first had {size:,} "
            f"(checksums.json): it changed at {where}. --force takes the new one."
        )
    missing = (whole or 0) - part.size
    if (free := shutil.disk_usage(part.target.parent).free) < missing:
        raise OSError(errno.ENOSPC, f"the disk is full: {missing:,} bytes are needed, {free:,} are free")


def source_of(url: str, headers: Mapping[str, str]) -> dict:
    """What a server says of a file: bytes, SHA-256, and what ``If-Range`` may name; None where it says nothing."""
    length, etag = headers.get("Content-Length", ""), headers.get("ETag", "W/")
    digests = f"{headers.get('Repr-Digest')},{headers.get('Digest')}"
    sha256 = re.search(r"sha-256=:?([A-Za-z0-9+/]{43}=)", digests, re.IGNORECASE)
    return {
        "url": without_login(url),
        "validator": headers.get("Last-Modified") if etag.startswith("W/") else etag,
        "size": int(length) if length.isdecimal() else None,
        "sha256": base64.b64decode(sha256[1]).hex() if sha256 else None,
    }


def without_login(url: str) -> str:
    """``url`` without user name and password: for messages and for files on disk."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _as_failure(error: requests.RequestException, url: str) -> Exception:
    """Which of our errors a failed request is."""
    if isinstance(error, requests.exceptions.ReadTimeout) or "Read timed out" in str(error):
        return _Transient(f"no byte came for {TIMEOUTS[1]:g} s")
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        # urllib3 puts its reason, such as a failed name look-up, into the exception's arguments
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        if reason is None and not isinstance(error, requests.exceptions.ConnectTimeout):
            return _Transient("the connection was dropped")
        words = re.sub(r"^\w+\(.*?\): ", "", str(reason or error))  # without the repr of urllib3's connection
        return _Transient(words or type(error).__name__, reached=False)
    return DataError(
        f"{without_login(url)}: cannot be fetched ({first_line(error)}). Check the address, or use --mirror URL."
    )


def _give_up(url: str, part: Part, error: _Transient, failures: int) -> DataError:
    kept = (
        "What has been fetched is kept: the same command goes on from there. The files can also be put into "
        f"{part.target.parent} by hand, say with a browser from {without_login(url).rpartition('/')[0]}/, or come from "
        "another server with --mirror URL."
    )
    if error.reached:
        what = f"gave up after {failures} tries in a row that brought nothing; the last: {error}"
        return DataError(f"{part.target.name}: {what} ({without_login(url)}). {kept}")
    return Unreachable(
        f"Could not reach {urlsplit(url).hostname} ({error}; tried {failures} times). Is this machine offline, or "
        f"behind a proxy (HTTPS_PROXY), or are its clock or certificates (REQUESTS_CA_BUNDLE) wrong? {kept}"
    )
