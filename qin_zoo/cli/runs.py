"""`qin-zoo runs`: what was trained: listed, shown, compared."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_table, print_text

if TYPE_CHECKING:
    from qin_zoo.results.compare import Comparison
    from qin_zoo.results.runs import Run
    from qin_zoo.results.statistics import Estimate

app = typer.Typer(help="What was trained: listed, shown, compared.", invoke_without_command=True)

Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--root", help="Folder of runs or of stored results; may be repeated. Default: checkpoints and results."
    ),
]
Named = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Name, DATASET/NAME, short id (#4e15) or record of a run.", show_default=False),
]
Side = Annotated[
    str, typer.Argument(help="As of show; the id of a leaderboard's line means all its seeds.", show_default=False)
]
_WIDEST = 60  # letters of a value in a table


@app.callback()
def runs(
    context: typer.Context,
    root: Roots = None,
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only runs on this dataset.")] = None,
    last: Annotated[int, typer.Option(min=0, help="How many, the newest first; 0 for all.")] = 30,
    as_json: options.AsJson = False,
) -> None:
    """List what was trained, of studies too, the newest first; then what was stopped or is being trained."""
    if context.invoked_subcommand is not None:
        return
    from qin_zoo.results.runs import find_runs, find_unfinished

    places = _places(root)
    found = find_runs(places)
    found = [r for r in found if model in (None, r.entry.model) and dataset in (None, r.entry.dataset_id)]
    shown = found[:last] if last else found
    if as_json:
        print_json([_as_json(run) for run in shown])
        return
    if not found:
        looked = ", ".join(map(str, places))
        typer.echo(f"No runs in {looked}. `qin-zoo run EXPERIMENT` makes one; --root names other folders.")
    else:
        _print_runs(shown)
        if len(shown) < len(found):
            typer.echo(f"{len(shown)} of {len(found)} runs; --last 0 lists all.")
    for files, process in find_unfinished(places):
        state = f"being trained by process {process}" if process else "stopped; --resume goes on"
        typer.echo(f"{files.folder.name}/{files.expid}: {state}")


@app.command()
def show(run: Named, root: Roots = None, as_json: options.AsJson = False) -> None:
    """Show a run: its metrics with intervals over users, curve, cost, parameters, files."""
    from qin_zoo.results.runs import resolve_one

    found = resolve_one(run, _places(root))
    if as_json:
        print_json(_as_json(found) | {"params": found.entry.params, "files": _files(found)})
    else:
        _print_run(found)


@app.command()
def compare(
    one: Side,
    other: Side,
    root: Roots = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw both curves of the monitored metric.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two runs: what differs in parameters and data, curves, metrics with intervals, paired differences."""
    from qin_zoo.results.compare import compare_runs
    from qin_zoo.results.runs import resolve

    places = _places(root)
    sides = [resolve(text, places) for text in (one, other)]
    comparison = compare_runs(*sides)
    if as_json:
        print_json(_comparison_as_json(comparison, *sides))
    else:
        _print_comparison(comparison, sides)
    if picture is not None:
        _draw(sides, picture)
        typer.echo(f"written: {picture}", err=as_json)


def _places(root: list[Path] | None) -> list[Path]:
    from qin_zoo.results.runs import ROOTS

    return list(root or ROOTS)


# ---- JSON


def _as_json(run: Run) -> dict:
    entry = run.entry
    told = ("model", "dataset_id", "experiment", "variation", "seed", "split", "metrics")
    return {
        "id": run.id,
        "name": run.name,
        "file": str(run.file),
        "finished": run.file.stat().st_mtime,
        **{key: getattr(entry, key) for key in told},
        "intervals": {name: found.interval for name, found in _estimates(run).items()},
        **{key: getattr(entry, key) for key in ("curve", "seconds", "parameters", "rows")},
    }


def _comparison_as_json(found: Comparison, one: list[Run], other: list[Run]) -> dict:
    def measured(side: str, e: Estimate) -> dict:
        p = {"p": e.p if math.isfinite(e.p) else None} if side == "difference" else {}
        return {"mean": e.mean, "interval": e.interval, **p}

    kinds = {kind: getattr(found, kind) for kind in ("parameters", "data", "environment")}
    return {
        "one": [_as_json(run) for run in one],
        "other": [_as_json(run) for run in other],
        **{kind: [{"what": k, "one": a, "other": b} for k, (a, b) in d.items()] for kind, d in kinds.items()},
        "same_rows": found.same_rows,
        "metrics": {
            name: {side: measured(side, e) for side, e in sides.items() if e is not None}
            for name, sides in found.metrics.items()
        },
    }


def _estimates(run: Run) -> dict[str, Estimate]:
    from qin_zoo.results.compare import line_of

    line = line_of([run])
    return {name: found for name in run.entry.values if (found := line.estimate(name)) is not None}


# ---- a terminal


def _print_runs(runs: list[Run]) -> None:
    from qin_zoo.metrics import default_monitor

    rows = []
    for run in runs:
        entry = run.entry
        metric = default_monitor(list(entry.values))
        when = time.strftime("%m-%d %H:%M", time.localtime(run.file.stat().st_mtime))
        name = entry.experiment if run.is_stored else run.name
        rows.append([run.id, name, entry.dataset_id, f"{entry.split} {metric}", f"{entry.values[metric]:.4f}", when])
    print_table(["id", "run", "dataset", "metric", "", "finished"], rows, numbers={4}, folded={1, 2})


def _print_run(run: Run) -> None:
    from qin_zoo.results.compare import show_value

    entry = run.entry
    _heading(run)
    rows = []
    for split, metrics in entry.metrics.items():
        estimates = _estimates(run) if split == entry.split else {}
        texts = {name: estimate.interval_text() for name, estimate in estimates.items()}
        rows += [[split, m, f"{v:.6f}", texts.get(m, "")] for m, v in metrics.items()]
    print_table(["split", "metric", "value", "95 %, other users"], rows, numbers={2, 3})
    print_text(_curve_of(run, entry.curve))
    spent = f"{entry.seconds:,.0f} s of training, {entry.parameters:,} parameters, "
    print_text(spent + ", ".join(f"{n:,} {split}" for split, n in entry.rows.items()) + " rows")
    rows = [[key, _short(show_value(value))] for key, value in entry.params.items()]
    print_table(["parameter", "value"], rows, folded={1})
    print_table(["file", ""], [[what, path] for what, path in _files(run).items()], folded={1})


def _print_comparison(found: Comparison, sides: list[list[Run]]) -> None:
    lettered = [(letter, run) for letter, runs in zip("AB", sides) for run in runs]
    for letter, run in lettered:
        _heading(run, f"{letter}: ")
    kinds = {"parameter": found.parameters, "data": found.data, "environment": found.environment}
    for kind, differences in kinds.items():
        if differences:
            rows = [[what, *map(_short, values)] for what, values in differences.items()]
            print_table([kind, "A", "B"], rows, folded={0, 1, 2})
        else:
            print_text(f"{kind}: no difference\n")
    values = [value for _, run in lettered for value in run.entry.curve]
    for letter, run in lettered:
        print_text(f"{letter}  {_curve_of(run, values)}")
    rows = []
    for name, measured in found.metrics.items():
        for side, e in zip(("A", "B", "A − B"), measured.values()):
            if e is not None:
                sign = "+" if side == "A − B" else ""
                p = f"{e.p:.3f}" if sign and not math.isnan(e.p) else ""
                rows.append([name if side == "A" else "", side, f"{e.mean:{sign}.4f}", e.interval_text(sign), p])
    print_table([found.lines[0].first.split, "", "", "95 %", "p"], rows, numbers={2, 3, 4})
    print_text(_told(found))


def _told(found: Comparison) -> str:
    """What the intervals are, and are not."""
    if not found.same_rows:
        return "They were scored on other rows: their metrics cannot be subtracted."
    drawn = [line.draws(name) for line in found.lines for name in list(line.first.values)[:1]]
    if not all(drawn):
        return "[ ]: 95 % intervals over seeds. Other users are not in them: a run has not kept what they would show."
    users = f"{drawn[0][1].groups:,} users or rows, drawn again for both alike"
    alone = all(len(line.seeds) == 1 for line in found.lines)
    chance = "; one seed each, so the chance of a training is not in them" if alone else ", and over seeds"
    return f"[ ]: 95 % intervals over {users}{chance}."


def _heading(run: Run, before: str = "") -> None:
    e = run.entry
    model = e.model if e.variation == "plain" else f"{e.model}, {e.variation}"
    print_text(f"{before}{run.id}  {run.name}: {model} on {e.dataset_id}, seed {e.seed}", "bold")


def _curve_of(run: Run, values: list[float]) -> str:
    """A run's curve on the scale of these values."""
    from qin_zoo.results.compare import best_of, sparkline

    entry = run.entry
    if not entry.curve:
        return "no curve"
    ends = f"{entry.curve[0]:.4f} … {entry.curve[-1]:.4f}"
    course = f", {entry.course}" if entry.course else ""
    return f"{sparkline(entry.curve, values)}  {ends}, {best_of(entry)}{course}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _files(run: Run) -> dict[str, str]:
    """The files of a run that are there."""
    from qin_zoo.experiment.files import RunFiles

    if run.is_stored:
        return {"result": str(run.file)}
    of = RunFiles(run.file.parent, run.name)
    named = ("record", "checkpoint", "report", "curves", "log", "events", "prediction", "submission", "encoder")
    return {what: str(path) for what in named if (path := getattr(of, what)).exists()}


def _draw(sides: list[list[Run]], picture: Path) -> None:
    from qin_zoo.cli.results import require_folder
    from qin_zoo.errors import QinZooError
    from qin_zoo.experiment.curves import draw_comparison
    from qin_zoo.metrics import default_monitor

    require_folder(picture)
    curves = {}
    for run in (run for side in sides for run in side):
        evaluations = (run.record or {}).get("evaluations")
        if not evaluations:
            raise QinZooError(f"{run.file} has no curve to draw: a baseline has none, a stored result keeps less.")
        curves[f"{run.name} {run.id}"] = evaluations
    metric = default_monitor(list(evaluations[0]["metrics"]))
    draw_comparison(curves, {}, picture, f"valid {metric}", metric)
