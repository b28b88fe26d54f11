"""Models by name: one decorator registers a class, three ways of discovery find it.

In this order: the files of ``model_zoo/``, the entry-point group ``qin_zoo.models`` of installed packages, and
files or folders named as plugins. Files are *read* to learn which models they hold (a decorated class, its
docstring, the decorator's literal arguments); a model's file is imported only when that model is asked for.
So listing is quick, and a plugin that does not import spoils nothing but itself.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from qin_zoo.errors import ModelError, suggest

ENTRY_POINT_GROUP = "qin_zoo.models"
MODEL_ZOO = Path(__file__).resolve().parent.parent / "model_zoo"
_DECORATOR = "register_model"


def register_model(cls: type | None = None, *, name: str | None = None, **card: object):
    """Class decorator that makes a model known under its name.

    Names and cards are read from the file, which need not be imported for it; the class is returned as it is.

    Args:
        cls: the class, when used without parentheses.
        name: name to register under. Default: the class's own.
        **card: literals for ``qin-zoo list``: ``paper`` (source of the model), ``published`` (its figures,
            dataset -> text).
    """

    return (lambda model: model) if cls is None else cls


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be loaded.

    Attributes:
        name: what it is registered as.
        origin: file, or entry point and package, that it comes from.
        summary: first line of its docstring; empty where only importing would tell.
        card: the decorator's literal arguments.
    """

    name: str
    origin: str
    load: Callable[[], type] = field(repr=False)
    summary: str = ""
    card: dict = field(default_factory=dict)


def discover(plugins: Iterable[str | Path] = ()) -> dict[str, ModelEntry]:
    """All models, by name, in order of discovery.

    Args:
        plugins: files, or folders of files, with further models.

    Raises:
        ModelError: two models have one name, or a plugin does not exist.
    """
    entries: dict[str, ModelEntry] = {}
    for entry in _all_entries(plugins):
        known = entries.setdefault(entry.name, entry)
        if known.origin != entry.origin:
            raise ModelError(
                f"Two models are called '{entry.name}': {known.origin} and {entry.origin}. Rename one of them, or "
                f"register it under another name: @{_DECORATOR}(name=...)."
            )
    return entries


def list_models(pattern: str = "*", plugins: Iterable[str | Path] = ()) -> list[str]:
    """Names of the models that match a shell pattern, sorted; case does not matter: ``list_models("*din*")``."""
    return sorted(n for n in discover(plugins) if fnmatch.fnmatch(n.lower(), pattern.lower()))


def get_model(name: str, plugins: Iterable[str | Path] = ()) -> type:
    """The class registered under ``name``.

    Raises:
        ModelError: no such model (existing ones are listed), or its file fails to import (with the traceback).
    """
    entries = discover(plugins)
    if name not in entries:
        raise ModelError(
            f"Unknown model '{name}'.{suggest(name, entries)} Models: {', '.join(sorted(entries))}. "
            "A file of your own is found with --plugin FILE_OR_FOLDER."
        )
    entry = entries[name]
    try:
        return entry.load()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"Model '{name}' from {entry.origin} cannot be imported; the other models are not affected.\n"
            f"{traceback.format_exc().rstrip()}"
        ) from error


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


def _all_entries(plugins: Iterable[str | Path]):
    for file in _python_files(MODEL_ZOO):
        yield from _entries_of_file(file, lambda file=file: importlib.import_module(f"model_zoo.{file.stem}"))
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        yield from _entries_of_entry_point(point)
    for plugin in plugins:
        yield from _entries_of_plugin(Path(plugin))


def _python_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*.py") if not f.name.startswith("_"))


def _entries_of_file(file: Path, import_module: Callable[[], object]):
    for name, cls, card in _decorated_classes(file):
        yield ModelEntry(
            name=name,
            origin=str(file),
            load=lambda cls=cls: getattr(import_module(), cls.name),
            summary=(ast.get_docstring(cls) or "").partition("\n")[0],
            card=card,
        )


def _entries_of_entry_point(point: importlib.metadata.EntryPoint):
    """``Name = "package.module:Class"`` is one model; ``any = "package.module"`` is a module of decorated ones."""
    package = point.dist.name if point.dist else "an installed package"
    origin = f"{package} ({point.value})"
    if point.attr:
        yield ModelEntry(name=point.name, origin=origin, load=point.load)
        return
    try:
        file = Path(importlib.util.find_spec(point.module).origin)
    except Exception:  # the package is broken: keep its name, so that asking for it tells why
        yield ModelEntry(name=point.name, origin=origin, load=point.load)
        return
    yield from _entries_of_file(file, point.load)


def _entries_of_plugin(plugin: Path):
    if not plugin.exists():
        raise ModelError(f"No plugin at {plugin}: expected a Python file, or a folder of them.")
    for file in _python_files(plugin) if plugin.is_dir() else [plugin]:
        decorated = list(_entries_of_file(file, lambda file=file: _import_file(file)))
        yield from decorated
        if not decorated:
            yield from _undecorated_models(file)


def _undecorated_models(file: Path):
    """Models that know FuxiCTR but not this project: classes of the file that are FuxiCTR models once imported."""
    names = [n.name for n in _parse(file).body if isinstance(n, ast.ClassDef) and n.bases]

    def load(name: str) -> type:
        from qin_zoo.fuxi import BaseModel

        cls = getattr(_import_file(file), name)
        if not issubclass(cls, BaseModel):
            raise ModelError(f"'{name}' in {file} is no model: it does not derive from FuxiCTR's BaseModel.")
        return cls

    for name in names:
        yield ModelEntry(name=name, origin=str(file), load=lambda name=name: load(name))


def _import_file(file: Path):
    """Imports a plugin file once, with its own folder importable as Python does for scripts."""
    file = file.resolve()
    module_name = f"qin_zoo_plugin_{file.stem}_{abs(hash(str(file))):x}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


# ---- reading a file without importing it


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return ast.Module(body=[], type_ignores=[])  # importing it by name will say what is wrong


def _decorated_classes(file: Path):
    """(registered name, class, card) of every class of the file that carries the decorator."""
    for node in _parse(file).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            function = call.func if call else decorator
            if (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) == _DECORATOR:
                card = _literal_keywords(call) if call else {}
                yield str(card.pop("name", node.name)), node, card


def _literal_keywords(call: ast.Call) -> dict:
    literals = {}
    for keyword in call.keywords:
        try:
            literals[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError):
            continue  # a computed value: known once imported, not needed for the list
    return literals
