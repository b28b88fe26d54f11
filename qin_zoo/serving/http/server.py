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
from functools import partial

from qin_zoo.errors import QinZooError
from qin_zoo.files import file_state
from qin_zoo.serving.histories import FileHistories, Histories, open_histories
from qin_zoo.serving.http.app import Service
from qin_zoo.serving.http.connection import TOLD, Connection
from qin_zoo.serving.http.loading import try_out
from qin_zoo.serving.http.log import event, log_to_stderr
from qin_zoo.serving.http.metrics import Metrics
from qin_zoo.serving.http.models import LiveModel, Models
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.http.workers import supervise

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
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(one) for one in listen(settings.host, settings.port, settings.workers)]
        _allow_files(settings.max_connections)
        for served in settings.models:
            asyncio.run(try_out(served.path, settings))
        models = Models(settings)
        histories = _histories(settings, models)
        metrics = Metrics(settings.workers, [*models.all], lambda: [live.model_facts for live in models.all.values()])
        told = {**models.first.model_facts, "workers": settings.workers, "token": "yes" if settings.token else "no"}
        if settings.models[0].name:
            told = {"models": ",".join(models.all)} | told
        host, port = listeners[0].getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        begun = partial(event, logging.INFO, "serving", address=address, **told)
        try:
            from uvloop import run
        except ImportError:
            from asyncio import run

        def work(number: int, parent: int | None = None, begun: Callable[[], None] = lambda: None) -> None:
            metrics.begin(number)
            for other in listeners:  # a listener takes connections as long as any process has it open
                if other is not listeners[number]:
                    other.close()
            run(_work(listeners[number], Service(settings, models, metrics, histories), models, parent, begun))

        if settings.workers == 1:
            work(0, begun=begun)
        else:
            supervise(settings.workers, work, begun, lambda: [listener.close() for listener in listeners])
        event(logging.INFO, "stopped")


def _histories(settings: Settings, models: Models) -> Histories | None:
    if settings.histories is None:
        return None
    length = models.first.current.manifest["inputs"]["history"]["max_len"]
    found = open_histories(settings.histories, max(length, 1), settings.ids)
    if aside := getattr(found, "set_aside", None):
        event(logging.WARNING, "the events belong to another file of histories and were set aside", file=aside)
    needed = {name for live in models.all.values() for name in live.current.of_user}
    if found.features is not None and (missing := needed - {*found.features}):
        told = "histories without these features of users, which count as 0"
        event(logging.WARNING, told, features=",".join(sorted(missing)))
    return found


class _LiveHistories:
    """A file of histories and its replacement while requests run, as :class:`LiveModel` has it of a model."""

    def __init__(self, histories: FileHistories) -> None:
        self._histories, self.path, self.loaded = histories, histories.path, histories.loaded

    async def reload(self) -> str:
        self.loaded = file_state(self.path)
        try:
            await asyncio.to_thread(self._histories.reload)
        except QinZooError as error:
            event(logging.ERROR, "reload refused, the old histories stay", error=error)
            return "refused"
        event(logging.INFO, "histories reloaded")
        return "loaded"


async def _work(
    listener: socket.socket, service: Service, models: Models, parent: int | None, begun: Callable[[], None]
) -> None:
    """Serves on one listener in this process, and calls ``begun`` once it does; ``parent`` is a file that ends with the
    process to serve for."""
    loop, ended, settings, metrics = asyncio.get_running_loop(), asyncio.Event(), service.settings, service.metrics
    lives: list[LiveModel | _LiveHistories] = [*models.all.values()]
    lives += [_LiveHistories(service.histories)] if isinstance(service.histories, FileHistories) else []
    wanted = {live: asyncio.Event() for live in lives}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    if _RELOAD is not None:
        signal.signal(_RELOAD, lambda *_: [loop.call_soon_threadsafe(one.set) for one in wanted.values()])
    if parent is not None:
        loop.add_reader(parent, ended.set)
    for live in wanted:
        if file_state(live.path) not in (live.loaded, None):  # its file was replaced since a worker crashed
            metrics.reloads.add(1, await live.reload())
    door = _Door(listener, service)
    begun()
    tasks = [loop.create_task(service.look_after())]
    tasks += [loop.create_task(_reload_when(one, live, metrics, settings.watch)) for live, one in wanted.items()]
    await ended.wait()
    if parent is not None:
        loop.remove_reader(parent)
    await door.close()
    await _end(service, settings.grace)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    service.close()


async def _end(service: Service, grace: float) -> None:
    """Idle clients may ask once more and are told, what is in flight is answered."""
    begin = time.monotonic()
    service.ending = True
    while service.connections and time.monotonic() < begin + min(_LINGER, grace / 2):
        await asyncio.sleep(0.02)
    while service.connections and time.monotonic() < begin + grace:
        for connection in [*service.connections]:
            connection.end()
        await asyncio.sleep(0.02)
    for connection in [*service.connections]:
        connection.abort()


async def _reload_when(
    wanted: asyncio.Event, live: LiveModel | _LiveHistories, metrics: Metrics, watch: float | None
) -> None:
    """Loads the file anew when ``wanted`` is set or, looking every ``watch`` seconds, when it was replaced."""
    seen = live.loaded
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wanted.wait(), watch)
        state = file_state(live.path)
        # A file that still changes is being written: it is looked at once more.
        replaced, seen = state not in (live.loaded, None) and state == seen, state
        if not (wanted.is_set() or replaced):
            continue
        wanted.clear()
        metrics.reloads.add(1, await live.reload())


def listen(host: str, port: int, workers: int = 1) -> list[socket.socket]:
    """A listening socket for each worker, among which the system shares out connections.

    Raises:
        QinZooError: the address cannot be used.
    """
    listeners: list[socket.socket] = []
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        create = partial(socket.create_server, family=family, backlog=_BACKLOG)
        # Alone first: two services would share a port that both ask for with SO_REUSEPORT.
        listeners.append(create(address[:2]))
        if workers > 1:
            address = listeners[0].getsockname()
            listeners.pop().close()
            listeners += (create(address[:2], reuse_port=True) for _ in range(workers))
    except (OSError, ValueError) as error:
        for listener in listeners:
            listener.close()
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]  # socket adds the address once more
        raise QinZooError(
            f"cannot listen on {host} port {port}: {reason}. Choose another with --host or --port (0: a free port)."
        ) from error
    for listener in listeners:
        # Connections inherit it. Without it an answer's body waits 40 ms until the client has confirmed its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listeners


class _Door:
    """Accepts connections, a few at a time; where there is no room for one it waits, which the log tells seldom.

    asyncio's servers wait, too, but uvloop's cut off whoever comes then.
    """

    def __init__(self, listener: socket.socket, service: Service) -> None:
        self._listener, self._service, self._loop = listener, service, asyncio.get_running_loop()
        self._told, self._times, self._tasks = -_TELL, 0, set()
        listener.setblocking(False)
        self._open()

    def _open(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._wait(error)
                return  # nobody else is there, or went away meanwhile
            connection.setblocking(False)
            task = self._loop.create_task(
                self._loop.connect_accepted_socket(lambda: Connection(self._service), connection)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _wait(self, error: OSError) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(1, self._open)
        self._times += 1
        if self._loop.time() - self._told >= _TELL:
            event(logging.ERROR, "connections wait, none can be accepted", error=error.strerror, times=self._times)
            self._told, self._times = self._loop.time(), 0

    async def close(self) -> None:
        """Nobody else is let in, once those are who stand before it."""
        self._loop.remove_reader(self._listener)
        self._accept()
        self._listener.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


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
