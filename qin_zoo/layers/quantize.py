"""Discrete codes of embeddings: residual quantisation (RQ, Lee et al., CVPR 2022) and nearest neighbours.

Both are computed once for a table of items, whose row 0 is padding. Equal input gives equal output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 8192  # rows whose distances are in memory at a time
_SAMPLE = 256  # rows per codeword that a codebook is fitted to, at most
_STEPS = 5  # of the 2-means that halves a group
_ROUNDING = 1e-10  # a group with less than this share of the error is one point


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codeword: (M, d), (K, d) -> (M,)."""
    half_norms = codebook.square().sum(1) / 2  # ‖x − c‖² / 2 = ‖x‖² / 2 − x·c + ‖c‖² / 2, the first alike for all
    return torch.cat([torch.addmm(half_norms, part, codebook.t(), alpha=-1).argmin(1) for part in x.split(_CHUNK)])


def _k_means(x: Tensor, size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """A codebook (K, d) fitted to a sample of ``x`` (M, d); K is ``size``, or less where there are fewer points.

    It starts as bisecting k-means does: the groups with most error are halved, again and again. Starting at rows,
    drawn evenly or as k-means++ draws them, fails where embeddings are many-dimensional and noisy: rows are nearer to
    a mean of hundreds than to any other row, so most codewords keep one item and the other items share a few codewords.
    """
    order = torch.randperm(len(x), generator=generator)
    x = x[order[: _SAMPLE * size]]
    group, codebook = torch.zeros(len(x), dtype=torch.long), x.new_zeros(size, x.shape[1])
    codebook[0], used = x.mean(0), 1
    while used < size:
        group, codebook, added = _halve(x, group, codebook, torch.arange(used, size), generator)
        if not added:
            break
        used += added
    codebook = codebook[:used]
    for _ in range(iterations):
        nearest = _nearest(x, codebook)
        if torch.equal(nearest, group):
            break
        means, count = _means(x, nearest, used)
        group, codebook = nearest, torch.where(count.unsqueeze(1) > 0, means, codebook)
        if (empty := (count == 0).nonzero().squeeze(1)).numel():
            group, codebook, _ = _halve(x, group, codebook, empty, generator)
    return codebook


def _halve(
    x: Tensor, group: Tensor, codebook: Tensor, free: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """Halves the groups with at least the mean error, the worst first, by 2-means.

    Args:
        x: (M, d).
        group: (M,) group of each row.
        codebook: (K, d) mean of each group.
        free: indices of codewords without a group, for the new halves.

    Returns:
        group and codebook after it, and how many groups were halved.
    """
    size = len(codebook)
    distance = (x - codebook[group]).square().sum(1)  # (M,)
    error = x.new_zeros(size).index_add_(0, group, distance)
    count = torch.bincount(group, minlength=size)
    worth = (error >= error.sum() / (count > 0).sum()) & (count > 1) & (error > _ROUNDING * x.square().sum())
    parent = torch.where(worth, error, -1).topk(min(len(free), int(worth.sum()))).indices
    if not len(parent):
        return group, codebook, 0
    half = torch.full((size,), -1)
    half[parent] = free[: len(parent)]
    rows = (half[group] >= 0).nonzero().squeeze(1)
    members, first = x[rows], group[rows]
    second = half[first]
    # The plane between the halves starts through the mean, towards a member drawn in proportion to its distance.
    order = (distance / torch.empty_like(distance).exponential_(generator=generator)).argsort()
    drawn = torch.zeros_like(half).scatter_reduce(0, group[order], torch.arange(len(x)), "amax")
    middle, normal = codebook, x[order[drawn]] - codebook
    for _ in range(_STEPS):
        beyond = ((members - middle[first]) * normal[first]).sum(1) > 0
        halves = torch.where(beyond, second, first)
        means, count = _means(members, halves, size)
        other = means[half.clamp(min=0)]
        middle, normal = (means + other) / 2, other - means
    group = group.index_copy(0, rows, halves)
    return group, torch.where(count.unsqueeze(1) > 0, means, codebook), len(parent)


def _means(x: Tensor, group: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean of each group's rows (size, d), 0 without rows, and their number (size,)."""
    count = torch.bincount(group, minlength=size)
    return x.new_zeros(size, x.shape[1]).index_add_(0, group, x) / count.clamp(min=1).unsqueeze(1), count


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
        iterations: of each k-means, at most: it stops when no row changes its codeword.

    Returns:
        codes (N, num_levels) int64, 1…codebook_size and 0 for the padding; codebooks
        (num_levels, codebook_size, d), where code c of level l stands for ``codebooks[l, c - 1]``. Where there are
        fewer different rows than codewords, the last ones are zeros and nobody's.

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
        codebook = _k_means(residual, codebook_size, iterations, generator)
        nearest = _nearest(residual, codebook)
        codebooks[level, : len(codebook)] = codebook
        codes[1:, level] = nearest + 1
        residual = residual - codebook[nearest]
    return codes, codebooks


@torch.no_grad()
def codes_of(embeddings: Tensor, codebooks: Tensor, sizes: Tensor) -> Tensor:
    """Codes of items in codebooks that were fitted to others.

    Args:
        embeddings: (N, d); row 0 is padding.
        codebooks: (num_levels, codebook_size, d) of :func:`residual_codes`.
        sizes: (num_levels,) codewords of each level that are somebody's.

    Returns:
        (N, num_levels) int64, 0 for the padding.
    """
    residual = _finite(embeddings)[1:]
    codes = torch.zeros(len(embeddings), len(codebooks), dtype=torch.long)
    for level, (codebook, size) in enumerate(zip(codebooks, sizes)):
        nearest = _nearest(residual, codebook[:size])
        codes[1:, level] = nearest + 1
        residual = residual - codebook[nearest]
    return codes


@torch.no_grad()
def codes_like(codes: Tensor, embeddings: Tensor, others: Tensor) -> Tensor:
    """Residual codes of other embeddings of the same items, with the meaning that a table's codes have.

    A code stands for the mean of what its items have left; items whose embedding is the same keep their codes.

    Args:
        codes: (N, num_levels) of :func:`residual_codes`, or of :func:`codes_as_items`.
        embeddings: (N, d) the embeddings they were computed from.
        others: (N, d).

    Returns:
        (N, num_levels) int64, only codes that some item of ``codes`` has.
    """
    changed = (embeddings != others).any(dim=1).nonzero().squeeze(1)
    found, left, residual = codes.clone(), _finite(others)[changed], _finite(embeddings)[1:]
    for level in range(codes.shape[1] if len(changed) else 0):
        used, place = codes[1:, level].unique(return_inverse=True)
        codebook, _ = _means(residual, place, len(used))
        nearest = _nearest(left, codebook)
        found[changed, level] = used[nearest]
        left, residual = left - codebook[nearest], residual - codebook[place]
    return found


@torch.no_grad()
def codes_as_items(codes: Tensor, embeddings: Tensor) -> Tensor:
    """Residual codes told by items: in each code's place the id of an item that has it.

    It is the item that is nearest to what the code stands for, the mean of what its items have left; of several the
    first.

    Args:
        codes: (N, num_levels) of :func:`residual_codes`.
        embeddings: (N, d) the embeddings they were computed from.

    Returns:
        (N, num_levels) int64, 0 for the padding.
    """
    found, residual = codes.clone(), _finite(embeddings)[1:]
    ids = torch.arange(1, len(codes))
    for level in range(codes.shape[1] if len(residual) else 0):
        used, place = codes[1:, level].unique(return_inverse=True)
        codebook, _ = _means(residual, place, len(used))
        left = residual - codebook[place]
        distance = left.square().sum(1)  # (N - 1,)
        least = distance.new_full((len(used),), torch.inf).scatter_reduce(0, place, distance, "amin")
        nearest = torch.where(distance == least[place], ids, len(codes))
        first = torch.full((len(used),), len(codes)).scatter_reduce(0, place, nearest, "amin")
        found[1:, level] = first[place]
        residual = left
    return found


@torch.no_grad()
def nearest_neighbours(embeddings: Tensor, top_k: int) -> Tensor:
    """The items most similar to each by cosine, the item itself not among them, nor any whose embedding is zero.

    Args:
        embeddings: (N, d); row 0 is padding.
        top_k: neighbours of each item.

    Returns:
        (N, top_k) int64 item ids, the nearest first; 0 for the padding's row, for items whose embedding is zero, and
        where there are fewer items.

    Raises:
        ValueError: ``top_k`` is not positive, or an embedding is not finite.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be positive, got {top_k}.")
    unit = F.normalize(_finite(embeddings), dim=1)[1:]  # row r is item r + 1
    zero = ~unit.any(dim=1)
    found = torch.zeros(len(embeddings), top_k, dtype=torch.long)
    kept = min(top_k, len(unit) - 1)
    if kept < 1:
        return found
    for start in range(0, len(unit), _CHUNK // 8):
        part = unit[start : start + _CHUNK // 8]
        similarity = part @ unit.t()  # (part, N - 1)
        own = torch.arange(len(part))
        similarity[own, own + start] = -torch.inf
        similarity[:, zero] = -torch.inf
        nearest, indices = similarity.topk(kept, dim=1)
        has_none = zero[start : start + len(part)].unsqueeze(1) | nearest.isinf()
        found[1 + start : 1 + start + len(part), :kept] = torch.where(has_none, 0, indices + 1)
    return found


def _finite(embeddings: Tensor) -> Tensor:
    """``embeddings`` in float32, checked."""
    bad = (~embeddings.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise ValueError(f"The embedding of item {bad[0].item()} is not finite.")
    return embeddings.float()
