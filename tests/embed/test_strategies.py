"""The four strategies against a plain SVD of the whole table, and the item table they write."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from qin_zoo.embed import strategies
from qin_zoo.embed.store import EmbeddingStore
from qin_zoo.embed.strategies import STRATEGIES, fuse
from qin_zoo.errors import DataError

ITEMS = 400


def put(folder, name, table):
    store = EmbeddingStore(folder)
    stored = store.create(name, *table.shape, encoder=f"toy:{name}", version="1", fingerprint="f" * 64)
    with store.writing(stored) as write:
        write(table)


def correlated(g, items, dim):
    """Vectors whose directions differ clearly in variance, with a mean."""
    table = g.normal(size=(items, dim)) * np.geomspace(5, 0.2, dim)
    table = table @ np.linalg.qr(g.normal(size=(dim, dim)))[0] + g.normal(size=dim)
    table[0] = 0
    return table.astype(np.float32)


@pytest.fixture
def tables():
    g = np.random.default_rng(11)
    text, image = correlated(g, ITEMS, 24), correlated(g, ITEMS, 30)
    text[[3, 8, 50]] = 0
    image[[8, 60]] = 0
    return {"text": text, "image": image}


@pytest.fixture
def folder(tmp_path, tables):
    for name, table in tables.items():
        put(tmp_path, name, table)
    pl.DataFrame(
        {
            "item_id": range(ITEMS),
            "item_emb_d8": np.ones((ITEMS, 8), np.float32).tolist(),
            "item_tags": [[i % 7, 0] for i in range(ITEMS)],
        }
    ).write_parquet(tmp_path / "item_info.parquet")
    return tmp_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(strategies, "_BLOCK_ROWS", 37)  # many blocks and several batches of the fit


def reference(table, dim, whiten=False):
    """PCA by one SVD, on the rows without zeros; vectors, share of variance and fitted rows."""
    good = table.any(axis=1)
    x = table[good].astype(np.float64)
    mean = x.mean(axis=0)
    _, s, vt = np.linalg.svd(x - mean, full_matrices=False)
    out = np.zeros((len(table), dim))
    out[good] = (x - mean) @ vt[:dim].T
    if whiten:
        out /= s[:dim] / np.sqrt(len(x) - 1)
    return out, (s[:dim] ** 2).sum() / (s**2).sum(), int(good.sum())


def embedded(report):
    return np.array(pl.read_parquet(report.path)[report.column].to_list(), np.float32)


def assert_same_up_to_sign(found, expected):
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("strategy", ["text_only", "image_only", "pca_then_concat"])
def test_against_a_plain_svd(folder, tables, strategy, whiten):
    report = fuse(folder, strategy, dim=9, whiten=whiten)
    sizes = {"text_only": {"text": 9}, "image_only": {"image": 9}, "pca_then_concat": {"text": 5, "image": 4}}[strategy]
    expected = [reference(tables[name], size, whiten) for name, size in sizes.items()]
    assert_same_up_to_sign(embedded(report), np.hstack([vectors for vectors, _, _ in expected]))
    for part, (_, explained, items) in zip(report.parts, expected):
        assert part.explained == pytest.approx(explained, rel=1e-5)
        assert sum(part.explained_by_component) == pytest.approx(part.explained)
        assert (part.items, part.left_out) == (items, ITEMS - 1 - items)
    if whiten:
        for place, name in enumerate(sizes):
            rows = embedded(report)[tables[name].any(axis=1)]
            start = 0 if place == 0 else sizes["text"]
            rows = rows[:, start : start + sizes[name]]
            np.testing.assert_allclose(np.cov(rows.T), np.eye(sizes[name]), atol=1e-3)


@pytest.mark.parametrize("whiten", [False, True])
def test_concat_then_pca(folder, tables, whiten):
    report = fuse(folder, "concat_then_pca", dim=12, whiten=whiten)
    both = np.hstack([tables["text"], tables["image"]])
    good = tables["text"].any(axis=1) & tables["image"].any(axis=1)
    expected, explained, items = reference(np.where(good[:, None], both, 0), 12, whiten)
    found = embedded(report)
    assert_same_up_to_sign(found[good], expected[good])
    assert report.parts[0].explained == pytest.approx(explained, rel=1e-5)
    assert report.parts[0].items == items == ITEMS - 5
    # item 8 has neither, item 3 an image only: its text counts as the mean text
    assert not found[[0, 8]].any()
    assert found[[3, 50, 60]].any(axis=1).all()
    x = both[good].astype(np.float64)
    mean = x.mean(axis=0)
    vt = np.linalg.svd(x - mean, full_matrices=False)[2][:12]
    filled = both[3] - mean
    filled[:24] = 0
    if not whiten:
        np.testing.assert_allclose(np.abs(found[3]), np.abs(vt @ filled), rtol=1e-3, atol=1e-4)


def test_the_table_is_the_item_table_with_the_column(folder):
    before = (folder / "item_info.parquet").read_bytes()
    report = fuse(folder, "pca_then_concat", dim=8)
    assert report.path == folder / "item_info_pca_then_concat.parquet"
    frame, old = pl.read_parquet(report.path), pl.read_parquet(folder / "item_info.parquet")
    assert frame.columns == old.columns  # replaced where it stood
    assert frame.drop("item_emb_d8").equals(old.drop("item_emb_d8"))
    assert frame["item_emb_d8"].dtype == pl.List(pl.Float32)
    assert not np.array(frame["item_emb_d8"][0].to_list()).any()
    assert pl.read_parquet(fuse(folder, "text_only", dim=5).path).columns == [*old.columns, "item_emb_d5"]
    assert (folder / "item_info.parquet").read_bytes() == before
    content = json.loads((folder / "item_info_pca_then_concat.json").read_text())
    assert content["parts"][0]["explained"] == report.parts[0].explained
    assert content["encoders"]["image"]["encoder"] == "toy:image"
    again = fuse(folder, "pca_then_concat", dim=8)
    assert pl.read_parquet(again.path).equals(frame)  # deterministic


def test_whitening_leaves_rounding_alone(tmp_path):
    g = np.random.default_rng(1)
    table = (g.normal(size=(100, 2)) @ g.normal(size=(2, 6))).astype(np.float32)  # rank 2
    table[0] = 0
    put(tmp_path, "text", table)
    pl.DataFrame({"item_id": range(100)}).write_parquet(tmp_path / "item_info.parquet")
    report = fuse(tmp_path, "text_only", dim=4, whiten=True)
    assert np.abs(embedded(report)).max() < 6
    same = np.ones((100, 3), np.float32)
    same[0] = 0
    put(tmp_path, "text", same)
    report = fuse(tmp_path, "text_only", dim=2, whiten=True)
    assert not embedded(report).any()
    assert report.parts[0].explained == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "text"}, "Did you mean 'text_only'"),
        ({"strategy": "text_only", "dim": 25}, "at most its 24 numbers"),
        ({"strategy": "pca_then_concat", "dim": 1}, "at least 1 per modality"),
        ({"strategy": "text_only", "dim": 0}, "at least 1"),
        ({"text": "txt"}, "Did you mean 'text'"),
        ({"image": "text"}, "twice"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(DataError, match=message):
        fuse(folder, **{"dim": 8, **options})
    assert not list(folder.glob("item_info_*"))


def test_bad_folders(folder):
    put(folder, "short", np.ones((5, 3), np.float32))
    with pytest.raises(DataError, match="expected 400 rows"):
        fuse(folder, "text_only", text="short", dim=2)
    few = np.zeros((ITEMS, 6), np.float32)
    few[1:4] = np.random.default_rng(0).normal(size=(3, 6))
    put(folder, "few", few)
    with pytest.raises(DataError, match="at least 5 items with vectors, found 3"):
        fuse(folder, "text_only", text="few", dim=4)
    EmbeddingStore(folder).create("open", ITEMS, 6, encoder="e", version="1", fingerprint="f")
    with pytest.raises(DataError, match="only 0 of 400"):
        fuse(folder, "text_only", text="open", dim=4)
    info = pl.read_parquet(folder / "item_info.parquet")
    info.reverse().write_parquet(folder / "item_info.parquet")
    with pytest.raises(DataError, match="row i has to describe item i"):
        fuse(folder, "text_only", dim=4)
    content = (folder / "item_info.parquet").read_bytes()
    (folder / "item_info.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="truncated"):
        fuse(folder, "text_only", dim=4)
    assert not list(folder.glob("*item_info_*"))


def test_a_damaged_store_is_never_fused(folder):
    import h5py

    with h5py.File(folder / "item_embeddings.h5", "r+") as file:
        file["text"][9, 0] += 1
    with pytest.raises(DataError, match="damaged"):
        fuse(folder, "text_only", dim=4)


def test_strategies_have_dataset_configurations():
    from conftest import REPOSITORY

    configured = (REPOSITORY / "dataset_configs" / "MicroLens_1M_x1_embeddings.yaml").read_text()
    for strategy in STRATEGIES:
        assert f"item_info_{strategy}.parquet" in configured or strategy == "concat_then_pca"


def test_a_great_mean_costs_no_digits(tmp_path):
    g = np.random.default_rng(2)
    table = (g.normal(size=(300, 5)) * [3, 2, 1, 0.5, 0.2] + 1000).astype(np.float32)
    table[0] = 0
    put(tmp_path, "text", table)
    pl.DataFrame({"item_id": range(300)}).write_parquet(tmp_path / "item_info.parquet")
    report = fuse(tmp_path, "text_only", dim=5)
    expected, _, _ = reference(table, 5)
    assert_same_up_to_sign(embedded(report), expected)
    x = table[1:].astype(np.float64)
    variances = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(report.parts[0].explained_by_component, variances / variances.sum(), rtol=1e-6)


def test_row_groups_hold_many_blocks(folder, monkeypatch):
    monkeypatch.setattr(strategies, "_GROUP_BLOCKS", 3)
    report = fuse(folder, "text_only", dim=4)
    groups = pq.ParquetFile(report.path).metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [111, 111, 111, 67]
    monkeypatch.setattr(strategies, "_GROUP_BLOCKS", 16)
    before = embedded(report)
    np.testing.assert_array_equal(embedded(fuse(folder, "text_only", dim=4)), before)
