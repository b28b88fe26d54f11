"""Transformer-DCN with semantic codes: items that look alike share embeddings."""

import re

from model_zoo.transformer_dcn import Transformer_DCN
from qin_zoo import register_model
from qin_zoo.errors import ModelError


@register_model(
    paper="WWW 2025 MM-CTR challenge, 1st place: Transformer-DCN with residual quantisation",
    published={"MicroLens_1M_x1": "leaderboard AUC 0.9814 (codes and neighbours as items, without the embedding)"},
)
class Transformer_DCN_Quant(Transformer_DCN):
    """Transformer-DCN whose items carry codes of their multimodal embedding.

    The codes are item features of the dataset, of either kind: computed once from the item table (``codes_of`` with
    ``codebook_size`` and ``num_levels``; see ``qin_zoo/data/item_codes.py``), or the columns ``code_1``, ``code_2``, …
    that ``qin-zoo embed quantize`` writes. Which of them, and whether the embedding stands beside them, is a matter of
    the dataset (``dataset_configs/codes.yaml``). Any model can use them; this one insists on them.
    """

    def __init__(self, feature_map, model_id: str = "Transformer_DCN_Quant", **kwargs):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        if not any(
            "codes_of" in feature_map.features[name] or re.fullmatch(r"code_[1-9]\d*", name) for name in self.item_dims
        ):
            raise ModelError(
                f"Transformer_DCN_Quant: expected semantic codes among the item features, dataset "
                f"'{feature_map.dataset_id}' has only {', '.join(self.item_dims)}. Add a feature with codes_of (as in "
                "dataset_configs/codes.yaml) or the columns code_1, code_2, … of `qin-zoo embed quantize`, or use "
                "Transformer_DCN."
            )
