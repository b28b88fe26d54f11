"""The `qin-zoo` command: one module per command, each importing what it needs only when it runs."""

from __future__ import annotations

import codecs
import copy
import io
import sys

import typer

from qin_zoo import __version__
from qin_zoo.cli import (
    baseline,
    bench,
    calibrate,
    config,
    continue_,
    data,
    demo,
    doctor,
    embed,
    explain,
    export,
    info,
    list_models,
    new,
    predict,
    results,
    run,
    runs,
    serve,
    study,
    tune,
    update,
)
from qin_zoo.errors import QinZooError, printable
from qin_zoo.log import warnings_on_terminal
from qin_zoo.threads import be_a_good_neighbour

app = typer.Typer(
    help="A plugin model zoo for multimodal click-through-rate prediction on FuxiCTR and PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("continue")(continue_.continue_)
app.command("update")(update.update)
app.command("predict")(predict.predict)
app.command("calibrate")(calibrate.calibrate)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("baseline")(baseline.baseline)
app.command("study")(study.study)
app.command("tune")(tune.tune)
app.command("leaderboard")(results.leaderboard)
app.command("config")(config.config)
app.command("list")(list_models.list_models)
app.command("info")(info.info)
app.command("new")(new.new)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(runs.app, name="runs")
app.add_typer(results.app, name="results")
app.add_typer(data.app, name="data")
app.add_typer(embed.app, name="embed")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"qin-zoo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


_PLAIN = {"±": "+-", "→": "->", "–": "-", "−": "-", "…": "...", "×": "x", "Δ": "d", "★": "*", "’": "'", "─": "-"}
_PLAIN |= {block: str(number) for number, block in enumerate("▁▂▃▄▅▆▇█", 1)}


def _write_what_the_terminal_can() -> None:
    """A terminal or file without Unicode gets the nearest ASCII, not an error."""

    def replaced(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end

    codecs.register_error("qin_zoo.plain", replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="qin_zoo.plain")


def _app_for(argv: list[str]) -> typer.Typer:
    """The app with the command that is asked for alone: typer reads the signatures of all that there are."""
    asked = next((word for word in argv if not word.startswith("-")), None)
    everything = (app.registered_commands, app.registered_groups)
    commands, groups = ([c for c in those if c.name == asked] for those in everything)
    if not (commands or groups):  # help, or a name that is not known
        return app
    lean = copy.copy(app)
    lean.registered_commands, lean.registered_groups = commands, groups
    return lean


def main(argv: list[str] | None = None) -> None:
    """Entry point: a mistake in the input is one message and status 1, a wrong command line is status 2."""
    be_a_good_neighbour()
    warnings_on_terminal()
    _write_what_the_terminal_can()
    try:
        _app_for(sys.argv[1:] if argv is None else argv)(args=argv)
    except QinZooError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
