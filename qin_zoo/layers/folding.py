"""Evaluation only: modules to fewer, exact ones. A layer that can be folded has a method ``folded()`` that says how."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def scale_and_shift(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """``BN(y) = scale · y + shift`` in evaluation, two (n,) float64 tensors."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


@torch.no_grad()
def fold(module: nn.Module, foreign: Mapping[type, Callable[[nn.Module], nn.Module]] | None = None) -> nn.Module:
    """A module's form for scoring; what has no shorter form stays what it is.

    Layers with a method ``folded()`` are replaced by what it returns. A batch norm behind a linear layer goes into it,
    dropout vanishes, a PReLU of one parameter becomes a LeakyReLU.

    Args:
        module: in evaluation mode; its children are replaced in place, so give a copy.
        foreign: class -> function that folds it, for layers without ``folded()``.
    """
    if type(module) in (foreign or {}):
        return foreign[type(module)](module)
    if hasattr(module, "folded"):
        return module.folded()
    if type(module) is nn.Sequential:
        return nn.Sequential(*fold_steps(list(module)))
    if isinstance(module, nn.Dropout):
        return nn.Identity()
    if type(module) is nn.PReLU and module.num_parameters == 1:
        return nn.LeakyReLU(module.weight.item())
    for name, child in module.named_children():
        setattr(module, name, fold(child, foreign))
    return module


@torch.no_grad()
def fold_steps(steps: list[nn.Module]) -> list[nn.Module]:
    """The steps of a ``Sequential`` folded, those that vanish left out."""
    folded: list[nn.Module] = []
    for step in steps:
        before = folded[-1] if folded else None
        if _goes_into(step, before):
            folded[-1] = _with_norm(before, step)
        elif not isinstance(step, (nn.Dropout, nn.Identity)):
            folded.append(fold(step))
    return folded


def _goes_into(step: nn.Module, before: nn.Module | None) -> bool:
    return (
        isinstance(step, nn.BatchNorm1d)
        and isinstance(before, nn.Linear)
        and step.track_running_stats
        and step.num_features == before.out_features
    )


def _with_norm(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    """``BN(W x + b)`` as one linear layer."""
    scale, shift = scale_and_shift(norm)
    folded = nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype)
    folded.weight.copy_(linear.weight.double() * scale.unsqueeze(1))
    folded.bias.copy_(shift if linear.bias is None else linear.bias.double() * scale + shift)
    return folded.eval()
