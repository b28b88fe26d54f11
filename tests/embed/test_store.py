"""The store of embeddings: rows come back as written, and nothing damaged or unfinished passes for good."""

from __future__ import annotations

import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from qin_zoo.embed import store as store_module
from qin_zoo.embed.store import STORE_FILE, EmbeddingStore
from qin_zoo.errors import DataError

ABOUT = {"encoder": "toy:8", "version": "toy 1.0", "fingerprint": "f" * 64}


def vectors(rows=50, dim=8, seed=0):
    table = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    table[0] = 0
    return table


def filled(folder, name="text", table=None, upto=None, batch=7):
    table = vectors() if table is None else table
    store = EmbeddingStore(folder)
    stored = store.create(name, *table.shape, **ABOUT)
    with store.writing(stored) as write:
        for start in range(0, upto or len(table), batch):
            write(table[start : start + batch])
    return store


def read(store, name):
    return np.vstack(list(store.blocks(name, rows=13)))


def test_rows_and_attributes_come_back(tmp_path):
    store = filled(tmp_path)
    stored = store.get("text")
    assert (stored.rows, stored.dim, stored.rows_done, stored.finished) == (50, 8, 50, True)
    assert {key: getattr(stored, key) for key in ABOUT} == ABOUT
    np.testing.assert_array_equal(read(store, "text"), vectors())
    np.testing.assert_array_equal(store.rows("text", 3, 9), vectors()[3:9])
    with h5py.File(store.path) as file:
        assert file["text"].chunks is not None
        assert file["text"].attrs["encoder"] == b"toy:8"


def test_an_unfinished_or_unknown_modality_is_refused(tmp_path):
    store = filled(tmp_path, upto=21)
    with pytest.raises(DataError, match="only 21 of 50 rows"):
        store.get("text")
    assert store.intact(store.find("text"))
    with pytest.raises(DataError, match="Did you mean 'text'"):
        store.get("txt")
    with pytest.raises(DataError, match="letters"):
        store.create("a/b", 5, 2, **ABOUT)
    with pytest.raises(DataError, match="expected a dataset folder"):
        EmbeddingStore(tmp_path / "nowhere")


def test_another_modality_leaves_the_first_as_it_is(tmp_path):
    store = filled(tmp_path)
    filled(tmp_path, "image", vectors(50, 3, seed=1))
    filled(tmp_path, "image", vectors(50, 5, seed=2))  # replaced
    np.testing.assert_array_equal(read(store, "text"), vectors())
    np.testing.assert_array_equal(read(store, "image"), vectors(50, 5, seed=2))
    assert [stored.name for stored in store.entries()] == ["image", "text"]
    assert store.get("text").finished


def test_a_failure_while_making_a_modality_changes_nothing(tmp_path, monkeypatch):
    store = filled(tmp_path)
    before = store.path.read_bytes()

    def fail(file, stored):
        file["half"] = [1]
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "_create_dataset", fail)
    with pytest.raises(KeyboardInterrupt):
        store.create("image", 50, 3, **ABOUT)
    assert store.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [STORE_FILE]


def test_writing_rows_changes_rows_and_progress_only(tmp_path):
    """So that a kill at any moment leaves a file that can be opened."""
    table = vectors(2000, 64)
    store = EmbeddingStore(tmp_path)
    stored = store.create("text", *table.shape, **ABOUT)
    before = np.frombuffer(store.path.read_bytes(), np.uint8)
    with store.writing(stored) as write:
        for start in range(0, 2000, 500):
            write(table[start : start + 500])
    after = np.frombuffer(store.path.read_bytes(), np.uint8)
    assert len(after) == len(before)
    runs = np.flatnonzero(before != after)
    start, stop = after.tobytes().index(table[1].tobytes()) - 256, 2000 * 256
    outside = runs[(runs < start) | (runs >= start + stop)]
    assert np.ptp(outside) < 1024  # one object header


@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_store_is_refused(tmp_path, kept):
    store = filled(tmp_path)
    content = store.path.read_bytes()
    store.path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(DataError, match=r"damaged|expected"):
        store.get("text")
    assert store.set_aside().name == "item_embeddings.h5.damaged"
    assert store.entries() == []


def test_no_changed_byte_passes(tmp_path):
    """A changed byte is either found, or lies where it changes nothing."""
    store = filled(tmp_path)
    content, found = store.path.read_bytes(), 0
    places = np.unique(np.linspace(0, len(content) - 1, 400).astype(int))
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 0x15
        store.path.write_bytes(changed)
        try:
            stored = store.get("text")
            assert {key: getattr(stored, key) for key in ABOUT} == ABOUT
            np.testing.assert_array_equal(read(store, "text"), vectors())
        except DataError:
            found += 1
    rows = vectors().nbytes / len(content)
    assert found >= 0.9 * rows * len(places)


def test_a_foreign_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / STORE_FILE, "w") as file:
        file["text"] = [b"no vectors"]
    with pytest.raises(DataError, match="expected an HDF5 store"):
        EmbeddingStore(tmp_path).entries()


def test_a_store_in_use_is_left_alone(tmp_path):
    store = filled(tmp_path)
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, store.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        for use in (store.entries, store.set_aside, lambda: store.create("image", 5, 2, **ABOUT)):
            with pytest.raises(DataError, match="another process"):
                use()
        process.stdin.close()
    assert store.get("text").finished


def test_a_copy_of_the_store_is_as_good(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copy(filled(tmp_path / "a").path, tmp_path / "b")
    np.testing.assert_array_equal(read(EmbeddingStore(tmp_path / "b"), "text"), vectors())
