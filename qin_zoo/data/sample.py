"""Sample data in the challenge's layout, from a model whose best reachable AUC is known.

    OUT/train.parquet, valid.parquet   user_id, item_id, item_seq, likes_level, views_level, label
    OUT/test.parquet                   the same without label
    OUT/item_info.parquet              item_id, item_tags, item_emb_d128; row i is item i, row 0 padding
    OUT/truth/valid.parquet, test.parquet   label, probability, blind_probability
    OUT/sample.json                    parameters and what can be reached; read back by read_summary

``probability`` is exact for an observer of one row who has learnt the items' topics and qualities;
``blind_probability`` for one who, besides, does not see the history (see ``sample_world``). No user occurs in
two splits: rows of the same user in training would tell such an observer more than the row does.
"""

from __future__ import annotations

import json
import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.sample_world import (
    IntArray,
    Rules,
    World,
    draw_interests,
    draw_topics,
    make_world,
    membership,
)
from qin_zoo.errors import DataError
from qin_zoo.files import read_json
from qin_zoo.progress import Progress

SCHEMA_VERSION = 1
SUMMARY_FILE = "sample.json"
FILES = (
    "train.parquet",
    "valid.parquet",
    "test.parquet",
    "item_info.parquet",
    "truth/valid.parquet",
    "truth/test.parquet",
)

ROWS_PER_USER = 3.6
"""The challenge's 3.6 million rows over its million users."""
ROWS_PER_CHUNK = 100_000
"""Rows drawn, and written as a row group, at a time. Another size would make another sample of a seed: raise
``SCHEMA_VERSION`` with it."""


@dataclass(frozen=True)
class SplitSummary:
    """One split: its size, its share of clicks and, where the truth is kept, what can be reached.

    Attributes:
        rows: number of rows.
        users: number of users, none of them in another split.
        click_rate: share of clicks among the labels.
        best_auc: AUC of the exact click probability; None for train.
        blind_auc: AUC of the exact click probability without the history; None for train.
    """

    rows: int
    users: int
    click_rate: float
    best_auc: float | None = None
    blind_auc: float | None = None


@dataclass(frozen=True)
class SampleSummary:
    """What ``sample.json`` says of a sample.

    Attributes:
        path: the sample's folder.
        parameters: everything that determines the sample: the arguments of :func:`write_sample` by their
            names, and the constants of the generative model as ``rules``.
        splits: ``train``, ``valid`` and ``test``.
    """

    path: Path = field(compare=False)
    parameters: Mapping[str, Any]
    splits: Mapping[str, SplitSummary]

    @property
    def rows(self) -> int:
        """Training rows."""
        return self.splits["train"].rows

    @property
    def items(self) -> int:
        """Items, padding not counted."""
        return self.parameters["items"]

    @property
    def users(self) -> int:
        """Users of all splits."""
        return sum(split.users for split in self.splits.values())

    @property
    def seed(self) -> int:
        """The seed it was drawn with."""
        return self.parameters["seed"]

    @property
    def click_rate(self) -> float:
        """Share of clicks among the training rows."""
        return self.splits["train"].click_rate

    @property
    def best_auc(self) -> dict[str, float]:
        """Best reachable AUC: ``{"valid": …, "test": …}``."""
        return {name: s.best_auc for name, s in self.splits.items() if s.best_auc is not None}

    @property
    def blind_auc(self) -> dict[str, float]:
        """Best reachable AUC without the history: ``{"valid": …, "test": …}``."""
        return {name: s.blind_auc for name, s in self.splits.items() if s.blind_auc is not None}


def write_sample(
    out: str | Path,
    rows: int,
    items: int = 2000,
    seed: int = 1,
    *,
    users: int | None = None,
    valid_rows: int | None = None,
    test_rows: int | None = None,
    history_length: int = 100,
    embedding_dim: int = 128,
    progress: bool = True,
    force: bool = False,
) -> SampleSummary:
    """Writes a sample into ``out``; the same arguments write the same values.

    Everything is made in a temporary folder beside ``out`` first, so an interrupted run leaves nothing
    half-made in ``out`` (one that is killed outright leaves that folder, ``.NAME.part-…``, to be deleted). A
    sample of the same parameters that lies there already is left as it is.

    Args:
        out: folder to write; created where it is missing.
        rows: training rows, at least 100.
        items: catalogue size, at least 50.
        seed: any integer ≥ 0.
        users: users of the training split; default one for every 3.6 rows. Other splits keep the ratio.
        valid_rows: default a fifth of ``rows``, within 2,000 and 10,000.
        test_rows: default the challenge's share of ``rows`` (10.5 %), at least 2,000.
        history_length: length of ``item_seq``, padding included.
        embedding_dim: size of the item embedding, and part of its column's name.
        progress: whether a terminal is shown a progress bar.
        force: make it again, and replace a sample of other parameters. Anything else is never replaced.

    Returns:
        The summary of what is in ``out``.

    Raises:
        DataError: an argument out of range, an ``out`` that holds something else, or a failure to write.
    """
    rows = _whole("rows", rows, 100)
    users = _whole("users", max(1, round(rows / ROWS_PER_USER)) if users is None else users, 1)
    if users > rows:
        raise DataError(f"users must be at most rows, as each has one at least; got {users} for {rows} rows.")
    if valid_rows is None:
        valid_rows = max(2000, min(10_000, rows // 5))
    if test_rows is None:
        test_rows = max(2000, rows * 379_142 // 3_600_000)
    items = _whole("items", items, 50)
    rules = Rules.for_items(items)
    parameters = {
        "rows": rows,
        "valid_rows": _whole("valid_rows", valid_rows, 100),
        "test_rows": _whole("test_rows", test_rows, 100),
        "items": items,
        "users": users,
        "seed": _whole("seed", seed, 0),
        "history_length": _whole("history_length", history_length, 1),
        "embedding_dim": _whole("embedding_dim", embedding_dim, 1),
    }

    # before any work: what is there already, and may we write
    out = Path(out).expanduser()
    with _os_errors(out):
        out = out.resolve()
        found = _read(out)
        wanted = {**parameters, "rules": asdict(rules)}
        if found is not None and not force and _same(found.parameters, wanted):
            return found
        if found is None or not force:
            _refuse_occupied(out, found)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(13, "no write permission")
        # a mount point cannot be reached by renaming from outside
        beside = out if os.path.ismount(out) else out.parent
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-", dir=beside))
    try:
        with _os_errors(out):
            summary = _generate(staging, out, parameters, rules, progress)
            _publish(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return summary


def read_summary(folder: str | Path) -> SampleSummary | None:
    """The summary of the sample in ``folder``, or None when it holds no (complete) sample of this version.

    Raises:
        DataError: the folder cannot be read.
    """
    with _os_errors(Path(folder), "read"):
        return _read(Path(folder))


def _read(folder: Path) -> SampleSummary | None:
    path = folder / SUMMARY_FILE
    if not path.is_file() or not all((folder / name).is_file() for name in FILES):
        return None
    try:
        content = read_json(path)
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        splits = {name: SplitSummary(**content["splits"][name]) for name in ("train", "valid", "test")}
        parameters = content["parameters"]
        if {"items", "seed"} <= parameters.keys() and isinstance(parameters["rules"], dict):
            return SampleSummary(folder, parameters, splits)
    except (ValueError, KeyError, TypeError, AttributeError):  # a sample.json of another make
        pass
    return None


def _generate(folder: Path, out: Path, parameters: dict, rules: Rules, progress: bool) -> SampleSummary:
    """Writes all files into ``folder`` and returns the summary as of ``out``."""
    seed = parameters["seed"]
    world = make_world(parameters["items"], rules, parameters["embedding_dim"], _stream(seed, 0))
    _write_items(folder / "item_info.parquet", world)
    (folder / "truth").mkdir()

    splits, first_user = {}, 1
    sizes = {"train": parameters["rows"], "valid": parameters["valid_rows"], "test": parameters["test_rows"]}
    with Progress(total=sum(sizes.values()), desc="sample", shown=progress, unit=" rows", unit_scale=True) as bar:
        for number, (name, size) in enumerate(sizes.items(), start=1):
            users = min(size, max(1, round(size * parameters["users"] / parameters["rows"])))
            split = _Split(name, number, size, users, first_user)
            splits[name] = _write_split(folder, split, world, parameters, bar.update)
            first_user += users

    summary = SampleSummary(out, {**parameters, "rules": asdict(world.rules)}, splits)
    content = {
        "schema_version": SCHEMA_VERSION,
        "rows": summary.rows,
        "items": summary.items,
        "users": summary.users,
        "seed": summary.seed,
        "click_rate": summary.click_rate,
        "splits": {name: asdict(split) for name, split in splits.items()},
        "parameters": summary.parameters,
    }
    (folder / SUMMARY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return summary


@dataclass(frozen=True)
class _Split:
    """A split to write; ``number`` names its random streams, ``first_user`` is its smallest user id."""

    name: str
    number: int
    rows: int
    users: int
    first_user: int

    @property
    def has_truth(self) -> bool:
        return self.name != "train"


@dataclass(frozen=True)
class _Rows:
    """Rows drawn together, (n,) each unless said otherwise.

    Attributes:
        user: index of the row's user within the chunk.
        target: item ids.
        history: (n, history_length) item ids, left-padded with 0, newest last.
        counts: (n, T) history items per topic, or None where no truth is wanted.
        label: 0 or 1.
    """

    user: IntArray
    target: IntArray
    history: IntArray
    counts: IntArray | None
    label: IntArray


def _write_split(
    folder: Path, split: _Split, world: World, parameters: dict, advance: Callable[[int], Any]
) -> SplitSummary:
    """Writes a split's parquet file and, except for train, its truth."""
    seed = parameters["seed"]
    per_user = _rows_per_user(split, _stream(seed, split.number))
    bounds = _chunks(per_user)
    length = parameters["history_length"]
    clicks, truths = 0, []
    with _TableWriter(folder / f"{split.name}.parquet") as writer:
        for chunk, (start, stop) in enumerate(pairwise(bounds)):
            rng = _stream(seed, split.number, 1 + chunk)
            rows = _draw_rows(world, per_user[start:stop], length, split.has_truth, rng)
            columns = {
                "user_id": split.first_user + start + rows.user,
                "item_id": rows.target,
                "item_seq": rows.history,
                "likes_level": world.likes[rows.target],
                "views_level": world.views[rows.target],
                "label": rows.label,
            }
            if split.name == "test":
                del columns["label"]
            writer.write(columns)
            clicks += int(rows.label.sum())
            if split.has_truth:
                truths.append(_truth(world, rows))
            advance(rows.label.size)
    if not split.has_truth:
        return SplitSummary(split.rows, split.users, clicks / split.rows)

    truth = {name: np.concatenate([t[name] for t in truths]) for name in truths[0]}
    with _TableWriter(folder / "truth" / f"{split.name}.parquet") as writer:
        writer.write(truth)
    best, blind = (_auc(truth["label"], truth[name]) for name in ("probability", "blind_probability"))
    return SplitSummary(split.rows, split.users, clicks / split.rows, best, blind)


def _rows_per_user(split: _Split, rng: np.random.Generator) -> IntArray:
    """(users,) rows of each user: one, and a share of the others that varies between users."""
    share = rng.standard_exponential(split.users)
    return 1 + rng.multinomial(split.rows - split.users, share / share.sum())


def _chunks(per_user: IntArray) -> list[int]:
    """Where to cut the users so that each stretch has at most about ``ROWS_PER_CHUNK`` rows."""
    until = np.cumsum(per_user)
    inner = np.searchsorted(until, np.arange(ROWS_PER_CHUNK, until[-1], ROWS_PER_CHUNK)) + 1
    return [int(cut) for cut in np.unique(np.concatenate([[0], inner, [per_user.size]]))]


def _draw_rows(world: World, per_user: IntArray, length: int, with_counts: bool, rng: np.random.Generator) -> _Rows:
    """Rows of users of their own interests, shuffled.

    A user's history grows by one item from each of their rows to the next, as far as it is long enough.

    Args:
        world: the catalogue.
        per_user: (users,) rows of each.
        length: history length.
        with_counts: whether to count topics.
        rng: where the randomness comes from.
    """
    rules, users = world.rules, per_user.size
    interests = draw_interests(users, rules, rng)

    shortest = min(rules.shortest_history, length)
    beyond = rng.beta(rules.history_alpha, rules.history_beta, size=users) * (length - shortest)
    full = np.where(rng.random(users) < rules.newcomers, 0, shortest + np.rint(beyond).astype(np.int64))
    topics = draw_topics(np.repeat(interests, full, axis=0), 1 - rules.stray, rules.topics, rng)
    acted = world.draw_items(topics, rng)  # all users' items, one user after the other

    order = rng.permutation(per_user.sum())
    user = np.repeat(np.arange(users), per_user)[order]
    rows_to_come = np.cumsum(per_user)[user] - 1 - order
    seen = np.maximum(full[user] - rows_to_come, np.minimum(full[user], shortest))

    offset = np.cumsum(full) - full
    source = np.arange(seen.sum()) + np.repeat(offset[user] - (np.cumsum(seen) - seen), seen)
    history = np.zeros((user.size, length), dtype=np.int64)
    history[np.arange(length) >= (length - seen)[:, None]] = acted[source]
    counts = None
    if with_counts:
        cell = np.repeat(np.arange(user.size), seen) * rules.topics + topics[source]
        counts = np.bincount(cell, minlength=user.size * rules.topics).reshape(user.size, rules.topics)

    theirs = interests[user]
    shown = draw_topics(theirs, rules.exposure, rules.topics, rng)
    target = world.draw_items(shown, rng)
    member = (theirs == shown[:, None]).any(axis=1)
    label = (rng.random(user.size) < world.click_probability(member, target)).astype(np.int64)
    return _Rows(user, target, history, counts, label)


def _truth(world: World, rows: _Rows) -> dict[str, np.ndarray]:
    """Label and exact click probabilities of ``rows``, with and without the history."""
    topic = world.topic[rows.target]
    exact = world.click_probability(membership(rows.counts, topic, world.rules), rows.target)
    blind = world.click_probability(membership(None, topic, world.rules), rows.target)
    return {
        "label": rows.label.astype(np.int8),
        "probability": exact.astype(np.float32),
        "blind_probability": blind.astype(np.float32),
    }


def _write_items(path: Path, world: World) -> None:
    """Writes the item table, row i item i."""
    with _TableWriter(path) as writer:
        writer.write(
            {
                "item_id": np.arange(world.topic.size),
                "item_tags": world.tags,
                f"item_emb_d{world.embedding.shape[1]}": world.embedding,
            }
        )


class _TableWriter:
    """A parquet file written in row groups from named arrays; an (n, m) array becomes a list column."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Appends one row group."""
        table = pa.table({name: _column(values) for name, values in columns.items()})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=table.num_rows)

    def __enter__(self) -> _TableWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _column(values: np.ndarray) -> pa.Array:
    """An Arrow array of (n,) values, or of n lists for (n, m)."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score))


def _stream(seed: int, *key: int) -> np.random.Generator:
    """A random stream of its own for each part, so that no part depends on how much another drew."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _publish(staging: Path, out: Path) -> None:
    """Moves the finished sample to its place."""
    if not out.exists():
        staging.chmod(0o777 & ~_umask())  # mkdtemp made it private
        staging.rename(out)
        return
    # into the folder that is there: it may be somebody's current directory, and keep other files beside a
    # sample being replaced. The summary goes first and comes last: without it there is no sample.
    (out / SUMMARY_FILE).unlink(missing_ok=True)
    (out / "truth").mkdir(exist_ok=True)
    for name in (*FILES, SUMMARY_FILE):
        (staging / name).replace(out / name)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets of parameters make the same sample."""

    def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
        # the intercept is solved from the rest
        return {**parameters, "rules": {**parameters["rules"], "intercept": None}}

    return given(one) == given(other)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_occupied(out: Path, found: SampleSummary | None) -> None:
    """Raises DataError unless ``out`` is missing or an empty folder."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; the sample needs a folder. Give a new or an empty one.")
    if not out.exists() or not any(out.iterdir()):
        return
    if found is not None:
        have = ", ".join(f"{k} {found.parameters.get(k)}" for k in ("rows", "items", "seed"))
        raise DataError(
            f"{out} already holds a sample of other parameters ({have}). Give another folder, or delete this one first."
        )
    names = sorted(entry.name for entry in out.iterdir())
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise DataError(
        f"{out} is not empty and holds no complete sample (it has {listed}); nothing was written. "
        "Give a new or an empty folder."
    )


def _whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int of at least ``least``, or DataError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise DataError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return number


@contextmanager
def _os_errors(out: Path, action: str = "write") -> Iterator[None]:
    """Turns what the file system refuses into a DataError that names ``out`` and the cause."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DataError(f"Cannot {action} the sample {out}: {error.strerror or error}{where}.") from error
