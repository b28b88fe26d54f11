"""`qin-zoo run`: train, evaluate, predict and report one experiment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qin_zoo.cli import options


@contextmanager
def training() -> Iterator[None]:
    """A training that was stopped says how it goes on."""
    from qin_zoo.training.stop import Stopped

    try:
        yield
    except Stopped as stopped:
        typer.echo(
            f"Stopped after step {stopped.step:,}, with a checkpoint. The same command with --resume goes on.", err=True
        )
        raise typer.Exit(128 + stopped.number) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted. The same command with --resume goes on from the last checkpoint.", err=True)
        raise typer.Exit(130) from None


def run(
    experiment: Annotated[
        str | None, typer.Argument(help="Experiment id, or with --data the name of a model: no configuration needed.")
    ] = None,
    config: options.Config = None,
    expid: Annotated[str | None, typer.Option("--expid", help="Experiment id, as in FuxiCTR.")] = None,
    gpu: options.Gpu = -1,
    data: options.Data = None,
    overrides: options.Overrides = None,
    resume: options.Resume = False,
    name: options.Name = None,
    overwrite: options.Overwrite = False,
    init_from: Annotated[
        Path | None,
        typer.Option(help="Begin with the weights of an older run; item table and vocabularies may have grown."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Repeat a run, given by record, line in a store or short id; named .repeat."
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that train together: one for each GPU from --gpu on, or on the CPU.")
    ] = 1,
    plugin: options.Plugins = None,
    strict: options.Strict = False,
) -> None:
    """Train an experiment, evaluate it, predict the test rows and write submission, report and picture."""
    from qin_zoo.config.experiments import parse_overrides
    from qin_zoo.distributed import own_gpu
    from qin_zoo.experiment.prepare import prepare
    from qin_zoo.experiment.repeat import prepare_repetition
    from qin_zoo.experiment.run import run_experiment
    from qin_zoo.models.sharded import require_engine
    from qin_zoo.processes.child import end_with_launcher
    from qin_zoo.processes.launch import is_launched, launch
    from qin_zoo.results.runs import file_of
    from qin_zoo.results.store import stored_run

    if sum(given is not None for given in (experiment, expid, record)) != 1:
        raise typer.BadParameter("Give one experiment: qin-zoo run EXPID, --expid EXPID, or --from RUN.json.")
    if is_launched():
        end_with_launcher()
    gpu = own_gpu(gpu)
    changes = parse_overrides(options.changes(overrides, strict))
    changes |= {} if init_from is None else {"init_from": str(init_from)}
    if name is not None:
        changes["model_id"] = name
    common = {"gpu": gpu, "data": data, "overrides": changes, "plugins": plugin}
    record = record and file_of(record)
    repetition = None if record is None else prepare_repetition(stored_run(record) or record, **common)
    if repetition is not None:
        repetition.tell_differences(typer.echo)
    prepared = prepare(experiment or expid, config, **common) if repetition is None else repetition.prepared
    if devices > 1 and not is_launched():
        if prepared.params.get("sharded_tables"):
            require_engine()  # one message now instead of one from every process
        raise typer.Exit(launch(devices, sys.argv[1:]))
    with training():
        result = run_experiment(
            prepared, Path.cwd(), argv=sys.argv, echo=typer.echo, resume=resume, overwrite=overwrite
        )
    if repetition is not None:
        repetition.tell_result(result, typer.echo)
