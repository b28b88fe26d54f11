"""Two runs, or two lines of several seeds, side by side: what differs, and by how much they differ for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qin_zoo.errors import QinZooError
from qin_zoo.results.entry import Entry
from qin_zoo.results.lines import Line, boards, compare
from qin_zoo.results.runs import Run
from qin_zoo.results.statistics import Estimate

_MISSING = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both.

    Attributes:
        what: key, file or package.
        one, other: its values, as text; ``–`` where there is none.
    """

    what: str
    one: str
    other: str


@dataclass(frozen=True)
class Measured:
    """A metric of both.

    Attributes:
        name: of the metric.
        one, other: with their errors; None where one of them has no such metric.
        difference: ``one`` less ``other``, paired by user and seed where possible; None where their rows differ.
    """

    name: str
    one: Estimate | None
    other: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """What two lines have not in common.

    Attributes:
        one, other: the lines.
        parameters, data, environment: what differs.
        metrics: of the compared split.
        same_rows: whether both were scored on the same rows, without which metrics cannot be subtracted.
    """

    one: Line
    other: Line
    parameters: list[Difference]
    data: list[Difference]
    environment: list[Difference]
    metrics: list[Measured]
    same_rows: bool


def line_of(runs: Sequence[Run]) -> Line:
    """Runs of one setting as a line.

    Raises:
        QinZooError: they are not of one setting.
    """
    lines = [line for board in boards(run.entry for run in runs) for line in board.lines]
    if len(lines) != 1:
        raise QinZooError(f"expected runs that differ in their seed only, found {', '.join(run.name for run in runs)}.")
    return lines[0]


def compare_runs(one: Sequence[Run], other: Sequence[Run]) -> Comparison:
    """Compares two runs, or two lines of several seeds.

    Args:
        one, other: runs that differ in their seed only.
    """
    lines, first = (line_of(one), line_of(other)), (one[0], other[0])
    entries = [line.first for line in lines]
    same_rows = entries[0].rows_of == entries[1].rows_of
    names = dict.fromkeys([*entries[0].values, *entries[1].values])
    return Comparison(
        *lines,
        _differences(*(_parameters(line) for line in lines)),
        _differences(*(_data(run) for run in first)),
        _differences(*({k: show_value(v) for k, v in e.environment.items()} for e in entries)),
        [Measured(n, *(line.estimate(n) for line in lines), compare(*lines, n) if same_rows else None) for n in names],
        same_rows,
    )


def sparkline(curve: Sequence[float], low: float, high: float) -> str:
    """A curve in a line of blocks.

    Args:
        curve: its values.
        low, high: of the scale.
    """
    steps = len(_BLOCKS) - 1
    span = high - low
    return "".join(
        "?" if not math.isfinite(v) else _BLOCKS[round(steps * (v - low) / span) if span > 0 else steps // 2]
        for v in curve
    )


def show_value(value: object) -> str:
    """A recorded parameter on a line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parameters(line: Line) -> dict[str, str]:
    """Values by their key; of columns a key for each, so that only those that differ are shown."""
    found: dict[str, str] = {}
    for key, value in line.first.params.items():
        if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
            for column in value:
                of = column.get("source")
                found[f"{key}: {show_value(column['name'])}{f' of {of}' if of else ''}"] = show_value(
                    {k: v for k, v in column.items() if k not in ("name", "source")}
                )
        else:
            found[key] = show_value(value)
    found["seed"] = ", ".join(map(str, line.seeds))
    return found


def _data(run: Run) -> dict[str, str]:
    """What is known of each file: of a run its rows, content and place; of a stored result less."""
    record, entry = run.record, run.entry
    found = {f"{split} rows": f"{rows:,}" for split, rows in entry.rows.items()}
    if record is None:
        return found | {"content of all": entry.content_of or _MISSING}
    for split, about in record["data"].items():
        parts: dict[str, Any] = {split: about, **{k: v for k, v in about.items() if isinstance(v, dict)}}
        for part, of in parts.items():
            found |= {f"{part} {key}": str(of[key]) for key in ("blake2b", "file") if key in of}
    return found


def _differences(one: dict[str, str], other: dict[str, str]) -> list[Difference]:
    both = ((key, one.get(key, _MISSING), other.get(key, _MISSING)) for key in dict.fromkeys([*one, *other]))
    return [Difference(*found) for found in both if found[1] != found[2]]


def best_of(entry: Entry) -> str:
    """Where its curve was best: ``look 7 of 9``."""
    if not entry.curve:
        return ""
    best = (min if entry.params.get("monitor_mode") == "min" else max)(entry.curve)
    return f"best at look {entry.curve.index(best) + 1} of {len(entry.curve)}"
