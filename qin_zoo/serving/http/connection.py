"""One HTTP/1.1 connection: its requests one after the other, strictly read, with limits of size and time.

httptools reads; what is around it is our own, as it must be faster than a framework. With nothing to score uvicorn took
92 µs of processor time for a request, a bare protocol on httptools 27; one candidate is scored in about 110.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote

import httptools

if TYPE_CHECKING:
    from qin_zoo.serving.http.metrics import Metrics
    from qin_zoo.serving.http.settings import Settings

TOLD = 64  # connections beyond the limit that are told so; further ones are cut off
DRAINED = 2**24  # bytes too many that are read and dropped, for a client that reads no answer before it has sent all
_LARGEST_HEAD = 2**14  # bytes of a request's line and headers
_KNOWN, _LARGEST_KNOWN = 1024, 1024  # heads that are not read again, and bytes of one
_IDLE = 5.0  # seconds that a connection is kept without a request
_ONCE = {b"host", b"content-length", b"transfer-encoding"}  # headers that must not come twice
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FOREVER = float("inf")


class Answer(NamedTuple):
    """What a request is answered with.

    Attributes:
        status: of HTTP.
        body: its bytes.
        kind: content type.
        headers: further ones, name -> value.
        close: whether the connection ends with it.
    """

    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


def problem(status: int, detail: str, *headers: tuple[str, str], close: bool = False) -> Answer:
    """The one form of an error: ``{"detail": …}``."""
    # ASCII: a message may quote half of a surrogate pair, which has no UTF-8.
    return Answer(status, json.dumps({"detail": detail}).encode(), headers=headers, close=close)


class Request:
    """A request, from the end of its headers on.

    Attributes:
        method, path: as in its first line, the path decoded.
        headers: lower-case name -> value, the first of each.
        body: its bytes, whole once it is answered.
        reply: takes its answer.
        begin: when its headers were read, as :func:`time.perf_counter` tells it.
        client: its address.
        gone: whether its client is.
        refusal: its answer, if that is known before its body is.
    """

    __slots__ = ("begin", "body", "client", "close", "gone", "headers", "method", "path", "refusal", "reply", "size")

    def __init__(self, method: str, path: str, headers: dict[bytes, bytes], reply: Callable[[Answer], None]):
        self.method, self.path, self.headers, self.reply = method, path, headers, reply
        self.body, self.size, self.begin = b"", 0, time.perf_counter()
        self.client, self.close, self.gone = "", False, False
        self.refusal: Answer | None = None

    def header(self, name: bytes) -> str:
        """A header by its name in small letters; "" where there is none."""
        return self.headers.get(name, b"").decode("latin-1")


class _Malformed(Exception):
    """No request that is answered: another server may find another end of it, and take what follows for a second."""


class Host(Protocol):
    """What a connection knows of the service that answers its requests, :class:`~qin_zoo.serving.http.app.Service`."""

    settings: Settings
    metrics: Metrics
    connections: set[Connection]
    heads: dict[bytes, tuple[str, str, dict[bytes, bytes], int]]
    ending: bool
    date: bytes
    routes: Mapping[str, Mapping[str, Callable[[Request], None]]]
    refusal: Callable[[Request, bool], Answer | None]
    too_large: Callable[[], Answer]
    handle: Callable[[Request], None]
    answered: Callable[[Request, int], None]


class Connection(asyncio.Protocol):
    """One connection, whose requests a service answers.

    Attributes:
        deadline: when :meth:`expire` is to be called, by the loop's clock.
    """

    def __init__(self, service: Host) -> None:
        self._service, self._loop = service, asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._headers, self._head, self._raw = b"", {}, 0, 0
        self._in_head = self._paused = self._eof = self._deaf = self._too_many = False
        self._request: Request | None = None  # being read
        self._read: Request | None = None  # the last that was, of what has just come
        self._waiting: deque[Request] = deque()  # read
        self._busy: Request | None = None  # being answered
        self._state, self.deadline = "", _FOREVER

    # ---- the transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._client = str((transport.get_extra_info("peername") or ("",))[0])
        self._service.connections.add(self)
        surplus = len(self._service.connections) - self._service.settings.max_connections
        if surplus > TOLD:
            transport.abort()  # it holds a file, of which there are not more
            return
        self._too_many = surplus > 0
        self._wait("head")

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        begins = self._request is None and not self._in_head and not self._too_many
        end = data.find(b"\r\n\r\n") + 4
        known = self._service.heads.get(data[:end]) if begins else None
        if known is not None and known[-1] == len(data) - end:
            *head, _ = known
            request = Request(*head, self._reply)
            request.client, request.size, request.body = self._client, len(data) - end, data[end:]
            self._service.metrics.in_flight.add(1)
            self._take(request)
        else:
            self._parse(data)
            request, self._read = self._read, None
            if begins and request is not None and request.size == len(data) - end <= len(data) - 4:
                self._remember(data[:end], request)
        if self._request is not None:
            if self._raw > DRAINED + 8 * self._service.settings.max_body:  # chunks of a byte are six
                self._last(self._service.too_large())
            self._wait("body")
        elif self._in_head:
            self._wait("head")
        elif self._busy is not None:
            self._wait("answer")
        if self._waiting:
            self._transport.pause_reading()

    def _remember(self, head: bytes, request: Request) -> None:
        """Keeps what was read of a head. Clients send the same one again and again: what comes with it, a whole request
        and nothing else, needs no reading then."""
        if request.refusal is None and not request.close and b"expect" not in request.headers:
            heads = self._service.heads
            if len(heads) == _KNOWN:
                heads.clear()
            if len(head) <= _LARGEST_KNOWN:
                heads[head] = request.method, request.path, request.headers, request.size

    def _parse(self, data: bytes) -> None:
        self._raw += len(data)
        try:
            while True:
                try:
                    self._parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as asked:
                    data = self._head_without_upgrade() + data[asked.args[0] :]
            if self._raw > _LARGEST_HEAD and self._in_head:
                raise _Malformed
        except (httptools.HttpParserError, _Malformed):
            self._last(problem(400, "expected a request as HTTP has it, found another or none.", close=True))

    def _head_without_upgrade(self) -> bytes:
        """The head just read, for a new parser: this one has taken what follows for another protocol. Who offers one,
        as Java's client does HTTP/2 in each request, may be answered in this one."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b: %b" % header for header in self._headers.items() if header[0] != b"upgrade"]
        return b"\r\n".join([b"%b %b HTTP/%b" % (method, self._url, version), *lines, b"", b""])

    def eof_received(self) -> bool:
        """The client has closed its half: it gets the answers to what it has sent whole."""
        self._eof = True
        self._drop_unread()
        return self._busy is not None or bool(self._waiting)

    def connection_lost(self, error: Exception | None) -> None:
        self._service.connections.discard(self)
        self._drop_unread()
        self._drop_waiting()
        if self._busy is not None:
            self._busy.gone = True
            self._service.metrics.in_flight.add(-1)
        self.deadline, self._deaf = _FOREVER, True

    def pause_writing(self) -> None:
        self._paused = True
        self._wait("reading")

    def resume_writing(self) -> None:
        self._paused = False
        self._wait("head" if self._in_head else "answer" if self._busy else "idle")
        self._next()

    # ---- the parser's calls

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head, self._in_head = b"", {}, 0, True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head + len(self._url) > _LARGEST_HEAD:
            raise _Malformed
        if not self._in_head:  # behind a body in chunks: nothing that counts
            return
        name = name.lower()
        if name not in self._headers:
            self._headers[name] = value
        elif name in _ONCE:
            raise _Malformed

    def on_headers_complete(self) -> None:
        self._in_head = False
        upgrades = self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"
        if self._deaf or upgrades:  # these are read once more
            return
        headers, version = self._headers, self._parser.get_http_version()
        coding = headers.get(b"transfer-encoding")
        if version not in ("1.0", "1.1") or (version == "1.1" and b"host" not in headers):
            raise _Malformed
        if coding is not None and (version == "1.0" or b"content-length" in headers or coding.lower() != b"chunked"):
            raise _Malformed
        path = self._url.decode("latin-1")
        if path not in self._service.routes:
            path = unquote(httptools.parse_url(self._url).path.decode("latin-1"))
        request = Request(self._parser.get_method().decode("latin-1"), path, headers, self._reply)
        request.client = self._client
        request.close = version == "1.0" or not self._parser.should_keep_alive()
        request.refusal = self._service.refusal(request, self._too_many)
        self._request = request
        self._service.metrics.in_flight.add(1)
        if int(headers.get(b"content-length", 0)) > self._service.settings.max_body + DRAINED:
            self._last(self._service.too_large())
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            if request.refusal is not None:
                self._last(request.refusal)  # what it will do with its body nobody knows
            elif self._busy is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        request = self._request
        if request is None:
            return
        request.size += len(data)
        if request.size <= self._service.settings.max_body:
            if isinstance(request.body, bytes) and request.body:
                request.body = bytearray(request.body)
            request.body += data
        elif request.refusal is None:
            request.refusal, request.body = self._service.too_large(), b""
        if request.size > self._service.settings.max_body + DRAINED:
            self._last(self._service.too_large())

    def on_message_complete(self) -> None:
        self._raw = 0
        if (request := self._request) is not None:
            self._request, self._read = None, request
            self._take(request)

    # ---- one request after the other

    def _take(self, request: Request) -> None:
        if self._busy is None and not self._waiting and not self._paused:
            self._answer(request)
        else:
            self._waiting.append(request)

    def _last(self, refusal: Answer) -> None:
        """Nothing more is read; what is being read is refused, after the answers to what came before."""
        if self._deaf:
            return
        self._deaf, request, self._request, self._in_head = True, self._request, None, False
        if request is None:
            request = Request("", "", {}, self._reply)
            self._service.metrics.in_flight.add(1)
        request.refusal, request.close = refusal, True
        self._take(request)

    def _next(self) -> None:
        if self._busy is None and self._waiting and not self._paused and not self._transport.is_closing():
            request = self._waiting.popleft()
            if not self._waiting and not self._deaf:
                self._transport.resume_reading()
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._busy = request
        if request.refusal is not None:
            self._reply(request.refusal)
        else:
            self._service.handle(request)

    def _reply(self, answer: Answer) -> None:
        request, self._busy = self._busy, None
        if request.gone:
            return
        close = answer.close or request.close or self._service.ending or (self._eof and not self._waiting)
        more = b""
        if answer.headers:
            more = "".join(f"{name.lower()}: {value}\r\n" for name, value in answer.headers).encode("latin-1")
        head = b"%bdate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            _LINES[answer.status], self._service.date, answer.kind.encode(), len(answer.body), more,
            b"connection: close\r\n" if close else b"",
        )  # fmt: skip
        self._transport.write(head if request.method == "HEAD" else head + answer.body)
        self._service.answered(request, answer.status)
        if close:
            self._close()
        elif self._waiting:
            self._loop.call_soon(self._next)
        elif self._request is None and not self._in_head and not self._paused:
            self._wait("idle")

    # ---- time

    def _wait(self, state: str) -> None:
        """What the connection waits for; how long it may does not begin anew while that stays the same."""
        if state != self._state:
            seconds = {"idle": _IDLE, "answer": _FOREVER}.get(state, self._service.settings.timeout)
            self._state, self.deadline = state, self._loop.time() + seconds

    def expire(self) -> None:
        """The client, or the service for it, has waited too long."""
        if self._state == "body" and self._request is not None:
            within, found = f"{self._service.settings.timeout:g} seconds", f"{self._request.size:,} bytes"
            self._last(problem(408, f"body: expected all of it within {within}, found {found}.", close=True))
            self._wait("reading")
        elif self._state == "idle":
            self._close()
        else:
            self._transport.abort()

    def end(self) -> None:
        """Closes the connection, after the answer to what it has asked."""
        if self._busy is None and self._request is None and not self._waiting:
            self._close()

    def abort(self) -> None:
        """Cuts it off."""
        self._transport.abort()

    def _close(self) -> None:
        self._deaf = True
        self._drop_waiting()
        self._transport.close()
        self._wait("reading")  # closing waits until the client has read what is left

    def _drop_unread(self) -> None:
        if self._request is not None:
            self._request = None
            self._service.metrics.in_flight.add(-1)

    def _drop_waiting(self) -> None:
        self._service.metrics.in_flight.add(-len(self._waiting))
        self._waiting.clear()
