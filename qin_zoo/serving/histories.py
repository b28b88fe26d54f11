"""What is known of users, looked up by a service: a file and what came since, or Redis.

A history is what a request would hold: a list of items, or lists by name. Where they are kept it is lists by name
always; the name of a list alone is ``""``. The row features of a user are as they were when the file was written.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qin_zoo.errors import QinZooError, RequestError, first_line
from qin_zoo.files import LockFile, file_digest, file_state, replace_file

_KEY, _FEATURES = "qin_zoo:history:", "qin_zoo:user:"  # of a user's list in Redis, and of the user's row features
_SECONDS = 1.0  # for Redis to answer
_READ = 2**20
_WAIT = 0.02  # seconds, for another process that opens the log
_AT_ONCE = 3_000  # commands that Redis is sent in one go


class StoreError(Exception):
    """The store does not answer now; it may later."""


class Known(NamedTuple):
    """What a store has of a user.

    Attributes:
        history: the newest items, oldest first; None where nothing is known of the user.
        features: row features that are the user's, JSON values.
    """

    history: list | dict[str, list] | None
    features: dict[str, object]


@dataclass(frozen=True)
class Users:
    """What is to be kept of users.

    Attributes:
        names: (U,) their ids as texts, ascending, each once.
        ends: (U + 1,) where each user's entries end in the lists, and the next one's begin; the first is 0.
        lists: name -> entries of all users, oldest first; the name ``""`` for one list alone.
        ids: what the items are: ``table`` rows, or ``original`` ids.
        features: row feature -> (U, …) values.
        until: when the log ended that this is known from, in seconds since 1970; None where nobody says.
    """

    names: np.ndarray
    ends: np.ndarray
    lists: Mapping[str, np.ndarray]
    ids: str = "table"
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    until: float | None = None


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


def write_histories(where: str | Path, users: Users) -> None:
    """Writes a file ``NAME.npz``, or what Redis at an address has of these users, anew.

    Raises:
        QinZooError: Redis does not answer.
    """
    if "://" in str(where):
        RedisHistories(str(where), max(int(np.diff(users.ends).max(initial=0)), 1)).write(users)
        return
    columns = {f"list.{name}": values for name, values in users.lists.items()}
    columns |= {f"user.{name}": values for name, values in users.features.items()}
    columns |= {} if users.until is None else {"until": np.array(users.until)}
    with replace_file(Path(where)) as temporary, open(temporary, "wb") as file:
        np.savez(file, users=users.names, ends=users.ends.astype(np.int64), ids=np.array(users.ids), **columns)


class FileHistories:
    """A file's histories, and beside it a log of what came since: a line for each event, appended and never changed.

    All processes that have opened the file see each other's events: the log is where they stand, and each reads on
    before it looks up. A line that a crash cut short counts for nothing. Any number of threads may ask.

    Args:
        path: file of :func:`write_histories`; where there is none yet, the log alone counts.
        length: items of a history that are kept.
        ids: what items must be, ``table`` rows or ``original`` ids.

    Attributes:
        remote: whether it is asked over a network, so that others must not wait for it.
        features: row features that it has of users; None where that is not known.
        path: of the file.
        loaded: :func:`~qin_zoo.files.file_state` of the file that is in use.
        set_aside: where the log of another file was moved to. What came after this file's ``until`` was taken over.

    Raises:
        QinZooError: the file is not of that form, or nothing can be written beside it.
    """

    remote = False

    def __init__(self, path: Path, length: int, ids: str = "table") -> None:
        self.path, self._length, self._ids = path, length, ids
        self._events = Path(f"{path}.events")
        self._lock = threading.Lock()
        try:
            self._open()
        except OSError as error:
            raise QinZooError(
                f"{error.filename or self._events}: {error.strerror}. Histories need a folder that can be read and "
                "written: their events are kept beside the file."
            ) from error

    def _open(self) -> None:
        self.loaded = file_state(self.path)
        kept = self._load()
        self._users, self._ends, self._lists, self.features = kept.names, kept.ends, kept.lists, kept.features
        self._new: dict[str, dict[str, list]] = {}
        self._at, self._rest = 0, b""
        self.set_aside = self._begin(kept.until)
        self._read_on()

    def reload(self) -> None:
        """Takes the file as it is now into use.

        Raises:
            QinZooError: it is not of that form; what was known before stays.
        """
        new, before = FileHistories(self.path, self._length, self._ids), self._file
        with self._lock:
            vars(self).update({name: value for name, value in vars(new).items() if name != "_lock"})
        os.close(before)

    def _load(self) -> Users:
        if not self.path.exists():
            return Users(np.empty(0, str), np.zeros(1, np.int64), {})
        try:
            with np.load(self.path, allow_pickle=False) as file:
                columns = dict(file)
            users, ends, ids = columns.pop("users"), columns.pop("ends"), str(columns.pop("ids"))
            until = float(columns.pop("until")) if "until" in columns else None
            lists, features = (
                {name.removeprefix(kind): column for name, column in columns.items() if name.startswith(kind)}
                for kind in ("list.", "user.")
            )
            if len(ends) != len(users) + 1 or any(len(column) != ends[-1] for column in lists.values()):
                raise ValueError("its lists do not fit its users")
            if any(len(column) != len(users) for column in features.values()):
                raise ValueError("its features do not fit its users")
            if (np.diff(ends) < 0).any() or (users[1:] <= users[:-1]).any():
                raise ValueError("its users are not in their order")
            if users.dtype.kind != "U" or ends.dtype != np.int64 or users.ndim != 1:
                raise ValueError("its users are no texts")
        except Exception as error:  # numpy raises whatever a damaged zip file makes it meet
            raise QinZooError(
                f"{self.path} is no file of histories: {first_line(error)} Expected one that `qin-zoo export "
                "--histories` wrote."
            ) from error
        if lists and ids != self._ids:
            raise QinZooError(f"{self.path} names items by their {ids} ids: serve it with --ids {ids}.")
        return Users(users, ends, lists, ids, features, until)

    def _begin(self, until: float | None) -> Path | None:
        """Opens the log. One that belongs to another file of histories is set aside, since this file may know its
        events, and those that came later are the first of a new one. Where it was moved to."""
        base = file_digest(self.path) if self.path.exists() else None
        head, aside = json.dumps({"histories": base}).encode() + b"\n", None
        lock = LockFile(Path(f"{self._events}.lock"))
        while not lock.acquire():
            clock.sleep(_WAIT)
        try:
            found, *lines = (self._events.read_bytes() if self._events.exists() else b"").splitlines(True) or [b""]
            if found and found != head and found.endswith(b"\n"):
                aside = Path(f"{self._events}.{int(self._events.stat().st_mtime)}")
                with replace_file(self._events) as fresh:
                    later = [] if until is None else [line for line in lines if _moment(line) > until]
                    fresh.write_bytes(b"".join([head, *later]))
                    aside.unlink(missing_ok=True)
                    os.link(self._events, aside)
            self._file = os.open(self._events, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if not found.endswith(b"\n"):  # nothing, or a head that a full disk cut short
                os.ftruncate(self._file, 0)
                _add_line(self._file, head)
        finally:
            lock.release(remove=True)
        return aside

    def _is_current(self) -> bool:
        try:
            return os.stat(self._events).st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            return False

    def get(self, user: str) -> Known:
        """What is known of a user."""
        with self._lock:
            self._read_on()
            return self._known(user)

    def _known(self, user: str) -> Known:
        new = self._new.get(user, {})
        place, known = 0, False
        if 4 * len(user) <= self._users.dtype.itemsize:  # a longer one would have numpy copy them all
            place = int(np.searchsorted(self._users, np.array(user, self._users.dtype)))
            known = place < len(self._users) and self._users[place] == user
        if not known and not new:
            return Known(None, {})
        features = {name: values[place].tolist() for name, values in self.features.items()} if known else {}
        first, last = self._ends[place : place + 2] if known else (0, 0)
        first, kept = max(first, last - self._length), {}
        for name in new or self._lists:
            before = self._lists[name][first:last].tolist() if name in self._lists else []
            values = [*before, *new.get(name, [])]
            kept[name] = values[max(len(values) - self._length, 0) :]
        return Known(kept[""] if [*kept] == [""] else kept, features)

    def append(self, user: str, item: object, time: float | None = None) -> None:
        """Adds an item, or field -> value, as the user's newest.

        Raises:
            StoreError: the log cannot be written now; the event is not kept.
        """
        told = {} if time is None else {"time": time}
        line = json.dumps({"user": user, "item": item, **told, "at": round(clock.time(), 3)}).encode() + b"\n"
        try:
            with self._lock:
                if self._is_current():
                    _add_line(self._file, line)
                    return
                with open(self._events, "a+b", buffering=0) as log:  # others have a newer file of histories already
                    _add_line(log.fileno(), line)
                self._add(user, item)
        except OSError as error:
            raise StoreError(f"{self._events}: {error.strerror}") from error

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


def _add_line(file: int, line: bytes) -> None:
    """Appends a line, also behind one that a crash or a full disk cut short; OSError where it is not there whole."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        line = b"\n" + line
    if os.write(file, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _moment(line: bytes) -> float:
    """When an event came, in seconds since 1970; before all time of what is none."""
    try:
        return float(json.loads(line)["at"])
    except (ValueError, KeyError, TypeError):
        return float("-inf")


class RedisHistories:
    """Histories in Redis: of each user a list of JSON values, trimmed to those that are used.

    Args:
        url: ``redis://HOST:PORT/DATABASE``.
        length: items of a history that are kept.

    Raises:
        QinZooError: the package redis is missing, or nobody answers there.
    """

    remote = True
    features = None

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

    def get(self, user: str) -> Known:
        try:
            with self._redis.pipeline(transaction=False) as many:
                many.lrange(_KEY + user, -self._length, -1)
                many.get(_FEATURES + user)
                texts, features = many.execute()
            items, features = [json.loads(text) for text in texts], json.loads(features or "{}")
        except (self._error, ValueError) as error:
            raise StoreError(first_line(error)) from error
        if items and isinstance(items[0], dict):
            return Known({name: [item.get(name) for item in items] for name in items[0]}, features)
        return Known(items or None, features)

    def append(self, user: str, item: object, time: float | None = None) -> None:
        try:
            with self._redis.pipeline() as many:
                many.rpush(_KEY + user, json.dumps(item))
                many.ltrim(_KEY + user, -self._length, -1)
                many.execute()
        except self._error as error:
            raise StoreError(first_line(error)) from error

    def write(self, users: Users) -> None:
        """Puts these users' histories and features in the place of what there is of them.

        Raises:
            QinZooError: Redis does not answer.
        """
        lists = {name: values.tolist() for name, values in users.lists.items()}
        features = {name: values.tolist() for name, values in users.features.items()}
        try:
            with self._redis.pipeline(transaction=False) as many:
                for place, user in enumerate(users.names.tolist()):
                    first, last = users.ends[place : place + 2].tolist()
                    items = [{name: values[k] for name, values in lists.items()} for k in range(first, last)]
                    many.delete(_KEY + user)
                    if items:
                        many.rpush(_KEY + user, *(json.dumps(item.get("", item)) for item in items))
                    many.set(_FEATURES + user, json.dumps({name: values[place] for name, values in features.items()}))
                    if len(many) >= _AT_ONCE:
                        many.execute()
                many.execute()
        except self._error as error:
            raise QinZooError(f"Redis cannot be written: {first_line(error)}") from error


Histories = FileHistories | RedisHistories


def user_key(user: object) -> str:
    """A user's id as stores have it: a number and its text are one user.

    Raises:
        RequestError: it is neither a text nor a whole number.
    """
    if isinstance(user, bool) or not isinstance(user, (str, int)) or user == "":
        raise RequestError(f"user_id: expected a text or a whole number, found {user!r:.60}.")
    return str(user)
