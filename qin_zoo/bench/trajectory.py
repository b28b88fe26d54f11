"""Whether the fast model learns what the plain one learns: both trained side by side from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from qin_zoo.bench.contenders import training_step
from qin_zoo.bench.plain import make_plain
from qin_zoo.training.prepare import build_model, prepare

# Dropped places are drawn in another order, so every rate has to be 0.
_NO_DROPOUT = ("net_dropout", "attention_dropout", "transformer_dropout")


def trajectories(
    expid: str,
    steps: int,
    config: Path | None = None,
    data: Path | None = None,
    overrides: Iterable[str] = (),
    progress: Callable[[int, float, float], None] = lambda step, plain, fast: None,
) -> list[tuple[float, float]]:
    """Losses of the plain and of the fast model, step by step on the same batches, without dropout.

    Args:
        expid, config, data, overrides: the experiment.
        steps: optimiser steps.
        progress: told every step's losses.

    Returns:
        (plain loss, fast loss) of each step.
    """
    known = prepare(expid, config, data=data, overrides=overrides)
    off = [f"{name}=0" for name in _NO_DROPOUT if name in known.params]
    prepared = prepare(expid, config, data=data, overrides=[*overrides, *off])
    dataset = prepared.open_dataset()
    fast, plain = build_model(prepared, dataset), make_plain(build_model(prepared, dataset))
    plain.load_state_dict(fast.state_dict())
    for model in (fast, plain):
        training_step(model, prepared)
    losses: list[tuple[float, float]] = []
    loader = dataset.loader("train")
    while len(losses) < steps:
        for batch in loader:
            losses.append((plain.train_step(batch.triple()).item(), fast.train_step(batch).item()))
            progress(len(losses), *losses[-1])
            if len(losses) == steps:
                break
    return losses
