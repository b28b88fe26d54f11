"""Embedding tables of which a step reads, penalises and moves the rows of its batch only.

Their gradients are torch's sparse ones, so that no pass goes over a whole table and no gradient has its size. What is
exact: SGD, and Adagrad without ``embedding_regularizer``, move the weights as they would with dense gradients, for a
row without a gradient stays where it is. With Adam a row rests, moments included, until it occurs again, as in
``torch.optim.SparseAdam``, whose step this is; the dense Adam moves every row in every step. The penalty of a table is
that of the rows that occur in the update, with the gradient that they would have anyway; no reported loss has it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qin_zoo.errors import ConfigError
from qin_zoo.fuxi import FeatureEmbeddingDict

_ABLE = ("Adagrad", "Adam", "SGD")


def make_lazy(model: nn.Module, optimizer: Optimizer) -> set[nn.Parameter]:
    """Gives the trained tables of a model sparse gradients, and an Adam the step for them.

    An Adam keeps its parameter groups and the names and types of its state.

    Args:
        model: every ``nn.Embedding`` within a ``FeatureEmbeddingDict`` of it is changed in place.
        optimizer: of all its weights, in one group; SGD and Adagrad not ``fused``.

    Returns:
        the tables' weights.

    Raises:
        ConfigError: the optimiser has no step for single rows.
    """
    kind = type(optimizer).__name__
    if kind not in _ABLE:
        raise ConfigError(
            f"embedding_optimizer: lazy goes with optimizer {', '.join(_ABLE)}, not with {kind}, whose step of a row "
            "needs the whole table or has no form for one row. Choose one of them, or leave embedding_optimizer out."
        )
    layers = (layer for layer in model.modules() if isinstance(layer, FeatureEmbeddingDict))
    tables = {m for layer in layers for m in layer.modules() if type(m) is nn.Embedding and m.weight.requires_grad}
    for table in tables:
        table.sparse = True
    if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
        torch.sparse.check_sparse_tensor_invariants.disable()  # as they are: torch warns where nobody has said so
    if kind == "Adam":
        _Rows().attach(optimizer)
    return {table.weight for table in tables}


class _Rows:
    """What an Adam, which knows dense gradients only, does with sparse ones: it takes no note of them, and this does.

    As hooks, so that the optimiser stays what it is, and hooks of others see all weights move between theirs.
    """

    def attach(self, optimizer: Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda optimizer, *_: self._take(optimizer))
        optimizer.register_step_post_hook(lambda optimizer, *_: self._step(optimizer))

    def _take(self, optimizer: Optimizer) -> None:
        weights = optimizer.param_groups[0]["params"]
        self._gradients = {w: w.grad for w in weights if w.grad is not None and w.grad.is_sparse}
        for weight in self._gradients:
            weight.grad = None

    @torch.no_grad()
    def _step(self, optimizer: Optimizer) -> None:
        gradients, self._gradients = self._gradients, {}
        if bool(getattr(optimizer, "found_inf", False)):
            return
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        for weight, gradient in gradients.items():
            state = optimizer.state[weight]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["step"] += 1
            step, (rows,), values = float(state["step"]), gradient._indices(), gradient._values()
            mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
            square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
            state["exp_avg"].index_copy_(0, rows, mean)
            state["exp_avg_sq"].index_copy_(0, rows, square)
            rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
            weight.index_add_(0, rows, mean.div_(square.sqrt_().add_(group["eps"])), alpha=-rate)


def each_row_once(weights: Iterable[nn.Parameter]) -> None:
    """Adds up what a gradient has for the same row; weights without a gradient are passed over."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad = weight.grad.coalesce()


def rows_of(weight: Tensor) -> Tensor:
    """The weight; where its gradient is sparse, a tensor whose ``grad`` is that gradient's own rows, (rows, dim)."""
    if weight.grad is None or not weight.grad.is_sparse:
        return weight
    values = weight.grad._values()
    rows = values.detach()
    rows.grad = values
    return rows
