"""Recipes: sizes, rates and looks for a training, chosen from how many rows there are to learn from.

The configurations of papers belong to the data of papers. On a hundred thousand rows their models are best after the
first epoch and worse after each further one; these are sizes that did well on data of 0.1 to 4 million rows
(experiments/README.md has what they bought).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_STEPS = 800  # of an epoch, about
_BATCHES = (256, 4096)
_FEW = 300, 32  # of an epoch, and rows in a batch at least, where there are less than would fill such batches
_AT_LEAST = 1000, 150  # steps of a training, and of a wait for a gain
_TAUGHT = 100_000  # rows from which on a model learns by itself which categories are equal
_MANY = 1_000_000  # rows from which on a medium model is worth its time
# Hidden layers by the names that models give them, of a small and of a medium model.
_HIDDEN = {
    "dnn_hidden_units": ([128, 64], [256, 128]),
    "dcn_hidden_units": ([128, 64], [256, 128]),
    "parallel_dnn_hidden_units": ([64, 64, 64], [128, 128, 128]),
    "stacked_dnn_hidden_units": ([128, 64], [256, 128]),
    "hidden_units": ([128, 64], [256, 128]),
    "mlp_hidden_units": ([64], [64, 32]),
    "attention_hidden_units": ([32], [64]),
    "aux_hidden_units": ([64], [128, 64]),
    "dim_feedforward": (64, 128),
    "num_row": (2, 4),
}
_L2 = {"embedding_regularizer": 1e-3}  # tuning found 2e-4 to 3e-3; papers say 1e-5, and the default is none
_KINDS = {
    "small": {"embedding_dim": 16, "net_dropout": 0.2, **_L2},
    "medium": {"embedding_dim": 32, "net_dropout": 0.1, **_L2},
}
_TRAINING = {
    "learning_rate": 1e-3,
    "epochs": 10,
    "early_stop_patience": 3,  # looks
    "reduce_lr_on_plateau": True,
}


def recipe_for(rows: int) -> str:
    """The recipe for a training split of so many rows."""
    return "small" if rows < _MANY else "medium"


def steady(accepted: Collection[str], rows: int, has_items: bool) -> dict[str, Any]:
    """What carries a training of data of which nothing is known over where it stands still, besides a recipe, among the
    parameters that the model has ``accepted``.

    Without batch normalisation QIN stood still at an AUC of 0.70 on the sample, where with it two epochs bring 0.90; a
    learning rate that is cut to a tenth, FuxiCTR's default, stays there. Of few training rows with an item table it is
    counted what history and target have in common: they do not teach equality (DIN's test AUC of 7,200 rows 0.600 and
    0.683, of 80,000 0.741 and 0.751; of 150,000, which do, 0.729 and 0.730, QIN's 0.727 and 0.721).
    Averaged weights did better than the newest wherever both were tried (experiments/README.md).
    """
    known = {"batch_norm": True, **({"history_matches": True} if has_items and rows < _TAUGHT else {})}
    return {"factor": 0.5, "ema_decay": 0.999, **{key: value for key, value in known.items() if key in accepted}}


def recipe(name: str, rows: int, accepted: Collection[str], batch_size: int | None = None) -> dict[str, Any]:
    """The parameters of a recipe.

    Args:
        name: ``small`` or ``medium``; ``published`` has none.
        rows: of the training split.
        accepted: parameters that the model takes; of its sizes only those are given.
        batch_size: rows in a batch, where that is settled.

    Returns:
        batches of such a size that an epoch has about 800 of them (256 rows at least, 4096 at most), two looks at the
        validation rows in an epoch, a learning rate that is lowered where a look gains nothing, a penalty on embedding
        tables, and the model's sizes.
        Of less than 80,000 rows batches are smaller, and of a few thousand there are more epochs.
    """
    if name not in _KINDS:  # published: what the configuration says
        return {}
    size = batch_size or _batch_size(rows)
    steps = -(-rows // size)
    looks = max(1, steps // 2)
    epochs, patience = (-(-least // every) for least, every in zip(_AT_LEAST, (steps, looks)))
    chosen = {**_TRAINING, "batch_size": size, "eval_steps": looks}
    if steps < _FEW[0] // 2:  # a look tells little, and so does one without a gain
        chosen |= {"epochs": max(_TRAINING["epochs"], epochs), "reduce_lr_on_plateau": False}
        chosen |= {"early_stop_patience": max(_TRAINING["early_stop_patience"], patience)}
    of_model = {key: units[[*_KINDS].index(name)] for key, units in _HIDDEN.items()} | _KINDS[name]
    return chosen | {key: value for key, value in of_model.items() if key in accepted}


def _batch_size(rows: int) -> int:
    size = _FEW[1]
    while size < _BATCHES[0] and size * _FEW[0] < rows:
        size *= 2
    while _BATCHES[0] <= size < _BATCHES[1] and size * _STEPS < rows:
        size *= 2
    while rows > 1 and rows % size == 1:  # batch norm cannot take a batch of one row
        size += 1
    return size


def with_recipe(params: Mapping[str, Any], rows: int, accepted: Collection[str], origin: Mapping[str, str]):
    """A recipe's parameters that take the place of what was written farther away than the recipe.

    One on the command line goes before whatever the files say; one in an experiment's block before ``Base`` and before
    defaults: ``origin`` says where each of ``params``, which name the recipe, was written. It is chosen for so many
    training ``rows``, among the parameters that the model has ``accepted``.
    """
    near = _nearness(origin.get("recipe", ""))
    settled = {key for key in params if _nearness(origin.get(key, "")) >= near}
    batch_size = params["batch_size"] if "batch_size" in settled else None
    chosen = recipe(params["recipe"], rows, accepted, batch_size)
    return {key: value for key, value in chosen.items() if key not in settled}


def _nearness(origin: str) -> int:
    if not origin:
        return 0  # a default
    return 3 if origin == "command line" else 1 if origin.endswith(", Base") else 2
