"""Weights in files: read without running anything, checked against a model, and taken over by a grown one."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qin_zoo.errors import CheckpointError, first_line


def read_state(checkpoint: str) -> dict[str, Tensor]:
    """The ``state_dict`` in a file, whose own memory the tensors are where torch can map it: to be copied from.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not os.path.isfile(checkpoint):
        raise CheckpointError(f"No checkpoint at {checkpoint}. Train the experiment first, or name another file.")
    try:
        mapped = zipfile.is_zipfile(checkpoint)  # there may be no room for a table and its copy
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds for damaged or foreign files
        raise CheckpointError(
            f"{checkpoint} cannot be read as a checkpoint (a state_dict written by torch.save): it is damaged, cut "
            f"short, or holds objects other than tensors. {first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{checkpoint} holds no state_dict (names to tensors) but {type(state).__name__}.")
    return state


def renamed(state: dict[str, Tensor], names: Mapping[str, str | None]) -> dict[str, Tensor]:
    """``state`` with the beginnings of its names replaced.

    Args:
        names: regular expression of a beginning -> what stands there instead; None leaves the weight out. The first
            that fits counts.
    """
    found = {}
    for name, weight in state.items():
        pattern = next((pattern for pattern in names if re.match(pattern, name)), None)
        if pattern is None:
            found[name] = weight
        elif names[pattern] is not None:
            found[re.sub(pattern, names[pattern], name, count=1)] = weight
    return found


def require_fit(state: dict[str, Tensor], expected: dict[str, Tensor], checkpoint: str) -> None:
    """Raises CheckpointError unless names and shapes are those of ``expected``."""
    missing = [k for k in expected if k not in state]
    extra = [k for k in state if k not in expected]
    shapes = [
        f"{k}: checkpoint {tuple(state[k].shape)}, model {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = [
        f"{len(found)} {what} (first: {found[0]})"
        for what, found in (("weights missing", missing), ("unknown weights", extra), ("other shapes", shapes))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint} is of another model or configuration: {'; '.join(problems)}. Use the checkpoint of this "
            "experiment, or the configuration it was trained with."
        )


@dataclass
class WarmStart:
    """What :func:`warm_start` did.

    Attributes:
        kept: names of weights taken over whole.
        grown: name -> (rows taken over, rows of the model): the others are new.
        fresh: weights of the model that the checkpoint lacks, or has in a shape that does not fit.
        unused: weights of the checkpoint that the model lacks.
    """

    kept: list[str] = field(default_factory=list)
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{len(self.kept)} weights taken over as they are"]
        lines += [f"{name}: {old:,} rows taken over, {new - old:,} new" for name, (old, new) in self.grown.items()]
        lines += [f"{name}: begins anew" for name in self.fresh]
        return lines + [f"{name}: not used" for name in self.unused]


@torch.no_grad()
def warm_start(model: nn.Module, checkpoint: str) -> WarmStart:
    """Begins a model with the weights of another whose item table or vocabularies were smaller.

    Row i of an embedding table stays row i; rows beyond the old table keep the values they were initialised with.

    Args:
        model: freshly initialised; changed in place.
        checkpoint: file of the older weights.

    Raises:
        CheckpointError: the file cannot be read; a table has shrunk, so that ids cannot mean the same; or nothing fits.
    """
    state, done = renamed(read_state(checkpoint), getattr(model, "published_names", {})), WarmStart()
    for name, values in model.state_dict().items():
        old = state.get(name)
        if old is not None and old.shape == values.shape:
            values.copy_(old)
            done.kept.append(name)
        elif old is not None and "embedding" in name and old.shape[1:] == values.shape[1:] and old.dim() == 2:
            if len(old) > len(values):
                raise CheckpointError(
                    f"{checkpoint}: {name} has {len(old):,} rows, the model {len(values):,}. A table may grow, not "
                    "shrink: row i must stay the same item or category."
                )
            values[: len(old)] = old.to(values)
            done.grown[name] = (len(old), len(values))
        else:
            done.fresh.append(name)
    done.unused = [name for name in state if name not in model.state_dict()]
    if not done.kept and not done.grown:
        raise CheckpointError(f"{checkpoint} is of another model: no weight of it fits this one.")
    return done
