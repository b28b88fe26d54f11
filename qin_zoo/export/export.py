"""One trained experiment to one file that ``qin_zoo.serving`` scores: what `qin-zoo export` does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from qin_zoo.batch import ItemBatch
from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import Dataset, has_item_table
from qin_zoo.data.grown import require_same_items
from qin_zoo.data.import_files import ID_FILE, WORD_FILE, item_levels, original_ids, user_side
from qin_zoo.errors import ConfigError, QinZooError, first_line, suggest
from qin_zoo.experiment.prepare import Prepared, load_trained
from qin_zoo.export.compare import compare
from qin_zoo.export.fields import FieldsModel, describe_fields, random_request, tracing
from qin_zoo.export.item_table import Catalogue, update_items
from qin_zoo.export.manifest import make_manifest
from qin_zoo.export.onnx import to_onnx
from qin_zoo.export.plain import Doubts, PlainFieldsModel, PlainModel, plain_scores
from qin_zoo.export.program import ProgramScorer, to_program
from qin_zoo.export.request import RequestModel, numbering
from qin_zoo.feature_types import type_of
from qin_zoo.files import parse_json, replace_file, replace_text
from qin_zoo.fuxi import BaseModel
from qin_zoo.metrics import evaluate_metrics
from qin_zoo.models import ZooModel
from qin_zoo.serving.bundle import seal
from qin_zoo.serving.catalogue import pack
from qin_zoo.serving.items import ITEMS
from qin_zoo.serving.scorer import Scorer

TABLES = ("fp32", "fp16", "int8")
TARGETS = (".onnx", ".pt2")
_Scores = Callable[[Scorer], tuple[np.ndarray, np.ndarray]]  # trained and exported ones of the same requests
_REQUESTS = 24  # that every export is checked with


@dataclass(frozen=True)
class Exported:
    """What :func:`export_run` wrote.

    Attributes:
        path: the file; a copy of its manifest stands beside it, ``NAME.onnx.json``.
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
        out: file to write, ``NAME.onnx``, or ``NAME.pt2`` for a program of ``torch.export``, which torch runs and
            the service does not; or a folder, for ``<expid>.onnx`` in it.
        checkpoint: weights. Default: the experiment's own.
        table: how item representations are kept: ``fp32``, ``fp16`` or ``int8``.
        items: parquet file with catalogue rows to add or replace.

    Raises:
        QinZooError: the experiment cannot be exported; nothing is written then.
    """
    if table not in TABLES:
        raise ConfigError(f"--table: expected {', '.join(TABLES)}, found {table!r}.{suggest(table, TABLES)}")
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
    """The same with a model at hand, on the CPU and in evaluation mode.

    Raises:
        ConfigError: ``table`` or ``new_items`` for a dataset of named fields.
    """
    out = out if out.suffix in TARGETS else out / f"{prepared.expid}.onnx"
    if len(labels := dataset.feature_map.labels) > 1:
        raise ConfigError(f"{prepared.expid} predicts {', '.join(labels)}: only models of one label are exported.")
    if has_item_table(prepared.params):
        form = _of_items(prepared, dataset, model, table, new_items, echo)
    elif table != "fp32" or new_items is not None:
        raise ConfigError(
            f"{prepared.expid} reads named fields, whose items stand in no table: --table and --items are for "
            "datasets with an item table. Leave them out."
        )
    else:
        form = _of_fields(prepared, dataset, model)
    manifest = make_manifest(prepared, form.described, checkpoint, dataset.fingerprints())
    longest, auc = manifest["inputs"]["history"]["max_len"], None
    with tempfile.TemporaryDirectory() as folder:
        plain, compressed = Path(folder) / "fp32.onnx", Path(folder) / "compressed.onnx"
        graph, manifest["chunk"] = to_onnx(form.request, *form.traced, longest)
        data, manifest, difference = _checked(graph, manifest, plain, model, form.score)
        if table != "fp32":
            form.request.compress(table)
            manifest["items"]["table"] = table
            graph, _ = to_onnx(form.request, *form.traced, longest)
            data, manifest = _sealed(graph, manifest, compressed)
            auc = _compare(dataset, plain, compressed)
            if auc is not None:
                manifest["items"]["valid_auc"] = {"fp32": auc[0], table: auc[1]}
                data, manifest = seal(graph, manifest)
        if out.suffix == ".pt2":
            data = _program(form, manifest, compressed if table != "fp32" else plain)
    with replace_file(out) as temporary:
        temporary.write_bytes(data)
    replace_text(out.with_name(f"{out.name}.json"), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    echo(
        f"{out}: {len(data) / 2**20:.1f} MiB, {form.holds}; scores differ from the trained model's by at most "
        f"{difference:.1e} on random requests"
        + (f"; calibrated: {manifest['calibration']['method']}" if manifest["calibration"] else "")
    )
    if auc is not None:
        echo(f"valid AUC {auc[0]:.6f} with fp32 items, {auc[1]:.6f} with {table}: {auc[1] - auc[0]:+.6f}")
    return Exported(out, manifest, difference, auc)


class _Form(NamedTuple):
    """A model in the form of a request: what is described and traced of it, the check's scores, and what it holds."""

    request: RequestModel | PlainModel | FieldsModel | PlainFieldsModel
    described: dict
    traced: tuple[dict, dict]
    score: _Scores
    holds: str


def _of_items(
    prepared: Prepared,
    dataset: Dataset,
    model: BaseModel,
    table: str,
    new_items: Path | None,
    echo: Callable[[str], None],
) -> _Form:
    loader = dataset.loader(next(split for split in SPLITS if dataset.has(split)), shuffle=False)
    learnt, catalogue, max_len = loader.items, Catalogue(loader.items), loader.histories.max_len
    index = "item_index" if prepared.params.get("user_info") else "item_id"
    if new_items is not None:
        require_same_items(dataset.folder, new_items)
        catalogue = update_items(learnt, dataset.feature_map.features, new_items, index)
        echo(f"{new_items}: {catalogue.replaced:,} items replaced, {catalogue.added:,} added")
    items = catalogue.items
    if isinstance(model, ZooModel):
        request = RequestModel(model, learnt, items)
    elif table == "fp32":
        request = PlainModel(model, items, max_len)
    else:
        raise ConfigError(
            f"--table {table}: {type(model).__name__} is no ZooModel, so its export holds the items' features, which "
            "it embeds anew for every request, and no representations that could be kept in fewer bytes. Leave it out."
        )
    described = request.describe(items, max_len)
    described["items"] |= {"learnt": len(next(iter(learnt.values()))), "table": "fp32"}
    if (ids := _original_ids(dataset.folder, len(request.table), new_items)) is not None:
        described["items"]["original_ids"] = ids
    words = _words(dataset.folder)
    described["items"]["features"] = _filters(dataset, items, words)
    for feature in (*described["inputs"]["context"], *described["inputs"]["new"]):
        if feature["name"] in words and type_of(feature).ids:
            feature["words"] = words[feature["name"]][: feature["vocab_size"] - 1]
    _add_sides(described, dataset.folder)
    score = partial(_both_scores, model, items, max_len)
    return _Form(request, described, request.tracing(described["inputs"]), score, f"{len(request.table):,} items")


def _of_fields(prepared: Prepared, dataset: Dataset, model: BaseModel) -> _Form:
    request = FieldsModel(model) if isinstance(model, ZooModel) else PlainFieldsModel(model)
    described = describe_fields(prepared, dataset, request)
    words = sum(map(len, described["vocabularies"].values()))
    holds = f"named fields, {words:,} values in its vocabularies" if words else "named fields, whose values are ids"
    score = partial(_both_scores_of_fields, model, described)
    return _Form(request, described, tracing(described["inputs"]), score, holds)


def _add_sides(described: dict, folder: Path) -> None:
    """Which row features are the user's, and those that the log tells of an item, so that a request need not: as they
    are at the log's end."""
    context = {one["name"]: one for one in described["inputs"]["context"]}
    for name, levels in item_levels(folder, context).items():
        known = np.zeros(described["items"]["count"], np.int64)  # of an item that was added: none, as of one never seen
        known[: len(levels)] = levels[: len(known)]
        if known.max(initial=0) < context[name].get("vocab_size", 0):
            context[name]["of_item"] = pack(known)
    for name in user_side(folder, context):
        context[name]["of_user"] = True


def _checked(graph: bytes, manifest: dict, path: Path, model: BaseModel, score: _Scores) -> tuple[bytes, dict, float]:
    """A graph in its file, the manifest, and the largest difference of its scores from the trained model's.

    Raises:
        QinZooError: rounding does not explain the difference.
    """

    def difference() -> tuple[float, bool]:
        _sealed(graph, {**manifest, "calibration": None}, path)  # a step can hide a difference, or enlarge one
        return compare(*score(Scorer(path)), manifest["task"], name)

    name = type(model).__name__
    with Doubts() as doubts:
        largest, same = difference()
    if not same and not manifest["inputs"]["history"]["padded"]:
        manifest["inputs"]["history"]["padded"] = True  # a model of somebody's that sees padding without saying so
        largest, same = difference()
    if not same:
        folded = "A layer computes something else on a SharedHistory, or in its folded() form."
        raise QinZooError(
            f"{name}: exported scores are not those of the model on random requests: they differ by up to "
            f"{largest:.1e}, more than rounding explains. "
            + (folded if isinstance(model, ZooModel) else doubts.words(model))
        )
    return *_sealed(graph, manifest, path), largest


def _sealed(graph: bytes, manifest: dict, path: Path) -> tuple[bytes, dict]:
    data, manifest = seal(graph, manifest)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise QinZooError(
            f"{path}: {error.strerror}. An export is checked there before it is written: free space, or name another "
            "folder in the variable TMPDIR."
        ) from error
    return data, manifest


def _program(form: _Form, manifest: dict, graph: Path) -> bytes:
    """The same as a program, whose scores of random requests are those of the graph.

    Raises:
        QinZooError: rounding does not explain a difference.
    """
    program = to_program(form.request, *form.traced, manifest)
    scores = (form.score(scorer)[1] for scorer in (Scorer(graph), ProgramScorer(graph, program, form.traced[0])))
    largest, same = compare(*scores, manifest["task"], "the program")
    if not same:
        raise QinZooError(
            "The program's scores are not those of the ONNX graph on random requests: they differ by up to "
            f"{largest:.1e}, more than rounding explains. Export NAME.onnx."
        )
    return program


def _original_ids(folder: Path, count: int, new_items: Path | None) -> list | None:
    """The ids that an import gave numbers to, by number; new items bring theirs in a column ``original_id``."""
    ids = original_ids(folder / ID_FILE)
    if not ids:
        return None
    if new_items is not None:
        ids |= original_ids(new_items)
    return [None, *(ids.get(number) for number in range(1, count))]


def _words(folder: Path) -> dict[str, list[str]]:
    """Column -> the words that codes from 1 on stand for, where an import wrote them down."""
    file = folder / WORD_FILE
    found = parse_json(file.read_bytes()) if file.is_file() else {}
    return {name: ["" if w is None else str(w) for w in words] for name, words in found.items() if words}


def _filters(dataset: Dataset, items: dict[str, torch.Tensor], words: dict[str, list[str]]) -> list[dict]:
    """The items' categories and lists of them."""
    specs = dataset.feature_map.features
    numbers = numbering(items, specs)
    filters = []
    for name, codes in items.items():
        if name not in numbers and type_of(specs[name]).ids:
            known = {"words": words[name]} if name in words else {}
            filters.append({"name": name, "type": specs[name]["type"], "codes": pack(codes.numpy()), **known})
    return filters


# ---- checks


def _both_scores(model: BaseModel, items: dict, max_len: int, scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
    """Trained and exported scores on random requests, odd ones included."""
    g, count = np.random.default_rng(0), scorer.items
    trained, exported = [], []
    for number in range(_REQUESTS):
        length = (0, max_len, 1)[number] if number < 3 else int(g.integers(0, max_len + 1))
        rows = 1 if number % 4 == 0 else int(g.integers(2, 30))
        history = g.integers(min(1, count - 1), count, min(length, max_len))
        candidates = g.integers(0, count, rows)
        context = {feature["name"]: type_of(feature).random(rows, feature, g) for feature in scorer.inputs}
        if scorer.beside:
            history = {ITEMS: history} | {f["name"]: type_of(f).random(len(history), f, g) for f in scorer.beside}
        trained.append(trained_scores(model, items, history, candidates, context, max_len))
        exported.append(_scored(scorer, type(model).__name__, history, candidates, context))
    return np.concatenate(trained), np.concatenate(exported)


@torch.no_grad()
def _both_scores_of_fields(model: BaseModel, described: dict, scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
    """The same of named fields: requests of raw values, beside rows of ids."""
    g, trained, exported = np.random.default_rng(0), [], []
    for number in range(_REQUESTS):
        request, encoded = random_request(described["inputs"], described["vocabularies"], scorer.fields, number, g)
        trained.append(model(encoded)["y_pred"].view(-1).numpy())
        exported.append(_scored(scorer, type(model).__name__, **request))
    return np.concatenate(trained), np.concatenate(exported)


def _scored(scorer: Scorer, name: str, history, candidates, context) -> np.ndarray:
    try:
        return scorer.score(history, candidates, context)
    except Exception as error:  # ONNX Runtime's
        items = max(map(len, history.values()), default=0) if isinstance(history, dict) else len(history)
        raise QinZooError(
            f"{name}: ONNX Runtime fails on a request with {items} history items and {len(candidates)} candidates, as "
            f"some operation depends on their number. {first_line(error)}"
        ) from error


@torch.no_grad()
def trained_scores(
    model: BaseModel, items: dict, history: np.ndarray | dict, candidates: np.ndarray, context: dict, max_len: int
) -> np.ndarray:
    """A request scored by the trained model itself, in evaluation mode and on the CPU, (N,) float32.

    Args:
        items, history, candidates, context, max_len: see :func:`request_rows`.
    """
    batch = request_rows(items, history, candidates, context, max_len)
    if not isinstance(model, ZooModel):
        return plain_scores(model, batch).numpy()
    batch.rows["candidate"] = torch.arange(len(batch))  # no feature: elsewhere labels stand there, here maybe nothing
    return model(batch)["y_pred"].view(-1).numpy()


def request_rows(
    items: dict, history: np.ndarray | dict, candidates: np.ndarray, context: dict, max_len: int
) -> ItemBatch:
    """A request as a batch, a row for each candidate.

    Args:
        items: the item table, feature name -> (U, …).
        history: (L,) item ids, at most ``max_len``; with features of its items a dictionary, as a request has it.
        candidates: (N,) item ids.
        context: row features, (N, …) each.
        max_len: of the training data's histories.
    """
    lists = history if isinstance(history, dict) else {ITEMS: history}
    padded = {name: pad(torch.from_numpy(values), (max_len - len(values), 0)) for name, values in lists.items()}
    padded = {name: values.repeat(len(candidates), 1) for name, values in padded.items()}
    columns = {name: torch.from_numpy(np.asarray(values)) for name, values in context.items()}
    return ItemBatch(columns, padded.pop(ITEMS), torch.from_numpy(candidates), items, padded)


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
            beside = {name: values.numpy() for name, values in batch.beside.items()}
            for row in range(len(target)):
                context = {name: values[row : row + 1] for name, values in columns.items()}
                lists = {ITEMS: history[row]} | {name: values[row] for name, values in beside.items()}
                scores.append(scorer.score(lists if beside else history[row], target[row : row + 1], context)[0])
        found.append(float(evaluate_metrics(labels, np.array(scores, np.float64), ["AUC"])["AUC"]))
    return tuple(found)
