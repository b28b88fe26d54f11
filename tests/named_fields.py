"""Datasets of named fields as raw csv files, models for them, exports, and their rows as requests."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
import yaml

LABEL = {"name": "click", "dtype": "float"}
_SEQUENCE = {"dtype": "str", "type": "sequence", "splitter": "^", "feature_encoder": None}
EXAMPLE = [
    {"name": "user", "dtype": "str", "type": "meta"},
    {"name": ["item", "cate"], "dtype": "str", "type": "categorical"},
    {"name": "hour", "dtype": "int", "type": "categorical", "fill_na": 0, "embedding_dim": 3},
    {"name": "level", "dtype": "float", "type": "categorical"},
    {"name": "clicks", "max_len": 6, "padding": "pre", "share_embedding": "item", **_SEQUENCE},
    {"name": "cates", "max_len": 6, "padding": "pre", "share_embedding": "cate", **_SEQUENCE},
    {"name": "recent", "max_len": 4, "share_embedding": "item", **_SEQUENCE},  # padded behind, as by default
    {"name": "tags", "dtype": "int", "type": "sequence", "splitter": " ", "max_len": 3},
    {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler", "fill_na": 0},
    {"name": "age", "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    {"name": "vector", "dtype": "float", "type": "embedding", "splitter": "^"},
]
PAIR = {"target_field": [["item", "cate"]], "sequence_field": [["clicks", "cates"]]}
PAIRS = {"target_field": [["item", "cate"], "cate"], "sequence_field": [["clicks", "cates"], "recent"]}
ONE = {"target_field": "item", "sequence_field": "recent"}
MADE = [
    {"name": "night", "dtype": "str", "type": "categorical", "preprocess": "convert_hour(time)"},
    {"name": "weekday", "dtype": "str", "type": "categorical", "preprocess": "convert_weekday(time)"},
    {"name": "bucket", "dtype": "float", "type": "categorical", "preprocess": "convert_to_bucket(price)", "fill_na": 0},
    {"name": "part", "dtype": "float", "type": "categorical", "preprocess": "copy_from(age)",
     "category_processor": "quantile_bucket"},
    {"name": "hashed", "dtype": "str", "type": "categorical", "preprocess": "copy_from(cate)",
     "category_processor": "hash_bucket"},
]  # fmt: skip
CRITEO = [
    {"name": [f"I{i}" for i in range(1, 14)], "dtype": "float", "type": "numeric", "normalizer": "StandardScaler",
     "fill_na": 0},
    {"name": [f"C{i}" for i in range(1, 27)], "dtype": "str", "type": "categorical", "fill_na": ""},
]
AMAZON = [
    {"name": ["user_id", "item_id", "cate_id"], "dtype": "str", "type": "categorical"},
    {"name": "item_history", "max_len": 8, "padding": "pre", "share_embedding": "item_id", **_SEQUENCE},
    {"name": "cate_history", "max_len": 8, "padding": "pre", "share_embedding": "cate_id", **_SEQUENCE},
]
AMAZON_PAIR = {"target_field": [["item_id", "cate_id"]], "sequence_field": [["item_history", "cate_history"]]}


def example_row(g):
    """A row of texts as in a csv file; now and then something is missing, rare, or written in another way."""
    maybe = lambda text, chance=0.1: "" if g.random() < chance else text  # noqa: E731
    length = int(g.integers(0, 9))
    items = g.integers(0, 30, length)
    return {
        "user": f"u{g.integers(0, 9)}",
        "item": maybe(f"i{g.integers(0, 40)}"),
        "cate": maybe(f"c {g.integers(0, 5)}"),
        "hour": maybe(str(g.integers(-3, 24))),
        "level": maybe(("1", "1.0", "0.5", "1e-7", "-2.25", "1e20")[g.integers(0, 6)]),
        "clicks": "^".join(f"i{i}" if i else "" for i in items),
        "cates": "^".join(f"c {i % 5}" if g.random() < 0.8 else "" for i in items),
        "recent": "^".join(f"i{i}" for i in g.integers(0, 40, g.integers(0, 6))),
        "tags": maybe(" ".join(str(t) for t in g.integers(0, 9, g.integers(1, 5)))),
        "price": maybe(f"{g.lognormal(3, 1):.2f}"),
        "age": maybe(str(g.integers(10, 80))),
        "vector": "^".join(f"{v:.4f}" for v in g.normal(size=3)),
        "click": str(g.integers(0, 2)),
        "time": f"1410{21 + length}{2 * length:02d}",  # read by those alone who make something of it
    }


def criteo_row(g):
    numbers = {f"I{i}": "" if g.random() < 0.3 else str(int(g.lognormal(2, 2))) for i in range(1, 14)}
    words = {f"C{i}": "" if g.random() < 0.1 else f"{g.integers(0, 4 * i):08x}" for i in range(1, 27)}
    return {**numbers, **words, "click": str(g.integers(0, 2))}


def amazon_row(g):
    items = g.integers(0, 60, g.integers(1, 12))
    target = g.integers(0, 80)
    return {
        "user_id": str(g.integers(0, 30)), "item_id": str(target), "cate_id": str(target % 7),
        "item_history": "^".join(map(str, items)), "cate_history": "^".join(str(i % 7) for i in items),
        "click": str(g.integers(0, 2)),
    }  # fmt: skip


ROWS = {"example": example_row, "criteo": criteo_row, "amazon": amazon_row}


def made(folder: Path, kind: str, columns: list, model: str, rows=120, **params):
    """A dataset of csv files, a model for it, and the texts of its test rows: (prepared, dataset, model, rows)."""
    g, texts = np.random.default_rng(0), {}
    for split in ("train", "valid", "test"):
        texts[split] = [ROWS[kind](g) for _ in range(rows)]
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, texts[split][0])
            writer.writeheader()
            writer.writerows(texts[split])
    dataset = {f"{split}_data": str(folder / f"{split}.csv") for split in texts}
    dataset |= {"data_root": str(folder), "data_format": "csv", "min_categr_count": 2, "feature_cols": columns}
    fields = {key: params.pop(key) for key in ("target_field", "sequence_field") if key in params}
    write_config(folder, {**dataset, "label_col": LABEL, **fields}, {"model": model, "embedding_dim": 4, **params})
    from qin_zoo.experiment.prepare import build_model, prepare

    prepared = prepare("x", folder)
    opened = prepared.open_dataset()
    return prepared, opened, disturb(build_model(prepared, opened)).eval(), texts["test"]


def write_config(folder: Path, dataset: dict, experiment: dict) -> None:
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump({"raw": dataset}))
    experiment |= {"dataset_id": "raw", "model_root": str(folder), "metrics": ["AUC"], "seed": 1}
    (folder / "model_config.yaml").write_text(yaml.safe_dump({"x": experiment}))


def export(done, folder, **options):
    from qin_zoo.export.export import export_model

    prepared, dataset, model, *_ = done
    weights = folder / "weights.model"
    model.save_weights(str(weights))
    return export_model(prepared, dataset, model, weights, folder / "m.onnx", echo=lambda line: None, **options)


def as_request(scorer, row: dict) -> dict:
    """A row of the csv file as a request: its texts as they are, history and candidate apart."""
    targets = scorer.fields.targets or list(scorer.fields.rows)[:5]
    context = {name: row[name] for name in scorer.fields.rows if name not in targets}
    history = {name: row[name] for name in scorer.fields.history}
    return {"history": history, "candidates": [{name: row[name] for name in targets}], "context": context}


def as_typed(row: dict) -> dict:
    """The texts of a row as a client of JSON would send them: numbers, lists, null."""

    def typed(name, text):
        if text == "":
            return [] if name in ("clicks", "cates", "recent") else None
        if name in ("clicks", "cates", "recent", "vector"):
            return [float(v) for v in text.split("^")] if name == "vector" else text.split("^")
        if name == "tags":
            return [int(t) for t in text.split(" ")]
        return json.loads(text) if name in ("hour", "level", "price", "age") else text

    return {name: typed(name, text) for name, text in row.items()}


@torch.no_grad()
def disturb(model):
    g = torch.Generator().manual_seed(3)
    for layer in model.embedding_layer.embedding_layer.embedding_layers.values():
        if isinstance(layer, torch.nn.Embedding):
            layer.weight[1:] = 0.3 * torch.randn(layer.weight[1:].shape, generator=g)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=g))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=g))
            if module.weight is not None:
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=g))
                module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=g))
    return model
