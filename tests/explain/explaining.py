"""Models of the zoo with weights that make every part count, and one row for them."""

import torch
from conftest import VOCAB, item_table_feature_map, random_item_batch

from qin_zoo.batch import ItemBatch
from qin_zoo.registry import get_model

LENGTH = 7


def make_model(name: str, **params):
    """A model on the challenge's features, and codes for the one that insists on them; in evaluation mode."""
    feature_map = item_table_feature_map(VOCAB, 8)
    if name == "Transformer_DCN_Quant":
        feature_map.features["code_1"] = {
            "type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": 5
        }  # fmt: skip
    torch.manual_seed(0)
    return disturb(get_model(name)(feature_map, embedding_dim=8, verbose=0, **params))


@torch.no_grad()
def disturb(model):
    for layer in model.embedding_layer.embedding_layer.embedding_layers.values():
        if isinstance(layer, torch.nn.Embedding):
            layer.weight[1:] = 0.5 * torch.randn(layer.weight[1:].shape)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # zeros until trained: layer norm then jumps where a row of zeros begins to grow
            weight.copy_(0.1 * torch.randn(weight.shape))
    return model.eval()


def one_row(row: int = 2, seed: int = 3) -> ItemBatch:
    batch = random_item_batch(VOCAB, 8, length=LENGTH, seed=seed)
    items = {**batch.items, "code_1": torch.arange(VOCAB["item_id"]) % 5}
    rows = {name: column[row : row + 1] for name, column in batch.rows.items()}
    return ItemBatch(rows, batch.history[row : row + 1], batch.target[row : row + 1], items)


def model_input(model, batch):
    with torch.no_grad():
        return model._inputs(batch)
