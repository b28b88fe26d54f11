"""Imports point one way: cli → experiment → training, config, data, models → layers; layers know torch only."""

import ast
import graphlib
import re

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "qin_zoo"
LEAVES = {
    "batch", "bootstrap", "calibration", "distributed", "errors", "feature_types", "files", "fuxi", "log", "metrics",
    "pages", "plugins", "progress", "registry", "threads",
}  # fmt: skip
ALLOWED = {
    "layers": set(),
    "data": {"layers"},
    "models": {"layers"},
    "config": set(),
    "processes": set(),
    "periods": {"data"},
    "training": {"models"},
    "experiment": {"config", "data", "models", "periods", "training"},
    "baselines": {"config", "data", "experiment"},
    "bench": {"export", "layers", "data", "models", "processes", "serving", "experiment", "training"},
    "embed": {"data", "layers"},
    "export": {"data", "layers", "models", "serving", "experiment"},
    "explain": {"data", "layers", "models", "experiment"},
    "serving": set(),
    "tuning": {"config", "data", "experiment", "processes", "training"},
    "results": {"config", "experiment"},
    "study": {"config", "data", "experiment", "processes", "results", "training", "tuning"},
    "update": {"experiment", "models", "results"},
    "doctor": {"config", "data", "experiment", "models", "results", "serving"},
    "api": {"data", "experiment", "explain", "export", "results"},
    "estimator": {"experiment", "training"},
}
ALLOWED["cli"] = ALLOWED.keys() - {"layers", "api", "estimator"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file, types: bool = True) -> set[str]:
    """Every module a file imports, functions included; with or without those that only its annotations need."""
    names, tree = set(), ast.parse(file.read_text())
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_direction(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("qin_zoo.")}
    if part in ALLOWED:
        assert ours - {part, "__version__", *LEAVES} <= ALLOWED[part]
    elif part != "__main__":
        assert "cli" not in ours


@pytest.mark.parametrize("file", sorted((PACKAGE / "layers").glob("*.py")), ids=lambda f: f.name)
def test_layers_know_torch_only(file):
    roots = {name.split(".")[0] for name in imported(file)}
    standard = {"__future__", "collections", "functools", "itertools", "math", "typing"}
    assert roots <= {"torch", "qin_zoo", *standard}
    assert all(n.startswith("qin_zoo.layers") for n in imported(file) if n.startswith("qin_zoo"))


def test_no_two_test_modules_have_one_name():
    """pytest imports the first of them, and leaves the tests of the others out."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_picture_is_of_the_rules():
    """CONTRIBUTING.md draws what a room may import, less what it reaches through another one."""

    def reached(part: str) -> set[str]:
        direct = ALLOWED.get(part, set())
        return direct | {further for other in direct for further in reached(other)}

    arrows = {
        f"{part} --> {other}"
        for part, others in ALLOWED.items()
        for other in others
        if not any(other in reached(between) for between in others - {other})
    }
    drawn = [line.strip() for line in (REPOSITORY / "CONTRIBUTING.md").read_text().splitlines() if "-->" in line]
    assert sorted(drawn) == sorted(arrows)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_lead_to_modules(file):
    """Those within functions, too, which run only when somebody asks."""

    def there(name: str) -> bool:
        path = REPOSITORY.joinpath(*name.split("."))
        return path.with_suffix(".py").exists() or path.is_dir()

    ours = [name for name in imported(file) if name.startswith("qin_zoo.")]
    assert [name for name in ours if not there(name) and not there(name.rpartition(".")[0])] == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_name_of_a_file_is_no_pattern(file):
    """polars takes v[12]/train.parquet for the files of v1 and v2."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    readers = [c for c in calls if re.fullmatch(r"pl\.(read|scan)_\w+", ast.unparse(c.func))]
    assert [ast.unparse(c) for c in readers if all(word.arg != "glob" for word in c.keywords)] == []


def test_no_module_imports_itself():
    """Nor over others, imports within functions included."""
    names = {".".join(f.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
    known = {
        name: {n if n in names else n.rpartition(".")[0] for n in imported(file, types=False)} & names.keys() - {name}
        for name, file in names.items()
    }
    order = graphlib.TopologicalSorter(known)
    order.prepare()  # raises CycleError, which names the modules
