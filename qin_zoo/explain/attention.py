"""The weights with which a model's attention sums the history, read where the model itself computes them."""

from __future__ import annotations

import torch

from qin_zoo.layers.interest import InterestLayer
from qin_zoo.models import ModelInput, ZooModel


@torch.no_grad()
def attention_weights(model: ZooModel, x: ModelInput) -> dict[str, torch.Tensor]:
    """The weights of one row's history items, of every layer that draws an interest from them.

    Every :class:`~qin_zoo.layers.interest.InterestLayer` computes its output from its own ``weights(…)``; they are
    asked for with what the layer was called with, so they are those of the prediction.

    Args:
        model: in evaluation mode.
        x: one row, B = 1.

    Returns:
        name of the layer -> (K, L), K its heads; empty where the model has no such layer.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(layer, args, kwargs, output) -> None:
            weights = layer.weights(*args, **kwargs)  # (1, L) or (1, K, L)
            if weights.shape[-1] == x.mask.shape[1]:  # else it looks at something other than the history
                found[name] = weights.reshape(-1, weights.shape[-1])

        return hook

    handles = [
        layer.register_forward_hook(keep(name), with_kwargs=True)
        for name, layer in model.named_modules()
        if isinstance(layer, InterestLayer) and type(layer).weights is not InterestLayer.weights
    ]
    try:
        model.logits(x)
    finally:
        for handle in handles:
            handle.remove()
    return found
