"""Pairwise, listwise and focal losses against plain loops in float64, PyTorch's own and the papers' listings."""

import math

import pytest
import torch
from torch.nn import functional as F

from qin_zoo.layers import losses
from qin_zoo.layers.losses import focal_loss, listwise_loss, pairwise_loss


def problem(rows=57, clicks=0.3, seed=0, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, generator=g)
    labels = (torch.rand(rows, generator=g) < clicks).float()
    return logits.requires_grad_(), labels, torch.rand(rows, generator=g) + 0.5


def double_loop(logits, labels, weights):
    """Every pair on its own."""
    z, total, pairs = logits.double(), 0.0, 0
    for i in range(len(z)):
        for j in range(len(z)):
            if labels[i] == 1 and labels[j] == 0:
                total = total + weights[i].double() * weights[j].double() * F.softplus(-(z[i] - z[j]))
                pairs += 1
    return total / pairs


def agree(got, want, logits, rtol=1e-5):
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=1e-9)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (got, want))
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * theirs.abs().max().item())


@pytest.mark.parametrize("at_once", [1, 100, 1 << 16])
def test_pairs_are_the_double_loop(at_once, monkeypatch):
    monkeypatch.setitem(losses._PAIRS_AT_ONCE, "cpu", at_once)
    logits, labels, weights = problem()
    agree(pairwise_loss(logits, labels, weights), double_loop(logits, labels, weights), logits)


def test_pairs_far_apart():
    logits = torch.tensor([500.0, -500.0, 0.0, 300.0], requires_grad=True)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    agree(pairwise_loss(logits, labels, torch.ones(4)), double_loop(logits, labels, torch.ones(4)), logits)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_pairs_of_one_class(label):
    logits = torch.randn(9, requires_grad=True)
    loss = pairwise_loss(logits, torch.full((9,), label), torch.ones(9))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(9))


def test_pairs_need_memory_for_rows_not_for_pairs():
    """Of 4,096 rows all pairs of one number would take 16 MB."""
    logits, labels, weights = problem(4096, 0.5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        pairwise_loss(logits, labels, weights).backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 2e6


def jrc_listing(logits, labels, context):
    """Listing 1 of the paper, in float64: [B, B, 2] tensors, sums over the first dimension."""
    two = torch.stack([-logits / 2, logits / 2], dim=1).double()
    label = torch.stack([1 - labels, labels], dim=1).double()
    mask = (context.unsqueeze(1) == context.unsqueeze(0)).double()
    tiled, y = (t.unsqueeze(1).repeat(1, len(t), 1) for t in (two, label))
    y = y * mask.unsqueeze(2)
    tiled = tiled + (1 - mask.unsqueeze(2)) * -1e9
    by_label = [-(y[:, :, c] * tiled[:, :, c].log_softmax(dim=0)).sum(dim=0) for c in (0, 1)]
    return (sum(by_label) / mask.sum(dim=0)).mean()


@pytest.mark.parametrize("contexts", [1, 7, 57])
def test_listwise_is_the_papers_listing(contexts):
    logits, labels, _ = problem(spread=10)
    context = torch.randint(0, contexts, (57,), generator=torch.Generator().manual_seed(1)) * 1000 - 5
    want = jrc_listing(logits, labels, context)
    agree(listwise_loss(logits, labels, torch.ones(57), context), want, logits)
    if contexts == 1:
        agree(listwise_loss(logits, labels, torch.ones(57)), want, logits)


def test_listwise_weighs_rows():
    logits, labels, weights = problem()
    each = [listwise_loss(logits, labels, 57 * F.one_hot(torch.tensor(i), 57).float()) for i in range(57)]
    torch.testing.assert_close(listwise_loss(logits, labels, weights), (torch.stack(each) * weights).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_papers_formula(gamma):
    logits, labels, _ = problem()
    p = logits.double().sigmoid()
    right = torch.where(labels == 1, p, 1 - p)
    agree(focal_loss(logits, labels, gamma).mean(), (-((1 - right) ** gamma) * right.log()).mean(), logits)


def test_focal_where_a_probability_is_1():
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    values = focal_loss(logits, torch.ones(2), 0.5)
    values.sum().backward()
    assert values.tolist() == [0.0, 200.0]
    assert math.isfinite(logits.grad.sum())
