"""The decorator and the three ways of discovery, each with a real file, folder or installed package."""

import importlib
import subprocess
import sys
import textwrap

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
    assert qin_zoo.list_models("*din*") == ["DIN", "DIN_DCN", "DIN_SENet"]
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


def test_two_models_with_one_name(tmp_path):
    file = write_plugin(tmp_path / "qin2.py", "QIN")
    with pytest.raises(ModelError) as error:
        registry.discover([file])
    assert str(file) in str(error.value)
    assert "model_zoo/qin.py" in str(error.value)


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


def test_fuxictr_preprocess_is_whole_afterwards():
    program = (
        "import qin_zoo; qin_zoo.get_model('QIN'); from fuxictr.preprocess import FeatureProcessor, build_dataset; "
        "print(callable(build_dataset))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
