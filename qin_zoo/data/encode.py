"""Raw csv and parquet files of named fields, encoded once: ids, scaled numbers, and the feature map to read them with.

What FuxiCTR's preprocessing does, with its vocabularies and its ``feature_map.json``, streamed through polars. The
result lies in ``<data_root>/<dataset_id>/encoded-<key>/``, or where ``$QIN_ZOO_CACHE`` says; the key follows the
configuration and what the file system knows of the sources (see ``cache.py``), so it is used again until one of them
changes, or one of its own files. The folder appears in one step, complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data import SPLITS, cache
from qin_zoo.data.feature_map import FeatureMap
from qin_zoo.data.preprocess import Wrong, as_number, expanded, given_fill, is_given, number_or
from qin_zoo.data.raw_fields import RawField, raw_fields
from qin_zoo.data.raw_files import RawFile, collected, raw_files, read_vectors, reading, split_off, write_vectors
from qin_zoo.data.reports import cut, never_split, say, spaced, unequal, unknown
from qin_zoo.data.rows import row_kinds, weight_kind
from qin_zoo.data.sources import at, check_file
from qin_zoo.data.specs import label_names
from qin_zoo.data.stored import Progress
from qin_zoo.data.vocabulary import FittedEncoder, Vocabulary
from qin_zoo.errors import ConfigError, DataError
from qin_zoo.feature_types import has_table
from qin_zoo.files import read_object

_log = logging.getLogger(__name__)
_FORMAT = 7  # raise it whenever what is written changes
ENCODER_FILE = "encoder.json"
_SIZES = ("valid_size", "test_size")
_READ = (
    "dataset_id", "feature_cols", "label_col", "min_categr_count", "num_buckets", "sep", "n_rows", "group_id", *_SIZES,
)  # fmt: skip
_NOTHING = FittedEncoder({}, {}, {}, {})


def encode_fields(params: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Any]:
    """Encodes the raw files of a dataset of named fields, unless that was done before.

    Args:
        params: FuxiCTR's: ``dataset_id``, ``data_root``, ``data_format`` (csv or parquet), ``train_data``,
            ``valid_data``, ``test_data`` (a file, or a folder of them), ``feature_cols``, ``label_col``,
            ``min_categr_count``, ``num_buckets``, ``sep``, ``n_rows``, ``group_id``, ``rebuild_dataset``;
            ``valid_size``, ``test_size``, ``split_type``, ``seed``: see :func:`~qin_zoo.data.raw_files.split_off`;
            ``encoder_file``: what was fitted to the training rows of a run, to be used instead of fitting it anew (what
            it knows nothing of is fitted, and said);
            ``grow_vocabularies``: with values of these training rows that it does not know behind those that it does.
        progress: called with (split, rows done, rows in all).

    Returns:
        the parameters with ``train_data``, ``valid_data``, ``test_data`` and ``feature_map_json`` naming encoded
        files; the same parameters where the files are encoded already.

    Raises:
        ConfigError: a configuration that cannot be used.
        DataError: a file, column or value that cannot be used; a folder that cannot be written.
    """
    if not is_raw(params):
        _tell_doubtful(params)
        return dict(params)
    entries, splits = _entries(params)
    entry = _complete(entries)
    if entry is None:
        with cache.workspace(entries) as (work, entry):
            report = _encode(params, splits, work, progress or (lambda *_: None))
            if _entries(params)[0] != entries:
                raise DataError(f"{params['train_data']}: the data changed while it was read. Run again.")
            named = {name: params["train_data" if params.get(f"{name}_size") else f"{name}_data"] for name in splits}
            files = {file.name: cache.stamp(file) for file in work.iterdir()}
            about = {"sources": {name: str(path) for name, path in named.items()}, "files": files, "report": report}
            cache.write_json(work / "sources.json", about)
            if entry.exists():  # its files changed
                shutil.rmtree(entry, ignore_errors=True)
            cache.publish(work, entry)
        cache.remove_outdated(entry)
    say(read_object(entry / "sources.json")["report"], params)
    return _encoded(params, entry, splits)


def encoder_file(params: Mapping[str, Any]) -> Path | None:
    """Where what was fitted to the training rows stands, by what :func:`encode_fields` returned; None of ids."""
    feature_map = params.get("feature_map_json")
    file = Path(feature_map).with_name(ENCODER_FILE) if feature_map else None
    return file if file is not None and file.is_file() else None


def find_encoded(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`encode_fields` would return, if it need not encode anything; None if it must."""
    if not is_raw(params):
        return dict(params)
    entries, splits = _entries(params)
    entry = _complete(entries)
    return _encoded(params, entry, splits) if entry else None


def raw_descriptions(params: Mapping[str, Any]) -> tuple[dict[str, dict], dict[str, dict[str, int]]]:
    """How the raw values of a dataset, whether encoded already or not, became ids and scaled numbers.

    Returns:
        feature -> ``RawField.described``, and feature -> word -> id; both empty where the files held ids already.
    """
    feature_map = Path((find_encoded(params) or {}).get("feature_map_json") or "")
    described = read_object(feature_map.with_name("raw_fields.json")) if feature_map.name else {}
    return described, read_object(feature_map.with_name("feature_vocab.json")) if described else {}


def is_raw(params: Mapping[str, Any]) -> bool:
    """Whether the data files hold values as they were collected, not ids."""
    path, kind = Path(str(params.get("train_data") or "")), _kind(params)
    if kind not in ("csv", "parquet") or not params.get("feature_cols"):
        return False
    rebuild = params.get("rebuild_dataset")
    known = Path(params.get("feature_map_json") or _folder(params) / "feature_map.json").is_file()
    if kind == "csv":
        return not (rebuild is False and known and path.suffix.lower() != ".csv")
    return bool(rebuild) or (rebuild is None and not known)


def raw_rows(params: Mapping[str, Any]) -> int:
    """Number of training rows in raw files."""
    kind = _kind(params)
    return sum(RawFile(file, kind, params).num_rows for file in raw_files(Path(params["train_data"]), kind))


def _folder(params: Mapping[str, Any]) -> Path:
    return Path(params.get("data_root") or "./data/") / str(params.get("dataset_id"))


def _tell_doubtful(params: Mapping[str, Any]) -> None:
    """Warns where only a feature map says that a parquet file is encoded, and it does not lie beside that."""
    folder, file = _folder(params), Path(str(params.get("train_data") or ""))
    said = any(params.get(key) is not None for key in ("rebuild_dataset", "feature_map_json"))
    if said or not params.get("feature_cols") or _kind(params) != "parquet":
        return
    if not file.resolve().is_relative_to(folder.resolve()):
        _log.warning(
            "%s is taken for encoded, its values for ids, because there is a %s. If they are the values as they were "
            "collected, set rebuild_dataset: True; if not, rebuild_dataset: False.",
            file, folder / "feature_map.json",
        )  # fmt: skip


def _entries(params: Mapping[str, Any]) -> tuple[list[Path], dict[str, list[Path]]]:
    """Folders for the encoded files, best first; the raw files of each split, none of one split off train_data."""
    if not params.get("train_data"):
        raise ConfigError(f"dataset '{params.get('dataset_id')}': expected train_data, the file of training rows.")
    splits = {name: [] for name in SPLITS if params.get(f"{name}_size")}
    splits |= {
        name: raw_files(Path(params[f"{name}_data"]), _kind(params))
        for name in SPLITS
        if name not in splits and params.get(f"{name}_data")
    }
    files = [file for files in splits.values() for file in files]
    read = [_FORMAT, _kind(params), *(params.get(key) for key in _READ)]
    histories = [name for name, field in raw_fields(params).items() if field.differs_from_fuxictr]
    read += [histories] if histories else []
    read += [params["sample_weight"]] if params.get("sample_weight") else []
    encoder = _fitted_before(params)
    if encoder is not None:
        read += [encoder.as_json(), *(["grown"] if params.get("grow_vocabularies") else [])]
    if any(params.get(key) for key in _SIZES):
        read += [params.get(key) for key in ("split_type", "seed")]
    read += [{name: [str(file.resolve()) for file in files] for name, files in splits.items()}]
    sources = [cache.source_key(file) for file in [*files, *_vector_files(params)]]
    folder, name = _folder(params), f"encoded-{_key(read)}-{_key(sources)}"
    return [root / name for root in cache.roots(folder, folder)], splits


def _fitted_before(params: Mapping[str, Any]) -> FittedEncoder | None:
    """What a run has kept, where that is to be used."""
    return FittedEncoder.read(Path(params["encoder_file"])) if params.get("encoder_file") else None


def _vector_files(params: Mapping[str, Any]) -> list[Path]:
    files = [Path(c["pretrained_emb"]) for c in expanded(params["feature_cols"]) if c.get("pretrained_emb")]
    for file in files:
        check_file(file)
    return list(dict.fromkeys(files))


def _key(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, default=str).encode(), digest_size=6).hexdigest()


def _kind(params: Mapping[str, Any]) -> str:
    return str(params.get("data_format") or Path(str(params.get("train_data") or "")).suffix[1:].lower())


def _complete(entries: list[Path]) -> Path | None:
    """The folder in which everything is as it was written."""
    for entry in entries:
        about = read_object(entry / "sources.json")
        with contextlib.suppress(OSError):
            if about and all(cache.stamp(entry / name) == stamp for name, stamp in about["files"].items()):
                return entry
    return None


def _encoded(params: Mapping[str, Any], entry: Path, splits: Iterable[str]) -> dict[str, Any]:
    paths = {f"{name}_data": str(entry / f"{name}.parquet") for name in splits}
    changed = params.copy() if isinstance(params, dict) else dict(params)
    changed.update(
        paths, feature_map_json=str(entry / "feature_map.json"), data_format="parquet", rebuild_dataset=False
    )
    return changed


def _encode(
    params: Mapping[str, Any], splits: Mapping[str, list[Path]], work: Path, progress: Progress
) -> dict[str, Any]:
    """Writes everything into a folder; returns what :func:`~qin_zoo.data.reports.say` is to say of it."""
    fields, labels = raw_fields(params), _labels(params)
    weight = weight_kind(params.get("sample_weight"), "train", fields, list(labels))
    labels |= {name: (None, kind) for name, kind in weight.items()}
    if both := [name for name in labels if name in fields]:
        raise ConfigError(
            f"dataset '{params['dataset_id']}': '{both[0]}' is the label and a feature too; the model would see its "
            "answer. Take it out of feature_cols."
        )
    raw = {name: [RawFile(file, _kind(params), params) for file in files] for name, files in splits.items()}
    raw = split_off(raw, params)
    first = raw["train"][0]
    for name in fields:
        first.require(name)
    fields = {name: field.as_made(first.schema[name]) for name, field in fields.items()}
    each = {file.path: file for files in raw.values() for file in files}.values()
    report: dict[str, Any] = {"texts": [text for file in each if (text := file.short_lines())]}
    widths, rows, labelled = _widths(fields, first), {}, {}
    for split, files in raw.items():
        labelled[split] = [
            name
            for name in labels
            if (split == "train" if name in weight else split != "test" or _has_label(files, name, labels[name][1]))
        ]
        needed = {name: labels[name] for name in labelled[split]}
        rows[split] = sum(_checked(file, fields, needed, widths, params.get("group_id")) for file in files)
    _check_units(fields, raw)
    report |= {"parallel": unequal(fields, raw), "cut": {}}
    parsed, names = work / "parsed", [*fields, *labels]
    parsed.mkdir()
    raw = {
        split: [file.parsed(parsed / f"{split}-{n}.parquet", names) for n, file in enumerate(files)]
        for split, files in raw.items()
    }
    vocabularies, owner_of, usual, report["apart"] = _vocabularies(fields, raw)
    report["texts"] += spaced(vocabularies) + never_split(fields, raw["train"])
    if before := _fitted_before(params):
        before.require(fields)
        grow = params.get("grow_vocabularies")
        vocabularies |= {
            name: v.extended(vocabularies[name].words) if grow else v
            for name, v in before.vocabularies.items()
            if name in vocabularies
        }
    vocabularies, vectors = _with_vectors(fields, vocabularies, owner_of, work, bool(before))
    fitted = _statistics(fields, raw["train"], before or _NOTHING)
    report["cut"] = cut(fields, raw, fitted.lengths)
    report["unknown"], vocabularies = unknown(fields, raw, vocabularies, {} if before else usual)
    own = {name: v for name, v in vocabularies.items() if owner_of[name] == name and fields[name].type != "meta"}
    fitted = replace(fitted, vocabularies=own)
    report["fitted"] = [name for name in fitted.names() if name not in before.names()] if before else []
    cache.write_json(work / ENCODER_FILE, fitted.as_json())

    def columns(file: RawFile, split: str) -> pl.LazyFrame:
        out = []
        for name, field in fields.items():
            stored = file.schema[name]
            if field.form == "number":
                shift, scale = fitted.scales.get(name, (0.0, 1.0))
                value = ((field.numbers(stored) - shift) / scale).cast(pl.Float32)
            elif field.form == "vector":
                value = field.filled(stored, widths[name]).cast(pl.List(pl.Float32))
            elif field.processor:
                value = field.bucket(stored, fitted.boundaries.get(name))
            else:
                value = field.ids(stored, vocabularies.get(name), fitted.lengths.get(name, 0))
            out.append(value.alias(name))
        return file.frame.select(*out, *(_label(file, name, labels[name][0]).alias(name) for name in labelled[split]))

    for split, files in raw.items():
        progress(f"{split} (encoding)", 0, rows[split])
        frame = pl.concat([columns(file, split) for file in files])
        target = work / f"{split}.parquet"
        reading(files[0].path, lambda frame=frame, target=target: frame.sink_parquet(target))
        progress(f"{split} (encoding)", rows[split], rows[split])
    shutil.rmtree(parsed)
    _write_maps(params, fields, vocabularies, fitted.lengths, {**widths, **vectors}, work)
    described = {
        name: field.described(*fitted.scales.get(name, (0.0, 1.0)), fitted.boundaries.get(name), first.made.get(name))
        for name, field in fields.items()
    }
    for name, vocabulary in vocabularies.items():
        described[name] |= vocabulary.told_apart
    cache.write_json(work / "raw_fields.json", described)
    _log.info("Encoded %s into %s", ", ".join(f"{count} {split} rows" for split, count in rows.items()), work.parent)
    return report


def _checked(
    file: RawFile, fields: Mapping[str, RawField], labels: Mapping[str, Any], widths: Mapping, group_id: str | None
) -> int:
    for name in (*fields, *labels):
        file.require(name)
    for name in labels:
        _require_numbers(file, name)
    wrong = []
    for name, field in fields.items():
        if not field.takes(file.schema[name]):
            raise DataError(
                f"{at(file.path, name)}: expected one value in each row, or a list of them for a sequence or an "
                f"embedding, found the type {file.schema[name]}. Write what the feature is as a column of its own."
            )
        found, missing = field.wrong(file.schema[name], widths.get(name)), field.missing(file.schema[name])
        if name == group_id and given_fill(field.column) is None:
            missing = ~is_given(pl.col(name), file.schema[name])  # all such rows would be one large group
            found = (found[0] | missing if found else missing), "the group that the row is of"
        wrong += [Wrong(name, *found, name, missing)] if found else []
    return file.check([*wrong, *(_wrong_label(file, name, *label) for name, label in labels.items())])


def _check_units(fields: Mapping[str, RawField], raw: Mapping[str, list[RawFile]]) -> None:
    """Raises DataError where a column of times, or of time spans, counts other units in one file than in another."""
    first, *others = (file for files in raw.values() for file in files)
    for name, file in ((name, file) for name in fields for file in others):
        one, other = first.schema[name], file.schema[name]
        if (one.is_temporal() or other.is_temporal()) and _unit(one) != _unit(other):
            raise DataError(
                f"{at(file.path, name)}: expected the type {one}, as in {first.path}, found {other}: equal times would "
                "be other values. Write the column in both as the same type."
            )


def _unit(stored: pl.DataType) -> tuple[type[pl.DataType], str | None]:
    return stored.base_type(), getattr(stored, "time_unit", None)


def _labels(params: Mapping[str, Any]) -> dict[str, tuple[float | None, str]]:
    """Label -> what stands for a missing one, None for nothing, and its kind."""
    names, columns = label_names(params), params["label_col"]
    kinds = row_kinds({}, names, params.get("task") or "binary_classification")
    columns = columns if isinstance(columns, list) else [columns]
    return {name: (given_fill(column), kinds[name]) for name, column in zip(names, columns)}


def _label(file: RawFile, name: str, fill: float | None) -> pl.Expr:
    column, stored = pl.col(name), file.schema[name]
    return as_number(column, stored, pl.Float64) if fill is None else number_or(column, stored, float(fill))


def _wrong_label(file: RawFile, name: str, fill: float | None, kind: str) -> Wrong:
    number, column = _label(file, name, fill), pl.col(name)
    good = number.cast(pl.Float32).is_finite()
    missing = ~is_given(column, file.schema[name]) | number.is_nan()
    if kind == "label":
        good, expected = number.is_in([0, 1]), "a label, 0 or 1 (map clicks to these)"
    elif kind == "float":
        good, expected, missing = good & (number >= 0), "what the row counts (sample_weight), from 0 on", None
    else:
        expected = "a finite number as label"
    return Wrong(name, ~good.fill_null(False), expected, name, missing)


def _require_numbers(file: RawFile, name: str) -> None:
    if not (file.schema[name] == pl.String or file.schema[name].is_numeric() or file.schema[name] == pl.Boolean):
        raise DataError(f"{at(file.path, name)}: expected numbers as labels, found the type {file.schema[name]}.")


def _has_label(files: list[RawFile], name: str, kind: str) -> bool:
    """Whether a test split has the label: not if no file has the column, it is empty throughout, or says nothing."""
    seen: set[tuple[bool, float | None]] = set()
    for file in files:
        if name not in file.schema:
            return False
        if file.schema[name] != pl.Null:
            _require_numbers(file, name)
            given, label = is_given(pl.col(name), file.schema[name]), _label(file, name, None)
            seen.update(file.collect(file.frame.select(given.alias("given"), label.alias("label")).unique()).rows())
    values = {label for given, label in seen if given}
    if kind == "label" and len(seen) == len(values) == 1 and values.isdisjoint({None, 0, 1}):
        _log.warning("%s: the label holds one value other than 0 and 1; taken as absent", at(files[0].path, name))
        return False
    return bool(values)


def _widths(fields: Mapping[str, RawField], file: RawFile) -> dict[str, int]:
    """The length of every embedding's vectors, as configured or as in the first row that has one."""
    widths = {}
    for name, field in fields.items():
        if field.form == "vector":
            file.require(name)
            length = field.vectors(file.schema[name]).list.len().alias("n")
            known = file.collect(file.frame.select(length).filter(pl.col("n") > 0).head(1))["n"]
            widths[name] = field.column.get("pretrain_dim") or (known[0] if len(known) else 1)
    return widths


def _vocabularies(
    fields: Mapping[str, RawField], raw: Mapping[str, list[RawFile]]
) -> tuple[dict[str, Vocabulary], dict[str, str], dict[str, float], list[tuple[str, str]]]:
    """Of the training rows; of meta features, such as group ids, of all rows.

    Returns:
        owner -> vocabulary; field -> owner; field -> share of its training values that are rare; fields
        that share a vocabulary but have no value in common with it.
    """
    vocabularies, owner_of, usual, apart = {}, {}, {}, []
    for name, field in fields.items():
        if not field.has_vocabulary:
            continue
        files = [file for files in raw.values() for file in files] if field.type == "meta" else raw["train"]
        parts = [
            file.frame.select(field.words(file.schema[name]).alias("value")).with_columns(file=pl.lit(n))
            for n, file in enumerate(files)
        ]
        counts = collected(files[0].path, pl.concat(parts).group_by("value", "file").len("count"))
        vocabulary, usual[name] = field.vocabulary(counts)
        shared = field.column.get("share_embedding")
        owner = owner_of[name] = owner_of[shared] if shared else name
        words = vocabularies[owner].words if shared else vocabulary.words
        if len(words) and len(vocabulary.words) and shared and not vocabularies[owner].has(vocabulary.words).any():
            apart.append((name, owner))
        vocabularies[owner] = vocabularies[owner].merged(vocabulary) if shared else vocabulary
    return vocabularies, owner_of, usual, apart


def _with_vectors(
    fields: Mapping[str, RawField], found: dict[str, Vocabulary], owner_of: Mapping[str, str], work: Path, fixed: bool
) -> tuple[dict[str, Vocabulary], dict[str, tuple[str, int]]]:
    """The vocabulary of every field that has one, and of ``pretrained_emb`` the file written and its vectors' length.

    As in FuxiCTR, a value that only the file of vectors knows has an id too, behind the unknown; but not one that came
    after the vocabularies were ``fixed``.
    """
    vectors: dict[str, tuple[str, int]] = {}
    written: dict[tuple[str, str], tuple[pl.Series, np.ndarray]] = {}
    for name, field in fields.items():
        if file := field.column.get("pretrained_emb"):
            dtype = "str" if field.form == "ids" else field.dtype
            if (file, dtype) not in written:
                written[file, dtype] = read_vectors(Path(file), dtype)
            keys, values = written[file, dtype]
            keys = found[owner_of[name]].as_words(keys)
            _require_vectors(field, Path(file), found[owner_of[name]], keys, values)
            target = work / f"pretrained_{len(vectors)}.npz"
            write_vectors(target, keys, values)
            vectors[name] = target.name, values.shape[1]
            if not fixed:
                found[owner_of[name]] = found[owner_of[name]].extended(keys)
    return {name: found[owner] for name, owner in owner_of.items()}, vectors


def _require_vectors(
    field: RawField, file: Path, vocabulary: Vocabulary, keys: pl.Series, values: np.ndarray
) -> None:
    """Raises DataError where the file has vectors of other values only, two of one value, or of another length."""
    name, width = field.name, field.column.get("pretrain_dim")
    if width and width != values.shape[1]:
        raise DataError(
            f"{file}: expected vectors of {width} numbers (pretrain_dim of feature '{name}'), found {values.shape[1]}. "
            "Correct pretrain_dim, or leave it out."
        )
    several = keys.is_duplicated()
    different = pl.DataFrame(values[several.to_numpy()]).with_columns(keys.filter(several).alias("key")).unique()
    if len(again := different.filter(different["key"].is_duplicated())):
        raise DataError(f"{file}: expected one vector of {again['key'][0]!r}, found several. Keep one of them.")
    known = int(vocabulary.words.is_in(keys.implode()).sum())
    if not known and len(vocabulary.words):
        raise DataError(
            f"{file}: expected vectors of the values of feature '{name}', such as {vocabulary.words[0]!r}, found none: "
            f"its keys are others, such as {keys[0]!r}. Write them as the training rows have them."
        )
    level = logging.WARNING if known < len(vocabulary.words) else logging.INFO
    _log.log(level, "%s has vectors of %d of the %d values of feature '%s'", file, known, len(vocabulary.words), name)


def _statistics(fields: Mapping[str, RawField], files: list[RawFile], known: FittedEncoder) -> FittedEncoder:
    """What is to be known of training files but for vocabularies, and is not known already."""
    lengths = {name: field.column.get("max_len") or 0 for name, field in fields.items() if field.form == "ids"}
    lengths |= known.lengths
    scales, boundaries = dict(known.scales), dict(known.boundaries)
    x = pl.col("x")

    def column(name: str, part: Callable[[pl.DataType], pl.Expr]) -> pl.LazyFrame:
        return pl.concat([file.frame.select(part(file.schema[name]).alias("x")) for file in files])

    for name, field in fields.items():
        normalizer = field.column.get("normalizer") if field.form == "number" else None
        if lengths.get(name) == 0:
            longest = collected(files[0].path, column(name, field.tokens).select(x.list.len().max())).item()
            lengths[name] = max(1, longest or 0)
        elif normalizer and name not in scales:
            figures = x.min().alias("low"), x.max().alias("high"), x.mean().alias("mean"), x.std(ddof=0).alias("std")
            low, high, mean, std = collected(files[0].path, column(name, field.numbers).select(figures)).row(0)
            shift, scale = (mean, std) if normalizer == "StandardScaler" else (low, high - low)
            scales[name] = (shift, scale or 1.0)
        elif field.processor == "quantile_bucket" and name not in boundaries:
            numbers = collected(files[0].path, column(name, field.numbers))["x"]
            boundaries[name] = field.boundaries(numbers.to_numpy())
    return FittedEncoder({}, lengths, scales, boundaries)


def _write_maps(
    params: Mapping[str, Any],
    fields: Mapping[str, RawField],
    vocabularies: Mapping[str, Vocabulary],
    lengths: Mapping[str, int],
    widths: Mapping[str, Any],
    work: Path,
) -> None:
    """``feature_map.json`` and ``feature_vocab.json``, as FuxiCTR writes them."""
    feature_map = FeatureMap(params["dataset_id"], str(work))
    feature_map.labels = label_names(params)
    for name, field in fields.items():
        spec = feature_map.features[name] = field.spec()
        if field.form == "vector":
            spec["pretrain_dim"] = widths[name]
        if name in vocabularies and has_table(field.column):
            spec |= {"padding_idx": 0, **({"max_len": lengths[name]} if name in lengths else {})}
            spec["vocab_size"] = vocabularies[name].size
        if field.column.get("pretrained_emb"):
            spec["pretrained_emb"], spec["pretrain_dim"] = widths[name]
            spec["freeze_emb"] = field.column.get("freeze_emb", True)
            spec["pretrain_usage"] = field.column.get("pretrain_usage", "init")
            spec["oov_idx"] = vocabularies[name].oov
        if has_table(field.column):
            feature_map.total_features += 0 if "share_embedding" in spec else spec["vocab_size"]
        feature_map.total_features += field.form == "number"
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    feature_map.save(str(work / "feature_map.json"))
    named = {
        name: vocabulary.as_dict(fields[name].dtype)
        for name, vocabulary in vocabularies.items()
        if has_table(fields[name].column)
    }
    (work / "feature_vocab.json").write_text(json.dumps(named, indent=4, ensure_ascii=False), encoding="utf-8")
