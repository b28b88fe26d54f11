"""One import from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from qin_zoo.data import SPLITS
from qin_zoo.data.import_files import ITEM_LEVELS, USER_STATE
from qin_zoo.data.importers import fuxictr, kuairand, ml1m, mmrec, movielens, recbole, table
from qin_zoo.data.importers.before import Before, Words
from qin_zoo.data.importers.build import PointInTime, rows_of
from qin_zoo.data.importers.description import Description
from qin_zoo.data.importers.ids import Ids, aligned
from qin_zoo.data.importers.items import check_embedding, context_features, prefixed, user_features, write_items
from qin_zoo.data.importers.labels import clicks, number_column
from qin_zoo.data.importers.log import Events, InteractionLog, Numbering, hashed, moments, sorted_by_item
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.splits import split_chosen
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
_MOST_UNKNOWN = 0.9  # of the training rows
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
    if options.extend is not None and format == "fuxictr":
        raise DataError("--extend: FuxiCTR's data sets bring their own numbers, which nothing extends. Leave it out.")
    before = Before.open(options.extend) if options.extend is not None else None
    about = {"format": format, "source": str(Path(folder).expanduser().resolve())}
    with closing(Output(out, options.force)) as output:
        if format == "fuxictr":
            return fuxictr.convert(folder, output, options, about, list(target_field), list(sequence_field), user_field)
        return write_log(READERS[format](folder), output, options, about, before)


def import_table(
    description: Description, out: str | Path, options: ImportOptions | None = None, before: Before | None = None
) -> ImportSummary:
    """Reads one's own files and writes them in the challenge's layout.

    Args:
        description: what the files are taken for.
        out: a new or an empty folder.
        options: see :func:`import_folder`.
        before: the import that is extended, ``options.extend``.

    Raises:
        DataError: a file, line, option or ``out`` that cannot be used.
    """
    options = options or ImportOptions()
    about = {"format": "table", "source": str(description.folder.resolve()), "description": description.as_json()}
    with closing(Output(out, options.force)) as output:
        return write_log(table.read(description, before, options.label), output, options, about, before)


def write_log(
    log: InteractionLog, out: Output, options: ImportOptions, about: dict, before: Before | None = None
) -> ImportSummary:
    """Writes a log as rows in the challenge's layout.

    Args:
        log: the interactions, those that ``before`` holds included.
        out: the folder.
        options: what becomes a click, a history, a split and a negative.
        about: what ``import.json`` says of the source.
        before: an earlier import, whose numbers stay.
    """
    label, rule = clicks(log, options.label)
    options = _suited(log, options, not label.all())
    beside = _beside(log, options.history_column, label)
    check_embedding(log.items, options.embedding, before)
    users = _numbered(log, "user", before)
    items = _numbered(log, "item", before)
    events, order = _events(log, label, users, items, options.seed)
    chosen = np.ones(len(label), bool) if log.new is None or not options.only_new else log.new
    if order is not None:
        chosen = chosen[order]
        beside = beside and beside._replace(codes=beside.codes[order])
    split, method = split_chosen(events, chosen, options, log.path)
    if method != "given" or log.cut_in_time:
        events = replace(events, given=None)
    negatives = int(events.click.all()) if options.negatives is None else options.negatives
    known = PointInTime(events, split, options.history, options.known, beside and beside[:2])

    out.begin()
    notes = log.notes
    words = Words(before, notes)
    if before is not None:
        out.keep_features(before.summary.get("features", []))
    out.feature(["user_id", "item_seq"], "meta")
    if beside is not None:
        out.feature(beside.name, "categorical", source="history", vocab_size=beside.size)
    of_users = user_features(log, users, out, words, notes)
    context = context_features(log, out, words)
    if order is not None:
        context = {name: values[order] for name, values in context.items()}
    sizes = dict(known.vocabularies)
    users_size = sizes.pop("user", None)
    for size in dict.fromkeys(sizes.values()):
        out.feature([name for name, other in sizes.items() if other == size], "categorical", vocab_size=size)
    if users_size:
        new = known.of_new_users(chosen & (split == 1))
        rate = min(round(new, 1), _MOST_UNKNOWN)
        out.feature(["user"], "categorical", vocab_size=users_size, **({"unknown_rate": rate} if rate else {}))
        if rate:
            notes.append(
                f"user: {new:.0%} of the validation rows are of users without training rows; a model takes its own for "
                f"unknown in {rate:.0%} of the training rows (unknown_rate in dataset_config.yaml)."
            )
    if not events.timed:
        notes.append("No times: no likes_level and views_level, which count what came before a row.")
    out.keep_rows(events.user[~chosen], events.item[~chosen])
    for number, name in enumerate(SPLITS):
        wanted = np.flatnonzero(chosen & (split == number))
        if name == "train" and options.max_rows_per_user:
            wanted = _newest(events, wanted, options.max_rows_per_user, notes)
        rows = rows_of(events, wanted, negatives, options.seed)
        out.write_split(name, known.chunks(rows, options.max_history, of_users, context))
    if levels := known.item_levels(len(items)):
        out.write_table(ITEM_LEVELS, {"item_id": np.arange(len(items) + 1, dtype=np.int32), **levels})
    state = known.user_state(len(users), options.max_history)
    out.write_table(USER_STATE, pl.DataFrame({"user_id": np.arange(len(users) + 1, dtype=np.int32), **state}))
    kept = write_items(out, log.items, items, options.embedding, words, notes)
    words.write(out)
    for name, numbering in (("user", users), ("item", items)):
        numbers = pl.Series(f"{name}_id", np.arange(1, len(numbering) + 1, dtype=np.int32))
        ids = numbering.written(before.ids[name] if before else None)
        out.write_table(f"ids_{name}.parquet", pl.DataFrame([numbers, ids.alias("original_id")]))
    if log.kept is not None:
        out.write_table("log.parquet", log.kept)
    if log.set_aside is not None and log.set_aside.height:
        out.write_csv("set_aside.csv", log.set_aside)
    resolved = {**asdict(options), "label": rule, "split": method, "negatives": negatives}
    resolved |= {"embedding": kept["embedding"], "extend": before and str(before.path)}
    about |= {"options": resolved, "rules": _RULES, "interactions": len(events.user), **kept}
    if before is not None and (fitted := out.take_along(before.path)):
        notes.append(f"{', '.join(fitted)}: taken along, so that new items are put where the old ones are.")
    return out.finish(about, len(users), len(items), notes, log.taken)


def _suited(log: InteractionLog, options: ImportOptions, told_apart: bool) -> ImportOptions:
    """The options with what suits the log, where none was asked for.

    One's own rows that were not clicked say what a user does not want, and how much is clicked at all: a history of
    clicks alone leaves that out.
    """
    suits = {"history": "clicks", "known": "levels", **log.defaults}
    if log.kept is not None and told_apart:
        suits |= {"history": "all", "known": "all"}
        suits |= {} if options.history == "clicks" else {"history_column": "label"}
        if not any((options.history, options.history_column, options.known)):
            log.notes.append(
                "Rows are clicks and others: a history is both, item_seq_label saying which (--history clicks: clicks "
                "alone), and a row knows views and rate of its item and its user so far (--known levels: of its item)."
            )
    return replace(options, **{key: value for key, value in suits.items() if getattr(options, key) is None})


def _numbered(log: InteractionLog, owner: str, before: Before | None) -> Numbering:
    """The numbering of users or items; ids of before keep their numbers, whatever form the log has them in."""
    side = log.users if owner == "user" else log.items
    columns = (getattr(log, owner), side.ids)
    if before is None:
        return Numbering(*columns)
    where = (f"{before.path / f'ids_{owner}.parquet'}", f"{log.path.name}, {owner}", f"{owner} table")
    texts = [Ids(name, ids.cast(pl.String)) for name, ids in zip(where, (before.ids[owner], *columns))]
    known, in_log, side.ids = aligned(texts, log.notes)
    setattr(log, owner, in_log)
    return Numbering(in_log, side.ids, known=known)


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
            f"{log.at(column, wrong[0])}: expected a whole number from 1 to {_LARGEST_CODE} for the "
            f"history, found {values[wrong[0]]:g}. Choose --history-column label."
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
) -> tuple[Events, np.ndarray | None]:
    """The numbered interactions, and the order that replaces the file's, where one has to."""
    user, item, given, order = users(log.user), items(log.item), log.given, None
    if log.time is None and log.order is None and sorted_by_item(user, item):
        # Each history would hold smaller ids than its target, which a model learns instead of interests.
        order = np.argsort(hashed(seed, user, item), kind="stable")
        user, item, label = user[order], item[order], label[order]
        given = None if given is None else given[order]
        log.notes.append("Every user's items ascend in the file: its order is no order in time, a random one is taken.")
    return Events(user, item, label, moments(log), log.time is not None, given, len(items), log.order), order
