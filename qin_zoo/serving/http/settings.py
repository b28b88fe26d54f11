"""What a service can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of one service; their defaults are those of ``qin-zoo serve``.

    Attributes:
        path: file that ``qin-zoo export`` wrote.
        host, port: where it listens; port 0 takes a free one.
        ids: how requests name items, ``table`` or ``original`` (see ``Scorer``).
        threads: requests scored at the same time, each on one thread.
        token: what ``Authorization: Bearer`` must carry for all but ``/healthz``; None asks for nothing.
        max_body: bytes of a request's body.
        max_candidates, max_history, max_embeddings: items of a request.
        max_connections: beyond them a connection is told 503 and closed.
        max_waiting: requests that wait for a thread; beyond them one is told 503.
        max_batch: waiting requests that a thread takes together; 1 hands over one by one.
        timeout: seconds that a client has for its headers, and again for its body, and that a request may wait.
        grace: seconds that requests in flight have when the service is stopped.
        load_timeout: seconds in which the file must be loaded and have answered a first request.
        watch: seconds between looks at the file, which is loaded anew when it was replaced; None: on SIGHUP only.
    """

    path: Path
    host: str
    port: int
    ids: str
    threads: int
    token: str | None = field(repr=False)
    max_body: int
    max_candidates: int
    max_history: int
    max_embeddings: int
    max_connections: int
    max_waiting: int
    max_batch: int
    timeout: float
    grace: int
    load_timeout: float
    watch: float | None
