"""A row as a model from elsewhere embeds it: what FuxiCTR's embedding layers give, read and put in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.errors import ModelError
from qin_zoo.explain.contributions import Contributions, along_the_path
from qin_zoo.feature_types import embedded
from qin_zoo.fuxi import FeatureEmbeddingDict
from qin_zoo.models.adapter import blame


def embedded_gradients(model: nn.Module, batch) -> tuple[Contributions, list[str]]:
    """Integrated gradients of a model that reads its batches itself.

    Of which numbers: everything that the model's ``FeatureEmbeddingDict`` layers (``FeatureEmbedding`` has one) give
    for the row, after their encoders. They go from zeros to the row together, masks and ids staying the row's. In the
    public triple, item features are those of ``[history…, target]``; among named fields a sequence that is embedded
    item by item is the history, anything else context.

    Args:
        model: in evaluation mode.
        batch: one row, as the model reads it.

    Returns:
        the contributions, and the features of which no embedding layer gave anything: what they add is not known.

    Raises:
        ModelError: the model cannot be run on the row, embeds nothing through FuxiCTR's layers, or predicts no
            ``y_pred``.
    """
    with torch.no_grad(), _embeddings(model) as parts:
        _logit(model, repeat(batch, 2))  # as everywhere: code that squeezes its tensors fails on a single row
    parts = [(name, values[: len(values) // 2]) for name, values in parts]
    specs, known = model.feature_map.features, {name for name, _ in parts}
    if not parts:
        raise ModelError(
            f"{type(model).__name__} embeds no feature through FuxiCTR's FeatureEmbedding or FeatureEmbeddingDict, of "
            "whose outputs an explanation takes gradients. Embed its features through one of them."
        )
    sizes = [values.numel() for _, values in parts]

    def logit(flat: Tensor) -> Tensor:
        with _embeddings(model, iter(flat.split(sizes, dim=1))):
            return _logit(model, repeat(batch, len(flat)))

    def by_feature(numbers: Tensor) -> tuple[dict, dict, dict]:
        items = set() if isinstance(batch, Mapping) else set(batch[1])
        context, target, history = {}, {}, {}
        for (name, values), part in zip(parts, numbers.split(sizes)):
            part = part.view(values.shape)
            if name in items:
                places = part.flatten(1).sum(1).numpy()
                _add(target, name, float(places[-1]))
                _add(history, name, places[:-1])
            elif specs[name]["type"] == "sequence" and part.dim() == 3:
                _add(history, name, part[0].sum(1).numpy())
            else:
                _add(context, name, float(part.sum()))
        return context, target, history

    row = torch.cat([values.reshape(1, -1) for _, values in parts], dim=1)
    contributions = along_the_path(logit, row, type(model).__name__, by_feature)
    return contributions, [name for name in embedded(specs) if name not in known]


def _add(sums: dict, name: str, values: float | np.ndarray) -> None:
    """A feature that is embedded several times has the sum of all."""
    sums[name] = sums[name] + values if name in sums else values


@contextmanager
def _embeddings(model: nn.Module, pieces: Iterator[Tensor] | None = None):
    """Reads what every embedding layer gives while the model runs, feature and values (k, …), k being 1 or the row's
    items, for each call; or puts other numbers, (n, …) each, in its place."""
    parts: list[tuple[str, Tensor]] = []

    def look(_, inputs, output: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if pieces is None:
            parts.extend((name, values.detach()) for name, values in output.items())
            return None
        return type(output)((name, next(pieces).reshape(values.shape)) for name, values in output.items())

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, FeatureEmbeddingDict):
                hooks.callback(module.register_forward_hook(look).remove)
        yield parts


def _logit(model: nn.Module, batch) -> Tensor:
    """(n,) logits of n rows: what goes into the model's output activation, else the inverse of its probabilities."""
    seen: list[Tensor] = []
    activation = model.output_activation
    handle = activation.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        output = model(batch)
    except Exception as error:  # whatever a model's code meets
        raise ModelError(f"{type(model).__name__} cannot compute this row: {blame(error, model)}") from error
    finally:
        handle.remove()
    if "y_pred" not in output:
        raise ModelError(f"{type(model).__name__} predicts {', '.join(output)}; only one y_pred can be explained.")
    predicted = output["y_pred"].view(-1)
    if not isinstance(activation, nn.Sigmoid):
        return predicted
    if len(seen) == 1 and torch.equal(seen[0].detach().view(-1).sigmoid(), predicted.detach()):
        return seen[0].view(-1)
    return torch.logit(predicted.double())


def repeat(batch, times: int):
    """A batch of one row, as a model from elsewhere reads it, ``times`` over."""
    if isinstance(batch, Tensor):
        return batch.repeat(times, *[1] * (batch.dim() - 1))
    if isinstance(batch, Mapping):
        return {name: repeat(values, times) for name, values in batch.items()}
    return tuple(repeat(part, times) for part in batch)
