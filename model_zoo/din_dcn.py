"""DIN-DCN: target attention into a deep and cross network."""

from typing import Literal

import torch
from torch import nn

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import CrossNetV2, MLP_Block
from qin_zoo.layers import CrossNetMix, MultiHeadTargetAttention


@register_model(paper="Wang et al., DCN V2, WWW 2021, on multi-head target attention over the history")
class DIN_DCN(ZooModel):
    """Multi-head target attention draws the interest; a DCNv2 lets it interact with context and target.

    Args:
        num_heads: heads of the target attention; divides ``attention_dim``.
        attention_dim: size of the attention's projections, all heads together. Default: that of an item.
        attention_dropout: dropout rate of the attention weights.
        model_structure: the DNN on the cross network's output, or beside it.
        num_cross_layers: layers of the cross network.
        use_low_rank_mixture: cross network of gated low-rank experts. Default: one full matrix per layer.
        low_rank: rank of an expert.
        num_experts: experts of each layer.
        stacked_dnn_hidden_units: sizes of the DNN's hidden layers when stacked.
        parallel_dnn_hidden_units: the same when parallel.
        batch_norm: batch normalisation in the DNN.
        net_dropout: dropout rate of the DNN, or one for each layer.
        dnn_activations: activation of the DNN, or one for each layer.
    """

    published_names = {
        r"attention_layers\.attention_layer\.": None,  # a DIN attention that takes part in nothing
        r"attention_layers_multi\.": "attention_layers.",
        r"dcn_v2\.stacked_dnn\.": "dnn.",
        r"dcn_v2\.": "",
    }

    def __init__(
        self,
        feature_map,
        model_id: str = "DIN_DCN",
        num_heads: int = 4,
        attention_dim: int | None = None,
        attention_dropout: float = 0.0,
        model_structure: Literal["stacked", "parallel"] = "parallel",
        use_low_rank_mixture: bool = False,
        low_rank: int = 32,
        num_experts: int = 4,
        num_cross_layers: int = 3,
        stacked_dnn_hidden_units: list[int] = (512, 256),
        parallel_dnn_hidden_units: list[int] = (512, 256),
        dnn_activations: str | list[str] = "ReLU",
        net_dropout: float | list[float] = 0.0,
        batch_norm: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.attention_layers = self.per_sequence(
            lambda dim: MultiHeadTargetAttention(dim, attention_dim, num_heads, dropout_rate=attention_dropout)
        )
        input_dim = self.context_dim + self.item_dim + self.interest_dim  # n
        if use_low_rank_mixture:
            self.crossnet = CrossNetMix(input_dim, num_cross_layers, low_rank=low_rank, num_experts=num_experts)
        else:
            self.crossnet = CrossNetV2(input_dim, num_cross_layers)
        self.stacked = model_structure == "stacked"
        units = list(stacked_dnn_hidden_units if self.stacked else parallel_dnn_hidden_units)
        self.dnn = MLP_Block(input_dim, units, dnn_activations, dropout_rates=net_dropout, batch_norm=batch_norm)
        deep_dim = units[-1] if units else input_dim
        self.fc = nn.Linear(deep_dim if self.stacked else input_dim + deep_dim, 1)

    def logits(self, x):
        interest = self.attention_layers(x.target, x.history, x.mask)  # (B, D)
        features = torch.cat([x.context, x.target, interest], dim=-1)  # (B, n)
        crossed = self.crossnet(features)
        if self.stacked:
            return self.fc(self.dnn(crossed))
        return self.fc(torch.cat([crossed, self.dnn(features)], dim=-1))
