"""Models from elsewhere: a FuxiCTR ``BaseModel`` with a precision, and with other processes beside it.

Such a model reads its batches, computes its loss and moves its weights itself. What it does stays as it is: its own
``train_step``, ``evaluate`` and ``predict`` run, and what they cannot know of is done around them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qin_zoo.distributed import ALONE, Group
from qin_zoo.errors import ModelError, QinZooError, first_line
from qin_zoo.fuxi import BaseModel
from qin_zoo.layers.synced_norm import SyncedBatchNorm1d, sync_batch_norms
from qin_zoo.metrics import ERROR_METRICS, evaluate_metrics
from qin_zoo.models.base import ZooModel
from qin_zoo.models.embedders import check_types
from qin_zoo.models.inputs import as_of_new, row_columns
from qin_zoo.models.precision import Precision

_PLACE = re.compile(r'File "(.+)", line (\d+), in (\w+)')


@functools.cache
def adapt(model_class: type) -> type:
    """The class with what :class:`Adapted` adds; a ``ZooModel`` has it all and stays as it is."""
    if issubclass(model_class, (ZooModel, Adapted)):
        return model_class
    names = ("__module__", "__qualname__", "__doc__")
    return type(model_class.__name__, (Adapted, model_class), {name: getattr(model_class, name) for name in names})


class Adapted:
    """Stands before a FuxiCTR model's class in a subclass of both.

    Args:
        feature_map, args, kwargs: the model's own.
        precision: ``fp32``; ``bf16``, matrix products in bfloat16, with float32 weights, predictions and loss;
            ``tf32``, GPUs' shorter float32 products.
    """

    group = ALONE
    _precision: Precision | None = None
    _gathers = False

    def __init__(self, feature_map, *args, precision: Literal["fp32", "tf32", "bf16"] = "fp32", **kwargs):
        check_types(feature_map, type(self).__name__)
        super().__init__(feature_map, *args, **kwargs)
        self._precision = Precision(precision, self.device)
        self._precision.prepare(self)
        if precision == "bf16":
            for activation in self.output_activation.modules():  # a probability of 8 bits would tie rows that differ
                activation.register_forward_pre_hook(lambda _, args: tuple(map(_float, args)))

    def forward(self, inputs) -> dict[str, Tensor]:
        """The model's own, in the precision asked for; what it returns, (B, 1) predictions, is float32.

        Raises:
            ModelError: an operation of the model fails, or does not work in bfloat16; the message names it.
        """
        short = self._precision is not None and self._precision.name == "bf16"
        if self.training:
            inputs = as_of_new(inputs, self.feature_map.features)
        try:
            with self._precision.context() if short else contextlib.nullcontext():
                output = super().forward(inputs)
        except (QinZooError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever code of somebody else's raises
            what = "cannot compute in bfloat16" if short else "fails on a batch"
            mend = " Run it with precision=fp32." if short else ""
            beside = [n for n, spec in self.feature_map.features.items() if spec.get("source") == "history"]
            if beside:  # their embeddings stand beside the items', which FuxiCTR's models do not expect
                mend += f" If it knows no source: history, as FuxiCTR, leave out {', '.join(beside)} (active: False)."
            raise ModelError(f"{type(self).__name__} {what}: {blame(error, self)}{mend}") from error
        if short:
            output = {name: _float(values) for name, values in output.items()}
        if self.group.active and torch.is_grad_enabled():
            return {name: self._weighted(values) for name, values in output.items()}
        return output

    def get_group_id(self, inputs) -> Tensor:
        """The model's own, (B,), where FuxiCTR's ``evaluate`` reads it: in host memory."""
        return super().get_group_id(inputs).cpu()

    # ---- several processes

    def join(self, group: Group) -> None:
        """Trains and scores with other processes from now on, as ``DistributedDataParallel`` does.

        Every backward pass of the model ends with the mean of the processes' gradients, so that whatever
        ``train_step`` does after it is done everywhere alike; predictions count as much as a process has of the
        batch's rows. Batch norm takes its statistics from the rows of all processes, and every process begins with the
        first one's weights. Whatever else the model computes from several rows, as negatives drawn from the batch, it
        computes from its own process's.

        Raises:
            ModelError: the model has a batch norm whose statistics cannot be shared.
        """
        self.group = group
        if not group.active:
            return
        sync_batch_norms(self, group)
        for name, module in self.named_modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, SyncedBatchNorm1d):
                raise ModelError(
                    f"{type(self).__name__} cannot train in several processes: {name} is a {type(module).__name__}, "
                    "whose statistics each process would take from its own rows. BatchNorm1d with running statistics "
                    "is shared. Run it without --devices."
                )
        group.share([*self.parameters(), *self.buffers()])
        self._share, self._backward, self._summed = 1.0, False, False
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._begin_backward)
        if not group.leads:
            self._verbose = 0

    def _weighted(self, values):
        """A prediction whose gradient counts by this process's rows; those of the other predictions stay apart."""
        if not isinstance(values, Tensor) or not values.requires_grad:
            return values
        weight, values = self._share * self.group.size, values.view_as(values)
        values.register_hook(lambda gradient: gradient * weight)
        return values

    def _begin_backward(self, _: Tensor) -> None:
        """Has the gradients added up when the backward pass that has reached the first weight is over."""
        if not self._backward:
            self._backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._end_backward)

    def _end_backward(self) -> None:
        """The mean, so that what has accumulated in earlier passes, the same everywhere, stays as it is."""
        self._backward, self._summed = False, True
        with torch.no_grad():
            self.group.sum_gradients(self.parameters())
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self.group.size

    def train_step(self, batch_data) -> Tensor:
        """The model's own.

        Returns:
            the loss that it returns; of several processes the mean, each weighted by its rows, a scalar.

        Raises:
            ModelError: of several processes, gradients are computed where they cannot be added up.
        """
        if not self.group.active:
            return super().train_step(batch_data)
        rows = torch.tensor(float(len(next(iter(row_columns(batch_data).values())))), device=self.device)
        self._share = float(rows / self.group.sum(rows.clone()))
        self._summed = False
        loss = super().train_step(batch_data).detach()
        if not self._summed:
            raise ModelError(
                f"{type(self).__name__} cannot train in several processes: its train_step computes gradients without "
                "backward(), where they would be added up. Run it without --devices."
            )
        return self.group.sum(loss * self._share)

    def evaluate(self, data_generator, metrics=None) -> dict[str, float]:
        """The model's own, of the rows of all processes."""
        self._gathers = self.group.active
        try:
            return super().evaluate(data_generator, metrics)
        finally:
            self._gathers = False

    def evaluate_metrics(self, y_true, y_pred, metrics, group_id=None) -> dict[str, float]:
        """The model's own; within :meth:`evaluate` each process gives its rows.

        FuxiCTR's are computed here where there are several processes, as its grouped metrics fork each of them anew;
        so are those of numbers, which it has none of, and of labels of one class, on which it stops.
        """
        if self._gathers:
            y_true, y_pred = self._gather(y_true, np.float64), self._gather(y_pred, np.float64)
            if self.feature_map.group_id is not None:
                group_id = self._gather([] if group_id is None else group_id, np.int64)
        elsewhere = self.group.active or set(metrics) & set(ERROR_METRICS) or len(np.unique(y_true)) < 2
        if elsewhere and super().evaluate_metrics.__func__ is BaseModel.evaluate_metrics:
            return evaluate_metrics(y_true, y_pred, metrics, group_id)
        return super().evaluate_metrics(y_true, y_pred, metrics, group_id)

    def predict(self, data_generator):
        """The model's own, of the rows of all processes."""
        predictions = super().predict(data_generator)
        if not self.group.active:
            return predictions
        if isinstance(predictions, Mapping):
            return {name: self._gather(values, np.float64) for name, values in predictions.items()}
        return self._gather(predictions, np.float64)

    def _gather(self, values, dtype) -> np.ndarray:
        """The rows of all processes, in their order in the split."""
        return self.group.gather_rows(torch.tensor(np.asarray(values, dtype), device=self.device)).cpu().numpy()

    def save_weights(self, checkpoint: str) -> None:
        """The model's own; of several processes the first writes."""
        if self.group.leads:
            super().save_weights(checkpoint)


def blame(error: BaseException, model: nn.Module) -> str:
    """What went wrong first, and the innermost line of the model's code, or of FuxiCTR's layers, in which it did."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    frames = [frame for link in chain for frame in _frames(link.__traceback__)]
    place = place_of(frames, model)
    return f"{first_line(chain[-1])}{', at ' + place if place else ''}."


def place_of(frames: Iterable[tuple[str, int, str]], model: nn.Module) -> str | None:
    """The last of some places (file, line, function) that is in a model's code or FuxiCTR's layers, in words."""
    files = {inspect.getfile(kind) for module in model.modules() for kind in type(module).__mro__ if _is_foreign(kind)}
    own = [frame for frame in frames if frame[0] in files]
    if not own:
        return None
    file, line, function = own[-1]
    return f"{Path(file).name}, line {line}, in {function}: {linecache.getline(file, line).strip()}"


def _is_foreign(kind: type) -> bool:
    return issubclass(kind, nn.Module) and not kind.__module__.startswith(("torch.", "qin_zoo."))


def _frames(tb: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    """Where an exception was raised; where it is about an operation of a traced graph, where that stands, too."""
    for frame, line in traceback.walk_tb(tb):
        yield frame.f_code.co_filename, line, frame.f_code.co_name
        node = frame.f_locals.get("node")
        if isinstance(node, torch.fx.Node):
            for file, number, function in _PLACE.findall(node.meta.get("stack_trace") or ""):
                yield file, int(number), function


def _float(values):
    return values.float() if isinstance(values, Tensor) and values.dtype == torch.bfloat16 else values
