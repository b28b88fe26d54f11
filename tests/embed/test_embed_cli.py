"""``qin-zoo embed``: from texts to a fused item table."""

from __future__ import annotations

import h5py
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from qin_zoo.cli.embed import app
from qin_zoo.errors import DataError

WORDS = ("red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "sings", "fast")


@pytest.fixture
def folder(tmp_path):
    g = np.random.default_rng(3)
    texts = [" ".join(g.choice(WORDS, 4)) for _ in range(1, 60)]
    pl.DataFrame({"item_id": range(60)}).write_parquet(tmp_path / "item_info.parquet")
    pl.DataFrame({"item_id": range(1, 60), "text": texts}).write_parquet(tmp_path / "item_text.parquet")
    vectors = g.normal(size=(60, 12)).astype(np.float32)
    vectors[0] = 0
    np.save(tmp_path / "clip.npy", vectors)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})


def test_encode_list_and_fuse(folder):
    result = invoke("encode", folder, "--encoder", "tfidf-svd:8", "--batch-size", 16)
    assert result.exit_code == 0, result.output
    assert "rows 0 to 59 encoded with tfidf-svd:8" in result.output
    assert "nothing to do" in invoke("encode", folder, "--encoder", "tfidf-svd:8").output
    result = invoke("encode", folder, "--encoder", f"precomputed:{folder}/clip.npy", "--modality", "image")
    assert result.exit_code == 0, result.output
    result = invoke("list", folder)
    assert result.exit_code == 0, result.output
    assert result.output.count("finished") == 2
    result = invoke("fuse", folder, "--dim", 6, "--whiten")
    assert result.exit_code == 0, result.output
    assert "explained variance" in result.output
    assert "item_info_pca_then_concat.parquet" in result.output
    vectors = np.array(pl.read_parquet(folder / "item_info_pca_then_concat.parquet")["item_emb_d6"].to_list())
    assert vectors.shape == (60, 6)
    np.testing.assert_allclose(vectors[1:].var(axis=0, ddof=1), 1, rtol=1e-3)
    with h5py.File(folder / "item_embeddings.h5", "r+") as file:
        file["text"][5, 0] += 1
    result = invoke("list", folder)
    assert result.exit_code == 1
    assert "damaged" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "precomputed:{}/clip.npy"], "Give --modality"),
        (["--encoder", "precomputed:{}/clip.npy", "--modality", "a", "--text", "text"], "Leave them out"),
        (["--images", "{}", "--text", "text"], "found both"),
        (["--images", "{}"], "tfidf-svd: expected text inputs, found image"),
        (["--text", "title"], "expected a column 'title'"),
        (["--modality", "a b"], "letters"),
    ],
)
def test_mistakes_are_data_errors(folder, arguments, message):
    result = invoke("encode", folder, *(a.format(folder) for a in arguments))
    assert isinstance(result.exception, DataError)
    assert message in str(result.exception)
    assert not (folder / "item_embeddings.h5").exists()
