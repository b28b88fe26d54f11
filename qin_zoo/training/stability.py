"""Losses and gradients that are no numbers: noticed at their step, and traced to where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.errors import QinZooError
from qin_zoo.models.lazy import rows_of
from qin_zoo.models.sharded import ShardedTable

_NAMED = 5  # rows in a message
_ROWS_AT_ONCE = 1 << 16


class NotFinite(QinZooError):
    """The loss or the gradient of a step is NaN or infinite."""


class Watch:
    """Looks at every step's loss and gradient norm without waiting for a GPU.

    On a GPU a step is looked at when the next one has been started, so that the GPU is never idle. Its values leave
    the GPU at once: asked for later, they would come behind the work of the next step.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._waiting: tuple[Tensor, torch.cuda.Event | None, Any] | None = None

    def look(self, loss: Tensor, norm: Tensor | None, where: Any) -> Any:
        """Tells ``where`` of the first step that is not finite, as soon as it is known; otherwise None.

        Args:
            loss: of the step, a scalar.
            norm: of its gradient; None where no update was made.
            where: handed back.
        """
        values = torch.isfinite(loss) if norm is None else torch.isfinite(loss) & torch.isfinite(norm)
        arrived = None
        if values.is_cuda:
            values, arrived = values.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(loss.device))
        waiting, self._waiting = self._waiting, (values, arrived, where)
        return self._bad(waiting) if self._late else self.rest()

    def rest(self) -> Any:
        """The same of a step that is still waited for."""
        waiting, self._waiting = self._waiting, None
        return self._bad(waiting)

    @staticmethod
    def _bad(waiting: tuple[Tensor, torch.cuda.Event | None, Any] | None) -> Any:
        if waiting is None:
            return None
        values, arrived, where = waiting
        if arrived is not None:
            arrived.synchronize()
        return None if bool(values) else where


def trace(model: nn.Module, batch: Any, rows: np.ndarray | None) -> str:
    """Says in a sentence where values that are no numbers first appear in a batch's step.

    Args:
        model: in training mode; its gradients are used up.
        batch: what the step was given.
        rows: numbers of the batch's rows in their file, (B,); None where they are not known.
    """
    firsts = {m.weight: m.first for m in model.modules() if isinstance(m, ShardedTable)}
    for name, parameter in model.named_parameters():
        if not bool(_finite_rows(parameter).all()):
            return f"The weights {name} are not finite{_bad_rows(parameter, first=firsts.get(parameter, 0))} already."
    for name, values in _named_tensors(batch):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            return f"The input '{name}' is not finite{_bad_rows(values, None if name.startswith('item ') else rows)}."
    if firsts:  # the other processes would have to look up as often
        return "Weights and inputs of this process are finite; layers are not traced where tables are split."
    found = _first_bad_layer(model, batch)
    if found:
        name, layer, values = found
        by_row = rows is not None and values.shape[:1] == rows.shape  # else its rows are not the batch's
        return f"The first layer with such values is {name} ({layer}){_bad_rows(values, rows) if by_row else ''}."
    model.zero_grad()
    loss = model.compute_loss(model(batch), model.get_labels(batch))
    if not bool(torch.isfinite(loss)):
        return "All layers are finite, the loss is not: the regularisation overflows, or a label is no number."
    loss.backward()
    gradients = [(name, rows_of(p).grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in gradients if not bool(torch.isfinite(gradient).all())]
    model.zero_grad()
    if bad:
        return f"The forward pass is finite, the gradient of {bad[-1]} is not."
    return "It did not happen again when the step was repeated; dropout decides."


def _first_bad_layer(model: nn.Module, batch: Any) -> tuple[str, str, Tensor] | None:
    outputs: list[tuple[str, str, Tensor]] = []

    def hook(name: str):
        def look(module: nn.Module, inputs, output) -> None:
            for values in _tensors(output):
                if not outputs and values.is_floating_point() and not bool(torch.isfinite(values).all()):
                    outputs.append((name, type(module).__name__, values.detach()))

        return look

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(hook(name or "the model itself")).remove)
        model(batch)
    return outputs[0] if outputs else None


def _bad_rows(values: Tensor, numbers: np.ndarray | None = None, first: int = 0) -> str:
    """Which rows of a tensor are not finite, unless all are: by their ``numbers``, or counted from ``first``."""
    if values.dim() == 0:
        return ""
    bad = torch.nonzero(~_finite_rows(values)).view(-1).cpu().numpy()
    if len(bad) == len(values):
        return ""
    named = bad + first if numbers is None else numbers[bad]
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f" in row{'s' if len(bad) > 1 else ''} {', '.join(f'{n:,}' for n in named[:_NAMED])}{more}"


def _finite_rows(values: Tensor) -> Tensor:
    """Which rows are finite, (N,) bool; looked at by parts, for beside a table there may be no room for another."""
    rows = values.detach().flatten(1) if values.dim() > 1 else values.detach().view(-1, 1)
    return torch.cat([torch.isfinite(part).all(1) for part in rows.split(_ROWS_AT_ONCE)])


def _named_tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch of any kind, with a name each."""
    parts = [("", batch)] if isinstance(batch, dict) else []
    if hasattr(batch, "items") and hasattr(batch, "history"):
        parts = [("", batch.rows), ("item ", batch.items)]
    elif isinstance(batch, tuple):
        parts = [("", batch[0]), ("item ", batch[1])]
    for prefix, columns in parts:
        for name, values in columns.items():
            yield prefix + name, values


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
