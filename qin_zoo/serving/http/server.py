"""Runs the service until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from qin_zoo.errors import QinZooError
from qin_zoo.serving.http.app import create_app
from qin_zoo.serving.http.live import LiveModel, identity
from qin_zoo.serving.http.log import event, log_to_stderr
from qin_zoo.serving.http.protocol import TOLD, limited
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.http.trial import try_out

_BACKLOG = 2048  # connections that the system keeps until they are accepted
_AT_ONCE = 64  # connections accepted before their number is looked at
_OWN_FILES = 100
_LINGER = 2.0  # seconds in which an idle connection may still ask, when the service is stopped
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TELL = 60.0  # seconds between log lines about it
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
        _allow_files(settings.max_connections)
        asyncio.run(try_out(settings))
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
            backlog=_AT_ONCE,
        )
        server = _Server(config, app, settings.grace)
        # uvicorn raises the signal once more after its own shutdown: handled here, so that a wanted end is status 0.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        asyncio.run(_run(server, listener, app, live, settings))
        event(logging.INFO, "stopped")


class _Server(uvicorn.Server):
    """Lets idle clients know that it ends, where they ask once more, and accepts few connections at a time.

    Args:
        config: uvicorn's.
        app: its ``state.ending`` is set.
        grace: seconds that all of the end may take.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace: float) -> None:
        super().__init__(config)
        self._app, self._grace = app, grace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)  # asyncio's own is how many it accepts at once, too

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        begin = time.monotonic()
        for server in self.servers:
            server.close()
        self._app.state.ending = True
        until = begin + min(_LINGER, self._grace / 2)
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = self._grace - (time.monotonic() - begin)
        await super().shutdown(sockets)


async def _run(
    server: uvicorn.Server, listener: socket.socket, app: FastAPI, live: LiveModel, settings: Settings
) -> None:
    wanted, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.set_exception_handler(_seldom())
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
    with contextlib.suppress(asyncio.CancelledError):
        await reloads


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
        result = await live.reload()
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


def _seldom() -> Callable:
    """An exception handler of asyncio that tells seldom what happens at every try: that there is no room to accept."""
    told, times = -_TELL, 0

    def handle(loop: asyncio.AbstractEventLoop, context: dict) -> None:
        nonlocal told, times
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NO_ROOM):
            loop.default_exception_handler(context)
            return
        times += 1
        if loop.time() - told >= _TELL:
            event(logging.ERROR, "connections wait, none can be accepted", error=error.strerror, times=times)
            told, times = loop.time(), 0

    return handle


def _allow_files(max_connections: int) -> None:
    """Raises this process's limit of open files, which connections count to.

    Raises:
        QinZooError: it may not be raised as far as that.
    """
    try:
        import resource
    except ImportError:  # no such limit
        return
    wanted = max_connections + TOLD + _AT_ONCE + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        most = max_connections - (wanted - hard)
        mend = f"Give --max-connections {most} at most, or raise" if most > 0 else "Raise"
        raise QinZooError(
            f"--max-connections {max_connections}: needs {wanted} open files, this process may have {hard}. {mend} the "
            f"limit (ulimit -Hn {wanted})."
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
