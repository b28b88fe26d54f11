"""FuxiCTR's regularisation, ``Σ (λ/q)·‖w‖_q^q`` for q of 1 and 2: one pass over each weight, one over its gradient."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qin_zoo.fuxi import FeatureEmbeddingDict, get_regularizer


class Penalty:
    """The regularisation of a model's weights.

    Args:
        model: its trainable weights are regularised; those inside a ``FeatureEmbeddingDict`` (tables, projections)
            count as embeddings.
        embedding: regulariser of embeddings: L2 weight, or FuxiCTR's ``l1(x)``, ``l2(x)``, ``l1_l2(x,y)``.
        net: regulariser of all other weights.
        shards: weights of which this process holds its own rows; :meth:`of_shards` is their penalty. Default: none.
        lazy: tables with sparse gradients; only :meth:`add_to_rows` penalises them. Default: none.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: float | str | None,
        net: float | str | None,
        shards: Collection[Tensor] = (),
        lazy: Collection[Tensor] = (),
    ):
        embeddings = {
            weight for m in model.modules() if isinstance(m, FeatureEmbeddingDict) for weight in m.parameters()
        }
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        groups = (
            (embedding, [w for w in trained if w in embeddings]),
            (net, [w for w in trained if w not in embeddings]),
        )
        own, lazy = set(shards), set(lazy)
        self._terms, self._own_terms, self._lazy_terms = (
            [
                (norm, strength, chosen)
                for regularizer, weights in groups
                for norm, strength in get_regularizer(regularizer)
                if strength and (chosen := [w for w in weights if (w in own, w in lazy) == kind])
            ]
            for kind in ((False, False), (True, False), (False, True))
        )

    def __call__(self) -> Tensor | float:
        """The penalty of the weights that every process holds, a scalar; 0.0 where nothing is regularised."""
        return _sum(self._terms)

    def of_shards(self) -> Tensor | float:
        """The penalty of this process's rows, a scalar: the whole penalty takes those of all processes."""
        return _sum(self._own_terms)

    @torch.no_grad()
    def add_to_rows(self) -> None:
        """Adds the penalty's gradient to those rows that the gradients of lazy tables have, each row once."""
        for norm, strength, weights in self._lazy_terms:
            for weight in weights:
                if weight.grad is not None:
                    rows = weight.index_select(0, weight.grad.indices()[0])
                    weight.grad.values().add_(rows if norm == 2 else rows.sign(), alpha=strength)


def _sum(terms: list[tuple[int, float, list[Tensor]]]) -> Tensor | float:
    norms = [_Norm.apply(norm, strength, *weights) for norm, strength, weights in terms]
    return sum(norms) if norms else 0.0  # whether a sum is 0, a GPU would have to be waited for


class _Norm(torch.autograd.Function):
    """``Σ (λ/q)·‖w‖_q^q`` with the gradient λ·w, or λ·sign(w)."""

    @staticmethod
    def forward(ctx, norm, strength, *weights):
        ctx.norm, ctx.strength = norm, strength
        ctx.save_for_backward(*weights)
        norms = torch.stack(torch._foreach_norm(weights, norm))
        return (norms**norm).sum() * (strength / norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        scale = grad * ctx.strength
        grads = (scale * (w if ctx.norm == 2 else w.sign()) for w in ctx.saved_tensors)
        return None, None, *grads
