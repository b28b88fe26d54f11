"""SIM, the Search-based Interest Model, with its soft search."""

from typing import Literal

import torch
from torch import nn

from qin_zoo import register_model
from qin_zoo.layers import RetrievedAttention, best_places, each_pair, soft_search
from qin_zoo.layers.history import weighted_sum
from qin_zoo.models.long_history import LongHistoryModel


@register_model(
    paper="Pi et al., Search-based User Interest Modeling with Lifelong Sequential Behavior Data, CIKM 2020",
)
class SIM(LongHistoryModel):
    """Attention to the newest items, and to those of a long history that a learned search scores highest.

    The search learns by a prediction of its own, from the history summed with its scores, whose loss is added.

    Args:
        gsu_type: the search; LongCTR has no other.
        topk: items that the search finds.
        alpha: weight of the search's own loss.
        beta: weight of the model's.
    """

    def __init__(
        self,
        feature_map,
        model_id: str = "SIM",
        attention_dim: int = 64,
        gsu_type: Literal["soft"] = "soft",
        topk: int = 50,
        alpha: float = 1.0,
        beta: float = 1.0,
        **kwargs,
    ):
        super().__init__(feature_map, model_id, attention_dim=attention_dim, **kwargs)
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.W_a = nn.Linear(self.item_dim, attention_dim, bias=False)
        self.W_b = nn.Linear(self.item_dim, attention_dim, bias=False)
        self.long_attention = self.per_sequence(lambda dim: RetrievedAttention(dim, **self.attention))
        self.dnn_aux = self.make_dnn(self.context_dim + self.item_dim + self.interest_dim)

    def search(self, x):
        """The scores of the history's places, (B, L), or a list with those of each pair."""
        maps = [self.by_pair(linear.weight) for linear in (self.W_a, self.W_b)]
        return each_pair(soft_search, self.by_pair(x.target), x.history, x.mask, *maps)

    def long_interest(self, x, score=None):
        def best(score, mask):
            return best_places(score, None if self.published else mask, self.topk)

        places = each_pair(best, self.search(x) if score is None else score, x.mask)
        return self.long_attention(x.target, x.history, x.mask, places)

    def heads(self, x):
        if not self.training:
            return super().heads(x)
        score = self.search(x)
        pooled = self.beside(each_pair(weighted_sum, score, x.history), x.target)
        aux = self.dnn_aux(torch.cat([x.context, x.target, pooled], dim=-1))
        return {"logits": self.logits(x, score), "logits_aux": aux}

    def add_loss(self, return_dict, y_true):
        search, own = (self.loss_of(return_dict[name], y_true, return_dict) for name in ("logits_aux", "logits"))
        return self.alpha * search + self.beta * own
