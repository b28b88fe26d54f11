"""The scripts of experiments/ say how they are called, and begin nothing when they are only asked."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "experiments").rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help(script, tmp_path):
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert not [*tmp_path.iterdir()]
