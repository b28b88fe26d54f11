"""A run's report: what was trained, how well, and where everything lies."""

from __future__ import annotations

from pathlib import Path

from qin_zoo.files import replace_file
from qin_zoo.training.record import course_of, kept_evaluation, monitored

_COURSES = {
    "still improving": "**Cut off while still improving**: the last look was the best one. More epochs, or a larger "
    "learning_rate, before this figure is compared with others.",
    "best at the first look": "**Best at the first look**, worse ever since: it overfits at once. A smaller "
    "learning_rate, more regularisation, or eval_steps for looks within the first epoch.",
    "one look": "Looked at once only: whether it would have improved further is not known.",
}


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render_report(record: dict) -> str:
    """The Markdown report of a run's record (see :func:`qin_zoo.training.run.run_experiment`)."""
    evaluations = record["evaluations"]
    kept = kept_evaluation(evaluations)
    metrics, params = list(kept["metrics"]), record["params"]
    looks = [value for e in evaluations if (value := monitored(params, e["metrics"])) is not None]
    course = course_of(looks, params.get("monitor_mode", "max"))
    reachable, calibration = record["reachable"], record["calibration"]
    parts = [
        f"# {record['expid']}",
        f"{record['model']} on {record['dataset_id']}: {record['rows']['train']:,} training rows, "
        f"{record['parameters']:,} parameters, {len(evaluations)} evaluations in {evaluations[-1]['seconds']:.0f} s; "
        f"the weights kept are those of epoch {kept['epoch']}.",
        *([_COURSES[course]] if course else []),
        "## Result",
        markdown_table(
            ["split", *metrics, *(["ECE"] if calibration else [])],
            [
                [
                    split,
                    *(f"{record[split].get(m, float('nan')):.6f}" for m in metrics),
                    *([f"{calibration[split]['ece']:.6f}"] if split in calibration else []),
                ]
                for split in ("valid", "test")
                if record[split]
            ],
        ),
    ]
    if reachable and "AUC" in record["valid"]:
        gap = reachable["best_auc"] - record["valid"]["AUC"]
        parts += [
            f"The click probabilities of this sample are known: the best reachable valid AUC is "
            f"{reachable['best_auc']:.4f}, **{gap:.4f}** above this run; a model that does not see the history "
            f"can reach {reachable['blind_auc']:.4f}."
        ]
    parts += [
        "## Training",
        f"![training curves]({Path(record['files']['curves']).name})",
        markdown_table(
            ["epoch", "step", "train loss", *(f"valid {m}" for m in metrics), "learning rate", "seconds", "kept"],
            [
                [
                    str(e["epoch"]),
                    str(e["step"]),
                    f"{e['train_loss']:.6f}",
                    *(f"{e['metrics'][m]:.6f}" for m in metrics),
                    f"{e['learning_rate']:.2e}",
                    f"{e['seconds']:.1f}",
                    "★" if e is kept else "",
                ]
                for e in evaluations
            ],
        ),
        "## Files",
        "\n".join(f"- {name}: `{path}`" for name, path in record["files"].items() if path),
    ]
    return "\n\n".join(parts) + "\n"


def write_report(path: Path, record: dict) -> None:
    """Writes :func:`render_report` to ``path``."""
    with replace_file(path) as temporary:
        temporary.write_text(render_report(record), encoding="utf-8")
