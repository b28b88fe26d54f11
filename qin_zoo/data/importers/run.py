"""One import from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from qin_zoo.data.importers import fuxictr, kuairand, ml1m, mmrec, movielens, recbole
from qin_zoo.data.importers.build import Known, rows_of
from qin_zoo.data.importers.items import check_embedding, prefixed, write_items
from qin_zoo.data.importers.labels import clicks, number_column
from qin_zoo.data.importers.log import Events, InteractionLog, Numbering, categories, moments, sorted_by_item, unordered
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.splits import NAMES, split_rows
from qin_zoo.data.importers.write import ImportSummary, Output
from qin_zoo.errors import DataError, suggest

READERS: dict[str, Callable[[str | Path], InteractionLog]] = {
    "recbole": recbole.read,
    "mmrec": mmrec.read,
    "movielens": movielens.read,
    "ml1m": ml1m.read,
    "kuairand": kuairand.read,
}
FORMATS = (*READERS, "fuxictr")
_LARGEST_CODE = 100
_RULES = {
    "history": "interactions of the user strictly before the row's moment; equal times are not before each other",
    "given": "under given splits that are not cut in time, histories and levels hold training rows only",
    "levels": "binary digits, at most 10, of the times the item was met (views) or clicked (likes) strictly before",
    "negatives": "uniform, with replacement, over items that the user had not touched "
    "up to the click's moment (under given splits: up to its split)",
}


def import_folder(
    format: str,
    folder: str | Path,
    out: str | Path,
    options: ImportOptions | None = None,
    *,
    target_field: Sequence[str] = (),
    sequence_field: Sequence[str] = (),
    user_field: str | None = None,
) -> ImportSummary:
    """Reads a data set in one of :data:`FORMATS` and writes it in the challenge's layout.

    Args:
        format: ``recbole``, ``mmrec``, ``movielens``, ``ml1m``, ``kuairand`` or ``fuxictr``.
        folder: the data set; only read.
        out: a new or an empty folder.
        options: what becomes a click, a history, a split and a negative.
        target_field, sequence_field, user_field: for FuxiCTR's classic fields, see ``fuxictr.py``.

    Raises:
        DataError: a folder, file, line, option or ``out`` that cannot be used.
    """
    if format not in FORMATS:
        raise DataError(f"format: expected one of {', '.join(FORMATS)}, found '{format}'.{suggest(format, FORMATS)}")
    options = options or ImportOptions()
    output = Output(out, options.force)
    about = {"format": format, "source": str(Path(folder).expanduser().resolve())}
    try:
        if format == "fuxictr":
            return fuxictr.convert(folder, output, options, about, list(target_field), list(sequence_field), user_field)
        return write_log(READERS[format](folder), output, options, about)
    finally:
        output.discard()


def write_log(log: InteractionLog, out: Output, options: ImportOptions, about: dict) -> ImportSummary:
    """Writes a log as rows in the challenge's layout."""
    suits = {"history": "clicks", "known": "levels", **log.defaults}
    options = replace(options, **{key: value for key, value in suits.items() if getattr(options, key) is None})
    label, rule = clicks(log, options.label)
    beside = _beside(log, options.history_column, label)
    check_embedding(log.items, options.embedding)
    users, items = Numbering(log.user, log.user_ids), Numbering(log.item, log.items.ids)
    events, notes, order = _events(log, label, users, items, options.seed)
    if beside is not None and order is not None:
        beside = beside._replace(codes=beside.codes[order])
    split, method = split_rows(events, options, log.path)
    if method != "given" or log.cut_in_time:
        events = replace(events, given=None)
    negatives = options.negatives
    if negatives is None:
        negatives = 1 if events.click.all() else 0
    known = Known(events, split, options.history, options.known, beside and (beside.name, beside.codes))

    out.begin()
    out.feature(["user_id", "item_seq"], "meta")
    if beside is not None:
        out.feature(beside.name, "categorical", source="history", vocab_size=beside.size)
    features = _user_features(log, users, out, notes)
    for size in dict.fromkeys(known.vocabularies.values()):
        names = [name for name, other in known.vocabularies.items() if other == size]
        out.feature(names, "categorical", vocab_size=size)
    if not events.timed:
        notes.append("No times: no likes_level and views_level, which count what came before a row.")
    for number, name in enumerate(NAMES):
        chosen = np.flatnonzero(split == number)
        if name == "train" and options.max_rows_per_user:
            chosen = _newest(events, chosen, options.max_rows_per_user, notes)
        rows = rows_of(events, chosen, negatives, options.seed)
        out.write_split(
            name,
            (
                {**chunk, **{key: codes[chunk["user_id"]] for key, codes in features.items()}}
                for chunk in known.chunks(rows, options.max_history)
            ),
        )
    write_items(out, log.items, items, options.embedding, notes)
    for name, numbering in (("user", users), ("item", items)):
        numbers = pl.Series(f"{name}_id", np.arange(1, len(numbering) + 1, dtype=np.int32))
        out.write_table(f"ids_{name}.parquet", pl.DataFrame([numbers, numbering.ids.alias("original_id")]))
    resolved = {**asdict(options), "label": rule, "split": method, "negatives": negatives}
    about = {**about, "options": resolved, "rules": _RULES, "interactions": len(events.user)}
    return out.finish(about, len(users), len(items), notes)


class _Beside(NamedTuple):
    """A column beside the ids of the history: its name, (n,) codes from 1, and one more than the greatest of them."""

    name: str
    codes: np.ndarray
    size: int


def _beside(log: InteractionLog, column: str | None, label: np.ndarray) -> _Beside | None:
    """``item_seq_label`` (1 no click, 2 click) or ``item_seq_COLUMN``, whole numbers from 1 as they are."""
    if column is None:
        return None
    if column == "label":
        return _Beside("item_seq_label", (1 + label).astype(np.int8), 3)
    values = number_column(log, column, "--history-column", "label")
    wrong = np.flatnonzero((values != np.floor(values)) | (values < 1) | (values > _LARGEST_CODE))
    if wrong.size:
        raise DataError(
            f"{log.path}, column '{column}', data row {wrong[0] + 1}: expected a whole number from 1 to "
            f"{_LARGEST_CODE} for the history, found {values[wrong[0]]:g}. Choose --history-column label."
        )
    return _Beside(prefixed(column, "item_seq"), values.astype(np.int8), int(values.max()) + 1)


def _newest(events: Events, chosen: np.ndarray, most: int, notes: list[str]) -> np.ndarray:
    """Of the interactions, the newest of each user."""
    order = chosen[np.lexsort((events.place[chosen], events.user[chosen]))]
    user = events.user[order]
    to_come = np.searchsorted(user, user, side="right") - np.arange(len(user))  # the row's own included
    kept = np.sort(order[to_come <= most])
    heavy = np.unique(user[to_come > most])
    if heavy.size:
        share = np.isin(user, heavy).mean()
        notes.append(
            f"train: {len(heavy)} of {len(np.unique(user))} users have more than {most} interactions, {share:.1%} of "
            f"all; only their newest {most} are rows, so {len(kept)} of {len(chosen)} interactions are. Histories and "
            "counts keep the others."
        )
    return kept


def _events(
    log: InteractionLog, label: np.ndarray, users: Numbering, items: Numbering, seed: int
) -> tuple[Events, list[str], np.ndarray | None]:
    """The numbered interactions, what is to be said, and the order that replaces the file's, where one has to."""
    user, item, given = users(log.user), items(log.item), log.given
    notes, order = list(log.notes), None
    if log.time is None and log.order is None and sorted_by_item(user, item):
        # Each history would hold smaller ids than its target, which a model learns instead of interests.
        order = unordered(user, item, seed)
        user, item, label = user[order], item[order], label[order]
        given = None if given is None else given[order]
        notes.append("Every user's items ascend in the file: its order is no order in time, a random one replaces it.")
    events = Events(user, item, label, moments(log), log.time is not None, given, len(items), log.order)
    return events, notes, order


def _user_features(log: InteractionLog, users: Numbering, out: Output, notes: list[str]) -> dict[str, np.ndarray]:
    """column -> (users + 1,) codes."""
    features = {}
    for original, values in log.user_columns.items():
        name = prefixed(original, "user")
        codes, vocabulary = categories(values)
        features[name] = np.zeros(len(users) + 1, np.int32)
        features[name][users(log.user_ids)] = codes
        many = len(vocabulary) > len(users) / 2
        if many:
            notes.append(f"{name}: nearly as many values as users; not active in dataset_config.yaml.")
        out.feature(name, "categorical", active=not many, vocab_size=len(vocabulary) + 1)
    return features
