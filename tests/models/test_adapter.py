"""Models from elsewhere: in bfloat16, beside other processes, and what stands in their way."""

import numpy as np
import pytest
import torch
from foreign import foreign
from processes import together
from torch import nn

from qin_zoo import ZooModel
from qin_zoo.distributed import joined
from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.experiment.prepare import build_model
from qin_zoo.experiment.run import run_experiment
from qin_zoo.models.adapter import Adapted, adapt


def run(prepared):
    torch.set_num_threads(1)
    return run_experiment(prepared, prepared.config_dir, echo=lambda text: None)


def largest_difference(one, other) -> float:
    """Of the two runs' training losses, evaluation by evaluation."""
    pairs = zip(one["evaluations"], other["evaluations"], strict=True)
    return max(abs(a["train_loss"] - b["train_loss"]) for a, b in pairs)


@pytest.fixture(params=["FieldsNet", "TripleNet"])
def model_and_data(request, sample, tiny_seq):
    return request.param, tiny_seq if request.param == "FieldsNet" else sample


def test_a_class_is_adapted_once_and_models_of_the_zoo_are_not(sample, tmp_path):
    cls = foreign("TripleNet", sample, tmp_path).model_class
    assert cls.__name__ == "TripleNet"
    assert issubclass(cls, Adapted)
    assert adapt(cls) is cls
    assert adapt(cls.__mro__[2]) is cls
    assert adapt(ZooModel) is ZooModel


def test_alone_and_in_float32_nothing_changes(model_and_data, tmp_path):
    """The weights of FuxiCTR's own loop and class."""
    name, data = model_and_data
    prepared = foreign(name, data, tmp_path, epochs=2)
    run(prepared)
    ours = torch.load(prepared.files.checkpoint, weights_only=True)
    dataset = prepared.open_dataset()
    plain = prepared.model_class.__mro__[2]
    assert not issubclass(plain, Adapted)
    torch.manual_seed(0)
    from qin_zoo.fuxi import seed_everything

    seed_everything(prepared.params["seed"])
    theirs = plain(dataset.feature_map, **{**prepared.params, "model_root": str(tmp_path / "theirs")})
    (tmp_path / "theirs" / prepared.params["dataset_id"]).mkdir(parents=True)
    theirs.fit(dataset.loader("train"), epochs=2, validation_data=dataset.loader("valid"))
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())


# ---- bfloat16


def test_products_are_bfloat16_and_the_rest_float32(model_and_data, tmp_path):
    name, data = model_and_data
    prepared = foreign(name, data, tmp_path, precision="bf16")
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset)
    seen = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda m, _, out, path=path: seen.__setitem__(path, getattr(out, "dtype", None)))
    output = model(next(iter(dataset.loader("train"))))
    assert seen["deep.mlp.0"] == torch.bfloat16, "a matrix product"
    assert {values.dtype for values in output.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(sample, tmp_path):
    exact = run(foreign("TripleNet", sample, tmp_path / "fp32", epochs=4))
    short = run(foreign("TripleNet", sample, tmp_path / "bf16", epochs=4, precision="bf16"))
    assert exact["valid"]["AUC"] > 0.55
    assert short["valid"]["AUC"] == pytest.approx(exact["valid"]["AUC"], abs=0.02)
    assert short["valid"] != exact["valid"]


def test_probabilities_keep_their_digits(tiny_seq, tmp_path):
    """A logit of 8 bits tells few rows apart; the sum that goes into the output activation is float32."""
    prepared = foreign("FieldsNet", tiny_seq, tmp_path, precision="bf16")
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    seen = []
    model.output_activation.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    model(next(iter(dataset.loader("valid"))))
    assert seen == [torch.float32]


def test_an_operation_that_bfloat16_does_not_have_is_named(sample, tmp_path):
    prepared = foreign("ShortNet", sample, tmp_path, precision="bf16")
    with pytest.raises(ModelError) as error:
        run(prepared)
    assert "ShortNet cannot compute in bfloat16: RuntimeError: Index put" in str(error.value)
    assert "at foreign_models.py, line" in str(error.value)
    assert "in forward: kept[torch.arange(len(found))] = deep. Run it with precision=fp32." in str(error.value)
    assert run(foreign("ShortNet", sample, tmp_path))["valid"]["AUC"] > 0


def test_an_unknown_precision(sample, tmp_path):
    with pytest.raises(ConfigError, match="precision"):
        foreign("TripleNet", sample, tmp_path, precision="fp16")


# ---- several processes


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 2, "net_regularizer": 0.01}])
def test_two_processes_train_as_one(changes, sample, tmp_path):
    """Batch norm, unequal shares, a layer that only some batches use; the same losses and, scored, the same rows."""
    settings = {"epochs": 2, "eval_steps": 12, "early_stop_patience": 1000, "learning_rate": 1e-4, **changes}
    settings |= {"reduce_lr_on_plateau": False, "group_id": "user_id", "metrics": ["AUC", "logloss", "gAUC"]}
    settings["shuffle"] = False  # one process draws the order as FuxiCTR does, several cannot
    one = run(foreign("TripleNet", sample, tmp_path / "one", **settings))
    two, other = together(2, lambda: run(foreign("TripleNet", sample, tmp_path / "two", **settings)))
    assert len(one["evaluations"]) == 4
    assert largest_difference(one, two) < 1e-5
    assert two["valid"] == other["valid"]
    assert two["valid"]["AUC"] == pytest.approx(one["valid"]["AUC"], abs=1e-3)
    assert two["valid"]["gAUC"] == pytest.approx(one["valid"]["gAUC"], abs=1e-3)
    found, expected = (np.loadtxt(tmp_path / n / "sample/TripleNet_sample.prediction.csv", delimiter=",", skiprows=1)
                       for n in ("two", "one"))  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_named_fields_in_three_processes(tiny_seq, tmp_path):
    settings = {"epochs": 2, "batch_size": 25, "eval_steps": 2, "early_stop_patience": 1000, "learning_rate": 1e-3}
    settings["reduce_lr_on_plateau"] = False  # a tie in AUC would decide it
    settings["shuffle"] = False  # as above
    settings["optimizer"] = "SGD"  # Adam makes a step of a gradient that is rounding alone
    one = run(foreign("FieldsNet", tiny_seq, tmp_path / "one", **settings))
    three = together(3, lambda: run(foreign("FieldsNet", tiny_seq, tmp_path / "three", **settings)))[0]
    assert len(one["evaluations"]) == 4
    assert largest_difference(one, three) < 1e-5
    assert three["processes"] == 3


def in_a_group(prepared, change):
    """What is raised when a model, changed, joins a group of two and makes a step."""

    def work():
        dataset = prepared.open_dataset()
        model = build_model(prepared, dataset)
        change(model)
        model._max_gradient_norm, model._batch_index, model._steps_per_epoch = 10.0, 0, 1
        with joined(-1) as group:
            try:
                model.join(group)
                model.train_step(next(iter(dataset.loader("train"))))
            except ModelError as error:
                return str(error)

    return together(2, work)


def test_a_batch_norm_that_cannot_be_shared(sample, tmp_path):
    def change(model):
        model.pictures = nn.BatchNorm2d(3)

    for message in in_a_group(foreign("TripleNet", sample, tmp_path), change):
        assert "TripleNet cannot train in several processes: pictures is a BatchNorm2d" in message


def test_gradients_that_are_not_those_of_backward(sample, tmp_path):
    def change(model):
        def step(batch):
            loss = model.compute_loss(model.forward(batch), model.get_labels(batch))
            torch.autograd.grad(loss, [model.out.weight])
            return loss

        type(model).__mro__[2].train_step = lambda self, batch: step(batch)

    for message in in_a_group(foreign("TripleNet", sample, tmp_path), change):
        assert "its train_step computes gradients without backward()" in message


def test_what_is_told_of_the_historys_items_alone_is_named_where_a_model_stops_at_it(sample, tmp_path):
    """FuxiCTR's models of item tables know no ``source: history``, which imports of ratings have."""
    prepared = foreign("TripleNet", sample, tmp_path)
    dataset = prepared.open_dataset()
    rows, items, mask = next(iter(dataset.loader("train")))
    rated = {"type": "categorical", "source": "history", "padding_idx": 0, "vocab_size": 6}
    dataset.feature_map.features["rated"] = rated
    model = build_model(prepared, dataset)
    with pytest.raises(ModelError, match=r"invalid for input.*leave out rated \(active: False\)"):
        model((rows, {**items, "rated": torch.zeros_like(items["item_id"])}, mask))
