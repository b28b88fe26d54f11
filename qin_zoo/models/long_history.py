"""What the models of long histories have in common: a short interest, a long one, and a DNN."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import RetrievedAttention, each_pair, newest_places
from qin_zoo.models.base import ZooModel
from qin_zoo.models.inputs import ModelInput


class LongHistoryModel(ZooModel):
    """Target attention to the newest items; beside it what a subclass finds in all of them; both into a DNN.

    A subclass makes the layer of its ``long_attention`` and implements :meth:`long_interest`.

    Args:
        dnn_hidden_units: sizes of the DNN's hidden layers.
        dnn_activations: activation of the DNN, or one for each layer.
        attention_dim: size of the attentions' projections, all heads together.
        num_heads: heads of the attentions; divides ``attention_dim``.
        use_scale: divide the attentions' dot products by the square root of a head's size.
        attention_dropout: dropout rate of the attentions' weights.
        short_seq_len: newest places of the history that the short interest looks at.
        published: what the published code does, to the last digit: one item less in the short interest, with the mask
            of the places one older; the mean of the padding where an attention finds no item. Histories shorter than
            ``short_seq_len``, which it cannot read, are taken as padded to that length.
        net_dropout: dropout rate of the DNN, or one for each layer.
        batch_norm: batch normalisation in the DNN.
        use_qkvo: projections in the attention to the newest places.
    """

    def __init__(
        self,
        feature_map,
        model_id: str,
        dnn_hidden_units: list[int] = (512, 128, 64),
        dnn_activations: str | list[str] = "ReLU",
        attention_dim: int = 64,
        num_heads: int = 1,
        use_scale: bool = True,
        attention_dropout: float = 0.0,
        short_seq_len: int = 50,
        published: bool = False,
        net_dropout: float | list[float] = 0.0,
        batch_norm: bool = False,
        use_qkvo: bool = True,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.short_seq_len, self.published = short_seq_len, published
        self.attention = {"attention_dim": attention_dim, "num_heads": num_heads, "use_scale": use_scale}
        self.attention |= {"dropout_rate": attention_dropout, "published": published}
        short = {"use_qkvo": use_qkvo, **self.attention}
        self.short_attention = self.per_sequence(lambda dim: RetrievedAttention(dim, **short))
        self._dnn = {"hidden_units": list(dnn_hidden_units), "hidden_activations": dnn_activations, "output_dim": 1}
        self._dnn |= {"dropout_rates": net_dropout, "batch_norm": batch_norm}
        self.dnn = self.make_dnn(self.context_dim + self.item_dim + 2 * self.interest_dim)

    @property
    def sees_padding(self) -> bool:
        """Whether padding in a history changes what comes out, so that a request must be padded as in training."""
        return self.published

    def make_dnn(self, input_dim: int) -> MLP_Block:
        """A network with the DNN's settings, (N, input_dim) -> (N, 1)."""
        return MLP_Block(input_dim, **self._dnn)

    def by_pair(self, values: Tensor, dim: int = 1) -> Tensor | list[Tensor]:
        """The part of each pair of (B, …, item_dim, …), ``dim`` being that dimension: of several pairs a list."""
        dims = [sum(pair.values()) for pair in self.pairs]
        return values if len(dims) == 1 else list(values.split(dims, dim))

    def beside(self, found: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """What :func:`~qin_zoo.layers.each_pair` gives of each pair, (B, D), side by side as the ``target`` is."""
        return torch.cat([target[:, :0], *found], dim=1) if isinstance(found, list) else found

    def short_interest(self, x: ModelInput) -> Tensor:
        """Attention to the newest places, (B, D)."""
        places = each_pair(lambda mask: newest_places(mask, self.short_seq_len - self.published), x.mask)
        masks = each_pair(lambda mask: F.pad(mask, (1, 0))[:, :-1], x.mask) if self.published else x.mask
        return self.short_attention(x.target, x.history, masks, places)

    def long_interest(self, x: ModelInput) -> Tensor:
        """What the model finds in the whole history, (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must implement long_interest(x).")

    def interests(self, x: ModelInput, *found) -> list[Tensor]:
        """Both interests, (B, D), in the order of the DNN's input; ``found`` is handed to :meth:`long_interest`."""
        return [self.short_interest(x), self.long_interest(x, *found)]

    def logits(self, x: ModelInput, *found) -> Tensor:
        return self.dnn(torch.cat([x.context, x.target, *self.interests(x, *found)], dim=-1))
