import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_path_files import write

from qin_zoo.data.feature_map import FeatureMap, load_feature_map
from qin_zoo.data.loader import FieldsLoader
from qin_zoo.errors import DataError

ROWS = 33


def feature_map():
    fm = FeatureMap("classic", ".")
    fm.features.update(
        user={"type": "meta"},
        item={"source": "", "type": "categorical", "vocab_size": 20, "padding_idx": 0},
        clicks={"source": "", "type": "sequence", "vocab_size": 20, "padding_idx": 0, "max_len": 5},
        price={"source": "", "type": "numeric"},
        emb={"source": "", "type": "embedding", "pretrain_dim": 2},
    )
    fm.labels = ["clk"]
    fm.set_column_index()
    return fm


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 1000, ROWS),
        "item": rng.integers(0, 20, ROWS),
        "clicks": rng.integers(0, 20, (ROWS, 5)).astype(np.int32),
        "price": rng.standard_normal(ROWS),
        "emb": rng.standard_normal((ROWS, 2)).astype(np.float32),
        "clk": rng.integers(0, 2, ROWS).astype(np.float64),
    }


def save(path, data):
    if path.suffix == ".npz":
        np.savez(path, **data)
    else:
        write(path, {n: a.tolist() if a.ndim == 2 else a for n, a in data.items()})
    return path


DTYPES = {"user": torch.int64, "item": torch.int64, "clicks": torch.int64, "price": torch.float32, "emb": torch.float32,
          "clk": torch.float32}  # fmt: skip


@pytest.fixture(params=[".npz", ".parquet"])
def path(request, tmp_path):
    return tmp_path / f"train{request.param}"


def test_batches_are_the_arrays(path):
    data = arrays()
    save(path, data)
    found = FieldsLoader(feature_map(), str(path), batch_size=10)
    batches = list(found)
    assert [len(b["clk"]) for b in batches] == [10, 10, 10, 3]
    assert (found.num_samples, found.num_batches, found.num_blocks, len(found)) == (ROWS, 4, 1, 4)
    assert found.has_label
    for name, dtype in DTYPES.items():
        whole = torch.cat([b[name] for b in batches])
        assert whole.dtype == dtype
        np.testing.assert_array_equal(whole, data[name].astype(whole.numpy().dtype))
    assert found.fingerprint["file"] == path.name


def test_ragged_and_short_sequences_are_padded_at_the_end(tmp_path):
    ragged = [[1, 2][: i % 3] for i in range(ROWS)]
    data = {n: a.tolist() for n, a in arrays().items()} | {"clicks": ragged}
    batch = next(iter(FieldsLoader(feature_map(), write(tmp_path / "train.parquet", data), batch_size=ROWS)))
    assert batch["clicks"].tolist() == [c + [0] * (5 - len(c)) for c in ragged]
    short = arrays() | {"clicks": arrays()["clicks"][:, :3]}
    batch = next(iter(FieldsLoader(feature_map(), save(tmp_path / "train.npz", short), batch_size=ROWS)))
    assert batch["clicks"].shape == (ROWS, 5)
    assert batch["clicks"][:, 3:].sum() == 0


def test_shuffling(path):
    save(path, arrays())
    a, b = (FieldsLoader(feature_map(), path, shuffle=True, batch_size=10, seed=5) for _ in range(2))
    first, second = (torch.cat([x["user"] for x in a]).tolist() for _ in range(2))
    assert sorted(first) == sorted(arrays()["user"].tolist())
    assert first != second
    assert torch.cat([x["user"] for x in b]).tolist() == first
    b.set_epoch(1)
    assert torch.cat([x["user"] for x in b]).tolist() == second
    valid = FieldsLoader(feature_map(), path, split="valid", shuffle=True)
    assert torch.cat([x["user"] for x in valid]).tolist() == arrays()["user"].tolist()


def test_paths_without_suffix(path):
    save(path, arrays())
    assert FieldsLoader(feature_map(), str(path.with_suffix(""))).num_samples == ROWS


def test_test_split_without_label(path):
    data = arrays()
    del data["clk"]
    save(path, data)
    found = FieldsLoader(feature_map(), path, split="test", batch_size=ROWS)
    assert not found.has_label
    assert list(next(iter(found))) == ["user", "item", "price", "emb", "clicks"]
    with pytest.raises(DataError, match="'clk'"):
        FieldsLoader(feature_map(), path, split="valid")


@pytest.mark.parametrize(
    ("name", "row", "value", "words"),
    [
        ("item", 7, 20, ["row 7", "found 20", "below 20", "vocab_size of feature 'item'"]),
        ("clicks", (8, 3), 31, ["row 8", "found 31", "vocab_size of feature 'clicks'"]),
        ("item", 9, -1, ["row 9", "found -1"]),
        ("price", 4, np.nan, ["row 4", "nan"]),
        ("clk", 6, 3, ["row 6", "0 or 1"]),
    ],
)
def test_bad_values(path, name, row, value, words):
    data = arrays()
    data[name][row] = value
    save(path, data)
    with pytest.raises(DataError) as error:
        FieldsLoader(feature_map(), path)
    for word in (str(path), f"'{name}'", *words):
        assert word in str(error.value), str(error.value)


def test_missing_arrays_are_named(path):
    data = arrays()
    data["clicked"] = data.pop("clicks")
    save(path, data)
    with pytest.raises(DataError, match=r"'clicks', found only: user, item, .*Did you mean 'clicked'"):
        FieldsLoader(feature_map(), path)


def test_sequences_longer_than_the_feature_map_says(path):
    data = arrays() | {"clicks": np.ones((ROWS, 6), int)}
    save(path, data)
    with pytest.raises(DataError, match=r"'clicks': expected lists of at most 5 ids.* found one of 6"):
        FieldsLoader(feature_map(), path)


def test_vectors_of_another_length(path):
    save(path, arrays() | {"emb": np.ones((ROWS, 3))})
    with pytest.raises(DataError, match=r"'emb': expected vectors of 2 numbers.* found 3"):
        FieldsLoader(feature_map(), path)


def test_equals_fuxictrs_own_loader(tiny_seq, tmp_path):
    from fuxictr.pytorch.dataloaders import RankDataLoader

    fm = load_feature_map(tiny_seq / "feature_map.json", {"dataset_id": "tiny_seq"})
    files = {f"{split}_data": str(tiny_seq / f"{split}.npz") for split in ("train", "valid", "test")}
    params = {**files, "batch_size": 32, "shuffle": False, "num_workers": 0}
    theirs = RankDataLoader(fm, stage="both", **params)
    ours = RankDataLoader(fm, stage="both", data_loader=FieldsLoader, **params, seed=1, cache_dir=tmp_path)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.num_samples, len(a)) == (b.num_samples, len(b))
        for x, y in zip(a, b, strict=True):
            assert set(x) == set(y)
            for name in y:
                torch.testing.assert_close(x[name].double(), y[name].double(), rtol=0, atol=0)


def test_several_row_groups_and_integer_widths(tmp_path):
    data = arrays()
    table = pa.table({n: a.tolist() if a.ndim == 2 else a for n, a in data.items()})
    table = table.set_column(1, "item", pa.array(data["item"], pa.uint8()))
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    batch = next(iter(FieldsLoader(feature_map(), tmp_path / "train.parquet", batch_size=ROWS)))
    assert batch["item"].tolist() == data["item"].tolist()
