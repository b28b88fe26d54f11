"""The tables of a leaderboard, for whatever shows them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from qin_zoo.results.lines import Board, Line, about_slices, compare, paired, parts_of
from qin_zoo.results.statistics import SIGNIFICANT, Estimate, estimate, holm, mean_and_spread

_PAIRED = (
    f"paired by user and seed; * where p < {SIGNIFICANT}; p: raised for the number of comparisons in the table (Holm);"
)
_FIGURES = "Mean ± standard deviation over seeds [95 % interval, over users and seeds where both are known]"


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
    reachable, twins = _reachable(board), {id(line): board.twin(line) for line in lines}
    to_first = [
        compare(line, lines[0], monitor) if line is not lines[0] and twins[id(line)] is None else None for line in lines
    ]
    changes = _differences([[found] for found in to_first])
    given = [_given(line) for line in lines]
    header = ["model", "seeds", *board.metrics, *(["below reachable"] if reachable else []), "ECE"]
    header += [f"Δ {monitor} to the first", "p", "visible", *(["tuned"] if any(given) else []), "curves"]
    header += ["parameters", "training s", "rows/s scored"]
    rows = []
    for line, change, apart, spent in zip(lines, changes, to_first, given):
        valid = line.by_seed(lambda e: e.metrics.get("valid", {}).get(monitor))
        below = [reachable - v for v in valid.values()] if reachable else []
        ece = line.by_seed(lambda e: e.calibration and e.calibration["ece"])
        scored = [e.scored for e in line.entries if e.scored]
        cells = [Cell(line.name), Cell(str(len(line.seeds)), len(line.seeds))]
        cells += [_figure(line, metric) for metric in board.metrics]
        cells += [_spread(below)] if reachable else []
        cells += [
            _spread(ece.values()),
            *change,
            _number(math.nan if apart is None else apart.visible),
            *([Cell(spent)] if any(given) else []),
            _courses(line),
            Cell(f"{line.first.parameters:,}", line.first.parameters),
            Cell(f"{line.cost():,.0f}", line.cost()),
            Cell(f"{statistics.median(scored):,.0f}", statistics.median(scored)) if scored else Cell(""),
        ]
        rows.append(cells)
    note = (
        f"{_FIGURES}, {_of(board)}, the best {monitor} first. ECE: expected calibration error. Δ: difference from the "
        f"first line with its own 95 % interval, {_PAIRED} visible: the smallest true difference that this comparison "
        "finds four times in five. Times are medians of the machines they ran on."
    )
    note += _told_of_users(board) + _told_of_courses(lines) + _told_of_twins(lines, twins)
    if len(alike := {_asked(line) for line in lines if line.first.curve}) > 1:
        note += f" Tuning was not the same for all: {', '.join(sorted(alike))}."
    elif alike and any(given):
        note += f" Each was given {alike.pop()} on the validation split."
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
    twins = {id(line): board.twin(line) for line in lines}
    changes = _differences([[compare(x, base, m) if x is not base else None for m in metrics] for x in lines])
    given = [_given(line) for line in lines]
    header = ["variation", "seeds", *metrics]
    header += [column for metric in metrics for column in (f"Δ {metric}", "p")]
    header += [*(["tuned"] if any(given) else []), "curves", "parameters", "training s"]
    rows = []
    for line, change, spent in zip(lines, changes, given):
        twin = twins[id(line)]
        rows.append(
            [
                Cell(_variation(line, lines) + (f" (= {twin.name})" if twin else "")),
                Cell(str(len(line.seeds)), len(line.seeds)),
                *(_figure(line, m) for m in metrics),
                *change,
                *([Cell(spent)] if any(given) else []),
                _courses(line),
                Cell(f"{line.first.parameters:,}", line.first.parameters),
                Cell(f"{line.cost():,.0f}", line.cost()),
            ]
        )
    note = f"{_FIGURES}, {_of(board)}. Δ: difference from the first line with its own 95 % interval, {_PAIRED[:-1]}."
    note += _told_of_users(board) + _told_of_courses(lines) + _told_of_twins(lines, twins)
    return Table("variations", f"{experiment} in variations", note, header, rows)


def _tests(board: Board) -> Table:
    monitor = board.monitor
    lines = [line for line in board.lines if any(e.tests for e in line.entries)]
    names = dict.fromkeys(name for line in lines for e in line.entries for name in e.tests)
    changes = []
    for line in lines:
        own = line.metric(monitor)
        tested = [paired(line.by_seed(lambda e, n=name: e.tests.get(n, {}).get(monitor)), own) for name in names]
        changes.append([estimate(values) if values else None for values in tested])
    rows = [
        [Cell(line.name), _figure(line, monitor), *change[::2]] for line, change in zip(lines, _differences(changes))
    ]
    note = (
        f"{monitor}, {_of(board)}; then how much it changes when the same weights score the same rows with their data "
        f"changed, paired by seed, with its interval over seeds; * where p < {SIGNIFICANT}, after Holm over the table."
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


def _figure(line: Line, metric: str) -> Cell:
    """``0.7012 ± 0.0044 [0.6843, 0.7181]``; the interval where the errors of users are known."""
    values, found = list(line.metric(metric).values()), line.estimate(metric)
    if found is None:
        return Cell("")
    text = mean_and_spread(values)
    if not math.isnan(found.users):
        text += f" [{found.mean - found.half:.4f}, {found.mean + found.half:.4f}]"
    return Cell.of(text, found.mean)


def _differences(table: list[list[Estimate | None]]) -> list[list[Cell]]:
    """Of each row a difference with its interval, and its p-value after Holm over the whole table; twice the cells."""
    raised = iter(holm([e.p for row in table for e in row if e is not None]))
    return [[cell for e in row for cell in _difference(e, math.nan if e is None else next(raised))] for row in table]


def _difference(found: Estimate | None, p: float) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(""), Cell("")
    text = f"{found.mean:+.4f}"
    if not math.isnan(found.half):
        text += f" [{found.mean - found.half:+.4f}, {found.mean + found.half:+.4f}]"
    text += " *" if p < SIGNIFICANT else ""
    return Cell.of(text, found.mean), _number(p, 3)


def _number(value: float, digits: int = 4) -> Cell:
    return Cell("") if math.isnan(value) else Cell(f"{value:.{digits}f}", value)


def _courses(line: Line) -> Cell:
    counts = line.courses()
    return Cell(", ".join(f"{n} {course}" for course, n in counts.most_common()), sum(counts.values()))


def _given(line: Line) -> str:
    """What was spent on tuning a line; empty where nothing was."""
    spent = next((e.tuning for e in line.entries if e.tuning), None)
    return f"{spent['trials']} trials, {spent['minutes']:.1f} min" if spent else ""


def _asked(line: Line) -> str:
    return next((e.tuning["asked"] for e in line.entries if e.tuning), "nothing")


def _told_of_users(board: Board) -> str:
    drawn = next((e.drawn for line in board.lines for e in line.entries if e.draws), None)
    if drawn is None:
        return " Who the users are is not in the intervals: no run has kept what other users would have shown."
    whose = board.first.params.get("group_id")
    return f" Users: {drawn.groups:,} of {whose}, drawn again." if whose else f" {drawn.groups:,} rows, drawn again."


def _told_of_courses(lines: list[Line]) -> str:
    counts = sum((line.courses() for line in lines), Counter())
    runs = sum(len(line.entries) for line in lines)
    told = ", ".join(f"{n} {course}" for course, n in counts.most_common())
    return f" Curves: of {runs} runs {told}, so where those models end is not known." if told else ""


def _told_of_twins(lines: list[Line], twins: dict[int, Line | None]) -> str:
    told = [f"{line.name} gives the figures of {twin.name}" for line in lines if (twin := twins[id(line)])]
    return f" {'; '.join(told)} to the last digit: one model under two names, which counts once." if told else ""
