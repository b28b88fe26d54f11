"""Sessions that lose patience: a server that keeps sending, but next to nothing, counts as silent."""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from qin_zoo import __version__

LEAST_RATE = 1024  # bytes a second over the time that a read may take; a file of 1 GB would take 11 days
_HEAD_BYTES = 1 << 18  # status, headers and answers of "100 Continue" before them


def new_session() -> requests.Session:
    """A session for one thread; proxies come from the environment, as elsewhere."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    # "identity": a compressed transfer has neither the size nor the ranges of the file.
    session.headers.update({"User-Agent": f"qin-zoo/{__version__}", "Accept-Encoding": "identity"})
    return session


class _Patience(io.RawIOBase):
    """What a socket receives; a timeout ends it also where bytes come, but fewer than ``LEAST_RATE``.

    Only the time spent on waiting counts, not what is done with the bytes in between.
    """

    def __init__(self, raw: io.RawIOBase, timeout: float | None) -> None:
        self._raw, self._timeout = raw, timeout
        self._waited, self._got, self._head = 0.0, 0, 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def begin_body(self) -> None:
        """The head is complete: counts anew."""
        self._waited, self._got, self._head = 0.0, 0, -1

    def readinto(self, buffer: Any) -> int | None:
        begin = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - begin
        self._got += count or 0
        if self._head >= 0:
            self._head += count or 0
            if self._head > _HEAD_BYTES + len(buffer):
                raise http.client.HTTPException("the head of the answer has no end")
        if self._timeout and self._waited >= self._timeout:
            if self._got < LEAST_RATE * self._waited and count:
                raise TimeoutError("too slow")
            self._waited, self._got = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self._patience = _Patience(sock.makefile("rb", buffering=0), sock.gettimeout())
        self.fp = io.BufferedReader(self._patience, 1 << 16)

    def begin(self) -> None:
        super().begin()
        self._patience.begin_body()


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Connections of ours, direct ones and those through a proxy."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
