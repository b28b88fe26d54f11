"""Checkpoints of FuxiCTR's DIN on named fields: loaded into ours they predict the same.

FuxiCTR's wheel holds the layers of its DIN but not the model, which is put together here from them.
"""

import pytest
import torch
from conftest import VOCAB, item_table_feature_map, make_feature_map, random_item_batch
from fuxictr.pytorch.layers import DIN_Attention, FeatureEmbeddingDict, MLP_Block
from torch import nn

import qin_zoo
from qin_zoo.errors import CheckpointError

DIM = 4
PAIR = {"target_field": ("item", "cate"), "sequence_field": ("clicks", "cates")}
TWO = {"target_field": ["item", "cate"], "sequence_field": ["clicks", "cates"]}
MIXED = {"target_field": [("item", "cate"), "brand"], "sequence_field": [("clicks", "cates"), "brands"]}
ONE = {"target_field": "item", "sequence_field": "clicks"}
AGAIN = {"target_field": ["brand", "item", "brand"], "sequence_field": ["brands", "clicks", "bought"]}
LISTED = {key: [value] for key, value in ONE.items()}
FIELDS = {"pair": PAIR, "two": TWO, "mixed": MIXED, "one": ONE, "one listed": LISTED, "target again": AGAIN}
OPTIONS = {
    "plain": {"attention_hidden_activations": "Dice"},
    "softmax": {"din_use_softmax": True, "batch_norm": True, "attention_hidden_activations": "ReLU"},
}


class FuxiCTRsDIN(nn.Module):
    """Each sequence's pooled embedding takes the sequence's place among the features, in the feature map's order."""

    def __init__(self, feature_map, target_field, sequence_field, activation, softmax=False, batch_norm=False):
        super().__init__()
        listed = lambda value: value if isinstance(value, list) else [value]  # noqa: E731
        self.pairs = list(zip(listed(target_field), listed(sequence_field)))
        self.feature_map = feature_map
        self.embedding_layer = FeatureEmbeddingDict(feature_map, DIM)
        self.attention_layers = nn.ModuleList(
            DIN_Attention(
                DIM * len(target) if isinstance(target, tuple) else DIM,
                attention_units=[6],
                hidden_activations=activation,
                use_softmax=softmax,
            )
            for target, _ in self.pairs
        )
        self.dnn = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(), output_dim=1, hidden_units=[8], batch_norm=batch_norm
        )

    def forward(self, batch):
        embedded = self.embedding_layer({n: batch[n] for n in self.feature_map.features})
        names = lambda field: list(field) if isinstance(field, tuple) else [field]  # noqa: E731
        for layer, (target, sequence) in zip(self.attention_layers, self.pairs):
            targets, sequences = ([embedded[n] for n in names(field)] for field in (target, sequence))
            mask = batch[names(sequence)[0]].long() != 0
            pooled = layer(torch.cat(targets, dim=-1), torch.cat(sequences, dim=-1), mask)
            embedded |= dict(zip(names(sequence), pooled.split(DIM, dim=-1)))
        return self.dnn(self.embedding_layer.dict2tensor(embedded, flatten_emb=True)).sigmoid()


def feature_map(paired):
    """Fields of the history between the others; sequences of no pair are pooled by their mean."""
    one = {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": 12}
    many = lambda owner, length: {  # noqa: E731
        **one, "type": "sequence", "max_len": length, "share_embedding": owner,
    }  # fmt: skip
    features = {
        "item": dict(one),
        "clicks": many("item", 5),
        "age": dict(one),
        "brand": dict(one),
        "brands": many("brand", 3),
        "price": {"type": "numeric", "source": ""},
        "bought": many("brand", 4),
        "cate": dict(one),
        "cates": many("cate", 5),
    }
    for name, spec in features.items():
        if spec["type"] == "sequence" and name not in paired:
            spec["feature_encoder"] = "layers.MaskedAveragePooling()"
    found = make_feature_map(features, labels=["clk"])
    found.default_emb_dim = DIM
    return found


def batch(rows=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = lambda *shape: torch.randint(1, 12, shape, generator=g)  # noqa: E731
    real = torch.arange(5) < torch.randint(1, 6, (rows, 1), generator=g)
    return {
        "item": ids(rows), "clicks": ids(rows, 5) * real, "age": ids(rows), "brand": ids(rows),
        "brands": ids(rows, 3) * real[:, :3], "price": torch.rand(rows, generator=g), "cate": ids(rows),
        "bought": ids(rows, 4) * real[:, :4], "cates": ids(rows, 5) * real,
    }  # fmt: skip


def trained(fields, options, path):
    """FuxiCTR's model after some steps, so that statistics and thresholds are not those of the start; its file."""
    flat = lambda field: [field] if isinstance(field, str) else [n for part in field for n in flat(part)]  # noqa: E731
    features = feature_map(flat(fields["sequence_field"]))
    torch.manual_seed(1)
    activation, softmax, norm = (
        options.get(key, False) for key in ("attention_hidden_activations", "din_use_softmax", "batch_norm")
    )
    model = FuxiCTRsDIN(features, *fields.values(), activation, softmax, norm)
    for table in model.embedding_layer.embedding_layers.values():
        if isinstance(table, nn.Embedding):
            nn.init.normal_(table.weight[1:], std=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(5):
        optimizer.zero_grad()
        data = batch(seed=step)
        nn.functional.binary_cross_entropy(model(data).view(-1), (data["item"] > 6).float()).backward()
        optimizer.step()
    torch.save(model.state_dict(), path)
    return model.eval(), features


def ours(features, fields, options):
    return qin_zoo.create_model(
        "DIN", features, embedding_dim=DIM, dnn_hidden_units=[8], attention_hidden_units=[6], **fields, **options
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("fields", FIELDS)
def test_predictions_are_fuxictrs(fields, options, tmp_path):
    fields, options = FIELDS[fields], OPTIONS[options]
    theirs, features = trained(fields, options, tmp_path / "din.model")
    model = ours(features, fields, options)
    model.load_weights(str(tmp_path / "din.model"))
    data = batch(seed=99)
    expected = theirs(data)
    assert expected.std() > 0.02
    torch.testing.assert_close(model.eval()(data)["y_pred"], expected, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_of_other_fields_is_refused(tmp_path):
    _, features = trained(PAIR, OPTIONS["plain"], tmp_path / "din.model")
    with pytest.raises(CheckpointError, match="another model or configuration"):
        ours(features, MIXED, OPTIONS["plain"]).load_weights(str(tmp_path / "din.model"))


@pytest.mark.parametrize("training", [False, True])
def test_longctrs_din_with_every_switch_on(training, tmp_path):
    """On an item table, with what the golden problems have off: dropouts, Dice in the DNN, an output activation."""
    from model_zoo.LongCTR.DIN import DIN

    feature_map, batch = item_table_feature_map(VOCAB, 8), random_item_batch(VOCAB, 8)
    batch.history[:, -1] = 3  # without any item theirs has the softmax of its padding
    feature_map.default_emb_dim = DIM
    params = {"embedding_dim": DIM, "dnn_hidden_units": [8, 4], "dnn_activations": "Dice", "net_dropout": 0.2}
    params |= {"attention_hidden_units": [6, 5], "attention_output_activation": "sigmoid", "attention_dropout": 0.3}
    params |= {"attention_hidden_activations": "Dice", "din_use_softmax": True, "batch_norm": True, "verbose": 0}
    torch.manual_seed(0)
    theirs = DIN(feature_map, optimizer="adam", loss="binary_crossentropy", metrics=["AUC"], model_root=".", **params)
    for name, weight in theirs.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.5)
        if "embedding_layers" in name:
            nn.init.zeros_(weight[0])
    path = tmp_path / "theirs.model"
    torch.save(theirs.state_dict(), path)
    ours = qin_zoo.create_model("DIN", feature_map, **params)
    ours.load_weights(str(path))
    for module in (*ours.modules(), *theirs.modules()):
        module.train(training)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(ours(batch)["y_pred"], theirs(batch.triple())["y_pred"], atol=2e-6, rtol=0)
