"""The tables of a leaderboard, for whatever shows them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from qin_zoo.results.lines import Board, Line, about_slices, compare, paired, variation_names
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


Column = tuple[str, list[Cell]]


def tables(board: Board) -> list[Table]:
    """All tables that a board has numbers for."""
    made = [_models(board)] if board.ranked() else []
    made += [_variations(board, experiment, lines) for experiment, lines in board.variations().items()]
    if board.tests()[0]:
        made.append(_tests(board))
    return made + [_slices(board, kind, *found) for kind, found in board.slices().items()]


def _table(kind: str, title: str, note: str, columns: list[Column]) -> Table:
    header, cells = zip(*columns)
    return Table(kind, title, note, list(header), [list(row) for row in zip(*cells)])


def _models(board: Board) -> Table:
    lines, monitor, known = board.ranked(), board.monitor, board.first.reachable
    reachable = known["best_auc"] if known and monitor == "AUC" else None
    twins = {line.name: twin for line in lines if (twin := board.twin(line))}
    others = [line is not lines[0] and line.name not in twins for line in lines]
    to_first = [compare(line, lines[0], monitor) if other else None for line, other in zip(lines, others)]
    ((changes, p_values),) = _differences([to_first])
    columns = [("model", [Cell(line.name) for line in lines]), *_metrics(board, lines)]
    if reachable:
        valid = [line.by_seed(lambda e: e.metrics.get("valid", {}).get(monitor)).values() for line in lines]
        columns.append(("below reachable", [_spread([reachable - v for v in values]) for values in valid]))
    ece = [line.by_seed(lambda e: e.calibration and e.calibration["ece"]).values() for line in lines]
    scored = [[e.scored for e in line.entries if e.scored] for line in lines]
    columns += [
        ("ECE", [_spread(values) for values in ece]),
        (f"Δ {monitor} to the first", changes),
        ("p", p_values),
        ("visible", [_number(math.nan if apart is None else apart.visible) for apart in to_first]),
        *_costs(lines),
        ("rows/s scored", [_whole(statistics.median(rates)) if rates else Cell("") for rates in scored]),
    ]
    note = (
        f"{_FIGURES}, {_of(board)}, the best {monitor} first. ECE: expected calibration error. Δ: difference from the "
        f"first line with its own 95 % interval, {_PAIRED} visible: the smallest true difference that this comparison "
        f"finds four times in five. Times are medians of the machines they ran on.{_told(board, lines, twins)}"
    )
    asked = {_tuning(line)["asked"] if _tuning(line) else "nothing" for line in lines if line.first.curve}
    if len(asked) > 1:
        note += f" Tuning was not the same for all: {', '.join(sorted(asked))}."
    elif asked and any(map(_tuning, lines)):
        note += f" Each was given {asked.pop()} on the validation split."
    for line, metric, runs in board.undefined():
        note += f" {metric} is not a number in {runs} of {len(line.entries)} runs of {line.name}."
    if reachable:
        note += f" The click probabilities are known: the best reachable valid AUC is {reachable:.4f}, and "
        note += f"{known['blind_auc']:.4f} for a model that is blind to the history."
    return _table("models", "Models", note, columns)


def _variations(board: Board, experiment: str, lines: list[Line]) -> Table:
    twins = {line.name: twin for line in lines if (twin := board.twin(line))}
    apart = [[compare(x, lines[0], m) if x is not lines[0] else None for x in lines] for m in board.metrics]
    names = [
        name + (f" (= {twins[line.name].name})" if line.name in twins else "")
        for name, line in zip(variation_names(lines), lines)
    ]
    columns = [("variation", [Cell(name) for name in names]), *_metrics(board, lines)]
    for metric, (changes, p_values) in zip(board.metrics, _differences(apart)):
        columns += [(f"Δ {metric}", changes), ("p", p_values)]
    note = f"{_FIGURES}, {_of(board)}. Δ: difference from the first line with its own 95 % interval, {_PAIRED[:-1]}."
    note += _told(board, lines, twins)
    return _table("variations", f"{experiment} in variations", note, [*columns, *_costs(lines)])


def _tests(board: Board) -> Table:
    monitor, (lines, names) = board.monitor, board.tests()
    changes = [[paired(line.tested(name, monitor), line.metric(monitor)) for line in lines] for name in names]
    apart = [[estimate(values) if values else None for values in column] for column in changes]
    columns = [("trained as", [Cell(line.name) for line in lines])]
    columns += [("unchanged", [_figure(line, monitor) for line in lines])]
    columns += [(name, cells) for name, (cells, _) in zip(names, _differences(apart))]
    note = (
        f"{monitor}, {_of(board)}; then how much it changes when the same weights score the same rows with their data "
        f"changed, paired by seed, with its interval over seeds; * where p < {SIGNIFICANT}, after Holm over the table."
    )
    return _table("tests", "Harder data at the test", note, columns)


def _slices(board: Board, kind: str, lines: list[Line], parts: list[str]) -> Table:
    monitor, (title, rows_of) = board.monitor, about_slices(kind)
    columns = [("trained as", [Cell(line.name) for line in lines])]
    for part in parts:
        cells = []
        for line in lines:
            values = line.sliced(kind, part, monitor)
            rows = [e.slices[kind][part]["rows"] for e in line.entries if part in e.slices.get(kind, {})]
            cell = _spread(values.values())
            cells.append(Cell(f"{cell.text} ({statistics.fmean(rows):,.0f})", cell.value) if values else cell)
        columns.append((part, cells))
    return _table("slices", title, f"{monitor} of {rows_of}; mean number of rows in brackets.", columns)


def _metrics(board: Board, lines: list[Line]) -> list[Column]:
    seeds = [Cell(str(len(line.seeds)), len(line.seeds)) for line in lines]
    return [("seeds", seeds), *((metric, [_figure(line, metric) for line in lines]) for metric in board.metrics)]


def _costs(lines: list[Line]) -> list[Column]:
    """Of each line what its training took, and what its tuning where there was some."""
    given = [_tuning(line) for line in lines]
    tuned = [Cell(f"{spent['trials']} trials, {spent['minutes']:.1f} min" if spent else "") for spent in given]
    courses = [line.courses() for line in lines]
    curves = [Cell(", ".join(f"{n} {course}" for course, n in c.most_common()), sum(c.values())) for c in courses]
    return [
        *([("tuned", tuned)] if any(given) else []),
        ("curves", curves),
        ("parameters", [_whole(line.first.parameters) for line in lines]),
        ("training s", [_whole(line.cost()) for line in lines]),
    ]


def _of(board: Board) -> str:
    split = board.first.split
    return f"{board.first.rows[split]:,} rows of the {split} split"


def _spread(values: Iterable[float]) -> Cell:
    values = list(values)
    return Cell.of(mean_and_spread(values), statistics.fmean(values)) if values else Cell("")


def _figure(line: Line, metric: str) -> Cell:
    """``0.7012 ± 0.0044 [0.6843, 0.7181]``; the interval where the errors of users are known."""
    values, found = list(line.metric(metric).values()), line.estimate(metric)
    if found is None:
        return Cell("")
    interval = "" if math.isnan(found.users) else f" {found.interval_text()}"
    return Cell.of(mean_and_spread(values) + interval, found.mean)


def _differences(columns: list[list[Estimate | None]]) -> list[tuple[list[Cell], list[Cell]]]:
    """Of each column differences with their intervals, and p-values after Holm over the whole table."""
    raised = iter(holm([e.p for column in columns for e in column if e is not None]))
    cells = [[_difference(e, math.nan if e is None else next(raised)) for e in column] for column in columns]
    return [tuple(map(list, zip(*column))) for column in cells]


def _difference(found: Estimate | None, p: float) -> tuple[Cell, Cell]:
    if found is None:
        return Cell(""), Cell("")
    texts = [f"{found.mean:+.4f}", found.interval_text("+"), "*" if p < SIGNIFICANT else ""]
    return Cell.of(" ".join(filter(None, texts)), found.mean), _number(p, 3)


def _number(value: float, digits: int = 4) -> Cell:
    return Cell("") if math.isnan(value) else Cell(f"{value:.{digits}f}", value)


def _whole(value: float) -> Cell:
    return Cell(f"{value:,.0f}", value)


def _tuning(line: Line) -> dict | None:
    """What was spent on tuning a line."""
    return next((e.tuning for e in line.entries if e.tuning), None)


def _told(board: Board, lines: list[Line], twins: dict[str, Line]) -> str:
    """Who the users are, which curves are suspicious, and which lines are the same."""
    drawn = next((e.drawn for line in board.lines for e in line.entries if e.draws), None)
    if drawn is None:
        note = " Who the users are is not in the intervals: no run has kept what other users would have shown."
    else:
        whose = board.first.params.get("group_id")
        number = f"{drawn.groups:,}"
        note = f" Users: {number} of {whose}, drawn again." if whose else f" {number} rows, drawn again."
    counts = sum((line.courses() for line in lines), Counter())
    if counts:
        told = ", ".join(f"{n} {course}" for course, n in counts.most_common())
        runs = sum(len(line.entries) for line in lines)
        note += f" Curves: of {runs} runs {told}, so where those models end is not known."
    if twins:
        told = "; ".join(f"{name} gives the figures of {twin.name}" for name, twin in twins.items())
        note += f" {told} to the last digit: one model under two names, which counts once."
    return note
