"""A file's first load, in a process of its own: it may loop, take all memory or crash, and can be ended."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, replace

from qin_zoo.errors import QinZooError
from qin_zoo.serving.http.settings import Settings

# The modules of this process: -m would look for them in the working folder first.
_CODE = "import sys; sys.path[:] = {path!r}; from qin_zoo.serving.http.trial_process import main; main(sys.argv[1])"


async def try_out(settings: Settings) -> str:
    """Loads the file and answers a request with it in another process.

    Returns:
        The fingerprint of what was loaded.

    Raises:
        QinZooError: the file cannot be served, or not within ``load_timeout`` seconds.
    """
    values = {**asdict(replace(settings, token=None)), "path": str(settings.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CODE.format(path=sys.path),
        json.dumps(values),
        stdin=asyncio.subprocess.PIPE,  # ends with this process, and the other one with it
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, errors = await asyncio.wait_for(
            asyncio.gather(process.stdout.read(), process.stderr.read()), settings.load_timeout
        )
        status = await process.wait()
    except asyncio.TimeoutError:
        raise QinZooError(
            f"{settings.path} was not loaded and warmed up within {settings.load_timeout:g} seconds. Give it more "
            "(--load-timeout), or export it anew: its graph may have no end."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = json.loads(said)
    except ValueError:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise QinZooError(
            f"{settings.path} ended the process that tried it, with status {status}. {last}".strip()
        ) from None
    if "problem" in found:
        raise QinZooError(found["problem"])
    return found["fingerprint"]
