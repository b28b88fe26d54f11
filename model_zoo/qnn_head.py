"""QNN without a history: what QIN's quadratic network makes of row features and target alone."""

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.layers import QNN as QuadraticNetwork


@register_model(paper="Quadratic Interest Network for Multimodal CTR Prediction (WWW 2025), its head alone")
class QNN(ZooModel):
    """Quadratic interaction of the row features and the target; the history is not used.

    Args:
        num_layers: layers of the quadratic network.
        num_row: linear maps summed in each layer.
        net_dropout: dropout rate of each linear map and of each layer's output.
        batch_norm: normalise each layer's product over the batch.
    """

    def __init__(
        self, feature_map, model_id: str = "QNN", num_layers: int = 3, num_row: int = 2, net_dropout: float = 0.0,
        batch_norm: bool = False, **kwargs
    ):  # fmt: skip
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.qnn = QuadraticNetwork(self.context_dim + self.item_dim, num_layers, num_row, net_dropout, batch_norm)

    def logits(self, x):
        return self.qnn(torch.cat([x.context, x.target], dim=-1))
