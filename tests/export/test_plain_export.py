"""Models from elsewhere to one file: the trained model's scores, served; or what stands in the way, by name."""

import numpy as np
import pytest
import torch
from exporting import random_requests
from foreign import foreign

from qin_zoo.errors import ConfigError, QinZooError
from qin_zoo.experiment.prepare import build_model
from qin_zoo.export.export import export_model, export_run
from qin_zoo.serving import Scorer


def make(name, data, folder, **overrides):
    """A model with weights that make every part count."""
    prepared = foreign(name, data, folder, max_len=8, **overrides)
    dataset = prepared.open_dataset()
    model = build_model(prepared, dataset).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[1:] = 0.3 * torch.randn(module.weight[1:].shape)
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 1.5)
    model.save_weights(str(folder / "w.model"))
    return prepared, dataset, model


@pytest.fixture(scope="module")
def triple(sample, tmp_path_factory):
    """(dataset, model, path of its export) of a model that reads the public triple."""
    folder, said = tmp_path_factory.mktemp("triple"), []
    prepared, dataset, model = make("TripleNet", sample, folder)
    found = export_run(prepared, folder / "m.onnx", checkpoint=folder / "w.model", echo=said.append)
    assert found.difference < 1e-5
    assert "scores differ from the trained model's by at most" in said[0]
    return dataset, model, found.path


def test_the_scores_of_the_triple(triple):
    """The reference is the model itself on batches that are built here, item by item."""
    dataset, model, path = triple
    scorer = Scorer(path)
    items = dataset.loader("valid").items
    for request in random_requests(scorer.inputs, scorer.items, 8, 12, unknown=False):
        history = [i for i in request["history"] if i][-8:]
        flat, masks = [], []
        for candidate in request["candidates"]:
            flat += [0] * (8 - len(history)) + [*history, candidate]
            masks.append([0.0] * (8 - len(history)) + [1.0] * len(history))
        rows = {name: torch.as_tensor(values) for name, values in request["context"].items()}
        inputs = (rows, {name: values[torch.tensor(flat)] for name, values in items.items()}, torch.tensor(masks))
        with torch.no_grad():
            expected = model(inputs)["y_pred"].view(-1).numpy()
        np.testing.assert_allclose(scorer.score(**request), expected, atol=1e-5)


def test_what_the_model_predicts_for_the_valid_split(triple):
    """Its own predict, row by row through the file."""
    dataset, model, path = triple
    scorer = Scorer(path)
    loader = dataset.loader("valid")
    expected = model.predict(loader)[:40]
    loader.batch_layout = "index"
    batch = loader.batch(np.arange(40))
    for row in range(40):
        context = {d["name"]: batch.rows[d["name"]][row : row + 1].numpy() for d in scorer.inputs}
        score = scorer.score(batch.history[row].numpy(), batch.target[row : row + 1].numpy(), context)
        assert score[0] == pytest.approx(expected[row], abs=1e-5)


def test_unknown_items_are_padding(triple):
    scorer = Scorer(triple[2])
    context = {"likes_level": 1, "views_level": 2}
    padding = scorer.score([3], [0], context)
    assert scorer.score([3, scorer.items + 5], [scorer.items], context) == pytest.approx(padding)


def test_a_choice_among_equal_values_is_named(sample, tmp_path):
    prepared, *_ = make("TiedNet", sample, tmp_path)
    with pytest.raises(QinZooError) as error:
        export_run(prepared, tmp_path / "m.onnx", checkpoint=tmp_path / "w.model", echo=str)
    assert "TiedNet: exported scores are not those of the model" in str(error.value)
    assert "topk orders equal values as the runtime likes, at foreign_models.py, line" in str(error.value)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ValueNet", "in forward: for _ in range(int(mask.sum()))"),
        ("ComplexNet", "in forward: turned = torch.einsum"),
    ],
)
def test_an_operation_that_onnx_does_not_have_is_named(name, said, sample, tmp_path):
    prepared, *_ = make(name, sample, tmp_path)
    with pytest.raises(QinZooError) as error:
        export_run(prepared, tmp_path / "m.onnx", checkpoint=tmp_path / "w.model", echo=str)
    assert f"{name} cannot be exported: " in str(error.value)
    assert "at foreign_models.py, line" in str(error.value)
    assert said in str(error.value)


def test_a_model_that_gives_no_number(sample, tmp_path):
    prepared, dataset, model = make("TripleNet", sample, tmp_path)
    with torch.no_grad():
        model.out.bias.fill_(float("nan"))
    with pytest.raises(QinZooError, match="TripleNet itself gives nan for a request with 0 history items"):
        export_model(prepared, dataset, model, tmp_path / "w.model", tmp_path / "m.onnx")


def test_a_compressed_table(sample, tmp_path):
    prepared, *_ = make("TripleNet", sample, tmp_path)
    with pytest.raises(ConfigError, match=r"--table int8: TripleNet is no ZooModel.*Leave it out"):
        export_run(prepared, tmp_path / "m.onnx", checkpoint=tmp_path / "w.model", table="int8")


def test_the_scores_of_named_fields(tiny_seq, tmp_path):
    """The model's own predict of encoded rows, through the file."""
    prepared, dataset, model = make("FieldsNet", tiny_seq, tmp_path)
    found = export_run(prepared, tmp_path / "m.onnx", checkpoint=tmp_path / "w.model", echo=str)
    assert found.difference < 1e-5
    scorer, loader = Scorer(found.path), dataset.loader("valid", shuffle=False)
    names, batch = [d["name"] for d in scorer.inputs], loader.batch(np.arange(40))
    candidates = [{n: batch[n][row].tolist() for n in names} for row in range(40)]
    np.testing.assert_allclose(scorer.score(None, candidates), model.predict(loader)[:40], atol=1e-5)
