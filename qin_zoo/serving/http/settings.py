"""What a service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A model.

    Attributes:
        name: what answers and metrics call it; "" for what the file says, where it is the only one.
        path: file that ``qin-zoo export`` wrote.
        share: of the requests, beside the others' shares; 0 for a shadow, which scores them all and is never shown.
    """

    name: str
    path: Path
    share: float


@dataclass(frozen=True)
class Settings:
    """Settings of one service; their defaults are those of ``qin-zoo serve``.

    Attributes:
        models: what is served.
        host, port: where it listens; port 0 takes a free one.
        ids: how requests name items, ``table`` or ``original`` (see ``Scorer``).
        workers: processes that answer, one request at a time each, on one thread.
        token: what ``Authorization: Bearer`` must carry for all but ``/healthz``; None asks for nothing.
        max_body: bytes of a request's body.
        max_candidates, max_history, max_embeddings: items of a request.
        max_connections: of a worker; beyond them a connection is told 503 and closed.
        max_waiting: requests that wait in a worker; beyond them one is told 503.
        timeout: seconds that a client has for its headers, and again for its body, and that a request may wait.
        grace: seconds that requests in flight have when the service is stopped.
        load_timeout: seconds in which the file must be loaded and have answered a first request.
        watch: seconds between looks at the file, which is loaded anew when it was replaced; None: on SIGHUP only.
        histories: where users' histories are looked up, a file or an address of Redis; None: nowhere.
        access_log: whether each answer has a line in the log.
    """

    models: tuple[Served, ...]
    host: str
    port: int
    ids: str
    workers: int
    token: str | None = field(repr=False)
    max_body: int
    max_candidates: int
    max_history: int
    max_embeddings: int
    max_connections: int
    max_waiting: int
    timeout: float
    grace: int
    load_timeout: float
    watch: float | None
    histories: str | None = None
    access_log: bool = False
