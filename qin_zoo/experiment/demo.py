"""The demonstration: sample data, QIN, and the same model blind to the history, held against what is reachable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from qin_zoo.data.sample import write_sample
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.report import markdown_table
from qin_zoo.experiment.run import run_experiment
from qin_zoo.files import replace_text

_EXPERIMENT = "QIN_sample"
_BLIND = "QIN_sample_blind"


def run_demo(
    data: Path, rows: int, items: int, seed: int, argv: Iterable[str] = (), echo: Callable[[str], None] = print
) -> Path:
    """Makes the sample, runs both experiments, and writes ``demo.md`` and ``demo.png`` beside their results.

    A sample in the folder ``data`` that was made with the same numbers is reused. Returns the file of the report.
    """
    from qin_zoo.experiment.curves import draw_comparison

    echo(f"Sample data: {rows:,} rows, {items:,} items in {data}")
    summary = write_sample(data, rows, items, seed)
    records = {}
    for expid in (_EXPERIMENT, _BLIND):
        prepared = prepare(expid, data=data)
        records[expid] = run_experiment(prepared, Path.cwd(), argv=argv, echo=echo, overwrite=True)
    folder = prepared.files.folder
    best, blind_best = summary.best_auc["valid"], summary.blind_auc["valid"]
    own, blind = (records[expid]["valid"]["AUC"] for expid in (_EXPERIMENT, _BLIND))
    draw_comparison(
        {expid: record["evaluations"] for expid, record in records.items()},
        {"best reachable": best, "best without the history": blind_best},
        folder / "demo.png",
        f"QIN on the sample: {rows:,} rows, {items:,} items",
    )
    table = [
        ["best reachable", f"{best:.4f}", ""],
        [f"QIN (`{_EXPERIMENT}`)", f"{own:.4f}", f"{own - best:+.4f}"],
        ["best reachable without the history", f"{blind_best:.4f}", f"{blind_best - best:+.4f}"],
        [f"QIN blind to it (`{_BLIND}`)", f"{blind:.4f}", f"{blind - best:+.4f}"],
    ]
    text = [
        "# The demonstration",
        f"{rows:,} training rows, {items:,} items, seed {seed}; the click probability of every row is known, "
        "and so is the AUC of the best possible model.",
        markdown_table(["", "valid AUC", "to the best reachable"], table),
        f"The history is worth **{own - blind:.4f}** AUC to QIN.",
        "![valid AUC by epoch](demo.png)",
        f"Full reports: [{_EXPERIMENT}]({_EXPERIMENT}.md), [{_BLIND}]({_BLIND}.md). "
        f"Submission for the challenge: `{records[_EXPERIMENT]['files']['submission']}`.",
    ]
    report = folder / "demo.md"
    replace_text(report, "\n\n".join(text) + "\n")
    echo(f"\nbest reachable AUC {best:.4f}   QIN {own:.4f}   blind to the history {blind:.4f}\ndemo report: {report}")
    return report
