"""A model in the form of a request: one history, N candidates, and every item's representation in one table."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.errors import ModelError
from qin_zoo.export.fold import FOREIGN
from qin_zoo.feature_types import describe, type_of
from qin_zoo.layers import SharedHistory, fold
from qin_zoo.models import ModelInput, ZooModel
from qin_zoo.models.inputs import Embedder

_CHUNK = 8192  # items represented at a time


class RequestEmbedder(Embedder):
    """Means of lists written out, so that they can be exported: lists of one request are short.

    Args:
        model: a trained model; its embeddings are copied.
    """

    def __init__(self, model: ZooModel):
        layer = copy.deepcopy(model.embedding_layer)
        super().__init__(model.feature_map, layer, model.embedding_dim, torch.device("cpu"))
        self.weights = copy.deepcopy(model._inputs.embedder.weights)
        # While a model is traced its modules are of other classes, which only look like their own.
        is_plain = super()._is_plain_list
        self._plain = {name for name in self.layer.embedding_layers if is_plain(name)}
        self.pooling = fold(self.pooling, FOREIGN)
        fold(self.layer.feature_encoders, FOREIGN)

    def _is_plain_list(self, name: str) -> bool:
        return name in self._plain

    def _mean(self, name: str, ids: Tensor) -> Tensor:
        table = self.layer.embedding_layers[name]
        real = (ids != (-1 if table.padding_idx is None else table.padding_idx)).float()  # (N, T)
        return (table(ids.long()) * real.unsqueeze(2)).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


class ItemRows(nn.Module):
    """What is known of all items: vectors, in as few bytes as asked for, or ids, of a category or of lists.

    Args:
        rows: (U, D) float32, or (U,) or (U, T) int64; row 0 padding.

    Attributes:
        shape: of ``rows``.
    """

    def __init__(self, rows: Tensor):
        super().__init__()
        self.register_buffer("rows", rows.float() if rows.is_floating_point() else rows.long())
        self.register_buffer("scale", None)
        self.shape, self._dtype = rows.shape, self.rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def compress(self, kind: str) -> None:
        """Keeps vectors (U, D) in fewer bytes: ``fp16``, or ``int8`` with one float32 scale for each item.

        Raises:
            ModelError: a number is too large for float16.
        """
        largest = self.rows.abs().amax(dim=1, keepdim=True)  # (U, 1)
        if kind == "fp16":
            if largest.max() > torch.finfo(torch.float16).max:
                raise ModelError(
                    f"The item table holds {largest.max():.3g}, more than float16 can; use --table int8 or fp32."
                )
            self.rows = self.rows.half()
        elif kind == "int8":
            self.scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / 127
            self.rows = (self.rows / self.scale).round().clamp(-127, 127).to(torch.int8)

    def forward(self, ids: Tensor, new: Tensor | None) -> Tensor:
        """Those (n, …) of ids (n,): rows of the table, and beyond it the new items (K, …), U being the first."""
        known = ids < len(self)
        inside = ids if new is None else torch.where(known, ids, 0)
        rows = _rows_of(self.rows, inside).to(self._dtype)
        if self.scale is not None:
            rows = rows * _rows_of(self.scale, inside)
        if new is None:
            return rows
        others = _rows_of(new, torch.where(known, 0, ids - len(self)))
        return torch.where(known.unsqueeze(1) if rows.dim() == 2 else known, rows, others)


def _rows_of(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table) if table.dim() == 2 else table[ids]


def exact_output(model: ZooModel, x: ModelInput) -> Tensor:
    """The scores of a request's candidates, (N,)."""
    logits = model.logits(x).view(-1)
    # ONNX Runtime's sigmoid is wrong by 1e-7 and 0 from -18 on: of a click rate of 1e-6 that is a tenth.
    if isinstance(model.output_activation, nn.Sigmoid):
        return torch.reciprocal(1 + torch.exp(-logits))
    return model.output_activation(logits)


class ItemTableModel(nn.Module):
    """A model of a dataset with an item table in the form of a request.

    Attributes:
        context: names of the row features, in the order of the model.
        beside: names of the features that are told of the history's items only.
        new_features: names of the item features that can be given for an item outside the table.
        table: representations of all items, (U, D).
        length: items of a request's history; None for any number.
    """

    length: int | None = None

    def describe(self, items: Mapping[str, Tensor], max_len: int) -> dict:
        """What a scorer needs to know: ``inputs``, ``feature_order`` and ``items``.

        Args:
            items: the item table; the shapes of its features count.
            max_len: items of a full history.
        """
        beside, context = ([self._describe(name) for name in names] for names in (self.beside, self.context))
        padded = any(getattr(module, "sees_padding", False) for module in self.modules())
        return {
            "inputs": {
                "history": {"max_len": max_len, "padded": padded, "beside": beside},
                "context": [{**d, "default": [] if type_of(d).form == "ids" else None} for d in context],
                "new": [self._describe(name, items[name]) for name in self.new_features],
            },
            "feature_order": {"context": list(self.context), "item": list(items)},
            "items": {"count": self.table.shape[0], "dim": self.table.shape[1]},
        }

    def _describe(self, name: str, column: Tensor | None = None) -> dict:
        return describe(name, self._specs[name])

    def tracing(self, inputs: Mapping) -> tuple[dict, dict]:
        """The arguments of a request with a manifest's ``inputs``, and which of their dimensions are open."""
        last = len(self.table) - 1
        history = torch.zeros(self.length or 7, dtype=torch.long)
        history[-3:] = last  # code that looks at values finds both, items and padding
        arguments = {
            "history": history,
            "candidates": torch.full((5,), last),
            "context": {feature["name"]: zeros(feature, 5) for feature in inputs["context"]},
            "new": {feature["name"]: zeros(feature, 3) for feature in inputs["new"]},
            "beside": {name: (history != 0).long() for name in self.beside},
        }
        length, rows, unknown = (torch.export.Dim(n) for n in ("history_items", "candidates", "new_items"))
        places = None if self.length else {0: length}
        shapes = {
            "history": places,
            "beside": places,
            "candidates": {0: rows},
            "context": {0: rows},
            "new": {0: unknown},
        }
        return arguments, {
            key: dict.fromkeys(value, shapes[key]) if isinstance(value, dict) else shapes[key]
            for key, value in arguments.items()
        }


class RequestModel(ItemTableModel):
    """A trained model, folded, that scores the candidates of one request.

    Args:
        model: a model of the zoo for a dataset with an item table; it stays as it is.
        items: the item table that the model was trained with, feature name -> (U, …), row 0 padding.
        updated: the item table to export. Default: ``items``.

    Attributes:
        new_features: the id is none of them: an unknown item has the padding's, as nothing was learnt of it.
        stored: of each content that the model asks for the vectors of all items, (U, d).
    """

    def __init__(self, model: ZooModel, items: Mapping[str, Tensor], updated: Mapping[str, Tensor] | None = None):
        super().__init__()
        inputs = model._inputs
        self._embedder = RequestEmbedder(model)
        self.embedding, self.weights = self._embedder.layer, self._embedder.weights
        self.context, self._items, self.beside = inputs.context_features, inputs.table_features, inputs.history_features
        self._specs = model.feature_map.features
        numbers = numbering(items, self._specs)
        layers = self.embedding.embedding_layers
        of_number = [layers[name] for name in numbers]
        fixed = [name for name in self._items if any(layers[name] is layer for layer in of_number)]
        self.contents = inputs.contents
        self.new_features = list(dict.fromkeys([*(n for n in self._items if n not in fixed), *self.contents]))
        updated = updated or items
        self.table = ItemRows(self.represent(updated))
        self.stored = nn.ModuleList(ItemRows(updated[name]) for name in self.contents)
        self._inputs = inputs
        matched = inputs.matched_ids if inputs.matches is not None else ()
        tables = {str(k): updated[name] for k, name in enumerate(matched) if name not in numbers}
        self.matched = nn.ModuleDict({place: ItemRows(table) for place, table in tables.items()})
        self._lighten({name: items[name].shape[1:] for name in fixed})
        self.model = fold(without_embeddings(model).float().cpu().eval(), FOREIGN)
        self.eval()

    def _lighten(self, fixed: Mapping[str, torch.Size]) -> None:
        """Of embeddings that the table has made superfluous only the padding's row stays; new items have it.

        Args:
            fixed: their features, and the shape of one item's ids.
        """
        layers = self.embedding.embedding_layers
        used = (*self.context, *self.beside, *self.new_features)
        needed = {id(layers[name]) for name in used if name in layers}
        for name in fixed:
            if id(layers[name]) not in needed and type(layers[name]) is nn.Embedding:
                padding = layers[name].padding_idx or 0
                layers[name] = nn.Embedding.from_pretrained(layers[name].weight[padding : padding + 1], padding_idx=0)
        self._fixed = fixed

    @torch.no_grad()
    def represent(self, items: Mapping[str, Tensor]) -> Tensor:
        """Representations of items with all their features, (U, D) float32."""
        count = len(next(iter(items.values())))
        parts = []
        for first in range(0, count, _CHUNK):
            part = {name: items[name][first : first + _CHUNK] for name in self._items}
            parts.append(self._embedder.embed(self._items, part))
        return torch.cat(parts).float()

    def compress(self, kind: str) -> None:
        """Keeps all vectors in fewer bytes; see :meth:`ItemRows.compress`."""
        for vectors in (self.table, *self.stored):
            vectors.compress(kind)

    def _new(self, features: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Representations of items outside the table, (K, D); the first is never asked for."""
        values = dict(features)
        for name, shape in self._fixed.items():
            values[name] = like.new_zeros((like.shape[0], *shape), dtype=torch.long)
        return self._embedder.embed(self._items, values)

    def _with(self, items: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
        """Items (n, D) with what is told of them besides, (n,) ids each."""
        return torch.cat([items, self._embedder.embed(self.beside, beside)], dim=1) if self.beside else items

    def forward(
        self,
        history: Tensor,
        candidates: Tensor,
        context: dict[str, Tensor],
        new: dict[str, Tensor],
        beside: dict[str, Tensor],
    ) -> Tensor:
        """Scores of the candidates.

        Args:
            history: (L,) int64 item ids, oldest first, 0 where there is no item; L ≥ 1.
            candidates: (N,) int64 item ids; N ≥ 1. Ids from U on are rows of ``new``, in both.
            context: row features, (N, …) each.
            new: features of items outside the table, (K, …) each; K ≥ 1.
            beside: features of the history's items, (L,) int64 ids each.

        Returns:
            (N,) float32: probabilities, or the value itself in a regression.
        """
        rows = candidates.shape[0]
        extra = self._new(new, next(iter(new.values()))) if new else None
        mask = (history != 0).expand(rows, -1)  # (N, L)
        nothing = dict.fromkeys(self.beside, torch.zeros_like(candidates))
        contents = {
            name: (vectors(candidates, new.get(name)), SharedHistory(vectors(history, new.get(name)), rows))
            for name, vectors in zip(self.contents, self.stored)
        }
        embedded = self._embedder.embed(self.context, context) if self.context else torch.zeros(rows, 0)
        if self._inputs.matches is not None:
            ids = {name: (candidates, history.unsqueeze(0)) for name in self._inputs.matched_ids}  # numbers
            for place, table in self.matched.items():
                name = self._inputs.matched_ids[int(place)]
                ids[name] = (table(candidates, new.get(name)), table(history, new.get(name)).unsqueeze(0))
            rows_beside = {name: codes.unsqueeze(0) for name, codes in beside.items()}
            layer = self.model.history_matches
            embedded = self._inputs.with_matches(embedded, mask, ids, rows_beside, contents, layer)
        x = ModelInput(
            context=embedded,
            target=self._with(self.table(candidates, extra), nothing),
            history=SharedHistory(self._with(self.table(history, extra), beside), rows),
            mask=mask,
            contents=contents,
        )
        return exact_output(self.model, x)

    def _describe(self, name: str, column: Tensor | None = None) -> dict:
        spec = dict(self._specs[name])
        if name in self.contents:
            spec["type"] = "embedding"
        kind = type_of(spec)
        if kind.ids:
            spec["vocab_size"] = self.embedding.embedding_layers[name].num_embeddings
        if kind.width and column is not None:
            spec[kind.width_key] = column.shape[1]
        return describe(name, spec)


def numbering(items: Mapping[str, Tensor], specs: Mapping[str, Mapping]) -> list[str]:
    """The features, (U,) each, that are nothing but the number of the item."""
    count = torch.arange(len(next(iter(items.values()))))
    return [n for n, c in items.items() if specs[n]["type"] == "categorical" and torch.equal(c.long(), count)]


def without_embeddings(model: ZooModel) -> ZooModel:
    """A copy of a model without what only embeds or trains: that can be gigabytes."""
    left_out = [model.embedding_layer, model.embedding_layer.embedding_layer, model.optimizer, model._inputs]
    left_out += [model._inputs.embedder.weights, getattr(model, "_penalty", None)]
    return copy.deepcopy(model, {id(part): nn.Identity() for part in left_out if part is not None})


def zeros(described: Mapping, rows: int) -> Tensor:
    """A feature's zeros, (rows,) or (rows, width), for tracing."""
    return torch.from_numpy(type_of(described).zeros(rows, described))
