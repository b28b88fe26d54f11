"""What a column of items or users may hold."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from qin_zoo.data.importers.description import LEFT_OUT, Column
from qin_zoo.data.importers.own_files import NO_TEXT, OwnFile
from qin_zoo.data.importers.tables import as_numbers
from qin_zoo.data.importers.values import COMMAS, is_nothing, json_lists, with_point

_TITLES = {"title", "name", "headline", "titel"}
_TEXTS = {"description", "text", "overview", "plot", "summary", "abstract", "body", "caption", "content", "desc"}
_CODES = {
    "id", "ids", "code", "zip", "brand", "category", "cat", "genre", "type", "class", "color", "colour", "shop",
    "seller", "store", "author", "artist", "publisher", "department", "dept", "group", "cluster", "status", "gender",
}  # fmt: skip
_ADDRESS = r"(?i)^(https?://|/|\w+/)?\S*\.(jpe?g|png|webp|gif|html?|mp4|mp3)$|^https?://\S+$"
_HEAD = 50_000
_FEW = 20  # whole numbers of no more different values are categories
_SHORTEST_VECTOR = 4


def tokens(name: str) -> set[str]:
    """The words of a name: userId and user_id are user and id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return set(re.split(r"[\W_]+", spaced.lower())) - {""}


def guess_column(table: OwnFile, name: str, about: str) -> Column:
    """What a column is taken for."""
    column = _native(table, name) if not table.is_single(name) else _single(table, name, about)
    if about == "users" and column.role not in ("category", "number", LEFT_OUT):
        return Column(LEFT_OUT, because=f"a {column.role} of users is not read")
    return column


def _native(table: OwnFile, name: str) -> Column:
    values = table.frame[name]
    if not isinstance(values.dtype, (pl.List, pl.Array)) or isinstance(values.dtype.inner, NO_TEXT):
        return Column(LEFT_OUT, because=f"its type {values.dtype} is not read")
    lists = values.arr.to_list() if isinstance(values.dtype, pl.Array) else values
    return _listed(lists.list.len().drop_nulls(), lists.dtype.inner.is_float(), "")


def _listed(lengths: pl.Series, floats: bool, how: str) -> Column:
    """Lists (n,) of these lengths: vectors where they hold fractions and most are equally long."""
    common = int(lengths.mode()[0]) if len(lengths) else 0
    if floats and common >= _SHORTEST_VECTOR and (lengths == common).mean() > 0.5:
        return Column("vector", how, f"{common} numbers each")
    return Column("list", how, f"{lengths.min()} to {lengths.max()} entries" if len(lengths) else "no entries")


def _single(table: OwnFile, name: str, about: str) -> Column:
    text = table.text(name).drop_nulls().head(_HEAD)
    words, prose = tokens(name), "text" if about == "items" else LEFT_OUT
    if not len(text):
        return Column(LEFT_OUT, because="it is empty")
    if table.frame[name].dtype.is_temporal():
        return Column(LEFT_OUT, because="a date; write what matters of it as a number or a category")
    if text.str.starts_with("[").mean() > 0.9:
        lists, bad = json_lists(text)
        if bad.mean() < 0.1:
            return _of_json(lists)
    if number := _number(text, words):
        return number
    distinct = text.n_unique()
    if words & _TITLES and about == "items":
        return Column("title", because="its name")
    if words & _TEXTS and about == "items":
        return Column("text", because="its name")
    if text.str.contains(_ADDRESS).mean() > 0.8:
        return Column(LEFT_OUT, because="addresses or files")
    length = float(np.mean([len(value.split()) for value in text.head(2000)]))
    if listed := _separated(text, length):
        return listed
    if length >= 4 and distinct > len(text) / 2:
        return Column(prose, because=f"{length:.0f} words on average, hardly any twice")
    if distinct > _FEW and distinct > 0.9 * len(text):
        return Column(prose if length >= 2 else LEFT_OUT, because="hardly any value is there twice")
    return Column("category", because=f"{distinct:,} different values")


def _of_json(lists: list) -> Column:
    known = [entry for entry in lists if entry]
    kinds = {type(x) for entry in known for x in entry}
    lengths = pl.Series([len(entry) for entry in known], dtype=pl.Int64)
    return _listed(lengths, float in kinds and kinds <= {float, int}, "json")


def _number(text: pl.Series, words: set[str]) -> Column | None:
    text = text.filter(~is_nothing(text))
    if not len(text):
        return None
    values, how = as_numbers(text), ""
    forms = {}
    if values.is_null().mean() > 0.01:
        forms = {name: as_numbers(with_point(text, name)) for name in COMMAS}
        forms = {name: found for name, found in forms.items() if found.is_null().mean() <= 0.01}
        if not forms:
            return None
        how, values = next(iter(forms.items()))
    distinct = values.n_unique()
    if how == "" and text.str.contains(r"^(?i)(true|false)$").all():
        return Column("category", because="true and false")
    if words & _CODES or text.str.contains(r"^0\d").any():
        return Column("category", because=f"{distinct:,} numbers that look like codes")
    if len(forms) > 1:
        example = text.filter(text.str.contains(",", literal=True))[0]
        return Column(LEFT_OUT, because=f"{example} may be a fraction; say number (decimal comma) or (thousands comma)")
    whole = bool((values.drop_nulls() == values.drop_nulls().floor()).all())
    if whole and distinct <= _FEW:
        return Column("category", because=f"whole numbers, {distinct} different ones")
    if whole and (values.diff().drop_nulls() == 1).all():
        return Column(LEFT_OUT, because="it numbers the rows")
    low, high = values.min(), values.max()
    return Column("number", how, f"{low:g} to {high:g}")


def _separated(text: pl.Series, length: float) -> Column | None:
    """A list in text: what separates it stands in many values, and its pieces come again and again."""
    for separator in "|;,":
        share = text.str.contains(separator, literal=True).mean()
        if share < (0.05 if separator != "," else 0.2):
            continue
        pieces = text.str.split(separator).explode(empty_as_null=True).str.strip_chars()
        words = float(np.mean([len(piece.split()) for piece in pieces.head(2000)]))
        again = 1 - pieces.n_unique() / len(pieces)
        if words <= 3 and (again > 0.3 or (separator != "," and len(text) < 100)):
            return Column("list", separator, f"'{separator}' in {share:.0%} of the values")
    return None
