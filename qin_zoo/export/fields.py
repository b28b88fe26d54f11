"""Models of named fields in the form of a request: a row for each candidate, and histories that all of them share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.encode import raw_descriptions
from qin_zoo.experiment.prepare import Prepared
from qin_zoo.export.fold import FOREIGN
from qin_zoo.export.plain import PlainFieldsModel
from qin_zoo.export.request import RequestEmbedder, exact_output, without_embeddings, zeros
from qin_zoo.feature_types import describe as describe_feature
from qin_zoo.feature_types import type_of
from qin_zoo.layers import SharedHistory, fold
from qin_zoo.models import ModelInput, ZooModel
from qin_zoo.serving.fields import FieldRequests, example, unchanged
from qin_zoo.serving.raw_values import Field

_NO_WORDS = ("__PAD__", "__OOV__")  # FuxiCTR's, in every vocabulary
_NO_INVERSE = {"boundaries", "buckets"}
_LOOKED_AT = 10_000  # rows in which the side of a sequence's padding is looked for


class FieldsModel(nn.Module):
    """A trained model of named fields, folded, that scores the candidates of one request.

    Args:
        model: a model of the zoo; it stays as it is.

    Attributes:
        targets, context: names of the fields with a value for each candidate.
        pairs: of each history the names of its fields.
    """

    def __init__(self, model: ZooModel):
        super().__init__()
        inputs, self._embedder = copy.copy(model._inputs), RequestEmbedder(model)
        inputs.embedder, self._inputs = self._embedder, inputs
        self.embedding, self.weights = self._embedder.layer, self._embedder.weights
        self.targets = [name for pair in inputs.target_features for name in pair]
        self.context, self.pairs = inputs.context_features, inputs.sequence_features
        self.padding = {name: inputs.padding(name) for pair in self.pairs for name in pair}
        plain = without_embeddings(model).float().cpu().eval()
        for module in plain.modules():
            if hasattr(module, "one_padding"):
                module.one_padding = all(len(pair) == 1 for pair in self.pairs)
        self.model = fold(plain, FOREIGN)
        self.eval()

    def forward(self, context: dict[str, Tensor], history: dict[str, Tensor]) -> Tensor:
        """Scores of the candidates.

        Args:
            context: the fields of context and targets, (N, …) each; N ≥ 1.
            history: the fields of the histories, (L,) int64 each, the same L ≥ 1 within a pair.

        Returns:
            (N,) float32: probabilities, or the value itself in a regression.
        """
        rows = next(iter(context.values())).shape[0]
        histories = [SharedHistory(self._embedder.embed_positions(pair, history), rows) for pair in self.pairs]
        masks = [(history[pair[0]] != self.padding[pair[0]]).expand(rows, -1) for pair in self.pairs]
        one = len(self.pairs) == 1
        stored = self._inputs.stored(context, history) if one else {}
        x = ModelInput(
            self._embedder.embed(self.context, context),
            self._embedder.embed(self.targets, context),
            histories[0] if one else histories,
            masks[0] if one else masks,
            {name: (target, SharedHistory(items, rows)) for name, (target, items) in stored.items()},
        )
        return exact_output(self.model, x)


def tracing(inputs: Mapping) -> tuple[dict, dict]:
    """The arguments of a request of zeros with a manifest's ``inputs``, and which of their dimensions are open."""
    rows = torch.export.Dim("candidates")
    context = {described["name"]: zeros(described, 5) for described in inputs["context"]}
    shapes: dict = {"context": {name: {0: rows} for name in context}, "history": {}}
    for number, pair in enumerate(inputs["history"]["pairs"]):
        length = torch.export.Dim(f"history_items_{number}")
        shapes["history"] |= {name: {0: length} for name in pair}
    history = {name: torch.zeros(7, dtype=torch.long) for name in shapes["history"]}
    return {"context": context, "history": history}, shapes


def describe_fields(prepared: Prepared, dataset: Dataset, model: FieldsModel | PlainFieldsModel) -> dict:
    """What a scorer needs to know: ``inputs``, ``vocabularies``, ``feature_order`` and ``items``."""
    features = dataset.feature_map.features
    raw, words = raw_descriptions(prepared.params)
    owners = {name: _owner(name, features) for name in features}
    vocabularies = {
        owners[name]: {word: number for word, number in words[name].items() if word not in _NO_WORDS}
        for name in (*model.context, *model.targets, *model.padding)
        if name in words
    }

    def describe(name: str) -> dict:
        spec = features[name]
        found = {**describe_feature(name, spec), "default": None}
        if type_of(spec).form == "ids":
            padding = raw[name]["padding"] if name in raw else _side(dataset, name)
            found |= {"padding": padding, "padding_id": spec.get("padding_idx") or 0}
        if name in raw:
            found["raw"] = {key: value for key, value in raw[name].items() if key != "padding"}
            if name in words:
                found["raw"] |= {"vocabulary": owners[name], "unknown": words[name]["__OOV__"]}
        return found

    context = [describe(name) for name in (*model.context, *dict.fromkeys(model.targets))]  # of several pairs: once
    history = [describe(name) for name in model.padding]
    return {
        "inputs": {
            "history": {
                "max_len": max((described["max_len"] for described in history), default=0),
                "padded": any(getattr(module, "sees_padding", False) for module in model.modules()),
                "fields": history,
                "pairs": model.pairs,
                "targets": list(dict.fromkeys(model.targets)),
            },
            "context": context,
            "new": [],
        },
        "vocabularies": vocabularies,
        "feature_order": {"context": list(model.context), "item": list(model.targets)},
        "items": {"count": 0, "dim": getattr(model.model, "item_dim", 0)},
    }


def _owner(name: str, features: Mapping[str, Mapping]) -> str:
    """The feature whose vocabulary this one shares."""
    shared = features[name].get("share_embedding")
    return _owner(shared, features) if shared in features else name


def _side(dataset: Dataset, name: str) -> str:
    """Where the sequences of an encoded file are padded: ``pre`` or ``post``, as most of the first rows are."""
    loader = dataset.loader(next(split for split in SPLITS if dataset.has(split)), shuffle=False)
    ids = loader.batch(np.arange(min(loader.num_samples, _LOOKED_AT)))[name]
    first, last = (ids[:, place] == 0 for place in (0, -1))
    return "pre" if int((first & ~last).sum()) > int((last & ~first).sum()) else "post"


# ---- checks


def random_request(
    inputs: Mapping, vocabularies: Mapping, fields: FieldRequests, number: int, g: np.random.Generator
) -> tuple[dict, dict]:
    """A request of raw values, and the row of each of its candidates as the trained model takes it.

    Args:
        inputs, vocabularies: of the manifest.
        fields: reads such requests; it encodes here only what is made of values, which nothing makes values of again.
        number: 0 has no history, 1 a full one, 2 one item.
    """
    rows = 1 if number % 4 == 0 else int(g.integers(2, 30))
    request: dict = {"history": {}, "candidates": [{} for _ in range(rows)], "context": {}}
    encoded: dict = {}

    def draw(made: list[Field], number: int, length: Callable[[], int]) -> tuple[list, dict[str, Tensor]]:
        """Values of a column, and what becomes of them."""
        field, changed = unchanged(made), any(one.functions for one in made)
        about = field.described if field else {}
        if not field or (changed and not field.words) or about.get("raw", {}).keys() & _NO_INVERSE:
            field, values = None, [example(made, int(g.integers(0, 1000))) for _ in range(number)]
        else:
            words = _words(about, vocabularies)
            if changed:  # not all can be made of a word that stands for the unknown
                del words[about["raw"]["unknown"]]
            drawn = [_drawn(about, words, g, min(length(), field.max_len)) for _ in range(number)]
            values = [value for value, _ in drawn]
        ids = {one.name: one.encode(values, one.column)[0] for one in made if one is not field}
        ids |= {field.name: np.stack([ids for _, ids in drawn])} if field else {}
        return values, {name: torch.as_tensor(rows) for name, rows in ids.items()}

    for column, made in fields.rows.items():
        longest = max(field.max_len for field in made)
        values, drawn = draw(made, rows, lambda longest=longest: int(g.integers(0, longest + 1)))
        encoded |= drawn
        for candidate, value in zip(request["candidates"], values):
            candidate[column] = value
    max_lens, lengths = {d["name"]: d["max_len"] for d in inputs["history"]["fields"]}, {}
    for pair in inputs["history"]["pairs"]:
        longest = max_lens[pair[0]]
        length = (0, longest, 1)[number] if number < 3 else int(g.integers(0, longest + 1))
        lengths |= dict.fromkeys(pair, length)
    for column, made in fields.history.items():
        (request["history"][column],), drawn = draw(made, 1, lambda length=lengths[made[0].name]: length)
        encoded |= {name: ids.expand(rows, -1) for name, ids in drawn.items()}
    return request, encoded


def _words(described: Mapping, vocabularies: Mapping) -> dict[int, object]:
    """Id -> a value that has it."""
    raw = described.get("raw")
    if raw is None:
        return {number: number for number in range(1, described.get("vocab_size", 1))}
    known = vocabularies.get(raw.get("vocabulary"), {})
    words = {number: word for word, number in known.items()}
    unknown = "__OOV__" if raw["dtype"] == "str" else next(w for w in map(str, count(2**62)) if w not in known)
    return words | ({raw["unknown"]: unknown} if "unknown" in raw else {})


def _drawn(described: Mapping, words: dict, g: np.random.Generator, length: int) -> tuple[object, object]:
    """A random value as a request holds it, and as the model takes it."""
    raw = described.get("raw") or {"shift": 0.0, "scale": 1.0}
    form = type_of(described).form
    if form in ("id", "ids"):
        ids = g.choice(list(words) or [0], length if form == "ids" else 1)
        values = [words.get(number, 0) for number in ids.tolist()]
        if form == "id":
            return values[0], int(ids[0])
        filled = np.full(described["max_len"], described["padding_id"], np.int64)
        filled[slice(0, length) if described["padding"] == "post" else slice(len(filled) - length, None)] = ids
        return values, filled
    numbers = g.normal(size=described.get("dim", 1)).astype(np.float32)
    if form == "vector":
        return numbers.tolist(), numbers
    value = float(numbers[0]) * raw["scale"] + raw["shift"]
    return value, np.float32((value - raw["shift"]) / raw["scale"])
