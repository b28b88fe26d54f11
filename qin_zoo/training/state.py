"""The state of a training that is not in its data: weights, optimiser, early stopping, random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qin_zoo.distributed import Group
from qin_zoo.errors import CheckpointError, first_line
from qin_zoo.models.sharded import ShardedTable, map_state
from qin_zoo.models.uncompiled import no_compiler

# FuxiCTR's names for what its training loop remembers.
_FUXICTR = ("_best_metric", "_stopping_steps", "_stop_training", "_total_steps", "_epoch_index")


def capture(model, group: Group) -> tuple[dict[str, Any], dict[str, Any]]:
    """(JSON values, tensors) of a model in training and of the random generators of all its processes."""
    facts = {name: getattr(model, name) for name in _FUXICTR}
    facts["_best_metric"] = float(facts["_best_metric"])
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    with no_compiler():
        tensors = {"model": model.state_dict(), "optimizer": model.optimizer.state_dict(), "gradients": gradients}
    tensors = map_state(model, tensors, ShardedTable.gathered)
    return facts, {**tensors, "random": _random_states(model.device, group)}


def restore(model, group: Group, facts: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Puts back what :func:`capture` took.

    Raises:
        CheckpointError: the state is of another model or optimiser.
    """
    for name in _FUXICTR:
        setattr(model, name, facts[name])
    try:
        states = {name: tensors[name] for name in ("model", "optimizer", "gradients")}
        tensors = tensors | map_state(model, states, ShardedTable.local_part)
        model.load_state_dict(tensors["model"])
        model.optimizer.state.clear()  # there may be no room for both
        with no_compiler():
            model.optimizer.load_state_dict(tensors["optimizer"])
        for state in model.optimizer.state.values():  # which else would be the file's own memory
            state |= {name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()}
        for name, parameter in model.named_parameters():
            gradient = tensors["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"The checkpoint is of another model or configuration: {first_line(error)}. Run without --resume."
        ) from error
    _set_random_states(tensors["random"], model.device, group)


def _random_states(device: torch.device, group: Group) -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (the generator that FuxiCTR seeds)
    own = {"torch": torch.get_rng_state()}  # dropout, other numbers in every process
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    return {
        "python": torch.tensor([version, *numbers], dtype=torch.int64),
        "python_gauss": gauss,
        "numpy": torch.from_numpy(np.append(keys.astype(np.int64), [position, has_gauss])),
        "numpy_gauss": float(cached),
        **{name: group.gather_rows(state[None].to(device)).cpu() for name, state in own.items()},
    }


def _set_random_states(states: dict[str, Any], device: torch.device, group: Group) -> None:
    version, *numbers = states["python"].tolist()
    random.setstate((version, tuple(numbers), states["python_gauss"]))
    *keys, position, has_gauss = states["numpy"].tolist()
    legacy = ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, states["numpy_gauss"])
    np.random.set_state(legacy)  # noqa: NPY002
    if group.rank >= len(states["torch"]):  # more processes than before
        torch.manual_seed(int(states["torch"][0].long().sum()) + group.rank)
        return
    torch.set_rng_state(states["torch"][group.rank].clone())  # torch reads from the start of its storage
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"][group.rank].clone(), device)
