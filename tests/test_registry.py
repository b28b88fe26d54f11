"""The decorator and the three ways of discovery, each with a real file, folder or installed package."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import qin_zoo
from qin_zoo import registry
from qin_zoo.errors import ModelError

PLUGIN = """
    from qin_zoo import ZooModel, register_model

    @register_model({arguments})
    class {name}(ZooModel):
        '''{name} in one line.

        More lines.
        '''
"""


def write_plugin(path, name="Mine", arguments=""):
    path.write_text(textwrap.dedent(PLUGIN.format(name=name, arguments=arguments)))
    return path


def test_models_of_the_repository():
    assert {"QIN", "DIN"} <= set(qin_zoo.list_models())
    assert qin_zoo.list_models("qi*") == ["QIN"]
    assert qin_zoo.list_models("*din*") == ["DIN", "DIN_CrossAttention", "DIN_DCN", "DIN_SENet"]
    entry = registry.discover()["QIN"]
    assert entry.origin.endswith("model_zoo/qin.py")
    assert entry.summary.startswith("Sparse target attention")
    assert "0.9701" in entry.card["published"]["MicroLens_1M_x1"]
    assert registry.get_model("QIN").__name__ == "QIN"


def test_fuxictr_finds_models_as_attributes_of_model_zoo():
    import model_zoo

    assert getattr(model_zoo, "DIN") is registry.get_model("DIN")  # noqa: B009
    assert "QIN" in dir(model_zoo)
    with pytest.raises(AttributeError, match="no model 'Qin'"):
        model_zoo.Qin  # noqa: B018
    # what FuxiCTR itself installs under the same package name stays importable
    assert importlib.util.find_spec("model_zoo.LongCTR") is not None


def test_unknown_name_lists_and_suggests():
    with pytest.raises(ModelError, match=r"Unknown model 'Qin'. Did you mean 'QIN'\? Models: .*DIN"):
        qin_zoo.create_model("Qin", None)


def test_plugin_file_and_folder(tmp_path):
    file = write_plugin(tmp_path / "mine.py")
    write_plugin(tmp_path / "other.py", "Other", "name='Renamed', paper='A paper', published={'d': 'AUC 1'}")
    assert registry.get_model("Mine", [file]).__name__ == "Mine"
    assert registry.get_model("Mine", [file]) is registry.get_model("Mine", [str(file)])
    entries = registry.discover([tmp_path])
    assert entries["Mine"].summary == "Mine in one line."
    assert entries["Renamed"].card == {"paper": "A paper", "published": {"d": "AUC 1"}}
    assert "Renamed" not in registry.discover([file])


def test_plugin_that_knows_only_fuxictr(tmp_path):
    file = tmp_path / "foreign.py"
    file.write_text(
        "from fuxictr.pytorch.models import BaseModel\n"
        "class Foreign(BaseModel):\n    pass\n"
        "class Helper(dict):\n    pass\n"
    )
    assert registry.get_model("Foreign", [file]).__name__ == "Foreign"
    with pytest.raises(ModelError, match="does not derive from FuxiCTR's BaseModel"):
        registry.get_model("Helper", [file])


@pytest.mark.slow
def test_installed_package(tmp_path):
    """A real package, installed into a folder of its own and found by its entry points."""
    source = tmp_path / "source"
    (source / "ctr_extras").mkdir(parents=True)
    (source / "ctr_extras" / "__init__.py").write_text("")
    write_plugin(source / "ctr_extras" / "one.py", "One")
    write_plugin(source / "ctr_extras" / "many.py", "Many", "paper='P'")
    (source / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "ctr-extras"
        version = "1.0"
        [project.entry-points."qin_zoo.models"]
        One = "ctr_extras.one:One"
        rest = "ctr_extras.many"
        broken = "ctr_extras.gone:Gone"
        [tool.setuptools]
        packages = ["ctr_extras"]
        """)
    )
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True)
    program = textwrap.dedent("""
        import sys, traceback
        from qin_zoo import registry
        entries = registry.discover()
        assert "ctr-extras" in entries["One"].origin, entries["One"]
        assert entries["Many"].card == {"paper": "P"}
        assert "torch" not in sys.modules, "listing must not import torch"
        print(*(registry.get_model(name).__name__ for name in ("One", "Many", "QIN")))
        try:
            registry.get_model("broken")
        except registry.ModelError as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("One Many QIN\n")
    assert "No module named 'ctr_extras.gone'" in done.stdout
    assert "Traceback" in done.stdout


def test_a_plugin_may_be_called_like_one_of_ours(tmp_path, caplog):
    file = write_plugin(tmp_path / "qin2.py", "QIN")
    ours = registry.get_model("QIN")
    for plugin in (file, tmp_path):
        cls = registry.get_model("QIN", [plugin])
        assert cls is not ours
        assert cls.__doc__.startswith("QIN in one line")
    (said,) = {record.getMessage() for record in caplog.records}
    assert said.startswith(f"QIN: the model of {file}, not that of ")
    assert said.endswith("model_zoo/qin.py.")
    assert registry.get_model("QIN") is ours


def test_a_file_of_the_repository_is_no_second_model(monkeypatch):
    monkeypatch.chdir(registry.MODEL_ZOO.parent)
    for plugin in ("model_zoo/qin.py", "model_zoo", "./model_zoo/../model_zoo/qin.py"):
        assert registry.get_model("QIN", [plugin]) is registry.get_model("QIN")


def test_one_name_in_two_files_of_a_folder(tmp_path):
    """Whoever asks for it is told to choose; the other models are not affected."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_plugin(tmp_path / folder / "same.py", "Same")
    write_plugin(tmp_path / "good.py", "Good")
    assert registry.get_model("Good", [tmp_path]).__name__ == "Good"
    with pytest.raises(ModelError) as error:
        registry.get_model("Same", [tmp_path])
    for words in (tmp_path / "a" / "same.py", tmp_path / "b" / "same.py", "--plugin FILE"):
        assert str(words) in str(error.value)
    chosen = registry.get_model("Same", [tmp_path, tmp_path / "b" / "same.py"])
    assert sys.modules[chosen.__module__].__file__ == str(tmp_path / "b" / "same.py")


FUXICTR_MODEL = """{imports}
from fuxictr.pytorch.models import BaseModel


class {name}(BaseModel):
    made_of = {made_of}
"""


def write_files(folder, files):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def fuxictr_model(name, imports="", made_of="None"):
    return FUXICTR_MODEL.format(name=name, imports=imports, made_of=made_of)


def test_folders_as_fuxictrs_repository_has_them(tmp_path):
    """Models four folders down, packages whose __init__.py fail, neighbours by relative and by bare imports."""
    tensorflow = "from fuxictr.tensorflow.models import BaseModel\nclass Deep(BaseModel):\n    pass\n"
    folder = write_files(
        tmp_path / "repository",
        {
            "model_zoo/__init__.py": "from .gone import Gone",
            "model_zoo/Deep/Deep_torch/src/__init__.py": "from .Deep import Deep",
            "model_zoo/Deep/Deep_torch/src/Deep.py": fuxictr_model("Deep", "from .parts import NAME", "NAME"),
            "model_zoo/Deep/Deep_torch/src/parts.py": "NAME = 'deep parts'",
            "model_zoo/Deep/Deep_tf/src/Deep.py": tensorflow,
            "model_zoo/Pack/__init__.py": "WORD = 'of the package'\nfrom .Pack import Pack",
            "model_zoo/Pack/Pack.py": fuxictr_model("Pack", "from . import parts, WORD", "WORD + parts.NAME"),
            "model_zoo/Pack/parts.py": "NAME = ' and its parts'",
            "model_zoo/Plain/Plain.py": fuxictr_model("Plain", "from parts import NAME", "NAME"),
            "model_zoo/Plain/parts.py": "NAME = 'plain parts'",
            "model_zoo/Other/Other.py": fuxictr_model("Other", "from parts import NAME", "NAME"),
            "model_zoo/Other/parts.py": "NAME = 'other parts'",
            "model_zoo/Other/tests/Hidden.py": fuxictr_model("Hidden"),
            ".venv/lib/Hidden.py": fuxictr_model("Hidden"),
            "env2/pyvenv.cfg": "",
            "env2/lib/Hidden.py": fuxictr_model("Hidden"),
        },
    )
    entries = registry.discover([folder])
    assert {"Deep", "Pack", "Plain", "Other"} <= set(entries)
    assert "Hidden" not in entries
    made_of = {name: registry.get_model(name, [folder]).made_of for name in ("Deep", "Pack", "Plain", "Other")}
    assert made_of == {
        "Deep": "deep parts",
        "Pack": "of the package and its parts",
        "Plain": "plain parts",
        "Other": "other parts",
    }
    alone = folder / "model_zoo/Deep/Deep_torch/src/Deep.py"
    assert registry.get_model("Deep", [alone]) is registry.get_model("Deep", [folder])


def test_a_neighbour_imported_when_it_is_needed(tmp_path):
    late = "\n    def late(self):\n        import late_neighbour\n        return late_neighbour.WORD\n"
    folder = write_files(tmp_path, {"one.py": fuxictr_model("Late") + late, "late_neighbour.py": "WORD = 'late'"})
    assert registry.get_model("Late", [folder / "one.py"]).late(None) == "late"


def test_helpers_of_one_name_are_no_models(tmp_path):
    """Layers, datasets and the like stand in every file; a base class of the folder's own makes models."""
    helper = "import torch\nfrom torch import nn\nclass Attention(nn.Module):\n    pass\n"
    helper += "class Rows(torch.utils.data.Dataset):\n    pass\n"
    folder = write_files(
        tmp_path,
        {
            "one.py": helper + fuxictr_model("One"),
            "two.py": helper + "from base import Base\nclass Two(Base):\n    pass\n",
            "base.py": fuxictr_model("Base"),
            "loader.py": helper,
        },
    )
    ours = set(registry.discover())
    assert set(registry.discover([folder])) - ours == {"One", "Two", "Base"}
    assert {registry.get_model(name, [folder]).__name__ for name in ("One", "Two")} == {"One", "Two"}
    with pytest.raises(ModelError, match="no model: it does not derive"):
        registry.get_model("Attention", [folder / "one.py"])


def test_a_syntax_error_is_told_with_its_place(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("from fuxictr.pytorch.models import BaseModel\nclass Broken(BaseModel):\n    def f(self:\n")
    write_plugin(tmp_path / "good.py", "Good")
    assert registry.get_model("Good", [tmp_path]).__name__ == "Good"
    with pytest.raises(ModelError, match=r"broken.py, line 3: SyntaxError: .*never closed"):
        registry.get_model("Broken", [tmp_path])
    with pytest.raises(ModelError, match=r"(?s)Unknown model 'Brokn'.*Not read: .*broken.py, line 3: SyntaxError"):
        registry.get_model("Brokn", [tmp_path])


def test_what_a_process_registers():
    """In a notebook, or by importing a module: known without a file, the later of two, before one that is installed."""
    program = textwrap.dedent("""
        from qin_zoo import ZooModel, get_model, list_models, register_model
        from qin_zoo.registry import discover
        from fuxictr.pytorch.models import BaseModel

        @register_model(name="Mine", paper="A paper")
        class First(BaseModel):
            '''One line.'''

        assert get_model("Mine") is First and "Mine" in list_models()
        assert (discover()["Mine"].summary, discover()["Mine"].card) == ("One line.", {"paper": "A paper"})

        @register_model(name="Mine")
        class Second(ZooModel):
            pass

        assert get_model("Mine") is Second
        ours = get_model("QIN")

        @register_model
        class QIN(BaseModel):
            pass

        assert get_model("QIN") is QIN is not ours

        @register_model
        class NoModel(dict):
            pass

        try:
            get_model("NoModel")
        except Exception as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "does not derive from FuxiCTR's BaseModel" in done.stdout
    assert "QIN: the model of this process (__main__), not that of" in done.stderr


def test_longctrs_models():
    """Ten packages that FuxiCTR installs, one of them a DIN like ours."""
    folder = Path(importlib.util.find_spec("model_zoo.LongCTR").submodule_search_locations[0])
    names = {"DCNv2", "DIEN", "DIN", "ETA", "FinalMLP", "MIRRN", "SDIM", "SIM", "TWIN", "TransAct"}
    entries = registry.discover([folder])
    assert {name for name, entry in entries.items() if entry.origin.startswith(str(folder))} == names
    for name in names:
        assert registry.get_model(name, [folder]).__init__.__code__.co_filename == str(folder / name / f"{name}.py")


def test_broken_plugin_reports_itself_and_spares_the_others(tmp_path):
    broken = write_plugin(tmp_path / "broken.py", "Broken")
    broken.write_text("import does_not_exist\n" + broken.read_text())
    (tmp_path / "garbage.py").write_text("this is not python")
    write_plugin(tmp_path / "good.py", "Good")
    assert registry.get_model("Good", [tmp_path]).__name__ == "Good"
    with pytest.raises(ModelError) as error:
        registry.get_model("Broken", [tmp_path])
    for words in (str(broken), "Traceback", "does_not_exist", "the other models are not affected"):
        assert words in str(error.value)


def test_missing_plugin(tmp_path):
    with pytest.raises(ModelError, match="No plugin at"):
        registry.discover([tmp_path / "nowhere.py"])


def test_importing_and_listing_is_light():
    """Neither torch for a list, nor Ray or plotting for a model."""
    program = (
        "import sys, qin_zoo; qin_zoo.list_models(); assert 'torch' not in sys.modules; "
        "qin_zoo.get_model('QIN'); print([m for m in ('ray', 'matplotlib', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_fuxictr_preprocess_is_whole_afterwards():
    program = (
        "import qin_zoo; qin_zoo.get_model('QIN'); from fuxictr.preprocess import FeatureProcessor, build_dataset; "
        "print(callable(build_dataset))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
