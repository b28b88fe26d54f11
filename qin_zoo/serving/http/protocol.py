"""uvicorn's HTTP protocol, stricter, with limits for those who connect and then neither send nor read."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TOLD = 64  # connections beyond the limit that are told so; further ones are cut off
_HEADERS, _READING = "headers", "reading"


class _Strict(h11.Connection):
    """Refuses requests of which another server may find another end: what follows it would be a second request."""

    def next_event(self):
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                raise h11.RemoteProtocolError("Transfer-Encoding with Content-Length, or in HTTP/1.0")
        return event


class PatientProtocol(H11Protocol):
    """One connection. h11, as it limits the size of headers too.

    Attributes:
        max_connections: beyond them, a connection's requests carry ``too_many_connections`` in their state.
        patience: seconds for a request's headers, and for a client that does not read its answer; then it is cut off.
    """

    max_connections: int
    patience: float

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._all_sent = False  # by the client, which may still read
        self.conn = _Strict(h11.SERVER)
        super().connection_made(transport)
        if len(self.connections) > self.max_connections + TOLD:
            transport.abort()  # it holds a file, of which there are not more
            return
        if len(self.connections) > self.max_connections:
            self.app_state = {**self.app_state, "too_many_connections": True}
        self._start(_HEADERS)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        (self._stop if self._answering() else self._start)(_HEADERS)

    def eof_received(self) -> bool:
        """The client has closed its half: it gets the answers to what it has sent whole."""
        self._all_sent = True
        return self._answering() and not self.cycle.more_body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._all_sent and not self._answering():
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start(_READING)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(_READING)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start(_READING)  # closing waits until the client has read what is left

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for what in list(self._timers):
            self._stop(what)

    def _start(self, what: str) -> None:
        if what not in self._timers:
            self._timers[what] = self.loop.call_later(self.patience, self.transport.abort)

    def _stop(self, what: str) -> None:
        if timer := self._timers.pop(what, None):
            timer.cancel()


def limited(max_connections: int, patience: float) -> type[PatientProtocol]:
    """The protocol with these limits."""
    return type("LimitedProtocol", (PatientProtocol,), {"max_connections": max_connections, "patience": patience})
