"""What raw files hold that a number could be wrong by: values that no training row has, histories that do not match.

Counted once, while the files are encoded, and said whenever the encoded files are used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import polars as pl

from qin_zoo.data.raw_fields import RawField
from qin_zoo.data.raw_files import RawFile
from qin_zoo.data.specs import field_groups
from qin_zoo.data.vocabulary import Vocabulary, whole
from qin_zoo.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_SUSPICIOUS = 0.5  # share of unknown values, where the training rows have fewer than half as many
_ENOUGH = 20  # values that cannot all be unknown by chance

Files = Mapping[str, list[RawFile]]


def unknown(
    fields: Mapping[str, RawField], raw: Files, vocabularies: Mapping[str, Vocabulary], usual: Mapping[str, float]
) -> tuple[list[dict[str, Any]], dict[str, Vocabulary]]:
    """Counts the values that are in no vocabulary, and finds those that are words written in another way.

    Args:
        fields, raw: by name; split -> files.
        vocabularies: of each field.
        usual: share of a field's values that, by its training rows, may well be new; empty where the vocabularies are
            of other rows.

    Returns:
        of each split and field with unknown values, JSON; the vocabularies, knowing all ways of writing.

    Raises:
        DataError: of 20 values or more of a split none is known, while the training rows' are.
    """
    entries, out = [], dict(vocabularies)
    for name, vocabulary in vocabularies.items():
        field = fields[name]
        for split, files in raw.items():
            if field.type == "meta" or (split == "train" and usual):
                continue  # whose words the vocabulary is of
            values = pl.concat([_values(field, file, vocabulary) for file in files])
            others = values.filter(pl.col("value").is_not_null())
            spelled = _one_word(field, files, vocabulary.spelled(others["value"]))
            out[name] = replace(out[name], spellings=pl.concat([out[name].spellings, spelled]).unique("value"))
            lacking = others.filter(~pl.col("value").is_in(spelled["value"].implode()))
            given, count = int(values["count"].sum()), int(lacking["count"].sum())
            rare = usual.get(name, 0.0)
            if count:
                entry = {"split": split, "feature": name, "unknown": count, "given": given, "usual": rare}
                entry |= {"such_as": lacking["value"][0], "known": next(iter(vocabulary.words), None)}
                entry["file"] = str(files[0].path)
                if len(near := lacking.filter(vocabulary.has(lacking["value"].str.strip_chars()))):
                    entry |= {"such_as": near["value"][0], "known": near["value"][0].strip(), "spaces": True}
                if count == given >= _ENOUGH and rare < _SUSPICIOUS and usual:
                    raise DataError(
                        f"{_unknown_text(entry)}. Write the same values in the same way in all files; or leave the "
                        "feature out (active: False) where its values never come again."
                    )
                entries.append(entry)
    return entries, out


def _one_word(field: RawField, files: list[RawFile], spelled: pl.DataFrame) -> pl.DataFrame:
    """Those of ``spelled``, ``value`` and ``word``, of which no file holds two as different values: 05 and 5."""
    if spelled.is_empty():
        return spelled
    pairs = pl.concat([spelled, spelled.select("word", value="word").select("value", "word")]).unique()
    pairs = pairs.with_columns(whole=whole(pairs["value"]))
    for file in files:
        values = file.frame.select(field.given(file.schema[field.name]).alias("value")).unique()
        here = file.collect(values.filter(pl.col("value").is_in(pairs["value"].implode()))).join(pairs, on="value")
        apart = here.filter(pl.col("whole").n_unique().over("word") > 1)
        same = pl.col("word").is_in(apart["word"].implode()) & (whole(spelled["value"]) != whole(spelled["word"]))
        spelled = spelled.filter(~same)
    return spelled


def _values(field: RawField, file: RawFile, vocabulary: Vocabulary) -> pl.DataFrame:
    """``value`` and ``count`` of the values that are no words; of all that are, in one row, whose value is null."""
    value = pl.col("value")
    query = file.frame.select(field.given(file.schema[field.name]).alias("value"))
    return file.collect(
        query.select(pl.when(~vocabulary.knows(value)).then(value)).group_by("value").agg(count=pl.len())
    )


def _unknown_text(entry: Mapping[str, Any]) -> str:
    share = entry["unknown"] / entry["given"]
    return (
        f"{entry['file']}, column '{entry['feature']}': {entry['unknown']} of {entry['given']} values ({share:.1%}) of "
        f"the {entry['split']} split are unknown to the training rows, such as {entry['such_as']!r:.60}; those have "
        f"{entry['known']!r:.60}"
    )


def unequal(fields: Mapping[str, RawField], raw: Files) -> list[dict[str, Any]]:
    """Two sequences whose lists differ in length, with the first row where they do, of each split; JSON."""
    pairs = []
    names = [name for name, field in fields.items() if field.form == "ids"]
    for (split, files), (one, two) in ((s, p) for s in raw.items() for p in combinations(names, 2)):
        for file in files:
            first, second = (fields[name].entries(file.schema[name]).fill_null(0) for name in (one, two))
            lists = file.frame.select(first.alias("a"), second.alias("b")).with_row_index("row")
            other = lists.filter(pl.col("a") != pl.col("b"))
            query = other.select(pl.len().alias("rows"), *(pl.col(c).first() for c in ("row", "a", "b")))
            row = file.collect(query).row(0, named=True)
            if row["rows"]:
                pairs.append({"split": split, "file": str(file.path), "pair": [one, two], **row})
                break
    return pairs


def cut(fields: Mapping[str, RawField], raw: Files, lengths: Mapping[str, int]) -> dict[str, int]:
    """Of the histories that FuxiCTR would cut at their end, the number of rows that are cut."""
    counts = {}
    for name, length in lengths.items():
        if not fields[name].differs_from_fuxictr:
            continue
        for files in raw.values():
            for file in files:
                query = file.frame.select((fields[name].entries(file.schema[name]) > length).sum())
                counts[name] = counts.get(name, 0) + file.collect(query).item()
    return {name: count for name, count in counts.items() if count}


def spaced(vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """A text of each vocabulary that has a word with spaces around it, and the same without."""
    texts = []
    for name, words in ((name, vocabulary.words) for name, vocabulary in vocabularies.items()):
        plain = words.str.strip_chars()
        if len(twice := words.filter((plain != words) & plain.is_in(words.implode()))):
            text = f"column '{name}' holds {twice[0]!r:.60} and {twice[0].strip()!r:.60}, two values to a model;"
            texts.append(f"{text} {len(twice)} are so. Write the files without such spaces, if they are one.")
    return texts


def never_split(fields: Mapping[str, RawField], files: list[RawFile]) -> list[str]:
    """A text of each sequence that is text and of one entry in every row of ``files``: is that the splitter?"""
    texts = []
    for name, field in fields.items():
        if field.form == "ids" and not any(file.schema[name].is_nested() for file in files):
            value = pl.col(name).cast(pl.String)
            given = pl.concat([file.frame.select(value) for file in files]).filter(pl.col(name) != "")
            split = pl.col(name).str.contains(field.splitter, literal=True).any()
            longest = value.get(value.str.len_bytes().arg_max()).alias("value")
            found = files[0].collect(given.select(pl.len(), split.alias("split"), longest))
            if found["len"][0] >= _ENOUGH and not found["split"][0]:
                text = f"column '{name}': no training row has {field.splitter!r} (splitter): each is one value, such as"
                texts.append(f"{text} {found['value'][0]!r:.60}")
    return texts


def say(report: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Logs what :func:`unknown`, :func:`unequal` and :func:`cut` found, ``texts`` as they are, which fields
    have no value in common with those whose vocabulary they share (``apart``), and which an ``encoder_file`` knew
    nothing of (``fitted``).

    Raises:
        DataError, ConfigError: sequences that are read position by position do not match.
    """
    for text in report["texts"]:
        _log.warning("%s", text)
    for entry in report["unknown"]:
        share = entry["unknown"] / entry["given"]
        suspicious = share >= _SUSPICIOUS and share > 2 * entry["usual"]
        suspicious |= entry.get("spaces", False)
        _log.log(logging.WARNING if suspicious else logging.INFO, "%s", _unknown_text(entry))
        if entry["feature"] == params.get("group_id"):
            _log.warning(
                "group_id '%s': %d of %d %s rows have values that the training rows do not have, and are one group, as "
                "in FuxiCTR, for gAUC and its like. To keep them apart, group by a copy: {name: group, dtype: str, "
                "type: meta, active: True, preprocess: copy_from(%s)}, group_id: group",
                entry["feature"], entry["unknown"], entry["given"], entry["split"], entry["feature"],
            )  # fmt: skip
    for name in report["fitted"]:
        _log.warning("encoder_file knows nothing of '%s': that is fitted to %s", name, params["train_data"])
    for name, owner in report["apart"]:
        _log.warning("column '%s' shares the vocabulary of '%s', but no training row has a value of both", name, owner)
    for name, count in report["cut"].items():
        _log.warning(
            "column '%s': %d rows are longer than max_len; their newest entries, the last, are kept, where FuxiCTR's "
            "padding: post keeps the first",
            name, count,
        )  # fmt: skip
    _check_parallel(report["parallel"], params)


def _check_parallel(found: list[dict[str, Any]], params: Mapping[str, Any]) -> None:
    groups = field_groups(params.get("sequence_field"))
    columns = {c["name"]: c for c in params["feature_cols"] if isinstance(c.get("name"), str)}
    for names in groups:
        for key, default in (("max_len", None), ("padding", "post")):
            values = [columns[name].get(key, default) for name in names if name in columns]
            if len({*values}) > 1:
                raise ConfigError(
                    f"sequence_field: {', '.join(names)} are read position by position, expected one {key} for them, "
                    f"found {', '.join(map(str, values))}. Give them the same."
                )
    for entry in found:
        one, two = entry["pair"]
        text = (
            f"{entry['file']}, row {entry['row']}: '{one}' has {entry['a']} entries, '{two}' {entry['b']}; "
            f"{entry['rows']} rows of the file are so"
        )
        if any(one in names and two in names for names in groups):
            raise DataError(
                f"{text}. Expected lists of one length, as they are read position by position: write an empty entry "
                "where nothing is known (rows count from 0, behind the header)."
            )
        if {one, two} <= {name for names in groups for name in names}:
            _log.warning("%s. They are read as two histories, each with its own target.", text)
