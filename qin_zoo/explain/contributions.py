"""How much every feature adds to a prediction's logit: integrated gradients of the embedded row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qin_zoo.errors import QinZooError, install
from qin_zoo.layers import dense
from qin_zoo.models import ModelInput, ZooModel

TOLERANCE = 1e-2  # of the distance between logit and baseline, or of 1 where that is less
_AIM = 1e-3  # the same, at which no more steps are tried
_STEPS = (64, 256, 1024)
_AT_ONCE = 64  # points of the path computed together


@dataclass(frozen=True)
class Contributions:
    """What each part of a row adds to its logit.

    Attributes:
        logit: of the row.
        baseline: logit of a row of which nothing is known: every embedding zero, the history as long.
        context: row feature -> contribution.
        target: feature of the target item -> contribution.
        history: feature of the history's items -> (L,) contributions, one for each place.
        delta: sum of all contributions less ``logit − baseline``; 0 were the integral exact.
        steps: points of the path at which the gradient was taken.
    """

    logit: float
    baseline: float
    context: dict[str, float]
    target: dict[str, float]
    history: dict[str, np.ndarray]
    delta: float
    steps: int

    @property
    def error(self) -> float:
        """The delta as a share of the distance between logit and baseline, or of 1 where that is less."""
        return _error(self.delta, self.logit, self.baseline)

    @property
    def complete(self) -> bool:
        """Whether the contributions add up to ``logit − baseline`` within the tolerance."""
        return self.error <= TOLERANCE


def integrated_gradients(model: ZooModel, x: ModelInput) -> Contributions:
    """Integrated gradients (Sundararajan, Taly and Yan, ICML 2017) of the logit, from captum.

    A feature's contribution is that of all numbers of its embedding: the embedding itself, times its gradient's mean
    on the straight path from zeros to the row. Zero is what the zoo's tables hold for padding and for an unknown
    value, and what an item without a vector has; so the path begins at a row of which only the history's length is
    known, and any feature that is zero contributes nothing. Stored vectors (``x.contents``) are held, as the mask is:
    what they say, which cosines and the items they find have no gradient for, is part of the baseline.

    Args:
        model: in evaluation mode, so that batch norm uses its running statistics.
        x: one row, B = 1.

    Raises:
        QinZooError: captum is missing, or the model's logit is no number.
    """
    row = torch.cat([part.flatten(1) for part in (x.context, x.target, dense(x.history))], dim=1)  # (1, C + D + L·D)

    def logit(flat: Tensor) -> Tensor:
        return model.logits(_input(flat, x)).view(-1)

    return along_the_path(logit, row.detach(), type(model).__name__, lambda numbers: _by_feature(model, numbers, x))


def along_the_path(
    logit: Callable[[Tensor], Tensor], row: Tensor, name: str, by_feature: Callable[[Tensor], tuple[dict, dict, dict]]
) -> Contributions:
    """Integrated gradients of a row's numbers, from zeros, with as many steps as it takes.

    Args:
        logit: of rows (N, n), (N,).
        row: (1, n).
        by_feature: contributions of the numbers, (n,) float64, to those of context, target and history.

    Raises:
        QinZooError: captum is missing, or a logit is no number.
    """
    method = _captum()(logit)
    with torch.no_grad():
        end, start = logit(torch.cat([row, torch.zeros_like(row)])).tolist()
    if not np.isfinite([end, start]).all():
        raise QinZooError(f"{name}: the logit of this row is {end}, of a row of zeros {start}.")
    for steps in _STEPS:
        flat = method.attribute(row, torch.zeros_like(row), n_steps=steps, internal_batch_size=_AT_ONCE)
        numbers = flat.detach()[0].double().cpu()
        delta = float(numbers.sum()) - (end - start)
        if _error(delta, end, start) <= _AIM:
            break
    return Contributions(end, start, *by_feature(numbers), delta, steps)


def _error(delta: float, logit: float, baseline: float) -> float:
    """``|delta|`` as a share of ``|logit − baseline|``, or of 1 where that is less."""
    return abs(delta) / max(abs(logit - baseline), 1.0)


def _input(flat: Tensor, x: ModelInput) -> ModelInput:
    """Rows (N, C + D + L·D) as a model takes them, all with the one row's mask."""
    rows, length, dim = len(flat), x.mask.shape[1], x.target.shape[1]
    context, target, history = flat.split([x.context.shape[1], dim, length * dim], dim=1)
    contents = {name: (t.expand(rows, -1), dense(h).expand(rows, -1, -1)) for name, (t, h) in x.contents.items()}
    return ModelInput(context, target, history.reshape(rows, length, dim), x.mask.expand(rows, -1), contents)


def _by_feature(model: ZooModel, flat: Tensor, x: ModelInput) -> tuple[dict, dict, dict]:
    """Contributions (C + D + L·D,) of single numbers, summed over each feature's embedding."""
    parts = _input(flat.unsqueeze(0), x)
    dims = model._inputs.histories[0]
    history = (part.sum(dim=1).numpy() for part in parts.history[0].split(list(dims.values()), dim=1))
    return _sums(parts.context, model.context_dims), _sums(parts.target, model.item_dims), dict(zip(dims, history))


def _sums(numbers: Tensor, dims: dict[str, int]) -> dict[str, float]:
    return {name: float(part.sum()) for name, part in zip(dims, numbers[0].split(list(dims.values())))}


def _captum():
    try:
        with warnings.catch_warnings():  # in a notebook its progress bar asks for widgets, and is never shown
            warnings.filterwarnings("ignore", "IProgress not found")
            from captum.attr import IntegratedGradients
    except ImportError:
        raise QinZooError(f"Explaining needs captum, which is not installed: {install('explain', 'captum')}.") from None
    return IntegratedGradients
