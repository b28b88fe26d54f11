"""Discrete codes of embeddings: residual quantisation (RQ, Lee et al., CVPR 2022) and nearest neighbours.

Both are computed once for a table of items, whose row 0 is padding. Equal input gives equal output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 8192  # rows whose distances are in memory at a time
_SAMPLE = 64  # rows per codeword that a codebook is fitted to, at most


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codeword: (M, d), (K, d) -> (M,)."""
    half_norms = codebook.square().sum(1) / 2  # ‖x − c‖² / 2 = ‖x‖² / 2 − x·c + ‖c‖² / 2, the first alike for all
    return torch.cat([torch.addmm(half_norms, part, codebook.t(), alpha=-1).argmin(1) for part in x.split(_CHUNK)])


def _k_means(x: Tensor, size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """A codebook (size, d) fitted to a sample of ``x`` (M, d); a codeword nobody is near to restarts at a row."""
    order = torch.randperm(len(x), generator=generator)
    x = x[order[: _SAMPLE * size]]
    codebook = x[torch.arange(size) % len(x)].clone()
    for _ in range(iterations):
        nearest = _nearest(x, codebook)
        count = torch.bincount(nearest, minlength=size)  # (size,)
        total = torch.zeros_like(codebook).index_add_(0, nearest, x)
        restart = x[torch.randint(len(x), (size,), generator=generator)]
        codebook = torch.where(count.unsqueeze(1) > 0, total / count.clamp(min=1).unsqueeze(1), restart)
    return codebook


@torch.no_grad()
def residual_codes(
    embeddings: Tensor, codebook_size: int, num_levels: int, seed: int, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Codes of items, coarse to fine: each level quantises by k-means what the levels before have left.

    Args:
        embeddings: (N, d); row 0 is padding.
        codebook_size: codewords in each level.
        num_levels: levels.
        seed: of the k-means; the global random state is neither read nor changed.
        iterations: of each k-means.

    Returns:
        codes (N, num_levels) int64, 1…codebook_size and 0 for the padding; codebooks
        (num_levels, codebook_size, d), where code c of level l stands for ``codebooks[l, c - 1]``.

    Raises:
        ValueError: a size is not positive, or an embedding is not finite.
    """
    if codebook_size < 1 or num_levels < 1:
        raise ValueError(f"codebook_size and num_levels must be positive, got {codebook_size} and {num_levels}.")
    residual = _finite(embeddings)[1:]
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(len(embeddings), num_levels, dtype=torch.long)
    codebooks = residual.new_zeros(num_levels, codebook_size, embeddings.shape[1])
    for level in range(num_levels if len(residual) else 0):
        codebooks[level] = _k_means(residual, codebook_size, iterations, generator)
        nearest = _nearest(residual, codebooks[level])
        codes[1:, level] = nearest + 1
        residual = residual - codebooks[level][nearest]
    return codes, codebooks


@torch.no_grad()
def nearest_neighbours(embeddings: Tensor, top_k: int) -> Tensor:
    """The items most similar to each by cosine, the item itself not among them.

    Args:
        embeddings: (N, d); row 0 is padding.
        top_k: neighbours of each item.

    Returns:
        (N, top_k) int64 item ids, the nearest first; 0 for the padding's row and where there are fewer items.

    Raises:
        ValueError: ``top_k`` is not positive, or an embedding is not finite.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be positive, got {top_k}.")
    unit = F.normalize(_finite(embeddings), dim=1)[1:]  # row r is item r + 1
    found = torch.zeros(len(embeddings), top_k, dtype=torch.long)
    kept = min(top_k, len(unit) - 1)
    if kept < 1:
        return found
    for start in range(0, len(unit), _CHUNK // 8):
        part = unit[start : start + _CHUNK // 8]
        similarity = part @ unit.t()  # (part, N - 1)
        own = torch.arange(len(part))
        similarity[own, own + start] = -torch.inf
        found[1 + start : 1 + start + len(part), :kept] = similarity.topk(kept, dim=1).indices + 1
    return found


def _finite(embeddings: Tensor) -> Tensor:
    """``embeddings`` in float32, checked."""
    bad = (~embeddings.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise ValueError(f"The embedding of item {bad[0].item()} is not finite.")
    return embeddings.float()
