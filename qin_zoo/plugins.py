"""Files of models: which ones they hold, read without running them, and running one where it lies.

A plugin may be one file, a folder of files, a package, or a whole repository such as FuxiCTR's ``model_zoo``. Each file
finds its neighbours as it would at home: by relative imports, whether or not the folder is a package, and by their
bare names, also where two plugins have neighbours of one name.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from qin_zoo.errors import ModelError

DECORATOR = "register_model"
MODULE_PREFIX = "qin_zoo_plugin_"
_DEPTH = 5  # FuxiCTR's repository has its models at model_zoo/DIN/DIN_torch/src/DIN.py
_MOST_FILES = 2000
_SKIPPED = ("__pycache__", "build", "dist", "docs", "env", "node_modules", "site-packages", "test", "tests", "venv")
_MODEL_BASES = ("BaseModel", "MultiTaskModel", "ZooModel")


@dataclass(frozen=True)
class ModelClass:
    """A class of a file that may be a model.

    Attributes:
        name: under which it is registered; its own, unless the decorator says otherwise.
        class_name: its own.
        is_model: whether it derives from FuxiCTR's ``BaseModel``; None where its bases come from elsewhere.
        summary: first line of its docstring.
        card: the decorator's literal arguments.
        broken: what keeps the file from being read.
    """

    name: str
    class_name: str
    is_model: bool | None
    summary: str = ""
    card: dict = field(default_factory=dict)
    broken: str = ""


def python_files(folder: Path) -> list[Path]:
    """The files of a folder and of those below it that may hold models, in order.

    Left out are names that begin with ``_`` or ``.``, virtual environments, tests, builds, and what lies deeper than
    five folders.

    Raises:
        ModelError: there are more than 2,000.
    """
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if depth < _DEPTH and f[0] not in "_." and f not in _SKIPPED)
        folders[:] = [f for f in folders if not Path(place, f, "pyvenv.cfg").exists()]
        found += (Path(place, name) for name in sorted(names) if name.endswith(".py") and name[0] not in "_.")
        if len(found) > _MOST_FILES:
            raise ModelError(f"{folder} holds more than {_MOST_FILES:,} Python files. Give the folder of the models.")
    return found


# ---- reading a file without running it


def read_models(file: Path) -> list[ModelClass]:
    """The decorated classes of a file; where there are none, all that have bases."""
    source = _read(file)
    if source.broken:
        return [ModelClass(name, name, True, broken=source.broken) for name in source.classes]
    decorated, others = [], []
    for name, node in source.classes.items():
        summary = (ast.get_docstring(node) or "").partition("\n")[0]
        if (card := _card(node)) is not None:
            decorated.append(ModelClass(str(card.pop("name", name)), name, True, summary, card))
        elif node.bases:
            others.append(ModelClass(name, name, _derives(file, name, ()), summary))
    return decorated or others


def why_broken(file: Path) -> str:
    """What keeps a file from being read, with its place; empty for one that can be."""
    return _read(file).broken


@dataclass(frozen=True)
class _Source:
    classes: dict[str, ast.ClassDef | None]
    body: list[ast.stmt] = field(default_factory=list)
    broken: str = ""

    @cached_property  # only what derives from another file asks for them
    def imports(self) -> dict[str, tuple[str, str]]:
        """Local name -> module, and the name in it or an empty one."""
        imports = {}
        for node in ast.walk(ast.Module(self.body, [])):
            if isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                imports |= {a.asname or a.name: (module, a.name) for a in node.names}
            elif isinstance(node, ast.Import):
                imports |= {a.asname: (a.name, "") for a in node.names if a.asname}
                roots = [a.name.partition(".")[0] for a in node.names if not a.asname]
                imports |= {root: (root, "") for root in roots}
        return imports


def _read(file: Path) -> _Source:
    try:
        stat = file.stat()
    except OSError as error:
        return _Source({}, broken=f"{file} cannot be read: {error.strerror}.")
    return _read_version(file, stat.st_mtime_ns, stat.st_size)


@cache
def _read_version(file: Path, *version: int) -> _Source:
    try:
        text = file.read_text(encoding="utf-8")
        body = ast.parse(text, filename=str(file)).body
    except (SyntaxError, ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        names = _looks_like_models(file)
        return _Source(names, broken=f"{file}{line}: {type(error).__name__}: {getattr(error, 'msg', error)}")
    return _Source({node.name: node for node in body if isinstance(node, ast.ClassDef)}, body)


def _looks_like_models(file: Path) -> dict[str, None]:
    """Names of the classes of a file that is no Python, as far as they look like models."""
    text = file.read_bytes().decode("utf-8", "replace")
    bases = "|".join(_MODEL_BASES)
    classes = re.findall(rf"^class\s+(\w+)\s*\([^)]*\b(?:{bases})\b", text, re.MULTILINE)
    decorated = re.findall(rf"^@\S*{DECORATOR}\b.*\nclass\s+(\w+)", text, re.MULTILINE)
    return dict.fromkeys([*classes, *decorated])


def _card(node: ast.ClassDef) -> dict | None:
    """The literal arguments of a class's decorator; None without one."""
    for decorator in node.decorator_list:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) == DECORATOR:
            literals = {}
            for keyword in getattr(decorator, "keywords", ()):
                with contextlib.suppress(ValueError, TypeError):  # computed: known once imported, no need for the list
                    literals[keyword.arg] = ast.literal_eval(keyword.value)
            return literals
    return None


def _derives(file: Path, class_name: str, seen: tuple) -> bool | None:
    """Whether a class of a file derives from FuxiCTR's ``BaseModel``; None where reading does not tell."""
    source = _read(file)
    node = source.classes.get(class_name)
    if (file, class_name) in seen or node is None:
        return None
    seen = (*seen, (file, class_name))
    verdicts = [_base_derives(file, source, ast.unparse(base), seen) for base in node.bases]
    return True if True in verdicts else None if None in verdicts else False


def _base_derives(file: Path, source: _Source, base: str, seen: tuple) -> bool | None:
    local, _, rest = base.partition(".")
    if not rest and local in source.classes:
        return _derives(file, local, seen)
    if local not in source.imports:
        if "*" in source.imports:
            return base in _MODEL_BASES or None
        return False if hasattr(builtins, local) else None
    module, name = source.imports[local]
    path = ".".join(part for part in (module, name, rest) if part)
    root = path.lstrip(".").partition(".")[0]
    neighbour = _neighbour(file, module)
    if neighbour is not None:
        return _derives(neighbour, name or rest, seen)
    if module.startswith("."):
        return None
    if path.startswith(("fuxictr.pytorch.models.", "qin_zoo.models.", "model_zoo.")) or path == "qin_zoo.ZooModel":
        return True
    return False if root in ("torch", "fuxictr", "qin_zoo", "numpy", *sys.stdlib_module_names) else None


def _neighbour(file: Path, module: str) -> Path | None:
    """The file of a module that lies beside a file; None of one that does not."""
    folder, name = file.parent, module.lstrip(".")
    for _ in range(len(module) - len(name) - 1):
        folder = folder.parent
    found = folder.joinpath(*name.split(".")).with_suffix(".py") if name else None
    return found if found is not None and found.is_file() else None


# ---- running a file where it lies


class _Folder(types.ModuleType):
    """A folder as a package: its files are its modules; its ``__init__.py`` is run when something else is wanted of it.

    FuxiCTR's ``__init__.py`` files import every model of the folder, of which one may be missing or broken.
    """

    def __getattr__(self, name: str):
        folder = Path(self.__path__[0])
        init = folder / "__init__.py"
        is_module = (folder / name).is_dir() or (folder / f"{name}.py").is_file()
        if is_module or name.startswith("__") or self.__dict__.get("__file__") or not init.is_file():
            raise AttributeError(f"{folder} has no {name}")
        self.__file__ = str(init)
        try:
            importlib.machinery.SourceFileLoader(self.__name__, str(init)).exec_module(self)
        except ImportError:  # often of the very module that asks
            if name not in self.__dict__:
                raise
        return getattr(self, name)


def import_file(file: Path) -> types.ModuleType:
    """The module of a plugin file, run once, however often it is asked for."""
    file = file.resolve()
    top = file.parent
    while (top / "__init__.py").is_file() and (top.parent / "__init__.py").is_file():
        top = top.parent
    package = _package(top, file.parent)
    name = f"{package}.{file.stem.replace('.', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    outside = [str(top.parent)] if (top / "__init__.py").is_file() else []
    try:
        with _neighbours(dict.fromkeys([str(file.parent), str(top)]), outside):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package(top: Path, folder: Path) -> str:
    """Makes packages of the folders from ``top`` down to ``folder``; the name of the last one."""
    if folder == top:
        name = f"{MODULE_PREFIX}{abs(hash(str(top))):x}"
    else:
        name = f"{_package(top, folder.parent)}.{folder.name}"
    if name not in sys.modules:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.modules[name].__class__ = _Folder
    return name


_brought: dict[tuple[str, ...], dict[str, types.ModuleType]] = {}  # folders -> the modules imported from them by name
_added: list[str] = []  # to sys.path


@contextlib.contextmanager
def _neighbours(folders: dict[str, None], outside: list[str]) -> Iterator[None]:
    """Lets the files of a plugin's ``folders`` be imported by their bare names, and no file of another plugin's; its
    package lies ``outside``."""
    before = sys.path[:]
    own = tuple(f for f in folders if f not in before or f in _added)
    mine = _brought.setdefault(own, {})
    hidden = {
        name: sys.modules.pop(name)
        for others, modules in _brought.items()
        if others != own
        for name, module in modules.items()
        if sys.modules.get(name) is module
    }
    sys.modules.update(mine)
    sys.path[:] = [p for p in before if p not in _added]
    sys.path += (p for p in (*own, *outside) if p not in sys.path)
    known = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - known:
            place = str(getattr(sys.modules[name], "__file__", None) or "")
            if not name.startswith(MODULE_PREFIX) and place.startswith(tuple(f + os.sep for f in own)):
                mine[name] = sys.modules[name]
        new = [p for p in sys.path if p not in before]
        _added.extend(new)
        sys.path[:] = before + new  # a function may import a neighbour when it is called
        for name, module in hidden.items():
            sys.modules.setdefault(name, module)
