"""FusionNet: a pooled history and a DNN, to compare ways of fusing an item's id, tags and modalities."""

from typing import Literal

import torch

from qin_zoo import ZooModel, register_model
from qin_zoo.errors import ModelError
from qin_zoo.fuxi import MLP_Block
from qin_zoo.layers import MeanPooling, TargetAttentionPooling, choose, make_fusion, map_items


@register_model(paper="Baselines of multimodal fusion: LMF (Liu et al., ACL 2018), TFN (Zadeh et al., EMNLP 2017)")
class FusionNet(ZooModel):
    """Fuses the features of each item to one vector, pools the history of such vectors, and runs a DNN.

    Args:
        fusion: how an item's features become one vector; ``lmf`` is low-rank, ``mtfn`` full tensor fusion.
        fusion_dim: size of that vector.
        gate_activation: of fusion ``gate`` alone.
        rank: of fusion ``lmf`` alone: number of products summed.
        tensor_dim: of fusion ``mtfn`` alone: size of a projected feature; their outer product has
            ``(tensor_dim + 1)`` to the power of the number of features.
        pooling: ``mean`` of the history's items, or ``attention`` by the target.
        dnn_hidden_units: sizes of the DNN's hidden layers.
        batch_norm: batch normalisation in the DNN.
        net_dropout: dropout rate of the DNN, or one for each layer.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "FusionNet",
        fusion: Literal["concat", "sum", "gate", "attention", "lmf", "mtfn"] = "concat",
        fusion_dim: int = 64,
        gate_activation: Literal["sigmoid", "softmax"] = "sigmoid",
        rank: int = 4,
        tensor_dim: int = 4,
        pooling: Literal["mean", "attention"] = "attention",
        dnn_hidden_units: list[int] = (512, 128, 64),
        batch_norm: bool = False,
        net_dropout: float | list[float] = 0.0,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        options = {
            "gate": {"gate_activation": gate_activation},
            "lmf": {"rank": rank},
            "mtfn": {"tensor_dim": tensor_dim},
        }
        try:
            self.fusion = self.per_item(lambda dims: make_fusion(fusion, dims, fusion_dim, **options.get(fusion, {})))
        except ValueError as error:
            raise ModelError(str(error)) from None
        make = choose({"mean": lambda dim: MeanPooling(), "attention": TargetAttentionPooling}, pooling, "pooling")
        self.pooling = self.per_sequence(make, [fusion_dim for _ in self.pairs])
        size = self.context_dim + 2 * self.interest_dim
        self.dnn = MLP_Block(
            size, list(dnn_hidden_units), output_dim=1, dropout_rates=net_dropout, batch_norm=batch_norm
        )

    def logits(self, x):
        target = self.fusion(x.target)  # (B, fusion_dim)
        interest = self.pooling(target, map_items(self.fusion, x.history), x.mask)  # (B, fusion_dim)
        return self.dnn(torch.cat([x.context, target, interest], dim=-1))
