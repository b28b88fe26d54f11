"""QIN, the Quadratic Interest Network."""

from functools import partial
from typing import Literal

import torch
from torch import nn

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import CrossNetV2, MLP_Block
from qin_zoo.layers import ASTA, QNN, MeanPooling, choose

ATTENTIONS = {
    "asta": ASTA,
    "softmax": partial(ASTA, normalize=True),
    "mean": lambda item_dim: MeanPooling(),
    "none": None,
}


@register_model(
    paper="Quadratic Interest Network for Multimodal CTR Prediction (WWW 2025 MM-CTR challenge, 2nd place)",
    published={"MicroLens_1M_x1": "valid AUC 0.9701, leaderboard AUC 0.9798"},
)
class QIN(ZooModel):
    """Sparse target attention over the history, then quadratic interaction of all features.

    Args:
        num_layers: layers of the quadratic network, or of the cross network.
        num_row: linear maps summed in each layer; 4 is published, 3 is advised where training is unstable.
        net_dropout: dropout rate of the quadratic network, or of the MLP.
        batch_norm: normalise each layer's product over the batch; the hidden layers of the MLP.
        attention: ``asta``; for ablations ``softmax`` (the same projections, weights that sum to one), ``mean`` of
            the history, or ``none``: the history is not used.
        interaction: ``qnn``; for ablations ``mlp``, or ``cross`` (DCNv2's cross network, then a linear output).
        dnn_hidden_units: sizes of the MLP's hidden layers; of no meaning without it.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "QIN",
        num_layers: int = 3,
        num_row: int = 2,
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        attention: Literal["asta", "softmax", "mean", "none"] = "asta",
        interaction: Literal["qnn", "mlp", "cross"] = "qnn",
        dnn_hidden_units: list[int] = (512, 128, 64),
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        make = choose(ATTENTIONS, attention, "attention")
        self.attention_layers = self.per_sequence(make) if make else None
        n = self.context_dim + self.item_dim + self.interest_dim
        heads = {
            "qnn": lambda: QNN(n, num_layers, num_row, net_dropout, batch_norm),
            "mlp": lambda: MLP_Block(
                n, list(dnn_hidden_units), output_dim=1, dropout_rates=net_dropout, batch_norm=batch_norm
            ),
            "cross": lambda: nn.Sequential(CrossNetV2(n, num_layers), nn.Linear(n, 1)),
        }
        self.interaction = interaction
        self.add_module(interaction, choose(heads, interaction, "interaction")())  # self.qnn in published checkpoints

    def logits(self, x):
        features = [x.context, x.target]
        if self.attention_layers is not None:
            features.append(self.attention_layers(x.target, x.history, x.mask))  # (B, D)
        return self.get_submodule(self.interaction)(torch.cat(features, dim=-1))
