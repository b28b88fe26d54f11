"""The training rows of a period: its own, and those of before that are trained again."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from qin_zoo.data.dataset import Dataset
from qin_zoo.data.loader import ColumnLoader
from qin_zoo.data.stored import KINDS, Column, blocks
from qin_zoo.errors import DataError, QinZooError, first_line
from qin_zoo.files import replace_file
from qin_zoo.periods.fesail import Restraint, aged, cover, tables_of, weights_of
from qin_zoo.periods.values import Values

# Keys of an experiment, in the order of Replay's fields.
_KEYS = (
    "replay", "replay_rows", "replay_function", "replay_bias", "stale_limit", "stale_strength", "retire_after", "seed",
)  # fmt: skip
METHODS = ("fesail", "random", "none", "all")
_ROWS = 1 << 16  # compared, or written, at a time


@dataclass(frozen=True)
class Replay:
    """What of earlier periods is trained again, and how.

    Attributes:
        method: ``fesail``, ``random`` rows, ``none``, or ``all`` of them, with weights that begin anew.
        rows: how many, at most; None for as many as the period has. Of no meaning to ``none`` and ``all``.
        function, bias: of FeSAIL's weights, :func:`~qin_zoo.periods.fesail.weights_of`.
        limit, strength: of FeSAIL's regulariser, :class:`~qin_zoo.periods.fesail.Restraint`.
        retire_after: values that did not occur for so many periods are retired: their rows are as freshly initialised,
            and no row is trained again for their sake. None: never.
        seed: of ``random``.
    """

    method: str = "fesail"
    rows: int | None = None
    function: str = "inverse"
    bias: float = 1.0
    limit: int = 5
    strength: float = 1.0
    retire_after: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, params: Mapping[str, object]) -> Replay:
        """That of an experiment's parameters."""
        return cls(**{field.name: params[key] for field, key in zip(fields(cls), _KEYS) if key in params})


@dataclass(frozen=True)
class Period:
    """A period that is ready to be trained.

    Attributes:
        dataset: the period's data; its training rows are the replayed ones, then the period's own.
        staleness: table -> periods since each of its values last occurred, (V,).
        facts: for the record: rows of the pool, chosen rows, stale values, …
    """

    replay: Replay
    dataset: Dataset
    staleness: dict[str, np.ndarray]
    facts: dict[str, int | str]

    def retired(self, model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Of each table of the model the rows that are retired."""
        after, found = self.replay.retire_after, []
        for name, weights in self._tables(model).items() if after is not None else ():
            rows = torch.from_numpy(np.flatnonzero(self.staleness[name] >= after))
            found += [(weight, rows.to(weight.device)) for weight in weights]
        return found

    def _tables(self, model: nn.Module) -> dict[str, list[nn.Parameter]]:
        return tables_of(model, {name: len(s) for name, s in self.staleness.items()})

    def restrain(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Holds back the stale rows of the model, where the method does that."""
        if self.replay.method == "fesail":
            replay, kept = self.replay, self.staleness
            if replay.retire_after is not None:
                kept = {name: np.where(s >= replay.retire_after, 0, s) for name, s in kept.items()}
            Restraint(self._tables(model), kept, replay.limit, replay.strength).attach(optimizer)


def begin_period(
    dataset: Dataset, pool: Dataset | None, replay: Replay, before: Path, staleness: Path, rows: Path
) -> Period:
    """Ages what does not occur in a period's training rows, and chooses what is trained again beside them.

    Args:
        dataset, replay: the period's data, and how to choose.
        pool: the data of the run that is continued, whose training rows may be trained again; None for none of them.
        before, staleness: the files of the staleness after the period before, without which nothing is stale, and of
            this period's, which is written.
        rows: where the training rows are written, when there are others than the period's own.

    Raises:
        QinZooError: a file that cannot be used or written.
    """
    loader = dataset.loader("train", shuffle=False, batch_layout="index")
    values = Values(loader.feature_map.features)
    now = aged(_read(before, values), values.occurring(loader))
    with replace_file(staleness) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **values.split(now.astype(np.int32)))
    facts: dict[str, int | str] = {
        "replay": replay.method,
        "rows": loader.num_samples,
        "stale_values": int((now > 0).sum()),
        "largest_staleness": int(now.max(initial=0)),
        "pool": 0,
        "replayed": 0,
    }
    if pool is not None:
        source = pool.loader("train", shuffle=False, batch_layout="index")
        chosen = _choose(source, values, now, replay, loader.num_samples)
        _write_rows(rows, [(source, chosen), (loader, np.arange(loader.num_samples))])
        dataset = dataset.with_training_rows(rows)
        _require_same_histories(source, chosen, dataset.loader("train", shuffle=False, batch_layout="index"))
        facts |= {"pool": source.num_samples, "replayed": len(chosen)}
    return Period(replay, dataset, values.split(now), facts)


def _choose(source, values: Values, staleness: np.ndarray, replay: Replay, count: int) -> np.ndarray:
    """The rows of the pool to train again, in its order."""
    count, every = min(replay.rows or count, source.num_samples), source.num_samples
    if replay.method == "all":
        return np.arange(every)
    if replay.method == "random":
        return np.sort(np.random.default_rng(replay.seed).choice(every, count, replace=False))
    if replay.retire_after is not None:
        staleness = np.where(staleness >= replay.retire_after, 0, staleness)
    weights = weights_of(staleness, replay.function, replay.bias)
    return np.sort(cover(*values.held(source, weights > 0), weights, count)[0])


def _read(file: Path, values: Values) -> np.ndarray:
    """(total,) the staleness in a file, for tables that may have grown since: what is new is not stale."""
    found = np.zeros(values.total, np.int64)
    if not file.is_file():
        return found
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name, part in values.split(found).items():
                if name in arrays:
                    part[: len(arrays[name])] = arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise QinZooError(
            f"{file}: expected how stale the values of each table are, found something else ({first_line(error)}). "
            "Continue the run before it again."
        ) from None
    return found


def _require_same_histories(source, chosen: np.ndarray, joined) -> None:
    """Raises DataError where a row that is trained again has another history now, because it stands in user_info."""
    for places in blocks(len(chosen), _ROWS):
        rows = chosen[places]
        then, now = source.batch(rows), joined.batch(places)
        if hasattr(then, "history") and not torch.equal(then.history, now.history):
            row = int((then.history != now.history).any(1).nonzero()[0])
            raise DataError(
                f"{joined.histories.column.path}: expected the history of training row {int(rows[row])} of the earlier "
                "period to be as it was. Users keep what they had, and later items come at the end of their lists."
            )


def _write_rows(target: Path, parts: Sequence[tuple[ColumnLoader, np.ndarray]]) -> None:
    """Writes chosen rows (n,) of splits of one layout to a parquet file, atomically; columns as they are stored."""
    tables = [loader.table for loader, _ in parts]
    types = {
        name: np.result_type(*(table[name].values.dtype for table in tables)).newbyteorder("=")
        for name in tables[-1].columns
    }
    schema = pa.schema([(name, _type(tables[-1][name], dtype)) for name, dtype in types.items()])
    with replace_file(target) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for (loader, rows), table in zip(parts, tables):
            rows = loader.table_rows(rows)
            for places in blocks(len(rows), _ROWS):
                some = rows[places]
                arrays = [_array(table[name], some, dtype) for name, dtype in types.items()]
                file.write_batch(pa.record_batch(arrays, schema=schema))


def _type(column: Column, dtype: np.dtype) -> pa.DataType:
    element = pa.from_numpy_dtype(dtype)
    return pa.large_list(element) if KINDS[column.kind].listed else element


def _array(column: Column, rows: np.ndarray, dtype: np.dtype) -> pa.Array:
    if not KINDS[column.kind].listed:
        return pa.array(column.take(rows).astype(dtype, copy=False))
    begin, end = column.bounds(rows)
    ends = np.cumsum(end - begin)
    place = np.arange(ends[-1]) + np.repeat(begin - (ends - (end - begin)), end - begin)
    values = column.values[place].astype(dtype, copy=False)
    return pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), values)
