"""Codes as columns of the item table: right, reported rightly, and trained on."""

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
import yaml
from conftest import REPOSITORY
from typer.testing import CliRunner

from qin_zoo.cli import embed_learn
from qin_zoo.data import item_codes
from qin_zoo.data.specs import feature_specs
from qin_zoo.embed.codes import code_items, feature_line, quantize_folder
from qin_zoo.errors import DataError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment


def embeddings(n=80, d=6, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    return x


def write_items(folder, vectors, **more):
    folder.mkdir(exist_ok=True)
    table = {"item_id": list(range(len(vectors))), "emb": vectors, **more}
    pq.write_table(pa.table(table), folder / "item_info.parquet")
    return folder


def lloyd(x, codes):
    """Codebooks as the means of their items, and the code of the nearest of them: a plain step of k-means."""
    means = {c: x[codes == c].mean(0) for c in set(codes.tolist())}
    nearest = [min(means, key=lambda c: float(((row - means[c]) ** 2).sum())) for row in x]
    return means, np.array(nearest)


def test_a_plain_reference_agrees_level_by_level():
    x = embeddings()
    codes, report = code_items(x, 3, 5, iterations=100, seed=1)
    left = x[1:].double().numpy()
    total = (left**2).sum()
    for level in range(3):
        # k-means has settled: every item is at the nearest mean
        means, nearest = lloyd(left, codes[1:, level])
        assert nearest.tolist() == codes[1:, level].tolist()
        left = left - np.stack([means[c] for c in nearest])
        assert report.levels[level].error == pytest.approx((left**2).sum() / total, abs=1e-5)


def test_planted_clusters_are_recovered():
    group = torch.arange(301) % 4
    part = torch.arange(301) // 4 % 3
    x = 100 * torch.eye(7)[group] + 10 * torch.eye(7)[4 + part] + 0.01 * embeddings(301, 7)
    x[0] = 0
    codes, report = code_items(x, 2, 24, iterations=25, seed=0)
    pairs = {(g, p, *c) for g, p, c in zip(group[1:].tolist(), part[1:].tolist(), codes[1:].tolist())}
    whole = {c: (g, p) for g, p, *rest in pairs for c in [tuple(rest)]}
    assert all(whole[tuple(rest)] == (g, p) for g, p, *rest in pairs)  # no code stands for two clusters
    assert report.levels[1].error < 1e-5


def test_report_by_hand():
    # two items at each of two points, one item elsewhere, one without an embedding
    x = torch.tensor([[0, 0], [4, 0], [4, 0], [0, 3], [0, 3], [9, 9], [0, 0]], dtype=torch.float32)
    codes, report = code_items(x, 1, 8, iterations=25, seed=0)
    assert codes.dtype == np.int32
    assert codes[[0, 6], 0].tolist() == [0, 0]
    a, b, c = codes[1, 0], codes[3, 0], codes[5, 0]
    assert codes[:, 0].tolist() == [0, a, a, b, b, c, 0]
    assert len({a, b, c, 0}) == 4
    (level,) = report.levels
    assert level.used == 3 / 8
    assert level.perplexity == pytest.approx(math.exp(-2 * 0.4 * math.log(0.4) - 0.2 * math.log(0.2)))
    assert level.error == pytest.approx(0, abs=1e-9)
    assert (report.items, report.without_embedding, report.distinct) == (5, 1, 3)
    assert report.collision_rate == 4 / 5


def test_more_levels_fewer_collisions_and_errors():
    reports = [code_items(embeddings(400), levels, 8, 25, 1)[1] for levels in (1, 2, 3)]
    rates = [report.collision_rate for report in reports]
    assert rates[0] == 1
    assert rates[1] > rates[2]
    errors = [level.error for level in reports[2].levels]
    assert errors == sorted(errors, reverse=True)
    assert [level.error for level in reports[0].levels] == errors[:1]
    assert all(0 < level.used <= 1 and 1 <= level.perplexity <= 8 for level in reports[2].levels)


def test_table_report_and_seed(tmp_path):
    x = embeddings()
    x[7] = 0
    folder = write_items(tmp_path / "d", x.tolist(), tags=[[0]] * 80)
    path, report = quantize_folder(folder, "emb", 2, 8, 25, 3)
    table, before = pq.read_table(path), pq.read_table(folder / "item_info.parquet")
    assert table.column_names == ["item_id", "emb", "tags", "code_1", "code_2"]
    assert table.drop_columns(["code_1", "code_2"]).equals(before)
    codes = np.stack([table[name].to_numpy() for name in ("code_1", "code_2")], axis=1)
    assert np.flatnonzero(~codes.any(axis=1)).tolist() == [0, 7]
    assert (codes[codes > 0].min(), codes.max()) == (1, 8)
    np.testing.assert_array_equal(codes, code_items(x, 2, 8, 25, 3)[0])
    written = json.loads(path.with_suffix(".json").read_text())
    assert written["collision_rate"] == report.collision_rate
    assert written["levels"][1]["error"] == report.levels[1].error
    again, _ = quantize_folder(folder, "emb", 2, 8, 25, 3, force=True)
    assert pq.read_table(again).equals(table)
    # replaced, not repeated, and from the table itself where that is wished
    third, _ = quantize_folder(folder, "emb", 2, 8, 25, 4, info=path, output=path, force=True)
    assert pq.read_table(third).column_names == table.column_names


def test_equal_to_the_computed_feature(tmp_path):
    x = embeddings()
    folder = write_items(tmp_path / "d", x.tolist())
    spec = {"codes_of": "emb", "codebook_size": 8, "num_levels": 3}
    computed = item_codes.compute(spec, x, folder / "item_info.parquet", tmp_path / "cache")
    codes, _ = code_items(x, 3, 8, iterations=20, seed=item_codes._SEED)
    assert torch.equal(computed[1:], torch.from_numpy(codes)[1:] + 8 * torch.arange(3))
    assert not computed[0].any()


def test_feature_line_is_what_dataset_configurations_declare():
    _, report = code_items(embeddings(), 2, 8, 5, 1, "item_emb_d128")
    line = yaml.safe_load(feature_line(report))[0]
    specs = feature_specs({"dataset_id": "d", "feature_cols": [line]})
    assert list(specs) == ["code_1", "code_2"]
    assert specs["code_2"]["vocab_size"] == 9
    declared = yaml.safe_load((REPOSITORY / "dataset_configs" / "codes.yaml").read_text())["MicroLens_1M_x1_codes"]
    assert line.keys() == next(c for c in declared["feature_cols"] if c["name"] == "item_id").keys()


def vectors(**rows):
    x = embeddings(10).tolist()
    for row, value in rows.items():
        x[int(row[1:])] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (vectors(r0=[1.0] * 6), "row 0: expected zeros"),
        ([[0.0]] * 10, "found zeros for all 9 items"),
        (vectors(r4=[float("nan")] * 6), "row 4.*finite"),
        (vectors(r4=[1.0]), "row 4.*length"),
        (vectors(r4=None), "row 4.*null"),
        (["text"] * 10, "list of finite numbers"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, x, words):
    folder = write_items(tmp_path / "d", x)
    with pytest.raises(DataError, match=words):
        quantize_folder(folder, "emb")
    assert sorted(p.name for p in folder.glob("*.*")) in (
        [".qin_zoo_cache", "item_info.parquet"],
        ["item_info.parquet"],
    )


def test_arguments_that_cannot_be_used(tmp_path):
    folder = write_items(tmp_path / "d", vectors(), code_1=[0] * 10)
    for change in ({"levels": 0}, {"codebook_size": 0}, {"iterations": 0}):
        with pytest.raises(DataError, match=next(iter(change))):
            quantize_folder(folder, "emb", **change)
    with pytest.raises(DataError, match="Did you mean 'emb'"):
        quantize_folder(folder, "embd", force=True)
    with pytest.raises(DataError, match="'code_1': the column exists"):
        quantize_folder(folder, "emb")
    quantize_folder(folder, "emb", 1, 4, force=True)
    with pytest.raises(DataError, match="the file exists"):
        quantize_folder(folder, "emb")


@pytest.mark.parametrize("model", ["QIN", "Transformer_DCN_Quant"])
def test_command_and_training_on_its_table(model, sample, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(sample, folder, ignore=shutil.ignore_patterns(".qin_zoo_cache"))
    app = typer.Typer()
    app.command("align")(embed_learn.align)
    app.command("quantize")(embed_learn.quantize)
    command = ["quantize", str(folder), "--codebook-size", "8", "--levels", "2"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    table = folder / "item_info_codes.parquet"
    report = json.loads(table.with_suffix(".json").read_text())
    assert f"{report['collision_rate']:.2%}" in result.output
    for level in report["levels"]:
        assert f"{level['error']:.4f}" in result.output

    # the lines that the command prints, in a dataset configuration
    lines = [line.strip() for line in result.output.splitlines() if line.strip().startswith("- {name: ")]
    printed = [yaml.safe_load(line)[0] for line in lines]
    assert len(printed) == 1
    dataset = yaml.safe_load((REPOSITORY / "dataset_configs" / "sample.yaml").read_text())["sample"]
    dataset["feature_cols"] += printed
    files = {f"{split}_data": str(folder / f"{split}.parquet") for split in ("train", "valid", "test")}
    config = tmp_path / "config"
    config.mkdir()
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"sample": {**dataset, **files}}))
    source = REPOSITORY / "experiments" / model / "model_config.yaml"
    blocks = yaml.safe_load(source.read_text())
    block = {**blocks["Base"], **blocks[f"{model}_sample"], "dataset_id": "sample", "embedding_dim": 4, "max_len": 8}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"codes": {**block, "epochs": 1, "batch_size": 512}}))
    prepared = prepare("codes", config, overrides=[f"item_info={table}", f"model_root={tmp_path}"])
    record = run_experiment(prepared, results_folder=tmp_path, echo=lambda line: None)
    assert 0 < record["valid"]["AUC"] < 1
    features = prepared.open_dataset().feature_map.features
    assert features["code_1"]["vocab_size"] == 9
