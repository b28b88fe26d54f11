"""What the layers that draw an interest from a history have in common."""

from __future__ import annotations

from torch import Tensor, nn

from qin_zoo.layers.history import History


class InterestLayer(nn.Module):
    """A layer that draws the user's interest in a target from the history; any of them can replace another."""

    def weights(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        """How much each item of the history counts; :meth:`forward` sums with these very weights.

        Args:
            target, history, mask: see :meth:`forward`.

        Returns:
            (B, L), or (B, K, L) for K heads; 0 where the history has no item.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement weights(target, history, mask).")

    def forward(self, target: Tensor, history: History, mask: Tensor) -> Tensor:
        """Interest of the user in the target.

        Args:
            target: (B, D); a pooling may leave it out of account.
            history: (B, L, D), item rows, or a history that all rows share.
            mask: (B, L), true where the history has an item.

        Returns:
            (B, D).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(target, history, mask).")
