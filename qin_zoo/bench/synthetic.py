"""Random batches of any size for the features of an experiment, without files."""

from __future__ import annotations

import numpy as np
import torch

from qin_zoo.batch import ItemBatch
from qin_zoo.data.item_layout import history_specs, row_specs
from qin_zoo.data.item_table import as_stored
from qin_zoo.feature_types import describe, embedded, of_items, type_of

DISTINCT = 20_000  # items that occur in the batches of a measurement, whatever the catalogue


def random_batch(
    feature_map,
    batch_size: int,
    length: int,
    distinct: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> ItemBatch:
    """A batch whose ids are drawn evenly; three of five places of the histories are filled.

    Args:
        feature_map: of a dataset with an item table.
        length: places in a history.
        distinct: only the first so many items occur. Default: all.
    """
    g = torch.Generator().manual_seed(seed)
    specs = feature_map.features
    numbers = [n for n, s in specs.items() if s.get("source") == "item" and s["type"] == "categorical"]
    count = max(specs[name]["vocab_size"] for name in numbers)
    own = row_specs(specs)
    rows = {name: _draw(own[name], batch_size, g) for name in embedded(own)}
    rows[feature_map.labels[0]] = (torch.rand(batch_size, generator=g) < 0.25).float()
    of_table = {name: as_stored(spec) for name, spec in specs.items() if of_items(spec)}
    items = {}
    for name in embedded(of_table):
        values = _draw(of_table[name], min(distinct or count, count), g)
        table = np.zeros((count, *values.shape[1:]), values.numpy().dtype)  # zeros take no memory until they are read
        table[: len(values)] = values
        items[name] = torch.from_numpy(table)
    items |= {name: torch.arange(count) % specs[name]["vocab_size"] for name in numbers}
    ids = torch.randint(1, min(distinct or count, count), (batch_size, length + 1), generator=g)
    filled = torch.randint(0, length + 1, (batch_size, 1), generator=g) * 6 // 5
    history = ids[:, :length].masked_fill(torch.arange(length) < length - filled, 0)
    beside = {
        name: torch.randint(1, spec["vocab_size"], history.shape, generator=g) * (history != 0)
        for name, spec in history_specs(specs).items()
    }

    def placed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: values.to(device) for name, values in tensors.items()}

    return ItemBatch(placed(rows), history.to(device), ids[:, length].to(device), placed(items), placed(beside))


def _draw(spec: dict, count: int, g: torch.Generator) -> torch.Tensor:
    seed = int(torch.randint(2**31, (), generator=g))
    return torch.from_numpy(type_of(spec).random(count, describe("", spec), np.random.default_rng(seed)))
