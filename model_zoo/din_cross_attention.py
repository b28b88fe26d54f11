"""DIN beside an encoder in which the target looks at the history, layer after layer."""

from typing import Literal

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import CrossAttentionEncoder, DINAttention


@register_model(
    paper="DIN_att6 and DIN_att_emb_rms (WWW 2025 MM-CTR challenge, Gavin113/WWW2025_MMCTR and Tol1ve/MM-CTR-MMCTRers)",
    published={"MicroLens_1M_x1": "valid AUC 0.9853, leaderboard 0.9887 (DIN_att6); valid 0.9862 (DIN_att_emb_rms)"},
)
class DIN_CrossAttention(ZooModel):
    """DIN's pooling and a cross-attention encoder draw two interests, which a DNN reads with context and target.

    Args:
        num_layers: layers of the encoder.
        num_heads: heads of each layer's attention; divides the size of an item.
        rms_norm: where the encoder normalises: ``shared``, one weight a layer for the history and for the sum of query
            and attention, as in DIN_att6; ``separate``, one for the attention's output and for either sum, as in
            DIN_att_emb_rms.
        if_use_self_attn: one layer more, through which the encoder's history looks at itself first.
        attention_hidden_units: sizes of the hidden layers of DIN's attention MLP.
        attention_hidden_activations: activation of that MLP, or one for each layer.
        din_use_softmax: normalise DIN's attention weights over the history.
        attention_dropout: dropout rate of that MLP and of the encoder.
        dnn_hidden_units: sizes of the DNN's hidden layers.
        dnn_activations: activation of the DNN, or one for each layer.
        batch_norm: batch normalisation in the DNN.
        net_dropout: dropout rate of the DNN, or one for each layer.
    """

    published_names = {
        r"target_attention\.layers\.\d+\.cross_attn\.norm\.": None,  # takes part in nothing
        r"target_attention\.": "cross_attention_layers.",
    }

    def __init__(
        self,
        feature_map,
        model_id: str = "DIN_CrossAttention",
        num_layers: int = 2,
        num_heads: int = 4,
        rms_norm: Literal["shared", "separate"] = "separate",
        if_use_self_attn: bool = False,
        attention_hidden_units: list[int] = (512, 256),
        attention_hidden_activations: str | list[str] = "ReLU",
        din_use_softmax: bool = False,
        attention_dropout: float = 0.0,
        dnn_hidden_units: list[int] = (1024, 512, 256, 64, 16),
        dnn_activations: str | list[str] = "ReLU",
        batch_norm: bool = False,
        net_dropout: float | list[float] = 0.0,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        mlp = (list(attention_hidden_units), attention_hidden_activations, 1, None, attention_dropout)
        self.attention_layers = self.per_sequence(lambda dim: DINAttention(MLP_Block(4 * dim, *mlp), din_use_softmax))
        encoder = (num_layers, num_heads, attention_dropout, rms_norm, if_use_self_attn)
        self.cross_attention_layers = self.per_sequence(lambda dim: CrossAttentionEncoder(dim, *encoder))
        width, head = self.context_dim + self.item_dim + 2 * self.interest_dim, list(dnn_hidden_units)
        self.dnn = MLP_Block(width, head, dnn_activations, 1, dropout_rates=net_dropout, batch_norm=batch_norm)

    def logits(self, x):
        pooled = self.attention_layers(x.target, x.history, x.mask)  # (B, D)
        looked = self.cross_attention_layers(x.target, x.history, x.mask)  # (B, D)
        return self.dnn(torch.cat([x.context, x.target, pooled, looked], dim=-1))
