"""MLP without a history: the plainest baseline, a DNN on row features and target."""

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import MLP_Block


@register_model(paper="Baseline: a multi-layer perceptron")
class MLP(ZooModel):
    """A DNN on the row features and the target; the history is not used.

    Args:
        dnn_hidden_units: sizes of the hidden layers.
        dnn_activations: activation of the hidden layers, or one for each.
        net_dropout: dropout rate, or one for each hidden layer.
        batch_norm: batch normalisation in the hidden layers.
    """

    def __init__(
        self, feature_map, model_id: str = "MLP", dnn_hidden_units: list[int] = (512, 128, 64),
        dnn_activations: str | list[str] = "ReLU", net_dropout: float | list[float] = 0.0, batch_norm: bool = False,
        **kwargs
    ):  # fmt: skip
        super().__init__(feature_map, model_id=model_id, **kwargs)
        inputs, hidden = self.context_dim + self.item_dim, list(dnn_hidden_units)
        self.dnn = MLP_Block(inputs, hidden, dnn_activations, 1, dropout_rates=net_dropout, batch_norm=batch_norm)

    def logits(self, x):
        return self.dnn(torch.cat([x.context, x.target], dim=-1))
