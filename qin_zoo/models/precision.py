"""Arithmetic in lower precision: which products are computed in it, and which are not."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRECISIONS = ("fp32", "tf32", "bf16")


class Precision:
    """The precision of a model's matrix products; weights, their gradients' sums, logits and loss stay float32.

    Args:
        name: ``fp32``; ``tf32``, GPUs' products of 10 bits, of no effect on a CPU; ``bf16``, bfloat16 products.
        device: where the model computes.
    """

    def __init__(self, name: str, device: torch.device):
        if name not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {name!r}.")
        self.name, self.device = name, device
        if name == "tf32" and device.type == "cpu":
            logging.info("precision tf32 has no effect on a CPU: products are float32.")
        if name == "bf16" and device.type == "cpu" and (times := bfloat16_time()) > 2:
            logging.warning(
                f"precision bf16: this processor takes {times:.0f} times as long for products in bfloat16 as in "
                "float32, having no instructions for them. Leave it to fp32 (--set precision=fp32)."
            )

    def prepare(self, model: nn.Module) -> None:
        """Sets the device up for it and keeps the last layers of the model, those of one number, in float32."""
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")
        if self.name == "bf16":
            for module in model.modules():
                if type(module) is nn.Linear and module.out_features == 1:
                    module.__class__ = _FloatLinear  # names of weights and of the module stay

    def context(self) -> AbstractContextManager:
        """What a forward pass runs in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()


def bfloat16_time() -> float:
    """How many times as long as in float32 a small product takes the processor in bfloat16."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """That a small product takes on the CPU, the least of three."""
    a = torch.ones(128, 128, dtype=dtype)
    took = []
    for _ in range(3):
        started = time.perf_counter()
        a @ a
        took.append(time.perf_counter() - started)
    return min(took)


class _FloatLinear(nn.Linear):
    """A linear layer outside autocast: a logit of 8 bits would tie scores that differ."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)
