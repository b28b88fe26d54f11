"""The loss of a model's logits, as its parameters name it: of one process or of several, of weighted rows or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from qin_zoo.distributed import ALONE, Group
from qin_zoo.errors import ModelError
from qin_zoo.layers.losses import focal_loss, listwise_loss, pairwise_loss

COMPARING = ("pairwise", "jrc")  # losses of rows beside each other
_OF_CLICKS = (*COMPARING, "focal", "published")  # names that FuxiCTR does not know; all begin with its cross entropy


def name_in_fuxictr(loss: str) -> str:
    """FuxiCTR's name of a loss; of those it has none of, its binary cross entropy's."""
    return "binary_cross_entropy" if loss in _OF_CLICKS else loss


class Loss:
    """The loss of logits. Parameters: see :class:`~qin_zoo.models.base.ZooModel`.

    Args:
        name: of the loss.
        function: what FuxiCTR has under :func:`name_in_fuxictr`.
        activation: from logits to predictions.
        pos_weight, neg_weight, alpha, gamma: numbers.
        context: ``batch`` or ``group``.
        sample_weight, group_id: names of columns.

    Raises:
        ModelError: parameters that do not go together.
    """

    def __init__(
        self,
        name: str,
        function,
        activation,
        pos_weight: float,
        neg_weight: float,
        alpha: float,
        gamma: float,
        context: Literal["batch", "group"],
        sample_weight: str | None,
        group_id: str | None,
    ):
        self.name, self._function, self._activation = name, function, activation
        self._of_labels = (neg_weight, pos_weight) if (neg_weight, pos_weight) != (1, 1) else None
        self._alpha, self._gamma = alpha, gamma
        self._is_bce = function is F.binary_cross_entropy
        if self._of_labels and not self._is_bce:
            raise ModelError(f"pos_weight and neg_weight are for labels 0 and 1; loss {name} has none. Leave them.")
        if context == "group" and (name != "jrc" or group_id is None):
            mend = "set group_id" if name == "jrc" else "leave it out, as loss jrc alone has one"
            raise ModelError(f"loss_context: group compares rows of one group_id: {mend}, or set it to batch.")
        self._columns = [sample_weight] if sample_weight else []
        self._sample_weight, self._context = sample_weight, group_id if context == "group" else None
        self._columns += [self._context] if self._context else []
        self._group, self._share = ALONE, torch.ones(())

    def join(self, group: Group) -> None:
        """Is that of a batch of which each process has a part from now on."""
        self._group = group

    def take_share(self, rows: int, device: torch.device) -> Tensor | float:
        """What a mean over this process's ``rows`` counts in the whole batch, a scalar; asked for in every step."""
        if not self._group.active:
            return 1.0
        own = torch.tensor(float(rows), device=device)
        self._share = own / self._group.sum(own.clone())
        return self._share

    def columns(self, rows: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """What it needs of a batch's rows beside the labels, (B,) each.

        Raises:
            ModelError: the batch lacks a column.
        """
        for name in self._columns:
            if name not in rows:
                raise ModelError(
                    f"The loss needs the column '{name}' (sample_weight or group_id), and the batch has "
                    f"{', '.join(rows)}. Name a column of the training rows."
                )
        return {name: rows[name].to(device, non_blocking=True).view(-1) for name in self._columns}

    def __call__(self, logits: Tensor, labels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """The batch's loss; in a group to be multiplied by the share of its process.

        Args:
            logits: (B, 1) or (B,), float32.
            labels: of as many numbers.
            columns: :meth:`columns` among others.

        Returns:
            a scalar; NaN where a logit is.
        """
        logits = logits.view(-1)
        labels = labels.view(-1).to(logits.dtype)
        given = columns[self._sample_weight].to(logits.dtype) if self._sample_weight else None
        by_row = self._pointwise(logits, labels, given)
        if self.name not in COMPARING:
            return by_row
        parts = [logits, labels, torch.ones_like(labels) if given is None else given]
        parts += [columns[self._context]] if self._context else []
        parts = [self._of_all(part) for part in parts]
        compared = (pairwise_loss if self.name == "pairwise" else listwise_loss)(*parts)
        return self._alpha * by_row + (1 - self._alpha) * compared

    def _pointwise(self, logits: Tensor, labels: Tensor, given: Tensor | None) -> Tensor:
        """The mean over rows, each multiplied by its weight; the mean divides by their number."""
        weight = given
        if self._of_labels:
            negative, positive = self._of_labels
            of_label = negative + (positive - negative) * labels
            weight = of_label if given is None else of_label * given
        if self.name == "focal":
            losses = focal_loss(logits, labels, self._gamma)
        elif not self._is_bce:
            losses = self._function(self._activation(logits), labels, reduction="none")
        elif self.name != "published":
            return F.binary_cross_entropy_with_logits(logits, labels, weight)
        else:
            y_pred = self._activation(logits)
            known = torch.isfinite(y_pred)  # torch refuses others
            loss = F.binary_cross_entropy(torch.where(known, y_pred, 0.5), labels, weight)
            return torch.where(known.all(), loss, torch.nan)
        return (losses if weight is None else losses * weight).mean()

    # ---- several processes

    def of_batch(self, mean: Tensor) -> Tensor:
        """The whole batch's mean, a scalar, from that over this process's rows; for losses that are no sums over rows.

        Its gradient is the mean's own, as :meth:`take_share` weighs it later.
        """
        if not self._group.active:
            return mean
        return mean + (self._group.sum(mean.detach() * self._share) - mean.detach())

    def _of_all(self, values: Tensor) -> Tensor:
        return _Gathered.apply(values, self._group, self._share) if self._group.active else values


class _Gathered(torch.autograd.Function):
    """The rows of all processes. Each computes the whole batch's loss of them, which its share is taken of later."""

    @staticmethod
    def forward(ctx, values, group, share):
        sizes = group.gather_rows(torch.tensor([len(values)], device=values.device)).tolist()
        ctx.first, ctx.rows, ctx.share = sum(sizes[: group.rank]), len(values), share
        return group.gather_rows(values)

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.first : ctx.first + ctx.rows] / ctx.share, None, None
