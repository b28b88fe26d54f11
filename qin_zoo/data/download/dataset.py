"""A whole dataset: several files at once, each checked before it gets its name."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import requests

from qin_zoo.data.download.fetch import Note, Progress, StopAll, Stopped, Sums, ask, disk_error, fetch
from qin_zoo.data.download.integrity import Entry, Record, fault
from qin_zoo.data.download.known import file_urls, known_dataset, without_login
from qin_zoo.data.download.part import Part
from qin_zoo.data.download.session import new_session
from qin_zoo.errors import DataError
from qin_zoo.files import file_digest

_CORRUPT_TRIES = 2  # a second time the same way, it is no accident of the transfer


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
        name: a key of :data:`~qin_zoo.data.download.known.KNOWN`.
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
        KeyboardInterrupt: passed on after the downloads were stopped; parts are kept.
    """
    dataset = known_dataset(name)
    urls = file_urls(dataset, mirror, raw=raw)
    if jobs < 1:
        raise DataError(f"--jobs {jobs}: expected at least 1.")
    folder = Path(dataset.out if out is None else out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record = Record(folder)
    except OSError as error:
        raise disk_error(folder, error) from None
    work = _Work(folder, urls, record, force, progress, note)
    work.run(min(jobs, len(urls)))
    if work.errors:
        raise _joined(work.errors, len(urls)) from None
    return [work.results[file] for file in urls]


def _joined(errors: dict[str, BaseException], files: int) -> BaseException:
    for error in errors.values():
        if isinstance(error, StopAll) or not isinstance(error, DataError):
            return error
    if len(errors) == 1:
        return next(iter(errors.values()))
    lines = "".join(f"\n- {error}" for error in errors.values())
    return DataError(f"{len(errors)} of {files} files could not be downloaded:{lines}")


class _Work:
    """The queue of files and what came of each."""

    def __init__(
        self, folder: Path, urls: dict[str, str], record: Record, force: bool, progress: Progress, note: Note
    ) -> None:
        self._folder, self._record, self._force = folder, record, force
        self._progress, self._note = progress, note
        self._queue = deque(urls.items())
        self._sums, self._stop = Sums(), threading.Event()
        self.results: dict[str, FileResult] = {}
        self.errors: dict[str, BaseException] = {}

    def run(self, threads: int) -> None:
        # Daemons: after Ctrl-C a thread that waits for a silent server must not keep the process alive.
        workers = [threading.Thread(target=self._worker, daemon=True) for _ in range(threads)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
        except KeyboardInterrupt:
            self._stop.set()
            deadline = time.monotonic() + 1.0
            for worker in workers:
                if worker.ident is not None:  # the interruption may come before all have started
                    worker.join(max(0.0, deadline - time.monotonic()))
            raise

    def _worker(self) -> None:
        with new_session() as session:
            while not self._stop.is_set():
                try:
                    name, url = self._queue.popleft()
                except IndexError:
                    return
                try:
                    self.results[name] = self._file(session, name, url)
                except Stopped:
                    return
                except OSError as error:
                    self._failed(name, disk_error(self._folder / name, error))
                except BaseException as error:
                    self._failed(name, error)

    def _failed(self, name: str, error: BaseException) -> None:
        self.errors[name] = error
        if isinstance(error, StopAll) or not isinstance(error, DataError):
            self._stop.set()

    def _file(self, session: requests.Session, name: str, url: str) -> FileResult:
        target = self._folder / name
        if target.is_dir():
            raise DataError(f"{target}: expected a file or nothing, found a folder. Move it away.")
        if target.exists():
            result, wrong = self._look(session, target, url)
            if wrong is None:
                self._progress(name, result.size, result.size)
                return result
            if not self._force:
                raise DataError(f"{target}: {wrong}. It is left as it is; --force downloads it again, or move it away.")
        return self._fetch(session, target, url)

    def _look(self, session: requests.Session, target: Path, url: str) -> tuple[FileResult, str | None]:
        """A file that is there: what it is, and what is wrong with it."""
        entry, origin, listed = self._record.get(target.name), None, None
        result = FileResult(target, target.stat().st_size, file_digest(target), "kept" if entry else "found")
        if entry is None:
            origin = ask(session, url)
            listed = self._sums.get(session, url) if origin else None
            result.checked = bool(origin and (origin.size is not None or origin.sha256))
        wrong = fault(target, result.sha256, origin, listed, entry)
        if entry is None and result.checked and wrong is None:
            self._record.put(target.name, Entry(result.size, result.sha256, without_login(url)))
        return result, wrong

    def _fetch(self, session: requests.Session, target: Path, url: str) -> FileResult:
        entry = None if self._force else self._record.get(target.name)
        for remaining in reversed(range(_CORRUPT_TRIES)):
            part = Part(target)
            try:
                state = "resumed" if part.size else "downloaded"
                try:
                    fetch(session, url, part, entry and entry.size, self._stop, self._progress, self._note)
                finally:
                    if part.origin:
                        part.checkpoint()
                wrong = fault(part.path, part.sha256, part.origin, self._sums.get(session, url), entry)
                if wrong is None:
                    result = FileResult(target, part.size, part.sha256, state)
                    part.finish()
                    self._record.put(target.name, Entry(part.size, part.sha256, part.origin.url))
                    return result
                part.discard()
            finally:
                part.close()
            if remaining:
                self._note(f"{target.name}: {wrong}; discarded, fetching it once more")
        hint = " If the server's file has changed, --force takes the new one." if entry else ""
        raise DataError(
            f"{target}: what came from {without_login(url)} is not good, {_CORRUPT_TRIES} times over: {wrong}. It was "
            f"discarded.{hint} Try again later, fetch it with a browser into this folder, or use --mirror URL."
        )
