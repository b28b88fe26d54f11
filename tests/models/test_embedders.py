"""Types that FuxiCTR does not embed: the formula, and the way from a file to an answer of the service."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch, samples
from named_fields import EXAMPLE, as_request, export, made

from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.models.embedders import AutoDisEmbedding, CyclicEmbedding, check_types
from qin_zoo.registry import create_model

HOUR = {"type": "cyclic", "source": "", "period": 24}
SHARED = {"type": "autodis", "source": "", "bins": 5}
TYPES = pytest.mark.parametrize("spec", [HOUR, SHARED], ids=["cyclic", "autodis"])


def test_a_place_on_a_circle():
    embedder = CyclicEmbedding(HOUR, 3)
    hours = np.array([0.0, 6, 13.5, 23.99], np.float32)
    weight = embedder.projection.weight.detach().numpy()  # (3, 2)
    expected = np.stack([np.sin(hours / 24 * 2 * np.pi), np.cos(hours / 24 * 2 * np.pi)], 1) @ weight.T
    found = embedder(torch.from_numpy(hours)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found[0] - found[3]).max() < 0.01 < np.abs(found[0] - found[1]).max()


def test_shares_of_bins():
    embedder = AutoDisEmbedding(SHARED, 3)
    values = np.array([-2.0, 0, 0.5, 30], np.float32)
    score, mix, vectors = (m.weight.detach().numpy() for m in (embedder.score, embedder.mix, embedder.vectors))
    for value, found in zip(values, embedder(torch.from_numpy(values)).detach().numpy()):
        hidden = [w * value if w * value > 0 else 0.01 * w * value for w in score[:, 0]]
        logits = [sum(m * h for m, h in zip(row, hidden)) + 0.1 * own for row, own in zip(mix, hidden)]
        shares = np.exp(np.array(logits) - max(logits))
        np.testing.assert_allclose(found, vectors @ (shares / shares.sum()), atol=1e-5)


@pytest.mark.parametrize("name", ["QIN", "DIN", "Transformer_DCN", "DeepFM"])
def test_a_day_later_is_the_same(name):
    features = item_table_feature_map(VOCAB, 8)
    features.features["hour"] = HOUR
    batch = random_item_batch(VOCAB, 8)
    torch.manual_seed(0)
    model = create_model(name, features).eval()
    if name != "DeepFM":
        assert "embedding_layer.embedding_layer.embedding_layers.hour.projection.weight" in model.state_dict()

    def at(hour: float) -> torch.Tensor:
        batch.rows["hour"] = torch.full((len(batch.target),), hour)
        return model(batch)["y_pred"]

    torch.testing.assert_close(at(1.0), at(25.0), atol=1e-6, rtol=0)
    assert not torch.equal(at(1.0), at(13.0))


@TYPES
def test_from_the_item_tables_files_to_the_service(spec, sample, tmp_path):
    for file in sample.glob("*.parquet"):
        rows = pl.read_parquet(file)
        hours = pl.Series("hour", np.arange(len(rows)) % 24, dtype=pl.Float32)
        (rows if file.stem == "item_info" else rows.with_columns(hours)).write_parquet(tmp_path / file.name)
    config = samples()["DIN"].config_dir
    settings = {"max_len": 8, "embedding_dim": 4, "model_root": str(tmp_path / "out")}
    prepared = prepare("DIN_sample", config, data=tmp_path, overrides=settings)
    columns = [*prepared.params["feature_cols"], {"name": "hour", "active": True, "dtype": "float", **spec}]
    prepared = prepared.varied({"feature_cols": columns})
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    with torch.no_grad():
        for weight in model.embedding_layer.embedding_layer.embedding_layers["hour"].parameters():
            torch.nn.init.normal_(weight, std=0.2)
    batch = next(iter(dataset.loader("test", shuffle=False)))
    expected = model(batch)["y_pred"].view(-1).detach().numpy()
    pytest.importorskip("onnxscript")
    from qin_zoo.serving.http.schema import _value
    from qin_zoo.serving.scorer import Scorer

    scorer = Scorer(export((prepared, dataset, model), tmp_path).path)
    described = next(d for d in scorer.inputs if d["name"] == "hour")
    assert _value(described)["type"] == "number"
    for row in range(10):
        context = {d["name"]: batch.rows[d["name"]][row].item() for d in scorer.inputs}
        score = scorer.score(batch.history[row].numpy(), batch.target[row : row + 1].numpy(), context)
        np.testing.assert_allclose(score, expected[row], atol=1e-6)


@TYPES
def test_a_named_field(spec, tmp_path):
    columns = [{**c, **spec} if c["name"] == "hour" else c for c in EXAMPLE]
    done = made(tmp_path, "example", columns, "DCNv2", parallel_dnn_hidden_units=[4])
    _, dataset, model, rows = done
    assert spec.items() <= dataset.feature_map.features["hour"].items()
    expected = model.predict(dataset.loader("test", shuffle=False))
    pytest.importorskip("onnxscript")
    from qin_zoo.serving.scorer import Scorer

    scorer = Scorer(export(done, tmp_path).path)
    found = [float(scorer.answer(as_request(scorer, row))[0][0]) for row in rows[:20]]
    np.testing.assert_allclose(found, expected[:20], atol=1e-6)


def test_what_is_refused(tmp_path):
    columns = [{"name": "hour", "active": True, "dtype": "float", "type": "cyclic"}]
    with pytest.raises(ConfigError, match=r"period is missing .* Add period: …"):
        made(tmp_path, "example", columns, "DCNv2")
    features = item_table_feature_map(VOCAB, 8)
    features.features["hour"] = HOUR
    with pytest.raises(ModelError, match="feature 'hour' is of type cyclic, which FuxiCTR's"):
        check_types(features, "Theirs")
