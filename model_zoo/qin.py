"""QIN, the Quadratic Interest Network."""

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.layers import ASTA, QNN


@register_model(
    paper="Quadratic Interest Network for Multimodal CTR Prediction (WWW 2025 MM-CTR challenge, 2nd place)",
    published={"MicroLens_1M_x1": "valid AUC 0.9701, leaderboard AUC 0.9798"},
)
class QIN(ZooModel):
    """Sparse target attention over the history, then quadratic interaction of all features.

    Args:
        num_layers: layers of the quadratic network.
        num_row: linear maps summed in each layer; 4 is published, 3 is advised where training is unstable.
        net_dropout: dropout rate of the quadratic network.
        batch_norm: normalise each layer's product over the batch.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "QIN",
        num_layers: int = 3,
        num_row: int = 2,
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.attention_layers = ASTA(self.item_dim)
        self.qnn = QNN(
            self.context_dim + 2 * self.item_dim,
            num_layers=num_layers,
            num_row=num_row,
            net_dropout=net_dropout,
            batch_norm=batch_norm,
        )

    def logits(self, x):
        interest = self.attention_layers(x.target, x.history, x.mask)  # (B, D)
        return self.qnn(torch.cat([x.context, x.target, interest], dim=-1))
