"""Entries as the lines of tables: one for an experiment in a variation, over its seeds."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qin_zoo.bootstrap import Draws
from qin_zoo.metrics import default_monitor, mode_of
from qin_zoo.results.entry import OF_SEED, PLAIN, Entry
from qin_zoo.results.statistics import Estimate, deviation, estimate


@dataclass(frozen=True)
class Line:
    """Runs that differ in their seed only; repetitions of a seed count once, with their mean.

    Attributes:
        name: of the line: experiment, and variation unless it is plain.
        seeds: seed -> entries.
    """

    name: str
    seeds: dict[int, list[Entry]]

    @property
    def first(self) -> Entry:
        """An entry, for what all of them have in common."""
        return next(iter(self.seeds.values()))[0]

    @property
    def entries(self) -> list[Entry]:
        """Its runs, seed by seed."""
        return [entry for entries in self.seeds.values() for entry in entries]

    def by_seed(self, value) -> dict[int, float]:
        """``value(entry)`` of each seed that has one."""
        values_of = {seed: [v for e in entries if (v := value(e)) is not None] for seed, entries in self.seeds.items()}
        return {seed: statistics.fmean(values) for seed, values in values_of.items() if values}

    def metric(self, name: str) -> dict[int, float]:
        """Seed -> metric of the compared split."""
        return self.by_seed(lambda e: e.values.get(name))

    def tested(self, test: str, name: str) -> dict[int, float]:
        """Seed -> metric of a test."""
        return self.by_seed(lambda e: e.tests.get(test, {}).get(name))

    def sliced(self, kind: str, part: str, name: str) -> dict[int, float]:
        """Seed -> metric of a slice's part."""
        return self.by_seed(lambda e: e.slices.get(kind, {}).get(part, {}).get(name))

    def mean(self, name: str) -> float | None:
        """Of a metric, over seeds; None where no run has it."""
        values = list(self.metric(name).values())
        return statistics.fmean(values) if values else None

    def draws(self, name: str, seeds: Iterable[int] | None = None) -> tuple[np.ndarray, Draws] | None:
        """Of a metric its mean over seeds in each draw of users, (draws,), and one of the draws.

        None where a seed has none, or where others were drawn.
        """
        runs = [e.drawn for seed in self.seeds if seeds is None or seed in seeds for e in self.seeds[seed][:1]]
        known = all(d is not None and name in d.values for d in runs)
        if not known or len({(d.drawn, len(d.values[name])) for d in runs}) != 1:
            return None
        return np.mean([d.values[name] for d in runs], axis=0, dtype=np.float64), runs[0]

    def estimate(self, name: str) -> Estimate | None:
        """A metric, with its errors."""
        values, drawn = list(self.metric(name).values()), self.draws(name)
        if not values:
            return None
        return estimate(values, *(drawn[0], drawn[1].groups) if drawn else ())

    def courses(self) -> Counter[str]:
        """How many runs have which suspicious course, see :func:`qin_zoo.experiment.record.course_of`."""
        return Counter(e.course for e in self.entries if e.course)

    def cost(self) -> float:
        """Median of the runs' training seconds."""
        return statistics.median(e.seconds for e in self.entries)


def about_slices(kind: str) -> tuple[str, str]:
    """A title, and what is in each part; ``item_clicks``, say: rows by the clicks that their item has in training."""
    if kind == "period":
        return "By period", "the next period, after training up to the one that is named"
    whose = kind.split("_")[0]
    return f"By clicks of the {whose}", f"the rows whose {whose} has so many clicks in training"


def paired(one: dict[int, float], other: dict[int, float]) -> list[float]:
    """``one`` less ``other``, seed by seed."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def compare(one: Line, other: Line, name: str) -> Estimate | None:
    """A metric of ``one`` less that of ``other``, on the same rows.

    Paired by draws of users where the same were drawn for both; and by seed, where they share more than one or have the
    same. Else the errors of their seeds add up, and a single seed has none: a model without chance needs no more.
    """
    mine, theirs = one.metric(name), other.metric(name)
    if not mine or not theirs:
        return None
    common = mine.keys() & theirs.keys()
    by_seed = len(common) > 1 or mine.keys() == theirs.keys()
    both = [line.draws(name, common if by_seed else None) for line in (one, other)]
    drawn: tuple = ()
    if all(both) and both[0][1].drawn == both[1][1].drawn and both[0][0].shape == both[1][0].shape:
        drawn = both[0][0] - both[1][0], both[0][1].groups
    if by_seed:
        return estimate(paired(mine, theirs), *drawn)
    sides = [list(values.values()) for values in (mine, theirs)]
    known = [(deviation(side) / math.sqrt(len(side)), len(side) - 1) for side in sides if len(side) > 1]
    difference = estimate([statistics.fmean(sides[0]) - statistics.fmean(sides[1])], *drawn)
    if not known:
        return difference
    seeds, freedom = math.hypot(*(e for e, _ in known)), min(f for _, f in known)
    return replace(difference, seeds=seeds, freedom=(difference.freedom[0], freedom))


@dataclass(frozen=True)
class Board:
    """Everything that was scored on the same rows.

    Attributes:
        name: the shortest of the datasets' ids, of such the most used; with the beginning of the rows' hash where other
            rows have it, too.
        lines: in the order in which their first entries came.
    """

    name: str
    lines: list[Line]

    @property
    def first(self) -> Entry:
        """A run, for what all of them have in common."""
        return self.lines[0].first

    @property
    def monitor(self) -> str:
        """The metric by which lines are ranked: AUC where there is one, else the first."""
        return default_monitor(list(self.first.values))

    @property
    def metrics(self) -> list[str]:
        """Metrics that any line has, the ranking one first."""
        names = dict.fromkeys(name for line in self.lines for name in line.first.values)
        return [self.monitor, *(name for name in names if name != self.monitor)]

    def ranked(self) -> list[Line]:
        """Experiments as they are configured, the best first; those whose metric is missing or NaN last.

        Of an experiment that ran in named variations only, all of these.
        """
        configured = {line.first.experiment for line in self.lines if line.first.variation == PLAIN}
        plain = [x for x in self.lines if x.first.variation == PLAIN or x.first.experiment not in configured]
        sign = -1 if mode_of(self.monitor) == "max" else 1
        means = ((line.mean(self.monitor), line) for line in plain)
        places = [(math.inf if mean is None or math.isnan(mean) else sign * mean, line) for mean, line in means]
        return [line for _, line in sorted(places, key=lambda place: place[0])]

    def tests(self) -> tuple[list[Line], list[str]]:
        """Lines that have some, and the names of all."""
        names = dict.fromkeys(name for line in self.lines for entry in line.entries for name in entry.tests)
        return [line for line in self.lines if any(entry.tests for entry in line.entries)], list(names)

    def slices(self) -> dict[str, tuple[list[Line], list[str]]]:
        """Kind of slices -> lines that have such, and the names of all parts, by the number they begin with."""
        found: dict[str, tuple[list[Line], list[str]]] = {}
        for kind in dict.fromkeys(kind for line in self.lines for entry in line.entries for kind in entry.slices):
            lines = [line for line in self.lines if any(kind in entry.slices for entry in line.entries)]
            parts = {part for line in lines for entry in line.entries for part in entry.slices.get(kind, {})}
            numbers = {part: int(digits[0]) if (digits := re.findall(r"^\d+", part)) else -1 for part in parts}
            found[kind] = lines, sorted(parts, key=lambda part: (numbers[part], part))
        return found

    def twin(self, line: Line) -> Line | None:
        """An earlier line, plain ones before variations, with the same figures to the last digit: the same model."""
        lines = sorted(self.lines, key=lambda other: other.first.variation != PLAIN)
        before = lines[: lines.index(line)]
        return next((other for other in before if _figures(other) == _figures(line)), None)

    def undefined(self) -> list[tuple[Line, str, int]]:
        """Lines with a metric that is NaN or infinite, and in how many runs it is."""
        counts = [
            (line, name, sum(not math.isfinite(e.values.get(name, 0)) for e in line.entries))
            for line in self.lines
            for name in self.metrics
        ]
        return [(line, name, count) for line, name, count in counts if count]

    def variations(self) -> dict[str, list[Line]]:
        """Experiment -> its lines, the one to compare with first; experiments with one line are left out.

        That is the variation ``plain``, or ``none``, or whichever came first.
        """
        by_experiment: dict[str, list[Line]] = {}
        for line in self.lines:
            by_experiment.setdefault(line.first.experiment, []).append(line)
        order = {PLAIN: 0, "none": 1}
        several = {name: lines for name, lines in by_experiment.items() if len(lines) > 1}
        return {name: sorted(x, key=lambda line: order.get(line.first.variation, 2)) for name, x in several.items()}


def variation_names(lines: Sequence[Line]) -> list[str]:
    """What lines of one experiment are called beside each other: their variation, where that tells them apart."""
    names = [line.first.variation for line in lines]
    return [name if names.count(name) == 1 else line.name for name, line in zip(names, lines)]


def boards(entries: Iterable[Entry]) -> list[Board]:
    """A board for each set of rows, by name; lines stand in the order of the entries."""
    entries = list(entries)
    rows = _rows_by_name(entries)
    groups: dict[str, dict[tuple, dict[int, list[Entry]]]] = {}
    for entry in entries:
        key = (entry.experiment, entry.variation, entry.dataset_id, entry.setting)
        groups.setdefault(rows[entry.rows_of], {}).setdefault(key, {}).setdefault(entry.seed, []).append(entry)
    used = {of: Counter(key[2] for key in lines) for of, lines in groups.items()}
    names = {of: min(lines, key=lambda d: (len(d), -lines[d], d)) for of, lines in used.items()}
    often = Counter(names.values())
    made = []
    for of, lines in groups.items():
        firsts = {key: next(iter(seeds.values()))[0] for key, seeds in lines.items()}
        board = [Line(_name(key, firsts), dict(sorted(seeds.items()))) for key, seeds in lines.items()]
        made.append(Board(names[of] + (f" #{of[:4]}" if often[names[of]] > 1 else ""), board))
    return sorted(made, key=lambda board: board.name)


def _rows_by_name(entries: Iterable[Entry]) -> dict[str, str]:
    """What tells some rows -> one name for all that tell the same."""
    names: dict[str, str] = {}
    for entry in entries:
        known = {names[told] for told in entry.scored_rows if told in names}
        name = min(known, default=entry.rows_of)
        names |= {told: name for told, old in names.items() if old in known} | dict.fromkeys(entry.scored_rows, name)
    return names


def _figures(line: Line) -> dict:
    return {seed: [entry.metrics for entry in entries[:1]] for seed, entries in line.seeds.items()}


def _name(key: tuple, firsts: Mapping[tuple, Entry]) -> str:
    """As short as it can be without being another's: with the dataset, then one or two parameters, if they tell."""
    experiment, variation, dataset, setting = key
    name = experiment if variation == PLAIN else f"{experiment}, {variation}"
    same = [k for k in firsts if k[:2] == key[:2]]
    here = [firsts[k] for k in same if k[2] == dataset]
    if len(here) < len(same):
        name += f" on {dataset}"
    told, others = _peculiar(firsts[key], here), [_peculiar(entry, here) for entry in here]
    if len(told) > 2 or others.count(told) > 1:
        return f"{name} #{setting[:4]}"
    return ", ".join([name, *(f"{parameter}={value}" for parameter, value in told.items())])


def _peculiar(entry: Entry, beside: Iterable[Entry]) -> dict[str, Any]:
    """Its parameters that not all others have, or not alike."""
    params = {key: value for key, value in entry.params.items() if key not in OF_SEED}
    return {k: v for k, v in params.items() if any(k not in o.params or o.params[k] != v for o in beside)}
