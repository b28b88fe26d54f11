import pytest

from qin_zoo.data.specs import check_encoder
from qin_zoo.errors import ConfigError


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        "layers.MaskedAveragePooling()",
        " layers.MaskedSumPooling() ",
        "layers.KMaxPooling(k=2, dim=1)",
        "layers.KMaxPooling(2, dim=-1)",
        "nn.Identity()",
        "nn.Flatten()",
        "nn.Linear(64, 32)",
        "nn.Linear(64, 32, False)",
        "nn.Linear(in_features=64, out_features=32, bias=True)",
        ["layers.MaskedAveragePooling()", "nn.Linear(64, 32, bias=False)"],
    ],
)
def test_allowed(encoder):
    check_encoder(encoder, "somewhere")


@pytest.mark.parametrize(
    "encoder",
    [
        "",
        [],
        3,
        {"a": 1},
        [None],
        [["nn.Linear(1, 2)"]],
        "__import__('os').system('true')",
        "layers.MaskedAveragePooling",
        "layers.MaskedAveragePooling(1)",
        "layers.MaskedAveragePooling().forward()",
        "layers.MaskedAveragePooling(**{})",
        "layers.MaskedAveragePooling(*[])",
        "layers.MaskedAveragePooling(); import os",
        "layers.MaskedAveragePooling() or 1",
        "layers.KMaxPooling(k=2)",
        "layers.KMaxPooling(k=2, dim='1')",
        "layers.KMaxPooling(k=open('x'), dim=1)",
        "layers.KMaxPooling(2, 1, k=2)",
        "layers.KMaxPooling(2, 1, 3)",
        "nn.Identity(1)",
        "nn.Flatten(0)",
        "nn.Linear(64, 32, bias=1)",
        "nn.Linear(64, 32, True, 'cuda')",
        "nn.Linear(64.0, 32)",
        "nn.Linear(True, 32)",
        "nn.Linear(2**40, 32)",
        "nn.Embedding(64, 32)",
        "torch.nn.Linear(64, 32)",
        "lambda x: x",
        "(" * 150 + ")" * 150,
        "nn.Linear(" + " " * 500 + "1, 2)",
        "nn.Linear(1, 2)\x00",
    ],
)
def test_refused(encoder):
    with pytest.raises(ConfigError, match="somewhere: feature_encoder"):
        check_encoder(encoder, "somewhere")


def test_a_near_name_is_suggested():
    with pytest.raises(ConfigError, match=r"Did you mean 'layers.MaskedAveragePooling'\?"):
        check_encoder("layers.MaskedAvgPooling()", "somewhere")
