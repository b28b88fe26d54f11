"""Transformer-DCN with semantic codes: items that look alike share embeddings."""

from model_zoo.transformer_dcn import Transformer_DCN
from qin_zoo import register_model
from qin_zoo.errors import ModelError


@register_model(
    paper="WWW 2025 MM-CTR challenge, 1st place: Transformer-DCN with residual quantisation",
    published={"MicroLens_1M_x1": "leaderboard AUC 0.9814"},
)
class Transformer_DCN_Quant(Transformer_DCN):
    """Transformer-DCN whose items also carry codes of their multimodal embedding.

    The codes are item features of the dataset (``codes_of`` with ``codebook_size`` and ``num_levels``,
    ``neighbours_of`` with ``top_k``), computed once from the item table; see ``qin_zoo/data/item_codes.py``. Any
    model can use them; this one insists on them.
    """

    def __init__(self, feature_map, model_id: str = "Transformer_DCN_Quant", **kwargs):
        super().__init__(feature_map, model_id=model_id, **kwargs)
        if not any("codes_of" in spec for spec in feature_map.features.values()):
            raise ModelError(
                f"Transformer_DCN_Quant needs semantic codes as item features, which dataset "
                f"'{feature_map.dataset_id}' has not: add a feature with codes_of (as in dataset_configs/codes.yaml), "
                "or use Transformer_DCN."
            )
