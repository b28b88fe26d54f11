"""Fixtures shared by all tests: feature maps and batches of both kinds of input, and where real data lies."""

import gc
import json
import os
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each worker: threads of several processes on the same cores mostly wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import once
import torch

from qin_zoo.batch import ItemBatch
from qin_zoo.config.experiments import Experiment, find_experiments
from qin_zoo.fuxi import FeatureMap
from qin_zoo.registry import list_models

once.patch()
# Here, before any test module registers models of its own; one of them needs codes.
MODELS = [name for name in list_models() if name != "Transformer_DCN_Quant"]
REPOSITORY = Path(__file__).resolve().parent.parent


@cache
def experiments() -> list[Experiment]:
    """All of this repository, read once."""
    return find_experiments([REPOSITORY])


def samples() -> dict[str, Experiment]:
    """Model -> its experiment on the sample."""
    return {e.model: e for e in experiments() if e.expid == f"{e.model}_sample"}


def make_feature_map(features: dict, dataset_id: str = "test", labels=("label",), group_id=None) -> FeatureMap:
    feature_map = FeatureMap(dataset_id, ".")
    feature_map.features = OrderedDict(features)
    feature_map.labels = list(labels)
    feature_map.group_id = group_id
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    return feature_map


def item_table_feature_map(vocab: dict, item_emb_dim: int, group_id=None) -> FeatureMap:
    """The challenge's features, in the order of the published checkpoints."""

    def categorical(name, **spec):
        return {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": vocab[name], **spec}

    return make_feature_map(
        {
            "user_id": {"type": "meta"},
            "likes_level": categorical("likes_level"),
            "views_level": categorical("views_level"),
            "item_id": categorical("item_id", source="item"),
            "item_tags": categorical(
                "item_tags",
                type="sequence",
                source="item",
                max_len=5,
                feature_encoder="layers.MaskedAveragePooling()",
            ),
            "item_emb_d128": {
                "type": "embedding",
                "source": "item",
                "embedding_dim": item_emb_dim,
                "pretrain_dim": item_emb_dim,
            },
        },
        group_id=group_id,
    )


def random_item_batch(vocab: dict, item_emb_dim: int, batch: int = 16, length: int = 6, seed: int = 0) -> ItemBatch:
    """Rows with left-padded histories; the first has none, the second a full one."""
    g = torch.Generator().manual_seed(seed)
    n = vocab["item_id"]
    tags = torch.randint(0, vocab["item_tags"], (n, 5), generator=g)
    emb = torch.randn(n, item_emb_dim, generator=g)
    tags[0], emb[0] = 0, 0
    lengths = torch.randint(0, length + 1, (batch,), generator=g)
    lengths[0], lengths[1] = 0, length
    history = torch.randint(1, n, (batch, length), generator=g)
    history[torch.arange(length).expand(batch, -1) < (length - lengths).unsqueeze(1)] = 0
    rows = {
        "user_id": torch.randint(0, 5, (batch,), generator=g),
        "likes_level": torch.randint(0, 11, (batch,), generator=g),
        "views_level": torch.randint(0, 11, (batch,), generator=g),
        "label": torch.randint(0, 2, (batch,), generator=g).float(),
    }
    target = torch.randint(1, n, (batch,), generator=g)
    return ItemBatch(rows, history, target, {"item_id": torch.arange(n), "item_tags": tags, "item_emb_d128": emb})


VOCAB = {"item_id": 30, "item_tags": 12, "likes_level": 11, "views_level": 11}


@pytest.fixture
def feature_map():
    return item_table_feature_map(VOCAB, 8, group_id="user_id")


@pytest.fixture
def item_batch():
    return random_item_batch(VOCAB, 8)


def pytest_collection_finish():
    """What is imported and collected by now stays to the end: no search for garbage needs to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _once():
    once.patch()


def shared_data() -> Path:
    """Folder of real datasets that are never committed; ``QIN_ZOO_DATA`` overrides its place."""
    return Path(os.environ.get("QIN_ZOO_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A small sample dataset; do not write into it."""
    from qin_zoo.data.sample import write_sample

    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder, rows=3000, items=100, seed=1, valid_rows=600, test_rows=500, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_seq(tmp_path_factory) -> Path:
    """FuxiCTR's tiny_seq where it is at hand, else files of the same form with random values."""
    real = shared_data() / "tiny_seq"
    if real.is_dir():
        return real
    folder = tmp_path_factory.mktemp("tiny_seq")
    sizes = {
        "userid": 26, "adgroup_id": 96, "pid": 4, "cate_id": 49, "campaign_id": 99, "customer": 98, "brand": 67,
        "cms_segid": 11, "cms_group_id": 11, "final_gender_code": 4, "age_level": 7, "pvalue_level": 4,
        "shopping_level": 5, "occupation": 4,
    }  # fmt: skip
    specs = {n: {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": v} for n, v in sizes.items()}
    specs["click_sequence"] = {
        "source": "", "type": "sequence", "share_embedding": "adgroup_id", "padding_idx": 0, "vocab_size": 96,
        "max_len": 5,
    }  # fmt: skip
    feature_map = {
        "dataset_id": "tiny_seq", "num_fields": 15, "total_features": 485, "input_length": 19, "labels": ["clk"],
        "features": [{n: s} for n, s in specs.items()],
    }  # fmt: skip
    (folder / "feature_map.json").write_text(json.dumps(feature_map))
    for seed, split in enumerate(("train", "valid", "test")):
        g = np.random.default_rng(seed)
        columns = {n: g.integers(1, v, 100) for n, v in sizes.items()}
        columns["click_sequence"] = g.integers(0, 96, (100, 5)).astype(np.int32)
        columns["clk"] = (g.random(100) < 0.2).astype(np.float64)
        np.savez(folder / f"{split}.npz", **columns)
    return folder
