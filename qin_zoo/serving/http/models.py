"""The models of one service, and which of them a request is scored by."""

from __future__ import annotations

import random
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate

from qin_zoo.errors import QinZooError, RequestError, suggest
from qin_zoo.serving.http.contract import broken
from qin_zoo.serving.http.live import LiveModel
from qin_zoo.serving.http.settings import Settings


class Models:
    """Models that take the same requests.

    Args:
        settings: what is served, and how.

    Attributes:
        all: each with its name, as they were given.
        shadows: those of them that score requests without being shown.
        first: one that is shown.

    Raises:
        QinZooError: one of the files cannot be served, or takes other requests than the first.
    """

    def __init__(self, settings: Settings) -> None:
        lives = [LiveModel(served, settings) for served in settings.models]
        self.all = {live.name: live for live in lives}
        shares = [served.share for served in settings.models]
        self._shown = [live for live, share in zip(lives, shares) if share > 0]
        self.shadows = [live for live, share in zip(lives, shares) if share == 0]
        bounds = [*accumulate(share for share in shares if share > 0)]
        self._bounds = [bound / bounds[-1] for bound in bounds[:-1]]
        self.first = self._shown[0]
        for live in lives:
            if reasons := broken(self.first.current, live.current, settings.ids):
                raise QinZooError(
                    f"{live.name} takes other requests than {self.first.name}: "
                    f"{'; '.join(reasons)}. Serve it on a port of its own."
                )

    def choose(self, user: str | None = None, name: object = None) -> LiveModel:
        """The model that scores a request: of a name, or drawn by the shares; a user stays with one.

        Raises:
            RequestError: there is none of that name.
        """
        if name is not None:
            if not isinstance(name, str) or name not in self.all:
                raise RequestError(
                    f"model: expected {', '.join(self.all)}, found {name!r:.60}.{suggest(name, self.all)}"
                )
            return self.all[name]
        if not self._bounds:
            return self.first
        place = random.random()
        if user is not None:
            digest = blake2b(user.encode(errors="surrogatepass"), digest_size=8).digest()
            place = int.from_bytes(digest, "big") / 2**64
        return self._shown[bisect_right(self._bounds, place)]
