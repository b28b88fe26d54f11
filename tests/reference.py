"""Plain references, written straight from the formulas of the papers; slow and obvious on purpose."""

import torch


def asta(layer, target, history, mask):
    """a_l = ReLU(mask_l · (W_q t)·(W_k h_l) / √d_a); o = W_o Σ_l a_l W_v h_l + t."""
    d_a = layer.W_q.weight.shape[0]
    out = []
    for t, h, m in zip(target, history, mask.float()):
        total = torch.zeros(d_a)
        for h_l, m_l in zip(h, m):
            a_l = torch.relu(m_l * (layer.W_q.weight @ t).dot(layer.W_k.weight @ h_l) / d_a**0.5)
            total = total + a_l * (layer.W_v.weight @ h_l)
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


def din_attention(layer, target, history, mask):
    """Weights from the MLP on [t; h_l; t − h_l; t ⊙ h_l], masked, softmax optional; Σ_l a_l h_l."""
    out = []
    for t, h, m in zip(target, history, mask):
        weights = []
        for h_l, m_l in zip(h, m):
            a = layer.attention_layer(torch.cat([t, h_l, t - h_l, t * h_l]).unsqueeze(0)).squeeze()
            weights.append(a if m_l else (torch.tensor(-1e9) if layer.use_softmax else torch.tensor(0.0)))
        weights = torch.stack(weights)
        if layer.use_softmax:
            weights = weights.softmax(0)
        out.append(sum(w * h_l for w, h_l in zip(weights, h)))
    return torch.stack(out)
