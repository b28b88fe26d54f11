"""Stores of histories: files that several processes append to, crashes, and a real Redis."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import REPOSITORY

from qin_zoo.errors import QinZooError, RequestError
from qin_zoo.files import file_state
from qin_zoo.serving.histories import (
    FileHistories,
    RedisHistories,
    StoreError,
    Users,
    open_histories,
    user_key,
    write_histories,
)


@pytest.fixture
def file(tmp_path):
    """Users 10, 9 and a: in the order of texts."""
    path = tmp_path / "h.npz"
    write_histories(path, Users(np.array(["10", "9", "a"]), np.array([0, 3, 3, 5]), {"": np.array([1, 2, 3, 7, 8])}))
    return path


class TestFile:
    def test_lookup(self, file):
        store = FileHistories(file, 10)
        assert [store.get(user).history for user in ("10", "9", "a")] == [[1, 2, 3], [], [7, 8]]
        assert all(store.get(user).history is None for user in ("1", "b", "", "a" * 100, "a\0", "\ud800"))

    def test_the_newest_are_kept(self, file):
        store = FileHistories(file, 2)
        assert store.get("10").history == [2, 3]
        store.append("10", 4)
        assert store.get("10").history == [3, 4]
        for item in range(100):
            store.append("10", item)
        assert store.get("10").history == [98, 99]

    def test_events_survive_and_are_seen_by_all(self, file):
        first, second = FileHistories(file, 10), FileHistories(file, 10)
        first.append("a", 9, time=3.5)
        second.append("new", "sku-1")
        assert first.get("new").history == second.get("new").history == ["sku-1"]
        assert second.get("a").history == [7, 8, 9]
        assert FileHistories(file, 10).get("a").history == [7, 8, 9]
        lines = (file.parent / "h.npz.events").read_text().splitlines()
        events = [json.loads(line) for line in lines[1:]]
        assert all(abs(event.pop("at") - time.time()) < 60 for event in events)
        assert events == [{"user": "a", "item": 9, "time": 3.5}, {"user": "new", "item": "sku-1"}]

    def test_several_lists(self, tmp_path):
        store = FileHistories(tmp_path / "none.npz", 10)
        store.append("a", {"item_seq": 1, "ratings": 5})
        store.append("a", {"item_seq": 2, "ratings": 4})
        assert store.get("a").history == {"item_seq": [1, 2], "ratings": [5, 4]}

    def test_a_line_cut_short(self, file):
        store = FileHistories(file, 10)
        store.append("a", 9)
        log = file.parent / "h.npz.events"
        with open(log, "ab") as end:
            end.write(b'{"user": "a", "it')
        assert store.get("a").history == [7, 8, 9]
        again = FileHistories(file, 10)
        again.append("a", 10)
        for one in (again, store, FileHistories(file, 10)):
            assert one.get("a").history == [7, 8, 9, 10]

    def test_a_full_disk(self, file):
        """An event that is there in part is not told as kept, and takes none with it that comes when there is room."""
        store, log = FileHistories(file, 10), file.parent / "h.npz.events"
        store.append("a", 9)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20, limits[1]))
            for _ in range(2):
                with pytest.raises(StoreError, match=r"h\.npz\.events"):
                    store.append("a", 10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not log.read_bytes().endswith(b"\n")
        store.append("a", 11)
        for one in (store, FileHistories(file, 10)):
            assert one.get("a").history == [7, 8, 9, 11]

    def test_no_place_for_events(self, file, tmp_path):
        with pytest.raises(QinZooError, match=r"nowhere/h\.npz\.events\.lock: No such file or directory"):
            FileHistories(tmp_path / "nowhere" / "h.npz", 10)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
            with pytest.raises(QinZooError, match=r"h\.npz\.events: .*\. Histories need a folder that can"):
                FileHistories(file, 10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        store = FileHistories(file, 10)
        store.append("a", 9)
        for one in (store, FileHistories(file, 10)):
            assert one.get("a").history == [7, 8, 9]

    def test_processes_that_are_killed_while_they_append(self, file):
        """Two write at once and one of them is killed: what was told as kept is there, each event once."""
        code = (
            "import sys; from qin_zoo.serving.histories import FileHistories; from pathlib import Path\n"
            "store = FileHistories(Path(sys.argv[1]), 10**6)\n"
            "for n in range(10**7):\n"
            "    store.append(sys.argv[2], n); print(n, flush=True)\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(file), user], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
            )
            for user in ("x", "y")
        ]
        told = []
        for process in running:
            lines = [process.stdout.readline() for _ in range(300)]
            process.kill()
            process.wait()
            told.append(int([*lines, *process.stdout.read().split()][-1]))
            process.stdout.close()
        store = FileHistories(file, 10**6)
        for user, last in zip("xy", told):
            kept = store.get(user).history
            assert kept == list(range(len(kept)))
            assert len(kept) > last

    def test_events_of_another_file_are_set_aside(self, file):
        """A newer file may know them already."""
        FileHistories(file, 10).append("a", 9)
        write_histories(file, Users(np.array(["a"]), np.array([0, 3]), {"": np.array([7, 8, 9])}))
        store = FileHistories(file, 10)
        assert store.get("a").history == [7, 8, 9]
        assert '"item": 9' in store.set_aside.read_text()

    def test_a_newer_file_while_two_processes_serve(self, file):
        """What came after the log that it was made of is kept, each event once, by whoever took it."""
        first, second = FileHistories(file, 10), FileHistories(file, 10)
        first.append("a", 9)
        log = file.parent / "h.npz.events"
        log.write_text(re.sub(r'"at": [0-9.]+', '"at": 100.0', log.read_text()))
        first, second = FileHistories(file, 10), FileHistories(file, 10)
        first.append("a", 10)
        assert first.loaded == file_state(first.path)
        write_histories(file, Users(np.array(["a"]), np.array([0, 2]), {"": np.array([8, 9])}, until=200.0))
        assert first.loaded != file_state(first.path), "so that a worker that begins now sees that it has the old one"
        assert second.get("a").history == [7, 8, 9, 10], "until it is told"
        first.reload()
        assert first.loaded == file_state(first.path)
        assert first.get("a").history == [8, 9, 10]
        second.append("a", 11)  # has the old file yet
        second.append("b", 1)
        assert second.get("a").history == [7, 8, 9, 10, 11]
        assert first.get("a").history == [8, 9, 10, 11]
        second.reload()
        for store in (first, second, FileHistories(file, 10)):
            assert store.get("a").history == [8, 9, 10, 11]
            assert store.get("b").history == [1]
        assert '"item": 9' in first.set_aside.read_text()

    def test_a_newer_file_that_is_none(self, file):
        store = FileHistories(file, 10)
        file.write_bytes(b"no")
        with pytest.raises(QinZooError, match="is no file of histories"):
            store.reload()
        store.append("a", 9)
        assert store.get("a").history == [7, 8, 9]

    def test_threads_that_ask_at_once(self, file):
        """Each event is taken in once, whoever reads it."""
        store, stop = FileHistories(file, 10**6), threading.Event()

        def ask() -> None:
            while not stop.is_set():
                store.get("new")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for item in range(2000):
                store.append("new", item)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        assert store.get("new").history == list(range(2000))

    @pytest.mark.parametrize(
        "columns",
        [
            {"users": np.array(["b", "a"])},
            {"users": np.array([1, 2])},
            {"ends": np.array([0, 2, 1])},
            {"ends": np.array([0, 1])},
            {"user.age": np.array([1.0])},
            {"ends": np.array([0.0, 1.0, 2.0])},
            {"ids": np.array(["x", None], object)},
        ],
        ids=["order", "numbers", "backwards", "too few", "features", "floats", "objects"],
    )
    def test_refused(self, columns, tmp_path):
        good = {
            "users": np.array(["a", "b"]), "ends": np.array([0, 1, 2]), "ids": np.array("table"),
            "list.": np.array([1, 2]),
        }  # fmt: skip
        np.savez(tmp_path / "h.npz", **(good | columns))
        with pytest.raises(QinZooError, match="is no file of histories"):
            FileHistories(tmp_path / "h.npz", 10)
        np.savez(tmp_path / "h.npz", **good)
        assert FileHistories(tmp_path / "h.npz", 10).get("b").history == [2]

    def test_other_ids(self, file):
        with pytest.raises(QinZooError, match="serve it with --ids table"):
            open_histories(str(file), 10, "original")

    def test_no_npz(self, tmp_path):
        (tmp_path / "h.npz").write_bytes(b"PK\x03\x04 no")
        with pytest.raises(QinZooError, match="is no file of histories"):
            FileHistories(tmp_path / "h.npz", 10)

    def test_lookups_do_not_grow_with_the_users(self, tmp_path):
        count = 300_000
        users = np.sort(np.arange(count).astype(str))
        write_histories(tmp_path / "h.npz", Users(users, np.arange(count + 1) * 5, {"": np.arange(count * 5)}))
        store = FileHistories(tmp_path / "h.npz", 10)
        begin = time.process_time()
        for user in users[:: count // 1000].tolist():
            assert len(store.get(user).history) == 5
        assert time.process_time() - begin < 0.5  # of a thousand


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A Redis of its own."""
    pytest.importorskip("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    until = time.monotonic() + 20
    while True:
        try:
            RedisHistories(url, 3)
            break
        except QinZooError:
            assert time.monotonic() < until
            time.sleep(0.05)
    yield url, process
    process.kill()
    process.wait()


class TestRedis:
    def test_the_same_interface(self, redis_url):
        import redis

        url, _ = redis_url
        store, other = open_histories(url, 3), open_histories(url, 3)
        assert store.get("a").history is None
        for item in ("x", 2, 3, 4):
            store.append("a", item)
        assert other.get("a").history == [2, 3, 4]
        store.append("b", {"item_seq": 1, "ratings": 5})
        assert other.get("b").history == {"item_seq": [1], "ratings": [5]}
        # As another client sees it: trimmed to what is used.
        assert redis.Redis.from_url(url).lrange("qin_zoo:history:a", 0, -1) == [b"2", b"3", b"4"]

    def test_written_in_one_go(self, redis_url, file, tmp_path):
        """As a file of the same users is read: what was there of them before is gone."""
        url, _ = redis_url
        store = open_histories(url, 3)
        store.append("10", "old")
        features = {"age": np.array([0.5, 1.5, -1.0]), "tags": np.array([[1, 2], [0, 0], [3, 4]])}
        lists = {"item_seq": np.array([1, 2, 3, 7, 8]), "item_seq_label": np.array([1, 2, 1, 2, 2])}
        users = Users(np.array(["10", "9", "a"]), np.array([0, 3, 3, 5]), lists, features=features)
        for where in (url, tmp_path / "same.npz"):
            write_histories(where, users)
        kept = FileHistories(tmp_path / "same.npz", 3)
        for user in ("10", "a", "nobody"):
            assert store.get(user) == kept.get(user)
        assert store.get("9").features == kept.get("9").features == {"age": 1.5, "tags": [0, 0]}

    def test_nobody_there(self):
        with pytest.raises(QinZooError, match="--histories redis://127"):
            open_histories("redis://127.0.0.1:1/0", 3)

    def test_it_goes_away(self, redis_url):
        url, process = redis_url
        store = open_histories(url, 3)
        process.kill()
        process.wait()
        with pytest.raises(StoreError):
            store.get("a")
        with pytest.raises(StoreError):
            store.append("a", 1)


def test_users():
    assert user_key("u7") == "u7"
    assert user_key(7) == user_key("7")
    for wrong in (True, 1.5, None, "", ["a"]):
        with pytest.raises(RequestError, match="user_id"):
            user_key(wrong)


def test_the_log_is_appended_to_and_never_rewritten(file):
    store = FileHistories(file, 2)
    log = file.parent / "h.npz.events"
    before = log.read_bytes()
    inode = os.stat(log).st_ino
    for item in range(10):
        store.append("a", item)
        assert log.read_bytes().startswith(before)
        before = log.read_bytes()
    assert os.stat(log).st_ino == inode
