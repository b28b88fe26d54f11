"""The plain way: layers written as their formulas read, and a loader that looks every position up in a data frame.

This is what ``qin-zoo bench`` compares with. The layers have the same weights as the fast ones, so that one model can
be turned into the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from qin_zoo.data.item_layout import history_specs, item_info_of, item_specs, row_specs
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.fuxi import BaseModel
from qin_zoo.layers import ASTA, QNN, DINAttention, MultiHeadTargetAttention, dense, masked_softmax
from qin_zoo.layers.cross_attention import CrossAttention
from qin_zoo.models import ZooModel
from qin_zoo.models.loss import name_in_fuxictr

_ROWS = 100_000  # that the loader keeps


class PlainASTA(ASTA):
    """Projects every position of the history."""

    def forward(self, target, history, mask):
        h = dense(history)  # (B, L, D)
        query, key, value = self.W_q(target), self.W_k(h), self.W_v(h)
        score = (key * query.unsqueeze(1)).sum(dim=-1) * self.scale  # (B, L)
        weight = masked_softmax(score, mask) if self.normalize else F.relu(score * mask)
        return self.W_o((weight.unsqueeze(2) * value).sum(dim=1)) + target


class PlainQNN(QNN):
    """Computes every one of the num_row linear maps, in training and in evaluation."""

    def forward(self, x):
        for i, layer in enumerate(self.layer):
            rows = layer["linear"](x).view(len(x), self.num_row, -1)  # (B, num_row, n), dropout included
            product = x * rows.sum(dim=1)
            if self.norm:
                product = self.norm[i](product)
            x = self.dropout(self.activation[i](product)) + x
        return self.fc(x)


class PlainDINAttention(DINAttention):
    """Feeds [t; h; t − h; t ⊙ h] of every position, padding too, to the MLP."""

    def forward(self, target, history, mask):
        h = dense(history)  # (B, L, D)
        t = target.unsqueeze(1).expand_as(h)
        weight = self.attention_layer(torch.cat([t, h, t - h, t * h], dim=-1).flatten(0, 1)).view(mask.shape) * mask
        if self.use_softmax:
            weight = (weight - 1e9 * (1 - mask.float())).softmax(dim=-1)
        return (weight.unsqueeze(2) * h).sum(dim=1)


class PlainMultiHeadTargetAttention(MultiHeadTargetAttention):
    """Projects every position of the history, head by head."""

    def forward(self, target, history, mask):
        h = dense(history)  # (B, L, D)

        def heads(x):
            return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # (B, K, L, d)

        query, key, value = heads(self.W_q(target).unsqueeze(1)), heads(self.W_k(h)), heads(self.W_v(h))
        score = (query @ key.transpose(-2, -1)) * self.scale  # (B, K, 1, L)
        weight = self.dropout(masked_softmax(score, mask[:, None, None]))
        return self.W_o((weight @ value).squeeze(2).flatten(1))


class PlainCrossAttention(CrossAttention):
    """Projects every position of the history, twice."""

    def forward(self, query, history, mask):
        h, real = dense(history), mask.any(dim=1, keepdim=True)
        maps = ((self.query_proj, query.unsqueeze(1)), (self.key_proj, h), (self.value_proj, h))
        projected = (linear(x) for linear, x in maps)
        # PyTorch gives NaN where all positions are padding.
        found, _ = self.multihead_attn(*projected, key_padding_mask=~mask & real, need_weights=False)
        return self.norm(torch.where(real, found.squeeze(1), self.multihead_attn.out_proj.bias))


PLAIN = {
    ASTA: PlainASTA,
    CrossAttention: PlainCrossAttention,
    QNN: PlainQNN,
    DINAttention: PlainDINAttention,
    MultiHeadTargetAttention: PlainMultiHeadTargetAttention,
}


def make_plain(model: ZooModel) -> ZooModel:
    """Turns a model into its plain form, in place: same weights and outputs, FuxiCTR's own training step.

    The loss is the model's; FuxiCTR's own where that is ``published``.
    """
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    model._inputs.embedder._is_plain_list = lambda name: False
    model.regularization_loss = BaseModel.regularization_loss.__get__(model)
    model.train_step = BaseModel.train_step.__get__(model)
    name, loss, learning_rate = model._optimizer_args
    BaseModel.compile(model, name, name_in_fuxictr(loss), learning_rate)
    if loss == "published":
        model.add_loss = BaseModel.add_loss.__get__(model)
    return model


class PlainLoader:
    """Reads batches as the public challenge loader does: data frames, and a look-up for each item of each history.

    The first 100,000 training rows are kept in memory.
    """

    def __init__(self, feature_map, params: Mapping):
        import polars as pl

        path = Path(params["train_data"])
        specs = feature_map.features
        if others := history_specs(specs):
            raise ConfigError(
                f"The plain loader, as the public one, reads no lists beside the history, such as {', '.join(others)}. "
                "Measure another dataset."
            )
        self._row_features = list(row_specs(specs))
        columns = [*dict.fromkeys([*self._row_features, *feature_map.labels, "item_id", "item_seq"])]
        missing = [c for c in columns if c not in pl.scan_parquet(path, glob=False).collect_schema()]
        if missing:
            raise DataError(
                f"{path}: no column '{missing[0]}'. The plain loader reads histories that stand in the rows "
                "(item_id, item_seq), as in MicroLens_1M_x1."
            )
        self.rows = pl.scan_parquet(path, glob=False).select(columns).head(_ROWS).collect().to_pandas()
        self.num_samples = len(self.rows)
        items = item_info_of(params, path)
        self.items = pl.read_parquet(items, columns=list(item_specs(specs)), glob=False).to_pandas()
        self.labels, self.max_len = feature_map.labels, params.get("max_len", 100)
        self.batch_size = params["batch_size"]

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        return iter(DataLoader(_Rows(self.rows), self.batch_size, shuffle=True, collate_fn=self._collate))

    def _collate(self, rows: list[dict]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        columns = default_collate(rows)
        history = columns.pop("item_seq")[:, -self.max_len :] if self.max_len else columns.pop("item_seq")[:, :0]
        ids = torch.cat([history, columns["item_id"].unsqueeze(1)], dim=1).flatten()
        found = self.items.iloc[ids.numpy()]
        items = {name: _tensor(found[name]) for name in found.columns}
        return {name: columns[name] for name in (*self._row_features, *self.labels)}, items, (history > 0).float()


class _Rows(Dataset):
    """Rows one by one, as ``DataLoader`` asks for them."""

    def __init__(self, frame):
        self._columns = {n: np.array(frame[n].to_list()) for n in frame.columns}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict:
        return {name: values[index] for name, values in self._columns.items()}


def _tensor(column) -> Tensor:
    values = column.to_numpy()
    return torch.from_numpy(np.array(column.to_list()) if values.dtype == object else values.copy())
