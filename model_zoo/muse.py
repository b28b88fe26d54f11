"""MUSE: histories searched, and attended to, by what the items show and say."""

from itertools import pairwise

import torch
from torch import nn

from qin_zoo import ZooModel, register_model
from qin_zoo.layers import ContentAttention, KeyAttention, LayerNormDice, SimTier, best_places, cosines, newest_places
from qin_zoo.layers.content_attention import at_places, mask_at, masked_mean


@register_model(
    paper="MUSE: lifelong multimodal histories (Taobao), 2025, arXiv 2512.07216",
    published={"Taobao-MM": "GAUC 0.6377 with a search by content, 0.6356 by ids"},
)
class MUSE(ZooModel):
    """Attention to the newest items and to those whose content is most like the target's, and counts of likeness.

    Args:
        content: an item feature, whose stored vectors are compared as they are.
        short_seq_len: newest places of the history that are looked at.
        topk: items that the search by content finds.
        simtier_tiers: how many tiers of cosines [−1, 1] is cut into.
        dnn_hidden_units: sizes of the tower's hidden layers.
        use_aux_loss: train a second tower on what the search finds; its loss is added.
        aux_hidden_units: sizes of its hidden layers.
        published: as the published code: padding is searched, attended to and averaged like items, and the tower ends
            with two outputs and a Dice over both, which makes almost every prediction one of two.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "MUSE",
        content: str = "item_emb_d128",
        short_seq_len: int = 50,
        topk: int = 50,
        simtier_tiers: int = 20,
        dnn_hidden_units: list[int] = (256, 128, 64),
        use_aux_loss: bool = True,
        aux_hidden_units: list[int] = (200, 80),
        published: bool = False,
        **kwargs,
    ):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        self.content, self.short_seq_len, self.topk, self.sees_padding = content, short_seq_len, topk, published
        self.use_content(content)
        self.short_attention, self.long_attention = (self.per_sequence(a) for a in (KeyAttention, ContentAttention))
        self.short_tiers, self.long_tiers = SimTier(simtier_tiers, learned=True), SimTier(simtier_tiers, learned=True)
        outputs, items, tiers = 1 + published, self.item_dim, self.short_tiers.output_dim
        last = [LayerNormDice(outputs)] if published else []
        width = 5 * items + self.context_dim + 2 * tiers
        self.tower = nn.Sequential(*tower(width, dnn_hidden_units, outputs), *last)
        self.aux_tower = nn.Sequential(*tower(2 * items, aux_hidden_units, outputs)) if use_aux_loss else None

    def heads(self, x):
        cosine = cosines(*x.content(self.content))  # (B, L)
        known = cosine != 0
        seen, counted = (torch.ones_like(x.mask),) * 2 if self.sees_padding else (x.mask, x.mask & known)
        newest = newest_places(x.mask, self.short_seq_len)  # (B, N)
        best = best_places(cosine.exp() * known, seen, self.topk)  # items without a vector score 0 and come last
        interest = self.long_attention(x.target, x.history, seen, best, cosine)
        retrieved = torch.cat([interest, masked_mean(*at_places(best, x.history, seen))], dim=-1)
        parts = [self.short_attention(x.target, x.history, seen, newest), retrieved]
        parts.append(masked_mean(*at_places(newest, x.history, seen)))
        tiers = [
            layer(cosine, mask_at(places, counted))
            for layer, places in ((self.short_tiers, newest), (self.long_tiers, best))
        ]
        heads = {"logits": self.tower(torch.cat([*parts, x.target, x.context, *tiers], dim=-1))}
        if self.aux_tower is not None and self.training:
            heads["logits_aux"] = self.aux_tower(retrieved)
        return {name: (out[:, 1] - out[:, 0] if out.shape[1] == 2 else out).view(-1, 1) for name, out in heads.items()}

    def logits(self, x):
        return self.heads(x)["logits"]

    def add_loss(self, return_dict, y_true):
        outputs = [return_dict[name] for name in ("logits", "logits_aux") if name in return_dict]
        return sum(self.loss_of(logits, y_true, return_dict) for logits in outputs)


def tower(input_dim: int, hidden_units: list[int], output_dim: int) -> list[nn.Module]:
    """Linear layers with a Dice behind each but the last."""
    sizes = [input_dim, *hidden_units]
    steps = [step for n, m in pairwise(sizes) for step in (nn.Linear(n, m), LayerNormDice(m))]
    return [*steps, nn.Linear(sizes[-1], output_dim)]
