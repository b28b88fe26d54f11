"""Two runs, or two lines of several seeds, side by side: what differs, and by how much they differ for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from qin_zoo.errors import QinZooError
from qin_zoo.results.entry import Entry
from qin_zoo.results.lines import Line, boards, compare
from qin_zoo.results.runs import Run
from qin_zoo.results.statistics import Estimate

_MISSING = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Comparison:
    """What two lines have not in common.

    Attributes:
        lines: the two.
        parameters, data, environment: key, file or package -> both values as text; ``–`` where there is none.
        metrics: of the compared split -> ``one`` and ``other`` with their errors, and their ``difference``, paired by
            user and seed where possible; None where one of them has no such metric, or their rows differ.
        same_rows: whether both were scored on the same rows, without which metrics cannot be subtracted.
    """

    lines: tuple[Line, Line]
    parameters: dict[str, tuple[str, str]]
    data: dict[str, tuple[str, str]]
    environment: dict[str, tuple[str, str]]
    metrics: dict[str, dict[str, Estimate | None]]
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
    """Compares two runs, or two lines of runs that differ in their seed only."""
    lines = line_of(one), line_of(other)
    first = [line.first for line in lines]
    same_rows = bool(first[0].scored_rows & first[1].scored_rows)
    metrics: dict[str, dict[str, Estimate | None]] = {}
    for name in dict.fromkeys([*first[0].values, *first[1].values]):
        metrics[name] = dict(zip(("one", "other"), [line.estimate(name) for line in lines]))
        metrics[name]["difference"] = compare(*lines, name) if same_rows else None
    return Comparison(
        lines,
        _differences(*map(_parameters, lines)),
        _differences(_data(one[0]), _data(other[0])),
        _differences(*({key: show_value(v) for key, v in entry.environment.items()} for entry in first)),
        metrics,
        same_rows,
    )


def sparkline(curve: Sequence[float], values: Sequence[float]) -> str:
    """A curve in a line of blocks, on the scale of some values; ``?`` for what is not finite."""
    steps, known = len(_BLOCKS) - 1, [value for value in values if math.isfinite(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
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
    record = run.record
    found = {f"{split} rows": f"{rows:,}" for split, rows in run.entry.rows.items()}
    if record is None:
        return found | {"content of all": run.entry.content_of or _MISSING}
    for split, about in record["data"].items():
        for part, of in {split: about, **about}.items():
            if isinstance(of, dict):
                found |= {f"{part} {key}": str(of[key]) for key in ("blake2b", "file") if key in of}
    return found


def _differences(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str, str]]:
    both = {key: (one.get(key, _MISSING), other.get(key, _MISSING)) for key in {**one, **other}}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def best_of(entry: Entry) -> str:
    """Where its curve was best: ``look 7 of 9``."""
    if not entry.curve:
        return ""
    best = (min if entry.params.get("monitor_mode") == "min" else max)(entry.curve)
    return f"best at look {entry.curve.index(best) + 1} of {len(entry.curve)}"
