"""A file's model and its first answer; in a process of its own before, as it may loop, take all memory or crash."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.scorer import Scorer

_WARM = 100  # candidates of the request that a new model answers first
# The modules of this process: -m would look for them in the working folder first.
_CODE = "import sys; sys.path[:] = {path!r}; from qin_zoo.serving.http.loading import _try; _try(sys.argv[1])"


def model_facts(scorer: Scorer, name: str = "") -> dict[str, str]:
    """What answers name a model by: ``name``, else that of its manifest; ``fingerprint``, the SHA-256 there."""
    return {"name": name or scorer.manifest["name"], "fingerprint": scorer.manifest["sha256"]}


def load(path: str | Path, settings: Settings) -> Scorer:
    """The file's model, after its first answer.

    Raises:
        QinZooError: the file cannot be served.
    """
    scorer = Scorer(
        path,
        ids=settings.ids,
        max_candidates=settings.max_candidates,
        max_history=settings.max_history,
        max_embeddings=settings.max_embeddings,
    )
    asked = scorer.requests.example(min(_WARM, settings.max_candidates))
    try:
        scores, _ = scorer.answer(asked)
    except Exception as error:  # ONNX Runtime has no common error class
        raise QinZooError(f"{path} fails on its first request. {first_line(error)}") from error
    if scores.shape != (len(asked["candidates"]),) or not np.isfinite(scores).all():
        raise QinZooError(
            f"{path}: expected {len(asked['candidates'])} finite scores of its first request, found "
            f"{scores.ravel()[:3]}, shape {scores.shape}."
        )
    return scorer


async def try_out(path: Path, settings: Settings) -> str:
    """Loads the file and answers a request with it in another process.

    Returns:
        The fingerprint of what was loaded.

    Raises:
        QinZooError: the file cannot be served, or not within ``load_timeout`` seconds.
    """
    values = {**asdict(replace(settings, token=None)), "path": path}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CODE.format(path=sys.path),
        json.dumps(values, default=str),
        stdin=asyncio.subprocess.PIPE,  # ends with this process, and the other one with it
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def said() -> list[bytes]:  # a task of its own: asyncio logs a traceback for a gathering that is cancelled
        return await asyncio.gather(process.stdout.read(), process.stderr.read())

    try:
        output, errors = await asyncio.wait_for(said(), settings.load_timeout)
        status = await process.wait()
    except asyncio.TimeoutError:
        raise QinZooError(
            f"{path} was not loaded and warmed up within {settings.load_timeout:g} seconds. Give it more "
            "(--load-timeout), or export it anew: its graph may have no end."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = json.loads(output)
    except ValueError:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise QinZooError(f"{path} ended the process that tried it, with status {status}. {last}".strip()) from None
    if "problem" in found:
        raise QinZooError(found["problem"])
    return found["fingerprint"]


def _try(values: str) -> None:
    """What the other process does: prints what it found, as JSON."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        settings = json.loads(values)
        found = model_facts(load(settings.pop("path"), Settings(**settings)))
    except Exception as error:
        found = {"problem": str(error) if isinstance(error, QinZooError) else first_line(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)
