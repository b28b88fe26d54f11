"""Hooks of mkdocs: the site is the repository's markdown where it lies, and a reference read from the code.

Pages keep their place in the repository, so that a link is right in both, and what a page links to (a configuration,
a model's file, a picture) comes along. Nothing of the reference is kept in the repository.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import griffe
import typer
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "model_zoo/README.md", "docs/**/*.md", "experiments/*.md"]
PAGES += ["experiments/*/README.md", "experiments/leaderboard/leaderboard.md"]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)[^)]*\)")


def repository_pages() -> list[Path]:
    """The markdown files that the site shows, without what is generated."""
    return sorted({path for pattern in PAGES for path in REPOSITORY.glob(pattern)})


def linked_files(page: Path) -> set[Path]:
    """What a page links to, or shows, within the repository; also what is not there."""
    return {(page.parent / target).resolve() for target in LINK.findall(page.read_text())}


def on_config(config):
    """Fills the list of models."""
    cards = [path.relative_to(REPOSITORY).as_posix() for path in sorted(REPOSITORY.glob("experiments/*/README.md"))]
    models = {"Models": ["experiments/README.md", *({Path(card).parent.name: card} for card in cards)]}
    config.nav = [models if isinstance(entry, dict) and "Models" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config) -> Files:
    """The repository's pages and what they link to, instead of the folder docs/; and the reference."""
    pages = repository_pages()
    others = {path for page in pages for path in linked_files(page) if path.is_file()} - set(pages)
    found = [file for file in files if file.src_dir != config.docs_dir]
    for path in (*pages, REPOSITORY / "docs" / "site.css", *sorted(others)):
        place = path.relative_to(REPOSITORY).as_posix()
        found.append(File(place, str(REPOSITORY), config.site_dir, config.use_directory_urls))
    for name, write in REFERENCE.items():
        found.append(File.generated(config, f"docs/reference/{name}.md", content=write()))
    return Files(found)


# ---- the reference


def python_page() -> str:
    """What `qin_zoo` offers by name, the layers, and what a program without torch takes."""
    import qin_zoo
    from qin_zoo import layers

    def entries(package: str, names: list[str]) -> list[str]:
        found = [getattr(import_module(package), name) for name in names]
        places = [f"{thing.__module__}.{thing.__qualname__}" for thing in found if hasattr(thing, "__qualname__")]
        return [f"::: {place}\n" for place in places]

    return "\n".join(
        [
            "# Python\n\nWhat `from qin_zoo import …` gives.\n\n## qin_zoo\n",
            *entries("qin_zoo", [name for name in qin_zoo.__all__ if name != "__version__"]),
            "## qin_zoo.serving\n\nNumPy and onnxruntime are enough for it.\n",
            *entries("qin_zoo.serving", ["Scorer"]),
            "## qin_zoo.layers\n\nPlain PyTorch modules; they know torch only.\n",
            *entries("qin_zoo.layers", layers.__all__),
        ]
    )


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` says them."""
    from typer.cli import get_docs_for_click

    from qin_zoo.cli import build_app

    command = typer.main.get_command(build_app())
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="qin-zoo"), name="qin-zoo")
    return text.replace(str(Path.home()), "~")


def keys_page() -> str:
    """Every key of an experiment that is no model's own, as `qin-zoo info KEY` says it."""
    from qin_zoo.experiment.keys import run_keys

    rows = [
        (f"`{key.name}`", key.expected, f"`{key.default}`" if key.source else "", key.meaning)
        for key in run_keys()
    ]
    return "# Keys of a run\n\n" + _table(("key", "may hold", "default", "meaning"), rows)


def models_page() -> str:
    """Every model's own parameters."""
    from qin_zoo.cli.info import parameters
    from qin_zoo.models import ZooModel
    from qin_zoo.registry import discover, get_model

    common = parameters(ZooModel)
    parts = ["# Parameters of the models\n", "## Of every model\n", _table(_PARAMETER, map(_code, common))]
    for name, entry in sorted(discover().items()):
        own = [row for row in parameters(get_model(name)) if row not in common]
        parts += [f"## {name}\n", f"{entry.summary}\n", _table(_PARAMETER, map(_code, own))]
    return "\n".join(parts)


_PARAMETER = ("parameter", "default", "meaning")


def _code(row: tuple[str, str, str]) -> tuple[str, str, str]:
    name, default, meaning = row
    return f"`{name}`", f"`{default}`" if default else "", meaning


def _table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


REFERENCE = {"python": python_page, "commands": commands_page, "keys": keys_page, "models": models_page}


class PlainRoles(griffe.Extension):
    """Sphinx's roles in docstrings, :meth:`x`, become code."""

    def on_object(self, *, obj, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
