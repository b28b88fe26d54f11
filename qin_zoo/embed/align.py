"""Contrastive alignment: a projection of the item embedding under which items that one user clicked are similar.

Encoders place items by what they look like; users tell by their clicks what belongs together. A pair is a clicked
target and an item of the history before it. With z = f(x)/‖f(x)‖, x the item's unit embedding, and pairs (a_i, b_i)
of a batch, the loss is the symmetric InfoNCE

    −½ · mean_i [ log softmax_j(z(a_i)·z(b_j)/τ)_{j=i} + log softmax_j(z(b_i)·z(a_j)/τ)_{j=i} ]

where j runs over i and over the pairs that share neither an item nor the user with pair i: those others are no
negatives. Only the training split is read.

At its optimum z(a)·z(b)/τ is the log of how much likelier b is after a than by itself (up to a constant). Clicks tell
less than the captions for which CLIP's 0.07 is made: that log differs by about 2 between like and unlike items of
``qin-zoo data sample``, which times a small τ leaves similarities that hardly differ (and a worse ranking than before).
Hence the larger default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qin_zoo.data.columns import open_table
from qin_zoo.data.item_files import check_output, in_folder, list_array, write_columns, write_report
from qin_zoo.data.stored import Column
from qin_zoo.embed.codes import has_embedding, read_embeddings
from qin_zoo.errors import DataError
from qin_zoo.progress import Progress, show_reading

_CHUNK = 1 << 16  # rows whose pairs are drawn at a time
_EVALUATED = 10_000  # held-out pairs that are ranked, at most
_RANKED = 256  # queries whose similarities to the whole catalogue are in memory at a time
TOP = 10


@dataclass(frozen=True)
class AlignOptions:
    """How the projection is trained.

    Attributes:
        dim: size of the new embedding.
        hidden: units of a hidden ReLU layer that is added to the linear projection; 0 for none.
        epochs, batch_size, learning_rate: of Adam.
        temperature: τ.
        pairs_per_row: pairs drawn from each clicked row and epoch, each with an item of its history.
        held_out: share of the users whose pairs are kept out of training, for the report.
        seed: same seed, same result.
    """

    dim: int = 128
    hidden: int = 0
    epochs: int = 5
    batch_size: int = 1024
    temperature: float = 0.4
    learning_rate: float = 1e-3
    pairs_per_row: int = 4
    held_out: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        least = {"dim": 1, "hidden": 0, "epochs": 1, "batch_size": 2, "pairs_per_row": 1, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise DataError(f"{name}: expected a whole number, {low} or more, found {getattr(self, name)}.")
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise DataError(f"{name}: expected a positive number, found {getattr(self, name)}.")
        if not 0 < self.held_out < 1:
            raise DataError(f"held_out: expected a share between 0 and 1, found {self.held_out}.")


@dataclass(frozen=True)
class Ranking:
    """How well similarity finds the other item of held-out pairs among all items but the query.

    Attributes:
        recall: share of pairs whose other item is among the 10 most similar.
        mrr: mean of 1 / its rank; items equally similar share their mean rank.
    """

    recall: float
    mrr: float


@dataclass(frozen=True)
class AlignReport:
    """What was trained on what, and what it changed.

    Attributes:
        column, out_column: the embedding before and after.
        options: how it was trained.
        items: items with an embedding.
        clicks: clicked training rows with a history.
        users: users of those rows.
        held_out_users: users among them that were kept out of training.
        held_out_pairs: pairs of theirs that were ranked.
        pairs: training pairs of the last epoch.
        losses: mean loss of each epoch.
        before, after: ranking of the held-out pairs by the old and the new embedding; None without such pairs.
    """

    column: str
    out_column: str
    options: AlignOptions
    items: int
    clicks: int
    users: int
    held_out_users: int
    held_out_pairs: int
    pairs: int
    losses: tuple[float, ...]
    before: Ranking | None
    after: Ranking | None


@dataclass(frozen=True)
class CoClicks:
    """The clicked rows of a training split that have a history.

    Attributes:
        rows: (P,) their numbers, ascending.
        target: (P,) the clicked items.
        user: (P,) users numbered from 0.
        history: the column of the histories.
    """

    rows: np.ndarray
    target: np.ndarray
    user: np.ndarray
    history: Column

    def draw(self, chosen: np.ndarray, per_row: int, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Pairs of a target and an item drawn from its history.

        Args:
            chosen: (C,) positions in ``rows``, ascending.
            per_row: draws from each.
            known: (N,) bool, which items may occur.

        Returns:
            (3, n) int64 target, other item, user; n ≤ C·per_row, as a draw of the target itself says nothing.
        """
        parts = []
        for begin in range(0, len(chosen), _CHUNK):
            part = chosen[begin : begin + _CHUNK]
            starts, ends = self.history.bounds(self.rows[part])
            at = starts + (rng.random((per_row, len(part))) * (ends - starts)).astype(np.int64)
            other = self.history.values.take(at).astype(np.int64)
            # Pages of a gigabyte of histories would otherwise stay in this process's memory.
            self.history.release(int(starts[0]), int(ends[-1]))
            target, user = (np.broadcast_to(values[part], other.shape) for values in (self.target, self.user))
            kept = (other != target) & known[other] & known[target]
            parts.append(np.stack([target[kept], other[kept], user[kept]]))
        return np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)


def read_co_clicks(
    train: Path,
    items: int,
    cache_dir: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CoClicks:
    """The co-clicks of a training split (``item_id``, ``item_seq``, ``label``; ``user_id`` where there is one).

    Args:
        train: the parquet file.
        items: rows of the item table, which every id must be below.

    Raises:
        DataError: a column that cannot be used, or not one click with a history.
    """
    kinds = {"item_id": "id", "item_seq": "history", "label": "label", "user_id": "int"}
    table = open_table(train, kinds, optional=("user_id",), cache_dir=cache_dir, progress=progress)
    for name in ("item_id", "item_seq"):
        table[name].check_below(items, "the rows of the item table")
    history = table["item_seq"]
    rows = np.flatnonzero(table["label"].values)
    starts, ends = history.bounds(rows)
    clicks, rows = len(rows), rows[ends > starts]
    if not len(rows):
        raise DataError(
            f"{train}: expected clicks (label 1) with a history, whose items are pulled together; found "
            f"{clicks} clicks in {table.num_rows} rows, none with a history. Align on a training split with histories."
        )
    user = table["user_id"].values[rows] if "user_id" in table else rows
    target = table["item_id"].values[rows].astype(np.int64)
    return CoClicks(rows, target, np.unique(user, return_inverse=True)[1], history)


def info_nce(a: Tensor, b: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives, a scalar.

    Args:
        a, b: (B, D) unit vectors; ``a[i]`` and ``b[i]`` belong together.
        excluded: (B, B) bool, symmetric: pairs i and j are no negatives of each other. Its diagonal is ignored.
        temperature: τ.
    """
    own = torch.arange(len(a), device=a.device)
    excluded = excluded & (own[:, None] != own)
    logits = (a @ b.t() / temperature).masked_fill(excluded, -torch.inf)  # (B, B)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


def related(pairs: Tensor) -> Tensor:
    """(B, B) bool: which pairs (3, B) of items and user share an item or the user."""
    a, b, user = pairs

    def same(x: Tensor, y: Tensor) -> Tensor:
        return x[:, None] == y

    return same(a, a) | same(b, b) | same(a, b) | same(b, a) | same(user, user)


class Projection(nn.Module):
    """Unit vectors (B, dim) of embeddings (B, d): W x, plus V ReLU(U x + c) with a hidden layer.

    It starts at the old similarities: W spans the directions in which the items differ most (all of them where
    ``dim`` allows), and V is zero.
    """

    def __init__(self, x: Tensor, dim: int, hidden: int, seed: int) -> None:
        super().__init__()
        d = x.shape[1]
        weight = torch.zeros(dim, d)
        if dim < d:
            _, vectors = torch.linalg.eigh((x.t() @ x / len(x)).double())  # ascending
            weight.copy_(vectors[:, -dim:].t())
        else:
            weight[:d] = torch.eye(d)
        self.weight = nn.Parameter(weight)
        self.hidden = None
        if hidden:
            self.hidden = nn.utils.skip_init(nn.Linear, d, hidden)
            self.out = nn.Parameter(torch.zeros(dim, hidden))
            bound, generator = d**-0.5, torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in self.hidden.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, dim), each of length 1."""
        z = F.linear(x, self.weight)
        if self.hidden is not None:
            z = z + F.linear(torch.relu(self.hidden(x)), self.out)
        return F.normalize(z, dim=1)


def align_embeddings(
    embeddings: Tensor,
    clicks: CoClicks,
    options: AlignOptions,
    names: tuple[str, str] = ("", ""),
    progress: bool = True,
) -> tuple[Tensor, AlignReport]:
    """Trains the projection.

    Args:
        embeddings: (N, d) float32; row 0 is padding, a row of zeros an item without an embedding.
        clicks: co-clicks of the training split.
        names: of the columns before and after, for the report.
        progress: whether a terminal is shown a bar.

    Returns:
        (N, dim) float32 unit vectors, zeros where ``embeddings`` has zeros; the report.

    Raises:
        DataError: no pair of two different items, or no pair that has a negative.
    """
    known = has_embedding(embeddings)
    items = known.numpy()
    x = F.normalize(embeddings, dim=1)
    split_rng, draw_rng, held_rng = (np.random.default_rng([options.seed, stream]) for stream in range(3))
    # Whole users are held out: pairs of one user tell of each other.
    users = int(clicks.user.max()) + 1
    held = np.zeros(users, bool)
    held[split_rng.permutation(users)[: min(users - 1, max(1, round(options.held_out * users)))]] = True
    held_rows, train_rows = np.flatnonzero(held[clicks.user]), np.flatnonzero(~held[clicks.user])
    held_pairs = clicks.draw(held_rows, options.pairs_per_row, items, held_rng)
    if held_pairs.shape[1] > _EVALUATED:
        held_pairs = held_pairs[:, held_rng.choice(held_pairs.shape[1], _EVALUATED, replace=False)]

    model = Projection(x[known], options.dim, options.hidden, options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    before = rank(x, known, held_pairs)
    losses = []
    for epoch in range(options.epochs):
        drawn = clicks.draw(train_rows, options.pairs_per_row, items, draw_rng)
        if drawn.shape[1] < 2:
            raise DataError(
                f"{clicks.history.path}: expected co-clicks, a clicked item and another one with an embedding in its "
                f"history; found {drawn.shape[1]} in {len(train_rows)} clicked rows of {users} users. "
                "Check label, item_seq and the embedding column."
            )
        pairs = torch.from_numpy(drawn[:, draw_rng.permutation(drawn.shape[1])])
        total, seen, contrasted = 0.0, 0, False
        batches = pairs.split(options.batch_size, dim=1)
        bar = Progress(batches, desc=f"epoch {epoch + 1}/{options.epochs}", shown=progress)
        for batch in bar:
            excluded = related(batch)
            contrasted = contrasted or not bool(excluded.all())
            loss = info_nce(model(x[batch[0]]), model(x[batch[1]]), excluded, options.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * batch.shape[1]
            seen += batch.shape[1]
            bar.set_postfix(loss=f"{total / seen:.4f}", refresh=False)
        losses.append(total / seen)
        if not contrasted:
            raise DataError(
                f"{clicks.history.path}: expected pairs of different users and items, as each is the other's negative; "
                f"all {pairs.shape[1]} share a user or an item. Align on more rows or in larger batches."
            )
    with torch.no_grad():
        aligned = torch.cat([model(part) for part in x.split(8192)]) * known[:, None]
    report = AlignReport(
        column=names[0],
        out_column=names[1],
        options=options,
        items=int(known.sum()),
        clicks=len(clicks.rows),
        users=users,
        held_out_users=int(held.sum()),
        held_out_pairs=held_pairs.shape[1],
        pairs=pairs.shape[1],
        losses=tuple(losses),
        before=before,
        after=rank(aligned, known, held_pairs),
    )
    return aligned, report


@torch.no_grad()
def rank(vectors: Tensor, known: Tensor, pairs: np.ndarray) -> Ranking | None:
    """Ranks the other item of pairs (3, n) by its similarity to the target, among all items but the target.

    Args:
        vectors: (N, D) unit vectors.
        known: (N,) bool, the items that are ranked.
    """
    if not pairs.shape[1]:
        return None
    ranks, ranked = [], vectors[known].t().contiguous()
    position = known.cumsum(0) - 1  # of an item among the known ones
    for part in torch.from_numpy(pairs).split(_RANKED, dim=1):
        query, other = part[0], part[1]
        similarity = vectors[query] @ ranked  # (n, known items)
        rows = torch.arange(len(query))
        own = similarity[rows, position[other]][:, None]
        similarity[rows, position[query]] = -torch.inf
        ranks.append(1 + (similarity > own).sum(1) + ((similarity == own).sum(1) - 1) / 2)
    rank = torch.cat(ranks).double()
    return Ranking((rank <= TOP).double().mean().item(), (1 / rank).mean().item())


def align_folder(
    folder: str | Path,
    column: str = "item_emb_d128",
    out_column: str = "item_emb_aligned",
    options: AlignOptions | None = None,
    *,
    info: str | Path = "item_info.parquet",
    output: str | Path = "item_info_aligned.parquet",
    force: bool = False,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[Path, AlignReport]:
    """Writes a copy of a dataset's item table with the aligned embedding, and the report beside it (``.json``).

    Args:
        folder: the dataset's folder; of its rows only ``train.parquet`` is read.
        column, out_column: the embedding column, and the one to add.
        options: how to train. Default: ``AlignOptions()``.
        info, output: item tables; a bare name lies in ``folder``.
        force: replace ``output``, and ``out_column`` where the table has it.
        cache_dir: where converted columns are kept; see ``qin_zoo/data/cache.py``.
        progress: whether a terminal is shown a bar.

    Returns:
        the table's path and the report.

    Raises:
        DataError: a file, column or number that cannot be used, or an output that exists.
    """
    options = options or AlignOptions()
    info, output = in_folder(folder, info), in_folder(folder, output)
    if out_column in (column, "item_id"):
        raise DataError(f"out_column: expected a new column, found '{out_column}', which is read. Name another.")
    check_output(info, output, [out_column], force)
    embeddings = read_embeddings(info, column, cache_dir)
    train = in_folder(folder, "train.parquet")
    clicks = read_co_clicks(train, len(embeddings), cache_dir, show_reading if progress else None)
    aligned, report = align_embeddings(embeddings, clicks, options, (column, out_column), progress)
    write_columns(info, output, {out_column: list_array(aligned.numpy())})
    write_report(output, asdict(report))
    return output, report
