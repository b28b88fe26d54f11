"""Configurations of other years: FuxiCTR's old names, and keys that steered what is gone.

Public configurations were written for FuxiCTR 1.0 to 2.3. What a key of theirs is called today, and which keys have
nothing left to steer, stand in the tables here and nowhere else. A key that the model itself declares is the model's,
whatever it once was to FuxiCTR.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from qin_zoo.config.blocks import ExperimentParams
from qin_zoo.feature_types import has_item_table

_GONE = "FuxiCTR has no use for it any more"
_NEUTRAL = "without effect at this value"
_INFORMATION = "what it tells is known from feature_cols"
_AUXILIARY = "of an auxiliary loss that is switched off"


@dataclass(frozen=True)
class Former:
    """A key of former times.

    Attributes:
        name: what it is called now; None where it is left out.
        convert: its value to that of today; raises ValueError, which says why, where there is none.
        why: why it is left out.
    """

    name: str | None
    convert: Callable[[object], object] = lambda value: value
    why: str = ""


def translate(
    params: Mapping[str, object], declared: Collection[str], known: Collection[str]
) -> tuple[ExperimentParams, dict[str, str]]:
    """Puts old keys under their present names and leaves out those without effect.

    Args:
        params: parameters as written, and where.
        declared: parameters of the model's constructors.
        known: these, and the keys of a run.

    Returns:
        the parameters under their present names, with a note for every mapping and for every kind of omission, unknown
        keys as they were; and of old keys that were left as they were, why they mean nothing today.
    """
    done, refused = ExperimentParams(params, origin=getattr(params, "origin", None)), {}
    origin = dict(done.origin)
    left_out: dict[str, list[str]] = {}
    for key, value in params.items():
        former = _former(key, value, declared, known)
        if former is None:
            continue
        if former.name in _FIELDS and has_item_table(params):
            former = Former(None, why="the dataset's items stand in an item table, not in fields")
        try:
            now = former.convert(value)
        except ValueError as error:
            refused[key] = str(error)
            continue
        del done[key]
        written_at = done.origin.pop(key, None)
        given = former.name in params and former.name != key
        if former.name is None:
            left_out.setdefault(former.why, []).append(key)
        elif given and (written_at != "command line" or origin.get(former.name) == "command line"):
            left_out.setdefault(f"{former.name} is given too", []).append(key)
        else:
            done[former.name] = now
            if written_at:
                done.origin[former.name] = written_at
            if former.name != key:
                done.former[former.name] = key
            place = f" ({written_at})" if written_at else ""
            done.notes += (f"{key}: {_shown(value)} is taken as {former.name}: {_shown(now)}{place}.",)
    _translate_columns(done, left_out)
    done.notes += tuple(f"Left out: {', '.join(dict.fromkeys(keys))} ({why})." for why, keys in left_out.items())
    return done, refused


def _former(key: object, value: object, declared: Collection[str], known: Collection[str]) -> Former | None:
    if key in declared and key not in _VALUES:
        return None
    if key in _VALUES:
        applies, former = _VALUES[key]
        return former if applies(value) else None
    former = _KEYS.get(key) if isinstance(key, str) and key not in known else None
    # a model that does not read these fields has no use for them under another name
    return None if former and former.name in _FIELDS and former.name not in declared else former


def _translate_columns(done: ExperimentParams, left_out: dict[str, list[str]]) -> None:
    renamed: dict[tuple[str, str], list[str]] = {}
    for key in ("feature_cols", "feature_specs", "feature_config", "label_col"):
        columns = done.get(key)
        if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
            continue
        present = []
        for column in _split(columns):
            column = dict(column)
            for old in [k for k in column if k in _COLUMN_KEYS]:
                found = _COLUMN_KEYS[old](column)
                if found is None:
                    continue
                name, value = found
                written = column.pop(old)
                if name is None or name in column:
                    why = _NEUTRAL if name is None else f"{name} is given too"
                    left_out.setdefault(why, []).append(f"{old} in {key}")
                else:
                    column[name] = value
                    text = f"{old}: {_shown(written)} is taken as {name}: {_shown(value)}"
                    renamed.setdefault((key, text), []).append(_label(column))
            present.append(column)
        done[key] = present
    done.notes += tuple(f"{key}, {', '.join(names)}: {text}." for (key, text), names in renamed.items())


def _split(columns: list[dict]) -> list[dict]:
    """A list of types beside a list of names is a column for each name."""
    single = []
    for column in columns:
        names, dtypes = column.get("name"), column.get("dtype")
        if isinstance(names, list) and isinstance(dtypes, list) and len(names) == len(dtypes):
            single += [{**column, "name": name, "dtype": dtype} for name, dtype in zip(names, dtypes)]
        else:
            single.append(column)
    return single


def _label(column: dict) -> str:
    name = column.get("name")
    text = ", ".join(map(str, name)) if isinstance(name, list) else str(name)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


# ---- values


def _once_an_epoch(value: object) -> None:
    if value != 1 or isinstance(value, bool):
        raise ValueError(
            f"evaluations come once an epoch, or every eval_steps batches; for one every {_shown(value)} epochs give "
            "eval_steps, which is that many times training rows / batch_size"
        )


def _neutral(*values: object) -> Callable[[object], None]:
    def check(value: object) -> None:
        if not any(value == neutral and type(value) is type(neutral) for neutral in values):
            raise ValueError(f"FuxiCTR has it no more; without {_shown(value)} it is not the model of then")

    return check


def _only_one(value: list | tuple) -> object:
    if len(value) != 1:
        raise ValueError(f"a tuner's list, {_shown(value)}, of which a run needs one value: --set embedding_dim=…")
    return value[0]


def _without_lambda(value: str) -> str:
    """FuxiCTR 1.0's ``lambda w: nn.init.normal_(w, std=1e-4)``; what it says is checked like any initialiser."""
    match = re.fullmatch(r"lambda (\w+): ?((?:torch\.)?nn\.init\.\w+)\(\1(?:, ?([^()]*))?\)", value.strip())
    if not match:
        return value
    return f"partial({match[2]}, {match[3]})" if match[3] else match[2]


def _encoder(column: Mapping[str, object]) -> tuple[str | None, object]:
    """What ``encoder`` was to a column: how its numbers become ids, or the layer on its embedding."""
    written = column["encoder"]
    if written in ("numeric_bucket", "quantile_bucket", "hash_bucket"):
        return "category_processor", "hash_bucket" if written == "hash_bucket" else "quantile_bucket"
    if written in (None, "") and column.get("type") != "sequence":
        return None, None
    if written == "":
        written = None
    if isinstance(written, str) and re.fullmatch(r"\w+Pooling", written):
        written = f"layers.{written}()"
    return "feature_encoder", written


def _list_dtype(column: Mapping[str, object]) -> tuple[str, str] | None:
    """``list`` says that a file's values are lists already; FuxiCTR makes text of those that are ids."""
    if column["dtype"] != "list":
        return None
    return "dtype", "float" if column.get("type") == "embedding" else "str"


# ---- the tables

_FIELDS = ("target_field", "sequence_field")
_SEQUENCE_MODELS = ("bst", "din", "dien", "dmin", "dmr", "dsin", "eta", "sdim", "sim")
_EVALUATION = Former("eval_steps", _once_an_epoch)
_KEYS: dict[str, Former] = {
    "patience": Former("early_stop_patience"),
    "workers": Former("num_workers"),
    "every_x_epochs": _EVALUATION,
    "eval_interval": _EVALUATION,
    "eval_interval_epochs": _EVALUATION,
    **{f"{model}_{name}": Former(name) for model in _SEQUENCE_MODELS for name in _FIELDS},
    "target_item_field": Former("target_field"),
    "sequence_item_field": Former("sequence_field"),
    **dict.fromkeys(
        ("debug", "partition_block_size", "pickle_feature_encoder", "use_hdf5", "version"), Former(None, why=_GONE)
    ),
    "ordered_features": Former(None, _neutral(None), _NEUTRAL),
    "embedding_dropout": Former(None, _neutral(0, 0.0, None), _NEUTRAL),
    "item_info_fields": Former(None, why=_INFORMATION),
    **dict.fromkeys(
        ("aux_activation", "aux_hidden_units", "dien_neg_seq_field", "neg_seq_field"), Former(None, why=_AUXILIARY)
    ),
    **dict.fromkeys(
        ("aux_loss_alpha", "aux_loss_beta", "aux_loss_lambda"), Former(None, _neutral(0, 0.0, None), _AUXILIARY)
    ),
}
# Keys of today with values of former times: when they are meant, and what they became.
_VALUES: dict[str, tuple[Callable[[object], bool], Former]] = {
    "data_block_size": (lambda value: value == -1, Former("data_block_size", lambda value: 0)),
    "embedding_dim": (lambda value: isinstance(value, (list, tuple)), Former("embedding_dim", _only_one)),
    "embedding_initializer": (
        lambda value: isinstance(value, str) and value.strip().startswith("lambda "),
        Former("embedding_initializer", _without_lambda),
    ),
}
# Key of a column -> its present key and value, from the whole column; None where it is as it should be.
_COLUMN_KEYS: dict[str, Callable[[Mapping[str, object]], tuple[str | None, object] | None]] = {
    "encoder": _encoder,
    "category_encoder": lambda column: ("category_processor", column["category_encoder"]),
    "dtype": _list_dtype,
}
