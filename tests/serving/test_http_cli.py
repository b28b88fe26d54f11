"""What `qin-zoo serve` says of options it cannot work with, and what it needs to run."""

import socket
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from http_service import export

pytest.importorskip("onnxscript")

from qin_zoo.cli import main


@pytest.fixture
def refusal(sample, capsys, monkeypatch):
    """The message that a start ends with."""
    monkeypatch.delenv("QIN_ZOO_TOKEN", raising=False)

    def refusal(*options: object, path=None) -> str:
        with pytest.raises(SystemExit) as end:
            main(["serve", str(path or export(sample)), "--port", "0", *map(str, options)])
        assert end.value.code == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    return refusal


def test_no_such_file(refusal, tmp_path):
    assert "none.onnx: No such file" in refusal(path=tmp_path / "none.onnx")


def test_no_export(refusal, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    assert "Expected a file that `qin-zoo export` wrote" in refusal(path=tmp_path / "m.onnx")


def test_port_in_use(refusal):
    with socket.create_server(("127.0.0.1", 0)) as other:
        message = refusal("--port", other.getsockname()[1])
    assert "cannot listen on 127.0.0.1 port" in message
    assert "Address already in use. Choose another with --host or --port" in message


def test_no_such_host(refusal):
    assert "cannot listen on 192.0.2.1 port" in refusal("--host", "192.0.2.1", "--no-token")


def test_ids_the_export_does_not_hold(refusal):
    assert "holds no original ids" in refusal("--ids", "original")


class TestToken:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
    def test_other_machines_need_one(self, host, refusal):
        message = refusal("--host", host)
        assert "--token-file" in message
        assert "--no-token" in message

    def test_unreadable(self, refusal, tmp_path):
        assert "none: No such file" in refusal("--token-file", tmp_path / "none")

    @pytest.mark.parametrize("content", ["", " \n", "two words", "é", "a\nb"])
    def test_no_token_in_it(self, content, refusal, tmp_path, monkeypatch):
        (tmp_path / "token").write_text(content, encoding="utf-8")
        assert "expected one word of visible ASCII" in refusal("--token-file", tmp_path / "token")
        monkeypatch.setenv("QIN_ZOO_TOKEN", content)
        assert "the variable QIN_ZOO_TOKEN: expected one word" in refusal()


@pytest.mark.parametrize("missing", ["httptools", "orjson", "prometheus_client", "onnxruntime"])
def test_a_missing_package(missing, refusal, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("qin_zoo.serving.http")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    told = refusal()  # the scorer's own word, or the command's
    assert "-e '.[serve]' in a checkout of qin-zoo, or pip install" in told or f"pip install {missing}." in told


def test_needs_nothing_heavy(sample):
    """Everything up to the first answer, in an interpreter that refuses to import what training needs."""
    heavy = [
        "torch", "fuxictr", "ray", "polars", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "h5py", "yaml",
        "onnx", "optuna", "tensorboardX", "jinja2", "requests", "tqdm", "docstring_parser", "httpx",
    ]  # fmt: skip
    code = f"""
import sys
for name in {heavy!r}:
    sys.modules[name] = None
import os, signal, threading, urllib.request
import qin_zoo.cli, qin_zoo.serving.http.log as log
shown = log.event
def event(level, what, **values):
    shown(level, what, **values)
    if what == "serving":
        threading.Thread(target=ask, args=(values["address"],)).start()
def ask(url):
    body = b'{{"history": [1], "candidates": [2], "context": {{"likes_level": 0, "views_level": 0}}}}'
    asked = urllib.request.Request(url + "/score", body, {{"Content-Type": "application/json"}})
    print(urllib.request.urlopen(asked, timeout=20).status)
    os.kill(os.getpid(), signal.SIGTERM)
log.event = event
qin_zoo.cli.main(["serve", {str(export(sample))!r}, "--port", "0"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "200", done.stderr
    assert done.returncode == 0
