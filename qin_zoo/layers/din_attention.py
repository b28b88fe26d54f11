"""The local activation unit of the Deep Interest Network (Zhou et al., KDD 2018, §4.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from qin_zoo.layers.chunks import in_chunks
from qin_zoo.layers.dropout import run_layers
from qin_zoo.layers.folding import fold_steps
from qin_zoo.layers.history import History, ItemRows, SharedHistory, dense, take_rows, weighted_sum
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax


class DINAttention(InterestLayer):
    """Pools the history with weights from an MLP on ``[t; h_l; t − h_l; t ⊙ h_l]``.

    The MLP's first layer is linear in its four parts, ``(W_1 + W_3) t + (W_2 − W_3) h + W_4 (t ⊙ h)``: the first
    needs computing once per row, the second once per distinct item, only the last at every position. Padding is
    left out, unless the MLP takes statistics over a batch (Dice or a batch norm, in training): those include the
    padding, and the published checkpoints were trained so. To know how much is left a GPU is waited for, once.

    Args:
        attention_layer: an MLP (N, 4·D) -> (N, 1): FuxiCTR's ``MLP_Block`` or an ``nn.Sequential``, its first layer
            linear.
        use_softmax: normalise the weights over the history's real items; a row without any has interest 0, where
            FuxiCTR's layer gives the mean of its padding. Default: the plain, unnormalised weights.
    """

    def __init__(self, attention_layer: nn.Module, use_softmax: bool = False):
        super().__init__()
        self.attention_layer = attention_layer
        self.use_softmax = use_softmax
        if not isinstance(self._steps()[0], nn.Linear):
            raise ValueError(f"attention_layer must begin with a linear layer, not {type(self._steps()[0]).__name__}.")

    def _steps(self) -> nn.Sequential:
        return getattr(self.attention_layer, "mlp", self.attention_layer)

    def _places(self, mask: Tensor) -> Tensor:
        """Which positions the MLP has to see: indices of the flattened (B·L,) positions, (N,)."""
        takes_statistics = any(isinstance(m, _BatchNorm) and m.training for m in self.attention_layer.modules())
        if takes_statistics or torch.compiler.is_dynamo_compiling():  # which leaves nothing out
            return torch.arange(mask.numel(), device=mask.device)
        return mask.flatten().nonzero().squeeze(1)

    def _scores(self, target: Tensor, history: History, length: int) -> Callable[[Tensor], Tensor]:
        """What the MLP gives at places (N,), (N, 1)."""
        first, *rest = self._steps()
        w_t, w_h, w_difference, w_product = first.weight.chunk(4, dim=1)  # (H, D) each
        by_target = F.linear(target, w_t + w_difference, first.bias)  # (B, H)
        items, index = history if isinstance(history, ItemRows) else (history.flatten(0, 1), None)
        by_item = F.linear(items, w_h - w_difference)  # (U, H)

        def scores(places: Tensor) -> Tensor:
            if len(places) == len(target) * length:  # all, in their order: nothing to look up, nor to sum up backward
                item = places if index is None else index.flatten()
                of_row, of_target = (values.repeat_interleave(length, dim=0) for values in (target, by_target))
            else:
                item = places if index is None else index.flatten()[places]
                of_row, of_target = (take_rows(values, places // length) for values in (target, by_target))
            x = F.linear(of_row * take_rows(items, item), w_product)  # (N, H)
            x = x + of_target + take_rows(by_item, item)
            return run_layers(rest, x)  # torch's own dropout draws a number for each element, one after the other

        return scores

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        history = dense(history) if isinstance(history, SharedHistory) else history
        batch, length = mask.shape
        mask, places = mask.bool(), self._places(mask.bool())
        if not len(places):  # an MLP with batch norm cannot run on no rows
            return target.new_zeros(batch, length)
        scores = self._scores(target, history, length)
        x = scores(places) if self.training else in_chunks(scores, places, rows=4096)
        weight = x.new_zeros(batch * length).index_copy(0, places, x.flatten()).view(batch, length)
        return masked_softmax(weight, mask) if self.use_softmax else weight * mask

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        return weighted_sum(self.weights(target, history, mask), history)

    @torch.no_grad()
    def folded(self) -> FoldedDINAttention:
        """The same for scoring requests: no shape depends on how much of the history is real."""
        return FoldedDINAttention(self)


class FoldedDINAttention(InterestLayer):
    """:class:`DINAttention` in evaluation; the share of the items in its first layer is computed once for each.

    Args:
        layer: the layer to fold.
    """

    def __init__(self, layer: DINAttention):
        super().__init__()
        first, *rest = fold_steps(list(layer._steps()))
        w_t, w_h, w_difference, w_product = first.weight.double().chunk(4, dim=1)  # (H, D) each
        weights = {"by_target": w_t + w_difference, "by_item": w_h - w_difference, "by_product": w_product}
        for name, weight in weights.items():
            self.register_buffer(name, weight.to(first.weight.dtype))
        self.register_buffer("bias", first.bias)
        self.rest, self.use_softmax = nn.Sequential(*rest), layer.use_softmax

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        h = history.items if isinstance(history, SharedHistory) else dense(history)  # (L, D) or (B, L, D)
        x = F.linear(target.unsqueeze(1) * h, self.by_product)  # (B, L, H)
        x = x + F.linear(target, self.by_target, self.bias).unsqueeze(1) + F.linear(h, self.by_item)
        weight = self.rest(x.flatten(0, 1)).view(x.shape[:2])  # (B, L)
        return masked_softmax(weight, mask) if self.use_softmax else weight * mask

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        return weighted_sum(self.weights(target, history, mask), history)
