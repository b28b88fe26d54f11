"""An explanation as text."""

from __future__ import annotations

from qin_zoo.experiment.report import markdown_picture, markdown_table
from qin_zoo.explain.explanation import Explanation, HistoryItem

_METHOD = (
    "Contributions are integrated gradients of the logit (Sundararajan et al., 2017) over the embedded row, from a "
    "row of zeros: the embedding of padding and of unknown values, so a row of which only the length of the history "
    "is known. They say what this model made of this row, not what causes clicks."
)


def sum_line(e: Explanation) -> str:
    """How the contributions add up to the prediction."""
    value = f"{e.prediction:.4f}" + ("" if e.calibrated is None else f", calibrated {e.calibrated:.4f}")
    line = f"baseline {e.baseline:+.4f}, contributions {e.logit - e.baseline:+.4f}: logit {e.logit:+.4f}, score {value}"
    return line if e.label is None else f"{line}, label {e.label:g}"


def delta_line(e: Explanation) -> str:
    """How exactly they do."""
    line = f"convergence delta {e.delta:+.1e} after {e.steps} steps"
    return line if e.complete else f"{line}: NOT small, the contributions are only rough"


def left_out_line(e: Explanation) -> str:
    """Of which features nothing is known; empty where there are none."""
    if not e.left_out:
        return ""
    return f"Read past FuxiCTR's embedding layers, so what they add there is not known: {', '.join(e.left_out)}."


def attention_lines(e: Explanation) -> list[str]:
    """What each attention layer lets through."""
    if not e.layers:
        return [
            f"{e.model} has no layer of the zoo that gives the history's items weights; only their contributions are "
            "shown."
        ]
    lines = []
    for layer, kind in e.layers.items():
        through = sum(any(item.weights[layer]) for item in e.history)
        lines.append(f"{kind} ({layer}) lets {through} of {len(e.history)} history items through.")
    return lines


def weight_names(e: Explanation) -> list[str]:
    """A column for each attention layer."""
    heads = {layer: len(e.history[0].weights[layer]) if e.history else 1 for layer in e.layers}
    shown = {layer: "weight" if len(e.layers) == 1 else f"weight {layer}" for layer in e.layers}
    return [name if heads[layer] == 1 else f"{name}, mean of {heads[layer]} heads" for layer, name in shown.items()]


def history_row(e: Explanation, item: HistoryItem) -> list[str]:
    """An item's name, place, weights and contribution."""
    weights = (f"{item.weight(layer):.4f}" for layer in e.layers)
    return [item.item.name, str(item.place), *weights, f"{item.contribution:+.4f}"]


def feature_rows(e: Explanation) -> list[list[str]]:
    """Each feature with its value and contribution, those that count most first."""
    return [[f"{f.part} {f.name}", f.shown, f"{f.contribution:+.4f}"] for f in e.ranked]


def render_report(e: Explanation, picture: str) -> str:
    """The Markdown page of an explanation; ``picture`` is the name of the one beside it."""
    names = list(e.history[0].features) if e.history else []
    rows = [[*history_row(e, item), *(f"{item.features[n]:+.4f}" for n in names)] for item in e.history]
    parts = [
        f"# {e.expid}, {e.split} row {e.row}",
        f"{e.model} on {e.dataset_id}, {e.scored}: {sum_line(e)}.",
        markdown_picture("contributions and weights", picture),
        "## Features",
        markdown_table(["feature", "value", "contribution"], feature_rows(e)),
        f"{_METHOD} Here: {delta_line(e)}. {left_out_line(e)}".rstrip(),
        "## History, oldest first",
        "\n".join(attention_lines(e)),
    ]
    if rows:
        header = ["item", "place", *weight_names(e), "contribution", *names]
        parts.append(markdown_table(header, rows))
    else:
        parts.append("The row has no history.")
    return "\n\n".join(parts) + "\n"
