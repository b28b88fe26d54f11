"""Plain references, written straight from the formulas of the papers; slow and obvious on purpose."""

import torch


def asta_weights(layer, target, history, mask):
    """a_l = ReLU(mask_l · (W_q t)·(W_k h_l) / √d_a)."""
    d_a = layer.W_q.weight.shape[0]
    rows = []
    for t, h, m in zip(target, history, mask.float()):
        a = [torch.relu(m_l * (layer.W_q.weight @ t).dot(layer.W_k.weight @ h_l) / d_a**0.5) for h_l, m_l in zip(h, m)]
        rows.append(torch.stack(a))
    return torch.stack(rows)


def asta(layer, target, history, mask):
    """o = W_o Σ_l a_l W_v h_l + t."""
    out = []
    for t, h, a in zip(target, history, asta_weights(layer, target, history, mask)):
        total = sum(a_l * (layer.W_v.weight @ h_l) for h_l, a_l in zip(h, a))
        out.append(layer.W_o.weight @ total + t)
    return torch.stack(out)


def qnn(net, x):
    """xˡ⁺¹ = PReLU(BN(xˡ ⊙ Σ_r (W_r xˡ + b_r))) + xˡ, then a linear output; no dropout."""
    n = x.shape[1]
    for i, layer in enumerate(net.layer):
        linear = layer["linear"][0]
        summed = torch.zeros_like(x)
        for r in range(net.num_row):
            rows = slice(r * n, (r + 1) * n)
            summed = summed + x @ linear.weight[rows].T + linear.bias[rows]
        product = x * summed
        if net.norm:
            norm = net.norm[i]
            if net.training:
                mean, var = product.mean(0), product.var(0, unbiased=False)
            else:
                mean, var = norm.running_mean, norm.running_var
            product = (product - mean) / torch.sqrt(var + norm.eps) * norm.weight + norm.bias
        slope = net.activation[i].weight
        x = torch.where(product > 0, product, slope * product) + x
    return x @ net.fc.weight.T + net.fc.bias


def din_weights(layer, target, history, mask):
    """Weights from the MLP on [t; h_l; t − h_l; t ⊙ h_l], masked, softmax optional."""
    rows = []
    for t, h, m in zip(target, history, mask):
        weights = []
        for h_l, m_l in zip(h, m):
            a = layer.attention_layer(torch.cat([t, h_l, t - h_l, t * h_l]).unsqueeze(0)).squeeze()
            weights.append(a if m_l else (torch.tensor(-1e9) if layer.use_softmax else torch.tensor(0.0)))
        weights = torch.stack(weights)
        rows.append(weights.softmax(0) if layer.use_softmax else weights)
    return torch.stack(rows)


def din_attention(layer, target, history, mask):
    """Σ_l a_l h_l."""
    weights = din_weights(layer, target, history, mask)
    return torch.stack([sum(w * h_l for w, h_l in zip(a, h)) for a, h in zip(weights, history)])
