"""DeepFM: a factorization machine beside a DNN."""

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import FactorizationMachine, MLP_Block
from qin_zoo.layers import MeanPooling, UnifiedEmbedding


@register_model(
    paper="Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017"
)
class DeepFM(ZooModel):
    """First and second order by a factorization machine, higher orders by a DNN; of the history it sees the mean.

    Every feature is a field of size ``embedding_dim``; one of another size passes through a linear map.

    Args:
        hidden_units: sizes of the DNN's hidden layers.
        hidden_activations: activation of the DNN, or one for each layer.
        net_dropout: dropout rate of the DNN, or one for each layer.
        batch_norm: batch normalisation in the DNN.
    """

    def __init__(
        self, feature_map, model_id: str = "DeepFM", hidden_units: list[int] = (64, 64, 64),
        hidden_activations: str | list[str] = "ReLU", net_dropout: float | list[float] = 0.0, batch_norm: bool = False,
        **kwargs
    ):  # fmt: skip
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.fm = FactorizationMachine(feature_map)
        self.see_weights(self.fm.lr_layer.embedding_layer.embedding_layer)
        self.pooling = self.per_sequence(lambda dim: MeanPooling())
        self.fields = UnifiedEmbedding([dim - 1 for dim in self.field_dims], self.embedding_dim)
        inputs, units = len(self.field_dims) * self.embedding_dim, list(hidden_units)
        self.mlp = MLP_Block(inputs, units, hidden_activations, 1, dropout_rates=net_dropout, batch_norm=batch_norm)

    def logits(self, x):
        interest = self.pooling(x.target, x.history, x.mask)
        parts = torch.cat([x.context, x.target, interest], dim=-1).split(self.field_dims, dim=-1)
        weights = torch.cat([part[:, -1:] for part in parts], dim=-1)  # (B, F)
        flat = self.fields(torch.cat([part[:, :-1] for part in parts], dim=-1))  # (B, F · E)
        second = self.fm.fm_layer(flat.unflatten(1, (-1, self.embedding_dim)))
        return weights.sum(dim=1, keepdim=True) + self.fm.lr_layer.bias + second + self.mlp(flat)
