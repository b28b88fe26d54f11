"""FCN (DCNv3): an exponential and a linear cross network, without a DNN."""

import torch
from torch import relu

from qin_zoo import ZooModel, register_model
from qin_zoo.errors import ModelError
from qin_zoo.layers import MaskedCrossNetwork, MeanPooling, UnifiedEmbedding


@register_model(paper="Li et al., FCN: Fusing Exponential and Linear Cross Network (DCNv3), arXiv 2407.13349")
class FCN(ZooModel):
    """Two cross networks over heads of every field; each predicts, and the prediction is of their mean logit.

    The weaker of the two has more weight in the loss (Tri-BCE). Of the history it sees the mean.

    Args:
        embedding_dim: size of a field in one head, even; its table is ``num_heads`` times as wide.
        num_heads: heads.
        num_deep_cross_layers: layers of the exponential network.
        num_shallow_cross_layers: layers of the linear network.
        deep_net_dropout: dropout rate of the exponential network.
        shallow_net_dropout: dropout rate of the linear network.
        layer_norm: layer normalisation of what masks each layer.
        batch_norm: batch normalisation in each layer, a channel for each head.
    """

    published_names = {r"embedding_layer\.embedding_layer\.embedding_layer\.": "embedding_layer.embedding_layer."}

    def __init__(
        self,
        feature_map,
        model_id: str = "FCN",
        embedding_dim: int = 16,
        num_heads: int = 4,
        num_deep_cross_layers: int = 4,
        num_shallow_cross_layers: int = 4,
        deep_net_dropout: float = 0.0,
        shallow_net_dropout: float = 0.0,
        layer_norm: bool = True,
        batch_norm: bool = True,
        **kwargs,
    ):
        if embedding_dim % 2:
            raise ModelError(f"FCN: expected an even embedding_dim, as fields are halved, found {embedding_dim}.")
        super().__init__(feature_map, model_id=model_id, embedding_dim=num_heads * embedding_dim, **kwargs)
        self.num_heads = num_heads
        self.pooling = self.per_sequence(lambda dim: MeanPooling())
        self.fields = UnifiedEmbedding(self.field_dims, self.embedding_dim)
        n = len(self.field_dims) * embedding_dim
        norms = {"layer_norm": layer_norm, "batch_norm": batch_norm}
        self.ECN = MaskedCrossNetwork(n, num_deep_cross_layers, num_heads, True, deep_net_dropout, **norms)
        self.LCN = MaskedCrossNetwork(n, num_shallow_cross_layers, num_heads, False, shallow_net_dropout, **norms)

    def heads(self, x):
        interest = self.pooling(x.target, x.history, x.mask)
        flat = self.fields(torch.cat([x.context, x.target, interest], dim=-1))
        halves = flat.unflatten(1, (len(self.field_dims), self.num_heads, 2, -1))  # (B, F, H, 2, d/2)
        first = halves.permute(0, 2, 3, 1, 4).flatten(2)  # (B, H, n)
        exponential, linear = self.ECN(first), self.LCN(first)
        return {"logits": (exponential + linear) / 2, "logits_d": exponential, "logits_s": linear}

    def logits(self, x):
        return self.heads(x)["logits"]

    def add_loss(self, return_dict, y_true):
        losses = [self.loss_of(return_dict[name], y_true, return_dict) for name in ("logits", "logits_d", "logits_s")]
        both, *single = map(self.of_batch, losses)
        return both + sum(loss * relu(loss - both) for loss in single)
