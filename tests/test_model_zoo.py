"""The model files themselves: short, and none repeats another."""

from itertools import combinations

import pytest
from conftest import REPOSITORY

FILES = sorted(f for f in (REPOSITORY / "model_zoo").glob("*.py") if f.name != "__init__.py")


def lines(file) -> list[str]:
    return [s for line in file.read_text().splitlines() if (s := line.strip())]


@pytest.mark.parametrize("pair", list(combinations(FILES, 2)), ids=lambda p: f"{p[0].stem}-{p[1].stem}")
def test_no_two_share_six_lines(pair):
    runs = [{tuple(text[i : i + 6]) for i in range(len(text) - 5)} for text in map(lines, pair)]
    assert not runs[0] & runs[1]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_read_in_one_sitting(file):
    assert len(lines(file)) <= 90
