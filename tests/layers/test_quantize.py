"""Residual quantisation and nearest neighbours against brute force."""

from itertools import pairwise

import pytest
import reference_transformer as reference
import torch

from qin_zoo.layers import quantize
from qin_zoo.layers.quantize import nearest_neighbours, residual_codes


def embeddings(n=60, d=5, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    return x


@pytest.fixture(params=[7, 8192], ids=["chunks", "whole"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(quantize, "_CHUNK", 8 * request.param)


def test_codes_are_the_nearest_codewords_level_by_level(chunks):
    x = embeddings()
    codes, codebooks = residual_codes(x, 6, 3, seed=1)
    assert codes.dtype == torch.int64
    assert codebooks.shape == (3, 6, 5)
    assert (codes[1:].min(), codes[1:].max()) == (1, 6)
    assert torch.equal(codes, reference.residual_codes(x, codebooks))


def test_each_level_leaves_less():
    x = embeddings(500, 8)[1:]
    codes, codebooks = residual_codes(embeddings(500, 8), 16, 3, seed=1)
    left, errors = x, [x.square().mean().item()]
    for level in range(3):
        left = left - codebooks[level][codes[1:, level] - 1]
        errors.append(left.square().mean().item())
    assert all(after < 0.8 * before for before, after in pairwise(errors))


def test_codebooks_are_means_of_their_items():
    x = embeddings(200)
    codes, codebooks = residual_codes(x, 4, 1, seed=1, iterations=100)
    for code in range(1, 5):
        torch.testing.assert_close(codebooks[0, code - 1], x[codes[:, 0] == code].mean(0))


def test_well_separated_groups_share_a_code_and_no_other_group_has_it():
    group = torch.arange(300) % 3
    x = embeddings(300, 4) * 0.01 + 10 * torch.eye(4)[group]
    codes, _ = residual_codes(x, 12, 1, seed=0)
    pairs = {(g, c) for g, c in zip(group[1:].tolist(), codes[1:, 0].tolist())}
    assert len(pairs) == len({c for _, c in pairs})


def test_same_seed_same_codes_and_the_global_state_is_left_alone():
    x = embeddings()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again = residual_codes(x, 6, 2, seed=1), residual_codes(x, 6, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first[1], residual_codes(x, 6, 2, seed=2)[1])


@pytest.mark.parametrize("topics", [1, 50])
def test_many_dimensional_noise_is_told_apart(topics):
    """Codebooks seeded with rows (evenly, or by k-means++) leave half or more of these items with a code in common."""
    x = torch.nn.functional.normalize(embeddings(topics, 128, 1) + 1e-9, dim=1)[torch.arange(2001) % topics]
    x = x + 0.08 * embeddings(2001, 128)
    codes, codebooks = residual_codes(x, 256, 3, seed=1)
    assert len(torch.unique(codes[1:], dim=0)) > 0.99 * 2000
    for level in range(3):
        share = torch.bincount(codes[1:, level], minlength=257)[1:] / 2000
        assert torch.special.entr(share).sum().exp() > 180  # perplexity
    left = x[1:] - sum(codebooks[level][codes[1:, level] - 1] for level in range(3))
    spread = x[1:] - x[1:].mean(0)
    # 256 groups of 2000 items: one level alone explains 1/8 of pure noise where its groups are of equal size
    assert left.square().sum() < (7 / 8) ** 3 * spread.square().sum()


@pytest.mark.parametrize("size", [12, 13, 40])
def test_planted_points_are_found_whatever_their_numbers(size):
    point = 10 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    count = 2 ** torch.arange(12)  # from one row to half of them
    x = torch.cat([torch.zeros(1, 6), point.repeat_interleave(count, dim=0)])
    codes, codebooks = residual_codes(x, size, 2, seed=3)
    rebuilt = codebooks[0][codes[1:, 0] - 1]
    torch.testing.assert_close(rebuilt, x[1:], atol=1e-3, rtol=1e-4)
    assert len(codes[1:, 0].unique()) == 12


def test_an_empty_codeword_takes_half_of_a_group():
    x = torch.cat([embeddings(50), 20 + embeddings(50)])
    group, codebook = (torch.arange(100) >= 50).long(), torch.stack([x[:50].mean(0), x[50:].mean(0), torch.zeros(5)])
    x[50:] *= 2  # the second group has more error
    codebook[1] *= 2
    after, codebook, halved = quantize._halve(x, group, codebook, torch.tensor([2]), torch.Generator().manual_seed(0))
    assert halved == 1
    assert torch.equal(after[:50], group[:50])
    assert set(after[50:].tolist()) == {1, 2}
    for codeword in range(3):
        torch.testing.assert_close(codebook[codeword], x[after == codeword].mean(0))


def test_k_means_ends_when_no_row_changes_its_codeword(monkeypatch):
    calls = []
    nearest = quantize._nearest
    monkeypatch.setattr(quantize, "_nearest", lambda *args: calls.append(1) or nearest(*args))
    x = embeddings(200)
    settled = residual_codes(x, 4, 1, seed=1, iterations=1000)
    assert len(calls) < 100
    assert all(torch.equal(a, b) for a, b in zip(settled, residual_codes(x, 4, 1, seed=1, iterations=len(calls))))


def test_equal_rows_have_equal_codes():
    x = embeddings(40)[torch.arange(400) % 40]
    x[0] = 0
    codes, codebooks = residual_codes(x, 64, 2, seed=0)
    assert torch.equal(codes[1:40], codes[41:80])
    torch.testing.assert_close(codebooks[0][codes[1:, 0] - 1], x[1:], atol=1e-4, rtol=1e-4)
    alike = residual_codes(torch.ones(9, 3), 4, 2, seed=0)[0]
    assert (alike[1:] == 1).all()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_items_than_codewords(n):
    x = embeddings(n)
    codes, codebooks = residual_codes(x, 8, 2, seed=0)
    assert codes.shape == (n, 2)
    assert codebooks.isfinite().all()
    rebuilt = sum(codebooks[level][codes[1:, level] - 1] for level in range(2))
    torch.testing.assert_close(rebuilt, x[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("top_k", [1, 5])
def test_neighbours_equal_brute_force(chunks, top_k):
    x = embeddings()
    found = nearest_neighbours(x, top_k)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference.nearest_neighbours(x, top_k))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_items_than_neighbours(n):
    found = nearest_neighbours(embeddings(n), 5)
    assert found.shape == (n, 5)
    for item in range(1, n):
        assert sorted(found[item].tolist()) == [0] * (7 - n) + [i for i in range(1, n) if i != item]


@pytest.mark.parametrize("function", [lambda x: residual_codes(x, 4, 2, 0), lambda x: nearest_neighbours(x, 3)])
def test_an_embedding_that_is_not_finite_is_named(function):
    x = embeddings()
    x[17, 2] = torch.nan
    with pytest.raises(ValueError, match="item 17 is not finite"):
        function(x)


def test_sizes_must_be_positive():
    for call in (lambda: residual_codes(embeddings(), 0, 2, 0), lambda: residual_codes(embeddings(), 2, 0, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            call()
    with pytest.raises(ValueError, match="top_k must be positive"):
        nearest_neighbours(embeddings(), 0)
