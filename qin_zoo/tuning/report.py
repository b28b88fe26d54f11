"""What a search found: a table, a CSV of all trials, a Markdown page with pictures, and how to run the best."""

from __future__ import annotations

import csv
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from qin_zoo.experiment.report import markdown_table
from qin_zoo.files import replace_file, replace_text
from qin_zoo.tuning.plots import draw_plots
from qin_zoo.tuning.space import dump, show
from qin_zoo.tuning.study import SharedStudy
from qin_zoo.tuning.tuner import Search

_SHOWN = 30  # lines of the table on the terminal
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class TrialRow:
    """A trial, as the tables show it.

    Attributes:
        rank: from 1 among the finished ones, None of the others.
        expid: its id.
        state: ``finished``, ``pruned``, ``failed``, ``running`` or ``stopped``.
        value: best value of the monitor; None where it was never evaluated.
        point: key -> value of what is varied.
        metrics: of the evaluation with the best value.
        seconds: from its start to its end.
        device: where it ran.
        error: message, if it failed or was stopped.
        trial: Optuna's.
    """

    rank: int | None
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
    """All trials of a search, the best first, and where they are written."""

    search: Search
    lines: list[TrialRow]
    page: Path
    notes: list[str]

    def _of(self, state: str) -> list[TrialRow]:
        return [line for line in self.lines if line.state == state]

    @property
    def finished(self) -> list[TrialRow]:
        """The trials that ended with a value, the best first."""
        return self._of("finished")

    @property
    def failed(self) -> list[TrialRow]:
        """The trials that ended with an error."""
        return self._of("failed")

    @property
    def is_complete(self) -> bool:
        """Whether every trial was finished or pruned."""
        return len(self.finished) + len(self._of("pruned")) == self.search.trials

    @property
    def progress(self) -> str:
        """A sentence of how many trials are in which state."""
        parts = [
            f"{len(self._of(state))} {state}" for state in ("pruned", "failed", "stopped", "running") if self._of(state)
        ]
        more = f" ({', '.join(parts)})" if parts else ""
        return f"{len(self.finished)} of {self.search.trials} trials are finished{more}."

    @property
    def best_command(self) -> str | None:
        """What trains the best trial again; None before one has finished."""
        return run_command(self.search, self.finished[0].expid) if self.finished else None


def run_command(search: Search, expid: str) -> str:
    """The command line that runs a trial again."""
    words = ["qin-zoo", "run", expid, "--config", str(search.trial_folder)]
    words += ["--data", str(search.data)] if search.data else []
    words += [word for plugin in search.plugins for word in ("--plugin", str(plugin))]
    return shlex.join(words)


def read_lines(search: Search, study: SharedStudy) -> list[TrialRow]:
    """The trials of a search: finished ones by value, then pruned, failed, stopped and running ones."""
    sign = 1 if search.direction == "minimize" else -1
    lines = [_line(search, trial, sign) for trial in study.trials().values()]
    order = ["finished", "pruned", "failed", "stopped", "running"]
    lines.sort(key=lambda x: (order.index(x.state), sign * x.value if x.value is not None else 0.0, x.expid))
    return [TrialRow(**{**vars(x), "rank": n if x.state == "finished" else None}) for n, x in enumerate(lines, 1)]


def _line(search: Search, trial: FrozenTrial, sign: int) -> TrialRow:
    notes = trial.user_attrs
    reported = [v for v in trial.intermediate_values.values() if v == v]
    value = trial.value
    if trial.state != TrialState.COMPLETE:
        value = (min if sign == 1 else max)(reported, default=None)
    return TrialRow(
        rank=None,
        expid=notes.get("expid", ""),
        state="stopped" if "lost" in notes else _STATES[trial.state],
        value=value,
        point=_point(search, trial),
        metrics=notes.get("metrics") or {},
        seconds=notes.get("seconds"),
        device=notes.get("device", ""),
        error=notes.get("error") or notes.get("lost") or "",
        trial=trial,
    )


def _point(search: Search, trial: FrozenTrial) -> dict[str, object]:
    point = {}
    for key in (*search.space.lists, *search.space.ranges):
        if key not in trial.params:
            continue
        label = trial.params[key]
        values = search.space.lists.get(key)
        point[key] = label if values is None else values[trial.distributions[key].choices.index(label)]
    return point


def read_results(search: Search, study: SharedStudy) -> Results:
    """What a search found so far; writes nothing."""
    return Results(search, read_lines(search, study), search.folder / f"{search.name}.md", [])


def write_results(search: Search, study: SharedStudy) -> Results:
    """Writes ``<name>.csv``, ``<name>.md`` and its pictures into ``<model_root>/tune``.

    Args:
        search: the search.
        study: its trials.

    Returns:
        what was written; with too few finished trials for a picture, ``notes`` say so.
    """
    results, stem = read_results(search, study), search.folder / search.name
    pictures, notes = draw_plots([x.trial for x in results.lines], search, stem)
    results = replace(results, notes=notes)
    _write_csv(results, stem.with_name(f"{stem.name}.csv"))
    replace_text(results.page, _page(results, pictures))
    return results


def _keys(results: Results) -> list[str]:
    return [*results.search.space.lists, *results.search.space.ranges]


def _write_csv(results: Results, path: Path) -> None:
    metrics = list(dict.fromkeys(name for line in results.lines for name in line.metrics))
    keys = _keys(results)
    head = ["rank", "expid", "state", "value", "seconds", "device"]
    # a metric and a parameter may share a name with a column
    header = [*head, *(f"params_{key}" for key in keys), *(f"valid_{name}" for name in metrics), "error"]
    with replace_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for line in results.lines:
            values = [line.rank, line.expid, line.state, line.value, line.seconds, line.device]
            values += [show(line.point[key]) if key in line.point else "" for key in keys]
            values += [line.metrics.get(name, "") for name in metrics]
            writer.writerow(["" if value is None else value for value in (*values, line.error)])


def short(value: object) -> str:
    """A parameter's value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else show(value)


def _row(results: Results, line: TrialRow) -> list[str]:
    return [
        str(line.rank or ""),
        line.expid,
        f"{line.value:.6f}" if line.value is not None else "",
        *(short(line.point[key]) if key in line.point else "" for key in _keys(results)),
        f"{line.seconds:.0f}" if line.seconds is not None else "",
        line.state,
    ]


def _page(results: Results, pictures: dict[str, Path]) -> str:
    search = results.search
    kind = "grid" if search.space.is_grid else f"search in ranges (TPE, pruner {search.pruner}, seed {search.seed})"
    goal = "smallest" if search.direction == "minimize" else "largest"
    parts = [
        f"# {search.name}",
        f"A {kind} over `{search.space.expid}` on {search.base.params['dataset_id']}, from `{search.space.file}`: the "
        f"{goal} {search.monitor} on the valid split. {results.progress}",
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
    header = ["rank", "expid", search.monitor, *_keys(results), "seconds", "state"]
    rows = [[cell.replace("|", "\\|") for cell in _row(results, line)] for line in results.lines]
    parts += ["## Trials", markdown_table(header, rows)]
    parts += [f"## {title}\n\n![{title}]({path.name})" for title, path in pictures.items()]
    parts += results.notes
    if results.failed:
        messages = "\n".join(f"- `{x.expid}`: {x.error.splitlines()[0]}" for x in results.failed)
        parts += ["## Failed", messages, "The same command tries them again."]
    return "\n\n".join(parts) + "\n"


def print_results(results: Results) -> None:
    """The table on the terminal, the best first, and where everything lies."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # a file has room
    table = Table(box=SIMPLE)
    keys = _keys(results)
    for name in ("rank", "expid", results.search.monitor, *keys, "seconds", "state"):
        left = name in ("expid", "state")
        # an id is for copying, so it is never cut; where room is short, the varied parameters are folded
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in keys, overflow="fold")
    for line in results.lines[:_SHOWN]:
        table.add_row(*_row(results, line))
    console.print(table)
    hidden = len(results.lines) - _SHOWN
    if hidden > 0:
        console.print(f"… and {hidden} more")
    for line in results.failed:
        console.print(f"{line.expid} failed: {line.error.splitlines()[0]}", soft_wrap=True, markup=False)
    for note in results.notes:
        console.print(note, soft_wrap=True, markup=False)
    if results.best_command:
        console.print(f"best, to run again:  {results.best_command}", soft_wrap=True, markup=False)
    console.print(f"table and pictures:  {results.page}", soft_wrap=True, markup=False)
