"""The regulariser of stale rows: the recorded gradient, and steps of an optimiser."""

import json

import numpy as np
import torch
from conftest import REPOSITORY, make_feature_map
from torch import nn

from qin_zoo.fuxi import FeatureEmbedding
from qin_zoo.periods.fesail import Restraint, tables_of

GOLDEN = REPOSITORY / "tests" / "golden" / "fesail_paper_inverse.npz"
RATE, STRENGTH = 0.05, 0.3


def test_the_step_minimises_the_recorded_regulariser():
    """``after`` minimises ‖e − z‖²/(2·lr) + λ Σ g of z = after + lr·λ·gradient, and is where a step to z must end."""
    golden = np.load(GOLDEN)
    eta = json.loads(str(golden["meta"]))["eta"]
    staleness = {f"f{n}": golden[f"period6/staleness.{n}"] for n in range(3)}
    part = {kind: [golden[f"reg/{kind}.{n}"] for n in range(3)] for kind in ("before", "after", "grad")}
    tables = {f"f{n}": [nn.Parameter(torch.tensor(part["before"][n]))] for n in range(3)}
    optimizer = torch.optim.SGD([p for ps in tables.values() for p in ps], lr=RATE)
    Restraint(tables, staleness, eta, STRENGTH).attach(optimizer)
    for (weight,), before, after, gradient in zip(tables.values(), *part.values()):
        weight.grad = torch.tensor((before - after) / RATE - STRENGTH * gradient)
    optimizer.step()
    value = 0.0
    most = min(max(s.max() for s in staleness.values()), eta)
    for n, (weight,) in enumerate(tables.values()):
        found = weight.detach().numpy()
        np.testing.assert_allclose(found, part["after"][n], rtol=0, atol=1e-12)
        moved = np.linalg.norm(found - part["before"][n], axis=1)
        value += (np.minimum(staleness[f"f{n}"], eta) / most * moved).sum()
    np.testing.assert_allclose(value, golden["reg/value"], rtol=1e-12)


def test_small_movements_of_stale_rows_are_taken_back():
    weight = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    Restraint({"f": [weight]}, {"f": np.array([0, 0, 1, 8])}, limit=2, strength=0.5).attach(optimizer)
    weight.grad = torch.tensor([[0.0, 0], [0, -0.1], [0, -1], [0.3, -0.4]], dtype=torch.float64)
    optimizer.step()
    expected = [[0, 0], [0, 0.1], [0, 0.75], [0, 0]]
    np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-15)


def test_tables_of_any_model():
    features = {
        "a": {"type": "categorical", "vocab_size": 5, "source": ""},
        "b": {"type": "sequence", "vocab_size": 5, "source": "", "share_embedding": "a", "max_len": 2},
        "n": {"type": "numeric", "source": ""},
    }
    layer = FeatureEmbedding(make_feature_map(features), 3)
    found = tables_of(nn.Sequential(layer), {"a": 5})
    assert [tuple(p.shape) for p in found["a"]] == [(5, 3)]
    assert found["a"][0] is layer.embedding_layer.embedding_layers["b"].weight
