"""Feature specifications: from ``feature_cols`` of a dataset configuration, and what makes one sound."""

from __future__ import annotations

import ast
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qin_zoo.data.preprocess import copied
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.feature_types import SIZES, can_be_a_name, check_type, has_table, names_of, type_of

_log = logging.getLogger(__name__)

USAGES = ("init", "sum", "concat")
_NO_ENCODER = (None, "null", "None", "none")  # FuxiCTR reads these words as null
_PRETRAINED = (".h5", ".npz", ".parquet")
_SIZES = tuple(dict.fromkeys((*SIZES, "embedding_dim", "emb_output_dim")))
_COMPUTED = ("codes_of", "codebook_size", "num_levels", "code_items", "neighbours_of", "top_k")
_KEPT = (*_SIZES, "share_embedding", "unknown_rate", *_COMPUTED)
# What FuxiCTR's preprocessing reads; the item-table layout holds encoded data, which nothing preprocesses.
_PREPROCESSING = {"fill_na", "min_categr_count", "splitter", "padding", "remap", "padding_idx"}
_WITHOUT_EFFECT = {"preprocess", "normalizer"}
_UNSUPPORTED = {"category_processor", "num_buckets", "pretrained_emb", "freeze_emb", "pretrain_usage"}
_KEYS = {"name", "active", "dtype", "type", "source", "feature_encoder", *_KEPT}
_KEYS |= _PREPROCESSING | _WITHOUT_EFFECT | _UNSUPPORTED


def _whole(least: int, greatest: int) -> tuple[Callable[[Any], bool], str]:
    what = f"a {'positive ' * least}whole number of at most {greatest}"
    return lambda value: type(value) is int and least <= value <= greatest, what


# What a specification may hold: key -> whether a value fits, and what is expected. Greater sizes would only exhaust
# the memory; FuxiCTR's PretrainedEmbedding opens whatever it is told.
_TEXT = (lambda value: isinstance(value, str), "text")
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_SIZES, _whole(1, 2**20)),
    "vocab_size": _whole(1, 2**31 - 1),
    "max_len": _whole(0, 100_000),
    "padding_idx": _whole(0, 2**31 - 1),
    "oov_idx": _whole(0, 2**31 - 1),
    "source": _TEXT,
    "share_embedding": _TEXT,
    "pretrained_emb": (
        lambda file: isinstance(file, str) and file.endswith(_PRETRAINED) and not any(c in file for c in "/\\\0"),
        f"the name of a file {', '.join(_PRETRAINED)} beside the feature map",
    ),
    "pretrain_usage": (lambda value: value in USAGES, "init, sum or concat"),
    "freeze_emb": (lambda value: isinstance(value, bool), "true or false"),
    "unknown_rate": (
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1,
        "a number of at least 0 and below 1",
    ),
}

# Feature encoders, whose text FuxiCTR evaluates: constructor -> its arguments, whole numbers, but for bias
_ENCODERS = {
    "layers.MaskedAveragePooling": inspect.signature(lambda: None),
    "layers.MaskedSumPooling": inspect.signature(lambda: None),
    "nn.Identity": inspect.signature(lambda: None),
    "nn.Flatten": inspect.signature(lambda: None),
    "layers.KMaxPooling": inspect.signature(lambda k, dim: None),
    "nn.Linear": inspect.signature(lambda in_features, out_features, bias=True: None),
}
_LONGEST_ENCODER = 200  # characters; deep nesting would exhaust the parser long before it means anything

Spec = dict[str, Any]


def table_owners(features: Mapping[str, Spec]) -> dict[str, str]:
    """Feature with ids -> the first of those with which it shares its embedding table, or itself."""
    owners: dict[str, str] = {}
    for name, spec in features.items():
        if has_table(spec):
            owners[name] = owners.get(spec.get("share_embedding"), name)
    return owners


def feature_specs(params: Mapping[str, Any]) -> dict[str, Spec]:
    """The active features of a dataset configuration, in its order, as specifications of a feature map.

    Args:
        params: a configuration with ``feature_cols``: a list of ``{name, type, source, …}``, where ``name`` may be
            a list and ``active: False`` skips an entry.

    Raises:
        ConfigError: no ``feature_cols``, an unknown type or key, a name given twice, but for the case below, a
            size that is not a positive whole number, a ``feature_encoder`` that is not allowed.

    A name given once without ``source`` and once with ``source: item`` is one feature of rows and items, with one
    embedding: its specification is that of the rows, with ``of_items``.

    ``preprocess: copy_from(COLUMN)`` becomes ``copy_of``, the column of the rows that stands for one they lack.
    """
    columns = params.get("feature_cols")
    where = f"dataset '{params.get('dataset_id')}'"
    if not isinstance(columns, list) or not columns:
        raise ConfigError(f"{where}: expected feature_cols, a list of features, found {columns!r}.")
    specs: dict[str, Spec] = {}
    for name, column in active_columns(params):
        check_feature_name(name, where)
        spec = _spec(name, column, f"{where}, feature '{name}'")
        check_spec_shape(spec, f"{where}, feature '{name}'")
        specs[name] = _both(specs[name], spec, name, where) if name in specs else spec
    return specs


def active_columns(params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each active feature of ``feature_cols`` with its entry; raises ConfigError for an entry that is none."""
    for column in params.get("feature_cols") or []:
        if not isinstance(column, Mapping) or not column.get("name"):
            raise ConfigError(
                f"dataset '{params.get('dataset_id')}': expected each of feature_cols to be {{name: …, type: …}}, "
                f"found {column!r}."
            )
        if column.get("active", True) is not False:
            yield from ((name, column) for name in names_of(column))


def field_groups(names: object) -> list[list[str]]:
    """Fields as FuxiCTR pairs them: those of a tuple (or of a list in a list) are one, those of a list several."""
    if isinstance(names, (str, tuple)):
        names = [names]
    return [[part] if isinstance(part, str) else list(part) for part in names or []]


def _both(first: Spec, second: Spec, name: str, where: str) -> Spec:
    """A feature that is given once for the rows and once for the items."""
    by_source = {spec["source"]: spec for spec in (first, second)}
    if by_source.keys() != {"", "item"} or "of_items" in first:
        raise ConfigError(
            f"{where}: feature '{name}' is given twice in feature_cols. Keep one of them; where rows and items both "
            "have it, give it once without source and once with source: item."
        )
    rows, items = by_source[""], by_source["item"]
    for key in sorted((rows.keys() | items.keys()) - {"source", "copy_of"}):
        if rows.get(key) != items.get(key):
            raise ConfigError(
                f"{where}: feature '{name}' describes rows and items with one embedding, but has {key} "
                f"{rows.get(key)!r} for the rows and {items.get(key)!r} for the items. Give both the same."
            )
    return {**rows, "of_items": True}


def _spec(name: str, column: Mapping[str, Any], where: str) -> Spec:
    copy_of = copied(column, name) if column.get("source") != "item" else None
    for key in column:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key '{key}'.{suggest(key, _KEYS)}")
        if key in _UNSUPPORTED:
            raise ConfigError(
                f"{where}: '{key}' has no meaning where items stand in a table of encoded columns. "
                "Remove it; a vector per item is a feature of type embedding."
            )
        if key in _WITHOUT_EFFECT and column[key] and not (key == "preprocess" and copy_of):
            _log.warning("%s: '%s' has no effect: the data is read as it is", where, key)
    check_type(column.get("type"), where)
    spec = spec_of(column, _KEPT)
    spec |= {"copy_of": copy_of} if copy_of else {}
    if source_column(spec):
        spec |= _computed_sizes(spec, where)
    if has_table(spec):
        spec["padding_idx"] = 0
    return spec


def spec_of(column: Mapping[str, Any], keys: Iterable[str]) -> Spec:
    """What a specification has from an entry of ``feature_cols``: source, type, feature encoder and these keys."""
    spec: Spec = {"source": column.get("source") or "", "type": column["type"]}
    encoder = column.get("feature_encoder", type_of(column).feature_encoder)
    spec |= {} if encoder in _NO_ENCODER else {"feature_encoder": encoder}
    return spec | {key: column[key] for key in keys if column.get(key) is not None}


def check_spec_shape(spec: object, where: str, complete: bool = False) -> None:
    """Raises ConfigError unless ``spec`` is a sound specification; if ``complete``, with all sizes a model needs."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where}: expected a specification {{type: …, …}}, found {spec!r}.")
    kind = spec.get("type")
    check_type(kind, where)
    if spec.get("source") == "history" and kind != "categorical":
        raise ConfigError(
            f"{where}: expected type categorical, an id for each item of the history, as its source is history; found "
            f"{kind!r}."
        )
    for key, (fits, expected) in _FORMS.items():
        if spec.get(key) is not None and not fits(spec[key]):
            raise ConfigError(f"{where}: expected {key} to be {expected}, found {spec[key]!r:.80}.")
    if (spec.get("padding_idx") or 0) >= (spec.get("vocab_size") or 2**31):
        raise ConfigError(
            f"{where}: expected padding_idx to be below the vocab_size {spec['vocab_size']}, "
            f"found {spec['padding_idx']}."
        )
    check_encoder(spec.get("feature_encoder"), where)
    plain = kind == "categorical" and spec.get("source") != "history" and not spec.get("category_processor")
    if spec.get("unknown_rate") and not plain:
        raise ConfigError(
            f"{where}: expected unknown_rate of a feature of type categorical with an id in each row (no source: "
            f"history, no category_processor), found it of type {kind}. Leave it out."
        )
    if spec.get("pretrained_emb") and (missing := [k for k in ("oov_idx", "freeze_emb") if spec.get(k) is None]):
        raise ConfigError(f"{where}: pretrained_emb needs {missing[0]}, {_FORMS[missing[0]][1]}, found None.")
    if not complete:
        return
    for key in type_of(spec).sizes.values():
        if spec.get(key) is None:
            what = "the length of its vectors" if key == "pretrain_dim" else "the greatest id + 1"
            raise ConfigError(
                f"{where}: {key} is missing and no data is at hand to take it from. Add {key}: …"
                + ("" if key == "max_len" else f" ({what})")
                + ", or name the data files."
            )


def check_feature_name(name: object, where: str) -> None:
    """Raises ConfigError unless a feature, or label, can have this name: it becomes part of file names."""
    if not isinstance(name, str) or not can_be_a_name(name):
        raise ConfigError(
            f"{where}: expected a feature's name to be text that can be part of a file name (not empty, at most 200 "
            f"bytes, no '/', '\\' and '..'), found {name!r:.80}. Rename the column."
        )


def label_names(params: Mapping[str, Any]) -> list[str]:
    """The names of the label columns, one ``{name: …}`` or a list of them; ConfigError where they are none."""
    columns = params.get("label_col")
    columns = columns if isinstance(columns, list) else [columns]
    if not all(isinstance(c, Mapping) and isinstance(c.get("name"), str) for c in columns) or not columns:
        raise ConfigError(
            f"dataset '{params.get('dataset_id')}': expected label_col to be {{name: …, dtype: float}}, "
            f"found {params.get('label_col')!r}."
        )
    names = [c["name"] for c in columns]
    for name in names:
        check_feature_name(name, f"dataset '{params.get('dataset_id')}', label_col")
    return names


def check_known(names: Iterable[object], known: Iterable[str], where: str) -> None:
    """Raises ConfigError for the first of ``names`` that is not a known feature."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: unknown feature {name!r}.{suggest(name, known)} Known: {', '.join(known)}.")


def check_encoder(encoder: object, where: str) -> None:
    """Raises ConfigError unless this is None or one or several known constructors with plain arguments, as text."""
    if encoder is None:
        return
    for text in encoder if isinstance(encoder, list) and encoder else [encoder]:
        if problem := _encoder_problem(text):
            raise ConfigError(
                f"{where}: feature_encoder {str(text)[:60]!r} is refused: {problem}. Allowed are null and "
                "layers.MaskedAveragePooling(), layers.MaskedSumPooling(), layers.KMaxPooling(k=…, dim=…), "
                "nn.Identity(), nn.Flatten() (the embeddings of a list side by side), nn.Linear(in, out, "
                "bias=True|False), or a list of these."
            )


def _encoder_problem(text: object) -> str:
    """Why this is no encoder; empty where it is one."""
    if not isinstance(text, str) or len(text) > _LONGEST_ENCODER:
        return "expected text such as 'layers.MaskedAveragePooling()'"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        name = ""
    if name not in _ENCODERS:
        return f"'{name}' is not one of them.{suggest(name, _ENCODERS)}" if name else "it is not a call of one of them"
    try:
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        given = _ENCODERS[name].bind(*map(ast.literal_eval, call.args), **named).arguments
    except (TypeError, ValueError) as error:
        return f"expected {name}{_ENCODERS[name]} with plain values ({error})"
    wrong = [key for key, value in given.items() if type(value) is not (bool if key == "bias" else int)]
    return f"expected a plain {'bool' if wrong[0] == 'bias' else 'int'} for '{wrong[0]}'" if wrong else ""


def source_column(spec: Mapping[str, Any]) -> str | None:
    """The embedding column that a feature is computed from; None for a feature that is a column itself."""
    return spec.get("codes_of") or spec.get("neighbours_of")


def _computed_sizes(spec: Mapping[str, Any], where: str) -> dict[str, int]:
    """``max_len``, and for codes ``vocab_size``, of a computed feature.

    Raises:
        ConfigError: the feature is no item sequence, or a number it needs is missing.
    """
    needed = ("codebook_size", "num_levels") if spec.get("codes_of") else ("top_k",)
    for key in needed:
        if type(spec.get(key)) is not int or spec[key] < 1:
            raise ConfigError(f"{where}: expected {key} to be a positive whole number, found {spec.get(key)!r}.")
    if spec.get("type") != "sequence" or spec.get("source") != "item":
        raise ConfigError(f"{where}: expected type: sequence and source: item, as it is computed from the item table.")
    if spec.get("codes_of") and not spec.get("code_items"):
        return {"max_len": spec["num_levels"], "vocab_size": spec["num_levels"] * spec["codebook_size"] + 1}
    return {"max_len": spec["num_levels" if spec.get("codes_of") else "top_k"]}
