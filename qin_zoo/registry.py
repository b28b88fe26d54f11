"""Models by name: one decorator registers a class, four ways of discovery find it.

In this order: files or folders named as plugins, classes registered in this process, the files of ``model_zoo/``, and
the entry-point group ``qin_zoo.models`` of installed packages. The first that knows a name wins, so a plugin's model
may be called like one of ours. Files are *read* to learn which models they hold (a decorated class, or one that derives
from FuxiCTR's ``BaseModel``); a model's file is imported only when that model is asked for. So listing is quick, and a
plugin that does not import spoils nothing but itself.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from qin_zoo.errors import ModelError, suggest
from qin_zoo.plugins import MODULE_PREFIX, import_file, python_files, read_models, why_broken

ENTRY_POINT_GROUP = "qin_zoo.models"
MODEL_ZOO = Path(__file__).resolve().parent.parent / "model_zoo"
_NO_MODEL = 9  # rank of a class that is none


def register_model(cls: type | None = None, *, name: str | None = None, **card: object):
    """Class decorator that makes a model known under its name: to this process, and to whoever reads its file.

    The class is returned as it is. Of two that a process registers under one name, the later one counts, so that a
    notebook's cell can be run again.

    Args:
        cls: the class, when used without parentheses.
        name: name to register under. Default: the class's own.
        **card: literals for ``qin-zoo list``: ``paper`` (source of the model), ``published`` (its figures,
            dataset -> text).
    """

    def register(model: type) -> type:
        if not model.__module__.startswith(MODULE_PREFIX):  # a plugin's is known where the plugin is given
            summary = (model.__doc__ or "").strip().partition("\n")[0]
            known_as, module = name or model.__name__, model.__module__
            origin = str(getattr(sys.modules.get(module), "__file__", None) or f"this process ({module})")
            entry = ModelEntry(known_as, origin, lambda: model, summary, dict(card), rank=4, module=module)
            _registered[known_as] = entry
        return model

    return register if cls is None else register(cls)


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded.

    Attributes:
        name: what it is registered as.
        origin: file, or entry point and package, that it comes from.
        load: imports it.
        summary: first line of its docstring; empty where only importing would tell.
        card: the decorator's literal arguments.
        rank: 0 and 1 for a model of a file or of a folder given as plugin, 2 and 3 for a class of theirs that may be
            one, 4 for one registered in this process, 5 for one that is installed.
        module: where it is defined, as far as it is known.
        instead_of: origin of another model of this name that it takes the place of.
    """

    name: str
    origin: str
    load: Callable[[], type] = field(repr=False)
    summary: str = ""
    card: dict = field(default_factory=dict)
    rank: int = 5
    module: str = ""
    instead_of: str = ""


_registered: dict[str, ModelEntry] = {}


def discover(plugins: Iterable[str | Path] = ()) -> dict[str, ModelEntry]:
    """All models, by name.

    Args:
        plugins: files, or folders of files, with further models.

    Raises:
        ModelError: a plugin does not exist.
    """
    return {name: entry for name, entry in _classes(plugins).items() if entry.rank != _NO_MODEL}


def _classes(plugins: Iterable[str | Path]) -> dict[str, ModelEntry]:
    """What :func:`discover` finds, and the classes of plugins that are no models."""
    entries: dict[str, ModelEntry] = {}
    for entry in _all_entries(plugins):
        known = entries.setdefault(entry.name, entry)
        best, other = sorted((known, entry), key=lambda e: e.rank)
        if known.origin == entry.origin:
            pass
        elif known.rank == entry.rank:
            best = _undecided(known, entry)
        elif other.rank not in (2, 3, _NO_MODEL):
            best = replace(best, instead_of=other.origin)
        entries[entry.name] = best
    return entries


def _undecided(one: ModelEntry, other: ModelEntry) -> ModelEntry:
    """Stands for two models of one name, of which neither comes first; whoever asks for it is told to choose."""

    def load() -> type:
        choose = "Give the file that you mean: --plugin FILE" if one.rank < 4 else "Uninstall or rename one of them"
        raise ModelError(f"Two models are called '{one.name}': {one.origin} and {other.origin}. {choose}.")

    return replace(one, origin=f"{one.origin}, {other.origin}", load=load)


def list_models(pattern: str = "*", plugins: Iterable[str | Path] = ()) -> list[str]:
    """Names of the models that match a shell pattern, sorted; case does not matter: ``list_models("*din*")``."""
    return sorted(n for n in discover(plugins) if fnmatch.fnmatch(n.lower(), pattern.lower()))


def get_model(name: str, plugins: Iterable[str | Path] = ()) -> type:
    """The class registered under ``name``.

    Raises:
        ModelError: no such model (existing ones are listed), or its file fails to import (with the traceback).
    """
    plugins = list(plugins)
    classes = _classes(plugins)
    if (entry := classes.get(name)) is None:
        known = [known for known, other in classes.items() if other.rank != _NO_MODEL]
        problems = (why_broken(file) for plugin in plugins for file in _plugin_files(Path(plugin)))
        broken = "".join(f"\nNot read: {problem}" for problem in problems if problem)
        raise ModelError(
            f"Unknown model '{name}'.{suggest(name, known)} Models: {', '.join(sorted(known))}. "
            f"A file of your own is found with --plugin FILE_OR_FOLDER.{broken}"
        )
    try:
        cls = entry.load()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"Model '{name}' from {entry.origin} cannot be imported; the other models are not affected.\n"
            f"{traceback.format_exc().rstrip()}"
        ) from error
    from qin_zoo.fuxi import BaseModel

    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise ModelError(f"'{name}' in {entry.origin} is no model: it does not derive from FuxiCTR's BaseModel.")
    if entry.instead_of:
        _say_once(f"{name}: the model of {entry.origin}, not that of {entry.instead_of}.")
    return cls


@cache
def _say_once(text: str) -> None:
    logging.warning(text)


def create_model(name: str, feature_map, plugins: Iterable[str | Path] = (), **params):
    """Builds a model by name.

    Args:
        name: a registered model.
        feature_map: FuxiCTR's feature map of the dataset.
        plugins: files, or folders of files, with further models.
        **params: the model's parameters, under FuxiCTR's names.
    """
    return get_model(name, plugins)(feature_map, **params)


# ---- where models are found


def _all_entries(plugins: Iterable[str | Path]) -> Iterator[ModelEntry]:
    installed = list(_installed())
    modules = {entry.module for entry in installed}
    yield from installed
    yield from (entry for entry in _registered.values() if entry.module not in modules)
    for plugin in map(Path, plugins):
        sure, unsure = (1, 3) if plugin.is_dir() else (0, 2)
        for file in _plugin_files(plugin):
            if file.resolve().parent != MODEL_ZOO:  # ours are known already
                yield from _entries_of_file(file, lambda file=file: import_file(file), sure, unsure)


def _installed() -> Iterator[ModelEntry]:
    for file in sorted(MODEL_ZOO.glob("[!_]*.py")):
        module = f"model_zoo.{file.stem}"
        yield from _entries_of_file(file, lambda module=module: importlib.import_module(module), module=module)
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        yield from _entries_of_entry_point(point)


def _entries_of_file(
    file: Path, import_module: Callable[[], object], sure: int = 5, unsure: int = _NO_MODEL, module: str = ""
) -> Iterator[ModelEntry]:
    """The models of a file of rank ``sure``, and of rank ``unsure`` the classes of which reading does not tell."""

    def load(class_name: str, broken: str) -> type:
        if broken:
            raise ModelError(f"Its file is no Python; the other models are not affected. {broken}")
        return getattr(import_module(), class_name)

    for found in read_models(file):
        yield ModelEntry(
            name=found.name,
            origin=str(file.resolve()),
            load=lambda found=found: load(found.class_name, found.broken),
            summary=found.summary,
            card=found.card,
            rank={True: sure, None: unsure, False: _NO_MODEL}[found.is_model],
            module=module,
        )


def _entries_of_entry_point(point: importlib.metadata.EntryPoint) -> Iterator[ModelEntry]:
    """``Name = "package.module:Class"`` is one model; ``any = "package.module"`` is a module of decorated ones."""
    package = point.dist.name if point.dist else "an installed package"
    alone = ModelEntry(point.name, f"{package} ({point.value})", point.load, module=point.module)
    if point.attr:
        yield alone
        return
    try:
        file = Path(importlib.util.find_spec(point.module).origin)
    except Exception:  # the package is broken: keep its name, so that asking for it tells why
        yield alone
        return
    yield from _entries_of_file(file, point.load, module=point.module)


def _plugin_files(plugin: Path) -> list[Path]:
    if plugin.is_dir():
        return python_files(plugin)
    if not plugin.is_file() or plugin.suffix != ".py":
        raise ModelError(f"No plugin at {plugin}: expected a Python file, or a folder of them.")
    return [plugin]
