"""The model that is being served, and its replacement while requests run."""

from __future__ import annotations

import asyncio
import logging

import orjson

from qin_zoo.errors import QinZooError
from qin_zoo.files import file_state
from qin_zoo.serving.http.contract import broken
from qin_zoo.serving.http.loading import identity, load, try_out
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.settings import Served, Settings
from qin_zoo.serving.scorer import Scorer


class LiveModel:
    """The model in use.

    Args:
        served: the file, and what it is called.
        settings: limits of a request.

    Attributes:
        current: its scorer; a request takes it once and ends on it.
        name: what metrics call it, whatever is loaded later.
        loaded: :meth:`state` of the file that was last loaded or refused.

    Raises:
        QinZooError: the file cannot be served.
    """

    def __init__(self, served: Served, settings: Settings) -> None:
        self._served, self._settings = served, settings
        self.loaded = self.state()
        self.current = load(served.path, settings)
        self.name = served.name or self.current.manifest["name"]
        self._told: tuple[Scorer | None, bytes] = (None, b"")

    @property
    def identity(self) -> dict[str, str]:
        """What answers name the model by, under the name that the service has for it."""
        return identity(self.current, self._served.name)

    def told(self, scorer: Scorer) -> bytes:
        """The same as JSON, of the scorer that a request took: meanwhile another may be in use."""
        known, text = self._told
        if known is not scorer:
            text = orjson.dumps(identity(scorer, self._served.name))
            self._told = scorer, text
        return text

    async def reload(self) -> str:
        """Takes the file as it is now into use; where it cannot be served, or asks for other requests, the old model
        stays. It is tried in a process of its own first, which ends with this call.

        Returns:
            ``loaded``, ``unchanged`` or ``refused``.
        """
        old, self.loaded = self.current, self.state()
        try:
            fingerprint = await try_out(self._served.path, self._settings)
            new = await asyncio.to_thread(load, self._served.path, self._settings)
            if identity(new)["fingerprint"] != fingerprint:
                raise QinZooError(f"{self._served.path} was replaced while it was tried. Reload it again.")
            if reasons := broken(old, new, self._settings.ids):
                raise QinZooError(
                    f"{self._served.path} takes other requests than the model in use: {'; '.join(reasons)}. Start "
                    "the service anew to serve it."
                )
        except Exception as error:  # whatever is wrong with the new file, the old model serves on
            which = {"model": self.name} if self._served.name else {}  # of several
            event(logging.ERROR, "reload refused, the old model stays", error=error, **which)
            return "refused"
        if identity(new) == identity(old):
            event(logging.INFO, "reload: the file is the same", **identity(new))
            return "unchanged"
        if new.inputs != old.inputs:
            before, after = (",".join(feature["name"] for feature in one.inputs) for one in (old, new))
            event(logging.WARNING, "reload changes the row features", before=before, after=after)
        self.current = new
        event(logging.INFO, "reload", **identity(new))
        return "loaded"

    def state(self) -> tuple | None:
        """:func:`~qin_zoo.files.file_state` of the file."""
        return file_state(self._served.path)
