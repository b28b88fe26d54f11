"""`qin-zoo serve`: an exported model as an HTTP service."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.errors import QinZooError, install
from qin_zoo.threads import cores

_VARIABLE = "QIN_ZOO_TOKEN"


def serve(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File that `qin-zoo export` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Requests scored at the same time. Default: one for each core.")
    ] = None,
    ids: Annotated[
        str, typer.Option(help="How requests name items: table (rows of the item table) or original (before import).")
    ] = "table",
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the token that requests must bear, else the variable {_VARIABLE}."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Serve other machines without a token.")] = False,
    watch: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="Load the file anew when it was replaced; SIGHUP always does."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 2**20,
    max_candidates: Annotated[int, typer.Option(min=1, help="Candidates of a request.")] = 10_000,
    max_history: Annotated[int, typer.Option(min=1, help="History items of a request.")] = 10_000,
    max_embeddings: Annotated[int, typer.Option(min=1, help="Items of a request with embeddings.")] = 1_000,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections; further ones are told 503.")] = 1024,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that wait for a thread; further ones are told 503.")
    ] = 1024,
    max_batch: Annotated[int, typer.Option(min=1, help="Waiting requests that a thread takes together.")] = 16,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds for a client's headers, for its body, and for a request to wait."),
    ] = 10,
    grace: Annotated[int, typer.Option(min=1, help="Seconds for requests in flight when stopped.")] = 10,
    load_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for loading the file and its first answer, before it is used.")
    ] = 120,
) -> None:
    """Serve an exported model: POST /score, GET /healthz, /metrics, /openapi.json and a page at /.

    Every address but /healthz asks for the token, if there is one. SIGHUP loads the file anew without dropping a
    request; SIGTERM and Ctrl-C end the service after the requests in flight.
    """
    try:
        from qin_zoo.serving.http.server import serve as run
        from qin_zoo.serving.http.settings import Settings
    except ImportError as error:
        raise QinZooError(
            f"serving needs packages that are not installed ({error.name} is missing): "
            f"{install('serve', 'onnxruntime', 'fastapi', 'uvicorn', 'prometheus-client')}."
        ) from error
    token = _token(token_file)
    if token is None and not no_token and not _is_loopback(host):
        raise QinZooError(
            f"--host {host}: other machines could use this service, and there is no token. Give one with --token-file "
            f"or the variable {_VARIABLE}, or serve everyone with --no-token."
        )
    settings = Settings(
        path=path,
        host=host,
        port=port,
        ids=ids,
        threads=threads or cores(),
        token=token,
        max_body=max_body,
        max_candidates=max_candidates,
        max_history=max_history,
        max_embeddings=max_embeddings,
        max_connections=max_connections,
        max_waiting=max_waiting,
        max_batch=max_batch,
        timeout=timeout,
        grace=grace,
        load_timeout=load_timeout,
        watch=watch,
    )
    run(settings)


def _token(file: Path | None) -> str | None:
    if file is None and _VARIABLE not in os.environ:
        return None
    try:
        text = os.environ[_VARIABLE] if file is None else file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise QinZooError(f"--token-file {file}: {error.strerror}.") from error
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        source = f"the variable {_VARIABLE}" if file is None else f"--token-file {file}"
        raise QinZooError(f"{source}: expected one word of visible ASCII, for example from `openssl rand -hex 32`.")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
