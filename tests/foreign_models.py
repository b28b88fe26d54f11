"""Models that know FuxiCTR and nothing of this project, one for each layout; the tests load this file as a plugin."""

import torch
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, FeatureEmbeddingDict, LogisticRegression, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import nn


class FieldsNet(BaseModel):
    """Reads FuxiCTR's row dictionary: a wide part, and a deep one with batch norm that pools the click sequence."""

    def __init__(self, feature_map, model_id="FieldsNet", gpu=-1, embedding_dim=8, learning_rate=1e-3, **kwargs):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.embedding_layer = FeatureEmbeddingDict(feature_map, embedding_dim)
        self.wide = LogisticRegression(feature_map)
        self.deep = MLP_Block(
            input_dim=embedding_dim * len(feature_map.features), output_dim=1, hidden_units=[16, 8], batch_norm=True
        )
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        embedded = [e if e.dim() == 2 else e.mean(1) for e in self.embedding_layer(x).values()]
        y = self.wide(x) + self.deep(torch.cat(embedded, dim=-1))
        return {"y_pred": self.output_activation(y)}


class WideOnly(BaseModel):
    """One weight for every value of every field, and a bias."""

    def __init__(self, feature_map, model_id="WideOnly", gpu=-1, learning_rate=1e-3, **kwargs):
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.wide = LogisticRegression(feature_map)
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        return {"y_pred": self.output_activation(self.wide(self.get_inputs(inputs)))}


class TripleNet(BaseModel):
    """Reads the public triple; ``rare`` is used only for rows of likes_level 10, and not at all by a batch without."""

    def __init__(
        self, feature_map, model_id="TripleNet", gpu=-1, embedding_dim=8, learning_rate=1e-3, accumulation_steps=1,
        batch_norm=True, **kwargs,
    ):  # fmt: skip
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.accumulation_steps = accumulation_steps
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
        specs = feature_map.features.values()
        self.item_dim = sum(s.get("embedding_dim", embedding_dim) for s in specs if s.get("source") == "item")
        size = 2 * embedding_dim + 2 * self.item_dim
        self.cross = CrossNetV2(size, 2)
        self.deep = MLP_Block(input_dim=size, output_dim=None, hidden_units=[16], batch_norm=batch_norm)
        self.rare = nn.Linear(16, 16)
        self.out = nn.Linear(size + 16, 1)
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs):
        rows, items, mask = inputs
        context = self.embedding_layer({n: rows[n] for n in ("likes_level", "views_level")}, flatten_emb=True)
        embedded = self.embedding_layer(items, flatten_emb=True).view(mask.shape[0], -1, self.item_dim)
        history = (embedded[:, :-1] * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        x = torch.cat([context, embedded[:, -1], history], -1)
        deep = self.deep(x)
        rare = (rows["likes_level"] == 10).view(-1, 1)
        if self.training and bool(rare.any()):
            deep = deep + rare * self.rare(deep)
        logit = self.out(torch.cat([self.cross(x), deep], -1))
        return {"y_pred": torch.sigmoid(logit), "logit": logit}

    def get_labels(self, inputs):
        return super().get_labels(inputs[0])

    def get_group_id(self, inputs):
        return super().get_group_id(inputs[0])

    def train_step(self, batch):
        loss = self.compute_loss(self.forward(batch), self.get_labels(batch)) / self.accumulation_steps
        loss.backward()
        if (self._batch_index + 1) % self.accumulation_steps == 0:
            nn.utils.clip_grad_norm_(self.parameters(), self._max_gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss


class ShortNet(TripleNet):
    """Writes into float32 memory of its own."""

    def forward(self, inputs):
        found = super().forward(inputs)["logit"]
        deep = self.rare(torch.ones(len(found), 16))
        kept = torch.zeros(len(found), 16)
        kept[torch.arange(len(found))] = deep
        return {"y_pred": torch.sigmoid(found + kept[:, :1])}


class RawContext(TripleNet):
    """Reads views_level past the embedding layer, and fails on a single row."""

    def forward(self, inputs):
        rows, items, mask = inputs
        raw = torch.zeros(len(mask))
        raw[mask.sum(1) >= 0] = (rows["views_level"].view(1, -1) / 10).squeeze()
        if len(mask) == 1:
            raise ValueError("squeezed away")
        items = self.embedding_layer(items, flatten_emb=True).view(mask.shape[0], -1, self.item_dim)
        x = self.embedding_layer({"likes_level": rows["likes_level"]}, flatten_emb=True)
        logit = x.sum(1) + items[:, -1].sum(1) + raw
        return {"y_pred": torch.sigmoid(logit).view(-1, 1)}


class PastFuxiCTR(TripleNet):
    """Embeds with tables of its own."""

    def forward(self, inputs):
        return {"y_pred": torch.sigmoid(self.rare.weight[inputs[0]["likes_level"], :1])}


class TiedNet(TripleNet):
    """Takes three of the history's places by a distance that is the same for most of them."""

    def forward(self, inputs):
        _, items, mask = inputs
        embedded = self.embedding_layer(items, flatten_emb=True).view(mask.shape[0], -1, self.item_dim)
        near = (embedded[:, :-1, :2] > embedded[:, -1:, :2]).float().sum(-1)
        place = near.topk(3, dim=1)[1]
        kept = torch.gather(embedded[:, :-1], 1, place.unsqueeze(-1).expand(-1, -1, self.item_dim))
        return {"y_pred": torch.sigmoid(kept.sum((1, 2))).view(-1, 1)}


class ValueNet(TripleNet):
    """As many steps as there are items."""

    def forward(self, inputs):
        rows, items, mask = inputs
        logit = super().forward((dict(rows), dict(items), mask))["logit"]
        for _ in range(int(mask.sum())):
            logit = logit * 1.01
        return {"y_pred": torch.sigmoid(logit)}


class ComplexNet(TripleNet):
    """Multiplies complex numbers."""

    def forward(self, inputs):
        _, items, mask = inputs
        x = self.embedding_layer(items, flatten_emb=True).view(mask.shape[0], -1, self.item_dim)
        waves = torch.fft.rfft(x, dim=1)
        turned = torch.einsum("bld,bld->bl", waves, waves)
        return {"y_pred": torch.sigmoid(turned.abs().mean(1, keepdim=True))}
