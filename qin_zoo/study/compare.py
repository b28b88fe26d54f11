"""The records of a study, side by side: means and spreads over seeds, and differences paired by seed."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from qin_zoo.errors import ConfigError
from qin_zoo.files import replace_file
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.training.report import markdown_table

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Line:
    """An experiment in one variation.

    Attributes:
        experiment, variation: which.
        values: seed -> metrics of the compared split.
        parameters: number of trainable parameters.
        seconds: median of the runs' seconds.
        differences: metric -> differences from the first variation, seed by seed; empty for the first itself.
    """

    experiment: str
    variation: str
    values: dict[int, dict[str, float]]
    parameters: int
    seconds: float
    differences: dict[str, list[float]]

    def mean(self, metric: str) -> float:
        return statistics.fmean(v[metric] for v in self.values.values())

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds; NaN with one."""
        return _deviation([v[metric] for v in self.values.values()])


def compare(study: Study, records: dict[StudyRun, dict]) -> list[Line]:
    """A line for each experiment and variation that has a finished run, in the study's order."""
    cells: dict[tuple[str, str], dict[int, dict]] = {}
    for run, record in records.items():
        cells.setdefault((run.experiment, run.variation), {})[run.seed] = record
    first = next(iter(study.variations))
    for record in records.values():
        missing = [m for m in study.metrics if m not in _compared(record)]
        if missing:
            raise ConfigError(
                f"metrics: {missing[0]} is not among the metrics of {record['expid']}: {', '.join(_compared(record))}."
            )
    lines = []
    for experiment in study.experiments:
        base = cells.get((experiment, first), {})
        for variation in study.variations:
            by_seed = dict(sorted(cells.get((experiment, variation), {}).items()))
            if not by_seed:
                continue
            shared = [s for s in by_seed if s in base and variation != first]
            differences = {
                m: [_compared(by_seed[s])[m] - _compared(base[s])[m] for s in shared] for m in study.metrics if shared
            }
            lines.append(
                Line(
                    experiment,
                    variation,
                    {seed: _compared(record) for seed, record in by_seed.items()},
                    next(iter(by_seed.values()))["parameters"],
                    statistics.median(r["seconds"] for r in by_seed.values()),
                    differences,
                )
            )
    return lines


def _compared(record: dict) -> dict[str, float]:
    """Metrics of the test split; of the validation split where the test rows have no labels."""
    return record["test"] or record["valid"]


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _paired_p_value(differences: list[float]) -> float:
    """Of a paired t-test; NaN with fewer than two seeds."""
    spread = _deviation(differences)
    if math.isnan(spread):
        return math.nan
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


def as_text(lines: list[Line], study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table that people read."""
    metrics = list(next(iter(lines[0].values.values())))
    deltas = [column for m in study.metrics for column in (f"Δ {m}", "p")]
    header = ["experiment", "variation", "seeds", *metrics, *deltas, "parameters", "seconds"]
    rows = []
    for line in lines:
        rows.append(
            [
                line.experiment,
                line.variation,
                str(len(line.values)),
                *(f"{line.mean(m):.4f}{_plus_minus(line.spread(m))}" for m in metrics),
                *(cell for m in study.metrics for cell in _difference(line.differences.get(m, []))),
                f"{line.parameters:,}",
                f"{line.seconds:.0f}",
            ]
        )
    return header, rows


def _difference(values: list[float]) -> tuple[str, str]:
    """Mean and spread of differences, and the p-value."""
    if not values:
        return "", ""
    p = _paired_p_value(values)
    text = f"{statistics.fmean(values):+.4f}{_plus_minus(_deviation(values))}{' *' if p < _SIGNIFICANT else ''}"
    return text, "" if math.isnan(p) else f"{p:.3f}"


def _plus_minus(spread: float) -> str:
    return "" if math.isnan(spread) else f" ± {spread:.4f}"


def explain_table(study: Study) -> str:
    """What the columns mean, in a sentence."""
    first = next(iter(study.variations))
    return (
        f"Mean ± standard deviation over seeds {', '.join(map(str, study.seeds))}, on the test split. "
        f"Δ: difference from '{first}', paired by seed; p: of a paired t-test, * below {_SIGNIFICANT}."
    )


def write_page(lines: list[Line], study: Study, folder: Path, name: str) -> Path:
    """Writes ``<name>.md``, ``.csv`` (a line per seed) and ``.png`` into a folder; returns the page."""
    header, rows = as_text(lines, study)
    page = folder / f"{name}.md"
    with replace_file(page) as temporary:
        text = [f"# {name}", explain_table(study), markdown_table(header, rows), f"![{name}]({name}.png)"]
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    with replace_file(folder / f"{name}.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        metrics = list(next(iter(lines[0].values.values())))
        table.writerow(["experiment", "variation", "seed", *metrics, "parameters"])
        for line in lines:
            for seed, values in line.values.items():
                table.writerow([line.experiment, line.variation, seed, *values.values(), line.parameters])
    draw(lines, study, folder / f"{name}.png", name)
    return page


def draw(lines: list[Line], study: Study, path: Path, title: str) -> None:
    """Draws each variation's mean, spread and single seeds, a panel for each experiment."""
    from matplotlib.figure import Figure

    experiments = list(dict.fromkeys(line.experiment for line in lines))
    variations = [v for v in study.variations if any(line.variation == v for line in lines)]
    size = (3.4 * len(experiments) + 1.4, 0.42 * len(variations) + 1.7)
    metric = study.metrics[0]
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    for ax, experiment in zip(axes, experiments):
        for line in (line for line in lines if line.experiment == experiment):
            y = variations.index(line.variation)
            seeds = [v[metric] for v in line.values.values()]
            ax.plot(seeds, [y] * len(seeds), "o", color="#a0aec0", markersize=4)
            spread = line.spread(metric)
            error = None if math.isnan(spread) else spread
            ax.errorbar(line.mean(metric), y, xerr=error, fmt="D", color="#2b6cb0", markersize=5, capsize=3)
            if y == 0:
                ax.axvline(line.mean(metric), color="#dd6b20", linestyle="--", linewidth=1)
        ax.set_title(experiment, fontsize=10)
        ax.set_yticks(range(len(variations)), variations, fontsize=9)
        ax.set_xlabel(metric, fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.locator_params(axis="x", nbins=4)
        ax.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle(f"{title}: mean, spread and seeds", fontsize=11)
    with replace_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
