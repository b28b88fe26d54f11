"""One prediction of a trained model, explained: what `qin-zoo explain` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from qin_zoo.batch import ItemBatch
from qin_zoo.calibration import Calibrator
from qin_zoo.data.dataset import Dataset
from qin_zoo.data.import_files import ID_FILE, item_titles, original_ids, words_of
from qin_zoo.errors import ConfigError
from qin_zoo.explain.attention import attention_weights
from qin_zoo.explain.contributions import Contributions, integrated_gradients
from qin_zoo.explain.embedded import embedded_gradients, repeat
from qin_zoo.fuxi import BaseModel
from qin_zoo.layers import dense
from qin_zoo.models import ZooModel
from qin_zoo.models.inputs import row_columns


@dataclass(frozen=True)
class Item:
    """An item as a person knows it.

    Attributes:
        item: its row in the item table; with named fields, the id in the first of them.
        original_id: its id in the dataset's source, where that is known.
        title: its title or text, where there is one.
    """

    item: int
    original_id: str | None = None
    title: str | None = None

    @property
    def name(self) -> str:
        """For tables and pictures: the id, and the title where there is one."""
        shown = str(self.item) if self.original_id is None else self.original_id
        return f"{shown} {' '.join(self.title.split())}" if self.title else shown


@dataclass(frozen=True)
class Feature:
    """A feature's share.

    Attributes:
        part: ``context``, ``target`` or ``history``.
        name: of the feature.
        value: in the row, where it is one number.
        contribution: to the logit; of the history, all places together.
        meaning: what the number stands for in the files that were imported or encoded, where that was kept.
    """

    part: str
    name: str
    value: float | None
    contribution: float
    meaning: str | None = None

    @property
    def shown(self) -> str:
        """Its value, in the words of whose data it is where they were kept; empty where it is no single one."""
        if self.meaning is not None:
            return self.meaning
        return "" if self.value is None else f"{self.value:g}"


@dataclass(frozen=True)
class HistoryItem:
    """A place of the history that holds an item.

    Attributes:
        place: from 1, the oldest place of the row.
        item: what stands there.
        weights: layer -> weight of each of its heads.
        features: feature -> contribution to the logit.
    """

    place: int
    item: Item
    weights: dict[str, list[float]]
    features: dict[str, float]

    @property
    def contribution(self) -> float:
        """What the item adds to the logit, over all of its features."""
        return sum(self.features.values())

    def weight(self, layer: str) -> float:
        """The layer's weight, the mean of its heads."""
        return float(np.mean(self.weights[layer]))


@dataclass(frozen=True)
class Explanation:
    """Everything that is said of one prediction.

    Attributes:
        expid, model, dataset_id, split, row: which prediction; rows count from 0, as the ``ID`` of predictions.
        prediction: the model's probability of a click, or the value itself of a regression.
        calibrated: what `predict` writes of it, where a calibration step has been fitted; else None.
        logit, baseline, delta, steps, complete: see :class:`~qin_zoo.explain.contributions.Contributions`.
        label: of the row, where it has one.
        target: the item that was scored; None where a model from elsewhere does not tell which field it is.
        layers: attention layer -> its class; empty where the model has none that can be read.
        features: of context, target and history, in the model's order.
        history: the items of the history, oldest first.
        left_out: features that are not, or not only, read through FuxiCTR's embedding layers, stored vectors among
            them; what they add there is not known.
    """

    expid: str
    model: str
    dataset_id: str
    split: str
    row: int
    prediction: float
    calibrated: float | None
    logit: float
    baseline: float
    delta: float
    steps: int
    complete: bool
    label: float | None
    target: Item | None
    layers: dict[str, str]
    features: list[Feature]
    history: list[HistoryItem]
    left_out: list[str] = field(default_factory=list)

    @property
    def scored(self) -> str:
        """What was scored, for titles: ``item NAME``, or the row alone."""
        return "row" if self.target is None else f"item {self.target.name}"

    @property
    def ranked(self) -> list[Feature]:
        """The features, those that count most first."""
        return sorted(self.features, key=lambda feature: -abs(feature.contribution))


def explain(
    model: BaseModel, dataset: Dataset, split: str, row: int, expid: str, calibrator: Calibrator | None = None
) -> Explanation:
    """A prediction of a model in evaluation mode, explained.

    Raises:
        ConfigError: the split has no such row, or the model several pairs of target and history.
    """
    if isinstance(model, ZooModel) and len(model.pairs) != 1:
        raise ConfigError(
            f"Dataset '{dataset.feature_map.dataset_id}' has {len(model.pairs)} pairs of target and history "
            "(target_field, sequence_field); only predictions of models with one can be explained."
        )
    loader, rows = dataset.loader(split, shuffle=False), dataset.used_rows(split)
    if row not in rows:
        part = "" if rows[-1] < len(rows) else ", of which the run uses a part: see the IDs of its predictions"
        raise ConfigError(
            f"--row {row}: the {split} split of '{dataset.feature_map.dataset_id}' has rows 0 to {rows[-1]:,}{part}."
        )
    if loader.batch_layout == "triple":
        loader.batch_layout = "index"  # the same row with the items' ids
    batch = loader.batch(np.flatnonzero(rows == row))
    if isinstance(model, ZooModel):
        with torch.no_grad():
            x = model._inputs(batch)
            x = replace(x, history=dense(x.history))
        read, left_out = batch, list(x.contents)
        contributions, weights = integrated_gradients(model, x), attention_weights(model, x)
    else:
        read, weights = batch.triple() if isinstance(batch, ItemBatch) else batch, {}
        contributions, left_out = embedded_gradients(model, read)
        read = repeat(read, 2)
    with torch.no_grad():
        prediction = float(model(read)["y_pred"].view(-1)[0])
    target, history = _items(model, dataset, batch, list(contributions.history))
    layers = dict(model.named_modules())
    return Explanation(
        expid=expid,
        model=type(model).__name__,
        dataset_id=dataset.feature_map.dataset_id,
        split=split,
        row=row,
        prediction=prediction,
        calibrated=None if calibrator is None else float(calibrator(np.array([prediction]))[0]),
        **{key: getattr(contributions, key) for key in ("logit", "baseline", "delta", "steps", "complete")},
        label=float(model.get_labels(read)[0]) if loader.has_label else None,
        target=target,
        layers={name: type(layers[name]).__name__ for name in weights},
        features=_features(contributions, row_columns(batch), words_of(dataset)),
        history=[
            HistoryItem(
                place + 1,
                item,
                {name: [float(w) for w in weight[:, place]] for name, weight in weights.items()},
                {name: float(values[place]) for name, values in contributions.history.items() if place < len(values)},
            )
            for place, item in history
        ],
        left_out=left_out,
    )


def _features(
    found: Contributions, columns: Mapping[str, torch.Tensor], word: Callable[[str, int], str | None]
) -> list[Feature]:
    def feature(part: str, name: str, contribution: float) -> Feature:
        column = columns.get(name)
        value = column.item() if column is not None and column.numel() == 1 else None
        return Feature(part, name, value, contribution, word(name, value) if isinstance(value, int) else None)

    return [
        *(feature("context", name, c) for name, c in found.context.items()),
        *(feature("target", name, c) for name, c in found.target.items()),
        *(Feature("history", name, None, float(c.sum())) for name, c in found.history.items()),
    ]


def _items(
    model: BaseModel, dataset: Dataset, batch, sequences: list[str]
) -> tuple[Item | None, list[tuple[int, Item]]]:
    """The row's target, and each place of its history, from 0, that holds an item, with the item."""
    if isinstance(batch, ItemBatch):
        target, history = int(batch.target), batch.history[0].tolist()
        ids, titles = original_ids(dataset.folder / ID_FILE), item_titles(dataset.folder, {target, *history})

        def item(number: int) -> Item:
            return Item(number, str(ids[number]) if number in ids else None, titles.get(number))

        return item(target), [(place, item(number)) for place, number in enumerate(history) if number]
    word, name = words_of(dataset), model._inputs.target_features[0][0] if isinstance(model, ZooModel) else ""
    target = Item(number := int(batch[name]), word(name, number)) if name else None
    if not sequences:
        return target, []
    padding = dataset.feature_map.features[sequences[0]].get("padding_idx") or 0
    history = batch[sequences[0]][0].tolist()
    return target, [
        (place, Item(number, word(sequences[0], number))) for place, number in enumerate(history) if number != padding
    ]
