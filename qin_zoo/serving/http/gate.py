"""What every request passes first: whether it is let in, and what is counted of it."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable

from fastapi import Response

from qin_zoo.serving.http.metrics import Metrics

OPEN = "/healthz"  # answered to everyone, whatever the load
ENDPOINTS = {"/", OPEN, "/metrics", "/openapi.json", "/score"}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The one form of an error: ``{"detail": …}``."""
    # ASCII: a message may quote half of a surrogate pair, which has no UTF-8.
    return Response(json.dumps({"detail": detail}), status, headers, "application/json")


class Gate:
    """ASGI middleware: refuses what lacks the token or comes over too many connections, and counts all answers.

    Args:
        app: answers what is let in.
        metrics: counts.
        token: that requests must bear; None lets everyone in.
        ending: whether the service is; then each answer asks the client to leave.
    """

    def __init__(self, app, metrics: Metrics, token: str | None, ending: Callable[[], bool]) -> None:
        self._app, self._metrics, self._ending = app, metrics, ending
        self._expected = None if token is None else b"bearer " + token.encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        path = scope["path"] if scope["path"] in ENDPOINTS else "other"

        async def noting(message) -> None:
            nonlocal status
            status = message.get("status", status)
            if message["type"] == "http.response.start" and self._ending():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await (self._refusal(scope) or self._app)(scope, receive, noting)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(path, status).inc()
            if path == "/score":
                self._metrics.seconds.observe(time.perf_counter() - begin)

    def _refusal(self, scope) -> Response | None:
        if scope["path"] == OPEN:
            return None
        if scope.get("state", {}).get("too_many_connections"):
            return problem(503, "too many connections. Try again later.", {"Retry-After": "1", "Connection": "close"})
        if self._expected is not None and not self._bears_token(scope):
            return problem(
                401, "expected the header Authorization: Bearer TOKEN with the service's token.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return None

    def _bears_token(self, scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)
