"""Contrastive alignment: its loss against a loop, its effect on a planted problem, and what it reads."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from qin_zoo.cli import embed_learn
from qin_zoo.data import columns
from qin_zoo.embed import align
from qin_zoo.embed.align import (
    AlignOptions,
    Projection,
    align_embeddings,
    align_folder,
    info_nce,
    rank,
    read_co_clicks,
    related,
)
from qin_zoo.errors import DataError

ITEMS, TASTES = 200, 10
FAST = AlignOptions(dim=16, epochs=4, batch_size=256, learning_rate=0.01)


def write_dataset(folder, clicks=3000, seed=0, **change):
    """Items whose taste is a faint part of a noisy embedding, and users who click items of one taste."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    taste = np.arange(ITEMS + 1) % TASTES
    hidden = np.concatenate([np.eye(TASTES)[taste], 1.5 * rng.standard_normal((ITEMS + 1, 22))], axis=1)
    emb = (hidden @ np.linalg.qr(rng.standard_normal((32, 32)))[0]).astype(np.float32)
    emb[0] = 0
    user = rng.integers(0, clicks // 3, 2 * clicks)
    label = np.arange(2 * clicks) % 2
    own = taste_items(rng, user % TASTES)
    item = np.where(label == 1, own, rng.integers(1, ITEMS + 1, 2 * clicks))
    history = np.stack([taste_items(rng, user % TASTES) for _ in range(6)], axis=1)
    history[:, 0] = 0
    rows = {"user_id": user, "item_id": item, "item_seq": list(history), "label": label, **change}
    pq.write_table(pa.table({k: v for k, v in rows.items() if v is not None}), folder / "train.parquet")
    items = {"item_id": np.arange(ITEMS + 1), "item_emb": list(emb), "item_tags": [[0]] * (ITEMS + 1)}
    pq.write_table(pa.table(items), folder / "item_info.parquet")
    return folder


def taste_items(rng, taste):
    """An item of each taste; item i has taste i % TASTES."""
    item = taste + TASTES * rng.integers(0, ITEMS // TASTES, len(taste))
    return np.where(item == 0, ITEMS, item)


def run(folder, options=FAST, **more):
    path, report = align_folder(folder, "item_emb", "aligned", options, progress=False, **more)
    return np.array(pq.read_table(path)["aligned"].to_pylist(), dtype=np.float32), report


def loop_loss(a, b, pairs, temperature):
    """The formula of the module's docstring, one term at a time."""
    (x, y, user), n = pairs, a.shape[0]
    total = torch.zeros((), dtype=a.dtype)
    for i in range(n):
        negatives = [
            j for j in range(n) if j != i and user[i] != user[j] and not {x[i], y[i]} & {x[j], y[j]}
        ]  # fmt: skip
        for left, right in ((a, b), (b, a)):
            terms = [torch.exp(left[i] @ right[j] / temperature) for j in (i, *negatives)]
            total = total - torch.log(terms[0] / sum(terms)) / 2
    return total / n


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_loss_and_gradient_equal_a_loop(temperature):
    g = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randint(0, k, (12,), generator=g) for k in (9, 9, 7)])
    found = related(pairs)
    assert 0 < (~found).sum() < found.numel() - 12  # some pairs are negatives, some are masked
    z = torch.randn(2, 12, 5, generator=g, dtype=torch.float64)
    ours, plain = (z.clone().requires_grad_() for _ in range(2))
    unit = torch.nn.functional.normalize
    loss = info_nce(*unit(ours, dim=2), found, temperature)
    expected = loop_loss(*unit(plain, dim=2), pairs.tolist(), temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, w)[0] for v, w in ((loss, ours), (expected, plain))))


def test_pairs_of_one_user_push_nothing():
    z = torch.nn.functional.normalize(torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)), dim=2)
    z.requires_grad_()
    pairs = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
    loss = info_nce(*z, related(pairs), 0.1)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, z)[0].any()


def test_ranking_by_hand():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    known = torch.tensor([False, True, True, True, True, True, False])
    # from 1: item 2 first, 3 and 4 share ranks 2 and 3, 5 last
    found = rank(vectors, known, np.array([[1, 1, 1], [2, 4, 5], [0, 0, 0]]))
    assert found.mrr == pytest.approx((1 + 1 / 2.5 + 1 / 4) / 3)
    assert found.recall == 1
    assert rank(vectors, known, np.zeros((3, 0), np.int64)) is None


@pytest.mark.parametrize(("dim", "hidden"), [(32, 0), (40, 0), (32, 8)])
def test_training_starts_at_the_old_similarities(dim, hidden):
    x = torch.nn.functional.normalize(torch.randn(20, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.no_grad():
        z = Projection(x, dim, hidden, seed=1)(x)
    torch.testing.assert_close(z @ z.t(), x @ x.t())
    # fewer dimensions: those that lose least
    with torch.no_grad():
        weight = Projection(x, 5, 0, seed=1).weight
    best = torch.linalg.svdvals(x)[:5].square().sum()
    torch.testing.assert_close((x @ weight.t()).square().sum(), best)


@pytest.mark.parametrize("hidden", [0, 32])
def test_planted_taste_is_found(tmp_path, hidden):
    folder = write_dataset(tmp_path / "d")
    options = AlignOptions(dim=16, hidden=hidden, epochs=4, batch_size=256, learning_rate=0.01)
    aligned, report = run(folder, options)
    # 20 items of each taste: nobody can reach more than about 10 of 19
    assert report.before.recall < 0.2
    assert report.after.recall > 0.4
    assert report.after.mrr > 1.5 * report.before.mrr
    assert report.losses[-1] < report.losses[0]
    taste = np.arange(1, ITEMS + 1) % TASTES
    similarity = aligned[1:] @ aligned[1:].T
    same = taste[:, None] == taste
    assert similarity[same].mean() > similarity[~same].mean() + 0.4


def test_table_and_report(tmp_path):
    folder = write_dataset(tmp_path / "d", clicks=300)
    aligned, report = run(folder, AlignOptions(dim=8, epochs=1, batch_size=64))
    assert aligned.shape == (ITEMS + 1, 8)
    assert not aligned[0].any()
    np.testing.assert_allclose(np.linalg.norm(aligned[1:], axis=1), 1, atol=1e-5)
    before, after = (pq.read_table(folder / f"item_info{end}.parquet") for end in ("", "_aligned"))
    assert after.column_names == [*before.column_names, "aligned"]
    assert after.drop_columns(["aligned"]).equals(before)
    written = json.loads((folder / "item_info_aligned.json").read_text())
    assert written["after"]["recall"] == report.after.recall
    assert written["options"]["dim"] == 8
    assert (report.items, report.clicks) == (ITEMS, 300)
    assert 0 < report.held_out_users < report.users <= 100


def test_same_seed_same_bits(tmp_path):
    folder = write_dataset(tmp_path / "d", clicks=300)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (
        run(folder, AlignOptions(dim=8, hidden=4, epochs=2, batch_size=64, seed=seed), force=True) for seed in (1, 1, 2)
    )
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1] == again[1]
    assert first[0].tobytes() != other[0].tobytes()
    assert torch.equal(state, torch.get_rng_state())


def test_only_clicks_of_the_training_split_count(tmp_path, monkeypatch):
    plain = write_dataset(tmp_path / "plain", clicks=300)
    rows = pq.read_table(plain / "train.parquet").to_pydict()
    poisoned = tmp_path / "poisoned"
    shutil.copytree(plain, poisoned, ignore=shutil.ignore_patterns(".qin_zoo_cache"))
    # co-clicks of items of different tastes where none may be read, in such number that they would tell
    pairs = {"user_id": [1] * 5000, "item_id": [11] * 5000, "item_seq": [[22]] * 5000, "label": [1] * 5000}
    pq.write_table(pa.table(pairs), poisoned / "valid.parquet")
    pq.write_table(pa.table(pairs), poisoned / "test.parquet")
    rows["item_id"] = [22 if label == 0 else item for item, label in zip(rows["item_id"], rows["label"])]
    rows["item_seq"] = [[11] if label == 0 else items for items, label in zip(rows["item_seq"], rows["label"])]
    pq.write_table(pa.table(rows), poisoned / "train.parquet")
    opened = []
    monkeypatch.setattr(columns, "check_file", lambda path: opened.append(path.name))
    options = AlignOptions(dim=8, epochs=2, batch_size=64)
    assert run(plain, options)[0].tobytes() == run(poisoned, options)[0].tobytes()
    assert set(opened) == {"train.parquet", "item_info.parquet"}


def test_pairs_are_a_click_and_its_history(tmp_path, monkeypatch):
    monkeypatch.setattr(align, "_CHUNK", 7)
    folder = write_dataset(tmp_path / "d", clicks=40)
    clicks = read_co_clicks(folder / "train.parquet", ITEMS + 1)
    rows = pq.read_table(folder / "train.parquet").to_pydict()
    assert clicks.rows.tolist() == [i for i, label in enumerate(rows["label"]) if label == 1]
    known = np.arange(ITEMS + 1) > 3
    target, other, user = clicks.draw(np.arange(40), 50, known, np.random.default_rng(0))
    names = np.unique([rows["user_id"][i] for i in clicks.rows])
    drawn = set(zip(target.tolist(), other.tolist(), names[user].tolist()))
    expected = {
        (rows["item_id"][i], other, rows["user_id"][i])
        for i in clicks.rows
        for other in rows["item_seq"][i]
        if other > 3 and rows["item_id"][i] > 3 and other != rows["item_id"][i]
    }
    assert drawn == expected


def test_users_are_held_out_whole(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "d", clicks=300)
    clicks = read_co_clicks(folder / "train.parquet", ITEMS + 1)
    drawn = []
    draw = align.CoClicks.draw
    monkeypatch.setattr(align.CoClicks, "draw", lambda self, *args: drawn.append(draw(self, *args)) or drawn[-1])
    emb = torch.randn(ITEMS + 1, 4, generator=torch.Generator().manual_seed(0))
    emb[0] = emb[5] = 0
    aligned, _ = align_embeddings(emb, clicks, AlignOptions(dim=4, epochs=2, batch_size=64), progress=False)
    held, *trained = (set(pairs[2].tolist()) for pairs in drawn)
    assert held
    assert trained
    assert all(held.isdisjoint(users) for users in trained)
    assert not aligned[5].any()
    assert all(5 not in pairs[:2] for pairs in drawn)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": np.zeros(600, np.int64)}, "found 0 clicks in 600 rows"),
        ({"item_seq": [[0, 0]] * 600}, "found 300 clicks in 600 rows, none with a history"),
        ({"item_id": np.full(600, 7), "item_seq": [[7]] * 600}, "another one with an embedding"),
        ({"user_id": np.ones(600, np.int64), "item_id": np.full(600, 7)}, "is the other's negative"),
        ({"item_id": np.full(600, ITEMS + 1)}, f"expected ids below {ITEMS + 1}"),
        ({"item_seq": None}, "expected a column 'item_seq'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, words):
    folder = write_dataset(tmp_path / "d", clicks=300, **change)
    with pytest.raises(DataError, match=words):
        run(folder, AlignOptions(dim=4, epochs=1))
    assert not list(folder.glob("*aligned*"))


def test_without_user_ids_each_row_is_a_user(tmp_path):
    folder = write_dataset(tmp_path / "d", clicks=300, user_id=None)
    assert read_co_clicks(folder / "train.parquet", ITEMS + 1).user.tolist() == list(range(300))


def test_arguments_that_cannot_be_used(tmp_path):
    folder = write_dataset(tmp_path / "d", clicks=300)
    for change in ({"temperature": 0.0}, {"batch_size": 1}, {"held_out": 1.0}, {"learning_rate": float("nan")}):
        with pytest.raises(DataError, match=next(iter(change))):
            AlignOptions(**change)
    with pytest.raises(DataError, match="Did you mean 'item_emb'"):
        align_folder(folder, "item_embb", progress=False)
    with pytest.raises(DataError, match="Name another"):
        align_folder(folder, "item_emb", "item_emb", progress=False)
    with pytest.raises(DataError, match="folder"):
        align_folder(tmp_path / "nowhere", progress=False)
    options = AlignOptions(dim=4, epochs=1)
    run(folder, options)
    with pytest.raises(DataError, match="--force"):
        run(folder, options)
    run(folder, options, force=True)
    with pytest.raises(DataError, match="the column exists"):
        run(folder, options, info="item_info_aligned.parquet", output="again.parquet")


def test_command(sample, tmp_path):
    folder = tmp_path / "sample"
    shutil.copytree(sample, folder, ignore=shutil.ignore_patterns(".qin_zoo_cache"))
    app = typer.Typer()
    app.command("align")(embed_learn.align)
    app.command("quantize")(embed_learn.quantize)
    command = ["align", str(folder), "--dim", "16", "--epochs", "2", "--batch-size", "256"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "item_info_aligned.json").read_text())
    for figure in (report["before"]["recall"], report["after"]["recall"], report["after"]["mrr"]):
        assert f"{figure:.4f}" in result.output
    assert "name: item_emb_aligned" in result.output
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, DataError)
    assert "--force" in str(result.exception)
