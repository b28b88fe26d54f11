"""Models from elsewhere in the form of a request: their plain forward, every candidate with the whole history."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qin_zoo.batch import ItemBatch
from qin_zoo.errors import ModelError
from qin_zoo.export.request import ItemTableModel
from qin_zoo.feature_types import embedded
from qin_zoo.models.adapter import blame, place_of

_DOUBTFUL = dict.fromkeys(("topk", "sort", "argsort", "kthvalue", "msort"), "orders equal values as the runtime likes")
_DOUBTFUL |= dict.fromkeys(
    ("rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "multinomial", "normal_", "uniform_"),
    "draws random numbers",
)


class PlainModel(ItemTableModel):
    """A trained model that reads the public triple, which it is given for one request.

    Nothing is folded: each candidate's row has the history's items once more, found by their ids in the item table.

    Args:
        model: in evaluation mode, on the CPU.
        items: the item table to export, feature name -> (U, …), row 0 padding.
        max_len: of the training data's histories.

    Attributes:
        new_features: none: items outside the table are padding.
        table: (U, n) without contents: how many numbers describe an item.
        sees_padding: histories are padded to their length in training, as what the model makes of padding is unknown.
    """

    sees_padding = True

    def __init__(self, model: nn.Module, items: Mapping[str, Tensor], max_len: int):
        super().__init__()
        self.model = model
        self._specs = model.feature_map.features
        self._items, self.length = list(items), max(max_len, 1)
        named = {n: self._specs[n].get("source") for n in embedded(self._specs)}
        self.context = [n for n, source in named.items() if source not in ("item", "history")]
        self.beside = [n for n, source in named.items() if source == "history"]
        self.new_features: list[str] = []
        for name, values in items.items():
            self.register_buffer(f"item_{name}", values)
        count = len(next(iter(items.values())))
        self.table = torch.empty(count, sum(t[0].numel() for t in items.values()), device="meta")

    def forward(
        self,
        history: Tensor,
        candidates: Tensor,
        context: dict[str, Tensor],
        new: dict[str, Tensor],
        beside: dict[str, Tensor],
    ) -> Tensor:
        """As of :class:`~qin_zoo.export.request.RequestModel`, with a history of max_len items and no new ones."""
        items, rows = {name: getattr(self, f"item_{name}") for name in self._items}, candidates.shape[0]
        beside = {name: values.expand(rows, -1) for name, values in beside.items()}
        return _predict(self.model, ItemBatch(context, history.expand(rows, -1), candidates, items, beside))


class PlainFieldsModel(nn.Module):
    """A trained model that reads FuxiCTR's row dictionary, every field of which a request gives for each candidate.

    Attributes:
        context: names of the fields.
        targets, pairs, padding: none, as the model does not tell which fields are the target's and the history's.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.context = embedded(model.feature_map.features)
        self.targets: list[str] = []
        self.pairs: list[list[str]] = []
        self.padding: dict[str, int] = {}

    def forward(self, context: dict[str, Tensor], history: dict[str, Tensor]) -> Tensor:
        """Scores of the candidates, (N,) float32, from their fields, (N, …) each; ``history`` is empty."""
        return _predict(self.model, context)


def _predict(model: nn.Module, batch: ItemBatch | Mapping[str, Tensor]) -> Tensor:
    read = batch.triple() if isinstance(batch, ItemBatch) else dict(batch)
    return model(read)["y_pred"].view(-1).float()


def plain_scores(model: nn.Module, batch: ItemBatch | Mapping[str, Tensor]) -> Tensor:
    """The scores of a trained model from elsewhere, (N,).

    Raises:
        ModelError: it fails on the batch, or gives what is no number.
    """
    name = type(model).__name__
    try:
        scores = _predict(model, batch)
    except Exception as error:  # whatever a model's code meets
        raise ModelError(f"{name} cannot score a request: {blame(error, model)}") from error
    if not bool(torch.isfinite(scores).all()):
        items = f" with {int(batch.mask[0].sum())} history items" if isinstance(batch, ItemBatch) else ""
        raise ModelError(
            f"{name} itself gives {float(scores[~torch.isfinite(scores)][0])} for a request{items}. Where there are "
            "none, a padding item (row 0 of the item table) that is not all zeros is a likely reason."
        )
    return scores


class Doubts(TorchFunctionMode):
    """Notes where operations are called while a model runs whose results another runtime may choose otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[str, list[tuple[str, int, str]]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _DOUBTFUL:
            self._calls[name] = [(f.filename, f.lineno, f.name) for f in traceback.extract_stack()]
        return func(*args, **(kwargs or {}))

    def words(self, model: nn.Module) -> str:
        """What was noticed of the model's own code."""
        places = {name: place_of(frames, model) for name, frames in self._calls.items()}
        said = [f"{name} {_DOUBTFUL[name]}, at {place}" for name, place in places.items() if place]
        return f"{'; '.join(said) or 'No operation is known to depend on the runtime'}."
