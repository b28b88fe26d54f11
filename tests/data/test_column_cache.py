"""What stays on disk between two runs, and what must not."""

import errno
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_path_files import write

from qin_zoo.data import cache, columns, sources, stored
from qin_zoo.data.columns import open_table
from qin_zoo.errors import DataError
from qin_zoo.files import read_object

KINDS = {"a": "id", "h": "history"}


@pytest.fixture(autouse=True)
def no_chosen_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("QIN_ZOO_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "data" / "train.parquet", {"a": list(range(300)), "h": [[1] * (i % 5) for i in range(300)]})


def forbid_conversion(monkeypatch):
    def never(*_, **__):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(columns, "open_source", never)


def files(root: Path) -> list[str]:
    return sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())


def entries(path: Path) -> list[Path]:
    return list((path.parent / ".qin_zoo_cache").iterdir())


def test_second_open_reads_nothing(path, monkeypatch):
    first = open_table(path, KINDS)
    forbid_conversion(monkeypatch)
    second = open_table(path, KINDS)
    assert second.fingerprint == first.fingerprint
    assert second["a"].max == 299
    np.testing.assert_array_equal(second["h"].values, first["h"].values)
    np.testing.assert_array_equal(second["h"].offsets, first["h"].offsets)


def test_layout_of_the_cache(path):
    open_table(path, KINDS)
    (entry,) = entries(path)
    assert entry.name == f"train.parquet-{cache.source_key(path)}"
    assert files(entry) == ["a.id/column.json", "a.id/values.npy", "h.history/column.json", "h.history/offsets.npy",
                            "h.history/values.npy", "source.json"]  # fmt: skip
    assert np.load(entry / "a.id" / "values.npy", allow_pickle=False).tolist() == list(range(300))


def test_only_new_columns_are_converted(path, monkeypatch):
    open_table(path, {"a": "id"})
    (entry,) = entries(path)
    before = (entry / "a.id" / "values.npy").stat()
    asked = []
    original = sources.ParquetSource.chunks
    monkeypatch.setattr(
        sources.ParquetSource, "chunks", lambda self, names: original(self, asked.append(list(names)) or asked[-1])
    )
    monkeypatch.setattr(cache, "content_hash", lambda *_: pytest.fail("the file was hashed again"))
    open_table(path, KINDS)
    assert asked == [["h"]]
    after = (entry / "a.id" / "values.npy").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_one_column_under_two_kinds(path):
    assert open_table(path, {"a": "id"})["a"].values.dtype == np.uint16
    assert open_table(path, {"a": "float"})["a"].values.dtype == np.float32
    assert open_table(path, {"a": "id"})["a"].values.dtype == np.uint16


def test_a_changed_source_is_converted_anew_and_the_old_entry_removed(path):
    old = open_table(path, KINDS)
    write(path.parent / "train.npz", {"a": [1]})  # a neighbour of the same stem is left alone
    shutil.copytree(entries(path)[0], entries(path)[0].with_name("train.npz-0123456789abcdef"))
    write(path, {"a": [7, 8], "h": [[1], [2]]})
    new = open_table(path, KINDS)
    assert new["a"].values.tolist() == [7, 8]
    assert new.fingerprint != old.fingerprint
    assert sorted(e.name for e in entries(path)) == [
        "train.npz-0123456789abcdef",
        f"train.parquet-{cache.source_key(path)}",
    ]
    assert old["a"].values[299] == 299  # who has the old columns open keeps them


def test_same_size_but_touched(path):
    open_table(path, KINDS)
    os.utime(path, ns=(1, 1))
    open_table(path, KINDS)
    assert [e.name for e in entries(path)] == [f"train.parquet-{cache.source_key(path)}"]


def test_fingerprint_follows_the_content(path, tmp_path):
    first = open_table(path, KINDS).fingerprint
    assert first["file"] == "train.parquet"
    assert first["rows"] == 300
    copy = tmp_path / "elsewhere" / "train.parquet"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    assert open_table(copy, {"a": "id"}).fingerprint == first
    write(copy, {"a": list(range(300))})
    assert open_table(copy, {"a": "id"}).fingerprint["blake2b"] != first["blake2b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("killed"), MemoryError()])
def test_a_killed_conversion_leaves_nothing(path, monkeypatch, error):
    monkeypatch.setattr(sources, "CHUNK_ROWS", 50)
    original, calls = stored.write, []

    def dies(file, values):
        calls.append(1)
        if len(calls) > 7:
            raise error
        original(file, values)

    monkeypatch.setattr(stored, "write", dies)
    with pytest.raises(type(error)):
        open_table(path, KINDS)
    assert entries(path) == []
    monkeypatch.setattr(stored, "write", original)
    assert open_table(path, KINDS)["a"].values.tolist() == list(range(300))


def test_disk_full(path, monkeypatch):
    original, calls = stored.write, []

    def full(file, values):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(file, values)

    monkeypatch.setattr(stored, "write", full)
    with pytest.raises(DataError) as error:
        open_table(path, KINDS)
    assert str(path.parent / ".qin_zoo_cache") in str(error.value)
    assert "No space left on device" in str(error.value)
    assert "QIN_ZOO_CACHE" in str(error.value)
    assert entries(path) == []


def test_disk_full_while_closing(path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stored.ArrayFile, "finish", full)
    with pytest.raises(DataError, match="No space left"):
        open_table(path, KINDS)
    assert entries(path) == []


def test_a_truly_full_disk(path):
    """A real ENOSPC, from the kernel: /dev/full behind the first file written."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    original = stored.ArrayFile.__init__

    def onto_full(self, target, dtype):
        original(self, target, dtype)
        self._file.close()
        self._file = open("/dev/full", "wb")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored.ArrayFile, "__init__", onto_full)
        with pytest.raises(DataError, match="No space left on device"):
            open_table(path, KINDS)
    assert entries(path) == []


def refuse_writing_in(monkeypatch, *folders):
    """mkdir fails below the folders as it does for a user without permission (tests may run as root)."""
    original = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if any(self.is_relative_to(folder) for folder in folders):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_data_folder_not_writable(path, monkeypatch, tmp_path):
    refuse_writing_in(monkeypatch, path.parent)
    assert open_table(path, KINDS).num_rows == 300
    assert not (path.parent / ".qin_zoo_cache").exists()
    assert any("train.parquet-" in f for f in files(tmp_path / "home" / ".cache" / "qin_zoo"))
    forbid_conversion(monkeypatch)
    assert open_table(path, KINDS).num_rows == 300


def test_a_folder_marked_read_only_is_left_alone_even_by_root(path, tmp_path):
    path.parent.chmod(0o555)
    try:
        assert open_table(path, KINDS).num_rows == 300
        assert not (path.parent / ".qin_zoo_cache").exists()
        assert any("train.parquet-" in f for f in files(tmp_path / "home" / ".cache" / "qin_zoo"))
    finally:
        path.parent.chmod(0o755)


def test_a_cache_beside_the_data_is_read_without_permission_to_write(path, monkeypatch):
    open_table(path, {"a": "id"})
    refuse_writing_in(monkeypatch, path.parent)
    original = columns.open_source
    forbid_conversion(monkeypatch)
    assert open_table(path, {"a": "id"}).num_rows == 300
    monkeypatch.setattr(columns, "open_source", original)
    both = open_table(path, KINDS)
    assert both["h"].rows == both["a"].rows == 300


def test_nowhere_to_write(path, monkeypatch, tmp_path):
    refuse_writing_in(monkeypatch, tmp_path)
    with pytest.raises(DataError) as error:
        open_table(path, KINDS)
    assert "Permission denied" in str(error.value)
    assert "QIN_ZOO_CACHE" in str(error.value)


def test_chosen_cache_folders(path, monkeypatch, tmp_path):
    monkeypatch.setenv("QIN_ZOO_CACHE", str(tmp_path / "chosen"))
    open_table(path, KINDS)
    assert not (path.parent / ".qin_zoo_cache").exists()
    assert any(f.endswith("source.json") for f in files(tmp_path / "chosen"))
    open_table(path, KINDS, cache_dir=tmp_path / "argument")
    assert files(tmp_path / "argument") == files(tmp_path / "chosen")


def test_files_of_one_name_share_a_chosen_folder(path, tmp_path):
    other = write(tmp_path / "other" / "train.parquet", {"a": [5], "h": [[1]]})
    for _ in range(2):
        assert open_table(path, KINDS, cache_dir=tmp_path / "c").num_rows == 300
        assert open_table(other, KINDS, cache_dir=tmp_path / "c").num_rows == 1


@pytest.mark.parametrize("damage", ["values.npy", "offsets.npy", "column.json"])
def test_a_damaged_column_is_converted_again(path, damage):
    open_table(path, KINDS)
    target = entries(path)[0] / "h.history" / damage
    target.write_bytes(target.read_bytes()[:-9])
    again = open_table(path, KINDS)
    assert again["h"].values.size == sum(i % 5 for i in range(300))
    target.unlink()
    assert open_table(path, KINDS)["h"].rows == 300


def test_a_damaged_source_record(path):
    open_table(path, KINDS)
    (entries(path)[0] / "source.json").write_text("{")
    assert open_table(path, KINDS).num_rows == 300


def test_two_processes_at_once(path, monkeypatch):
    """Another process publishes the same column while this one converts it."""
    original = cache.publish

    def late(folder, target):
        shutil.copytree(folder, target)
        about = read_object(target / "column.json")
        about["files"] = {name: cache.stamp(target / name) for name in about["files"]}
        cache.write_json(target / "column.json", about)
        original(folder, target)

    monkeypatch.setattr(cache, "publish", late)
    assert open_table(path, KINDS)["a"].values.tolist() == list(range(300))
    assert len(entries(path)) == 1


def test_folders_of_killed_processes_are_removed(path):
    root = path.parent / ".qin_zoo_cache"
    dead, foreign, alive = (
        root / f".tmp-{socket.gethostname()}-999999999-abc",
        root / ".tmp-other-host-123-abc",
        root / f".tmp-{socket.gethostname()}-{os.getpid()}-abc",
    )
    for folder in (dead, foreign, alive):
        folder.mkdir(parents=True)
    open_table(path, KINDS)
    assert not dead.exists()
    assert foreign.exists()
    assert alive.exists()
    os.utime(foreign, (1, 1))
    open_table(path, {"a": "float"})
    assert not foreign.exists()


def test_a_file_that_grows_while_it_is_read(path, monkeypatch):
    original = sources.ParquetSource.chunks

    def chunks(self, names):
        yield from original(self, names)
        os.utime(path, ns=(5, 5))

    monkeypatch.setattr(sources.ParquetSource, "chunks", chunks)
    with pytest.raises(DataError, match="changed while it was read"):
        open_table(path, KINDS)
    assert entries(path) == []


def test_a_file_replaced_under_its_old_time(path):
    """As by ``cp -p`` or ``tar``: of the same size, and with the time of the file that was there."""
    before, stat = open_table(path, KINDS), path.stat()
    other = path.with_name("other.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "a", pa.array(table["a"].to_numpy()[::-1].copy())), other)
    content = other.read_bytes()
    path.write_bytes(content + bytes(max(0, stat.st_size - len(content))))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    if path.stat().st_size == stat.st_size == len(content):
        after = open_table(path, KINDS)
        assert after["a"].values.tolist() == before["a"].values.tolist()[::-1]
        assert after.fingerprint != before.fingerprint
    assert cache.stamp(path) != f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"


def test_a_changed_column_is_not_believed(path):
    expected = open_table(path, KINDS)["a"].values.tolist()
    file = entries(path)[0] / "a.id" / "values.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert open_table(path, KINDS)["a"].values.tolist() == expected
