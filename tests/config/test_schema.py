"""Parameters: checked against tables and constructors, all mistakes in one message, nothing in them executed."""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qin_zoo.config.experiments import apply_overrides, load_experiment, parse_overrides
from qin_zoo.config.schema import check_params, known_params
from qin_zoo.errors import ConfigError
from qin_zoo.fuxi import BaseModel


class Base(BaseModel):
    """A model with annotated parameters and one that is not."""

    def __init__(
        self,
        feature_map,
        num_layers: int = 2,
        net_dropout: float | list[float] = 0.0,
        batch_norm: bool = False,
        units: Sequence[int] = (64, 32),
        names: Iterable[str] = (),
        kind: "Literal['asta', 'mean']" = "asta",
        size: int = None,  # noqa: RUF013 - as people write it
        shape: tuple[int, float] = (1, 2.0),
        encoder: "not_importable.Thing" = None,  # noqa: F821
        anything=None,
        other_initializer=None,
        **kwargs,
    ):
        super().__init__(feature_map, **kwargs)


class Model(Base):
    def __init__(self, feature_map, *args, num_heads: int = 1, **kwargs):
        super().__init__(feature_map, *args, **kwargs)


VALID = {
    "strict": True,
    "model": "Model",
    "model_id": "X",
    "dataset_id": "tiny",
    "num_layers": 3,
    "net_dropout": 0.1,
    "anything": ["free", {"text": 1}],
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC", "gAUC"],
    "monitor": {"AUC": 1.0, "logloss": -1.0},
    "task": "binary_classification",
    "embedding_initializer": "partial(nn.init.normal_, std=1e-4)",
    "embedding_regularizer": "l1_l2(1e-4, 0.1)",
    "group_id": "user_id",
    "data_format": "parquet",
    "train_data": "train.parquet",
    "test_data": None,
    "target_field": [["item_id", "price"]],
    "use_features": ["item_id", "user_id", "price"],
    "feature_cols": [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta", "remap": False},
        {
            "name": "item_id",
            "dtype": "str",
            "type": "categorical",
            "source": "item",
            "vocab_size": 9,
            "preprocess": "copy_from(id)",
            "pretrained_emb": "item.npz",
            "feature_encoder": ["nn.Linear(4, 2)"],
        },
        {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler", "fill_na": 0},
    ],
    "label_col": {"name": "label", "dtype": "float"},
}


def checked(**changes) -> dict:
    return check_params({**deepcopy(VALID), **changes}, Model)


def test_a_valid_configuration_passes_unchanged():
    same = {**VALID, "target_field": [("item_id", "price")]}
    assert checked() == same
    assert check_params(VALID, Base) == same
    assert checked().notes == ()


def test_numbers_become_the_type_they_are_to_have():
    params = checked(
        epochs="1e2",
        learning_rate="1e-3",
        embedding_regularizer="1e-5",
        net_regularizer=0,
        num_layers=3.0,
        net_dropout=["1e-1", 0],
        units=("8", 4),
        shape=[2, 3],
        size=None,
        batch_size=4096.0,
        monitor={"AUC": 1},
        names=["a"],
        max_gradient_norm=float("inf"),
    )
    expected = {
        "epochs": 100,
        "learning_rate": 1e-3,
        "embedding_regularizer": 1e-5,
        "net_regularizer": 0.0,
        "num_layers": 3,
        "net_dropout": [0.1, 0.0],
        "units": [8, 4],
        "shape": (2, 3.0),
        "size": None,
        "batch_size": 4096,
        "monitor": {"AUC": 1.0},
        "names": ["a"],
        "max_gradient_norm": float("inf"),
    }
    for key, value in expected.items():
        assert params[key] == value
        assert type(params[key]) is type(value), key
    assert all(type(v) is float for v in [*params["net_dropout"], params["monitor"]["AUC"], params["shape"][1]])
    columns = [{**VALID["feature_cols"][0], "vocab_size": "1e3"}, *VALID["feature_cols"][1:]]
    assert checked(feature_cols=columns)["feature_cols"][0]["vocab_size"] == 1000


@pytest.mark.parametrize(
    ("key", "near"), [("num_layer", "num_layers"), ("num_head", "num_heads"), ("learning_rte", "learning_rate")]
)
def test_unknown_keys_suggest_the_nearest(tmp_path, key, near):
    with pytest.raises(ConfigError, match=rf"Unknown key '{key}'\. Did you mean '{near}'"):
        checked(**{key: 3})
    (tmp_path / "model_config.yaml").write_text(f"X: {{model: M, dataset_id: d,\n  {key}: 3}}")
    (tmp_path / "dataset_config.yaml").write_text("d: {}")
    with pytest.raises(ConfigError, match=rf"experiment 'X': Unknown key '{key}' \(.*model_config.yaml, line 2\)"):
        check_params(apply_overrides(load_experiment(tmp_path, "X"), {"strict": True}), Model)


@pytest.mark.parametrize("key", ["zzz", "self", "kwargs", "feature_map", "", 3, None])
def test_unknown_keys_without_a_neighbour(key):
    with pytest.raises(ConfigError, match="Unknown key"):
        check_params({**VALID, key: 1}, Model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "expected a whole number of at least 1, got 0"),
        ("epochs", "ten", "expected a whole number of at least 1, got 'ten'"),
        ("epochs", 1.5, "whole number"),
        ("epochs", True, "whole number"),
        ("epochs", 10**400, "whole number"),
        ("epochs", float("inf"), "whole number"),
        ("epochs", None, "whole number"),
        ("batch_size", -1, "whole number"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("gpu", -2, "at least -1"),
        ("learning_rate", 0, "greater than 0"),
        ("learning_rate", float("nan"), "greater than 0"),
        ("learning_rate", [1e-3], "greater than 0"),
        ("factor", 1, "between 0 and 1"),
        ("shuffle", 1, "true or false"),
        ("shuffle", "yes", "true or false"),
        ("optimizer", "sgd", "Did you mean 'SGD'"),
        ("optimizer", "Optimizer", "torch.optim class"),
        ("loss", "binary_crossentrpy", "Did you mean 'binary_crossentropy'"),
        ("metrics", "AUC", r"a list of metrics, as in \[AUC, logloss\], got 'AUC'"),
        ("metrics", [], "a list of metrics"),
        ("metrics", ["AUC", "gauc"], "Did you mean 'gAUC'"),
        ("monitor", "auc", "Did you mean 'AUC'"),
        ("monitor", {"AUC": "high"}, "weights of metrics"),
        ("monitor", {}, "weights of metrics"),
        ("monitor_mode", "maximum", "one of max, min"),
        ("model", "os.system", "name of a class"),
        ("model_id", "../x", "file name"),
        ("dataset_id", "a/b", "file name"),
        ("data_format", "json", "one of csv, parquet, npz"),
        ("train_data", "", "text that is not empty"),
        ("test_data", 3, "text that is not empty or null"),
        ("item_info", "a\0b", "text"),
        ("max_len", -1, "whole number from 0 to"),
        ("embedding_regularizer", -1e-4, "cannot be negative"),
        ("embedding_regularizer", "l3(1)", r"l1\(x\)"),
        ("net_regularizer", "l2(-1)", "cannot be negative"),
        ("net_regularizer", True, r"l1\(x\)"),
        ("embedding_initializer", "partial(nn.init.normal_, sdt=1)", "normal_ takes mean, std"),
        ("embedding_initializer", "nn.init.normel_", "Did you mean 'normal_'"),
        ("embedding_initializer", "nn.init.constant_", r"needs val: partial\(nn.init.constant_, val=…\)"),
        ("feature_cols", {"name": "a"}, "list of mappings"),
        ("feature_cols", ["a"], "list of mappings"),
        ("target_field", [["item_id", 3]], "name of a feature"),
        ("target_field", "itm_id", "target_field names 'itm_id'.*Did you mean 'item_id'"),
        ("sequence_field", [["item_id", "prise"]], "Did you mean 'price'"),
        ("use_features", ["item"], "use_features names 'item'"),
        ("group_id", "user", "group_id names 'user'.*Did you mean 'user_id'"),
        ("group_id", None, "gAUC is computed within groups: set group_id"),
        ("feature_specs", [{"embedding_dim": 3}], r"feature_specs\[0\]: has no name"),
        ("feature_specs", [{"name": "itemid", "embedding_dim": 3}], "Did you mean 'item_id'"),
        ("num_layers", "a", "expected int, as Base declares it, got 'a'"),
        ("num_heads", 1.5, "expected int, as Model declares it"),
        ("net_dropout", True, r"expected float \| list\[float\]"),
        ("batch_norm", 0, "expected bool"),
        ("units", "64", r"Sequence\[int\]"),
        ("units", [64, "a"], r"Sequence\[int\]"),
        ("kind", "man", r"Literal\['asta', 'mean'\]"),
        ("shape", [1], r"tuple\[int, float\]"),
        ("anything", b"bytes", "got b'bytes'"),
        ("anything", {1: 2}, "text as keys"),
        ("other_initializer", "print('x')", "nn.init.NAME_"),
    ],
)
def test_wrong_values(key, value, message):
    with pytest.raises(ConfigError, match=message):
        checked(**{key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int32"}, r"feature_cols\[1\] \(item_id\): key 'dtype': expected one of int, float, str"),
        ({"dtype": "__import__('os').getpid()"}, "one of int, float, str"),
        ({"type": "categoricl"}, "Did you mean 'categorical'"),
        ({"vocab_size": 0}, "at least 1"),
        ({"vocab_sise": 3}, r"unknown key 'vocab_sise'\. Did you mean 'vocab_size'"),
        ({"zzz": 3}, r"unknown key 'zzz'\. Known: name, active"),
        ({"name": "../x"}, "file names"),
        ({"name": ["a", ""]}, "name"),
        ({"name": ["item_id", "item_id"]}, "defines the feature 'item_id' twice"),
        ({"name": "type"}, "feature 'type' cannot be embedded under this name"),
        ({"name": "a.b"}, "feature 'a.b' cannot be embedded"),
        ({"preprocess": "load_pickle(evil.pkl)"}, "one of copy_from"),
        ({"normalizer": "print"}, "StandardScaler"),
        ({"pretrained_emb": "evil.pkl"}, ".npz"),
        ({"share_embedding": "nobody"}, "share_embedding names 'nobody'"),
        ({"feature_encoder": 3}, "text or a list of texts or null"),
        ({"fill_na": [1]}, "text or a number"),
        ({"active": "no"}, "true or false"),
    ],
)
def test_wrong_feature_columns(change, message):
    columns = deepcopy(VALID["feature_cols"])
    columns[1].update(change)
    others = {"target_field": "price", "use_features": ["price"]}  # so that renaming item_id is the only change
    with pytest.raises(ConfigError, match=message):
        checked(feature_cols=columns, **others)


@pytest.mark.parametrize("key", ["name", "dtype", "type"])
def test_incomplete_feature_columns(key):
    columns = deepcopy(VALID["feature_cols"])
    del columns[0][key]
    with pytest.raises(ConfigError, match=rf"feature_cols\[0\].*has no {key}"):
        checked(feature_cols=columns, group_id=None, metrics=["AUC"], use_features=None)
    with pytest.raises(ConfigError, match=r"label_col\[0\] \(y\): has no dtype"):
        checked(label_col=[{"name": "y"}])


def test_all_mistakes_are_in_one_message():
    with pytest.raises(ConfigError, match=r"(?s)3 mistakes in .*'X':\n- .*epochs.*\n- .*zzz.*\n- .*dtype"):
        checked(epochs=0, zzz=1, label_col={"name": "label", "dtype": "bool"})


def test_features_of_a_feature_map_cannot_be_checked_here():
    params = {k: v for k, v in VALID.items() if k not in ("feature_cols", "label_col")}
    assert check_params({**params, "target_field": "adgroup_id"}, Model)["target_field"] == "adgroup_id"


def test_models_of_others_without_annotations():
    package = Path(importlib.util.find_spec("fuxictr").origin).parent.parent
    spec = importlib.util.spec_from_file_location("third_party_sim", package / "model_zoo/LongCTR/SIM/SIM.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    params = {"model": "SIM", "gsu_type": "soft", "topk": 3, "dnn_hidden_units": [1], "early_stop_patience": 2}
    assert check_params(params, module.SIM) == params
    with pytest.raises(ConfigError, match=r"Unknown key 'top_k'.*Did you mean 'topk'"):
        check_params({**params, "top_k": 3, "strict": True}, module.SIM)
    lenient = check_params({**params, "top_k": 3, "item_dim": [1]}, module.SIM)
    assert lenient == {**params, "top_k": 3, "item_dim": [1]}  # FuxiCTR hands them to the model's **kwargs
    assert len(lenient.notes) == 1
    assert "Unknown to SIM" in lenient.notes[0]
    assert "--strict): top_k (Did you mean 'topk'?), item_dim." in lenient.notes[0]


def test_every_key_of_a_run_is_described():
    assert all(text.endswith(".") for text in known_params().values())
    assert {"epochs", "feature_cols", "max_len", "monitor"} <= set(known_params())


# ---- hostile input

PAYLOADS = [
    "__import__('os').system('touch {marker}')",
    "__import__('pathlib').Path('{marker}').touch()",
    "partial(__import__('os').system, 'touch {marker}')",
    "partial(nn.init.normal_, std=open('{marker}', 'w'))",
    "(lambda: open('{marker}', 'w'))()",
    "open('{marker}', 'w')",
    "NDCG(k=open('{marker}', 'w'))",
    "load_pickle({marker})",
    "nn.Linear(open('{marker}', 'w'), 1)",
]
# Keys whose strings FuxiCTR evaluates, looks up as an attribute, or calls by name.
EVALUATED = {"dtype", "optimizer", "loss", "metrics", "monitor", "embedding_initializer", "preprocess", "model"}


def _strings(value, path=()):
    """Paths of all strings, keys of mappings not included."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(part, (*path, key))


def _planted(params, path, payload):
    params = deepcopy(params)
    target = params
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = payload
    return params


def _load_and_check(folder: Path, model: str, dataset: str = "tiny: {data_root: x}") -> dict | None:
    """What a run does before anything of FuxiCTR's sees the parameters; None where they are refused."""
    folder.mkdir(exist_ok=True)
    (folder / "model_config.yaml").write_text(model, encoding="utf-8", errors="surrogatepass")
    (folder / "dataset_config.yaml").write_text(dataset, encoding="utf-8", errors="surrogatepass")
    try:
        return check_params(load_experiment(folder, "X"), Model)
    except ConfigError:
        return None


@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_planted_in_any_string_never_runs(tmp_path, payload):
    marker = tmp_path / "marker"
    payload = payload.format(marker=marker)
    for path in _strings(VALID):
        params = _planted(VALID, path, payload)
        accepted = _load_and_check(tmp_path / "config", yaml.safe_dump({"X": params}))
        if EVALUATED & set(path):
            assert accepted is None, path
        tagged = _planted(VALID, path, "PLANTED")
        for tag in (f"!!python/object/apply:os.system [{payload!r}]", f"!!python/object/new:eval [{payload!r}]"):
            text = yaml.safe_dump({"X": tagged}, default_flow_style=True, width=10**6).replace("PLANTED", tag)
            assert _load_and_check(tmp_path / "config", text) is None
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    [
        "nn.init.xavier_normal_",
        "torch.nn.init.xavier_uniform_",
        "partial(torch.nn.init.uniform_, a=-0.05, b=5e-2)",
        "partial(nn.init.kaiming_normal_, mode='fan_out', nonlinearity=\"relu\")",
        "partial(nn.init.constant_, val=0)",
    ],
)
def test_accepted_initializers_are_fuxictr_s(text):
    from fuxictr.pytorch.torch_utils import get_initializer

    assert checked(embedding_initializer=text)["embedding_initializer"] == text
    assert callable(get_initializer(text))


@pytest.mark.parametrize(
    "text",
    [
        "os.system",
        "nn.init",
        "nn.init.torch",
        "nn.Linear",
        "nn.init._no_grad_normal_",
        "nn.init.normal_.__globals__",
        "partial(nn.init.normal_)(1)",
        "partial(nn.init.normal_, **{})",
        "partial(nn.init.normal_, 0, 1)",
        "partial()",
        "partial(nn.init.normal_, std=[1])",
        "partial(nn.init.normal_, std=1 if x else 2)",
        "f(nn.init.normal_)",
        "nn.init.normal_ if 1 else 2",
        "nn.init.normal_; x",
        "(" * 150,
        "-" * 190 + "1",
        "'\\d'",
        "1if 1else 2",
        "",
        3,
        None,
        "partial(nn.init.normal_, std=True)",
        "nn.init.normal_\0",
        "[nn.init.normal_][0]",
        "partial(nn.init.normal_, generator=1)",
    ],
)
def test_refused_initializers(text):
    with pytest.raises(ConfigError, match=r"nn\.init\.NAME_"):
        checked(embedding_initializer=text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.binary(max_size=4),
    st.text(max_size=12),
    st.sampled_from([*PAYLOADS, "1e-3", "AUC", "gAUC", "l2(1e-5)", "user_id", "../..", "int", "nan"]),
)
KEYS = st.one_of(
    st.sampled_from([*known_params(), *VALID, "num_layers", "anything", "name", "dtype", "type", "vocab_size"]),
    st.text(max_size=8),
    st.integers(),
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4), max_leaves=8)
FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "X:",
            "Base:",
            "tiny:",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&a ",
            "*a",
            "<<: *a",
            "!!python/object/apply:os.system ['touch marker']",
            "!!int ",
            "!!float ",
            "!!timestamp ",
            "!!set ",
            "!!omap ",
            "!!binary ",
            "!!python/name:os.system ",
            "!!merge ",
            "!!value ",
            "!x ",
            "model: Model",
            "dataset_id: tiny",
            "epochs: 3",
            "? ",
            "| ",
            "> ",
            '"',
            "'",
            "#",
            "---",
            "...",
            "%YAML 9.9",
            "0x_",
            "0b_",
            "1:99",
            "=",
            "~",
            "\t",
            "2024-99-99",
            "\\x",
            "\0",
            "\ufeff",
            "é",
            "\x85",
            ".",
            "-.inf",
            "1_000",
            "1e999",
            "@",
            "`",
        ]
    ),
    max_size=25,
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@given(st.dictionaries(KEYS, VALUES, max_size=3), st.sampled_from(["mine", "valid"]))
@FUZZ
def test_random_mappings_are_refused_or_valid(tmp_path_factory, params, base):
    folder = tmp_path_factory.getbasetemp() / "mappings"
    start = VALID if base == "valid" else {"model": "Model", "dataset_id": "tiny"}
    text = yaml.safe_dump({"X": {**start, **params}}, allow_unicode=True)
    accepted = _load_and_check(folder, text)
    assert accepted is None or set(accepted) >= {"model", "dataset_id", "model_id"}
    json.dumps(accepted)  # the run's record is JSON
    with suppress(ConfigError):
        check_params({**start, **params}, Model)  # without the reader's own limits


@given(FRAGMENTS, FRAGMENTS)
@FUZZ
def test_random_text_is_refused_or_valid(tmp_path_factory, model, dataset):
    folder = tmp_path_factory.getbasetemp() / "texts"
    _load_and_check(folder, "".join(model), "".join(dataset))
    _load_and_check(folder, "X:\n  model: Model\n  dataset_id: tiny\n  " + "".join(model))
    with suppress(ConfigError):
        parse_overrides(["key=" + "".join(model)])


@given(st.binary(max_size=60))
@FUZZ
def test_random_bytes_are_refused_or_valid(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    (folder / "model_config.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        load_experiment(folder, "X")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": "logloss", "monitor_mode": "max"}, "monitor_mode max would keep the worst weights: less of the"),
        ({"monitor": "AUC", "monitor_mode": "min"}, "monitor_mode min would keep the worst weights: more of the"),
        ({"metrics": ["logloss"], "monitor_mode": "max"}, "less of the monitor logloss is better"),
        ({"monitor": {"AUC": 1, "logloss": 1}}, "no monitor_mode fits"),
        ({"monitor": {"AUC": -1, "logloss": 1}, "monitor_mode": "max"}, "would keep the worst weights"),
    ],
)
def test_a_monitor_by_which_the_worst_weights_would_be_kept(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_params({"model": "QIN", **changes}, BaseModel)


@pytest.mark.parametrize(
    "changes",
    [
        {"monitor": "logloss"},
        {"monitor": "logloss", "monitor_mode": "min"},
        {"monitor": {"AUC": 1, "logloss": -1}, "monitor_mode": "max"},
        {"monitor": {"AUC": 1, "logloss": 0}, "monitor_mode": "max"},
        {"metrics": ["logloss"]},
        {"loss": "published"},
    ],
)
def test_monitors_that_fit(changes):
    assert check_params({"model": "QIN", **changes}, BaseModel).items() >= changes.items()
