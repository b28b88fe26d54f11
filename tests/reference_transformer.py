"""Plain references of Transformer-DCN and of the quantisation, one row and one position at a time; slow on purpose."""

import torch


def _linear(layer, x):
    return layer.weight @ x + layer.bias


def _layer_norm(norm, x):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + norm.eps) * norm.weight + norm.bias


def _attention(layer, sequence, seen, heads):
    """Every position attends to the seen ones: softmax(q·k / √d) v per head, then the output projection."""
    width = sequence[0].shape[0]
    size = width // heads
    w_q, w_k, w_v = layer.in_proj_weight.split(width)
    b_q, b_k, b_v = layer.in_proj_bias.split(width)
    out = []
    for x in sequence:
        heads_out = []
        for i in range(heads):
            part = slice(i * size, (i + 1) * size)
            query = (w_q @ x + b_q)[part]
            scores, values = [], []
            for y, visible in zip(sequence, seen):
                if visible:
                    scores.append(query.dot((w_k @ y + b_k)[part]) / size**0.5)
                    values.append((w_v @ y + b_v)[part])
            weights = torch.stack(scores).softmax(0)
            heads_out.append(sum(w * v for w, v in zip(weights, values)))
        out.append(_linear(layer.out_proj, torch.cat(heads_out)))
    return out


def target_transformer(layer, target, history, mask, convention):
    """Post-norm encoder over [h_l; t]; hidden outputs 0; the last K, then the maximum through a Linear."""
    heads = layer.transformer_encoder.layers[0].self_attn.num_heads
    width = 2 * target.shape[1]
    rows = []
    for t, h, m in zip(target, history, mask.tolist()):
        shown = [not item for item in m] if convention == "published" else m
        if convention == "published" and not any(shown):
            shown = [False] * (len(m) - 1) + [True]
        if any(shown):
            sequence = [torch.cat([h_l, t]) for h_l in h]
            for block in layer.transformer_encoder.layers:
                attended = _attention(block.self_attn, sequence, shown, heads)
                sequence = [_layer_norm(block.norm1, x + a) for x, a in zip(sequence, attended)]
                forward = [_linear(block.linear2, torch.relu(_linear(block.linear1, x))) for x in sequence]
                sequence = [_layer_norm(block.norm2, x + f) for x, f in zip(sequence, forward)]
            outputs = [x if s else target.new_zeros(width) for x, s in zip(sequence, shown)]
            highest = torch.stack([x for x, s in zip(sequence, shown) if s]).max(0).values
        else:
            outputs, highest = [target.new_zeros(width) for _ in m], target.new_zeros(width)
        outputs = [target.new_zeros(width)] * max(layer.first_k_cols - len(outputs), 0) + outputs
        parts = outputs[len(outputs) - layer.first_k_cols :]
        if layer.out_linear is not None:
            parts = [*parts, _linear(layer.out_linear, highest)]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def transformer_dcn(model, x, history):
    """[context; target; interest] into x₀ ⊙ (W x + b) + x beside a DNN, both into an MLP."""
    convention = "history" if model.transformer_encoder.hides_padding else "published"
    interest = target_transformer(model.transformer_encoder, x.target, history, x.mask, convention)
    start = torch.cat([x.context, x.target, interest], dim=1)
    crossed = start
    for linear in model.crossnet.cross_layers:
        crossed = start * (crossed @ linear.weight.T + linear.bias) + crossed
    deep = start
    for module in model.parallel_dnn.mlp:
        deep = torch.relu(deep) if isinstance(module, torch.nn.ReLU) else deep @ module.weight.T + module.bias
    top = torch.cat([crossed, deep], dim=1)
    for module in model.mlp.mlp:
        top = torch.relu(top) if isinstance(module, torch.nn.ReLU) else top @ module.weight.T + module.bias
    return top


def nearest_neighbours(embeddings, top_k):
    """Ids of the most similar real items by cosine, the item itself not among them."""
    rows = []
    for i, e in enumerate(embeddings):
        scored = []
        for j, other in enumerate(embeddings):
            if j not in (0, i):
                norms = max(float(e.norm() * other.norm()), 1e-12)
                scored.append((-float(e.dot(other)) / norms, j))
        rows.append([j for _, j in sorted(scored)[:top_k]] if i else [0] * top_k)
    return torch.tensor(rows)


def residual_codes(embeddings, codebooks):
    """Level by level the nearest codeword of what the levels before have left."""
    rows = []
    for e in embeddings[1:]:
        codes = []
        for book in codebooks:
            distances = [float(((e - word) ** 2).sum()) for word in book]
            codes.append(1 + distances.index(min(distances)))
            e = e - book[codes[-1] - 1]
        rows.append(codes)
    return torch.tensor([[0] * len(codebooks), *rows])
