"""`qin-zoo serve`: an exported model as an HTTP service."""

from __future__ import annotations

import math
import os
import re
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.errors import QinZooError, install

_VARIABLE = "QIN_ZOO_TOKEN"
_NAME = re.compile(r"[\w.-]{1,60}")


def serve(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="File that `qin-zoo export` wrote.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE[:SHARE]",
            help="Instead of PATH, several models, and their shares of the requests; a user stays with one.",
        ),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A model that scores every request for /metrics alone."),
    ] = None,
    histories: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|redis://…",
            help="Where user_id of a request finds its history, and POST /events adds to it (`export --histories`).",
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="A log line for each answer.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; one a core uses the whole machine.")] = 1,
    ids: Annotated[
        str, typer.Option(help="How requests name items: table (rows of the item table) or original (before import).")
    ] = "table",
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that requests must bear, else the variable {_VARIABLE}.")
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
    max_connections: Annotated[int, typer.Option(min=1, help="Connections of a worker; others get 503.")] = 1024,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that wait in a worker; others get 503.")] = 1024,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a client's headers, for its body, and for a request to wait.")
    ] = 10,
    grace: Annotated[int, typer.Option(min=1, help="Seconds for requests in flight when stopped.")] = 10,
    load_timeout: Annotated[float, typer.Option(min=1, help="Seconds for loading a file and its first answer.")] = 120,
) -> None:
    """Serve an exported model: POST /score and /top, GET /healthz, /metrics, /openapi.json and a page at /.

    Every address but /healthz asks for the token, if there is one. SIGHUP loads the file anew without dropping a
    request; SIGTERM and Ctrl-C end the service after the requests in flight.
    """
    try:
        from qin_zoo.serving.http.server import serve as run
        from qin_zoo.serving.http.settings import Served, Settings
    except ImportError as error:
        raise QinZooError(
            f"serving needs packages that are not installed ({error.name} is missing): "
            f"{install('serve', 'onnxruntime', 'httptools', 'orjson', 'prometheus-client')}."
        ) from error
    token = _token(token_file)
    if token is None and not no_token and not _is_loopback(host):
        raise QinZooError(
            f"--host {host}: other machines could use this service, and there is no token. Give one with --token-file "
            f"or the variable {_VARIABLE}, or serve everyone with --no-token."
        )
    if (path is None) == (not model):
        found = "none" if path is None else "both"
        raise QinZooError(f"expected PATH, or --model NAME=FILE once or more, found {found}.")
    served = [Served(*_named(text, "--model")) for text in model or ()]
    if path is not None:
        served = [Served("model" if shadow else "", path, 1.0)]
    served += [Served(*_named(text, "--shadow")[:2], 0.0) for text in shadow or ()]
    names = [one.name for one in served]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise QinZooError(f"{twice} is the name of several models: give each another one.")
    given = {key.name: ctx.params[key.name] for key in fields(Settings) if key.name in ctx.params}
    run(Settings(**given, models=tuple(served), token=token))


def _named(text: str, option: str) -> tuple[str, Path, float]:
    """Name, file and share of ``NAME=FILE`` or ``NAME=FILE:SHARE``."""
    name, _, rest = text.partition("=")
    file, _, share = rest.rpartition(":")
    try:
        number = float(share)
    except ValueError:
        file, number = rest, 1.0
    if not (_NAME.fullmatch(name) and file):
        raise QinZooError(f"{option} {text}: expected NAME=FILE, the name of letters, digits, _, - and points.")
    if not 0 < number < math.inf:
        raise QinZooError(f"{option} {text}: expected a share above 0. A model that is not shown is a --shadow.")
    return name, Path(file), number


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
