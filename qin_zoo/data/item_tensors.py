"""The item table as tensors, loaded once and shared by every loader that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from qin_zoo.data.cache import source_key
from qin_zoo.data.item_codes import compute, vary
from qin_zoo.data.item_table import as_stored, matrix, open_item_table
from qin_zoo.data.sources import check_file
from qin_zoo.data.specs import source_column
from qin_zoo.data.variations import UNVARIED, Variation


def load_item_table(
    path: str | Path,
    specs: Mapping[str, Mapping[str, object]],
    index_column: str = "item_id",
    cache_dir: str | Path | None = None,
    variation: Variation = UNVARIED,
) -> dict[str, Tensor]:
    """The item table as tensors: the same ones for every call with the same file and features.

    Args:
        path: the parquet file, row i describing item i and row 0 padding.
        specs: feature name -> specification; its ``type`` is what counts.
        index_column: see :func:`~qin_zoo.data.item_table.open_item_table`.
        variation: what is done to embeddings, and shows in the features that are computed from them.

    Returns:
        name -> (N,) int64 for categorical and meta features, (N,) float32 for numeric ones, (N, T) int64 for
        sequences (T the longest, shorter ones padded with 0 at the end), (N, dim) float32 for embeddings.

    Raises:
        DataError: see :func:`~qin_zoo.data.item_table.open_item_table`.
    """
    path = Path(path)
    check_file(path)
    columns = {source_column(spec) or name: spec for name, spec in specs.items()}
    types = tuple((name, "embedding" if source_column(s) else str(as_stored(s)["type"])) for name, s in columns.items())
    stored = _load(path.resolve(), source_key(path), types, index_column, cache_dir)
    varied = variation.items(stored, dict(types))

    def computed(spec: Mapping[str, object], source: str) -> Tensor:
        ids = compute(spec, stored[source], path, cache_dir)
        return ids if varied[source] is stored[source] else vary(spec, ids, stored[source], varied[source])

    return {
        name: computed(spec, source) if (source := source_column(spec)) else varied[name]
        for name, spec in specs.items()
    }


@lru_cache(maxsize=2)  # the table in use and one more: each can be hundreds of megabytes
def _load(
    path: Path, key: str, types: tuple[tuple[str, str], ...], index_column: str, cache_dir: str | Path | None
) -> dict[str, Tensor]:
    table = open_item_table(path, dict(types), index_column, cache_dir)
    return {name: torch.from_numpy(matrix(table[name])) for name, _ in types}
