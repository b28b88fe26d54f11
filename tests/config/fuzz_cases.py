"""Valid configurations with a few rows of data, ways to spoil them, and the path that ``qin-zoo run`` takes."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import samples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from qin_zoo import registry
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.prepare import build_model, prepare

FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
MARKER = Path("planted")  # in the working directory, which every test has for itself
ROWS, ITEMS, WORDS = 16, 12, 9

PAYLOADS = [
    "__import__('os').system('touch planted')",
    "[__import__('os').system('touch planted')]",
    "partial(__import__('os').system, 'touch planted')",
    "partial(nn.init.normal_, std=__import__('os').system('touch planted'))",
    "layers.MaskedAveragePooling() if __import__('os').system('touch planted') else None",
    "nn.Linear(__import__('os').system('touch planted'), 1)",
    "NDCG(k=__import__('os').system('touch planted'))",
    "l2(__import__('os').system('touch planted'))",
    "load_pickle(planted)",
    "$(touch planted)`touch planted`",
]


class Tag(str):
    """YAML that stands in a file as it is, not as text."""


TAGS = [
    Tag("!!python/object/apply:os.system ['touch planted']"),
    Tag("!!python/object/new:os.system ['touch planted']"),
    Tag("!!python/name:os.system ''"),
    Tag("!!python/module:os ''"),
    Tag("!<tag:yaml.org,2002:python/object/apply:os.system> ['touch planted']"),
]

# The one tag of Python's that is read, with everything in it that may not be.
TUPLES = [
    Tag("!!python/tuple [item, cate]"),
    Tag("!!python/tuple [clicks, cate_clicks]"),
    Tag("[!!python/tuple [item, cate], price]"),
    Tag("!!python/tuple []"),
    Tag("!!python/tuple [!!python/tuple [item], [cate]]"),
    Tag("!!python/tuple item"),
    Tag("!!python/tuple {a: 1}"),
    Tag("!<tag:yaml.org,2002:python/tuple> [item, .nan, 2024-01-01]"),
    Tag("{!!python/tuple [a]: 1}"),
    Tag("{? !!python/tuple [[a]] : 1}"),
    Tag("!!python/tuple " + "[!!python/tuple " * 20 + "[item]" + "]" * 20),
    Tag("!!python/tuple " + "[!!python/tuple " * 40 + "[item]" + "]" * 40),
    Tag("!!python/tuple [" + "item, " * 20_000 + "cate]"),
    *(Tag(f"!!python/tuple [item, {tag}]") for tag in TAGS),
]
PREPROCESS = [
    "copy_from(item)", "copy_from(nobody)", "copy_from()", "copy_from", "copy_from(item, cate)",
    "copy_from(copy_from(item))", "convert_to_bucket", "convert_to_bucket(price)", "convert_hour",
    "convert_weekday(item)", "convert_weekend", "extract_country_code", "bucketize_age", "bucketize_age(price)",
    "load_pickle(planted)", "save_vocab(planted)", "__init__", "__class__", "fit",
    "copy_from(__import__('os').system('touch planted'))", "copy_from()() ", "copy_from(a);touch planted",
    "copy_from (item)", "Copy_From(item)", "eval(1)", "copy_from(item", "copy_from)", "copy_from(../../x)",
    "copy_from(a\0)",
]  # fmt: skip


# ---- valid configurations


def _table(model: str) -> dict:
    """A model of the zoo on an item table, with its experiment's own settings."""
    experiment = samples()[model]
    own = yaml.safe_load(experiment.file.read_text())
    params = {**own.get("Base", {}), **own[experiment.expid], "dataset_id": "tiny", "batch_size": 8}
    for key in [k for k in params if k.endswith("units")]:
        params[key] = [8, 8]
    params |= {"embedding_dim": 8, "metrics": ["AUC", "logloss", "gAUC"], "group_id": "user_id"}
    params |= {"embedding_initializer": "partial(nn.init.normal_, std=1e-4)", "net_regularizer": "l2(1e-5)"}
    columns = [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "item_seq", "active": True, "dtype": "int", "type": "meta"},
        {"name": ["likes_level", "views_level"], "dtype": "int", "type": "categorical", "vocab_size": 11},
        {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item"},
        {
            "name": "item_tags",
            "dtype": "int",
            "type": "sequence",
            "source": "item",
            "max_len": 3,
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
        {"name": "item_emb_d128", "dtype": "float", "type": "embedding", "source": "item", "embedding_dim": 4},
    ]
    if model == "Transformer_DCN_Quant":
        codes = {"codes_of": "item_emb_d128", "codebook_size": 3, "num_levels": 2}
        columns.append({"name": "codes", "dtype": "int", "type": "sequence", "source": "item", **codes})
    dataset = {
        "data_root": "./data/",
        "data_format": "parquet",
        **{f"{split}_data": f"./files/table/{split}.parquet" for split in ("train", "valid", "test")},
        "item_info": "./files/table/item_info.parquet",
        "rebuild_dataset": False,
        "feature_cols": columns,
        "label_col": {"name": "label", "dtype": "float"},
    }
    return {"model_config.yaml": {"Base": {"seed": 1}, "X": params}, "dataset_config.yaml": {"tiny": dataset}}


_FIELDS_MODEL = {
    "model": "DIN",
    "dataset_id": "tiny",
    "metrics": ["AUC", "logloss"],
    "monitor": {"AUC": 1, "logloss": -1},
    "loss": "binary_crossentropy",
    "task": "binary_classification",
    "optimizer": "adam",
    "embedding_dim": 4,
    "batch_size": 8,
    "net_dropout": [0.1, 0],
    "dnn_hidden_units": [8, 4],
    "dnn_activations": ["ReLU", "Dice"],
    "attention_hidden_units": [4],
    "attention_hidden_activations": "Dice",
    "attention_output_activation": "Sigmoid",
    "target_field": [["item", "cate"]],
    "sequence_field": [["clicks", "cate_clicks"]],
}


def _fields() -> dict:
    """DIN on named fields that FuxiCTR's preprocessing has encoded."""
    dataset = {
        "data_root": "./data/",
        "data_format": "npz",
        **{f"{split}_data": f"./files/fields/{split}.npz" for split in ("train", "valid", "test")},
        "use_features": ["user", "item", "cate", "clicks", "cate_clicks", "price", "vector"],
        "feature_specs": [{"name": "price", "embedding_dim": 4}],
        "group_id": "user",
    }
    ids = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": WORDS}
    lists = ids | {"type": "sequence", "max_len": 4, "feature_encoder": "layers.MaskedAveragePooling()"}
    features = {
        "user": {"type": "meta"},
        "item": ids,
        "cate": ids | {"pretrained_emb": "cate.npz", "pretrain_dim": 3, "oov_idx": WORDS - 1, "freeze_emb": True},
        "clicks": lists | {"share_embedding": "item"},
        "cate_clicks": lists | {"share_embedding": "cate"},
        "price": {"source": "", "type": "numeric"},
        "vector": {"type": "embedding", "pretrain_dim": 3, "feature_encoder": ["nn.Linear(3, 6)"], "emb_output_dim": 6},
    }
    feature_map = {
        "dataset_id": "tiny",
        "num_fields": 6,
        "total_features": 2 * WORDS + 1,
        "input_length": 15,
        "labels": ["clk"],
        "features": [{name: spec} for name, spec in features.items()],
    }
    vocabulary = {str(i): i for i in range(WORDS)}
    return {
        "model_config.yaml": {"X": _FIELDS_MODEL},
        "dataset_config.yaml": {"tiny": dataset},
        "data/tiny/feature_map.json": deepcopy(feature_map),
        "data/tiny/feature_vocab.json": {"item": vocabulary, "cate": vocabulary},
    }


def _csv() -> dict:
    """DIN on a plain csv, which the first run encodes."""
    lists = {"dtype": "str", "type": "sequence", "splitter": "^", "max_len": 4, "padding": "pre"}
    columns = [
        {"name": "user", "active": True, "dtype": "str", "type": "meta"},
        {"name": ["item", "cate"], "dtype": "str", "type": "categorical", "source": "", "fill_na": "none"},
        {"name": "clicks", "share_embedding": "item", "feature_encoder": None, **lists},
        {"name": "cate_clicks", "share_embedding": "cate", "feature_encoder": "layers.MaskedSumPooling()", **lists},
        {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler", "fill_na": 0},
        {"name": "vector", "dtype": "float", "type": "embedding", "embedding_dim": 4},
    ]
    dataset = {
        "data_root": "./data/",
        "data_format": "csv",
        **{f"{split}_data": f"./files/csv/{split}.csv" for split in ("train", "valid", "test")},
        "sep": ",",
        "min_categr_count": 1,
        "feature_cols": columns,
        "label_col": [{"name": "clk", "dtype": "float"}],
    }
    fields = {"target_field": [["item", "cate"]], "sequence_field": [["clicks", "cate_clicks"]]}  # one pair, two parts
    return {"model_config.yaml": {"X": _FIELDS_MODEL | fields}, "dataset_config.yaml": {"tiny": dataset}}


MODELS = sorted(samples())
CASES = {f"table of {model}": _table(model) for model in MODELS} | {"fields": _fields(), "csv": _csv()}


# ---- files


def write_data(folder: Path) -> Path:
    """Writes the data files of all cases into ``folder/files``."""
    g = np.random.default_rng(0)
    label = np.arange(ROWS) % 2
    for name in ("table", "fields", "csv"):
        (folder / "files" / name).mkdir(parents=True)
    for split in ("train", "valid", "test"):
        pl.DataFrame(
            {
                "user_id": np.arange(ROWS) % 3,
                "likes_level": g.integers(0, 11, ROWS),
                "views_level": g.integers(0, 11, ROWS),
                "item_id": g.integers(1, ITEMS, ROWS),
                "item_seq": [g.integers(1, ITEMS, 5).tolist() for _ in range(ROWS)],
                "label": label,
            }
        ).write_parquet(folder / f"files/table/{split}.parquet")
        fields = {"user": np.arange(ROWS) % 3, **{n: g.integers(1, WORDS, ROWS) for n in ("item", "cate")}}
        fields |= {n: g.integers(0, WORDS, (ROWS, 4)) for n in ("clicks", "cate_clicks")}
        fields |= {"price": g.random(ROWS), "vector": g.random((ROWS, 3)), "clk": label}
        np.savez(folder / f"files/fields/{split}.npz", **fields)
        text = {n: ["^".join(map(str, row)) for row in v.tolist()] for n, v in fields.items() if v.ndim == 2}
        pl.DataFrame({**fields, **text}).write_csv(folder / f"files/csv/{split}.csv")
    pl.DataFrame(
        {
            "item_id": np.arange(ITEMS),
            "item_tags": [[0]] + [g.integers(1, 7, 3).tolist() for _ in range(ITEMS - 1)],
            "item_emb_d128": g.random((ITEMS, 6)).astype(np.float32).tolist(),
        }
    ).write_parquet(folder / "files/table/item_info.parquet")
    (folder / "data/tiny").mkdir(parents=True)
    np.savez(folder / "data/tiny/cate.npz", key=np.arange(WORDS).astype(str), value=g.random((WORDS, 3)))
    return folder


def write_case(files: dict[str, object], folder: Path) -> None:
    """Writes the files of a case; whatever is no text or bytes is written as YAML or JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = json.dumps(content) if path.suffix == ".json" else _yaml(content)
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
    if "data/tiny/feature_map.json" not in files:
        (folder / "data/tiny/feature_map.json").unlink(missing_ok=True)


def _yaml(tree: object) -> str:
    tags: list[str] = []

    def plain(node):
        if isinstance(node, Tag):
            tags.append(node)
            return f"TAGGED{len(tags) - 1}X"
        if isinstance(node, dict):
            return {plain(k): plain(v) for k, v in node.items()}
        return [plain(v) for v in node] if isinstance(node, list) else node

    text, options = plain(tree), {"default_flow_style": True, "width": 10**6, "allow_unicode": True}
    try:
        text = yaml.dump(text, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), **options)
    except UnicodeEncodeError:  # half a surrogate pair
        text = yaml.safe_dump(text, **options)
    for i, tag in enumerate(tags):
        text = text.replace(f"TAGGED{i}X", tag)
    return text


# ---- what may happen


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory):
    """The working directory of a module's tests, with the data of all cases in it."""
    with pytest.MonkeyPatch.context() as patch:
        place = write_data(tmp_path_factory.mktemp("fuzz"))
        patch.chdir(place)
        known = registry.discover()  # does not depend on configurations, and takes half of the time
        patch.setattr(registry, "discover", lambda plugins=(): known)
        yield place


def attempt(folder: Path) -> QinZooError | None:
    """What ``qin-zoo run`` does, up to a step of training and one evaluation; the error that ended it.

    Any other exception is passed on: it would be a traceback for the user.
    """
    try:
        prepared = prepare("X", folder)
        dataset = prepared.open_dataset()
        for split in ("train", "valid"):
            dataset.require(split, labels=True)
        if prepared.params.get("compile"):
            return None  # compiling takes a minute and changes no check
        model = build_model(prepared, dataset)
        model.train()
        batch = next(iter(dataset.loader("train")))
        if prepared.params["batch_size"] == 1:
            return None  # batch normalisation of one row is the trainer's matter
        loss = model.compute_loss(model.forward(batch), model.get_labels(batch))
        if math.isfinite(loss.item()):  # otherwise the trainer says so
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            model.optimizer.step()
            model.evaluate(dataset.loader("valid"))
    except QinZooError as error:
        if not str(error).strip() or "Traceback" in str(error):
            raise AssertionError(f"a poor message: {error}") from error
        return error
    finally:
        assert not MARKER.exists(), "a planted command ran"
    return None


# ---- ways to spoil them


def paths(tree: object, at: tuple = ()):
    """The path of every value below the root."""
    if isinstance(tree, (dict, list)):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*at, key)
            yield from paths(part, (*at, key))


def look_up(tree: object, path: tuple) -> object:
    for key in path:
        tree = tree[key]
    return tree


def planted(files: dict, path: tuple, value: object) -> dict:
    """A copy with another value at the path, whose first key is the file's name."""
    files = deepcopy(files)
    look_up(files, path[:-1])[path[-1]] = value
    return files


def texts(files: dict):
    """Paths of every text in every file."""
    return [path for path in paths(files) if isinstance(look_up(files, path), str)]


NUMBERS = st.sampled_from(
    [
        -(10**30), -(2**63), -1, 0, 1, 2, 3, 5, 2**20 + 1, 2**31, 2**63, 10**400, -1.5, 0.5, 1.5, 1e-30, 1e30, 1e308,
        math.nan, math.inf, -math.inf, "1e-3", "nan", "1_0", "0x10", "٣",
    ]
)  # fmt: skip
WORDS_OF_NOTE = st.sampled_from(
    [
        *PAYLOADS, *TAGS, *TUPLES, *PREPROCESS,
        "", " ", ".", "..", "../../x", "a/b", "a\\b", "C:\\x", "/", ".hidden", "a\0b", "\ud800",
        "x" * 300, "é" * 300, "null", "None", "true", "type", "keys", "a.b", "item", "item_id", "item_tags", "clicks",
        "user_id", "label", "clk", "price", "vector", "meta", "sequence", "categorical", "numeric", "embedding",
        "layers.MaskedSumPooling()", "nn.Linear(3, 3)", "nn.Linear(8, 4)", "layers.KMaxPooling(2, 1)", "eval",
        "nn.init.zeros_", "GLU", "Softmax", "Linear", "PReLU", "SGD", "LBFGS", "SparseAdam", "mse_loss", "regression",
        "concat", "init", "int", "str", "csv", "parquet", "npz", "pre", "softmax", "bf16", "DIN", "QIN", "../cate.npz",
        "__class__", "\x1b[31m",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    NUMBERS,
    WORDS_OF_NOTE,
    st.sampled_from([None, True, False]),
    st.text(alphabet="aXé/\\.:-_ \t\n'\"{}[]()<>|&*!%@,", max_size=6),
)
KEYS = st.sampled_from([3, None, True, 1.5, "", "type", "name", "a", "feature_encodr", "vocab_siz", "<<", "self"])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS | WORDS_OF_NOTE, v, max_size=3), max_leaves=4
)


@st.composite
def spoiled(draw, files: dict[str, object]) -> dict[str, object]:
    """A case with one to three changes anywhere: a value replaced, deleted, moved, nested, retyped, a key renamed."""
    files = deepcopy(files)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(paths(files))
        path = draw(st.sampled_from([p for p in spots if len(p) > 1] or spots))
        parent, key = look_up(files, path[:-1]), path[-1]
        change = draw(st.sampled_from(["tweak"] * 5 + ["replace", "delete", "add", "nest", "retype", "rename", "copy"]))
        value = parent[key]
        if change == "tweak":
            alike = WORDS_OF_NOTE if isinstance(value, str) else NUMBERS
            parent[key] = not value if isinstance(value, bool) else draw(alike)
        elif change == "replace":
            parent[key] = draw(VALUES)
        elif change == "delete":
            del parent[key]
        elif change == "add" and isinstance(parent, dict):
            parent[draw(KEYS | WORDS_OF_NOTE)] = draw(VALUES)
        elif change == "nest":
            parent[key] = draw(st.sampled_from([[value], [[value]], {"a": value}, [value, value]]))
        elif change == "retype":
            parent[key] = str(value) if not isinstance(value, str) else draw(NUMBERS)
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(KEYS | WORDS_OF_NOTE)] = parent.pop(key)
        elif change == "copy":
            parent[key] = deepcopy(look_up(files, draw(st.sampled_from(spots))))
    return files


