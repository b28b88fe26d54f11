"""`qin-zoo new MyModel`: a working model of your own to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(help="Name of the model, a Python class name such as MyModel.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("."),
) -> None:
    """Write a working plugin, its experiment folder and a test; nothing that exists is overwritten."""
    from qin_zoo.config.experiments import REPOSITORY
    from qin_zoo.errors import ModelError
    from qin_zoo.registry import discover

    if not re.fullmatch(r"[A-Z][A-Za-z0-9_]*", name):
        raise ModelError(f"'{name}' is no name for a model: expected a Python class name such as MyModel.")
    if name in discover():
        raise ModelError(f"There is a model '{name}' already ({discover()[name].origin}). Choose another name.")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    templates = files("qin_zoo") / "templates"
    experiment = out / "experiments" / name
    targets = {
        out / f"{module}.py": "model.py.tmpl",
        experiment / "model_config.yaml": "model_config.yaml.tmpl",
        experiment / "README.md": "README.md.tmpl",
        out / "tests" / f"test_{module}.py": "test_model.py.tmpl",
    }
    contents = {
        target: Template((templates / source).read_text(encoding="utf-8")).substitute(name=name, module=module)
        for target, source in targets.items()
    }
    sample = REPOSITORY / "dataset_configs" / "sample.yaml"
    contents[experiment / "dataset_config.yaml"] = sample.read_text(encoding="utf-8")
    for target in contents:
        if target.exists():
            raise ModelError(f"{target} exists; nothing was written. Choose another name, or another folder (--out).")
    for target, text in contents.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {target}")
    typer.echo(f"\nnow: cd {out} && qin-zoo data sample data/sample && qin-zoo run {name}_sample --plugin {module}.py")
