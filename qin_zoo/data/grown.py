"""A dataset whose ids became more since a model was trained: nothing is renumbered, what is new comes behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qin_zoo.data.import_files import ID_FILE, WORD_FILE, original_ids
from qin_zoo.data.item_layout import open_data
from qin_zoo.data.specs import feature_specs, table_owners
from qin_zoo.data.vocabulary import FittedEncoder, Vocabulary
from qin_zoo.errors import DataError

_WORDS = (WORD_FILE, "feature_vocab.json")  # of `qin-zoo data import`, and of FuxiCTR's preprocessing


def grown_sizes(params: Mapping[str, Any], sizes: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """``feature_specs`` that give every table of an item-table dataset with new rows room for their ids and for the old
    ones, whose :meth:`~qin_zoo.data.dataset.Dataset.sizes` are given.
    """
    data, features = open_data(params, cache_dir=params.get("cache_dir")), feature_specs(params)
    owners, rows = table_owners(features), {}
    for name, owner in owners.items():
        seen = (column.max + 1 for column in data.columns_of(name, features[name]))
        before = sizes.get(name, {}).get("vocab_size", 0)
        rows[owner] = int(max(rows.get(owner, 1), before, *seen))
    grown = {name: {"vocab_size": rows[owner]} for name, owner in owners.items()}
    return [{"name": name, **spec, **grown.get(name, {})} for name, spec in sizes.items()]


def numbering(folder: Path) -> dict[str, dict[str, Any]]:
    """What the numbers in a folder of encoded files stand for, in a form that a record keeps.

    Returns:
        file, or file and column -> how many numbers it gives a meaning, and the hash of those.
    """
    return {name: _digest(words) for name, words in _numbered(folder).items()}


def require_same_numbers(old: Path, new: Path, recorded: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """Compares what the numbers in a folder stand for with those that a model was trained with, as far as both tell.

    Args:
        old: the folder that the model was trained on, wherever its files are now.
        new: another one, in which new numbers may stand behind the old ones.
        recorded: :func:`numbering` of ``old`` when it was trained; None: as it is now.

    Returns:
        what was compared.

    Raises:
        DataError: an old number stands for something else in ``new``.
    """
    now = _numbered(new)
    wanted = recorded or numbering(old)
    both = [name for name in wanted if name in now]
    for name in both:
        count = wanted[name]["count"]
        if _digest(now[name][:count]) != wanted[name]:
            before = _numbered(old).get(name, [])
            before = before if _digest(before) == wanted[name] else []
            raise DataError(_other(name, before, now[name], count, old, new))
    return both


def require_same_words(old: Path, new: Path) -> None:
    """Checks that vocabularies of raw files number as those do that a run kept beside its weights.

    Args:
        old: what the run kept, ``<expid>.encoder.json``.
        new: what is used now, whose words may go on behind the old ones.

    Raises:
        DataError: an old number stands for something else in ``new``.
    """
    then, now = (FittedEncoder.read(file).vocabularies for file in (old, new))
    for name in (name for name in then if name in now and then[name].remap):
        words, others = _in_order(then[name]), _in_order(now[name])
        words = words if len(then[name].beyond) else words[:-1]  # what is unknown may move: a new word takes its place
        place = next((n for n, word in enumerate(words) if others[n : n + 1] != [word]), None)
        if place is not None:
            found = f"it is {others[place]!r}" if place < len(others) else "it is missing"
            raise DataError(
                f"{old}: expected number {place + 1} of '{name}' to be {words[place]!r}, as when the weights were "
                f"trained; by these training rows {found}, and values would begin with what others have learnt. Keep "
                f"the old vocabularies: --set encoder_file={old}."
            )


def require_same_items(folder: Path, items: Path) -> None:
    """Checks that a table of items, by its column ``original_id`` or as an import's, numbers them as the data set of a
    folder does, as far as that says what it numbers.

    Raises:
        DataError: a number is another item there, or a new number an old item.
    """
    require_same_numbers(folder, items.parent)
    known = original_ids(folder / ID_FILE)
    numbers = {str(original): number for number, original in known.items()}
    for number, original in original_ids(items).items() if known else ():
        if numbers.get(str(original), number) != number or str(known.get(number, original)) != str(original):
            is_item = f", which is item {numbers[str(original)]}" if str(original) in numbers else ""
            raise DataError(
                f"{items}: expected item {number} to be {known.get(number, 'a new one')!r}, as in {folder / ID_FILE}, "
                f"found {original!r}{is_item}. Import the new items with --extend {folder}, which keeps the numbers, "
                "and take item_info.parquet there."
            )


def _other(name: str, before: list, now: list, count: int, old: Path, new: Path) -> str:
    file, _, column = name.partition(" of ")
    place = next((n for n, word in enumerate(before) if n >= len(now) or now[n] != word), None)
    if place is None:
        what = f"the first {count} numbers{column and ' of '}{column} to stand for what they stood for"
        found = "they stand for something else"
    else:
        what = f"number {place + 1}{column and ' of '}{column} to be {before[place]!r}, as"
        found = f"it is {now[place]!r}" if place < len(now) else "it is missing"
    return (
        f"{new / file}: expected {what} in {old}, where the model was trained; {found}. Numbers must stay, and new "
        f"ones come behind: import the new files with --extend {old}, or all periods together and cut them (data cut)."
    )


def _in_order(vocabulary: Vocabulary) -> list:
    """What its numbers from 1 on stand for; None for what is unknown."""
    return [*vocabulary.words, None, *vocabulary.beyond]


def _digest(words: list) -> dict[str, Any]:
    text = "\0".join("\1" if word is None else str(word) for word in words)
    return {"count": len(words), "blake2b": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _numbered(folder: Path) -> dict[str, list]:
    """File, or file and column -> what its numbers from 1 on stand for."""
    found: dict[str, list] = {}
    for file in sorted(folder.glob("ids_*.parquet")):
        frame = pl.read_parquet(file, glob=False)
        if frame.width < 2 or "original_id" not in frame.columns:
            continue
        number = next(column for column in frame.columns if column != "original_id")
        numbers = pl.DataFrame({number: range(1, (frame[number].max() or 0) + 1)}, schema={number: frame[number].dtype})
        found[file.name] = numbers.join(frame, on=number, how="left", maintain_order="left")["original_id"].to_list()
    for name in _WORDS:
        found |= {f"{name} of {column}": words for column, words in _lists(folder / name).items()}
    return found


def _lists(file: Path) -> dict[str, list]:
    """Column -> what its numbers from 1 on stand for; FuxiCTR's files say the number of each word."""
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, words in found.items():
        if isinstance(words, dict):
            word_of = {number: word for word, number in words.items()}
            found[name] = [word_of.get(number) for number in range(1, max(word_of, default=0) + 1)]
    return found
