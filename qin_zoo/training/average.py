"""The average of the weights of a training, which is what is evaluated and kept in the place of the newest ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from qin_zoo.models.sharded import ShardedTable, map_state

_BEGIN = 10  # of n steps at first the newest counts for 9 / (n + 10), so that the average leaves its start behind


class WeightAverage:
    """Exponential moving average over the steps (Polyak & Juditsky 1992, in the form of deep learning libraries).

    After step n the average moves to the weights by ``1 - min(decay, (1 + n) / (10 + n))``; so do the statistics of
    batch normalisation. Each step passes over all weights once more.

    Args:
        model: in training.
        decay: in (0, 1); 0.999 averages over about the last thousand steps.
    """

    def __init__(self, model, decay: float) -> None:
        self._model, self._decay, self._steps = model, decay, 0
        statistics = {
            f"{name}.{key}": module.get_buffer(key)
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for key in ("running_mean", "running_var")
        }
        trained = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        self._current: dict[str, Tensor] = trained | statistics
        with torch.no_grad():
            self._averaged = {name: values.detach().clone() for name, values in self._current.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes note of a step of the optimiser."""
        self._steps += 1
        weight = 1 - min(self._decay, (1 + self._steps) / (_BEGIN + self._steps))
        for name, averaged in self._averaged.items():
            averaged.lerp_(self._current[name], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, averaged in self._averaged.items():
            current = self._current[name]
            newest = current.detach().clone()
            current.copy_(averaged)
            averaged.copy_(newest)

    def state(self) -> dict[str, Tensor | int]:
        """What a checkpoint holds of it; all processes must ask for it."""
        return map_state(self._model, {"model": self._averaged}, ShardedTable.gathered)["model"] | {"": self._steps}

    def load(self, state: dict[str, Tensor | int]) -> None:
        """Puts back what :meth:`state` gave."""
        state = dict(state)
        self._steps = state.pop("")
        for name, values in map_state(self._model, {"model": state}, ShardedTable.local_part)["model"].items():
            self._averaged[name].copy_(values)
