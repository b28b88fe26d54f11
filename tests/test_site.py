"""The pages: links that lead somewhere, a site that builds without a warning, guides whose commands work."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest
from conftest import REPOSITORY

PAGES = [path for path in REPOSITORY.rglob("*.md") if not {"site", "data"} & {*path.relative_to(REPOSITORY).parts[:1]}]
PAGES = [path for path in PAGES if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)]
GUIDES = [REPOSITORY / "docs" / "quickstart.md", *sorted((REPOSITORY / "docs" / "guides").glob("*.md"))]
# <!-- why it is not run, or "in the background" -->, then a block of commands or of Python
BLOCK = re.compile(r"^(?:<!-- (?P<mark>.*?) -->\n)?```(?P<language>bash|python)\n(?P<text>.*?)^```$", re.M | re.S)


def named(page) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Anchors are checked here, too; and that nothing on a page is asked from elsewhere."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]' brings mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python", reason="pip install -e '.[docs]' brings mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(REPOSITORY), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "qin-zoo data import table" in (tmp_path / "docs/reference/commands/index.html").read_text()
    assert "batch_size" in (tmp_path / "docs/reference/keys/index.html").read_text()
    assert "register_model" in (tmp_path / "docs/reference/python/index.html").read_text()
    assert "0.970104" in (tmp_path / "experiments/QIN/index.html").read_text()
    asked = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(GUIDES)
    assert {address for page in pages for address in asked.findall(page.read_text())} == set()


def environment(repository, **more) -> dict:
    return {**os.environ, "PYTHONPATH": str(repository), **more}


def as_cloned(folder):
    """The files of this checkout as a clone has them, uncommitted ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so what a clone holds is not known")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


@contextmanager
def background(script: str, log, url: str, **options):
    """A command that goes on while the rest of a page is run; it is awaited until it answers."""
    with open(log, "w") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {script}"], stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.2)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.skipif("QIN_ZOO_GUIDES" not in os.environ, reason="takes many minutes: make guides")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_commands_of_a_guide(page, tmp_path):
    """Every block from top to bottom, as they stand, in a clone; a service gets a free port."""
    clone = as_cloned(tmp_path / "clone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    serve = '[ "$1" = serve ] && set -- "$@" --port "$PORT"'
    (tools / "qin-zoo").write_text(f'#!/bin/sh\n{serve}\nexec "{sys.executable}" -m qin_zoo "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    env = environment(clone, PORT=port, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    ran = 0
    with ExitStack() as services:
        for block in BLOCK.finditer(page.read_text()):
            text, mark = block["text"], block["mark"] or ""
            if mark.startswith("not run: "):
                continue
            ran += 1
            if mark == "in the background":
                url = f"http://127.0.0.1:{port}/healthz"
                services.enter_context(background(text, tmp_path / "log", url, cwd=clone, env=env))
                continue
            assert not mark, f"what is '{mark}'? It is 'not run: WHY', or 'in the background'."
            if name := block["language"] == "python" and re.match(r"# (\w+\.py)\n", text):
                (clone / name[1]).write_text(text)
                continue
            command = ["bash", "-euo", "pipefail", "-c"] if block["language"] == "bash" else [sys.executable, "-c"]
            text = text.replace("localhost:8000", f"127.0.0.1:{port}")
            done = subprocess.run([*command, text], cwd=clone, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert ran
