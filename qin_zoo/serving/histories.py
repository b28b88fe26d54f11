"""What users acted on, looked up by a service: a file and what came since, or Redis.

A history is what a request would hold: a list of items, or lists by name. Where they are kept it is lists by name
always; the name of a list alone is ``""``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from qin_zoo.errors import QinZooError, RequestError, first_line
from qin_zoo.files import file_digest, replace_file

_KEY = "qin_zoo:history:"  # of a user's list in Redis
_SECONDS = 1.0  # for Redis to answer
_READ = 2**20


class StoreError(Exception):
    """The store does not answer now; it may later."""


class Histories(Protocol):
    """Histories by user.

    Attributes:
        remote: whether it is asked over a network, so that others must not wait for it.
    """

    remote: bool

    def get(self, user: str) -> list | dict[str, list] | None:
        """A user's newest items, oldest first; None where nothing is known."""

    def append(self, user: str, item: object, time: float | None = None) -> None:
        """Adds an item, or field -> value, as the user's newest."""


def open_histories(where: str, length: int, ids: str = "table") -> Histories:
    """The store that an option names: ``redis://…``, or a file.

    Args:
        where: an address, or a path.
        length: items of a history that are used; no more are kept.
        ids: how requests name items, ``table`` or ``original``.

    Raises:
        QinZooError: there is no such store, or it cannot be read.
    """
    return RedisHistories(where, length) if "://" in where else FileHistories(Path(where), length, ids)


def write_histories(
    path: Path, users: np.ndarray, ends: np.ndarray, lists: Mapping[str, np.ndarray], ids: str = "table"
) -> None:
    """Writes a file of histories.

    Args:
        path: ``NAME.npz``.
        users: (U,) their ids as texts, ascending, each once.
        ends: (U + 1,) where each user's entries end in the lists, and the next one's begin; the first is 0.
        lists: name -> entries of all users, oldest first; the name ``""`` for one list alone.
        ids: what the items are: ``table`` rows, or ``original`` ids.
    """
    columns = {f"list.{name}": values for name, values in lists.items()}
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, users=users, ends=ends.astype(np.int64), ids=np.array(ids), **columns)


class FileHistories:
    """A file's histories, and beside it a log of what came since: a line for each event, appended and never changed.

    All processes that have opened the file see each other's events: the log is where they stand, and each reads on
    before it looks up. A line that a crash cut short counts for nothing.

    Args:
        path: file of :func:`write_histories`; where there is none yet, the log alone counts.
        length: items of a history that are kept.
        ids: what items must be, ``table`` rows or ``original`` ids.

    Attributes:
        set_aside: where the log of another file was moved to.

    Raises:
        QinZooError: the file is not of that form.
    """

    remote = False
    set_aside: Path | None = None

    def __init__(self, path: Path, length: int, ids: str = "table") -> None:
        self._path, self._length, self._ids = path, length, ids
        self._users, self._ends, self._lists = self._load()
        self._new: dict[str, dict[str, list]] = {}
        self._at, self._rest = 0, b""
        log = Path(f"{path}.events")
        self._begin(log)
        self._read_on()

    def _load(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        if not self._path.exists():
            return np.empty(0, str), np.zeros(1, np.int64), {}
        try:
            with np.load(self._path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            users, ends, ids = columns.pop("users"), columns.pop("ends"), str(columns.pop("ids"))
            lists = {name.removeprefix("list."): column for name, column in columns.items()}
            if len(ends) != len(users) + 1 or any(len(column) != ends[-1] for column in lists.values()):
                raise ValueError("its lists do not fit its users")
            if (np.diff(ends) < 0).any() or (users[1:] <= users[:-1]).any():
                raise ValueError("its users are not in their order")
            if users.dtype.kind != "U" or ends.dtype != np.int64 or users.ndim != 1:
                raise ValueError("its users are no texts")
        except Exception as error:  # numpy raises whatever a damaged zip file makes it meet
            raise QinZooError(
                f"{self._path} is no file of histories: {first_line(error)} Expected one that `qin-zoo export "
                "--histories` wrote."
            ) from error
        if lists and ids != self._ids:
            raise QinZooError(f"{self._path} names items by their {ids} ids: serve it with --ids {ids}.")
        return users, ends, lists

    def _begin(self, log: Path) -> None:
        """Opens the log. One that belongs to another file of histories is set aside: that file may know its events."""
        base = file_digest(self._path) if self._path.exists() else None
        head = json.dumps({"histories": base}).encode() + b"\n"
        if log.exists():
            with open(log, "rb") as file:
                found = file.readline()
            if found and found != head and found.endswith(b"\n"):
                aside = Path(f"{log}.{int(log.stat().st_mtime)}")
                os.replace(log, aside)
                self.set_aside = aside
        self._file = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._file).st_size
        if size == 0:
            os.write(self._file, head)
        elif os.pread(self._file, 1, size - 1) != b"\n":  # a crash cut the last line short
            os.write(self._file, b"\n")

    def get(self, user: str) -> list | dict[str, list] | None:
        self._read_on()
        new = self._new.get(user, {})
        place, known = 0, False
        if 4 * len(user) <= self._users.dtype.itemsize:  # a longer one would have numpy copy them all
            place = int(np.searchsorted(self._users, np.array(user, self._users.dtype)))
            known = place < len(self._users) and self._users[place] == user
        if not known and not new:
            return None
        first, last = self._ends[place : place + 2] if known else (0, 0)
        first = max(first, last - self._length)
        names = new or self._lists
        found = {
            name: [*(self._lists[name][first:last].tolist() if name in self._lists else []), *new.get(name, [])]
            for name in names
        }
        kept = {name: values[max(len(values) - self._length, 0) :] for name, values in found.items()}
        return kept[""] if [*kept] == [""] else kept

    def append(self, user: str, item: object, time: float | None = None) -> None:
        line = json.dumps({"user": user, "item": item, **({} if time is None else {"time": time})}) + "\n"
        os.write(self._file, line.encode())

    def _read_on(self) -> None:
        """Takes in what was appended since, by whomever."""
        while self._at < os.fstat(self._file).st_size and (part := os.pread(self._file, _READ, self._at)):
            self._at += len(part)
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                    self._add(event["user"], event["item"])
                except (ValueError, KeyError, TypeError):
                    continue  # the head, or what a crash left

    def _add(self, user: str, item: object) -> None:
        lists = self._new.setdefault(user, {})
        for name, value in (item if isinstance(item, dict) else {"": item}).items():
            values = lists.setdefault(name, [])
            values.append(value)
            if len(values) > 2 * self._length:
                del values[: -self._length]


class RedisHistories:
    """Histories in Redis: of each user a list of JSON values, trimmed to those that are used.

    Args:
        url: ``redis://HOST:PORT/DATABASE``.
        length: items of a history that are kept.

    Raises:
        QinZooError: the package redis is missing, or nobody answers there.
    """

    remote = True

    def __init__(self, url: str, length: int) -> None:
        try:
            import redis
        except ImportError as error:
            raise QinZooError("histories in Redis need the package redis: pip install redis.") from error
        self._length, self._error = length, redis.RedisError
        try:
            self._redis = redis.Redis.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
            self._redis.ping()
        except (ValueError, redis.RedisError) as error:
            raise QinZooError(f"--histories {url.partition('@')[2] or url}: {first_line(error)}") from error

    def get(self, user: str) -> list | dict[str, list] | None:
        try:
            items = [json.loads(text) for text in self._redis.lrange(_KEY + user, -self._length, -1)]
        except (self._error, ValueError) as error:
            raise StoreError(first_line(error)) from error
        if items and isinstance(items[0], dict):
            return {name: [item.get(name) for item in items] for name in items[0]}
        return items or None

    def append(self, user: str, item: object, time: float | None = None) -> None:
        try:
            with self._redis.pipeline() as many:
                many.rpush(_KEY + user, json.dumps(item))
                many.ltrim(_KEY + user, -self._length, -1)
                many.execute()
        except self._error as error:
            raise StoreError(first_line(error)) from error


def user_key(user: object) -> str:
    """A user's id as stores have it: a number and its text are one user.

    Raises:
        RequestError: it is neither a text nor a whole number.
    """
    if isinstance(user, bool) or not isinstance(user, (str, int)) or user == "":
        raise RequestError(f"user_id: expected a text or a whole number, found {user!r:.60}.")
    return str(user)
