"""DIN, the Deep Interest Network."""

import torch
from torch.nn.functional import pad

from qin_zoo import ZooModel, register_model
from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import DINAttention, SimTier, cosines


@register_model(
    paper="Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018",
    published={"MicroLens_1M_x1": "valid AUC 0.8655 (challenge baseline)"},
)
class DIN(ZooModel):
    """Target attention by an MLP over the history, then a DNN.

    Args:
        dnn_hidden_units: sizes of the DNN's hidden layers.
        dnn_activations: activation of the DNN, or one for each layer.
        attention_hidden_units: sizes of the attention MLP's hidden layers.
        attention_hidden_activations: activation of the attention MLP, or one for each layer.
        attention_output_activation: activation of the attention weights. Default: none.
        attention_dropout: dropout rate of the attention MLP.
        din_use_softmax: normalise the attention weights over the history.
        net_dropout: dropout rate of the DNN, or one for each layer.
        batch_norm: batch normalisation in the DNN.
        simtier_content: an item feature whose stored vectors are compared: of every tier of the cosine with the target,
            the DNN sees how many items the history has in it (SimTier). Default: none.
        simtier_tiers: how many tiers [−1, 1] is cut into.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "DIN",
        dnn_hidden_units: list[int] = (512, 128, 64),
        dnn_activations: str | list[str] = "ReLU",
        attention_hidden_units: list[int] = (64,),
        attention_hidden_activations: str | list[str] = "Dice",
        attention_output_activation: str | None = None,
        attention_dropout: float | list[float] = 0.0,
        din_use_softmax: bool = False,
        net_dropout: float | list[float] = 0.0,
        batch_norm: bool = False,
        simtier_content: str | None = None,
        simtier_tiers: int = 10,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        mlp = {
            "hidden_units": list(attention_hidden_units),
            "hidden_activations": attention_hidden_activations,
            "output_dim": 1,
            "output_activation": attention_output_activation,
            "dropout_rates": attention_dropout,
        }
        self.attention_layers = self.per_sequence(lambda dim: DINAttention(MLP_Block(4 * dim, **mlp), din_use_softmax))
        self.simtier_content, self.simtier = simtier_content, SimTier(simtier_tiers) if simtier_content else None
        if simtier_content:
            self.use_content(simtier_content)
        self.dnn = MLP_Block(
            self.context_dim + self.item_dim + self.interest_dim + (simtier_tiers if simtier_content else 0),
            hidden_units=list(dnn_hidden_units),
            hidden_activations=dnn_activations,
            output_dim=1,
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )

    def from_fuxictr(self, state):
        if len(self.pairs) == 1:
            state = {name.replace("attention_layers.0.", "attention_layers."): w for name, w in state.items()}
        first, columns = state.get("dnn.mlp.0.weight"), self._inputs.fuxictr_columns()
        if first is not None and first.shape[1] >= max(columns):
            state["dnn.mlp.0.weight"] = pad(first, (0, 1))[:, columns]
        return state

    def logits(self, x):
        features = [x.context, x.target, self.attention_layers(x.target, x.history, x.mask)]
        if self.simtier:
            cosine = cosines(*x.content(self.simtier_content))  # (B, L)
            features.append(self.simtier(cosine, x.mask & (cosine != 0)))  # (B, simtier_tiers)
        return self.dnn(torch.cat(features, dim=-1))
