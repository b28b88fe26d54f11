"""Every model of the zoo trains: on the sample, on real data where it is at hand, and on FuxiCTR's fields."""

from pathlib import Path

import polars as pl
import pytest
import yaml
from conftest import samples, shared_data

from qin_zoo.data.importers import import_folder
from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.encoders import make_encoder
from qin_zoo.embed.items import count_items, read_texts
from qin_zoo.embed.strategies import fuse
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.registry import MODEL_ZOO, discover

SAMPLES = samples()
BLIND = {"QNN", "MLP"}
# What a short training must reach at least. Heads that do not see the history are held to what items alone tell.
MARGINS = {"sample": 0.75, "ml-100k": 0.56, "tiktok": 0.56}
BLIND_MARGINS = {"sample": 0.55, "ml-100k": 0.56}


def test_every_model_has_a_sample_experiment():
    ours = {name for name, entry in discover().items() if Path(entry.origin).parent == MODEL_ZOO}
    assert ours == set(SAMPLES)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, request):
    """name -> dataset configuration, of the real datasets that are at hand."""
    made = {}
    for name, kind, rows in (("ml-100k", "recbole", 16_000), ("tiktok", "mmrec", 60_000)):
        raw = shared_data() / name
        if raw.is_dir():
            out = tmp_path_factory.mktemp("real") / name
            import_folder(kind, raw, out)
            for split, part in (("train", rows), ("valid", 3000), ("test", 3000)):
                file = out / f"{split}.parquet"
                pl.read_parquet(file).tail(part).write_parquet(file)
            made[name] = yaml.safe_load((out / "dataset_config.yaml").read_text())[name]
            embed(out, made[name])
    return made


def embed(folder, dataset):
    """Adds an embedding of texts, or of images, as its only one."""
    text = (folder / "item_text.parquet").exists()
    encoder = make_encoder("tfidf-svd:32" if text else f"precomputed:{folder}/item_feature.parquet:image_emb", "text")
    inputs = read_texts(folder, ["text"]) if text else encoder.inputs(count_items(folder))
    encode_items(folder, encoder, inputs, "text")
    table = fuse(folder, "text_only", dim=32)
    dataset["item_info"] = str(table.path)
    embedding = {"name": table.column, "type": "embedding", "dtype": "float", "source": "item", "active": True}
    others = [c for c in dataset["feature_cols"] if c["type"] != "embedding"]
    dataset["feature_cols"] = [*others, {**embedding, "embedding_dim": 8}]


def learns(model, dataset_id, config_dir, expid, margin, tmp_path, overrides=(), data=None):
    prepared = prepare(expid, config_dir, data=data, overrides=[*overrides, f"model_root={tmp_path}"])
    record = run_experiment(prepared, results_folder=tmp_path, echo=lambda line: None)
    losses = [e["train_loss"] for e in record["evaluations"]]
    assert min(losses[1:]) < losses[0]
    assert record["valid"]["AUC"] > margin, record["valid"]
    return record


@pytest.mark.slow
@pytest.mark.parametrize("model", SAMPLES)
def test_on_the_sample(model, tmp_path, tmp_path_factory):
    from qin_zoo.data.sample import write_sample

    folder = tmp_path_factory.getbasetemp() / "learnable" / "data"
    write_sample(folder, rows=16_000, items=200, seed=1, valid_rows=2000, test_rows=500, progress=False)
    experiment = SAMPLES[model]
    overrides = ["epochs=3", "batch_size=256", "max_len=12"]
    margin = (BLIND_MARGINS if model in BLIND else MARGINS)["sample"]
    learns(model, "sample", experiment.config_dir, experiment.expid, margin, tmp_path, overrides, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset_id"), [*((model, "ml-100k") for model in SAMPLES), ("QIN", "tiktok"), ("DIN", "tiktok")]
)
def test_on_real_data(model, dataset_id, datasets, tmp_path):
    if dataset_id not in datasets:
        pytest.skip(f"{dataset_id} is not at hand (QIN_ZOO_DATA names the folder of real datasets)")
    config = tmp_path / "config"
    config.mkdir()
    blocks = yaml.safe_load((SAMPLES[model].config_dir / "model_config.yaml").read_text())
    params = {**blocks.get("Base", {}), **blocks[SAMPLES[model].expid], "dataset_id": dataset_id}
    params |= {"epochs": 3, "batch_size": 256, "max_len": 20, "embedding_regularizer": 1e-4, "learning_rate": 5e-3}
    dataset = datasets[dataset_id]
    modality = next(c["name"] for c in dataset["feature_cols"] if c["type"] == "embedding")
    if "content" in params:
        params |= {"content": modality, "feature_specs": [{"name": modality, "type": "meta"}]}
    if model == "Transformer_DCN_Quant":
        codes = {"name": "codes", "type": "sequence", "source": "item", "dtype": "int", "codes_of": modality}
        codes |= {"codebook_size": 16, "num_levels": 2}
        dataset = {**dataset, "feature_cols": [*dataset["feature_cols"], codes]}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"real": params}))
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({dataset_id: dataset}))
    margin = (BLIND_MARGINS if model in BLIND else MARGINS)[dataset_id]
    learns(model, dataset_id, config, "real", margin, tmp_path)
