"""Item features computed from an embedding column: right, computed once, kept, and refused when misdescribed."""

import copy

import pytest
import torch
import yaml
from conftest import REPOSITORY

import qin_zoo
from qin_zoo.data import item_codes
from qin_zoo.data.dataset import Dataset, relocate
from qin_zoo.errors import ConfigError, ModelError
from qin_zoo.layers.quantize import nearest_neighbours, residual_codes


def dataset(name, sample, tmp_path):
    config = yaml.safe_load((REPOSITORY / "dataset_configs" / "codes.yaml").read_text())[name]
    return relocate({**config, "dataset_id": name, "cache_dir": str(tmp_path), "batch_size": 64}, sample)


@pytest.fixture
def params(sample, tmp_path):
    return dataset("sample_codes", sample, tmp_path)


def test_codes_and_neighbours_of_every_item(params):
    items = Dataset(params).loader("train").items
    embeddings = items["item_emb_d128"]
    codes, _ = residual_codes(embeddings, 16, 3, item_codes._SEED)
    assert torch.equal(items["item_codes"][1:], codes[1:] + 16 * torch.arange(3))
    assert not items["item_codes"][0].any()
    assert items["item_codes"].max() < 3 * 16 + 1
    assert torch.equal(items["item_neighbours"], nearest_neighbours(embeddings, 10))


def test_codes_that_are_items(params, sample, tmp_path):
    """Each is the item nearest to the mean of those that have the code, one by one."""
    embeddings = Dataset(params).loader("train").items["item_emb_d128"]
    data = Dataset(dataset("sample_quant", sample, tmp_path))
    items = data.loader("train").items
    codes, _ = residual_codes(embeddings, 5, 5, item_codes._SEED)
    left = embeddings.double()
    for level in range(5):
        following = left.clone()
        for code in codes[1:, level].unique():
            members = (codes[:, level] == code).nonzero().squeeze(1)
            mean = left[members].mean(0)
            found = items["item_codes"][members, level].unique()
            assert found.item() in members
            least = (left[members] - mean).norm(dim=1).min()
            torch.testing.assert_close((left[found.item()] - mean).norm(), least, atol=1e-5, rtol=0)
            following[members] -= mean
        left = following
    assert not items["item_codes"][0].any()
    assert data.feature_map.features["item_codes"]["vocab_size"] == data.feature_map.features["item_id"]["vocab_size"]


def test_each_code_and_neighbour_on_its_own(sample, tmp_path):
    data = Dataset(dataset("sample_quant", sample, tmp_path))
    model = qin_zoo.create_model("QIN", data.feature_map, embedding_dim=8)
    assert model.item_dims == {"item_id": 8, "item_tags": 8, "item_codes": 40, "item_neighbours": 80}
    batch = next(iter(data.loader("train")))
    x = model._inputs(batch)
    table = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    for name, part in zip(("item_codes", "item_neighbours"), x.target[:, 16:].split([40, 80], dim=1)):
        expected = table[batch.items[name][batch.item_ids[:, -1]]]  # (B, T, 8)
        torch.testing.assert_close(part, expected.flatten(1))


def test_computed_once(params, monkeypatch):
    first = Dataset(params).loader("train").items["item_codes"]
    monkeypatch.setattr(item_codes, "residual_codes", None)  # would fail if it were called
    assert torch.equal(Dataset(params).loader("valid").items["item_codes"], first)
    other = copy.deepcopy(params)
    other["feature_cols"][6]["codebook_size"] = 8
    with pytest.raises(TypeError):
        Dataset(other).loader("train")


def test_codes_of_an_earlier_version_are_not_used(params, monkeypatch):
    first = Dataset(params).loader("train").items["item_codes"]
    monkeypatch.setattr(item_codes, "_VERSION", item_codes._VERSION + 1)
    monkeypatch.setattr(item_codes, "residual_codes", lambda x, *_: (torch.ones(len(x), 3, dtype=torch.long), None))
    again = Dataset(params).loader("train").items["item_codes"]
    assert again.shape == first.shape
    assert not torch.equal(again, first)


def test_sizes_follow_from_the_description(params):
    features = Dataset(params).feature_map.features
    assert features["item_codes"]["vocab_size"] == 49
    assert features["item_neighbours"]["vocab_size"] == features["item_id"]["vocab_size"] == 101


def test_any_model_uses_them_and_quant_insists(params, feature_map):
    dataset = Dataset(params)
    batch = next(iter(dataset.loader("train")))
    torch.manual_seed(0)
    qin = qin_zoo.create_model("QIN", dataset.feature_map, embedding_dim=4)
    assert qin.item_dims["item_codes"] == 4
    qin.eval()
    torch.testing.assert_close(qin(batch)["y_pred"], qin(batch.triple())["y_pred"])
    small = {"dcn_hidden_units": [8], "mlp_hidden_units": [4], "dim_feedforward": 8, "first_k_cols": 2}
    quant = qin_zoo.create_model("Transformer_DCN_Quant", dataset.feature_map, embedding_dim=4, **small)
    assert quant(batch)["y_pred"].shape == (64, 1)
    with pytest.raises(ModelError, match=r"only item_id, item_tags, item_emb_d128\. Add .* codes_of .* code_1, code_2"):
        qin_zoo.create_model("Transformer_DCN_Quant", feature_map, embedding_dim=4, **small)


@pytest.mark.parametrize(
    ("name", "source", "accepted"),
    [("code_1", "item", True), ("code_12", "item", True), ("code_1", "", False), ("zip_code_1", "item", False)],
)
def test_quant_takes_plain_columns_of_codes(feature_map, name, source, accepted):
    feature_map = copy.deepcopy(feature_map)
    feature_map.features[name] = {"type": "categorical", "source": source, "padding_idx": 0, "vocab_size": 9}
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    small = {"dcn_hidden_units": [8], "mlp_hidden_units": [4], "dim_feedforward": 8, "first_k_cols": 2}
    if accepted:
        model = qin_zoo.create_model("Transformer_DCN_Quant", feature_map, embedding_dim=4, **small)
        assert model.item_dims[name] == 4
    else:
        with pytest.raises(ModelError, match="semantic codes among the item features"):
            qin_zoo.create_model("Transformer_DCN_Quant", feature_map, embedding_dim=4, **small)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebook_size": 0}, "codebook_size"),
        ({"num_levels": None}, "num_levels"),
        ({"type": "categorical"}, "type: sequence"),
        ({"source": ""}, "source: item"),
    ],
)
def test_misdescribed(params, change, words):
    params = copy.deepcopy(params)
    params["feature_cols"][6].update(change)
    with pytest.raises(ConfigError, match=words):
        Dataset(params)
