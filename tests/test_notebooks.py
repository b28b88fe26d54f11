"""The notebooks of examples/ run from top to bottom in an empty folder, show pictures, and no log of FuxiCTR."""

import os

import nbformat
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def texts(cell) -> str:
    """What a cell printed, and shows as text."""
    outputs = cell.get("outputs", [])
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(file, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are stripped before they are committed"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in data for data in shown)
    assert any("text/html" in data for data in shown)
    said = "".join(texts(cell) for cell in notebook.cells)
    for line in ("Total number of parameters", "Feature embedding", "Start training", "INFO"):
        assert line not in said, "FuxiCTR's log"


def test_there_are_notebooks():
    assert [file.stem for file in NOTEBOOKS] == ["explain_and_export", "own_data"]
