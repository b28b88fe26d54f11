"""Downloading against a local server that drops, truncates, corrupts, redirects, stalls and changes its mind."""

import _thread
import base64
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from conftest import REPOSITORY
from typer.testing import CliRunner

from qin_zoo.cli.download import download as command
from qin_zoo.data import download
from qin_zoo.data.download import KNOWN, KnownDataset, download_dataset
from qin_zoo.errors import DataError, QinZooError
from qin_zoo.files import sole_writer

CHUNK = 1024
Request = namedtuple("Request", "method path start")


def parquet_bytes(seed: int, rows: int = 4000) -> bytes:
    sink = pa.BufferOutputStream()
    values = np.random.default_rng(seed).integers(0, 1 << 60, rows)
    pq.write_table(pa.table({"x": values}), sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


A, B, R = parquet_bytes(1), parquet_bytes(2), parquet_bytes(3)


class Server(ThreadingHTTPServer):
    """Serves ``files`` with ranges and ETags; ``faults[path]`` are tried one per GET, the last for ever after."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/up/set/a.parquet": A, "/up/set/b.parquet": B, "/up/r.parquet": R}
        self.faults, self.headers, self.log = {}, {}, []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/up/set"

    def gets(self, name):
        return [r.start for r in self.log if r.method == "GET" and r.path.endswith("/" + name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.log.append(Request(self.command, self.path, start))
        faults = self.server.faults.get(self.path, [])
        fault = None
        if faults and self.command == "GET":
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
        body = self.server.files.get(self.path)
        if body is None and fault is None:
            self.answer(404)
            return
        if start and self.headers.get("If-Range") != etag(body):
            start = 0
        if fault is not None:
            fault(self, body, start)
        else:
            self.whole(body, start)

    def whole(self, body, start, **changed):
        if start and start >= len(body):
            self.answer(416)
            return
        headers = {"ETag": etag(body), "Content-Length": len(body) - start, **self.server.headers.get(self.path, {})}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.answer(206 if start else 200, headers | changed, body[start:])

    def answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def etag(body: bytes | None) -> str:
    return f'"{hashlib.md5(body or b"").hexdigest()}"'


def good(handler, body, start):
    handler.whole(body, start)


def drop(handler, body, start):
    """Half of what is missing, then the end of the connection."""
    half = body[start : start + (len(body) - start) // 2]
    headers = {"ETag": etag(body), "Content-Length": len(body) - start}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.answer(206 if start else 200, headers, half)
    handler.close_connection = True


def stall(handler, body, start):
    """Half of it, then nothing until the test releases it."""
    handler.answer(200, {"ETag": etag(body), "Content-Length": len(body)}, body[: len(body) // 2])
    handler.server.release.wait(20)
    handler.close_connection = True


def long_lie(handler, body, start):
    handler.answer(200, {"ETag": etag(body), "Content-Length": len(body) + 100}, body)
    handler.close_connection = True


def truncate(handler, body, start):
    handler.answer(200, {"ETag": etag(body)}, body[: len(body) // 2])


def corrupt(handler, body, start):
    handler.whole(body[:5000] + bytes([body[5000] ^ 1]) + body[5001:], start, ETag=etag(body))


def page(handler, body, start):
    handler.answer(200, {"ETag": '"p"'}, b"<!DOCTYPE html><html>please log in</html>")


def no_ranges(handler, body, start):
    handler.whole(body, 0)


def status(code, **headers):
    return lambda handler, body, start: handler.answer(code, headers)


def redirect(path):
    return lambda handler, body, start: handler.answer(302, {"Location": path})


@pytest.fixture
def server(monkeypatch):
    tiny = KnownDataset("http://localhost/", ("a.parquet", "b.parquet"), ("../r.parquet",), "data/tiny")
    monkeypatch.setitem(KNOWN, "tiny", tiny)
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "TIMEOUTS", (15, 20))
    monkeypatch.setattr(download, "CHUNK_BYTES", CHUNK)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.release.set()
        running.shutdown()


@pytest.fixture
def get(server, tmp_path):
    def run(**options):
        return download_dataset("tiny", tmp_path / "out", **{"mirror": server.url, **options})

    run.folder = tmp_path / "out"
    return run


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".parquet"}


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".parquet" and p.name != "checksums.json")


def test_fetches_checks_and_records(get, server):
    notes, seen = [], {}
    results = get(raw=True, note=notes.append, progress=lambda name, done, total: seen.update({name: (done, total)}))
    assert content(get.folder) == {"a.parquet": A, "b.parquet": B, "r.parquet": R}
    assert leftovers(get.folder) == []
    assert notes == []
    assert seen["r.parquet"] == (len(R), len(R))
    assert [(r.path.name, r.state, r.size) for r in results][2] == ("r.parquet", "downloaded", len(R))
    record = json.loads((get.folder / "checksums.json").read_text())
    assert record["a.parquet"] == {
        "size": len(A),
        "sha256": hashlib.sha256(A).hexdigest(),
        "url": server.url + "/a.parquet",
    }


def test_what_is_there_and_good_needs_no_request(get, server):
    get()
    server.log.clear()
    assert [r.state for r in get()] == ["kept", "kept"]
    assert server.log == []


def test_dropped_connections_go_on_where_they_broke(get, server):
    server.faults["/up/set/a.parquet"] = [drop, drop, drop, good]
    notes = []
    get(note=notes.append)
    assert content(get.folder)["a.parquet"] == A
    starts = server.gets("a.parquet")
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    # What broke off within a chunk is fetched again, nothing else.
    assert len(A) // 2 - CHUNK <= starts[1] <= len(A) // 2
    assert len(notes) == 3
    assert "the connection was dropped" in notes[0]


def test_progress_renews_patience_and_its_lack_ends_it(get, server, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    server.faults["/up/set/a.parquet"] = [drop] * 4 + [good]
    get()
    server.faults["/up/set/b.parquet"] = [status(500)]
    (get.folder / "b.parquet").unlink()
    with pytest.raises(DataError, match=r"b\.parquet: gave up after .* 500 Internal Server Error"):
        get()


@pytest.mark.parametrize("fault", [long_lie, truncate, page])
def test_a_wrong_length_or_body_once_is_mended(get, server, fault):
    server.faults["/up/set/a.parquet"] = [fault, good]
    get()
    assert content(get.folder) == {"a.parquet": A, "b.parquet": B}


@pytest.mark.parametrize(
    ("fault", "message"),
    [(truncate, "lacks its end"), (page, "begins with b'<!DOCTYPE html>"), (long_lie, "gave up")],
)
def test_a_body_that_is_never_right_is_never_taken(get, server, fault, message):
    server.faults["/up/set/a.parquet"] = [fault]
    if fault is long_lie:
        server.files["/up/set/a.parquet"] = A
    with pytest.raises(DataError, match=message):
        get()
    assert content(get.folder) == {"b.parquet": B}
    assert leftovers(get.folder) in ([], ["a.parquet.part", "a.parquet.part.json"])


def digest_header(kind, body):
    sha = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return {
        "repr": {"Repr-Digest": f"md5=:AAAAAAAAAAAAAAAAAAAAAA==:, sha-256=:{sha}:"},
        "digest": {"Digest": f"SHA-256={sha}"},
    }[kind]


@pytest.mark.parametrize("kind", ["repr", "digest", "sums"])
@pytest.mark.parametrize("faults", [[corrupt], [corrupt, good]], ids=["always", "once"])
def test_a_corrupted_file_is_never_taken_as_good(get, server, kind, faults):
    if kind == "sums":
        server.files["/up/set/SHA256SUMS"] = f"{hashlib.sha256(A).hexdigest()}  a.parquet\n".encode()
    else:
        server.headers["/up/set/a.parquet"] = digest_header(kind, A)
    server.faults["/up/set/a.parquet"] = list(faults)
    if len(faults) == 2:
        get()
        assert content(get.folder) == {"a.parquet": A, "b.parquet": B}
    else:
        with pytest.raises(DataError, match=r"a\.parquet: what came .* is not good, 2 times over: expected SHA"):
            get()
        assert content(get.folder) == {"b.parquet": B}
        assert "a.parquet" not in json.loads((get.folder / "checksums.json").read_text())
    assert leftovers(get.folder) == []


def test_redirects_are_followed_and_name_no_files(get, server):
    server.files["/elsewhere/evil.parquet"] = A
    server.faults["/up/set/a.parquet"] = [redirect("/elsewhere/evil.parquet")]
    server.faults["/elsewhere/evil.parquet"] = [drop, good]
    get()
    assert content(get.folder) == {"a.parquet": A, "b.parquet": B}
    assert server.gets("evil.parquet")[1] > 0


def test_redirects_without_end(get, server):
    server.faults["/up/set/a.parquet"] = [redirect("/up/set/a.parquet")]
    with pytest.raises(DataError, match=r"cannot be fetched .TooManyRedirects"):
        get()


def test_a_stalled_server(get, server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (15, 0.3))
    server.faults["/up/set/a.parquet"] = [stall, good]
    notes = []
    get(note=notes.append)
    assert content(get.folder)["a.parquet"] == A
    assert server.gets("a.parquet")[1] >= len(A) // 2 - CHUNK
    assert "no byte came for 0.3 s" in notes[0]


def test_busy_servers(get, server):
    server.faults["/up/set/a.parquet"] = [status(503), status(429, Retry_After=0), status(502), good]
    get()
    server.faults["/up/set/b.parquet"] = [status(503, Retry_After=3600)]
    (get.folder / "b.parquet").unlink()
    server.log.clear()
    with pytest.raises(DataError, match="left alone for 3600 s"):
        get()
    assert len(server.gets("b.parquet")) == 1


def test_retry_after_is_honoured(get, server, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 30.0)  # the server's own pause takes its place
    server.faults["/up/set/a.parquet"] = [status(429, Retry_After=0), good]
    started = time.monotonic()
    get()
    assert time.monotonic() - started < 10


def test_a_server_without_ranges_starts_over(get, server):
    server.faults["/up/set/a.parquet"] = [drop, no_ranges]
    get()
    assert content(get.folder)["a.parquet"] == A
    assert server.gets("a.parquet")[1] > 0


def test_without_etag_or_date_nothing_is_resumed(get, server):
    server.headers["/up/set/a.parquet"] = {"ETag": None}

    def drop_nameless(handler, body, start):
        handler.answer(200, {"Content-Length": len(body)}, body[:9000])
        handler.close_connection = True

    server.faults["/up/set/a.parquet"] = [drop_nameless, good]
    get()
    assert server.gets("a.parquet") == [0, 0]
    assert content(get.folder)["a.parquet"] == A


def test_unknown_length(get, server):
    def until_close(handler, body, start):
        handler.answer(200, {"Content-Length": None, "Connection": "close"}, body)

    server.faults["/up/set/a.parquet"] = [until_close]
    get()
    assert content(get.folder)["a.parquet"] == A


def test_a_file_that_changes_between_attempts_is_not_mixed(get, server):
    new = parquet_bytes(7)
    assert len(new) == len(A)

    def drop_and_change(handler, body, start):
        drop(handler, body, start)
        handler.server.files["/up/set/a.parquet"] = new

    server.faults["/up/set/a.parquet"] = [drop_and_change, good]
    get()
    assert content(get.folder)["a.parquet"] == new


@pytest.mark.parametrize("wrong", ["start", "total", "etag", "none"])
def test_a_wrong_piece_is_refused(get, server, wrong):
    def other_piece(handler, body, start):
        first = 0 if wrong == "start" else start
        total = len(body) + (5 if wrong == "total" else 0)
        headers = {"ETag": '"other"' if wrong == "etag" else etag(body)}
        if wrong != "none":
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{total}"
        handler.answer(206, headers, body[first:])

    server.faults["/up/set/a.parquet"] = [drop, other_piece, good]
    get()
    assert content(get.folder)["a.parquet"] == A
    assert server.gets("a.parquet")[2] == 0


@pytest.mark.parametrize("code", [403, 404])
def test_final_answers_are_asked_once_and_others_go_on(get, server, code):
    server.faults["/up/set/a.parquet"] = [status(code)]
    with pytest.raises(DataError, match=rf"a\.parquet: expected the file from http.*{code}"):
        get(jobs=1)
    assert len(server.gets("a.parquet")) == 1
    assert content(get.folder) == {"b.parquet": B}
    assert leftovers(get.folder) == []
    server.faults["/up/set/b.parquet"] = [status(code)]
    (get.folder / "b.parquet").unlink()
    with pytest.raises(DataError, match=r"^2 of 2 files"):
        get()


@pytest.fixture
def nowhere():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/"


def test_offline(get, nowhere):
    with pytest.raises(DataError) as caught:
        get(mirror=nowhere)
    for expected in ("Could not reach 127.0.0.1", "offline", "browser", "--mirror", "refused"):
        assert expected in str(caught.value)
    assert leftovers(get.folder) == []


KILLED = """
import sys
from qin_zoo.data import download
from qin_zoo.data.download import download_dataset
download.CHECKPOINT_BYTES = 1
download_dataset("MicroLens_1M_x1", sys.argv[1], mirror=sys.argv[2], jobs=1)
"""


def test_a_killed_process_goes_on(server, tmp_path):
    files = {n: parquet_bytes(i, rows=40_000) for i, n in enumerate(KNOWN["MicroLens_1M_x1"].files)}
    server.files |= {f"/up/set/{name}": body for name, body in files.items()}
    server.faults["/up/set/valid.parquet"] = [stall, good]
    valid = files["valid.parquet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), server.url], env=environment)
    note = tmp_path / "valid.parquet.part.json"
    expected = len(valid) // 2 // 65536 * 65536  # the process reads 64 KiB at a time
    deadline = time.monotonic() + 60
    while not note.exists() or json.loads(note.read_text())["size"] < expected:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.log.clear()
    states = [r.state for r in download_dataset("MicroLens_1M_x1", tmp_path, mirror=server.url)]
    assert states == ["kept", "resumed", "downloaded", "downloaded"]
    assert content(tmp_path) == files
    assert server.gets("train.parquet") == []
    assert server.gets("valid.parquet") == [expected]


def test_a_damaged_part_is_noticed(get, server, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    server.faults["/up/set/a.parquet"] = [drop, good]
    with pytest.raises(DataError, match="gave up"):
        get()
    path = get.folder / "a.parquet.part"
    kept = bytearray(path.read_bytes())
    kept[4000] ^= 1
    path.write_bytes(kept)
    get()
    assert content(get.folder)["a.parquet"] == A
    assert server.gets("a.parquet") == [0, 0]


def test_a_part_without_its_note_or_with_a_bad_one_starts_over(get, server):
    get.folder.mkdir()
    for name, note in (("a", None), ("b", '{"size": "x"}')):
        (get.folder / f"{name}.parquet.part").write_bytes(b"PAR1 something else")
        if note:
            (get.folder / f"{name}.parquet.part.json").write_text(note)
    get()
    assert content(get.folder) == {"a.parquet": A, "b.parquet": B}


def test_a_whole_part_needs_only_its_name(get, server, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(download.Part, "finish", lambda self: (_ for _ in ()).throw(OSError(errno.EACCES, "denied")))
        with pytest.raises(DataError, match="Could not write"):
            get(jobs=1)
    server.log.clear()
    get()
    assert server.gets("a.parquet") == []
    assert content(get.folder)["a.parquet"] == A


def test_a_corrupted_finished_file_is_reported_and_replaced_only_on_request(get, server):
    get()
    bad = A[:5000] + bytes([A[5000] ^ 1]) + A[5001:]
    (get.folder / "a.parquet").write_bytes(bad)
    server.log.clear()
    with pytest.raises(DataError, match=r"a\.parquet: expected SHA-256 .*checksums\.json says.*--force"):
        get()
    assert (get.folder / "a.parquet").read_bytes() == bad
    assert server.log == []
    get(force=True)
    assert content(get.folder)["a.parquet"] == A
    assert server.gets("b.parquet") == []


def test_files_put_there_by_hand(get, server, nowhere):
    get.folder.mkdir()
    (get.folder / "a.parquet").write_bytes(A)
    results = get()
    assert (results[0].state, results[0].checked) == ("found", True)
    assert server.gets("a.parquet") == []
    assert "a.parquet" in json.loads((get.folder / "checksums.json").read_text())
    (get.folder / "checksums.json").unlink()
    (get.folder / "a.parquet").write_bytes(parquet_bytes(1, rows=10))
    with pytest.raises(DataError, match="as the server says"):
        get()
    (get.folder / "checksums.json").unlink()  # b was good and recorded
    results = get(mirror=nowhere)
    assert [(r.state, r.checked) for r in results] == [("found", False)] * 2
    assert not (get.folder / "checksums.json").exists()


@pytest.mark.parametrize(("rows", "message"), [(5000, "has .* bytes, but the one downloaded first"), (4000, "SHA-256")])
def test_a_file_the_server_has_changed_since(get, server, rows, message):
    get()
    (get.folder / "a.parquet").unlink()
    new = server.files["/up/set/a.parquet"] = parquet_bytes(9, rows)
    with pytest.raises(DataError, match=f"(?s){message}.*--force"):
        get()
    assert "a.parquet" not in content(get.folder)
    get(force=True)
    assert content(get.folder)["a.parquet"] == new
    assert [r.state for r in get()] == ["kept", "kept"]


def test_one_download_of_a_file_at_a_time(get):
    pytest.importorskip("fcntl")
    get.folder.mkdir()
    with sole_writer(get.folder / ".download.lock", "is here"), pytest.raises(QinZooError, match="downloads into"):
        get()
    get()


def test_disk_full(get, server, monkeypatch):
    def full(self, chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download.Part, "append", full)
        with pytest.raises(DataError, match=r"a\.parquet: No space left on device.*What has been fetched is kept"):
            get()
    usage = shutil.disk_usage(get.folder)._replace(free=7)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=f"the disk is full: {len(A):,} bytes are needed, 7 are free"):
        get(jobs=1)


def test_an_interruption_keeps_the_part(get, server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (15, 0.3))
    server.faults["/up/set/a.parquet"] = [stall, good]
    calls = []

    def interrupt(name, done, total):
        if done >= 8 * CHUNK and not calls:
            calls.append(name)
            _thread.interrupt_main(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        get(jobs=1, progress=interrupt)
    assert (get.folder / "a.parquet.part").stat().st_size >= 8 * CHUNK
    assert content(get.folder) == {}
    assert next(r.state for r in get()) == "resumed"
    assert server.gets("a.parquet")[1] > 0


def test_requests_that_cannot_be_met(get, server, tmp_path):
    with pytest.raises(DataError, match=r"known ones are .*MicroLens_1M_x1.* Did you mean 'MicroLens_1M_x1'"):
        download_dataset("microlens_1m_x2", tmp_path)
    for mirror in ("ftp://host/x", "/some/folder", "http://", "http://host/x?y=1"):
        with pytest.raises(DataError, match="expected the http or https address"):
            get(mirror=mirror)
    with pytest.raises(DataError, match="at least 1"):
        get(jobs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(QinZooError, match="Cannot write"):
        download_dataset("tiny", tmp_path / "file", mirror=server.url)
    get.folder.mkdir()
    (get.folder / "checksums.json").write_text("[1]")
    with pytest.raises(DataError, match=r"checksums\.json: expected the checksums"):
        get()
    (get.folder / "checksums.json").unlink()
    (get.folder / "a.parquet").mkdir()
    with pytest.raises(DataError, match="found a folder"):
        get()


def test_passwords_stay_out_of_files_and_messages(get, server):
    server.faults["/up/set/b.parquet"] = [status(404)]
    with pytest.raises(DataError) as caught:
        get(mirror=server.url.replace("http://", "http://me:secret@"))
    assert "secret" not in str(caught.value) + (get.folder / "checksums.json").read_text()


def test_the_table_agrees_with_the_dataset_configuration():
    known = KNOWN["MicroLens_1M_x1"]
    configured = yaml.safe_load((REPOSITORY / "dataset_configs/MicroLens_1M_x1.yaml").read_text())["MicroLens_1M_x1"]
    paths = [configured[key] for key in ("train_data", "valid_data", "test_data", "item_info")]
    assert paths == [f"./{known.out}/{name}" for name in known.files]


def test_half_a_parquet_file_is_noticed_without_any_digest(get):
    get.folder.mkdir()
    for body in (b"", A[:4] + A[-4:], A[:9000] + A[-200:], A[:-20] + bytes(16) + A[-4:]):
        (get.folder / "a.parquet").write_bytes(body)
        with pytest.raises(DataError, match="parquet"):
            get(mirror="http://127.0.0.1:9/")


@pytest.fixture
def cli():
    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_command(server, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("tiny", "--mirror", server.url, "--raw", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert (
        f"data/tiny/a.parquet: downloaded, {len(A):,} bytes, SHA-256 {hashlib.sha256(A).hexdigest()}" in result.stdout
    )
    (tmp_path / "data/tiny/a.parquet").write_bytes(B)
    assert isinstance(cli("tiny", "--mirror", server.url).exception, DataError)
    assert cli("tiny", "--mirror", server.url, "--force").exit_code == 0
    assert content(tmp_path / "data/tiny") == {"a.parquet": A, "b.parquet": B, "r.parquet": R}


def test_interrupted_command(cli, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("qin_zoo.data.download.download_dataset", interrupted)
    result = cli("MicroLens_1M_x1")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
