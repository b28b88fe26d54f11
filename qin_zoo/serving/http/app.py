"""The service: its routes, and what they do with a request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException as StarletteHTTPException

from qin_zoo import __version__
from qin_zoo.errors import RequestError
from qin_zoo.serving.http.body import parse, read_body
from qin_zoo.serving.http.gate import OPEN, Gate, problem
from qin_zoo.serving.http.live import LiveModel, identity
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.metrics import Metrics
from qin_zoo.serving.http.page import page
from qin_zoo.serving.http.pool import Overloaded, Pool
from qin_zoo.serving.http.schema import REQUEST, Health, Problem, ScoreAnswer, openapi
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.scorer import Scorer
from qin_zoo.serving.values import width

_CLOSING = 1.0  # seconds that a scoring thread has to end, after all requests have
_PROBLEMS = {
    400: "No JSON.",
    401: "No token, or not the service's.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "Not sent as application/json.",
    422: "JSON that is no request to this model.",
    503: "Too much to do; Retry-After says when to try again.",
}


def create_app(settings: Settings, live: LiveModel) -> FastAPI:
    """The ASGI application. Its ``state.metrics`` counts; while ``state.ending``, each answer is its connection's last.

    Args:
        settings: limits and token.
        live: the model.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.pool = Pool(
            lambda body: _answer(body, live, settings, metrics),
            threads=settings.threads,
            max_waiting=settings.max_waiting,
            max_batch=settings.max_batch,
            max_seconds=settings.timeout,
            told=metrics.batch.observe,
        )
        yield
        app.state.pool.close(_CLOSING)

    app = FastAPI(
        title="qin-zoo serve",
        version=__version__,
        description="Scores candidates for one user with an exported model.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    metrics = Metrics(waiting=lambda: app.state.pool.waiting, model=lambda: identity(live.current))
    app.state.metrics = metrics
    app.state.ending = False
    app.openapi = _once(live, lambda scorer: openapi(app, scorer, settings))
    app.add_middleware(Gate, metrics=metrics, token=settings.token, ending=lambda: app.state.ending)
    _add_problems(app)

    @app.post(
        "/score",
        summary="Scores of candidates",
        response_description="The scores, in the order of the candidates.",
        response_model=ScoreAnswer,
        responses={status: {"model": Problem, "description": text} for status, text in _PROBLEMS.items()},
        openapi_extra=REQUEST,
    )
    async def score(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, f"expected the header Content-Type: application/json, found {kind[:60]!r}.")
        body = await read_body(request, settings.max_body, settings.timeout)
        return Response(await app.state.pool.run(body), media_type="application/json")

    @app.get(OPEN, summary="Whether the service answers")
    async def healthz() -> Health:
        return Health()

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_description="Prometheus text.",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: {"model": Problem, "description": _PROBLEMS[401]}},
    )
    async def prometheus(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"Content-Type": kind})

    @app.get("/", include_in_schema=False)
    async def describe(request: Request) -> HTMLResponse:
        return page(app.openapi(), live.current, str(request.base_url), settings.token is not None)

    return app


def _once(live: LiveModel, describe: Callable[[Scorer], dict]) -> Callable[[], dict]:
    """The description of the model in use, made when it is first asked for."""
    described, found = None, {}

    def current() -> dict:
        nonlocal described, found
        if described is not (scorer := live.current):
            described, found = scorer, describe(scorer)
        return found

    return current


def _add_problems(app: FastAPI) -> None:
    """Every error in one form."""

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        return problem(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return problem(422, str(error))

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> Response:
        return problem(503, f"too much to do: {error}. Try again later.", {"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        event(logging.ERROR, "a request failed", error=repr(error))
        return problem(500, "the service failed on this request; its log says why.")


def _answer(body: bytes, live: LiveModel, settings: Settings, metrics: Metrics) -> bytes:
    """The JSON answer to a JSON request."""
    with metrics.scoring.time():
        scorer = live.current
        if settings.ids == "table":  # original ids may have brackets in them
            _check_size(body, scorer, settings)
        request = parse(body)
        if settings.ids == "table":
            request = _with_numbers(request, settings.max_embeddings)
        scores, unknown = scorer.answer(request)
        if not np.isfinite(scores).all():
            raise RequestError("expected values that give finite scores; those in context or embeddings are too large.")
        found = {"scores": scores.tolist(), "unknown_items": unknown, "model": identity(scorer)}
        answer = json.dumps(found, separators=(",", ":")).encode()
    metrics.candidates.inc(len(scores))
    metrics.unknown.inc(unknown)
    return answer


def _check_size(body: bytes, scorer: Scorer, settings: Settings) -> None:
    """Whether a request may hold so many lists and objects, before they are built: half a second for a million."""
    lists = sum(width(described) is not None for described in scorer.inputs)
    features = 1 + len(scorer.manifest["inputs"]["new"])
    most = 5 + lists * (settings.max_candidates + 1) + features * settings.max_embeddings
    if scorer.fields is not None:  # a candidate is an object; a context may be a list of them for each field
        most += settings.max_candidates + len(scorer.fields.rows) + len(scorer.fields.history)
    if (found := body.count(b"[") + body.count(b"{")) > most:
        raise RequestError(f"body: expected at most {most:,} lists and objects, found {found:,}. Split the request.")


def _with_numbers(request: object, most: int) -> object:
    """Numbers for the keys of ``embeddings``, which JSON can only write as texts; not if they are too many anyway."""
    given = request.get("embeddings") if isinstance(request, dict) else None
    if not isinstance(given, dict) or len(given) > most:
        return request
    return {**request, "embeddings": {_number(key): value for key, value in given.items()}}


def _number(key: str) -> int | str:
    # Only as JSON writes numbers, so that no two keys become one.
    return int(key) if key.isascii() and key.isdigit() and len(key) < 20 and (key == "0" or key[0] != "0") else key
