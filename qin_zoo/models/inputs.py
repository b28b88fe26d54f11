"""From a batch, of whichever kind, to the one value a model receives.

A dataset comes as an item table with histories of item ids, or as FuxiCTR's named fields. Each kind is a
small class here that knows which features make the context and which make an item; models do not see the
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.batch import ItemBatch
from qin_zoo.errors import ModelError, suggest
from qin_zoo.feature_types import embedded, of_items, type_of
from qin_zoo.fuxi import (
    FeatureEmbedding,
    FeatureEmbeddingDict,
    FeatureMap,
    MaskedAveragePooling,
    PretrainedEmbedding,
)
from qin_zoo.layers import History, HistoryMatches, ItemRows, cosines, shared_ids
from qin_zoo.models.sharded import ShardedTable

MATCHES = "history_matches"  # what the context calls that feature
_mean_pooling = MaskedAveragePooling()


@dataclass(frozen=True)
class ModelInput:
    """What a model sees of a batch.

    Attributes:
        context: (B, C) row features, embedded and concatenated; C may be 0.
        target: (B, D) representation of the target item; of several pairs of fields, the targets side by side.
        history: (B, L, D), or :class:`~qin_zoo.layers.ItemRows`: what the user acted on, oldest first. Where the fields
            are not one pair, a list with one history of each; empty without any, D being 0 then.
        mask: (B, L) bool, true where the history has an item; a list like ``history``.
        contents: what :meth:`content` gives.
    """

    context: Tensor
    target: Tensor
    history: History | list[History]
    mask: Tensor | list[Tensor]
    contents: Mapping[str, tuple[Tensor, History]] = field(default_factory=dict)

    def content(self, name: str) -> tuple[Tensor, History]:
        """The stored vectors of a feature as they are: not projected, not trained.

        Args:
            name: the feature, which the model's constructor has asked for (``ZooModel.use_content``).

        Returns:
            those of the targets, (B, d), and of the histories, (B, L, d) in the same form as ``history``.
        """
        return self.contents[name]


_FEW = 20  # ids of a table for each place of a list: of fewer, a product with the whole table trains faster on a CPU


class Embedder:
    """Embeds named features through FuxiCTR's ``FeatureEmbedding`` and concatenates them.

    Args:
        feature_map: FuxiCTR's feature map.
        layer: the embedding layer, owned by the model.
        embedding_dim: size for the features that do not give their own.
        device: where inputs go.
    """

    def __init__(self, feature_map: FeatureMap, layer: FeatureEmbedding, embedding_dim: int, device):
        self.feature_map = feature_map
        self.layer = layer.embedding_layer  # FuxiCTR's FeatureEmbeddingDict
        self.embedding_dim = embedding_dim
        self.device = device
        self.pooling = _mean_pooling
        self.weights: FeatureEmbeddingDict | None = None  # see ZooModel.see_weights

    def dims(self, names: Iterable[str]) -> dict[str, int]:
        """Size of the embedding of each of ``names``, in their order."""
        dims = {}
        for name in names:
            spec = self.feature_map.features[name]
            owner = self.feature_map.features.get(spec.get("share_embedding"), spec)
            dims[name] = spec.get("emb_output_dim") or owner.get("embedding_dim", self.embedding_dim)
            dims[name] += self.weights is not None
        return dims

    def fetch(self, names: list[str], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values (B, …) of these features on the model's device; ModelError where the batch lacks one."""
        missing = [name for name in names if name not in values]
        if missing:
            raise ModelError(
                f"The batch has no feature '{missing[0]}'; it has {sorted(values)}. The feature map of dataset "
                f"'{self.feature_map.dataset_id}' asks for it: load it, or leave it out of feature_cols."
            )
        values = {name: values[name].to(self.device, non_blocking=True) for name in names}
        return as_of_new(values, self.feature_map.features) if self.layer.training else values

    def embed(self, names: list[str], values: Mapping[str, Tensor]) -> Tensor:
        """Features (N, …) to their embeddings (N, dim), lists pooled (by their mean where nothing is said)."""
        inputs = self.fetch(names, values)
        embedded = [
            self._mean(name, inputs[name]) if self._is_plain_list(name) else self.layer({name: inputs[name]})[name]
            for name in names
        ]
        parts = [self.pooling(e) if e.dim() == 3 else e for e in embedded]
        if self.weights is not None:
            of_features = self.weights(inputs)
            parts = [part for pair in zip(parts, map(of_features.get, names)) for part in pair]
        if parts:
            return torch.cat(parts, dim=-1)
        rows = next(iter(values.values())).shape[0]
        return torch.zeros(rows, 0, device=self.device)

    def _is_plain_list(self, name: str) -> bool:
        """Whether a feature is a list of ids whose embeddings only have to be averaged."""
        encoder = dict(self.layer.feature_encoders).get(name, _mean_pooling)
        return (
            self.feature_map.features[name]["type"] == "sequence"
            and type(self.layer.embedding_layers[name]) in (nn.Embedding, ShardedTable)
            and type(encoder) is MaskedAveragePooling
        )

    def _mean(self, name: str, ids: Tensor) -> Tensor:
        """Mean embedding of the ids (N, T) that are not padding, (N, dim), without writing out (N, T, dim)."""
        table = self.layer.embedding_layers[name]
        if isinstance(table, ShardedTable):
            return table.mean(ids)
        ids = ids.long()
        few = _FEW if self.layer.training and not ids.is_cuda else 2
        if table.num_embeddings <= few * ids.shape[1] and not table.sparse:
            return mean_of_few(ids, table)
        how = {"mode": "mean", "padding_idx": table.padding_idx, "sparse": table.sparse}
        return F.embedding_bag(ids, table.weight, **how)

    def embed_positions(self, names: list[str], values: Mapping[str, Tensor]) -> Tensor:
        """Sequences of ids (B, L) each to one embedding per position (B, L, dim); nothing is pooled."""
        inputs = self.fetch(names, values)
        return torch.cat([self._positions(name, inputs[name].long()) for name in names], dim=-1)

    def _positions(self, name: str, ids: Tensor) -> Tensor:
        embedded, encoders = self.layer.embedding_layers[name](ids), dict(self.layer.feature_encoders)
        embedded = encoders[name](embedded) if isinstance(encoders.get(name), nn.Linear) else embedded
        if self.weights is None:
            return embedded
        return torch.cat([embedded, self.weights.embedding_layers[name](ids)], dim=-1)

    def stored(self, name: str, ids: Tensor) -> Tensor:
        """The frozen vectors that a feature of ids (…,) was given in a file, (…, d)."""
        return self.layer.embedding_layers[name].pretrain_embedding(ids.long())

    def join_lookups(self, names: Iterable[str]) -> None:
        """Takes part, without ids, in the other processes' look-ups of these features, in the order of theirs."""
        for table in (self.layer.embedding_layers[name] for name in names):
            if isinstance(table, ShardedTable):
                table.join_lookups()


class ItemTableInputs:
    """Features with ``source: item`` (or given for both) describe items; histories and targets are rows of a table.

    Features with ``source: history`` are told of the history's items only, such as the rating that the user gave. They
    follow those of the items; a target has their padding.

    Reads the public triple ``(batch_dict, item_dict, mask)`` and :class:`~qin_zoo.batch.ItemBatch`; of the
    latter every distinct item is represented only once.
    """

    def __init__(self, embedder: Embedder):
        self.embedder = embedder
        features = embedder.feature_map.features
        used = {name: features[name] for name in embedded(features)}
        self.table_features = [n for n, s in used.items() if of_items(s)]
        self.history_features = [n for n, s in used.items() if s.get("source") == "history"]
        self.item_features = [*self.table_features, *self.history_features]
        self.context_features = [n for n, s in used.items() if s.get("source") not in ("item", "history")]
        self.pairs = self.histories = [embedder.dims(self.item_features)]
        self.context_dims = embedder.dims(self.context_features)
        self.contents: list[str] = []
        self.matches: HistoryMatches | None = None
        self.matched_ids = [n for n in self.table_features if type_of(used[n]).ids]
        self._matched_vectors = [n for n in self.table_features if type_of(used[n]).form == "vector"]

    def add_matches(self, output_dim: int) -> HistoryMatches:
        """Puts a feature more into every context, :data:`MATCHES`: what history and target have in common.

        Args:
            output_dim: its size.

        Returns:
            the layer that makes it, the model's to keep.
        """
        features = self.embedder.feature_map.features
        for name in self._matched_vectors:
            self.add_content(name)
        sizes = [int(features[name]["vocab_size"]) for name in self.history_features]
        respects = len(self.matched_ids) + len(self._matched_vectors)
        return self._take(HistoryMatches(respects, sizes, output_dim))

    def _take(self, matches: HistoryMatches) -> HistoryMatches:
        self.matches = matches
        size = matches.linear.out_features + (self.embedder.weights is not None)
        self.context_dims = {**self.context_dims, MATCHES: size}
        return matches

    def with_matches(
        self,
        context: Tensor,
        mask: Tensor,
        ids: Mapping[str, tuple[Tensor, Tensor]],
        beside: Mapping[str, Tensor],
        contents: Mapping[str, tuple[Tensor, History]],
        matches: HistoryMatches,
    ) -> Tensor:
        """The context (B, C) with that feature behind it.

        Args:
            context: without.
            mask: (B, L).
            ids: of each of ``matched_ids`` those of the targets and of the histories, see
                :func:`~qin_zoo.layers.shared_ids`.
            beside: codes of the history's items, (B, L) or (1, L) each.
            contents: stored vectors, as a :class:`ModelInput` has them.
            matches: the layer, or a copy of it.
        """
        weights = [shared_ids(*ids[name]) for name in self.matched_ids]
        weights += [cosines(*contents[name]).clamp(min=0) ** 2 for name in self._matched_vectors]
        device = context.device
        weights = [weight.to(device) for weight in weights]
        feature = matches(mask, weights, [beside[name].to(device) for name in self.history_features])
        if self.embedder.weights is not None:  # it has no linear part
            feature = F.pad(feature, (0, 1))
        return torch.cat([context, feature.to(context.dtype)], dim=1)

    def add_content(self, name: str) -> int:
        """Puts a feature's stored vectors into every :class:`ModelInput`; returns their size.

        Raises:
            ModelError: the item table has no such vectors.
        """
        features = self.embedder.feature_map.features
        sizes = {n: s["pretrain_dim"] for n, s in features.items() if of_items(s) and "pretrain_dim" in s}
        if name not in sizes:
            raise ModelError(
                f"'{name}' names no stored vectors of items.{suggest(str(name), sizes)} Dataset "
                f"'{self.embedder.feature_map.dataset_id}' has: {', '.join(sizes) or 'none'}. Expected an item feature "
                "of type embedding, or of type meta with its pretrain_dim where it is to be seen as content only."
            )
        self.contents = list(dict.fromkeys([*self.contents, name]))
        return sizes[name]

    def again(self) -> ItemTableInputs:
        """The same, the sizes of features looked up anew."""
        other = ItemTableInputs(self.embedder)
        other.contents = self.contents
        if self.matches is not None:
            other._take(self.matches)
        return other

    def __call__(self, batch) -> ModelInput:
        if isinstance(batch, ItemBatch):
            return self._from_table(batch)
        if isinstance(batch, (tuple, list)) and len(batch) == 3:
            return self._from_triple(*batch)
        raise ModelError(
            "This model was built for an item table (features with source: item) and expects ItemBatch or the triple "
            f"(batch_dict, item_dict, mask); it got {type(batch).__name__}. For FuxiCTR's named fields set "
            "target_field and sequence_field."
        )

    def join_lookups(self) -> None:
        """Takes part in the other processes' look-ups for a batch, without one."""
        self.embedder.join_lookups([*self.item_features, *self.context_features])

    def _from_triple(self, rows: Mapping[str, Tensor], items: Mapping[str, Tensor], mask: Tensor) -> ModelInput:
        batch, length = mask.shape
        embedded = self.embedder.embed(self.item_features, items).view(batch, length + 1, -1)
        stored = self.embedder.fetch(self.contents, items)
        stored = {name: vectors.view(batch, length + 1, -1) for name, vectors in stored.items()}
        contents = {name: (vectors[:, -1], vectors[:, :-1]) for name, vectors in stored.items()}
        context, mask = self.embedder.embed(self.context_features, rows), mask.to(self.embedder.device).bool()
        if self.matches is not None:
            values = {n: items[n].view(batch, length + 1, *items[n].shape[1:]) for n in self.matched_ids}
            ids = {n: (v[:, -1], v[:, :-1]) for n, v in values.items()}
            beside = {n: items[n].view(batch, length + 1)[:, :-1] for n in self.history_features}
            context = self.with_matches(context, mask, ids, beside, contents, self.matches)
        return ModelInput(context, embedded[:, -1], embedded[:, :-1], mask, contents)

    def _from_table(self, batch: ItemBatch) -> ModelInput:
        index, items = batch.item_ids, batch.items  # (B, L + 1)
        count = len(next(iter(items.values())))
        sizes = [self.embedder.feature_map.features[name]["vocab_size"] for name in self.history_features]
        for name, size in zip(self.history_features, sizes):  # an item with another rating is another one
            index = index * size + F.pad(self._beside(name, batch), (0, 1))
        distinct, index = _distinct(index, count * math.prod(sizes))  # (U,), (B, L + 1)
        if sizes or len(distinct) != count:  # otherwise they are the table as it is
            values = {}
            for name, size in reversed([*zip(self.history_features, sizes)]):
                values[name], distinct = distinct % size, distinct // size
            wanted = (*self.table_features, *self.contents)
            items = {name: items[name][distinct] for name in wanted if name in items} | values
        table = self.embedder.embed(self.item_features, items)  # (U, D)
        stored = self.embedder.fetch(self.contents, items)  # (U, d) each
        index = index.to(self.embedder.device, torch.int32, non_blocking=True)  # embedding_bag reads it faster
        contents = {
            name: (F.embedding(index[:, -1], vectors), ItemRows(vectors, index[:, :-1]))
            for name, vectors in stored.items()
        }
        context = self.embedder.embed(self.context_features, batch.rows)
        mask = batch.mask.to(self.embedder.device, non_blocking=True)
        if self.matches is not None:
            ids = {n: (batch.items[n][batch.target], batch.items[n][batch.history]) for n in self.matched_ids}
            context = self.with_matches(context, mask, ids, batch.beside, contents, self.matches)
        return ModelInput(context, F.embedding(index[:, -1], table), ItemRows(table, index[:, :-1]), mask, contents)

    def _beside(self, name: str, batch: ItemBatch) -> Tensor:
        if name not in batch.beside:
            raise ModelError(
                f"The batch has no '{name}' beside its histories; it has {sorted(batch.beside) or 'nothing'}. The "
                f"feature map of dataset '{self.embedder.feature_map.dataset_id}' asks for it (source: history)."
            )
        return batch.beside[name]


class FieldInputs:
    """FuxiCTR's classic layout: one row dictionary in which named fields hold targets and histories.

    Args:
        embedder: embeds the fields.
        target_field: field of the target item, or a tuple of fields that together describe it; a list is of several
            targets. None: no history is looked at, and all fields are the context.
        sequence_field: the histories' fields, in the same form.

    Attributes:
        target_features, sequence_features: of each pair the names of its fields.
    """

    def __init__(self, embedder: Embedder, target_field=None, sequence_field=None):
        self.embedder, self._fields = embedder, (target_field, sequence_field)
        features = embedder.feature_map.features
        self.target_features = _pairs(target_field)
        self.sequence_features = _pairs(sequence_field)
        self._targets = [name for pair in self.target_features for name in pair]
        self._sequences = [name for pair in self.sequence_features for name in pair]
        for key, names, others in (
            ("target_field", self._targets, self._sequences),
            ("sequence_field", self._sequences, self._targets),
        ):
            unknown = [n for n in names if n not in features]
            if unknown or (others and not names):
                name = unknown[0] if unknown else ""
                raise ModelError(
                    f"{key} names '{name}', which is no feature of dataset '{embedder.feature_map.dataset_id}'."
                    f"{suggest(name, features)} Features: {', '.join(features)}."
                )
        used = {*self._targets, *self._sequences}
        self.context_features = [n for n in embedded(features) if n not in used]
        self.context_dims = embedder.dims(self.context_features)
        self.contents: list[str] = []
        self.pairs = [embedder.dims(names) for names in self.target_features]
        self.histories = [embedder.dims(names) for names in self.sequence_features]
        if len(self.pairs) != len(self.histories):
            raise ModelError(
                f"target_field has {len(self.pairs)} targets, {self.target_features}, but sequence_field "
                f"{len(self.histories)} histories, {self.sequence_features}: a list has one of each for every pair; "
                "several fields of one item, or of one history, stand together in a tuple."
            )
        for target, history in zip(self.pairs, self.histories):
            if list(target.values()) != list(history.values()):
                raise ModelError(
                    f"target_field {list(target)} has {list(target.values())} dimensions, but sequence_field "
                    f"{list(history)} has {list(history.values())}: give each sequence the embedding of its target "
                    "(share_embedding), in the same order."
                )

    def again(self) -> FieldInputs:
        """The same, the sizes of features looked up anew."""
        other = FieldInputs(self.embedder, *self._fields)
        other.contents = self.contents
        return other

    def add_content(self, name: str) -> int:
        """Puts the vectors of a target's ``pretrained_emb`` into every :class:`ModelInput`; returns their size.

        Raises:
            ModelError: the field is no target with frozen vectors, its history's has none, or there is not one pair.
        """
        layers = self.embedder.layer.embedding_layers
        pair = next(zip(self.target_features, self.sequence_features), ([], [])) if len(self.pairs) == 1 else ([], [])
        fields = dict(zip(*pair))

        def frozen(field: str) -> bool:
            return isinstance(layers[field], PretrainedEmbedding) and layers[field].freeze_emb

        targets = [target for target, sequence in fields.items() if frozen(target) and frozen(sequence)]
        if name not in targets:
            raise ModelError(
                f"'{name}' names no stored vectors.{suggest(str(name), targets)} With named fields they are those of a "
                "field of target_field that has a pretrained_emb with freeze_emb: True, as has its field of "
                f"sequence_field; there may be one pair of both. Dataset '{self.embedder.feature_map.dataset_id}' has: "
                f"{', '.join(targets) or 'none'}."
            )
        self.contents = list(dict.fromkeys([*self.contents, name]))
        return layers[name].pretrain_embedding.embedding_dim

    def stored(self, targets: Mapping[str, Tensor], histories: Mapping[str, Tensor]) -> dict[str, tuple]:
        """Of each content the vectors of ids in a target field, (B,), and in the sequence field beside it, (…,)."""
        beside, device = dict(zip(*next(zip(self.target_features, self.sequence_features)))), self.embedder.device
        return {
            name: tuple(
                self.embedder.stored(field, values[field].to(device))
                for field, values in ((name, targets), (beside[name], histories))
            )
            for name in self.contents
        }

    def __call__(self, batch) -> ModelInput:
        if not isinstance(batch, Mapping):
            raise ModelError(
                f"This model was built for named fields (target_field {self.target_features}) and expects one "
                f"dictionary per batch; it got {type(batch).__name__}."
            )
        context, target = (self.embedder.embed(names, batch) for names in (self.context_features, self._targets))
        masks = [self._mask(names[0], batch) for names in self.sequence_features]
        histories, contents = [], {}
        for n, (names, mask) in enumerate(zip(self.sequence_features, masks)):
            order = _newest_last(mask)
            ids = {name: batch[name].to(mask.device).gather(1, order) for name in names if name in batch}
            histories.append(self.embedder.embed_positions(names, ids))
            masks[n] = mask.gather(1, order)
            contents |= self.stored(batch, ids)
        one = len(histories) == 1
        return ModelInput(context, target, *((histories[0], masks[0]) if one else (histories, masks)), contents)

    def _mask(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        return batch[name].to(self.embedder.device).long() != self.padding(name)

    def padding(self, name: str) -> int:
        """The id that stands where a sequence has no item."""
        return self.embedder.feature_map.features[name].get("padding_idx") or 0

    def fuxictr_columns(self) -> list[int]:
        """Where each number of [context; target; interest] stands in FuxiCTR's order, that of its feature map.

        FuxiCTR's models of named fields put a sequence's part of the interest where the sequence stands, and have a
        target of several pairs once: the place behind all others stands for its repetitions.
        """
        features, begin, places = self.embedder.feature_map.features, 0, {}
        for name, dim in self.embedder.dims(embedded(features)).items():
            places[name] = range(begin, begin + dim)
            begin += dim
        columns, used = [], set()
        for name in (*self.context_features, *self._targets, *self._sequences):
            columns += [begin] * len(places[name]) if name in used else places[name]
            used.add(name)
        return columns

    def join_lookups(self) -> None:
        """Takes part in the other processes' look-ups for a batch, without one."""
        self.embedder.join_lookups([*self.context_features, *self._targets, *self._sequences])


def make_inputs(embedder: Embedder, target_field=None, sequence_field=None) -> ItemTableInputs | FieldInputs:
    """The kind of input a dataset has: an item table where features are its (``source: item``), else named fields."""
    if target_field or sequence_field:
        return FieldInputs(embedder, target_field, sequence_field)
    inputs = ItemTableInputs(embedder)
    return inputs if inputs.item_features else FieldInputs(embedder)


def as_of_new(batch, features: Mapping[str, Mapping]):
    """A training batch in which some ids are unknown: of a feature with an ``unknown_rate``, so large a share.

    The network learns so what else tells about who is new (DropoutNet: Volkovs et al., NeurIPS 2017).

    Args:
        batch: values (B, …) of features by name, or the public triple; left as it is.
        features: the feature map's specifications.
    """
    if isinstance(batch, (tuple, list)):
        return tuple(as_of_new(part, features) if isinstance(part, Mapping) else part for part in batch)
    changed = {}
    for name, ids in batch.items():
        spec = features.get(name, {})
        if rate := spec.get("unknown_rate"):
            unknown = torch.rand(ids.shape, device=ids.device) < rate
            changed[name] = torch.where(unknown, spec.get("oov_idx", spec.get("padding_idx") or 0), ids)
    return {**batch, **changed}


def mean_of_few(ids: Tensor, table: nn.Embedding) -> Tensor:
    """What ``embedding_bag`` gives of lists (N, T) of few ids: how often each id of the table occurs, times the table.

    Its gradient is a product, too, where ``embedding_bag`` sorts all N · T ids in each step.
    """
    counts = table.weight.new_zeros(len(ids), table.num_embeddings)
    counts.scatter_add_(1, ids, counts.new_ones(()).expand_as(ids))
    if table.padding_idx is not None:
        counts[:, table.padding_idx] = 0
    with torch.autocast(ids.device.type, enabled=False):
        return counts @ table.weight / counts.sum(dim=1, keepdim=True).clamp(min=1)


def _distinct(index: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Ids that hold all of ``index`` (B, L), of which there are ``every`` many: (U,), and where each stands, (B, L).

    On a CPU the distinct ones, in order; of few enough by a mark for each, four times as fast as by a search. On a GPU,
    which would have to be waited for to know them, either all there are, or one for each place.
    """
    if not index.is_cuda and every > index.numel():
        return torch.unique(index, return_inverse=True)
    if not index.is_cuda:
        index = index.long()
        seen = torch.zeros(every, dtype=torch.int32).scatter_(0, index.flatten(), 1)
        return seen.nonzero().view(-1), (seen.cumsum(0, dtype=torch.int32) - 1)[index]
    if every <= index.numel():
        return torch.arange(every, device=index.device), index
    return index.flatten(), torch.arange(index.numel(), device=index.device).view(index.shape)


def row_columns(batch) -> Mapping[str, Tensor]:
    """The row dictionary of any kind of batch, (B, …) each; it holds labels and group ids."""
    if isinstance(batch, ItemBatch):
        return batch.rows
    return batch if isinstance(batch, Mapping) else batch[0]


def _newest_last(mask: Tensor) -> Tensor:
    """Positions (B, L), those with an item last and in their order: files may be padded on either side, or between."""
    length = mask.shape[1]
    place = torch.arange(length, device=mask.device)
    return torch.argsort(torch.where(mask, place, place - length), dim=1)


def _pairs(fields) -> list[list[str]]:
    """The fields of each pair, of FuxiCTR's name, tuple of names (one pair), or list of both."""
    parts = fields if isinstance(fields, list) else [fields] if fields else []
    return [[part] if isinstance(part, str) else list(part) for part in parts]
