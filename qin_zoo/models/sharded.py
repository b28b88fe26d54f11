"""Embedding tables split by rows among the processes of a training, whose rows TorchRec fetches.

TorchRec decides which rows a process holds and carries ids and vectors between the processes, gradients on their way
back included. The rows are an ordinary parameter here: optimiser, clipping, penalty and checkpoints are our own, and
the look-up in the own rows is torch's (FBGEMM's kernel with plain gradients adds vectors up on CPUs).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from qin_zoo.distributed import Group
from qin_zoo.errors import ConfigError, first_line, suggest

_BAGS = 1024  # of a look-up, in every process: GPUs sort the ids of different bags at the same time
_NOT_BY_ELEMENT = ("Adafactor", "Muon")  # optimisers whose step of one weight depends on those beside it


def require_engine() -> None:
    """Raises ConfigError unless TorchRec can be imported."""
    try:
        import torchrec.distributed.embedding  # noqa: F401
    except Exception as error:  # a library of another torch version ends in errors of many kinds
        version = torch.__version__.split("+")[0]
        raise ConfigError(
            f"sharded_tables needs TorchRec, which cannot be imported here ({first_line(error)}). Install torchrec and "
            f"fbgemm-gpu (fbgemm-gpu-cpu on machines without a GPU) in the versions made for torch {version}, see "
            "docs/topics/runs.md. Or leave sharded_tables out: every process then holds whole tables, which must fit "
            "on one device."
        ) from error
    for logger in ("torchrec", "torch.fx._symbolic_trace"):  # remarks that no user can act on
        logging.getLogger(logger).setLevel(logging.ERROR)


def check_tables(names: Iterable[str], layers: nn.ModuleDict, features: dict[str, dict]) -> None:
    """Raises ConfigError unless every name is a feature with a table that can be split.

    Args:
        names: the features.
        layers: feature -> embedding layer.
        features: feature -> its description in the feature map.
    """
    able = [name for name, layer in layers.items() if type(layer) is nn.Embedding]
    for name in names:
        if name in able:
            continue
        if name not in features:
            problem = f"is no feature of the dataset.{suggest(name, able)}"
        elif "pretrained_emb" in features[name]:
            problem = "has pretrained_emb, whose layer is not split."
        else:
            problem = f"is of type {features[name]['type']}, which has no table."
        raise ConfigError(
            f"sharded_tables: '{name}' {problem} Features with a table that can be split: {', '.join(able) or 'none'}."
        )


class ShardedTable(nn.Module):
    """An ``nn.Embedding`` of which each process holds some rows; its parameter stays the same object.

    Every call is a conversation of all processes, also for a process without ids: all must look up equally often.

    Args:
        table: the whole table, the same in every process; it is let go.
        group: the processes.
        device: where this process's rows go.

    Attributes:
        weight: this process's rows, (rows, dim).
        first: number of the first of them in the whole table.
        shape: of the whole table.
    """

    def __init__(self, table: nn.Embedding, group: Group, device: torch.device):
        super().__init__()
        self.shape, self.padding_idx = tuple(table.weight.shape), table.padding_idx
        self._group = group
        self._engine = [_engine(*self.shape, group, device)]  # in a list: no part of the model's state
        shards = self._engine[0].state_dict()["embeddings.table.weight"].local_shards()
        self.first = shards[0].metadata.shard_offsets[0] if shards else self.shape[0]
        rows = shards[0].tensor.detach() if shards else torch.empty(0, self.shape[1], device=device)
        rows.copy_(table.weight.detach()[self.first : self.first + len(rows)])
        self.weight = table.weight
        self.weight.grad, self.weight.data = None, rows
        self._engine[0]._lookups[0] = lambda asked: F.embedding(asked.values(), self.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows (…, dim) of ids (…), whoever holds them; padding gets no gradient.

        Raises:
            RuntimeError: an id is not below the number of rows.
        """
        from torchrec import KeyedJaggedTensor

        asked = ids.reshape(-1).long()
        torch._assert_async(((asked >= 0) & (asked < self.shape[0])).all(), f"ids must be in 0…{self.shape[0] - 1}")
        lengths = torch.full((_BAGS,), len(asked) // _BAGS, device=ids.device)
        lengths[: len(asked) % _BAGS] += 1
        answer = self._engine[0](KeyedJaggedTensor(["ids"], asked, lengths=lengths)).wait()
        rows = answer["ids"].values().view(*ids.shape, self.shape[1])
        if self.padding_idx is None:
            return rows
        return torch.where((ids == self.padding_idx).unsqueeze(-1), rows.detach(), rows)

    def mean(self, ids: Tensor) -> Tensor:
        """Mean row, (N, dim), of the ids (N, T) that are not padding; 0 where all are."""
        kept = torch.ones_like(ids, dtype=torch.bool) if self.padding_idx is None else ids != self.padding_idx
        return (self(ids) * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)

    def join_lookups(self) -> None:
        """Takes part in a look-up of the others, without ids."""
        self(torch.empty(0, dtype=torch.long, device=self.weight.device))

    def gathered(self, own: Tensor) -> Tensor | None:
        """What belongs to the rows of all processes, (rows, dim), in the first one's host memory; elsewhere None."""
        return self._group.collect_rows(own)

    def local_part(self, whole: Tensor) -> Tensor:
        """A copy of the part of something whole that belongs to this process's rows."""
        return whole[self.first : self.first + len(self.weight)].clone()

    def like_whole(self, _: Tensor) -> Tensor:
        """A tensor of the whole table's shape, without memory."""
        return torch.empty(self.shape, device="meta")

    def extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}, rows {self.first} to {self.first + len(self.weight)} here"


def _engine(rows: int, dim: int, group: Group, device: torch.device) -> nn.Module:
    """TorchRec's look-up in a table of which each process holds as many rows."""
    from torchrec import EmbeddingCollection, EmbeddingConfig
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv

    set_gradient_division(False)  # gradients of all processes are added up: each has weighed its rows already
    table = EmbeddingConfig(name="table", num_embeddings=rows, embedding_dim=dim, feature_names=["ids"])
    collection = EmbeddingCollection([table], device=torch.device("meta"))
    sharder = EmbeddingCollectionSharder()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", group.size))  # processes on this machine, as torchrun tells them
    sizes = {"local_size": here, "world_size": group.size, "device_type": device.type}
    plan = construct_module_sharding_plan(collection, {"table": row_wise(compute_kernel="dense")}, sharder, **sizes)
    engine = sharder.shard(collection, plan, ShardingEnv.from_process_group(dist.group.WORLD), device=device)
    if len(getattr(engine, "_lookups", ())) != 1:
        raise ConfigError(
            "sharded_tables: this version of TorchRec is built otherwise; take the one that docs/topics/runs.md names."
        )
    return engine


@contextmanager
def kept_in_host_memory(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Lets a model move to its device without these weights: whole tables may find no room there."""
    values = {weight: weight.data for weight in weights}
    for weight, whole in values.items():
        weight.data = whole[:0]
    try:
        yield
    finally:
        for weight, whole in values.items():
            weight.data = whole


def split_tables(model: nn.Module, layers: nn.ModuleDict, names: Iterable[str], group: Group) -> list[nn.Parameter]:
    """Splits the tables of these features among the processes; features that share one go on sharing it.

    Args:
        model: has a ``device`` and an ``optimizer``.
        layers: feature -> embedding layer, changed in place.
        names: the features.
        group: of more than one process.

    Returns:
        the parameters that now hold this process's rows only.

    Raises:
        ConfigError: TorchRec cannot be imported, or the optimiser needs whole tables.
    """
    require_engine()
    kind = type(model.optimizer).__name__
    if kind in _NOT_BY_ELEMENT:
        raise ConfigError(f"sharded_tables: {kind} needs whole tables; choose another optimizer, Adam for one.")
    tables = {layers[name]: None for name in names}
    split = {table: ShardedTable(table, group, model.device) for table in tables}
    for name, layer in layers.items():
        layers[name] = split.get(layer, layer)
    return [table.weight for table in split.values()]


def clip_gradients(whole: list[Tensor], shards: list[Tensor], group: Group, max_norm: float) -> Tensor:
    """``clip_grad_norm_`` by the norm over the rows of all processes; weights that all hold count once.

    Returns:
        the norm before clipping, the same scalar in every process.
    """
    if not shards:
        return nn.utils.clip_grad_norm_(whole, max_norm)
    gradients = [[p.grad for p in part if p.grad is not None] for part in (whole, shards)]
    norms = [nn.utils.get_total_norm(part) for part in gradients]
    norm = (norms[0] ** 2 + group.sum(norms[1] ** 2)).sqrt()
    nn.utils.clip_grads_with_norm_([*whole, *shards], max_norm, norm)
    return norm


def map_state(
    model: nn.Module, state: dict[str, Any], change: Callable[[ShardedTable, Tensor], Tensor | None]
) -> dict[str, Any]:
    """Changes what belongs to split tables in a training's state, all else stays.

    Args:
        model: the model.
        state: any of ``model`` and ``gradients``, parameter name -> tensor, and ``optimizer``, an optimiser's
            ``state_dict``.
        change: for instance :meth:`ShardedTable.gathered`, which all processes must then do, or
            :meth:`ShardedTable.local_part`.

    Returns:
        the same dictionaries, changed; the ones given stay as they are.
    """
    modules = model.named_modules(remove_duplicate=False)
    tables = {f"{name}.weight": module for name, module in modules if isinstance(module, ShardedTable)}
    if not tables:
        return state
    state = dict(state)
    for part in ("model", "gradients"):  # in this order in every process
        if part in state:
            found = {name: values for name, values in state[part].items() if name in tables}
            # Features that share a table are one conversation.
            once = {tables[name]: change(tables[name], values) for name, values in _distinct(found, tables)}
            state[part] = state[part] | {name: once[tables[name]] for name in found}
    if "optimizer" in state:
        by_weight = {table.weight: table for table in tables.values()}
        order = [weight for group in model.optimizer.param_groups for weight in group["params"]]
        states = dict(state["optimizer"]["state"])
        for place, values in states.items():
            table = by_weight.get(order[place])
            if table is not None:  # numbers, like Adam's step, are the same for all rows
                states[place] = {k: change(table, v) if _has_rows(v) else v for k, v in values.items()}
        state["optimizer"] = state["optimizer"] | {"state": states}
    return state


def _distinct(found: dict[str, Tensor], tables: dict[str, ShardedTable]) -> list[tuple[str, Tensor]]:
    """One name for each table."""
    return list({tables[name]: (name, values) for name, values in found.items()}.values())


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2
