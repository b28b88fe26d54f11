"""Report, tables and picture of explanations that are out of the ordinary."""

from dataclasses import replace

import matplotlib.image
import pytest

from qin_zoo.cli.explain import print_explanation
from qin_zoo.explain.explanation import Explanation, Feature, HistoryItem, Item
from qin_zoo.explain.picture import draw_explanation
from qin_zoo.explain.report import render_report

PLAIN = Explanation(
    expid="X", model="MLP", dataset_id="d", split="test", row=0, prediction=0.6, calibrated=None, logit=0.4,
    baseline=0.1, delta=0.1, steps=1024, complete=False, label=None, target=Item(3), layers={},
    features=[Feature("target", "id", None, 0.4)], history=[],
)  # fmt: skip
HEADS = replace(
    PLAIN,
    layers={"a": "ASTA", "b": "MultiHeadTargetAttention"},
    history=[
        HistoryItem(place, Item(place, "x", "a [bold]title[/]"), {"a": [0.0], "b": [0.25, 0.75]}, {"id": 0.01 * place})
        for place in range(1, 31)
    ],
)


@pytest.mark.parametrize("explanation", [PLAIN, HEADS], ids=["no history", "two layers"])
def test_the_picture(explanation, tmp_path):
    draw_explanation(explanation, tmp_path / "x.png")
    assert matplotlib.image.imread(tmp_path / "x.png").std() > 0.05


def test_no_history_no_weights_no_label(capsys):
    report = render_report(PLAIN, "x.png")
    assert "The row has no history." in report
    assert "MLP has no layer of the zoo that gives the history's items weights" in report
    assert "NOT small, the contributions are only rough" in report
    assert "label" not in report
    print_explanation(PLAIN)
    assert "MLP has no layer" in capsys.readouterr().out


def test_several_layers_and_heads(capsys):
    report = render_report(HEADS, "x.png")
    assert "| item | place | weight a | weight b, mean of 2 heads | contribution | id |" in report
    assert "| x a [bold]title[/] | 30 | 0.0000 | 0.5000 | +0.3000 | +0.3000 |" in report
    assert "ASTA (a) lets 0 of 30 history items through." in report
    print_explanation(HEADS)
    out = capsys.readouterr().out
    assert "[bold]" in out
    assert "… and 10 items that contribute less" in out
