"""One trained experiment to one file that ``qin_zoo.serving`` scores: what `qin-zoo export` does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qin_zoo.batch import ItemBatch
from qin_zoo.calibration import step_from_dict
from qin_zoo.data.dataset import SPLITS, Dataset, has_item_table
from qin_zoo.data.item_names import ID_FILE, original_ids
from qin_zoo.errors import ConfigError, QinZooError, first_line, suggest
from qin_zoo.export.item_table import Catalogue, update_items
from qin_zoo.export.manifest import describe, make_manifest
from qin_zoo.export.onnx import to_onnx
from qin_zoo.export.plain import Doubts, PlainModel, plain_scores
from qin_zoo.export.request import RequestModel
from qin_zoo.files import replace_file
from qin_zoo.fuxi import BaseModel
from qin_zoo.metrics import evaluate_metrics
from qin_zoo.models import ZooModel
from qin_zoo.serving.bundle import seal
from qin_zoo.serving.scorer import Scorer
from qin_zoo.training.prepare import Prepared, load_trained

TABLES = ("fp32", "fp16", "int8")
_LARGEST_DIFFERENCE = 1e-4  # float32 rounding stays far below; more is another model
_REQUESTS = 24  # that every export is checked with


@dataclass(frozen=True)
class Exported:
    """What :func:`export_run` wrote.

    Attributes:
        path: the file; a copy of its manifest stands beside it as ``.json``.
        manifest: its manifest.
        difference: largest difference of a score from the trained model's, on random requests, in float32.
        auc: AUC of the valid split with the float32 item table and with the compressed one; None for ``fp32``.
    """

    path: Path
    manifest: dict
    difference: float
    auc: tuple[float, float] | None = None


def export_run(
    prepared: Prepared,
    out: Path,
    *,
    checkpoint: Path | None = None,
    table: str = "fp32",
    items: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Exported:
    """Exports a trained experiment.

    Args:
        prepared: the experiment.
        out: file to write, ``NAME.onnx``; or a folder, for ``<expid>.onnx`` in it.
        checkpoint: weights. Default: the experiment's own.
        table: how item representations are kept: ``fp32``, ``fp16`` or ``int8``.
        items: parquet file with catalogue rows to add or replace.
        echo: receives what a person wants to see.

    Raises:
        QinZooError: the experiment cannot be exported; nothing is written then.
    """
    if table not in TABLES:
        raise ConfigError(f"--table: expected {', '.join(TABLES)}, found {table!r}.{suggest(table, TABLES)}")
    _require_item_table(prepared)
    checkpoint = Path(checkpoint or prepared.files.checkpoint)
    dataset = prepared.open_dataset()
    model = load_trained(prepared, dataset, checkpoint)
    return export_model(prepared, dataset, model, checkpoint, Path(out), table, items, echo)


def export_model(
    prepared: Prepared,
    dataset: Dataset,
    model: BaseModel,
    checkpoint: Path,
    out: Path,
    table: str = "fp32",
    new_items: Path | None = None,
    echo: Callable[[str], None] = print,
) -> Exported:
    """The same with a model at hand, on the CPU and in evaluation mode."""
    out = out if out.suffix == ".onnx" else out / f"{prepared.expid}.onnx"
    loader = dataset.loader(next(split for split in SPLITS if dataset.has(split)), shuffle=False)
    learnt, catalogue = loader.items, Catalogue(loader.items)
    index = "item_index" if prepared.params.get("user_info") else "item_id"
    if new_items is not None:
        catalogue = update_items(learnt, dataset.feature_map.features, new_items, index)
        echo(f"{new_items}: {catalogue.replaced:,} items replaced, {catalogue.added:,} added")
    request = _request(model, learnt, catalogue.items, loader.histories.max_len, table)
    described = describe(request, catalogue.items, loader.histories.max_len)
    described["items"] |= {"learnt": len(next(iter(learnt.values()))), "table": "fp32"}
    if (ids := _original_ids(dataset.folder, len(request.table), new_items)) is not None:
        described["items"]["original_ids"] = ids
    manifest = make_manifest(prepared, described, checkpoint, dataset.fingerprints())
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "fp32.onnx"
        graph = to_onnx(request, *request.tracing(catalogue.items))
        data, manifest = _sealed(graph, manifest, plain)
        with Doubts() as doubts:
            difference = _check(model, catalogue, plain, manifest)
        auc = None
        if difference > _LARGEST_DIFFERENCE and not manifest["inputs"]["history"]["padded"]:
            manifest["inputs"]["history"]["padded"] = True  # a model of somebody's that sees padding without saying so
            data, manifest = _sealed(graph, manifest, plain)
            difference = _check(model, catalogue, plain, manifest)
        if not difference <= _LARGEST_DIFFERENCE:
            ours = "A layer computes something else on a SharedHistory, or in its folded() form."
            raise QinZooError(
                f"{type(model).__name__}: exported scores differ from the model's by {difference:.1e} on random "
                f"requests, expected at most {_LARGEST_DIFFERENCE:.0e}. "
                + (ours if isinstance(model, ZooModel) else doubts.words(model))
            )
        if table != "fp32":
            request.compress(table)
            manifest["items"]["table"] = table
            compressed = Path(folder) / "compressed.onnx"
            graph = to_onnx(request, *request.tracing(catalogue.items))
            data, manifest = _sealed(graph, manifest, compressed)
            auc = _compare(dataset, plain, compressed)
            if auc is not None:
                manifest["items"]["valid_auc"] = {"fp32": auc[0], table: auc[1]}
                data, manifest = _sealed(graph, manifest, compressed)
    with replace_file(out) as temporary:
        temporary.write_bytes(data)
    with replace_file(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    echo(
        f"{out}: {len(data) / 2**20:.1f} MiB, {len(request.table):,} items; scores differ from the trained model's by "
        f"at most {difference:.1e} on random requests"
        + (f"; calibrated: {manifest['calibration']['method']}" if manifest["calibration"] else "")
    )
    if auc is not None:
        echo(f"valid AUC {auc[0]:.6f} with fp32 items, {auc[1]:.6f} with {table}: {auc[1] - auc[0]:+.6f}")
    return Exported(out, manifest, difference, auc)


def _request(model: BaseModel, learnt: dict, items: dict, max_len: int, table: str) -> RequestModel | PlainModel:
    """The model in the form of a request: folded where it is one of the zoo, else as it is."""
    if isinstance(model, ZooModel):
        return RequestModel(model, learnt, items)
    if table != "fp32":
        raise ConfigError(
            f"--table {table}: {type(model).__name__} is no ZooModel, so its export holds the items' features, which "
            "it embeds anew for every request, and no representations that could be kept in fewer bytes. Leave it out."
        )
    return PlainModel(model, items, max_len)


def _require_item_table(prepared: Prepared) -> None:
    if not has_item_table(prepared.params):
        raise ConfigError(
            f"{prepared.expid} reads FuxiCTR's named fields (target_field, sequence_field), whose items stand in no "
            "table: only datasets with an item table (item_info) can be exported. `qin-zoo data import` makes one."
        )


def _sealed(graph: bytes, manifest: dict, path: Path) -> tuple[bytes, dict]:
    data, manifest = seal(graph, manifest)
    path.write_bytes(data)
    return data, manifest


def _original_ids(folder: Path, count: int, new_items: Path | None) -> list | None:
    """The ids that an import gave numbers to, by number; new items bring theirs in a column ``original_id``."""
    ids = original_ids(folder / ID_FILE)
    if not ids:
        return None
    if new_items is not None:
        ids |= original_ids(new_items)
    return [None, *(ids.get(number) for number in range(1, count))]


# ---- checks


def _check(model: BaseModel, catalogue: Catalogue, path: Path, manifest: dict) -> float:
    """The largest difference between exported and trained scores on random requests, odd ones included."""
    scorer, g = Scorer(path), np.random.default_rng(0)
    step = manifest["calibration"] and step_from_dict(manifest["calibration"])
    max_len, count = manifest["inputs"]["history"]["max_len"], scorer.items
    worst = 0.0
    for number in range(_REQUESTS):
        length = (0, max_len, 1)[number] if number < 3 else int(g.integers(0, max_len + 1))
        rows = 1 if number % 4 == 0 else int(g.integers(2, 30))
        history = g.integers(min(1, count - 1), count, min(length, max_len))
        candidates = g.integers(0, count, rows)
        context = {found["name"]: random_column(found, rows, g) for found in scorer.inputs}
        expected = trained_scores(model, catalogue.items, history, candidates, context, max_len)
        expected = expected if step is None else step(expected)
        try:
            found = scorer.score(history, candidates, context)
        except Exception as error:  # ONNX Runtime's
            raise QinZooError(
                f"{type(model).__name__}: ONNX Runtime fails on a request with {len(history)} history items and {rows} "
                f"candidates, as some operation depends on their number. {first_line(error)}"
            ) from error
        difference = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
        worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
    return worst


def random_column(described: dict, rows: int, g: np.random.Generator) -> np.ndarray:
    """Random values of a row feature, (rows, …), for checks and measurements.

    Args:
        described: an entry of ``Scorer.inputs``.
        rows: candidates.
        g: draws them.
    """
    kind = described["type"]
    if kind == "sequence":
        return g.integers(0, described["vocab_size"], (rows, described["max_len"]))
    if kind == "categorical":
        return g.integers(0, described["vocab_size"], rows)
    return g.normal(size=(rows, described["dim"]) if kind == "embedding" else rows).astype(np.float32)


@torch.no_grad()
def trained_scores(
    model: BaseModel, items: dict, history: np.ndarray, candidates: np.ndarray, context: dict, max_len: int
) -> np.ndarray:
    """A request scored by the trained model itself: one row for each candidate, (N,) float32.

    Args:
        model: in evaluation mode, on the CPU.
        items: the item table, feature name -> (U, …).
        history: (L,) item ids, at most ``max_len``.
        candidates: (N,) item ids.
        context: row features, (N, …) each.
        max_len: of the training data's histories.
    """
    rows = len(candidates)
    padded = np.zeros((rows, max_len), np.int64)
    if len(history):
        padded[:, max_len - len(history) :] = history
    columns = {name: torch.from_numpy(np.asarray(values)) for name, values in context.items()}
    batch = ItemBatch(columns, torch.from_numpy(padded), torch.from_numpy(candidates), items)
    if not isinstance(model, ZooModel):
        return plain_scores(model, batch).numpy()
    columns["candidate"] = torch.arange(rows)  # no feature, as rows elsewhere hold labels: there may be no other column
    return model(batch)["y_pred"].view(-1).numpy()


def _compare(dataset: Dataset, *paths: Path) -> tuple[float, ...] | None:
    """AUC of the valid split with each of the exports; None without labels."""
    if not dataset.has("valid") or not dataset.has_labels("valid"):
        return None
    loader = dataset.loader("valid", shuffle=False)
    labels = dataset.labels("valid")
    found = []
    for path in paths:
        scorer = Scorer(path)
        names = [described["name"] for described in scorer.inputs]
        scores = []
        for batch in loader:
            columns = {name: batch.rows[name].numpy() for name in names}
            history, target = batch.history.numpy(), batch.target.numpy()
            for row in range(len(target)):
                context = {name: values[row : row + 1] for name, values in columns.items()}
                scores.append(scorer.score(history[row], target[row : row + 1], context)[0])
        found.append(float(evaluate_metrics(labels, np.array(scores, np.float64), ["AUC"])["AUC"]))
    return tuple(found)
