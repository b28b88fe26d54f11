"""One file over HTTP into its :class:`Part`: resuming, waiting and trying again where that can help."""

from __future__ import annotations

import errno
import random
import re
import shutil
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from qin_zoo.data.download.integrity import Origin, parse_sums
from qin_zoo.data.download.known import without_login
from qin_zoo.data.download.part import Part
from qin_zoo.data.download.session import LEAST_RATE
from qin_zoo.errors import DataError, first_line

CONNECT_TIMEOUT = 15.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte, or at less than LEAST_RATE, after which a connection counts as stalled
RETRIES = 6  # failures in a row, between which less than LEAST_RATE came
CONNECT_RETRIES = 2  # fewer where no connection comes about: an offline machine should learn so soon
BACKOFF = 1.0  # seconds before the first retry; doubled each time, up to BACKOFF_LIMIT, times 0.5...1
BACKOFF_LIMIT = 30.0
RETRY_AFTER_LIMIT = 120.0  # a server that asks for a longer pause gets it from the user
_CHUNK_BYTES = 1 << 16
_SUMS_BYTES = 1 << 20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[str, int, "int | None"], None]
Note = Callable[[str], None]


class Stopped(Exception):
    """Someone asked to stop; the part is kept."""


class StopAll(DataError):
    """An error that the other files would meet too."""


class _Transient(Exception):
    """A failure that may pass; ``reached``: there was a connection, ``pause``: seconds the server asks to wait."""

    def __init__(self, what: str, *, reached: bool = True, pause: float | None = None) -> None:
        super().__init__(what)
        self.reached, self.pause = reached, pause


def fetch(
    session: requests.Session,
    url: str,
    part: Part,
    size: int | None,
    stop: threading.Event,
    progress: Progress,
    note: Note,
) -> None:
    """Completes ``part`` from ``url``.

    Args:
        session: as made by :func:`~qin_zoo.data.download.session.new_session`.
        url: http or https.
        part: what is there so far; used when the server confirms that its file is still the same.
        size: bytes the file must have by the local record, or None.
        stop: once set, the download ends with ``Stopped``.
        progress: called with file name, bytes so far, bytes in all or None.
        note: called with a line about each retry.

    Raises:
        Stopped: ``stop`` was set.
        DataError: the server has no such file, or keeps failing.
        StopAll: the server cannot be reached.
        OSError: the part cannot be written.
    """
    name, failures, most, since = part.target.name, 0, part.size, time.monotonic()
    while not part.complete:
        try:
            _attempt(session, url, part, size, stop, progress)
        except _Transient as error:
            # bytes fetched again are no progress, nor is a byte now and then
            if part.size - most > LEAST_RATE * (time.monotonic() - since):
                failures = 0
            most, since = max(most, part.size), time.monotonic() + (error.pause or 0)
            failures += 1
            if failures > (RETRIES if error.reached else CONNECT_RETRIES):
                raise _give_up(url, part, error, failures) from None
            pause = min(BACKOFF_LIMIT, BACKOFF * 2 ** (failures - 1)) * random.uniform(0.5, 1)
            pause = pause if error.pause is None else error.pause
            place = f"going on at byte {part.size:,}" if part.size else "trying again"
            note(f"{name}: {error}; {place} in {pause:.0f} s")
            if stop.wait(pause):
                raise Stopped from None
    progress(name, part.size, part.size)


def _give_up(url: str, part: Part, error: _Transient, failures: int) -> DataError:
    if not error.reached:
        return StopAll(
            f"Could not reach {urlsplit(url).hostname} ({error}; tried {failures} times). Is this machine "
            "offline, or behind a proxy (HTTPS_PROXY)? What has been fetched is kept: the same command goes on from "
            f"there. The files can also be put into {part.target.parent} by hand, say with a browser from "
            f"{without_login(url).rpartition('/')[0]}/, or come from another server with --mirror URL."
        )
    return DataError(
        f"{part.target.name}: gave up after {failures} tries in a row that brought nothing, or next to nothing; "
        f"the last: {error} ({without_login(url)}). The {part.size:,} bytes so far are kept: the same command goes on "
        "from there, later or with --mirror URL."
    )


def _attempt(
    session: requests.Session, url: str, part: Part, size: int | None, stop: threading.Event, progress: Progress
) -> None:
    if part.size and not (part.origin and part.origin.validator and part.origin.url == without_login(url)):
        part.restart()  # nothing tells whether the server's file still is the one these bytes come from
    headers = {}
    if part.size:
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.origin.validator}
    try:
        with session.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
            _begin(response, url, part, size)
            expected = part.origin.size
            progress(part.target.name, part.size, expected)
            for chunk in response.iter_content(_CHUNK_BYTES):
                if stop.is_set():
                    raise Stopped
                part.append(chunk)
                if expected is not None and part.size > expected:
                    part.restart()
                    raise _Transient(f"the server sent more than the {expected:,} bytes it announced")
                progress(part.target.name, part.size, expected)
    except requests.RequestException as error:
        if stop.is_set():
            raise Stopped from None
        raise _as_failure(error, url) from None
    part.ended = expected is None
    if not part.complete:
        raise _Transient(f"the connection ended at {part.size:,} of {expected:,} bytes")


def _begin(response: requests.Response, url: str, part: Part, size: int | None) -> None:
    """Looks at status and headers; afterwards the body belongs at the end of ``part``."""
    where, status = without_login(url), response.status_code
    if url.startswith("https:") and not response.url.startswith("https:"):
        raise DataError(f"{where}: the server redirects to an unencrypted address, {without_login(response.url)}.")
    if status in _TRANSIENT:
        raise _Transient(f"the server answered {status} {response.reason}", pause=_retry_after(response, where))
    if status == 416 and part.size:
        part.restart()
        raise _Transient("the server's file is shorter than what is here, so it changed")
    if status not in (200, 206) or (status == 206 and not part.size):
        hint = "Check the address, or name another server with --mirror URL."
        if status in (401, 403):
            hint = "Fetch the file with a browser into that folder, or name another server with --mirror URL."
        raise DataError(
            f"{part.target}: expected the file from {where}, the server answered {status} {response.reason}. {hint}"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(
            f"{where}: asked for the file as it is, the server sent it {response.headers['Content-Encoding']}-encoded. "
            "Name another server with --mirror URL."
        )
    origin = Origin.of(without_login(url), response.headers, partial=status == 206)
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        origin.size = int(match[2]) if match and match[2] != "*" else None
        if not match or int(match[1]) != part.size or part.origin.contradicts(origin):
            part.restart()
            raise _Transient("the server sent another piece, or one of another file, than asked for: starting over")
    else:
        part.restart(origin)  # a fresh start, a changed file, or a server that knows no ranges
    if size is not None and part.origin.size not in (None, size):
        part.restart()
        raise DataError(
            f"{part.target}: the server's file has {origin.size:,} bytes, but the one downloaded first had {size:,} "
            f"(checksums.json): it changed at {where}. --force takes the new one."
        )
    missing = (part.origin.size or 0) - part.size
    if (free := shutil.disk_usage(part.target.parent).free) < missing:
        raise StopAll(_disk_full(part.target, f"{missing:,} bytes are needed, {free:,} are free"))


def _retry_after(response: requests.Response, where: str) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    if seconds > RETRY_AFTER_LIMIT:
        raise DataError(
            f"{where}: the server answered {response.status_code} and asks to be left alone for {seconds:.0f} s. "
            "What has been fetched is kept: run the same command after that time, or use --mirror URL."
        )
    return max(0.0, seconds)


def _as_failure(error: requests.RequestException, url: str) -> Exception:
    """Which of our errors a failed request is."""
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return StopAll(
            f"{urlsplit(url).hostname}: its certificate could not be verified ({first_line(error)}). Check this "
            "machine's clock and certificates (REQUESTS_CA_BUNDLE), or name another server with --mirror URL."
        )
    if isinstance(error, requests.exceptions.ReadTimeout) or "Read timed out" in text:
        return _Transient(f"no byte, or hardly any, came for {READ_TIMEOUT:g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _Transient("the connection was dropped")
    if isinstance(error, requests.exceptions.ConnectionError):
        # urllib3 puts its reason, such as a failed name look-up, into the exception's arguments.
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        if reason is not None or isinstance(error, requests.exceptions.ConnectTimeout):
            return _Transient(_short(reason or error), reached=False)
        return _Transient("the connection was dropped")
    return DataError(
        f"{without_login(url)}: cannot be fetched ({first_line(error)}). Check the address, or use --mirror URL."
    )


def _short(reason: object) -> str:
    """urllib3's words without the repr of its connection object, which comes first."""
    return re.sub(r"^.*?: (?=\S)", "", str(reason).splitlines()[0]) if str(reason) else type(reason).__name__


def disk_error(target: Path, error: OSError) -> StopAll:
    """The message for a part that could not be written."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StopAll(_disk_full(target, error.strerror))
    return StopAll(
        f"Could not write {target}: {error.strerror or first_line(error)}. Choose a folder you may write to, or mend "
        "this one; the same command then goes on."
    )


def _disk_full(target: Path, detail: str) -> str:
    return (
        f"{target}: the disk is full ({detail}). What has been fetched is kept: free space and run the same "
        "command, or move the folder with its .part files to a larger disk and name it."
    )


def ask(session: requests.Session, url: str) -> Origin | None:
    """What the server says of a file without sending it (HEAD); None when it says nothing usable."""
    try:
        response = session.head(url, allow_redirects=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    except requests.RequestException:
        return None
    return Origin.of(without_login(url), response.headers) if response.status_code == 200 else None


class Sums:
    """The SHA256SUMS files beside the files, each fetched once; a server without one is nothing unusual."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[str, dict[str, str]] = {}

    def get(self, session: requests.Session, url: str) -> str | None:
        """The listed SHA-256 of the file at ``url``, or None."""
        folder, _, name = url.rpartition("/")
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._fetch(session, f"{folder}/SHA256SUMS")
            return self._folders[folder].get(name)

    @staticmethod
    def _fetch(session: requests.Session, url: str) -> dict[str, str]:
        try:
            with session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
                if response.status_code != 200:
                    return {}
                text = next(response.iter_content(_SUMS_BYTES), b"")
        except requests.RequestException:
            return {}
        return parse_sums(text.decode("utf-8", errors="replace"))
