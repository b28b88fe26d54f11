"""Plain references of fusions, poolings, softmax attention and QIN's other heads; one vector at a time, in loops."""

import itertools

import torch


def affine(linear, z):
    return linear.weight @ z + linear.bias


def concat(layer, z):
    """W [z_1; …; z_M] + b."""
    return affine(layer.linear, torch.cat(z))


def sum_(layer, z):
    """Σ_m (P_m z_m + b_m)."""
    return sum(affine(p, z_m) for p, z_m in zip(layer.projections, z))


def gate(layer, z):
    """Σ_m g_m (P_m z_m + b_m), g = sigmoid or softmax of W [z_1; …; z_M] + c."""
    scores = affine(layer.gate[0], torch.cat(z))
    if isinstance(layer.gate[1], torch.nn.Sigmoid):
        gates = [1 / (1 + torch.exp(-s)) for s in scores]
    else:
        gates = [torch.exp(s) / sum(torch.exp(other) for other in scores) for s in scores]
    return sum(g * affine(p, z_m) for g, p, z_m in zip(gates, layer.projections, z))


def attention(layer, z):
    """Σ_m a_m p_m, p_m = P_m z_m + b_m, a = softmax_m(v · tanh(W p_m + c))."""
    p = [affine(projection, z_m) for projection, z_m in zip(layer.projections, z)]
    e = [torch.exp(layer.score[2].weight[0].dot(torch.tanh(affine(layer.score[0], p_m)))) for p_m in p]
    return sum(e_m / sum(e) * p_m for e_m, p_m in zip(e, p))


def lmf(layer, z):
    """Σ_r Π_m (W_m^r [1; z_m]), by way of the full tensor: its weight is Σ_r ⊗_m W_m^r, its input ⊗_m [1; z_m]."""
    with_one = [torch.cat([torch.ones(1), z_m]) for z_m in z]
    factors = [torch.cat([f.bias[:, None], f.weight], dim=1) for f in layer.factors]  # (rank · out, 1 + d_m)
    size = len(factors[0]) // layer.rank
    out = []
    for k in range(size):
        total = torch.zeros(())
        for position in itertools.product(*(range(len(z_m)) for z_m in with_one)):
            entry = torch.ones(())
            for z_m, i in zip(with_one, position):
                entry = entry * z_m[i]
            weight = torch.zeros(())
            for r in range(layer.rank):
                term = torch.ones(())
                for factor, i in zip(factors, position):
                    term = term * factor[r * size + k, i]
                weight = weight + term
            total = total + weight * entry
        out.append(total)
    return torch.stack(out)


def lmf_of_products(layer, z):
    """Σ_r Π_m (W_m^r [1; z_m]) as it is written: quicker than the full tensor, for whole models."""
    size = len(layer.factors[0].bias) // layer.rank
    total = torch.zeros(size)
    for r in range(layer.rank):
        rows = slice(r * size, (r + 1) * size)
        product = torch.ones(size)
        for factor, z_m in zip(layer.factors, z):
            product = product * (factor.weight[rows] @ z_m + factor.bias[rows])
        total = total + product
    return total


def mtfn(layer, z):
    """W vec([1; P_1 z_1] ⊗ … ⊗ [1; P_M z_M]) + b, the last part's index the fastest."""
    p = [torch.cat([torch.ones(1), affine(projection, z_m)]) for projection, z_m in zip(layer.projections, z)]
    entries = []
    for position in itertools.product(*(range(len(p_m)) for p_m in p)):
        entry = torch.ones(())
        for p_m, i in zip(p, position):
            entry = entry * p_m[i]
        entries.append(entry)
    return affine(layer.linear, torch.stack(entries))


FUSIONS = {"concat": concat, "sum": sum_, "gate": gate, "attention": attention, "lmf": lmf, "mtfn": mtfn}


def softmax_weights(scores):
    e = [torch.exp(s) for s in scores]
    return [e_l / sum(e) for e_l in e]


def softmax_asta(layer, target, history, mask):
    """a = softmax over real items of (W_q t)·(W_k h_l)/√d_a; o = W_o Σ_l a_l W_v h_l + t; no history: o = t."""
    out = []
    for t, h, m in zip(target, history, mask):
        real = [h_l for h_l, m_l in zip(h, m) if m_l]
        q = layer.W_q.weight @ t
        weights = softmax_weights([q.dot(layer.W_k.weight @ h_l) / len(q) ** 0.5 for h_l in real])
        total = sum((a * (layer.W_v.weight @ h_l) for a, h_l in zip(weights, real)), torch.zeros(len(q)))
        out.append(layer.W_o.weight @ total + t)
    return torch.stack(out)


def mean_pooling(layer, target, history, mask):
    """The mean of the real items; zeros without any."""
    out = []
    for t, h, m in zip(target, history, mask):
        real = [h_l for h_l, m_l in zip(h, m) if m_l]
        out.append(sum(real) / len(real) if real else torch.zeros_like(t))
    return torch.stack(out)


def target_attention_pooling(layer, target, history, mask):
    """a = softmax over real items of (W t)·h_l/√D; Σ_l a_l h_l; zeros without any."""
    out = []
    for t, h, m in zip(target, history, mask):
        real = [h_l for h_l, m_l in zip(h, m) if m_l]
        weights = softmax_weights([(layer.query.weight @ t).dot(h_l) / len(t) ** 0.5 for h_l in real])
        out.append(sum((a * h_l for a, h_l in zip(weights, real)), torch.zeros_like(t)))
    return torch.stack(out)


def mlp(block, x):
    """Linear layers with ReLU between, the last one bare; batch norm, where there is one, in evaluation."""
    for layer in block.mlp:
        if isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.T + layer.bias
        elif isinstance(layer, torch.nn.BatchNorm1d):
            if layer.training:
                mean, var = x.mean(0), x.var(0, unbiased=False)
            else:
                mean, var = layer.running_mean, layer.running_var
            x = (x - mean) / torch.sqrt(var + layer.eps) * layer.weight + layer.bias
        else:
            x = x * (x > 0)
    return x


def cross(head, x0):
    """xˡ⁺¹ = x⁰ ⊙ (W xˡ + b) + xˡ, then a linear output."""
    x = x0
    for linear in head[0].cross_layers:
        x = x0 * (x @ linear.weight.T + linear.bias) + x
    return x @ head[1].weight.T + head[1].bias
