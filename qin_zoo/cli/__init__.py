"""The `qin-zoo` command: one module per command, imported when it is asked for, as is what the command itself needs."""

from __future__ import annotations

import codecs
import errno
import inspect
import io
import os
import sys
from importlib import import_module

import typer

from qin_zoo import __version__
from qin_zoo.errors import QinZooError, printable
from qin_zoo.log import warnings_on_terminal
from qin_zoo.threads import be_a_good_neighbour

_COMMANDS = (
    "run", "continue", "update", "predict", "calibrate", "explain", "export", "serve", "baseline", "study", "tune",
    "leaderboard", "config", "list", "info", "new", "demo", "doctor", "runs", "results", "data", "embed", "bench",
)  # fmt: skip
# module here and its function, of commands that are not called so; "app" is a group of further commands
_PLACES = {"continue": "continue_:continue_", "leaderboard": "results:leaderboard", "list": "list_models:list_models"}
_PLACES |= {group: f"{group}:app" for group in ("runs", "results", "data", "embed", "bench")}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"qin-zoo {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def build_app(asked: str | None = None, names_only: bool = False) -> typer.Typer:
    """The app, or a lean one: typer takes longer to read the signatures of all commands than most of them to start.

    Args:
        asked: the only command that it has. Default: all.
        names_only: commands with their name and help, without options; enough for the list of commands.
    """
    app = typer.Typer(
        help="A plugin model zoo for multimodal click-through-rate prediction on FuxiCTR and PyTorch.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in [asked] if asked else _COMMANDS:
        module, _, attribute = _PLACES.get(name, f"{name}:{name}").partition(":")
        command = getattr(import_module(f"{__name__}.{module}"), attribute)
        if names_only:
            about = command.info.help if attribute == "app" else inspect.getdoc(command)
            app.command(name, help=about)(lambda: None)
        elif attribute == "app":
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # not a fault of ours, wherever it happens
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
    """As much of the app as a command line needs."""
    asked = next((word for word in argv if word != "--"), None)
    if asked in _COMMANDS:
        return build_app(asked)
    completes = any(name.endswith("_COMPLETE") for name in os.environ)  # a shell asks for the options of any command
    return build_app(names_only=not completes)


def main(argv: list[str] | None = None) -> None:
    """Entry point: a mistake in the input is one message and status 1, a wrong command line is status 2; so is a
    full disk one message and status 1."""
    be_a_good_neighbour()
    warnings_on_terminal()
    _write_what_the_terminal_can()
    try:
        _app_for(sys.argv[1:] if argv is None else argv)(args=argv)
    except QinZooError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"Error: {where}{error.strerror}. What was to be written there is not whole.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would write the rest once more
        sys.exit(1)
