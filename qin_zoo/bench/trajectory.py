"""Whether the fast model learns what the plain one learns: both trained side by side from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import nn

from qin_zoo.bench.contenders import training_step
from qin_zoo.bench.plain import make_plain
from qin_zoo.experiment.prepare import build_model, prepare

# Dropped places are drawn in another order, so every rate has to be 0.
_NO_DROPOUT = ("net_dropout", "attention_dropout", "transformer_dropout")


def _make_double(model) -> None:
    """Turns a model to float64, the projections of FuxiCTR's embedding layer too, whose inputs are always float32."""
    model.double()
    for module in model.embedding_layer.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda layer, inputs: (inputs[0].to(layer.weight.dtype),))


@dataclass(frozen=True)
class Losses:
    """Losses of one step on one batch.

    Attributes:
        plain, fast: of the plain and of the fast model.
        nudged: of the plain model whose weights began one rounding error away: how far apart losses drift without any
            difference in the arithmetic.
    """

    plain: float
    fast: float
    nudged: float


def trajectories(
    expid: str,
    steps: int,
    config: Path | None = None,
    data: Path | None = None,
    overrides: Iterable[str] = (),
    double: bool = False,
    progress: Callable[[int, Losses], None] = lambda step, losses: None,
) -> list[Losses]:
    """Trains the plain and the fast model side by side, from the same weights on the same batches, without dropout.

    Args:
        expid, config, data, overrides: the experiment.
        steps: optimiser steps, of each of which the losses are returned.
        double: in float64 instead of float32: the last bit is smaller, and takes longer to be seen.
    """
    known = prepare(expid, config, data=data, overrides=overrides)
    off = [f"{name}=0" for name in _NO_DROPOUT if name in known.params]
    prepared = prepare(expid, config, data=data, overrides=[*overrides, *off])
    dataset = prepared.open_dataset()
    fast = build_model(prepared, dataset)
    plain, nudged = (make_plain(build_model(prepared, dataset)) for _ in range(2))
    for model in (fast, plain, nudged):
        training_step(model, prepared)
        if double:
            _make_double(model)
    with torch.no_grad():
        for weight in nudged.parameters():  # every weight by about its last bit
            weight.mul_(1 + torch.finfo(weight.dtype).eps * torch.randn_like(weight))
    losses: list[Losses] = []
    for batch in islice(chain.from_iterable(repeat(dataset.loader("train"))), steps):
        triple = batch.triple()
        losses.append(
            Losses(plain.train_step(triple).item(), fast.train_step(batch).item(), nudged.train_step(triple).item())
        )
        progress(len(losses), losses[-1])
    return losses
