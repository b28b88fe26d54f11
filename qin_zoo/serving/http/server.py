"""Runs the service until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket

import uvicorn
from fastapi import FastAPI

from qin_zoo.errors import QinZooError
from qin_zoo.serving.http.app import create_app
from qin_zoo.serving.http.live import LiveModel, identity
from qin_zoo.serving.http.log import event, log_to_stderr
from qin_zoo.serving.http.protocol import limited
from qin_zoo.serving.http.settings import Settings

_BACKLOG = 2048
_RELOAD = getattr(signal, "SIGHUP", None)  # not everywhere


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is in flight and returns. SIGHUP loads the file anew.

    Raises:
        QinZooError: the address cannot be used, or the file cannot be served.
    """
    log_to_stderr()
    if _RELOAD is not None:
        signal.signal(_RELOAD, signal.SIG_IGN)  # until there is something to replace
    with _listen(settings.host, settings.port) as listener:
        _allow_files(settings.max_connections + 100)
        live = LiveModel(settings)
        app = create_app(settings, live)
        config = uvicorn.Config(
            app,
            http=limited(settings.max_connections, settings.timeout),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=settings.grace,
        )
        server = uvicorn.Server(config)
        # uvicorn raises the signal once more after its own shutdown: handled here, so that a wanted end is status 0.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        asyncio.run(_run(server, listener, app, live, settings))
        event(logging.INFO, "stopped")


async def _run(
    server: uvicorn.Server, listener: socket.socket, app: FastAPI, live: LiveModel, settings: Settings
) -> None:
    wanted, loop = asyncio.Event(), asyncio.get_running_loop()
    if _RELOAD is not None:
        loop.add_signal_handler(_RELOAD, wanted.set)
    reloads = loop.create_task(_reload_when(wanted, app, live, settings.watch))
    host, port = listener.getsockname()[:2]
    event(
        logging.INFO,
        "serving",
        address=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        **identity(live.current),
        threads=settings.threads,
        token="yes" if settings.token else "no",
    )
    await server.serve(sockets=[listener])
    reloads.cancel()


async def _reload_when(wanted: asyncio.Event, app: FastAPI, live: LiveModel, watch: float | None) -> None:
    """Loads the file anew when ``wanted`` is set or, looking every ``watch`` seconds, when it was replaced."""
    seen = live.loaded
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wanted.wait(), watch)
        state = live.state()
        # A file that still changes is being written: it is looked at once more.
        replaced, seen = state not in (live.loaded, None) and state == seen, state
        if not (wanted.is_set() or replaced):
            continue
        wanted.clear()
        result = await asyncio.to_thread(live.reload)
        app.state.metrics.reloads.labels(result).inc()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # the socket module adds the address once more
        raise QinZooError(
            f"cannot listen on {host} port {port}: {reason}. Choose another with --host or --port (0: a free port)."
        ) from error
    # Connections inherit it. Without it an answer's body waits 40 ms until the client has confirmed its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _allow_files(wanted: int) -> None:
    """Raises this process's limit of open files, which connections count to, as far as it may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
