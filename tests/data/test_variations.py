"""Datasets made harder: what is left out, zeroed, noisy or shuffled, and what stays as it is."""

import numpy as np
import pytest
import torch

from qin_zoo.config.experiments import check_params, load_experiment
from qin_zoo.data.variations import KEYS, Variation
from qin_zoo.errors import ConfigError
from qin_zoo.registry import get_model


def opened(folder, **changes):
    from qin_zoo.experiment.prepare import prepare

    return prepare("QIN_sample", data=folder, overrides={"batch_size": 256, "max_len": 20, **changes}).open_dataset()


def batches(dataset, split="train"):
    return list(dataset.loader(split, shuffle=False))


def whole(dataset, split, field):
    return torch.cat([getattr(batch, field) for batch in batches(dataset, split)])


def test_a_variation_of_nothing_changes_nothing(sample):
    assert Variation.of({"seed": 3, "model": "QIN"}) == Variation(seed=3)
    assert Variation.of({"train_fraction": 1.0, "missing_embeddings": 0.0}).named == []
    plain, same = opened(sample), opened(sample, train_fraction=1.0, shuffle_history=False)
    for a, b in zip(batches(plain), batches(same)):
        assert torch.equal(a.history, b.history)
        assert torch.equal(a.target, b.target)


def test_every_variation_is_a_known_parameter():
    params = load_experiment("experiments/QIN", "QIN_sample")
    params.update({"train_fraction": 0.5, "unseen_items": 0.1, "missing_embeddings": 0.3, "embedding_noise": 0.5})
    params["shuffle_history"] = True
    assert check_params(params, get_model("QIN")).keys() >= KEYS
    params["train_fraction"] = 1.5
    with pytest.raises(ConfigError, match=r"train_fraction.*from 0 to 1"):
        check_params(params, get_model("QIN"))


def test_a_share_of_the_rows(sample):
    dataset = opened(sample, train_fraction=0.3)
    count = dataset.rows("train")
    assert 0.25 < count / 3000 < 0.35
    assert sum(len(b) for b in batches(dataset)) == count
    assert dataset.rows("valid") == opened(sample).rows("valid")
    loader = dataset.loader("train")
    rows = np.concatenate([loader.batch_rows(0, i) for i in range(len(loader))])
    assert len(np.unique(rows)) == count
    assert rows.max() > count  # rows of the file, not of the part
    targets = torch.from_numpy(loader.target.take(np.sort(rows)).astype(np.int64))
    assert torch.equal(targets, whole(dataset, "train", "target"))
    labels = np.concatenate([b.rows["label"].numpy() for b in loader])
    assert labels.mean() == pytest.approx(dataset.labels("train")[rows].mean())


def test_unseen_items_occur_in_no_training_row_and_in_the_others_as_before(sample):
    dataset, plain = opened(sample, unseen_items=0.2, seed=5), opened(sample, seed=5)
    hidden = Variation(seed=5, unseen_items=0.2).hidden_items(101)
    assert 8 < hidden.sum() < 35
    assert not hidden[0]
    hidden = torch.from_numpy(hidden)
    history = whole(dataset, "train", "history")
    assert not hidden[whole(dataset, "train", "target")].any()
    assert not hidden[history].any()
    assert ((history[:, 1:] == 0) <= (history[:, :-1] == 0)).all()  # padding stays on the left
    assert hidden[whole(plain, "train", "history")].any()
    assert torch.equal(whole(dataset, "valid", "target"), whole(plain, "valid", "target"))
    assert torch.equal(whole(dataset, "valid", "history"), whole(plain, "valid", "history"))


def test_missing_and_noisy_embeddings(sample):
    plain = batches(opened(sample))[0].items
    varied = opened(sample, missing_embeddings=0.5, seed=2)
    missing = batches(varied)[0].items
    gone = (missing["item_emb_d128"] == 0).all(dim=1)
    assert 0.35 < gone[1:].float().mean() < 0.65
    assert torch.equal(missing["item_emb_d128"][~gone], plain["item_emb_d128"][~gone])
    assert torch.equal(missing["item_tags"], plain["item_tags"])
    assert torch.equal(batches(varied, "valid")[0].items["item_emb_d128"], missing["item_emb_d128"])
    noisy = batches(opened(sample, embedding_noise=0.5))[0].items["item_emb_d128"]
    before = plain["item_emb_d128"]
    ratio = (noisy - before)[1:].std(dim=0) / before[1:].std(dim=0, correction=0)
    assert (ratio - 0.5).abs().mean() < 0.1
    assert torch.equal(noisy[0], before[0])
    assert torch.equal(batches(opened(sample))[0].items["item_emb_d128"], before)  # the shared table is untouched


def test_shuffled_histories_hold_the_same_items_in_an_order_of_their_own(sample):
    plain = whole(opened(sample), "valid", "history")
    shuffled = whole(opened(sample, shuffle_history=True), "valid", "history")
    assert torch.equal(plain.sort(dim=1).values, shuffled.sort(dim=1).values)
    assert torch.equal(plain == 0, shuffled == 0)
    assert not torch.equal(plain, shuffled)
    loader = opened(sample, shuffle_history=True).loader("valid", shuffle=False)
    assert torch.equal(loader.batch(np.array([7, 3])).history, shuffled[[7, 3]])


def test_no_row_left_and_named_fields_are_refused(sample, tmp_path):
    from qin_zoo.data.loader import FieldsLoader
    from qin_zoo.errors import DataError

    with pytest.raises(DataError, match="no training row is left with train_fraction"):
        opened(sample, train_fraction=0.0).rows("train")
    with pytest.raises(ConfigError, match="missing_embeddings is for datasets with an item table"):
        _fields_loader(FieldsLoader, tmp_path, missing_embeddings=0.1)


def _fields_loader(loader, folder, **variation):
    from types import SimpleNamespace

    np.savez(folder / "train.npz", item_id=np.arange(4), label=np.array([0.0, 1, 0, 1]))
    features = {"item_id": {"type": "categorical", "vocab_size": 5}}
    return loader(SimpleNamespace(features=features, labels=["label"]), folder / "train.npz", **variation)


def coded(sample, tmp_path, **changes):
    """The item table of a dataset with codes and neighbours of its embeddings."""
    from qin_zoo.experiment.prepare import prepare

    overrides = {"dataset_id": "sample_codes", "batch_size": 256, "cache_dir": str(tmp_path), "seed": 3, **changes}
    dataset = prepare("QIN_sample", data=sample, overrides=overrides).open_dataset()
    return {split: batches(dataset, split)[0].items for split in ("train", "valid")}


def test_codes_and_neighbours_are_those_of_the_embeddings_that_are_left(sample, tmp_path):
    whole = coded(sample, tmp_path)["train"]
    missing = coded(sample, tmp_path, missing_embeddings=0.5)
    table = missing["train"]["item_emb_d128"]
    gone = (table == 0).all(dim=1)
    assert 20 < gone[1:].sum() < 80
    codes, near = missing["train"]["item_codes"], missing["train"]["item_neighbours"]
    assert torch.equal(codes[~gone], whole["item_codes"][~gone])
    assert len(codes[1:][gone[1:]].unique(dim=0)) == 1, "items without an embedding cannot be told apart"
    assert (codes[1:] > 0).all()
    assert not near[gone].any()
    assert not torch.isin(near, gone.nonzero()[1:]).any(), "an item without an embedding is nobody's neighbour"
    unit = torch.nn.functional.normalize(table, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2)
    similarity[:, gone] = -2
    known = ~gone
    assert torch.equal(near[known], similarity[known].topk(near.shape[1]).indices)
    for name, values in missing["valid"].items():
        assert torch.equal(values, missing["train"][name]), name


def test_codes_of_noisy_embeddings_are_the_nearest_by_the_codebooks_of_the_whole_table(sample, tmp_path):
    whole = coded(sample, tmp_path)["train"]
    barely, noisy = (coded(sample, tmp_path, embedding_noise=e)["train"] for e in (1e-6, 1.0))
    assert torch.equal(barely["item_codes"], whole["item_codes"])
    assert torch.equal(barely["item_neighbours"], whole["item_neighbours"])
    codes = whole["item_codes"].numpy() - 16 * np.arange(3)
    left, other = whole["item_emb_d128"].numpy()[1:].copy(), noisy["item_emb_d128"].numpy()[1:].copy()
    for level in range(3):  # by the definition: a code stands for the mean of what its items have left
        means = {c: left[codes[1:, level] == c].mean(axis=0) for c in np.unique(codes[1:, level])}
        chosen = [min(means, key=lambda c, row=row: ((row - means[c]) ** 2).sum()) for row in other]
        assert noisy["item_codes"][1:, level].tolist() == [16 * level + c for c in chosen]
        left -= np.stack([means[c] for c in codes[1:, level]])
        other -= np.stack([means[c] for c in chosen])
    assert (noisy["item_codes"] != whole["item_codes"])[1:].float().mean() > 0.1
    assert not torch.equal(noisy["item_neighbours"], whole["item_neighbours"])
