"""`qin-zoo data sample`."""

import pytest
from typer.testing import CliRunner

from qin_zoo.cli.data import app
from qin_zoo.data.sample import read_summary
from qin_zoo.errors import DataError


def test_sample_writes_and_reports(tmp_path):
    command = ["sample", "--rows", "300", "--items", "60", "--seed", "7", str(tmp_path / "s")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    made = read_summary(tmp_path / "s")
    assert (made.splits["train"].rows, made.items, made.seed) == (300, 60, 7)
    for figure in (made.best_auc["valid"], made.blind_auc["test"], made.splits["train"].click_rate):
        assert f"{figure:.4f}" in result.output


def test_bad_argument_is_a_data_error(tmp_path):
    result = CliRunner().invoke(app, ["sample", "--rows", "3", str(tmp_path / "s")])
    assert isinstance(result.exception, DataError)
    with pytest.raises(DataError, match="rows"):
        raise result.exception
