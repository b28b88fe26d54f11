"""The service: its routes, and what they do with a request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import orjson

from qin_zoo.serving.histories import Histories
from qin_zoo.serving.http.connection import Answer, Connection, Request, problem
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.metrics import Metrics
from qin_zoo.serving.http.models import Models
from qin_zoo.serving.http.page import page
from qin_zoo.serving.http.schema import openapi
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.http.tasks import Outcome, Tasks, count, failed, refused
from qin_zoo.serving.scorer import Scorer

OPEN = "/healthz"  # answered to everyone, whatever the load
_HOP = 0.002  # seconds of scoring after which what has come meanwhile is read
_SHADOWS = 64  # requests that wait for a shadow; further ones it does not see


class Service:
    """Answers requests on one event loop. Requests to score wait in a queue, and are worked off one after the other on
    the loop itself: handing them to threads took longer than most of them take. Long ones go to a thread.

    Attributes:
        connections: that are open.
        histories: of users, if requests may leave theirs out.
        ending: whether the service is; then each answer is its connection's last.
        heads: lines and headers of requests that were let in -> method, path, headers, bytes of the body.
        date: the time as answers carry it.
        routes: path -> method -> what answers.
    """

    def __init__(self, settings: Settings, models: Models, metrics: Metrics, histories: Histories | None) -> None:
        self.settings, self.metrics, self._models, self.histories = settings, metrics, models, histories
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, tuple[str, str, dict[bytes, bytes], int]] = {}
        self.ending = False
        self.date = b""
        self.routes: dict[str, dict[str, Callable[[Request], None]]] = {
            "/score": {"POST": self._queued},
            "/top": {"POST": self._queued},
            **({} if histories is None else {"/events": {"POST": self._queued}}),
            OPEN: {"GET": lambda request: request.reply(Answer(200, b'{"status":"ok"}'))},
            "/metrics": {"GET": self._tell_metrics},
            "/openapi.json": {"GET": lambda request: request.reply(Answer(200, orjson.dumps(self._description())))},
            "/": {"GET": self._show_page},
        }
        for methods in self.routes.values():  # HEAD is answered as GET, without the body
            methods |= {"HEAD": methods["GET"]} if "GET" in methods else {}
        self._expected = None if settings.token is None else b"bearer " + settings.token.encode()
        self._queue: deque[tuple[Request, float]] = deque()
        self._working, self._long, self._shadowing = False, 0, 0
        self._done: list[tuple[Request, Outcome]] = []
        self._tasks = Tasks(settings, models, histories)
        self._thread = ThreadPoolExecutor(1, "score")
        self._described: tuple[Scorer | None, dict] = (None, {})

    # ---- what connections ask

    def refusal(self, request: Request, too_many: bool = False) -> Answer | None:
        """Why a request is not let in, as far as its headers say."""
        methods = self.routes.get(request.path)
        if request.path != OPEN:
            if too_many:
                return problem(503, "too many connections. Try again later.", ("Retry-After", "1"), close=True)
            if self._expected is not None and not self._bears_token(request):
                expected = "expected the header Authorization: Bearer TOKEN with the service's token."
                return problem(401, expected, ("WWW-Authenticate", "Bearer"))
        if methods is None:
            return problem(404, f"nothing is here. Expected one of {', '.join(self.routes)}.")
        if request.method not in methods:
            return problem(405, f"expected {', '.join(methods)}.", ("Allow", ", ".join(methods)))
        if request.method == "POST":
            kind = request.header(b"content-type")
            if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
                return problem(415, f"expected the header Content-Type: application/json, found {kind[:60]!r}.")
            if (coding := request.header(b"content-encoding")).lower() not in ("", "identity"):
                return problem(415, f"expected a body without Content-Encoding, found {coding[:60]!r}.")
        return None

    def _bears_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)

    def too_large(self) -> Answer:
        """The answer to a body that is."""
        most = self.settings.max_body
        return problem(413, f"body: expected at most {most:,} bytes, found more. Split the request.", close=True)

    def handle(self, request: Request) -> None:
        """Answers a request that is let in, now or later."""
        try:
            self.routes[request.path][request.method](request)
        except Exception as error:
            request.reply(failed(error))

    def answered(self, request: Request, status: int) -> None:
        """Counts a request that has got its answer."""
        metrics = self.metrics
        path = request.path if request.path in self.routes else "other"
        metrics.in_flight.add(-1)
        metrics.requests.add(1, path, status)
        seconds = time.perf_counter() - request.begin
        if path == "/score":
            metrics.seconds.observe(seconds)
        if self.settings.access_log:
            event(
                logging.INFO, "request", client=request.client, method=request.method, path=request.path, status=status,
                ms=f"{1000 * seconds:.2f}", bytes=request.size,
            )  # fmt: skip

    async def look_after(self) -> None:
        """Ends connections that wait too long, and keeps the date, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.date = formatdate(usegmt=True).encode()
            now = loop.time()
            for connection in [one for one in self.connections if one.deadline < now]:
                connection.expire()
            await asyncio.sleep(min(0.1, self.settings.timeout / 4))

    # ---- routes

    def _tell_metrics(self, request: Request) -> None:
        request.reply(Answer(200, *self.metrics.exposition(request.header(b"accept"))))

    def _show_page(self, request: Request) -> None:
        host = request.header(b"host") or f"{self.settings.host}:{self.settings.port}"
        scorer, token = self._models.first.current, self.settings.token is not None
        request.reply(page(self._description(), scorer, f"http://{host}/", token))

    def _description(self) -> dict:
        """The OpenAPI description of the model in use, made when it is first asked for."""
        scorer = self._models.first.current
        if self._described[0] is not scorer:
            self._described = scorer, openapi(scorer, self.settings, [*self._models.all], [*self.routes])
        return self._described[1]

    # ---- scores

    def _queued(self, request: Request) -> None:
        if len(self._queue) + self._long >= self.settings.max_waiting:
            request.reply(_overloaded(f"{self.settings.max_waiting:,} requests wait already"))
            return
        self._queue.append((request, time.perf_counter()))
        self.metrics.waiting.set(len(self._queue))
        if not self._working:
            self._working = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Scores what waits, for a while, and answers it: one write after each score would take a sixth longer, as each
        wakes its client, and scoring finds the processor's caches full of other things."""
        begin = now = time.perf_counter()
        while self._queue and now - begin < _HOP:
            request, since = self._queue.popleft()
            if request.gone:  # nobody waits for it any more
                continue
            if now - since > self.settings.timeout:
                request.reply(_overloaded(f"this request waited {now - since:.1f} seconds"))
            else:
                self._begin(request, now)
            now = time.perf_counter()
        self.metrics.waiting.set(len(self._queue))
        self._tell()
        self._working = bool(self._queue)
        if self._working:
            asyncio.get_running_loop().call_soon(self._work)

    def _begin(self, request: Request, begin: float) -> None:
        try:
            answer, long = self._tasks.read(request)
        except Exception as error:
            self._end(request, begin, refused(error))
            return
        if not long:
            self._end(request, begin, answer())
            return
        self._long += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, answer)

        def done(future: asyncio.Future) -> None:
            self._long -= 1
            if not future.cancelled():
                self._end(request, begin, future.result())
                self._tell()

        future.add_done_callback(done)

    def _end(self, request: Request, begin: float, outcome: Outcome) -> None:
        self.metrics.scoring.observe(time.perf_counter() - begin)
        self._done.append((request, outcome))
        if outcome.shadow is not None and self._shadowing < _SHADOWS:
            self._shadowing += 1
            future = asyncio.get_running_loop().run_in_executor(self._thread, outcome.shadow)
            future.add_done_callback(self._shadowed)
        elif outcome.shadow is not None:
            self.metrics.shadows.add(1, "left out")

    def _tell(self) -> None:
        """Answers what is done."""
        done, self._done = self._done, []
        count([outcome for _, outcome in done], self.metrics)
        for request, outcome in done:
            request.reply(outcome.answer)

    def _shadowed(self, future: asyncio.Future) -> None:
        self._shadowing -= 1
        if future.cancelled():
            return
        for outcome in future.result():
            count([outcome], self.metrics)
            self.metrics.shadows.add(1, "scored" if outcome.answer.status == 200 else "failed")

    def close(self) -> None:
        """Lets the thread go, without waiting for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _overloaded(reason: str) -> Answer:
    return problem(503, f"too much to do: {reason}. Try again later.", ("Retry-After", "1"))
