"""Fetching public datasets over HTTP: several files at once, each checked before it gets its name.

What is broken off is resumed, what may pass is tried again. By hand, on requests: pooch checks what it fetched, but
begins a file of gigabytes anew after every broken connection.
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
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import requests

from qin_zoo import __version__
from qin_zoo.data.sources import ends
from qin_zoo.errors import DataError, QinZooError, first_line, suggest
from qin_zoo.files import file_digest, read_json, replace_text, sole_writer

RECORD_FILE = "checksums.json"
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


class KnownDataset(NamedTuple):
    """Where a dataset lies and what it consists of.

    Attributes:
        base: URL of the folder that holds ``files``; ends in a slash.
        files: file names in that folder.
        raw: relative URLs of the raw files.
        out: where its dataset configuration expects it, relative to the working directory.
    """

    base: str
    files: tuple[str, ...]
    raw: tuple[str, ...]
    out: str


KNOWN = {
    "MicroLens_1M_x1": KnownDataset(
        base="https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/MicroLens_1M_x1/",
        files=("train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"),
        raw=("../item_feature.parquet", "../item_emb.parquet", "../item_seq.parquet"),
        out="data/MicroLens_1M_x1",
    ),
}


@dataclass
class FileResult:
    """One file of a dataset, now in place.

    Attributes:
        path: where it is.
        size: bytes.
        sha256: hexadecimal.
        state: ``"downloaded"``; ``"resumed"``, when a part of it was there; ``"kept"``, when it was there and equal
            to the record; ``"found"``, when it was there without a record (put there by hand).
        checked: whether a server confirmed its size or a digest, now or when the record was made.
    """

    path: Path
    size: int
    sha256: str
    state: str
    checked: bool = True


def download_dataset(
    name: str,
    out: str | Path | None = None,
    *,
    raw: bool = False,
    mirror: str | None = None,
    jobs: int = 4,
    force: bool = False,
    progress: Progress = lambda name, done, total: None,
    note: Note = lambda line: None,
) -> list[FileResult]:
    """Fetches the files of a known dataset; files that are there and good are left alone.

    Args:
        name: a key of :data:`KNOWN`.
        out: folder for the files, made if need be; None: the one its dataset configuration names.
        raw: the raw files (titles, embeddings, sequences) too.
        mirror: http(s) address to use in place of the dataset's own folder.
        jobs: files at a time, at least 1.
        force: download again what does not match the record or the server.
        progress: called from several threads with file name, bytes so far, bytes in all or None.
        note: called from several threads with a line for the user, one per retry.

    Returns:
        One result per file, in the order of the table.

    Raises:
        DataError: unknown name, server unreachable or without a file, a file that is damaged or not the recorded one.
        QinZooError: the folder cannot be written, or another process downloads into it.
        KeyboardInterrupt: passed on after the downloads were stopped; parts are kept.
    """
    if name not in KNOWN:
        known = ", ".join(sorted(KNOWN))
        raise DataError(f"No dataset '{name}' to download: the known ones are {known}.{suggest(name, KNOWN)}")
    if jobs < 1:
        raise DataError(f"--jobs {jobs}: expected at least 1.")
    urls = _file_urls(KNOWN[name], mirror, raw)
    folder = Path(KNOWN[name].out if out is None else out)
    with sole_writer(folder / ".download.lock", "downloads into this folder"):
        return _Download(folder, force, progress, note).run(urls, jobs)


def _file_urls(dataset: KnownDataset, mirror: str | None, raw: bool) -> dict[str, str]:
    base = dataset.base
    if mirror is not None:
        parts = urlsplit(mirror)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise DataError(
                f"--mirror {mirror}: expected the http or https address of the folder that holds "
                f"{dataset.files[0]}, such as {dataset.base}"
            )
        base = mirror.rstrip("/") + "/"
    urls = [urljoin(base, file) for file in dataset.files + (dataset.raw if raw else ())]
    return {url.rpartition("/")[2]: url for url in urls}


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
            # what lies behind may be what a crash of the machine left
            self._file.truncate(min(noted["size"], self._file.tell()))
            digest = hashlib.sha256()
            file_digest(self.path, digest)
            if digest.hexdigest() == noted["sha256"] and noted["source"].keys() == source_of("", {}).keys():
                self._begin(noted["source"], noted["size"], digest)
        self._file.truncate(self.size)

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


class _Download:
    """One call of :func:`download_dataset`."""

    def __init__(self, folder: Path, force: bool, progress: Progress, note: Note) -> None:
        self._folder, self._force, self._progress, self._note = folder, force, progress, note
        self._record, self._listed, self._lock = _read_record(folder / RECORD_FILE), {}, threading.Lock()
        self._stopped, self._responses = threading.Event(), set()
        self._session = requests.Session()
        # "identity": a compressed transfer has neither the size nor the ranges of the file
        self._session.headers.update({"User-Agent": f"qin-zoo/{__version__}", "Accept-Encoding": "identity"})

    def run(self, urls: dict[str, str], jobs: int) -> list[FileResult]:
        """Brings every file into place; the errors of all are raised as one."""
        with self._session, ThreadPoolExecutor(jobs) as pool:
            futures = {name: pool.submit(self._file, self._folder / name, url) for name, url in urls.items()}
            try:
                while (files := wait(futures.values(), timeout=0.2)).not_done:  # Windows wakes no endless wait
                    if any(isinstance(file.exception(), Unreachable) for file in files.done):
                        self._stop()
            except KeyboardInterrupt:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise
        results, errors = [], {}
        for name, future in futures.items():
            try:
                results.append(future.result())
            except Stopped:
                continue
            except DataError as error:
                errors[str(error)] = None  # one for all files where the server cannot be reached
            except OSError as error:
                cause = error.strerror or first_line(error)
                errors[
                    f"Could not write {self._folder / name}: {cause}. What has been fetched is kept: free space, or "
                    "move the folder with its .part files to where you may write and name it; the same command then "
                    "goes on."
                ] = None
        if errors:
            several = f"{len(urls) - len(results)} of {len(urls)} files could not be downloaded:\n- "
            raise DataError((several if len(errors) > 1 else "") + "\n- ".join(errors))
        return results

    def _file(self, target: Path, url: str) -> FileResult:
        if target.is_dir():
            raise DataError(f"{target}: expected a file or nothing, found a folder. Move it away.")
        if target.exists():
            result, fault = self._look(target, url)
            if fault is None:
                self._progress(target.name, result.size, result.size)
                return result
            if not self._force:
                raise DataError(f"{target}: {fault}. It is left as it is; --force downloads it again, or move it away.")
        recorded = None if self._force else self._record.get(target.name)
        for last in (False, True):  # a second time the same way, it is no accident of the transfer
            part = Part(target)
            state = "resumed" if part.size else "downloaded"
            try:
                self._fetch(url, part, recorded and recorded["size"])
            finally:
                part.close()
            result = FileResult(target, part.size, part.digest.hexdigest(), state)
            fault = _fault(part.path, result.sha256, self._claims(url, part.source) | {RECORD_FILE: recorded})
            if fault is None:
                part.finish()
                self._put(result, url)
                return result
            part.discard()
            if not last:
                self._note(f"{target.name}: {fault}; discarded, fetching it once more")
        hint = " If the server's file has changed, --force takes the new one." if recorded else ""
        raise DataError(
            f"{target}: what came from {without_login(url)} is not good, 2 times over: {fault}. It was discarded."
            f"{hint} Try again later, fetch it with a browser into this folder, or use --mirror URL."
        )

    def _look(self, target: Path, url: str) -> tuple[FileResult, str | None]:
        """A file that is there: what it is, and what is wrong with it."""
        recorded = self._record.get(target.name)
        result = FileResult(target, target.stat().st_size, file_digest(target), "kept" if recorded else "found")
        if recorded:
            return result, _fault(target, result.sha256, {RECORD_FILE: recorded})
        source = None
        with contextlib.suppress(requests.RequestException):
            response = self._session.head(url, allow_redirects=True, timeout=TIMEOUTS)
            source = source_of(url, response.headers) if response.status_code == 200 else None
        result.checked = bool(source and (source["size"] is not None or source["sha256"]))
        fault = _fault(target, result.sha256, self._claims(url, source) if source else {})
        if result.checked and fault is None:
            self._put(result, url)
        return result, fault

    def _put(self, result: FileResult, url: str) -> None:
        with self._lock:
            entry = {"size": result.size, "sha256": result.sha256, "url": without_login(url)}
            self._record[result.path.name] = entry
            replace_text(self._folder / RECORD_FILE, json.dumps(self._record, indent=2) + "\n")

    def _claims(self, url: str, source: dict) -> dict[str, dict]:
        """What the server, and SHA256SUMS beside the file where there is one, say of its size and digest."""
        folder, _, name = url.rpartition("/")
        with self._lock:
            if folder not in self._listed:
                text = ""
                with contextlib.suppress(requests.RequestException):
                    response = self._session.get(f"{folder}/SHA256SUMS", timeout=TIMEOUTS)
                    text = response.text if response.status_code == 200 else ""
                lines = re.findall(r"^([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?([^/\r\n]+?)\r?$", text, re.MULTILINE)
                self._listed[folder] = {name: {"size": None, "sha256": sha256.lower()} for sha256, name in lines}
            return {"the server": source, "the server's SHA256SUMS": self._listed[folder].get(name)}

    def _stop(self) -> None:
        """Ends what is being fetched, in all threads."""
        self._stopped.set()
        for response in list(self._responses):
            with contextlib.suppress(Exception):
                response.raw.shutdown()  # wakes a thread that waits for a silent server; urllib3 ≥ 2.3

    def _fetch(self, url: str, part: Part, size: int | None) -> None:
        """Completes ``part``, of ``size`` bytes by the local record; what is there so far is used where the server
        confirms that its file is still the same. Raises Stopped, Unreachable, DataError, OSError."""
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
            with self._session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
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


def _read_record(path: Path) -> dict[str, dict]:
    """``checksums.json``: what each file of the folder was when it was first verified."""
    try:
        return {
            name: {"size": int(entry["size"]), "sha256": str(entry["sha256"]), "url": str(entry["url"])}
            for name, entry in read_json(path).items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # going on without it would take whatever lies there as good
        raise DataError(
            f"{path}: expected the checksums of this folder's files, found something else ({first_line(error)}). "
            "Delete it; the files will be compared with the server again."
        ) from None


def _fault(path: Path, sha256: str, claims: dict[str, dict | None]) -> str | None:
    """Why a file of this digest is not what it should be, by who ``claims`` what of it; None where nothing is known."""
    size = path.stat().st_size
    claims = {who: claim for who, claim in claims.items() if claim}
    for who, claim in claims.items():
        if claim["size"] not in (None, size):
            return f"expected {claim['size']:,} bytes, as {who} says, found {size:,}"
    if fault := _parquet_fault(path, size):
        return fault
    for who, claim in claims.items():
        if claim["sha256"] not in (None, sha256):
            return f"expected SHA-256 {claim['sha256']}, as {who} says, found {sha256}"
    return None


def _parquet_fault(path: Path, size: int) -> str | None:
    """Why ``path`` is no whole parquet file, or None: looks at both ends and the footer, decodes no rows."""
    start, end = ends(path)
    if not start.startswith(b"PAR1"):
        return f"expected a parquet file, found one that begins with {start!r}"
    if end != b"PAR1":
        return "the parquet file lacks its end"
    try:
        footer = pq.read_metadata(path)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        for column in (group.column(i) for group in groups for i in range(footer.num_columns)):
            first = min(at for at in (column.data_page_offset, column.dictionary_page_offset) if at)
            if first + column.total_compressed_size > size:
                return f"the parquet file's column {column.path_in_schema} ends behind the end of the file"
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"the parquet file's footer cannot be used ({first_line(error)})"
    return None


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
