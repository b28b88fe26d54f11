"""A dataset made harder, for studies: fewer rows, items never seen, embeddings missing or noisy, histories shuffled.

Everything drawn follows from the run's seed, so that the items without an embedding in training are those without one
in the test, and two loaders of a dataset agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

_ROWS, _ITEMS, _MISSING, _NOISE, _ORDER = range(5)  # what is drawn; each has random numbers of its own


@dataclass(frozen=True)
class Variation:
    """What differs from the dataset's files; the defaults change nothing.

    Attributes:
        seed: the run's.
        train_fraction: share of the training rows that is used.
        unseen_items: share of the items that never occur in training, as targets or in histories.
        missing_embeddings: share of the items whose embedding features are zero, as if the modality were missing. Codes
            and neighbours that are computed from an embedding are those of what is left of it.
        embedding_noise: standard deviation of Gaussian noise added to embedding features, in units of each number's
            own deviation over the items.
        shuffle_history: put every history in random order.
    """

    seed: int = 0
    train_fraction: float = 1.0
    unseen_items: float = 0.0
    missing_embeddings: float = 0.0
    embedding_noise: float = 0.0
    shuffle_history: bool = False

    @classmethod
    def of(cls, params: Mapping[str, object]) -> Variation:
        """That of an experiment's parameters."""
        return cls(**{key: params[key] for key in KEYS & params.keys()}, seed=int(params.get("seed", 0)))

    @property
    def named(self) -> list[str]:
        """Names of what differs."""
        return sorted(key for key in KEYS if getattr(self, key) != getattr(Variation, key))

    def hidden_items(self, count: int) -> np.ndarray:
        """(count,) bool: the items that training must not see."""
        return self._drawn(_ITEMS, count, self.unseen_items)

    def training_rows(self, targets: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
        """The training rows that are used, (n,) int64, by the target items (N,) of all rows: none of a ``hidden`` item,
        as of :meth:`hidden_items`.
        """
        keep = np.ones(len(targets), bool) if hidden is None else ~hidden[targets]
        if self.train_fraction < 1:
            keep &= self._random(_ROWS).random(len(targets)) < self.train_fraction
        return np.flatnonzero(keep)

    def items(self, items: Mapping[str, Tensor], types: Mapping[str, str]) -> dict[str, Tensor]:
        """The columns of the item table, (N, …) each and row 0 being padding, with embeddings missing and noisy, by the
        ``types`` of the features; what does not differ is not copied.
        """
        varied = dict(items)
        for name, kind in types.items():
            if kind != "embedding" or not (self.missing_embeddings or self.embedding_noise):
                continue
            table = items[name].numpy().copy()
            if self.embedding_noise:
                noise = self._random(_NOISE).standard_normal(table.shape, dtype=np.float32)
                table[1:] += self.embedding_noise * table[1:].std(axis=0) * noise[1:]
            table[self._drawn(_MISSING, len(table), self.missing_embeddings)] = 0
            varied[name] = torch.from_numpy(table)
        return varied

    def history(
        self, history: np.ndarray, rows: np.ndarray, hidden: np.ndarray | None = None, beside: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """Histories as they are wanted, and what stands beside them.

        Args:
            history: (B, L) item ids, padded with 0 on the left.
            rows: (B,) rows they are of; a row's order is the same in every batch.
            hidden: of :meth:`hidden_items`; None for none.
            beside: (B, L) each, values of the history's items.
        """
        lists = [history, *beside]
        if hidden is not None:
            lists = [np.where(hidden[history], 0, values) for values in lists]
            order = np.argsort(lists[0] != 0, axis=1, kind="stable")
            lists = [np.take_along_axis(values, order, axis=1) for values in lists]
        if self.shuffle_history:
            keys = np.stack([np.random.default_rng([self.seed, _ORDER, r]).random(history.shape[1]) for r in rows])
            order = np.argsort(np.where(lists[0] == 0, -1, keys), axis=1)
            lists = [np.take_along_axis(values, order, axis=1) for values in lists]
        return lists

    def _drawn(self, what: int, count: int, share: float) -> np.ndarray:
        """(count,) bool, true for this share of the items; never for padding."""
        drawn = self._random(what).random(count) < share
        drawn[:1] = False
        return drawn

    def _random(self, what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what])


UNVARIED = Variation()
KEYS = {field.name for field in fields(Variation)} - {"seed"}
