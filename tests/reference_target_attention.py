"""Plain references of target attention, bilinear interaction, DIN-SENet and DIN-DCN: loops over what formulas sum."""

import math
from itertools import combinations

import torch
from torch.nn import functional as F


def multi_head_target_attention(layer, target, history, mask):
    """Head k: softmax over the items of (W_q^k t)·(W_k^k h_l) / √d, times W_v^k h_l; W_o on all heads."""
    d = layer.W_q.weight.shape[0] // layer.num_heads
    out = []
    for t, h, m in zip(target, history, mask):
        items = [h_l for h_l, m_l in zip(h, m) if m_l]
        heads = []
        for k in range(layer.num_heads):
            q, key, v = (w.weight[k * d : (k + 1) * d] for w in (layer.W_q, layer.W_k, layer.W_v))
            head = torch.zeros(d)
            if items:
                exponentials = [torch.exp((q @ t).dot(key @ h_l) / math.sqrt(d)) for h_l in items]
                for e, h_l in zip(exponentials, items):
                    head = head + e / sum(exponentials) * (v @ h_l)
            heads.append(head)
        out.append(layer.W_o.weight @ torch.cat(heads))
    return torch.stack(out)


def bilinear(layer, fields):
    """(v_i W) ⊙ v_j for i < j, W of the layer, of i, or of the pair."""
    out = []
    for p, (i, j) in enumerate(combinations(range(fields.shape[1]), 2)):
        w = {
            "field_all": lambda: layer.bilinear_W,
            "field_each": lambda i=i: layer.bilinear_W[i],
            "field_interaction": lambda p=p: layer.bilinear_W[p],
        }[layer.bilinear_type]()
        out.append((fields[:, i] @ w) * fields[:, j])
    return torch.stack(out, dim=1)


def unified(layer, features):
    """A list of features, each through its own matrix where its size is not E."""
    return [f @ fit.weight.T if hasattr(fit, "weight") else f for fit, f in zip(layer.maps, features)]


def squeeze_excitation(layer, fields):
    """Means over E, a bottleneck, one weight for each field."""
    first, second, last = layer.excitation[0], layer.excitation[2], layer.excitation[3]
    means = torch.stack([f.mean(1) for f in fields], dim=1)
    weights = last(torch.relu(means @ first.weight.T) @ second.weight.T)
    return [f * weights[:, i : i + 1] for i, f in enumerate(fields)]


def cross_net(net, x0):
    """x ← x + x⁰ ⊙ (W x + b)."""
    x = x0
    for layer in net.cross_layers:
        x = x + x0 * (x @ layer.weight.T + layer.bias)
    return x


def cross_net_mix(net, x0):
    """x ← x + Σ_e softmax_e(g_e·x) x⁰ ⊙ (U_e tanh(C_e tanh(V_eᵀ x)) + b), one row at a time."""
    rows = []
    for row in x0:
        x = row
        for i in range(len(net.U_list)):
            gates = torch.softmax(torch.stack([g.weight[0].dot(x) for g in net.gating]), dim=0)
            step = torch.zeros_like(x)
            for e, gate in enumerate(gates):
                low = torch.tanh(net.C_list[i][e] @ torch.tanh(net.V_list[i][e].T @ x))
                step = step + gate * row * (net.U_list[i][e] @ low + net.bias[i][:, 0])
            x = x + step
        rows.append(x)
    return torch.stack(rows)


def mlp(block, x):
    """Linear maps and ReLUs, as many as there are."""
    for layer in block.mlp:
        x = F.linear(x, layer.weight, layer.bias) if hasattr(layer, "weight") else torch.relu(x)
    return x


def features_of(model, batch):
    """Context features, target features and, per position, history features of an item batch: lists of tensors."""
    encode = model.embedding_layer.embedding_layer
    tables = encode.embedding_layers

    def items(ids):
        tags = batch.items["item_tags"][ids]
        present = (tags > 0).unsqueeze(-1)
        total = (tables["item_tags"](tags) * present).sum(-2)
        # FuxiCTR's pooling adds 1e-12 below
        mean = total / (present.sum(-2) + 1e-12)
        projected = batch.items["item_emb_d128"][ids] @ encode.feature_encoders["item_emb_d128"].weight.T
        return [tables["item_id"](ids), mean, projected]

    context = [tables[n](batch.rows[n]) for n in ("likes_level", "views_level")]
    return context, items(batch.target), items(batch.history)


def din_senet(model, batch):
    """Logits (B, 1) of DIN_SENet on an item batch."""
    context, target, history = features_of(model, batch)
    context = unified(model.context_embedding, context)
    target = unified(model.item_embedding, target)
    history = torch.cat(unified(model.item_embedding, history), dim=-1)
    mask = batch.history > 0
    interest = multi_head_target_attention(model.attention_layers, torch.cat(target, dim=-1), history, mask)
    fields = [*context, *target, *interest.chunk(len(target), dim=1)]
    weighted = squeeze_excitation(model.senet, fields)
    parts = list(weighted)
    if model.cross_net is not None:
        parts.append(cross_net(model.cross_net, torch.cat(fields, dim=1)))
    if model.bilinear is not None:
        parts += bilinear(model.bilinear, torch.stack(fields, dim=1)).unbind(1)
        parts += bilinear(model.bilinear, torch.stack(weighted, dim=1)).unbind(1)
    return mlp(model.dnn, torch.cat(parts, dim=1))


def din_dcn(model, batch):
    """Logits (B, 1) of DIN_DCN on an item batch."""
    context, target, history = (torch.cat(part, dim=-1) for part in features_of(model, batch))
    interest = multi_head_target_attention(model.attention_layers, target, history, batch.history > 0)
    x = torch.cat([context, target, interest], dim=1)
    crossed = (cross_net_mix if hasattr(model.crossnet, "U_list") else cross_net)(model.crossnet, x)
    top = mlp(model.dnn, crossed) if model.stacked else torch.cat([crossed, mlp(model.dnn, x)], dim=1)
    return top @ model.fc.weight.T + model.fc.bias
