"""TWIN, the Two-stage Interest Network."""

from typing import ClassVar, Literal

from qin_zoo import register_model
from qin_zoo.layers import TopKAttention
from qin_zoo.models.long_history import LongHistoryModel


@register_model(
    paper="Chang et al., TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling, KDD 2023",
    published={"MicroVideo1.7M_x2": "AUC 0.7189 (LongCTR)", "KuaiVideo_x2": "AUC 0.6943 (LongCTR)"},
)
class TWIN(LongHistoryModel):
    """Attention to the newest items, and one to a long history whose heads search by the scores they weigh with.

    Args:
        topk: items that each head of the long attention finds.
        Kc_cross_features: cross features of user and item; there are none, and LongCTR's code fails with any.
    """

    published_names: ClassVar = {r"long_attention\.W_h\.": "long_attention.W_k."}

    def __init__(
        self, feature_map, model_id: str = "TWIN", topk: int = 50, Kc_cross_features: Literal[0] = 0, **kwargs
    ):
        super().__init__(feature_map, model_id, **kwargs)
        self.long_attention = self.per_sequence(lambda dim: TopKAttention(dim, topk, **self.attention))

    def long_interest(self, x):
        return self.long_attention(x.target, x.history, x.mask)
