"""Batches read ahead or resident on a device: the same as the loader's, in the same order."""

import threading

import pytest
import torch
from conftest import REPOSITORY

from qin_zoo.data.feed import DeviceResident, Prefetching, feed, split_bytes
from qin_zoo.experiment.prepare import prepare

CPU = torch.device("cpu")


@pytest.fixture
def loader(sample, tmp_path):
    def make(split="train", layout="index"):
        overrides = [f"cache_dir={tmp_path}", "batch_size=700"]
        prepared = prepare("QIN_sample", REPOSITORY / "experiments" / "QIN", data=sample, overrides=overrides)
        loader = prepared.open_dataset().loader(split)
        loader.batch_layout = layout
        return loader

    return make


def flat(batch):
    if isinstance(batch, tuple):
        rows, items, mask = batch
        return [*rows.values(), *items.values(), mask]
    return [*batch.rows.values(), batch.history, batch.target]


@pytest.mark.parametrize("kind", [Prefetching, DeviceResident])
def test_same_batches_epoch_after_epoch(loader, kind):
    want, got = loader(), kind(loader(), CPU)
    assert len(got) == len(want)
    assert got.num_samples == want.num_samples
    for _ in range(2):
        batches = list(zip(got, want, strict=True))
        assert len(batches) == 5
        for a, b in batches:
            assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(flat(a), flat(b), strict=True))
            assert all(torch.equal(a.items[name], t) for name, t in b.items.items())


def test_triples_are_read_ahead(loader):
    for a, b in zip(Prefetching(loader(layout="triple"), CPU), loader(layout="triple"), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_the_thread_ends_with_the_epoch_and_with_a_break(loader):
    ahead = Prefetching(loader(), CPU)
    list(ahead)
    for _ in ahead:
        break
    assert not [t for t in threading.enumerate() if t.name == "qin-zoo reader"]


def test_an_error_of_the_reader_is_raised_where_batches_are_used(loader):
    broken = loader()
    broken._read = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(iter(Prefetching(broken, CPU)))


def test_on_a_cpu_batches_are_read_ahead(loader):
    assert isinstance(feed(loader(), CPU), Prefetching)


def test_bytes_of_a_split(loader):
    batch = loader("valid")
    whole = sum(t.nbytes for t in flat(batch.batch(batch.order(0))))
    assert split_bytes(loader("valid")) == whole
