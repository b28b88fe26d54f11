"""Named fields as they stand in raw files: what each must hold, its vocabulary, and the numbers it becomes.

Every value is described by a polars expression, so that files are read piece by piece and never as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.preprocess import NUMBERS, Made, as_number, dtype_of, given_fill, is_given, number_or
from qin_zoo.data.specs import USAGES, Spec, active_columns, check_known, check_spec_shape, field_groups, spec_of
from qin_zoo.data.vocabulary import FORMS, Vocabulary, unpadded, whole
from qin_zoo.errors import ConfigError
from qin_zoo.feature_types import SIZES, check_type, has_table, type_of

_UNSUPPORTED = ("codes_of", "neighbours_of")
_CHOICES = {
    "category_processor": ("quantile_bucket", "hash_bucket"),
    "pretrain_usage": USAGES,
    "normalizer": ("StandardScaler", "MinMaxScaler"),
}
_FITTED = {"vocab_size", "max_len", "pretrain_dim"}  # sizes that the data decide
_KEPT = ("embedding_dim", "emb_output_dim", "share_embedding", "unknown_rate", *(k for k in SIZES if k not in _FITTED))
_element = pl.element()


@dataclass(frozen=True)
class RawField:
    """A feature of raw files.

    Attributes:
        name: its column.
        column: its entry of ``feature_cols``.
        min_count: rarer values are unknown.
        buckets: ids that a ``category_processor`` gives.
        is_history: whether a model reads it as a history, whose newest entries, the last, count.
        is_boolean: whether its column holds booleans.
    """

    name: str
    column: Mapping[str, Any]
    min_count: int
    buckets: int = 10
    is_history: bool = False
    is_boolean: bool = False

    @property
    def type(self) -> str:
        """A key of :data:`qin_zoo.feature_types.FEATURE_TYPES`."""
        return self.column["type"]

    @property
    def form(self) -> str:
        """See :class:`~qin_zoo.feature_types.FeatureType`; a ``meta`` field's is ``id``."""
        return type_of(self.column).form

    @cached_property
    def dtype(self) -> str:
        """``str``, ``int`` or ``float``. Default: text of ids, else a float."""
        return str(self.column.get("dtype") or ("str" if type_of(self.column).ids else "float"))

    @property
    def remap(self) -> bool:
        """Whether its values are numbered anew; else they are ids already."""
        return self.column.get("remap", True) is not False

    @property
    def number(self) -> type[pl.DataType] | None:
        """As what its values, or a sequence's entries, are read: whole numbers, numbers, or (None) texts."""
        if self.form == "ids" or self.dtype not in NUMBERS:
            return pl.Int64 if self.dtype == "int" or not self.remap else None
        return NUMBERS[self.dtype]

    @property
    def processor(self) -> str | None:
        """What makes buckets of its values; None where nothing does."""
        return self.column.get("category_processor") if self.type == "categorical" else None

    @property
    def has_vocabulary(self) -> bool:
        """Whether its ids are the numbers of words."""
        if self.processor:
            return False
        return has_table(self.column) or (self.type == "meta" and self.remap)

    def as_made(self, stored: pl.DataType) -> RawField:
        """The field, its dtype that of the values that ``preprocess`` made, which FuxiCTR's vocabularies then hold."""
        if not self.column.get("preprocess") or self.form in ("ids", "vector"):
            return replace(self, is_boolean=stored == pl.Boolean)
        dtype = dtype_of(stored)
        column = {**self.column, "dtype": dtype}
        for key in ("fill_na", "na_value"):  # nothing is missing any more; a number still counts as no value of its own
            if dtype in NUMBERS and isinstance(column.get(key), str):
                del column[key]
        return replace(self, column=column)

    @cached_property
    def fill(self) -> str:
        """What stands for a missing value, as text."""
        given = given_fill(self.column)
        if given is None:
            return {"int": "0", "float": "0.0"}.get(self.dtype, "") if self.form != "ids" else ""
        if self.form == "ids" or self.dtype not in NUMBERS:
            return str(given)
        try:
            return str({"int": int, "float": float}[self.dtype](str(given)))
        except ValueError:
            what = f"expected a number for a column of dtype {self.dtype}, found {given!r}"
            raise ConfigError(f"fill_na: {what}.") from None

    @property
    def _missing(self) -> str:
        """The word that is no value of its own."""
        return self.fill if self._fills else ""

    @property
    def splitter(self) -> str:
        """What stands between the entries of a list that is text."""
        return self.column.get("splitter") or "^"

    def spec(self) -> Spec:
        """Its entry of a feature map, without the sizes that the data decide."""
        if self.type == "meta":
            return {"type": "meta"}
        spec = spec_of(self.column, _KEPT)
        if self.processor:
            spec.pop("share_embedding", None)
            spec |= {"category_processor": self.processor, "vocab_size": self.buckets}
        return spec

    # What stands in the files ------------------------------------------------------------------------------------

    def takes(self, stored: pl.DataType) -> bool:
        """Whether a column of that type may be read as this field: polars makes some text of a struct, too."""
        if self.form in ("ids", "vector") and isinstance(stored, (pl.List, pl.Array)):
            stored = stored.inner
        return not stored.is_nested()

    def tokens(self, stored: pl.DataType) -> pl.Expr:
        """The value as text, or a sequence's list of texts; missing ones filled."""
        if self.form == "ids":
            return self._entries(stored)
        if self.number is None:
            column = pl.col(self.name).fill_nan(None) if stored.is_float() else pl.col(self.name)
            return column.cast(pl.String).fill_null(self.fill)
        return self._number(stored, self.number).cast(pl.String).fill_null(self.fill)

    def given(self, stored: pl.DataType) -> pl.Expr:
        """Of :meth:`words`, those that are a value and do not stand for a missing one, in one column."""
        words = self.words(stored)
        return words.filter(words.is_not_null() & ~words.is_in(["", self._missing, self.fill]))

    def entries(self, stored: pl.DataType) -> pl.Expr:
        """The number of a sequence's entries, missing ones among them; an empty text may be one, too."""
        return pl.max_horizontal(self._entries(stored).list.len(), pl.lit(1))

    def words(self, stored: pl.DataType) -> pl.Expr:
        """Every value it holds, in one column."""
        tokens = self.tokens(stored)
        return tokens.list.explode(empty_as_null=False) if self.form == "ids" else tokens

    def numbers(self, stored: pl.DataType) -> pl.Expr:
        """A numeric feature's values; missing ones filled, NaN where ``fill_na`` says with what."""
        return self._number(stored).fill_null(float(self.fill or 0))

    @property
    def _fills(self) -> bool:
        return given_fill(self.column) is not None

    def _number(self, stored: pl.DataType, kind: type[pl.DataType] = pl.Float64) -> pl.Expr:
        number = as_number(pl.col(self.name), stored, kind)
        return number.fill_nan(None) if self._fills else number

    def vectors(self, stored: pl.DataType) -> pl.Expr:
        """An embedding's lists of numbers."""
        inner, lists = pl.String, pl.col(self.name)
        if isinstance(stored, (pl.List, pl.Array)):
            inner = stored.inner
            lists = lists.arr.to_list() if isinstance(stored, pl.Array) else lists
        else:
            lists = lists.cast(pl.String).str.split(self.splitter)
        if not self._fills:
            return lists.list.eval(as_number(_element, inner, pl.Float64))
        given = pl.when((lists.list.len() > 0) & (lists.list.eval(is_given(_element, inner)).list.any())).then(lists)
        return given.list.eval(number_or(_element, inner, float(self.fill)))

    def filled(self, stored: pl.DataType, width: int) -> pl.Expr:
        """An embedding's lists of numbers, ``fill_na`` in place of those that are missing."""
        vectors = self.vectors(stored)
        if not self._fills:
            return vectors
        return vectors.fill_null(pl.lit([float(self.fill)] * width, dtype=pl.List(pl.Float64)))

    def _entries(self, stored: pl.DataType) -> pl.Expr:
        column = pl.col(self.name)
        if isinstance(stored, pl.Array):
            column = column.arr.to_list()
        if isinstance(stored, (pl.List, pl.Array)):
            column = column.list.eval(_element.fill_nan(None)) if stored.inner.is_float() else column
            column = column.cast(pl.List(pl.String)).fill_null(pl.lit([], dtype=pl.List(pl.String)))
        else:
            column = column.cast(pl.String).fill_null(self.fill).str.split(self.splitter)
        if self.number is None:
            return column
        whole = as_number(_element, pl.String, pl.Int64).cast(pl.String)
        return column.list.eval(pl.when(_element == self._missing).then(_element).otherwise(whole))

    def missing(self, stored: pl.DataType) -> pl.Expr | None:
        """Where a row must not hold what it does, but may with ``fill_na``; None where that mends nothing."""
        if self._fills:
            return None
        if self.form == "vector":
            v = self.vectors(stored)
            return v.is_null() | (v.list.len() == 0) | v.list.eval(_element.is_nan()).list.any()
        return self._number(stored).is_nan() if self._is_number else None

    @property
    def _is_number(self) -> bool:
        """Whether its values are computed with."""
        return self.form == "number" or self.processor == "quantile_bucket"

    def wrong(self, stored: pl.DataType, width: int | None) -> tuple[pl.Expr, str] | None:
        """Where a row holds what it must not, with what it must hold; None where anything goes.

        The column is ``stored`` in the file as that type; the vectors of an embedding have ``width`` numbers.
        """
        found = self._wrong(stored, width)
        if self.remap or not found or not has_table(self.column):
            return found
        ids = self.tokens(stored).cast(pl.List(pl.Int64) if self.form == "ids" else pl.Int64, strict=False)
        negative = (ids.list.min() if self.form == "ids" else ids) < 0
        return found[0] | negative.fill_null(False), f"{found[1]}, from 0 on, as remap: False keeps it"

    def _wrong(self, stored: pl.DataType, width: int | None) -> tuple[pl.Expr, str] | None:
        column = pl.col(self.name)
        if self.form == "vector":
            v = self.filled(stored, width)
            bad = v.list.eval(_element.is_null() | ~_element.cast(pl.Float32).is_finite()).list.any()
            expected = f"{width} finite numbers that float32 can hold"
            if not stored.is_nested():
                expected += f" with {self.splitter!r} between them (splitter), no brackets"
            return (bad | (v.list.len() != width)).fill_null(True), expected
        if self._is_number:
            none = as_number(column, stored, pl.Float64).is_null() & is_given(column, stored)
            number, expected = self._number(stored), "a finite number"
            if self.form == "number" and not self.column.get("normalizer"):  # else it is scaled before
                number, expected = number.cast(pl.Float32), f"{expected} that float32 can hold"
            return none | ~number.is_finite().fill_null(True), expected
        if self.form == "ids":
            text, said = pl.lit(False), f"values with {self.splitter!r} between them (splitter), no brackets"
            if stored == pl.String:
                text = column.str.contains(r"^\s*\[.*\]\s*$") & ~column.str.contains(self.splitter, literal=True)
            if (inner := getattr(stored, "inner", None)) and inner.is_float() and self.dtype != "float":
                lists, digits = column.arr.to_list() if isinstance(stored, pl.Array) else column, _digits(inner)
                bad = lists.list.eval((_element.abs() >= 2**digits) & _element.is_not_nan()).list.any()
                if self.number is not None:
                    bad |= self._entries(stored).list.eval(_element.is_null()).list.any()
                what = "ids" if self.number is None else "whole numbers"
                return bad.fill_null(False), f"{what} that a float holds exactly (below 2^{digits})"
            if self.number is None:
                return text.fill_null(False), said
            bad = self._entries(stored).list.eval(_element.is_null()).list.any()
            return bad | text.fill_null(False), f"whole numbers; {said}" if stored == pl.String else "whole numbers"
        number = self.number
        if stored.is_float() and number != pl.Float64:
            exact = column.is_null() | column.is_nan() | ((column == column.floor()) if number else pl.lit(True))
            digits = _digits(stored)
            bad = ~(exact & (column.is_null() | column.is_nan() | (column.abs() < 2**digits)))
            return bad, f"{'a whole number' if number else 'an id'} that a float holds exactly (below 2^{digits})"
        if number is None:
            # polars raises for bytes that are no text; RawFile.read says so
            return (column.is_not_null() & column.cast(pl.String).is_null(), "text") if stored == pl.Binary else None
        expected = "a number" if number == pl.Float64 else "a whole number"
        return as_number(column, stored, number).is_null() & is_given(column, stored), expected

    # What becomes of it ------------------------------------------------------------------------------------------

    def vocabulary(self, counts: pl.DataFrame) -> tuple[Vocabulary, float]:
        """From ``value`` and ``count``, one row per distinct value and file.

        Returns:
            the vocabulary; the share of values that are too rare for it, or come once: about as many are new elsewhere.
        """
        least = 1 if self.type == "meta" else self.min_count
        counts, spellings, forms = _together(counts)
        given = counts.filter(pl.col("value").is_not_null() & (pl.col("value") != self._missing))
        kept = given.filter(pl.col("count") >= least)
        rare = given.filter(pl.col("count") < max(least, 2))["count"].sum()
        by_value = self.dtype in NUMBERS and self.form != "ids"
        order = {"by": pl.col("value").cast(NUMBERS[self.dtype])} if by_value else {
            "by": ["count", "value"], "descending": [True, False]
        }  # fmt: skip
        words, all_given = kept.sort(**order)["value"], given["count"].sum()
        return Vocabulary(words, self.remap, spellings=spellings, forms=forms), rare / max(all_given, 1)

    def ids(self, stored: pl.DataType, vocabulary: Vocabulary | None, max_len: int = 0) -> pl.Expr:
        """The ids of a categorical or meta feature, or a sequence's ``max_len`` ids, padded and cut on one side."""
        tokens = self.tokens(stored)
        if vocabulary is None:  # meta that is not numbered anew
            return tokens.cast(pl.Int64, strict=False)
        if self.form != "ids":
            return vocabulary.encode(tokens)
        missing = _element.is_null() | (_element == self._missing)
        ids = tokens.list.eval(pl.when(missing).then(pl.lit(0, pl.Int64)).otherwise(vocabulary.encode(_element)))
        padding = pl.lit([0] * max_len, dtype=pl.List(pl.Int64))
        kept = ids.list.tail(max_len) if self.keeps_newest else ids.list.head(max_len)
        if self._padded_first:
            return pl.concat_list([padding, kept]).list.tail(max_len)
        return pl.concat_list([kept, padding]).list.head(max_len)

    @property
    def _padded_first(self) -> bool:
        return self.column.get("padding", "post") == "pre"

    @property
    def keeps_newest(self) -> bool:
        """Whether a list is cut at its beginning: as FuxiCTR does where it pads there, and of any history."""
        return self._padded_first or self.is_history

    @property
    def differs_from_fuxictr(self) -> bool:
        """Whether FuxiCTR would keep the oldest entries of a history."""
        return self.is_history and not self._padded_first

    def boundaries(self, values: np.ndarray) -> np.ndarray:
        """What separates the buckets of quantile_bucket, (buckets - 1,): quantiles of (N,) training values."""
        quantiles = np.percentile(values, np.linspace(0, 100, max(1, min(self.buckets + 1, len(values)))))
        return np.maximum.accumulate(quantiles)[1:-1]

    def bucket(self, stored: pl.DataType, boundaries: np.ndarray | None) -> pl.Expr:
        """Ids from 0: the number of ``boundaries``, (buckets - 1,), that a number reaches, or a hash of a text."""
        if boundaries is None:
            return self.tokens(stored).map_batches(self._hashed, return_dtype=pl.Int64, is_elementwise=True)
        place = lambda x: pl.Series(np.digitize(x.to_numpy(), boundaries), dtype=pl.Int64)  # noqa: E731
        return self.numbers(stored).map_batches(place, return_dtype=pl.Int64, is_elementwise=True)

    def _hashed(self, texts: pl.Series) -> pl.Series:
        texts = whole(texts)
        known = texts.unique()
        hashes = (int.from_bytes(blake2b(t.encode(), digest_size=8).digest(), "big") % self.buckets for t in known)
        return texts.replace_strict(known, pl.Series(list(hashes), dtype=pl.Int64), return_dtype=pl.Int64)

    def described(
        self, shift: float, scale: float, boundaries: np.ndarray | None = None, made: Made | None = None
    ) -> dict[str, Any]:
        """What a scorer of requests has to know of its values, JSON; see ``serving/raw_values.py``.

        Args:
            shift, scale: what is subtracted from a number, and what it is then divided by.
            boundaries: of quantile buckets, (buckets - 1,).
            made: how ``preprocess`` makes it.
        """
        dtype = {pl.Int64: "int", pl.Float64: "float", None: "str"}[self.number]
        about = {"dtype": dtype, "fill": self.fill, "missing": self._missing}
        about |= {"splitter": self.splitter, "padding": self.column.get("padding", "post")}
        about |= {"keep": "newest" if self.keeps_newest else "first"}
        about |= {"shift": shift, "scale": scale, **({"boolean": True} if self.is_boolean else {})}
        if boundaries is not None:
            about["boundaries"] = boundaries.tolist()
        elif self.processor:
            about["buckets"] = self.buckets
        return about | ({"made": asdict(made)} if made else {})


def _together(counts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """The counts of the words of all files, those of a number that is written in two ways as one; these ways; and the
    forms in which such numbers are one.

    Not where a file tells them apart: with 05 and 5, or with 5.0 and 5 beside 5.5, they are texts.
    """
    words = counts["value"].drop_nulls().unique()
    form, forms = None, tuple(FORMS)
    if unpadded(words).n_unique() < len(words):
        apart = counts.select("file", "value").drop_nulls().unique()
        apart = apart.select("file", whole(apart["value"]).alias("whole"), unpadded(apart["value"]).alias("plain"))
        each = apart.group_by("file").agg(pl.col("whole", "plain").n_unique())
        form = unpadded if (each["whole"] == each["plain"]).all() else whole
        if words.str.contains(r"^-?[0-9]*\.0*[1-9][0-9]*$").any():
            form = None
        forms = tuple(FORMS)[{unpadded: 0, whole: 1, None: 2}[form] :]
    counts = counts.with_columns((form(counts["value"]) if form else counts["value"]).alias("form"))
    several = pl.col("value").n_unique().over("form") > 1
    counts = counts.with_columns(pl.when(several).then("form").otherwise("value").alias("word"))
    spellings = counts.filter(pl.col("value") != pl.col("word")).select("value", "word").unique()
    return counts.group_by(pl.col("word").alias("value")).agg(pl.col("count").sum()), spellings, forms


def raw_fields(params: Mapping[str, Any]) -> dict[str, RawField]:
    """The active features of a dataset configuration, in its order.

    Raises:
        ConfigError: an entry that cannot be used, a name given twice, or what FuxiCTR's preprocessing offers and
            this one does not.
    """
    where = f"dataset '{params.get('dataset_id')}'"
    fields: dict[str, RawField] = {}
    owners: list[str] = []
    for name, column in active_columns(params):
        at = f"{where}, feature '{name}'"
        if name in fields:
            raise ConfigError(f"{where}: feature '{name}' is given twice in feature_cols. Keep one of them.")
        for key in _UNSUPPORTED:
            if column.get(key):
                raise ConfigError(f"{at}: '{key}' belongs to an item table; here are named fields. Remove it.")
        for key, choices in _CHOICES.items():
            if column.get(key) not in (None, *choices):
                raise ConfigError(f"{at}: expected {key} among {', '.join(choices)}, found {column[key]!r:.80}.")
        check_type(column.get("type"), at)
        if column.get("pretrained_emb") and (not has_table(column) or column.get("category_processor")):
            raise ConfigError(
                f"{at}: pretrained_emb is for categorical and sequence features with a vocabulary. Remove it."
            )
        sizes = {key: column[key] for key in ("max_len", "pretrain_dim") if column.get(key) is not None}
        fields[name] = RawField(
            name,
            column,
            column.get("min_categr_count") or params.get("min_categr_count") or 1,
            column.get("num_buckets") or params.get("num_buckets") or 10,
            any(name in group for group in field_groups(params.get("sequence_field"))),
        )
        check_spec_shape({"type": column.get("type"), **fields[name].spec(), **sizes}, at)
        _ = fields[name].fill  # raises where it is no number and must be one
        if "share_embedding" in fields[name].spec():
            check_known([column["share_embedding"]], owners, f"{at}, share_embedding (it must come earlier)")
        owners += [name] if has_table(fields[name].column) and not fields[name].processor else []
    if not fields:
        raise ConfigError(f"{where}: expected feature_cols, a list of features, found none that is active.")
    return fields


def _digits(stored: pl.DataType) -> int:
    """The binary digits of whole numbers that floats of a type tell apart."""
    return {pl.Float16: 11, pl.Float32: 24}.get(stored, 53)
