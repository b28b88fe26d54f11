"""DCNv2, the second Deep and Cross Network."""

from typing import Literal

import torch
from torch import nn

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import CrossNetV2, MLP_Block
from qin_zoo.layers import CrossNetMix, MeanPooling


@register_model(
    paper="Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank "
    "Systems, WWW 2021"
)
class DCNv2(ZooModel):
    """A cross network and DNNs on all features; of the history it sees the mean.

    Args:
        model_structure: the cross network alone, a DNN on its output, beside it, or both.
        use_low_rank_mixture: cross network of gated low-rank experts. Default: one full matrix per layer.
        low_rank: rank of an expert.
        num_experts: experts of each layer.
        stacked_dnn_hidden_units: sizes of the hidden layers of the DNN on the cross network.
        parallel_dnn_hidden_units: the same of the DNN beside it.
        dnn_activations: activation of the DNNs, or one for each layer.
        num_cross_layers: layers of the cross network.
        net_dropout: dropout rate of the DNNs, or one for each layer.
        batch_norm: batch normalisation in the DNNs.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "DCNv2",
        model_structure: Literal["crossnet_only", "stacked", "parallel", "stacked_parallel"] = "parallel",
        use_low_rank_mixture: bool = False,
        low_rank: int = 32,
        num_experts: int = 4,
        stacked_dnn_hidden_units: list[int] = (500, 500, 500),
        parallel_dnn_hidden_units: list[int] = (1024, 512, 256),
        dnn_activations: str | list[str] = "ReLU",
        num_cross_layers: int = 3,
        net_dropout: float | list[float] = 0.0,
        batch_norm: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.pooling = self.per_sequence(lambda dim: MeanPooling())
        n = self.context_dim + self.item_dim + self.interest_dim
        if use_low_rank_mixture:
            self.crossnet = CrossNetMix(n, num_cross_layers, low_rank, num_experts)
        else:
            self.crossnet = CrossNetV2(n, num_cross_layers)
        dnn = {"hidden_activations": dnn_activations, "dropout_rates": net_dropout, "batch_norm": batch_norm}
        self.stacked_dnn = self.parallel_dnn = None
        sizes = [n, 0]  # of what comes from the cross network, and from beside it
        if model_structure.startswith("stacked"):
            self.stacked_dnn = MLP_Block(n, list(stacked_dnn_hidden_units), **dnn)
            sizes[0] = [n, *stacked_dnn_hidden_units][-1]
        if model_structure.endswith("parallel"):
            self.parallel_dnn = MLP_Block(n, list(parallel_dnn_hidden_units), **dnn)
            sizes[1] = [n, *parallel_dnn_hidden_units][-1]
        self.fc = nn.Linear(sum(sizes), 1)

    def logits(self, x):
        interest = self.pooling(x.target, x.history, x.mask)  # (B, D)
        features = torch.cat([x.context, x.target, interest], dim=-1)  # (B, n)
        crossed = self.crossnet(features)
        parts = [crossed if self.stacked_dnn is None else self.stacked_dnn(crossed)]
        if self.parallel_dnn is not None:
            parts.append(self.parallel_dnn(features))
        return self.fc(torch.cat(parts, dim=-1))
