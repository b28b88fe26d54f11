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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow.parquet as pq

from qin_zoo.data import SPLITS
from qin_zoo.data.item_files import table_of
from qin_zoo.data.sample_world import IntArray, Rules, World, draw_interests, draw_topics, make_world, membership
from qin_zoo.errors import DataError
from qin_zoo.files import is_running, read_json
from qin_zoo.metrics import evaluate_metrics
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
    def items(self) -> int:
        """Items, padding not counted."""
        return self.parameters["items"]

    @property
    def seed(self) -> int:
        """The seed it was drawn with."""
        return self.parameters["seed"]

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

    Everything is made in a temporary folder within ``out`` first, so an interrupted run leaves nothing half-made; what
    a killed one leaves (``.part-…``) the next one deletes. A sample of the same parameters that lies there already is
    left as it is.

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
    valid_rows = max(2000, min(10_000, rows // 5)) if valid_rows is None else valid_rows
    test_rows = max(2000, rows * 379_142 // 3_600_000) if test_rows is None else test_rows
    parameters = {
        "rows": rows,
        "valid_rows": _whole("valid_rows", valid_rows, 100),
        "test_rows": _whole("test_rows", test_rows, 100),
        "items": _whole("items", items, 50),
        "users": users,
        "seed": _whole("seed", seed, 0),
        "history_length": _whole("history_length", history_length, 1),
        "embedding_dim": _whole("embedding_dim", embedding_dim, 1),
    }
    rules = Rules.for_items(parameters["items"])

    # before any work: what is there already, and may we write
    out = Path(out).expanduser().absolute()
    is_new = not out.exists()
    with _os_errors(out):
        present = _read(out)
        if present is not None and not force:
            # the intercept is solved from the rest
            then, wanted = ({**r, "intercept": None} for r in (present.parameters["rules"], asdict(rules)))
            if {**present.parameters, "rules": then} == {**parameters, "rules": wanted}:
                return present
        if present is None or not force:
            _refuse_occupied(out, present)
        staging = out / f".part-{os.getpid()}"
        (staging / "truth").mkdir(parents=True)
    try:
        with _os_errors(out):
            summary = _generate(staging, out, parameters, rules, progress)
            # The summary goes first and comes last: without it there is no sample.
            (out / SUMMARY_FILE).unlink(missing_ok=True)
            (out / "truth").mkdir(exist_ok=True)
            for name in (*FILES, SUMMARY_FILE):
                (staging / name).replace(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()
    return summary


def read_summary(folder: str | Path) -> SampleSummary | None:
    """The summary of the sample in ``folder``, or None when it holds no (complete) sample of this version.

    Raises:
        DataError: the folder cannot be read.
    """
    with _os_errors(Path(folder), "read"):
        return _read(Path(folder))


def _read(folder: Path) -> SampleSummary | None:
    if not all((folder / name).is_file() for name in (*FILES, SUMMARY_FILE)):
        return None
    try:
        content = read_json(folder / SUMMARY_FILE)
        splits = {name: SplitSummary(**content["splits"][name]) for name in SPLITS}
        parameters = content["parameters"]
        known = {"items", "seed"} <= parameters.keys() and isinstance(parameters["rules"], dict)
        return (
            SampleSummary(folder, parameters, splits) if known and content["schema_version"] == SCHEMA_VERSION else None
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # a sample.json of another make
        return None


def _generate(folder: Path, out: Path, parameters: dict, rules: Rules, progress: bool) -> SampleSummary:
    """Writes all files into ``folder`` and returns the summary as of ``out``."""
    seed = parameters["seed"]
    world = make_world(parameters["items"], rules, parameters["embedding_dim"], _stream(seed, 0))
    columns = {"item_id": np.arange(world.topic.size), "item_tags": world.tags}
    columns[f"item_emb_d{world.embedding.shape[1]}"] = world.embedding
    _write_table(folder / "item_info.parquet", [columns])

    splits, first_user = {}, 1
    sizes = {"train": parameters["rows"], "valid": parameters["valid_rows"], "test": parameters["test_rows"]}
    with Progress(total=sum(sizes.values()), desc="sample", shown=progress, unit=" rows", unit_scale=True) as bar:
        for number, (name, size) in enumerate(sizes.items(), start=1):
            users = min(size, max(1, round(size * parameters["users"] / parameters["rows"])))
            per_user = _rows_per_user(size, users, _stream(seed, number))
            splits[name] = _write_split(folder, name, number, per_user, first_user, world, parameters, bar.update)
            first_user += users

    summary = SampleSummary(out, {**parameters, "rules": asdict(world.rules)}, splits)
    described = {name: asdict(split) for name, split in splits.items()}
    content = {"schema_version": SCHEMA_VERSION, "splits": described, "parameters": summary.parameters}
    (folder / SUMMARY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return summary


def _write_split(
    folder: Path,
    name: str,
    number: int,
    per_user: IntArray,
    first_user: int,
    world: World,
    parameters: dict,
    advance: Callable[[int], Any],
) -> SplitSummary:
    """Writes a split's parquet file and, except for train, its truth; ``number`` names its random streams."""
    clicks, truths, rows = 0, [], int(per_user.sum())

    def chunks() -> Iterator[dict[str, np.ndarray]]:
        nonlocal clicks
        for chunk, (start, stop) in enumerate(pairwise(_chunks(per_user))):
            rng = _stream(parameters["seed"], number, 1 + chunk)
            columns, truth = _draw_rows(world, per_user[start:stop], parameters["history_length"], name != "train", rng)
            columns["user_id"] += first_user + start
            clicks += int(columns["label"].sum())
            truths.append(truth)
            if name == "test":
                del columns["label"]
            yield columns
            advance(columns["item_id"].size)

    _write_table(folder / f"{name}.parquet", chunks())
    if name == "train":
        return SplitSummary(rows, per_user.size, clicks / rows)
    truth = {column: np.concatenate([t[column] for t in truths]) for column in truths[0]}
    _write_table(folder / "truth" / f"{name}.parquet", [truth])
    known = (truth["probability"], truth["blind_probability"])
    best, blind = (evaluate_metrics(truth["label"], p, ["AUC"])["AUC"] for p in known)
    return SplitSummary(rows, per_user.size, clicks / rows, best, blind)


def _rows_per_user(rows: int, users: int, rng: np.random.Generator) -> IntArray:
    """(users,) rows of each user: one, and a share of the others that varies between users."""
    share = rng.standard_exponential(users)
    return 1 + rng.multinomial(rows - users, share / share.sum())


def _chunks(per_user: IntArray) -> list[int]:
    """Where to cut the users so that each stretch has at most about ``ROWS_PER_CHUNK`` rows."""
    until = np.cumsum(per_user)
    inner = np.searchsorted(until, np.arange(ROWS_PER_CHUNK, until[-1], ROWS_PER_CHUNK)) + 1
    return [int(cut) for cut in np.unique(np.concatenate([[0], inner, [per_user.size]]))]


def _draw_rows(
    world: World, per_user: IntArray, length: int, with_truth: bool, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Rows of users of their own interests, shuffled.

    A user's history grows by one item from each of their rows, of which there are ``per_user`` (users,), to the next,
    as far as it is long enough. Columns are (n,) or (n, length), users count from 0; the truth is None where it is not
    wanted.
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
    theirs = interests[user]
    shown = draw_topics(theirs, rules.exposure, rules.topics, rng)
    target = world.draw_items(shown, rng)
    member = (theirs == shown[:, None]).any(axis=1)
    label = (rng.random(user.size) < world.click_probability(member, target)).astype(np.int64)
    columns = {
        "user_id": user,
        "item_id": target,
        "item_seq": history,
        "likes_level": world.likes[target],
        "views_level": world.views[target],
        "label": label,
    }
    if not with_truth:
        return columns, None
    cell = np.repeat(np.arange(user.size), seen) * rules.topics + topics[source]
    counts = np.bincount(cell, minlength=user.size * rules.topics).reshape(user.size, rules.topics)
    truth = {"label": label.astype(np.int8)}
    for name, known in (("probability", counts), ("blind_probability", None)):
        known = membership(known, world.topic[target], rules)
        truth[name] = world.click_probability(known, target).astype(np.float32)
    return columns, truth


def _write_table(path: Path, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """A parquet file with a row group for each of ``parts``, named arrays; an (n, m) array becomes a list column."""
    writer = None
    try:
        for columns in parts:
            table = table_of(columns)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=table.num_rows)
    finally:
        if writer is not None:
            writer.close()


def _stream(seed: int, *key: int) -> np.random.Generator:
    """A random stream of its own for each part, so that no part depends on how much another drew."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _refuse_occupied(out: Path, present: SampleSummary | None) -> None:
    """Raises DataError unless ``out`` is missing or an empty folder; deletes what a killed run left there."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; the sample needs a folder. Give a new or an empty one.")
    for left in out.glob(".part-*"):
        if left.name[6:].isdecimal() and not is_running(int(left.name[6:])):
            shutil.rmtree(left)
    names = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
    if present is not None:
        have = ", ".join(f"{k} {present.parameters.get(k)}" for k in ("rows", "items", "seed"))
        raise DataError(
            f"{out} already holds a sample of other parameters ({have}). Give another folder, or delete this one first."
        )
    if names:
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise DataError(
            f"{out} is not empty and holds no complete sample (it has {listed}); nothing was written. "
            "Give a new or an empty folder."
        )


def _whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int of at least ``least``, or DataError."""
    if isinstance(value, SupportsIndex) and (number := operator.index(value)) >= least:
        return number
    raise DataError(f"{name} must be a whole number of at least {least}, got {value!r}.")


@contextmanager
def _os_errors(out: Path, action: str = "write") -> Iterator[None]:
    """Turns what the file system refuses into a DataError that names ``out`` and the cause."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DataError(f"Cannot {action} the sample {out}: {error.strerror or error}{where}.") from error
