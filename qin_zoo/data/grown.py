"""A dataset whose ids became more since a model was trained: nothing is renumbered, what is new comes behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from qin_zoo.data.item_layout import open_data
from qin_zoo.data.specs import feature_specs, table_owners
from qin_zoo.errors import DataError

_WORDS = ("vocabularies.json", "feature_vocab.json")  # of `qin-zoo data import`, and of FuxiCTR's preprocessing


def grown_sizes(params: Mapping[str, Any], sizes: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """``feature_specs`` that give every table of an item-table dataset room for the old ids and the new ones.

    Args:
        params: of the dataset with the new rows.
        sizes: :meth:`~qin_zoo.data.dataset.Dataset.sizes` of the old one.
    """
    data, features = open_data(params, cache_dir=params.get("cache_dir")), feature_specs(params)
    owners, rows = table_owners(features), {}
    for name, owner in owners.items():
        seen = (column.max + 1 for column in data.columns_of(name, features[name]))
        before = sizes.get(name, {}).get("vocab_size", 0)
        rows[owner] = int(max(rows.get(owner, 1), before, *seen))
    grown = {name: {"vocab_size": rows[owner]} for name, owner in owners.items()}
    return [{"name": name, **spec, **grown.get(name, {})} for name, spec in sizes.items()]


def require_same_numbers(old: Path, new: Path) -> None:
    """Compares what the numbers in a folder of encoded files stand for with those in an older one, as far as both tell.

    Args:
        old, new: folders of files that `qin-zoo data import` or FuxiCTR's preprocessing has written.

    Raises:
        DataError: an id of the older folder is another one now.
    """
    for name, before, now in _numbered(old, new):
        changed = [place for place, word in enumerate(before) if place >= len(now) or now[place] != word]
        if changed:
            place = changed[0]
            there = repr(now[place]) if place < len(now) else "missing"
            raise DataError(
                f"{new / name[0]}: expected number {place + 1}{name[1]} to be {before[place]!r}, as in {old}, where "
                f"the model was trained; it is {there}. Numbers must stay, and new ones come behind: import all "
                "periods together and cut them (qin-zoo data cut), or write the new folder with the old numbers."
            )


def _numbered(old: Path, new: Path) -> Iterator[tuple[tuple[str, str], list, list]]:
    """(file and part, what the numbers from 1 on stood for, and stand for) of each list that both folders have."""
    for name in sorted(file.name for file in old.glob("ids_*.parquet") if (new / file.name).is_file()):
        lists = []
        for folder in (old, new):
            frame = pl.read_parquet(folder / name, glob=False)
            if frame.width < 2 or "original_id" not in frame.columns:
                break
            number = next(column for column in frame.columns if column != "original_id")
            known = dict(frame.select(number, "original_id").iter_rows())
            lists.append([known.get(i) for i in range(1, max(known, default=0) + 1)])
        if len(lists) == 2:
            yield (name, ""), *lists
    for file in _WORDS:
        words = [_lists(folder / file) for folder in (old, new)]
        for name in words[0].keys() & words[1].keys():
            yield (file, f" of {name}"), words[0][name], words[1][name]


def _lists(file: Path) -> dict[str, list]:
    """Column -> what its numbers from 1 on stand for; FuxiCTR's files say the number of each word."""
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, words in found.items():
        if isinstance(words, dict):
            word_of = {number: word for word, number in words.items()}
            found[name] = [word_of.get(number) for number in range(1, max(word_of, default=0) + 1)]
    return found
