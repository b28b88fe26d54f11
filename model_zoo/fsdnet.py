"""FSDNet: every layer of a cross network and a DNN predicts, and learns from the deepest."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from qin_zoo import ZooModel, register_model
from qin_zoo.errors import ModelError
from qin_zoo.fuxi import CrossNetV2
from qin_zoo.layers import MeanPooling


@register_model(paper="Sang et al., FSDNet, arXiv 2411.07508, 2024")
class FSDNet(ZooModel):
    """Cross network and DNN are fused after each layer, each fusion predicts; the prediction is their mean.

    The deepest is the others' teacher, and learns from them, too. Of the history it sees the mean.

    Args:
        parallel_dnn_hidden_units: sizes of the DNN's hidden layers, all equal; as many as cross layers.
        num_cross_layers: layers of the cross network.
        net_dropout: dropout rate of the DNN.
        batch_norm: batch normalisation in the DNN.
        choice: 2 is the whole loss; 0 leaves the fusions' distance out, 1 the distance of predictions.
        loss_coefficient: α, share of the labels' loss; the distance of predictions has the rest.
        fea_coefficient: β, weight of the fusions' distance.
        Temp: τ, temperature of the distance of predictions.
        published: the published code's loss and unused layer in place of the paper's loss; see the model's page.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "FSDNet",
        parallel_dnn_hidden_units: list[int] = (400, 400, 400),
        num_cross_layers: int = 3,
        net_dropout: float = 0.0,
        batch_norm: bool = True,
        choice: Literal[0, 1, 2] = 2,
        loss_coefficient: float = 0.5,
        fea_coefficient: float = 0.01,
        Temp: float = 1.0,
        published: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        units = list(parallel_dnn_hidden_units)
        if not units or units != units[:1] * num_cross_layers or Temp <= 0:
            raise ModelError(
                f"FSDNet: expected Temp greater than 0 and parallel_dnn_hidden_units of one size for each of "
                f"num_cross_layers, found {Temp}, {units} and {num_cross_layers}."
            )
        self.choice, self.alpha, self.beta, self.temperature = choice, loss_coefficient, fea_coefficient, Temp
        self.published = published
        self.pooling = self.per_sequence(lambda dim: MeanPooling())
        n = self.context_dim + self.item_dim + self.interest_dim
        self.crossnet = CrossNetV2(n, num_cross_layers)
        norm = nn.BatchNorm1d if batch_norm else nn.Identity
        layers = [
            nn.Sequential(nn.Linear(before, size), norm(size), nn.ReLU(), nn.Dropout(net_dropout))
            for before, size in zip([n, *units], units)
        ]
        self.parallel_dnn = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.output_layers = nn.ModuleList(nn.Linear(n + size, 1) for size in units)
        if published:
            self.fc = nn.Linear(n + units[-1], 1)
        else:
            self.published_names = {r"fc\.": None}  # takes part in nothing

    def heads(self, x):
        first = torch.cat([x.context, x.target, self.pooling(x.target, x.history, x.mask)], dim=-1)  # (B, n)
        crossed = deep = first
        fusions, logits = [], []
        for cross, layer, output in zip(self.crossnet.cross_layers, self.parallel_dnn["layers"], self.output_layers):
            crossed, deep = crossed + first * cross(crossed), layer(deep)
            fusions.append(torch.cat([crossed, deep], dim=-1))
            logits.append(output(fusions[-1]))
        layers = torch.cat(logits, dim=-1)  # (B, N)
        yes, no = (F.logsigmoid(z).logsumexp(dim=1) for z in (layers, -layers))  # of the mean probability
        return {"logits": yes - no, "layer_logits": layers, "fusions": torch.stack(fusions, dim=1)}

    def logits(self, x):
        return self.heads(x)["logits"]

    def add_loss(self, return_dict, y_true):
        *students, teacher = return_dict["layer_logits"].unbind(dim=1)
        fusions = return_dict["fusions"]  # (B, N, n + size)
        of_labels = sum(self.loss_of(logits, y_true, return_dict) for logits in (*students, teacher))
        apart = (fusions[:, -1:] - fusions[:, :-1]) ** 2
        hint = self.beta * (apart.mean(dim=(0, 2)) if self.published else apart.sum(dim=2).mean(dim=0)).sum()
        if self.choice == 1:
            return of_labels + hint
        soft = sum(self._divergence(teacher, student) for student in students)
        return self.alpha * of_labels + (1 - self.alpha) * soft + (hint if self.choice else 0)

    def _divergence(self, teacher, student):
        t, s = teacher / self.temperature, student / self.temperature
        others = ((1 - teacher) / self.temperature, 1 - s) if self.published else (-t, -s)
        return sum((a.sigmoid() * (F.logsigmoid(a) - F.logsigmoid(b))).mean() for a, b in ((t, s), others))
