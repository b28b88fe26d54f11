"""Fetching public datasets: several files at once, each checked before it gets its name."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import requests

from qin_zoo.data.transfer import (
    TIMEOUTS,
    Note,
    Part,
    Progress,
    Stopped,
    Transfer,
    Unreachable,
    source_of,
    without_login,
)
from qin_zoo.errors import DataError, first_line, suggest
from qin_zoo.files import file_digest, read_json, replace_file, sole_writer

RECORD_FILE = "checksums.json"


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


class _Download:
    """One call of :func:`download_dataset`."""

    def __init__(self, folder: Path, force: bool, progress: Progress, note: Note) -> None:
        self._folder, self._force, self._progress, self._note = folder, force, progress, note
        self._record, self._listed, self._lock = _read_record(folder / RECORD_FILE), {}, threading.Lock()
        self._transfer = Transfer(progress, note)

    def run(self, urls: dict[str, str], jobs: int) -> list[FileResult]:
        """Brings every file into place; the errors of all are raised as one."""
        with self._transfer.session, ThreadPoolExecutor(jobs) as pool:
            futures = {name: pool.submit(self._file, self._folder / name, url) for name, url in urls.items()}
            try:
                while (files := wait(futures.values(), timeout=0.2)).not_done:  # Windows wakes no endless wait
                    if any(isinstance(file.exception(), Unreachable) for file in files.done):
                        self._transfer.stop()
            except KeyboardInterrupt:
                self._transfer.stop()
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
                errors[_disk_error(self._folder / name, error)] = None
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
                self._transfer.fetch(url, part, recorded and recorded["size"])
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
            response = self._transfer.session.head(url, allow_redirects=True, timeout=TIMEOUTS)
            source = source_of(url, response.headers) if response.status_code == 200 else None
        result.checked = bool(source and (source["size"] is not None or source["sha256"]))
        fault = _fault(target, result.sha256, self._claims(url, source) if source else {})
        if result.checked and fault is None:
            self._put(result, url)
        return result, fault

    def _put(self, result: FileResult, url: str) -> None:
        with self._lock, replace_file(self._folder / RECORD_FILE) as temporary:
            entry = {"size": result.size, "sha256": result.sha256, "url": without_login(url)}
            self._record[result.path.name] = entry
            temporary.write_text(json.dumps(self._record, indent=2) + "\n", encoding="utf-8")

    def _claims(self, url: str, source: dict) -> dict[str, dict]:
        """What the server, and SHA256SUMS beside the file where there is one, say of its size and digest."""
        folder, _, name = url.rpartition("/")
        with self._lock:
            if folder not in self._listed:
                text = ""
                with contextlib.suppress(requests.RequestException):
                    response = self._transfer.session.get(f"{folder}/SHA256SUMS", timeout=TIMEOUTS)
                    text = response.text if response.status_code == 200 else ""
                lines = re.findall(r"^([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?([^/\r\n]+?)\r?$", text, re.MULTILINE)
                self._listed[folder] = {name: {"size": None, "sha256": sha256.lower()} for sha256, name in lines}
            return {"the server": source, "the server's SHA256SUMS": self._listed[folder].get(name)}


def _disk_error(target: Path, error: OSError) -> str:
    return (
        f"Could not write {target}: {error.strerror or first_line(error)}. What has been fetched is kept: free space, "
        "or move the folder with its .part files to where you may write and name it; the same command then goes on."
    )


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
    """Why a file is not what it should be; None when nothing known speaks against it.

    Args:
        path: the file.
        sha256: its digest, computed.
        claims: who says what of its ``size`` and ``sha256``.
    """
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
    with open(path, "rb") as file:
        start = file.read(24)
        file.seek(max(0, size - 4))
        end = file.read(4)
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
