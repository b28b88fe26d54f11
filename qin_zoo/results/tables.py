"""The tables of a leaderboard, for whatever shows them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from qin_zoo.results.lines import Board, Line, about_slices, paired, parts_of
from qin_zoo.results.statistics import SIGNIFICANT, difference, mean_and_spread, paired_p_value


@dataclass(frozen=True)
class Cell:
    """A text, and the number by which it is sorted; None to stand last."""

    text: str
    value: float | None = None

    @classmethod
    def of(cls, text: str, value: float) -> Cell:
        """With a number that may be NaN."""
        return cls(text, value if math.isfinite(value) else None)


@dataclass(frozen=True)
class Table:
    """Header and rows; the first column is text, the others numbers.

    Attributes:
        kind: ``models``, ``variations``, ``tests`` or ``slices``.
        title: above it.
        note: what the columns mean.
    """

    kind: str
    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]


def tables(board: Board) -> list[Table]:
    """All tables that a board has numbers for."""
    made = [_models(board)] if board.ranked() else []
    made += [_variations(board, experiment, lines) for experiment, lines in board.variations().items()]
    if any(entry.tests for line in board.lines for entry in line.entries):
        made.append(_tests(board))
    kinds = dict.fromkeys(kind for line in board.lines for entry in line.entries for kind in entry.slices)
    return made + [_slices(board, kind) for kind in kinds]


def _models(board: Board) -> Table:
    lines, monitor = board.ranked(), board.monitor
    best = lines[0].metric(monitor)
    reachable = _reachable(board)
    header = ["model", "seeds", *board.metrics, "ECE", "parameters", "training s", "rows/s scored", "p to the best"]
    if reachable:
        header.insert(2 + len(board.metrics), "below reachable")
    rows = []
    for line in lines:
        p = paired_p_value(paired(line.metric(monitor), best)) if line is not lines[0] else math.nan
        valid = line.by_seed(lambda e: e.metrics.get("valid", {}).get(monitor))
        below = [reachable - v for v in valid.values()] if reachable else []
        ece = line.by_seed(lambda e: e.calibration and e.calibration["ece"])
        scored = [e.scored for e in line.entries if e.scored]
        cells = [Cell(line.name), Cell(str(len(line.seeds)), len(line.seeds))]
        cells += [_spread(line.metric(metric).values()) for metric in board.metrics]
        cells += [_spread(below)] if reachable else []
        cells += [
            _spread(ece.values()),
            Cell(f"{line.first.parameters:,}", line.first.parameters),
            Cell(f"{line.cost():,.0f}", line.cost()),
            Cell(f"{statistics.median(scored):,.0f}", statistics.median(scored)) if scored else Cell(""),
            Cell.of("" if math.isnan(p) else f"{p:.3f}{'' if p < SIGNIFICANT else ' ='}", p),
        ]
        rows.append(cells)
    note = (
        f"Mean ± standard deviation over seeds, {_of(board)}, the best {monitor} first. ECE: expected calibration "
        f"error. p: paired t-test over seeds against the first line; = where it is {SIGNIFICANT} or more, that is, "
        "where the difference may be chance. Times are medians of the machines they ran on."
    )
    for line, metric, runs in board.undefined():
        note += f" {metric} is not a number in {runs} of {len(line.entries)} runs of {line.name}."
    if reachable:
        blind = board.first.reachable["blind_auc"]
        note += (
            f" The click probabilities are known: the best reachable valid AUC is {reachable:.4f}, and {blind:.4f} for "
            "a model that is blind to the history."
        )
    return Table("models", "Models", note, header, rows)


def _variations(board: Board, experiment: str, lines: list[Line]) -> Table:
    base, metrics = lines[0], board.metrics
    header = ["variation", "seeds", *metrics]
    header += [column for metric in metrics for column in (f"Δ {metric}", "p")]
    header += ["parameters", "training s"]
    rows = []
    for line in lines:
        changes = [paired(line.metric(m), base.metric(m)) if line is not base else [] for m in metrics]
        rows.append(
            [
                Cell(_variation(line, lines)),
                Cell(str(len(line.seeds)), len(line.seeds)),
                *(_spread(line.metric(m).values()) for m in metrics),
                *(cell for values in changes for cell in _difference(values)),
                Cell(f"{line.first.parameters:,}", line.first.parameters),
                Cell(f"{line.cost():,.0f}", line.cost()),
            ]
        )
    note = (
        f"{_of(board).capitalize()}. Δ: difference from the first line, paired by seed; * where a paired t-test gives "
        f"p < {SIGNIFICANT}."
    )
    return Table("variations", f"{experiment} in variations", note, header, rows)


def _tests(board: Board) -> Table:
    monitor = board.monitor
    lines = [line for line in board.lines if any(e.tests for e in line.entries)]
    names = dict.fromkeys(name for line in lines for e in line.entries for name in e.tests)
    rows = []
    for line in lines:
        own = line.metric(monitor)
        cells = [Cell(line.name), _spread(own.values())]
        for name in names:
            cells.append(_difference(paired(line.by_seed(lambda e, n=name: e.tests.get(n, {}).get(monitor)), own))[0])
        rows.append(cells)
    note = (
        f"{monitor}, {_of(board)}; then how much it changes when the same weights score the same rows with their data "
        f"changed, paired by seed; * where p < {SIGNIFICANT}."
    )
    return Table("tests", "Harder data at the test", note, ["trained as", "unchanged", *names], rows)


def _slices(board: Board, kind: str) -> Table:
    monitor, (title, rows_of) = board.monitor, about_slices(kind)
    lines = [line for line in board.lines if any(kind in e.slices for e in line.entries)]
    parts = parts_of(lines, kind)
    header = ["trained as", *parts]
    rows = []
    for line in lines:
        cells = [Cell(line.name)]
        for part in parts:
            found = [e.slices[kind][part] for e in line.entries if part in e.slices.get(kind, {})]
            values = line.by_seed(lambda e, p=part: e.slices.get(kind, {}).get(p, {}).get(monitor))
            cell = _spread(values.values())
            count = statistics.fmean(part["rows"] for part in found) if found else 0
            cells.append(Cell(f"{cell.text} ({count:,.0f})" if cell.text else "", cell.value))
        rows.append(cells)
    note = f"{monitor} of {rows_of}; mean number of rows in brackets."
    return Table("slices", title, note, header, rows)


def _variation(line: Line, lines: list[Line]) -> str:
    name = line.first.variation
    return name if sum(other.first.variation == name for other in lines) == 1 else line.name


def _of(board: Board) -> str:
    split = board.first.split
    return f"{board.first.rows[split]:,} rows of the {split} split"


def _reachable(board: Board) -> float | None:
    found = board.first.reachable
    return found["best_auc"] if found and board.monitor == "AUC" else None


def _spread(values: Iterable[float]) -> Cell:
    values = list(values)
    return Cell.of(mean_and_spread(values), statistics.fmean(values)) if values else Cell("")


def _difference(values: list[float]) -> tuple[Cell, Cell]:
    text, p = difference(values)
    return Cell.of(text, statistics.fmean(values)) if values else Cell(""), Cell(p, float(p) if p else None)
