"""The local activation unit of the Deep Interest Network (Zhou et al., KDD 2018, §4.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from qin_zoo.layers.chunks import in_chunks
from qin_zoo.layers.dice import can_count, dice
from qin_zoo.layers.dropout import row_chunks, run_layers
from qin_zoo.layers.folding import fold_steps
from qin_zoo.layers.history import History, ItemRows, SharedHistory, dense, sums_by_row, take_rows, weighted_sum
from qin_zoo.layers.interest import InterestLayer
from qin_zoo.layers.pooling import masked_softmax

_ELEMENTS = 1 << 18


class DINAttention(InterestLayer):
    """Pools the history with weights from an MLP on ``[t; h_l; t − h_l; t ⊙ h_l]``.

    The MLP's first layer is linear in its four parts, ``(W_1 + W_3) t + (W_2 − W_3) h + W_4 (t ⊙ h)``: the first
    needs computing once per row, the second once per distinct item, only the last at every position. Padding is
    left out, unless the MLP takes statistics over a batch (Dice or a batch norm, in training): those include the
    padding, and the published checkpoints were trained so. One padded position of a row, counted as often as there
    are, is enough for Dice on a CPU. To know how much is left a GPU is waited for, once.

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

    def _places(self, mask: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Which positions the MLP has to see, (N,) indices of the flattened (B·L,) ones; how many each of the last
        stands for, (R,), where its statistics are to be counted."""
        if torch.compiler.is_dynamo_compiling():  # which leaves nothing out
            return torch.arange(mask.numel(), device=mask.device), None
        norms = [m for m in self.attention_layer.modules() if isinstance(m, _BatchNorm) and m.training]
        if not norms:
            return mask.flatten().nonzero().squeeze(1), None
        if index is None or index.is_cuda or not self._can_count(len(norms)):
            return torch.arange(mask.numel(), device=mask.device), None
        padded = index[~mask]
        if (padded != padded[:1]).any():
            return torch.arange(mask.numel()), None
        counts = (~mask).sum(dim=1)  # (B,)
        rows = counts.nonzero().squeeze(1)
        one = rows * mask.shape[1] + (~mask[rows]).byte().argmax(dim=1)
        return torch.cat([mask.flatten().nonzero().squeeze(1), one]), counts[rows]

    def _can_count(self, norms: int) -> bool:
        """Whether equal places stay equal, and all ``norms`` that take statistics can count them."""
        drops = any(isinstance(m, nn.Dropout) and m.p and m.training for m in self.attention_layer.modules())
        return not drops and sum(can_count(step) for step in self._steps()) == norms

    def _scores(self, target: Tensor, history: History, length: int) -> Callable[..., Tensor]:
        """What the MLP gives at places (N,), the last of which stand for ``counts``: (N, 1)."""
        first, *rest = self._steps()
        w_t, w_h, w_difference, w_product = first.weight.chunk(4, dim=1)  # (H, D) each
        by_target = F.linear(target, w_t + w_difference, first.bias)  # (B, H)
        items, index = history if isinstance(history, ItemRows) else (history.flatten(0, 1), None)
        by_item = F.linear(items, w_h - w_difference)  # (U, H)
        if not torch.is_grad_enabled():  # once for all chunks; gradients are summed in the vectors' own precision
            target, items = target.to(by_target.dtype), items.to(by_target.dtype)

        def scores(places: Tensor, counts: Tensor | None = None) -> Tensor:
            item = places if index is None else index.flatten()[places]
            if not target.is_cuda and not torch.compiler.is_dynamo_compiling():
                x = _FirstLayer.apply(target, items, by_target, by_item, w_product, places // length, item)  # (N, H)
            else:
                if len(places) == len(target) * length:  # all, in their order: nothing to look up, nor to sum up
                    of_row, of_target = (values.repeat_interleave(length, dim=0) for values in (target, by_target))
                else:
                    of_row, of_target = (take_rows(values, places // length) for values in (target, by_target))
                x = F.linear(of_row * take_rows(items, item), w_product) + of_target + take_rows(by_item, item)
            if counts is None:
                return run_layers(rest, x)  # torch's own dropout draws a number for each element, one after the other
            for step in rest:
                x = dice(step, x, counts) if can_count(step) else step(x)
            return x

        return scores

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        history = dense(history) if isinstance(history, SharedHistory) else history
        batch, length = mask.shape
        mask = mask.bool()
        places, counts = self._places(mask, history.index if isinstance(history, ItemRows) else None)
        if not len(places):  # an MLP with batch norm cannot run on no rows
            return target.new_zeros(batch, length)
        scores = self._scores(target, history, length)
        x = scores(places, counts) if self.training else in_chunks(scores, places, rows=4096)
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


class _FirstLayer(torch.autograd.Function):
    """``W (t ⊙ h) + u + v`` at N places, t and u by row (B, …), h and v by item (U, …): (N, H).

    Nothing as long as N but its result is kept or passed over: what is read for some thousand places is read again for
    the gradients. On a CPU.
    """

    @staticmethod
    def forward(ctx, target, items, by_target, by_item, weight, row, item):
        dtype = by_target.dtype  # under autocast that of its products
        ctx.save_for_backward(target, items, weight, row, item)
        ctx.dtype, ctx.of_item = dtype, by_item.dtype
        target, items, weight, by_item = (values.to(dtype) for values in (target, items, weight, by_item))
        (hidden, size), parts = weight.shape, _parts(row, weight)
        out = torch.empty(len(row), hidden, dtype=dtype)
        rooms = [torch.empty(len(row[parts[0]]), n, dtype=dtype) for n in (size, size, hidden)]
        for part in parts:
            y, own_row, own_item = out[part], row[part], item[part]
            x, z, of_item = (room[: len(y)] for room in rooms)
            torch.index_select(target, 0, own_row, out=x).mul_(torch.index_select(items, 0, own_item, out=z))
            torch.index_select(by_target, 0, own_row, out=y).add_(torch.index_select(by_item, 0, own_item, out=of_item))
            y.addmm_(x, weight.t())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        target, items, weight, row, item = ctx.saved_tensors
        t, h, w, exact = target.to(ctx.dtype), items.to(ctx.dtype), weight.to(ctx.dtype), weight.dtype
        of_target, of_items, of_weight = (torch.zeros_like(values, dtype=exact) for values in (target, items, weight))
        parts = _parts(row, weight)
        rooms = [torch.empty(len(row[parts[0]]), weight.shape[1], dtype=ctx.dtype) for _ in range(4)]
        for part in parts:
            y, own_row, own_item = grad[part], row[part], item[part]
            x, z, product, both = (room[: len(y)] for room in rooms)
            torch.index_select(t, 0, own_row, out=x)
            torch.index_select(h, 0, own_item, out=z)
            of_weight += y.t() @ torch.mul(x, z, out=both)
            torch.mm(y, w, out=product)
            of_target.index_add_(0, own_row, z.mul_(product).to(exact))
            of_items.index_add_(0, own_item, x.mul_(product).to(exact))
        like = (target.dtype, items.dtype, ctx.dtype, ctx.of_item, exact)
        by_target, by_item = sums_by_row(grad, row, len(target)), sums_by_row(grad, item, len(items))
        found = (of_target, of_items, by_target, by_item, of_weight)
        return *(values.to(dtype) for values, dtype in zip(found, like)), None, None


def _parts(row: Tensor, weight: Tensor) -> list[slice]:
    """Places of which inputs and results stay in the processor's cache together."""
    return row_chunks(len(row), row.device, max(256, _ELEMENTS // max(weight.shape)))
