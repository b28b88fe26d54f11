"""`qin-zoo bench`: how fast this machine reads, trains and scores, beside a plain reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qin_zoo.cli import options
from qin_zoo.cli.table import print_json, print_table, print_text

if TYPE_CHECKING:
    from qin_zoo.bench.growth import Point
    from qin_zoo.bench.latency import Latency
    from qin_zoo.bench.service import Load

app = typer.Typer(help="Measure reading, training and scoring against a plain reference.", no_args_is_help=True)

Experiment = Annotated[str, typer.Argument(help="Experiment id, of a dataset with an item table.")]
BenchData = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder with the dataset's files; a sample of MicroLens' shape is made where it is missing."
    ),
]
Rows = Annotated[int, typer.Option(help="Training rows of that sample.")]
Items = Annotated[int, typer.Option(help="Items of that sample.")]
Rounds = Annotated[int, typer.Option(min=1, help="Measurements of each contender; the median counts.")]
Plain = Annotated[bool, typer.Option(help="Also run the plain reference.")]
Picture = Annotated[Path | None, typer.Option(help="PNG file to draw.")]


def _several(what: str, default: str):
    return typer.Option(min=1, help=f"{what}; may be repeated. Default: {default}.")


_DEFAULT = "QIN_MicroLens_1M_x1"
_FOLDER = Path("data/bench")


@app.command()
def load(
    ctx: typer.Context,
    experiment: Experiment = _DEFAULT,
    config: options.Config = None,
    data: BenchData = _FOLDER,
    rows: Rows = 200_000,
    items: Items = 91_717,
    rounds: Rounds = 5,
    plain: Plain = True,
    cold: Annotated[bool, typer.Option(help="Also start once without any cache.")] = True,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    as_json: options.AsJson = False,
) -> None:
    """Read training batches: rows a second, and seconds to the first batch of a new process.

    The plain reference reads as the public challenge loader does: a data frame's row for each item of each history.
    """
    _race("load", **ctx.params)


def _computing(task: str, help: str, default_rounds: int) -> None:
    """Adds the command of a task that may run on a GPU."""

    @app.command(task, help=help)
    def command(
        ctx: typer.Context,
        experiment: Experiment = _DEFAULT,
        config: options.Config = None,
        data: BenchData = _FOLDER,
        rows: Rows = 200_000,
        items: Items = 91_717,
        rounds: Rounds = default_rounds,
        plain: Plain = True,
        rival: Annotated[
            Path | None, typer.Option(help="File or folder with a model of this name to race with, instead of plain.")
        ] = None,
        drawn: Annotated[bool, typer.Option("--drawn", help="Random batches instead of data; no reading.")] = False,
        gpu: options.Gpu = -1,
        overrides: options.Overrides = None,
        plugin: options.Plugins = None,
        as_json: options.AsJson = False,
    ) -> None:
        _race(task, **ctx.params)


_MEASURED = "reading included: rows a second, memory, share of the machine's matrix-product rate."
_computing("train", f"Train, {_MEASURED}", 3)
_computing("score", f"Score rows with untrained weights, {_MEASURED}", 5)


@app.command()
def growth(
    experiment: Experiment = _DEFAULT,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            help="batch_size, max_len, items or embedding_dim, or with values: max_len=16,1000; may be repeated. "
            "Default: all."
        ),
    ] = None,
    rounds: Rounds = 3,
    gpu: options.Gpu = -1,
    overrides: options.Overrides = None,
    picture: Picture = None,
    as_json: options.AsJson = False,
) -> None:
    """Time a step on random batches against batch size, history length, catalogue size and embedding size."""
    from qin_zoo.bench.growth import AXES, draw_growth, grow
    from qin_zoo.errors import ConfigError, suggest

    axes = {}
    for name, _, values in (text.partition("=") for text in axis or AXES):
        if name not in AXES:
            raise ConfigError(f"Unknown axis '{name}': expected {', '.join(AXES)}.{suggest(name, AXES)}")
        numbers = values.split(",") if values else []
        if not all(number.isdecimal() and int(number) for number in numbers):
            raise ConfigError(f"--axis {name}={values}: expected whole numbers of at least 1, as {name}=16,1000.")
        axes[name] = [int(number) for number in numbers] or AXES[name]
    with _status("measuring") as status:
        points = grow(experiment, axes, rounds, gpu, overrides or (), progress=status.update)
    title = f"{experiment}: seconds of a step"
    if picture:
        draw_growth(points, picture, title)
    _print(points, experiment, "points", as_json, _print_growth, title)


@app.command()
def latency(
    experiment: Experiment = _DEFAULT,
    candidates: Annotated[list[int] | None, _several("Candidates of a request", "1 to 1000")] = None,
    threads: Annotated[list[int] | None, _several("Threads of a request", "1 and 2")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each kind that are timed.")] = 200,
    seconds: Annotated[float, typer.Option(min=0, help="Limit for the plain model, for each kind of request.")] = 10,
    plain: Plain = True,
    overrides: options.Overrides = None,
    plugin: options.Plugins = None,
    picture: Picture = None,
    as_json: options.AsJson = False,
) -> None:
    """Time requests to an exported model, beside the plain eager model scoring the same rows; untrained weights."""
    from qin_zoo.bench.latency import CANDIDATES, THREADS, draw_latency, measure_latency

    with _status("exporting") as status:
        measured = measure_latency(
            experiment, candidates or CANDIDATES, threads or THREADS, requests=requests, plain=plain,
            plain_seconds=seconds, overrides=overrides or (), plugins=plugin or (), progress=status.update,
        )  # fmt: skip
    title = f"{experiment}: milliseconds of a request"
    if picture:
        draw_latency(measured, picture, title)
    _print(measured, experiment, "requests", as_json, print_latency, title)


@app.command()
def service(
    experiment: Experiment = "QIN_sample",
    candidates: Annotated[list[int] | None, _several("Candidates of a request", "1, 100, 1000")] = None,
    connections: Annotated[list[int] | None, _several("Clients", "1, 16, 64")] = None,
    workers: Annotated[list[int] | None, _several("Processes of each service", "1 and 2")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="That each load lasts.")] = 3,
    rounds: Rounds = 3,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Load `qin-zoo serve`, and services that one would write instead, in the same run; untrained weights.

    Those are FastAPI and bare ASGI with orjson, both with ONNX Runtime on uvicorn (pip install fastapi uvicorn), and
    LitServe where it is installed. wrk makes the load; it takes a core of its own.
    """
    from qin_zoo.bench.service import CANDIDATES, CONNECTIONS, WORKERS, measure_service

    with _status("exporting") as status:
        measured = measure_service(
            experiment, candidates or CANDIDATES, connections or CONNECTIONS, workers or WORKERS, seconds=seconds,
            rounds=rounds, overrides=overrides or (), progress=status.update,
        )  # fmt: skip
    _print(measured, experiment, "loads", as_json, _print_service, f"{experiment}: services under load")


@app.command()
def trajectory(
    experiment: Experiment = _DEFAULT,
    config: options.Config = None,
    data: BenchData = _FOLDER,
    rows: Rows = 200_000,
    items: Items = 91_717,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    double: Annotated[bool, typer.Option("--float64", help="In float64 instead of float32.")] = False,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Train the plain and the fast model side by side, without dropout, and compare their losses.

    A third one, plain but begun one rounding error away, shows how far the configuration itself drives losses apart.
    """
    from qin_zoo.bench.trajectory import trajectories

    _make_data(data, rows, items)
    with _status("training") as status:
        losses = trajectories(
            experiment, steps, config, data, overrides or (), double,
            progress=lambda step, now: status.update(f"step {step} of {steps}: {now}"),
        )  # fmt: skip
    apart = max(abs(now.fast - now.plain) for now in losses)
    drift = max(abs(now.nudged - now.plain) for now in losses)
    if as_json:
        columns = [astuple(now) for now in losses]
        print_json({"experiment": experiment, "losses": columns, "largest_difference": apart, "largest_drift": drift})
    else:
        kind = "float64" if double else "float32"
        typer.echo(
            f"{steps} steps in {kind}, loss {losses[0].plain:.6f} to {losses[-1].plain:.6f}: "
            f"plain and qin-zoo at most {apart:.1e} apart, plain and plain nudged by one rounding error {drift:.1e}"
        )


@app.command("gpu")
def gpu_check(
    out: Annotated[Path, typer.Argument(help="Table to write: OUT.md and OUT.json.")],
    experiment: Annotated[
        list[str] | None,
        typer.Option(help="Experiment of a dataset with an item table; may be repeated. Default: four published ones."),
    ] = None,
    gpu: Annotated[int, typer.Option(help="GPU; -1 is the CPU, to see that all of it runs.")] = 0,
    rows: Annotated[int, typer.Option(min=1, help="Rows of an epoch; they are random.")] = 3_600_000,
    seconds: Annotated[float, typer.Option(min=1, help="For everything; what is not done by then is told.")] = 360,
    note: Annotated[list[str] | None, typer.Option(help="Line for the head of the table; may be repeated.")] = None,
    overrides: options.Overrides = None,
) -> None:
    """Train published configurations in float32, tf32 and bfloat16, compiled or not; compare with the CPU."""
    from qin_zoo.bench.gpu import BOUNDS, EXPERIMENTS, check_gpu
    from qin_zoo.bench.report import write_gpu_table
    from qin_zoo.experiment.record import environment

    out.parent.mkdir(parents=True, exist_ok=True)
    with _status("starting") as status:
        how = (gpu, rows, seconds, tuple(experiment or EXPERIMENTS), tuple(overrides or ()))
        lines = check_gpu(*how, progress=status.update)
    facts = {"environment": environment(), "rows": rows, "overrides": overrides or [], "notes": note or []}
    write_gpu_table(lines, facts, BOUNDS, out)
    failed = [line for line in lines if "failure" in line or line["logits"] > BOUNDS[line["precision"]]]
    typer.echo(f"{len(lines) - len(failed)} of {len(lines)} settings as expected: {out}.md")
    if failed:
        raise typer.Exit(1)


def _race(
    task, *, experiment, config, data, rows, items, rounds, plain, overrides, plugin, as_json,
    gpu=-1, cold=False, rival=None, drawn=False,
):  # fmt: skip
    """The command of a task, whose options these are."""
    import tempfile

    from qin_zoo.bench.contenders import Contender, product_contender
    from qin_zoo.bench.race import race
    from qin_zoo.bench.report import summarise
    from qin_zoo.experiment.record import environment

    if not drawn:
        _make_data(data, rows, items)
    fast = Contender(
        task, expid=experiment, config=config, data=None if drawn else data, overrides=tuple(overrides or ()),
        plugins=tuple(plugin or ()), gpu=gpu, batches=100 if task == "load" else 3 if gpu < 0 else 30, drawn=drawn,
    )  # fmt: skip
    batch_size = fast.prepare().params["batch_size"]  # a mistake in the configuration is told before anything starts
    contenders = [fast] if task == "load" else [product_contender(fast), fast]
    if rival:
        contenders.append(replace(fast, name="rival", plugins=(rival,), batches=1))
        contenders[-1].prepare()
    elif plain:
        contenders.append(replace(fast, name="plain", batches=1))
    with _status("starting") as status:
        summary = summarise(race(contenders, rounds, progress=status.update))
        if cold:
            with tempfile.TemporaryDirectory() as folder:
                first = replace(fast, overrides=(*fast.overrides, f"cache_dir={folder}"))
                result = race([first], 0, progress=status.update)[0]
                if result.failure:
                    summary.setdefault("failed", {})["qin-zoo, cold"] = result.failure
                else:
                    summary["seconds_to_first_cold"] = result.ready
    if as_json:
        print_json({"task": task, "experiment": experiment, "environment": environment(), **summary})
    else:
        _print_summary(summary, f"{task}: {experiment}, batches of {batch_size:,} rows")
        if (seconds := summary.get("seconds_to_first_cold")) is not None:
            typer.echo(f"First batch without any cache: {seconds:.1f} s after the process started.")
    for name, why in summary.get("failed", {}).items():
        typer.echo(f"{name} failed: {why}", err=True)
    if "failed" in summary:
        raise typer.Exit(1)


def _status(text: str):
    """What happens now, on standard error, until the end of the block."""
    from rich.console import Console

    return Console(stderr=True).status(text)


def _print(measured: list, experiment: str, key: str, as_json: bool, table: Callable, title: str) -> None:
    """What was measured, as JSON or as a table."""
    from qin_zoo.experiment.record import environment

    if as_json:
        print_json({"experiment": experiment, "environment": environment(), key: [asdict(m) for m in measured]})
    else:
        table(measured, title)


def _print_summary(summary: dict, title: str) -> None:
    rows = []
    for name, values in summary.items():
        if not isinstance(values, dict) or name == "failed":
            continue
        rates, memory = values["all"], f"{values['peak_bytes'] / 2**20:,.0f} MiB"
        if values["gpu_bytes"]:
            memory += f", GPU {values['gpu_bytes'] / 2**20:,.0f} MiB"
        ratio = f"{summary['ratio']:.1f} ×" if name == "qin-zoo" and "ratio" in summary else ""
        spread, first = f"{min(rates):,.0f}–{max(rates):,.0f}", f"{values['seconds_to_first']:.1f} s"
        rows.append((name, f"{values['rows_per_second']:,.0f}", spread, first, memory, ratio))
    header = ("", "rows/s", "range", "first after", "memory", "ratio")
    print_table(header, rows, numbers=range(1, 6), title=title)
    if summary.get("epoch_seconds"):
        print_text(f"An epoch of {summary['qin-zoo']['train_rows']:,} rows takes {summary['epoch_seconds']:,.0f} s.")
    if "product_fraction" in summary:
        print_text(
            f"A step takes {summary['step_seconds']:.3f} s; its matrix products alone, at the measured "
            f"{summary['product_flops_per_second'] / 1e9:,.0f} GFLOP/s, {summary['products_alone_seconds']:.3f} s: "
            f"{summary['step_seconds'] / summary['products_alone_seconds']:.2f} ×, "
            f"{summary['product_fraction']:.0%} of what the machine can do."
        )


def _print_growth(points: list[Point], title: str) -> None:
    """The growth of a step, of which update is what passes over every weight, beside what bounds it."""
    rows = [
        (
            p.axis, f"{p.value:,}", f"{p.update:.3f} s", f"{p.step:.3f} s", f"{p.step / p.step_products:.2f}",
            f"{(p.step_products + p.step_passes) / p.step:.0%}", f"{p.rows / p.step:,.0f}", f"{p.score:.3f} s",
            f"{p.score / p.score_products:.2f}", f"{(p.score_products + p.score_passes) / p.score:.0%}",
            f"{p.rows / p.score:,.0f}",
        )
        for p in points
    ]  # fmt: skip
    header = ("varied", "value", "update", "step", "×", "bound", "rows/s", "score", "×", "bound", "rows/s")
    said = "×: of its matrix products alone; bound: products and memory passes alone, as a share of it"
    print_table(header, rows, numbers=range(1, 11), title=f"{title}; {said}")


def print_latency(measured: list[Latency], title: str) -> None:
    """The measurements as a table on the terminal."""
    plain = {(m.threads, m.candidates): m for m in measured if m.model == "plain"}
    rows = []
    for m in measured:
        if m.model != "plain":
            beside = plain.get((m.threads, m.candidates))
            seconds = (m.p50, m.p95, m.p99, *([beside.p50] if beside else []))
            cells = [str(m.threads), f"{m.candidates:,}", *(f"{1000 * s:.2f}" for s in seconds)]
            rows.append([*cells, f"{beside.p50 / m.p50:.1f} ×"] if beside else [*cells, "", ""])
    header = ("threads", "candidates", "p50", "p95", "p99", "plain p50", "ratio")
    print_table(header, rows, numbers=range(7), title=title)
    if plain:
        print_text(f"Scores of both are at most {max(m.difference for m in plain.values()):.0e} apart.")


def _print_service(measured: list[Load], title: str) -> None:
    """A line for each service and load."""
    rows = [
        (
            str(m.workers), f"{m.candidates:,}", str(m.connections), m.service, f"{m.rate:,.0f}",
            f"{1000 * m.p50:.1f}", f"{1000 * m.p99:.1f}", "" if m.cpu is None else f"{1000 * m.cpu:.2f}",
        )
        for m in measured
    ]  # fmt: skip
    header = ("workers", "candidates", "connections", "service", "requests/s", "p50 ms", "p99 ms", "CPU ms")
    print_table(header, rows, numbers={0, 1, 2, 4, 5, 6, 7}, title=title)


def _make_data(folder: Path, rows: int, items: int) -> None:
    """A sample of the challenge's shape, where there is nothing yet."""
    if folder.exists():
        return
    from qin_zoo.data.sample import write_sample

    typer.echo(f"Making a sample of {rows:,} rows and {items:,} items in {folder}", err=True)
    write_sample(folder, rows, items)
