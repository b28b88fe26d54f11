"""Transformer-DCN, the challenge's winner: a target-aware Transformer below a deep and cross network."""

from typing import Literal

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import CrossNetV2, MLP_Block
from qin_zoo.layers import TargetTransformer


@register_model(
    paper="Transformer and DCNv2 (WWW 2025 MM-CTR challenge, 1st place)",
    published={"MicroLens_1M_x1": "valid AUC 0.9766, leaderboard AUC 0.9839"},
)
class Transformer_DCN(ZooModel):
    """A Transformer over the history beside the target, then a cross network parallel to a DNN, then an MLP.

    Args:
        hidden_activations: activation of DNN and MLP, or one for each layer.
        dcn_cross_layers: layers of the cross network.
        dcn_hidden_units: sizes of the DNN parallel to the cross network.
        mlp_hidden_units: sizes of the hidden layers of the MLP on top of both.
        num_heads: attention heads of the Transformer; a divisor of twice the item representation's size.
        transformer_layers: encoder layers of the Transformer.
        transformer_dropout: dropout rate of the Transformer.
        dim_feedforward: hidden size of the Transformer's feed-forward networks.
        net_dropout: dropout rate of the DNN; the MLP has none.
        first_k_cols: how many of the Transformer's last outputs are kept as they are.
        concat_max_pool: add the maximum of all its outputs.
        mask_convention: ``published`` hides the items from the attention and shows it the padding, as the
            published code does; ``history`` hides the padding.
        batch_norm: batch normalisation in the DNN; the MLP has none.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "Transformer_DCN",
        hidden_activations: str | list[str] = "ReLU",
        dcn_cross_layers: int = 3,
        dcn_hidden_units: list[int] = (1024, 512, 256),
        mlp_hidden_units: list[int] = (64, 32),
        num_heads: int = 1,
        transformer_layers: int = 2,
        transformer_dropout: float = 0.0,
        dim_feedforward: int = 256,
        net_dropout: float = 0.0,
        first_k_cols: int = 16,
        concat_max_pool: bool = True,
        mask_convention: Literal["published", "history"] = "published",
        batch_norm: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        transformer = {
            "num_heads": num_heads,
            "transformer_layers": transformer_layers,
            "dim_feedforward": dim_feedforward,
            "transformer_dropout": transformer_dropout,
            "first_k_cols": first_k_cols,
            "concat_max_pool": concat_max_pool,
            "mask_convention": mask_convention,
        }
        self.transformer_encoder = self.per_sequence(lambda dim: TargetTransformer(dim, **transformer))
        width = self.context_dim + self.item_dim + self.interest_dim
        dnn, mlp = list(dcn_hidden_units), list(mlp_hidden_units)
        self.crossnet = CrossNetV2(width, dcn_cross_layers)
        self.parallel_dnn = MLP_Block(width, dnn, hidden_activations, dropout_rates=net_dropout, batch_norm=batch_norm)
        self.mlp = MLP_Block(width + dnn[-1], mlp, hidden_activations, output_dim=1)

    def logits(self, x):
        interest = self.transformer_encoder(x.target, x.history, x.mask)  # (B, (first_k_cols + 1)·2D)
        features = torch.cat([x.context, x.target, interest], dim=-1)
        return self.mlp(torch.cat([self.crossnet(features), self.parallel_dnn(features)], dim=-1))
