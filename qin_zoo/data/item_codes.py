"""Item features that are computed from an embedding column of the item table, once, and kept.

In a dataset's ``feature_cols``, beside ordinary columns of the item table:

    - {name: codes, type: sequence, source: item, codes_of: item_emb_d128, codebook_size: 256, num_levels: 3}
    - {name: near, type: sequence, source: item, neighbours_of: item_emb_d128, top_k: 10, share_embedding: item_id}

``codes`` are residual-quantisation codes, one id per level; ``near`` holds the ids of the nearest items. With
``code_items: True`` a code is the id of an item, the one nearest to what the code stands for, and can share the items'
embedding. ``feature_encoder: nn.Flatten()`` sets the embeddings of all ids side by side; their mean is usual.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qin_zoo.data import cache
from qin_zoo.layers.quantize import codes_as_items, codes_like, nearest_neighbours, residual_codes

_SEED = 2025  # of the codebooks: the same table gives the same codes everywhere
_VERSION = 3  # raise it whenever the same table gives other ids: kept ones are then computed anew


def compute(spec: Mapping[str, Any], embeddings: Tensor, path: Path, cache_dir: str | Path | None = None) -> Tensor:
    """The feature's ids for every item, from the cache where they were computed before.

    Args:
        spec: the feature's specification.
        embeddings: (N, d) float32, row 0 padding.
        path: the item table's file, beside whose converted columns the ids are kept.
        cache_dir: see ``cache.py``.

    Returns:
        (N, num_levels) int64, ids of level l in l·codebook_size + 1 … (l + 1)·codebook_size, or item ids; or
        (N, top_k) item ids; 0 for the padding row.
    """
    wanted = {key: spec.get(key) for key in ("codes_of", "codebook_size", "num_levels", "neighbours_of", "top_k")}
    wanted |= {"code_items": True} if spec.get("code_items") else {}
    digest = hashlib.blake2b(json.dumps([wanted, _SEED, _VERSION], sort_keys=True).encode(), digest_size=8).hexdigest()
    for entry in cache.entries(path, cache_dir):
        with contextlib.suppress(OSError, ValueError):
            ids = torch.from_numpy(np.load(entry / f"{digest}.npy", allow_pickle=False))
            if len(ids) == len(embeddings):
                return ids.long()
    logging.info(f"Computing {wanted} for {len(embeddings)} items")
    if spec.get("codes_of"):
        size = spec["codebook_size"]
        codes, _ = residual_codes(embeddings, size, spec["num_levels"], _SEED)
        ids = (
            codes_as_items(codes, embeddings)
            if spec.get("code_items")
            else torch.where(codes > 0, codes + size * torch.arange(spec["num_levels"]), 0)
        )
    else:
        ids = nearest_neighbours(embeddings, spec["top_k"])
    _keep(ids, path, digest, cache_dir)
    return ids


def vary(spec: Mapping[str, Any], ids: Tensor, embeddings: Tensor, varied: Tensor) -> Tensor:
    """The feature's ids of other embeddings of the same items, (N, d) float32, row 0 padding; a code means what it
    means in ``ids``, which :func:`compute` made of ``embeddings``.

    Returns:
        ids of the same form; an item whose embedding is zero has the codes of zero, and no neighbours.
    """
    if not spec.get("codes_of"):
        return nearest_neighbours(varied, spec["top_k"])
    if spec.get("code_items"):
        return codes_like(ids, embeddings, varied)
    offset = spec["codebook_size"] * torch.arange(spec["num_levels"])
    codes = codes_like((ids - offset).clamp(min=0), embeddings, varied)
    return torch.where(codes > 0, codes + offset, 0)


def _keep(ids: Tensor, path: Path, digest: str, cache_dir: str | Path | None) -> None:
    """Saves the ids beside the converted columns; a cache that cannot be written only costs time."""
    for entry in cache.entries(path, cache_dir):
        with contextlib.suppress(OSError):
            temporary = entry / f".{digest}.{os.getpid()}.npy"
            np.save(temporary, ids.int().numpy())
            os.replace(temporary, entry / f"{digest}.npy")
            return
