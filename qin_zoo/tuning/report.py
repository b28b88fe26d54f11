"""What a search found: a table, a CSV of all trials, a Markdown page with pictures, and how to run the best."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from qin_zoo.experiment.report import markdown_picture, markdown_table
from qin_zoo.files import replace_file, replace_text
from qin_zoo.tuning.plots import draw_plots
from qin_zoo.tuning.space import dump, show
from qin_zoo.tuning.study import SharedStudy, values_of
from qin_zoo.tuning.tuner import Search

_STATES = ("finished", "pruned", "failed", "stopped", "running")  # in the order of the tables


@dataclass(frozen=True)
class TrialRow:
    """A trial, as the tables show it.

    Attributes:
        expid: its id.
        state: one of ``finished``, ``pruned``, ``failed``, ``stopped`` and ``running``.
        value: best value of the monitor; None where it was never evaluated.
        point: key -> value of what is varied.
        metrics: of the evaluation with the best value.
        seconds: from its start to its end.
        device: where it ran.
        error: message, if it failed or was stopped.
        trial: Optuna's.
    """

    expid: str
    state: str
    value: float | None
    point: dict[str, object]
    metrics: dict[str, float]
    seconds: float | None
    device: str
    error: str
    trial: FrozenTrial = field(repr=False)


@dataclass(frozen=True)
class Results:
    """All trials of a search, the best first, and what is to be said of its pictures."""

    search: Search
    lines: list[TrialRow]
    notes: list[str]

    @property
    def page(self) -> Path:
        """The Markdown file that tells them."""
        return self.search.folder / f"{self.search.name}.md"

    @property
    def keys(self) -> list[str]:
        """What is varied."""
        return [*self.search.space.lists, *self.search.space.ranges]

    @property
    def finished(self) -> list[TrialRow]:
        """The trials that ended with a value, the best first."""
        return [line for line in self.lines if line.state == "finished"]

    @property
    def failed(self) -> list[TrialRow]:
        """The trials that ended with an error."""
        return [line for line in self.lines if line.state == "failed"]

    @property
    def is_complete(self) -> bool:
        """Whether every trial was finished or pruned."""
        return sum(line.state in ("finished", "pruned") for line in self.lines) == self.search.trials

    @property
    def progress(self) -> str:
        """A sentence of how many trials are in which state."""
        counts = Counter(line.state for line in self.lines)
        others = ", ".join(f"{counts[state]} {state}" for state in _STATES[1:] if counts[state])
        more = f" ({others})" if others else ""
        return f"{counts['finished']} of {self.search.trials} trials are finished{more}."

    @property
    def header(self) -> list[str]:
        """Of :attr:`rows`."""
        return ["rank", "expid", self.search.monitor, *self.keys, "seconds", "state"]

    @property
    def rows(self) -> list[list[str]]:
        """A table for people."""

        def short(value: object) -> str:
            return f"{value:.4g}" if isinstance(value, float) else show(value)

        return [
            [
                str(number) if line.state == "finished" else "",
                line.expid,
                "" if line.value is None else f"{line.value:.6f}",
                *(short(line.point[key]) if key in line.point else "" for key in self.keys),
                "" if line.seconds is None else f"{line.seconds:.0f}",
                line.state,
            ]
            for number, line in enumerate(self.lines, 1)
        ]

    @property
    def best_command(self) -> str | None:
        """The command line that trains the best trial again; None before one has finished."""
        if not self.finished:
            return None
        search = self.search
        words = ["qin-zoo", "run", self.finished[0].expid, "--config", str(search.trial_folder)]
        words += ["--data", str(search.data)] if search.data else []
        words += [word for plugin in search.plugins for word in ("--plugin", str(plugin))]
        return shlex.join(words)


def read_lines(search: Search, study: SharedStudy) -> list[TrialRow]:
    """The trials of a search: finished ones by value, then pruned, failed, stopped and running ones."""
    sign = 1 if search.direction == "minimize" else -1
    lines = [_line(search, trial, sign) for trial in study.trials().values()]
    return sorted(lines, key=lambda x: (_STATES.index(x.state), sign * (x.value or 0.0), x.expid))


def _line(search: Search, trial: FrozenTrial, sign: int) -> TrialRow:
    notes, value = trial.user_attrs, trial.value
    if trial.state != TrialState.COMPLETE:
        reported = [v for v in trial.intermediate_values.values() if v == v]
        value = (min if sign == 1 else max)(reported, default=None)
    named = {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed"}
    return TrialRow(
        expid=notes.get("expid", ""),
        state="stopped" if "lost" in notes else named.get(trial.state, trial.state.name.lower()),
        value=value,
        point=values_of(search.space, trial.params, trial.distributions),
        metrics=notes.get("metrics") or {},
        seconds=notes.get("seconds"),
        device=notes.get("device", ""),
        error=notes.get("error") or notes.get("lost") or "",
        trial=trial,
    )


def write_results(search: Search, study: SharedStudy) -> Results:
    """Writes ``<name>.csv``, ``<name>.md`` and its pictures into ``<model_root>/tune``.

    Returns:
        what was written; with too few finished trials for a picture, ``notes`` say so.
    """
    lines, stem = read_lines(search, study), search.folder / search.name
    pictures, notes = draw_plots([line.trial for line in lines], search, stem)
    results = Results(search, lines, notes)
    _write_csv(results, stem.with_name(f"{stem.name}.csv"))
    replace_text(results.page, _page(results, pictures))
    return results


def _write_csv(results: Results, path: Path) -> None:
    metrics = list(dict.fromkeys(name for line in results.lines for name in line.metrics))
    # a metric and a parameter may share a name with a column
    header = ["rank", "expid", "state", "value", "seconds", "device"]
    header += [*(f"params_{key}" for key in results.keys), *(f"valid_{name}" for name in metrics), "error"]
    with replace_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number, line in enumerate(results.lines, 1):
            rank = number if line.state == "finished" else None
            values = [rank, line.expid, line.state, line.value, line.seconds, line.device]
            values += [show(line.point[key]) if key in line.point else None for key in results.keys]
            writer.writerow([*values, *(line.metrics.get(name) for name in metrics), line.error])


def _page(results: Results, pictures: dict[str, Path]) -> str:
    search = results.search
    kind = "grid" if search.space.is_grid else f"search in ranges (TPE, pruner {search.pruner}, seed {search.seed})"
    parts = [
        f"# {search.name}",
        f"A {kind} over `{search.space.expid}` on {search.base.params['dataset_id']}, from `{search.space.file}`: the "
        f"{search.goal} {search.monitor} on the valid split. {results.progress}",
    ]
    if results.finished:
        best = results.finished[0]
        model, _ = search.space.trial_blocks(best.point)
        parts += [
            "## Best",
            f"`{best.expid}`: {search.monitor} **{best.value:.6f}**, with "
            + (", ".join(f"`{key}: {show(value)}`" for key, value in best.point.items()) or "nothing varied")
            + f". Its weights and report lie in `{search.base.files.folder}`.",
            f"```bash\n{results.best_command}\n```",
            "As a block of a `model_config.yaml`:",
            f"```yaml\n{dump({best.expid: model}).rstrip()}\n```",
        ]
    parts += ["## Trials", markdown_table(results.header, results.rows)]
    parts += [f"## {title}\n\n{markdown_picture(title, path.name)}" for title, path in pictures.items()]
    parts += results.notes
    if results.failed:
        messages = "\n".join(f"- `{x.expid}`: {x.error.splitlines()[0]}" for x in results.failed)
        parts += ["## Failed", messages, "The same command tries them again."]
    return "\n\n".join(parts) + "\n"
