"""Each kind of bad input: one clear message, a status other than 0, and nothing written or overwritten."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import REPOSITORY

from qin_zoo.cli import main

SMALL = ["--set", "epochs=1", "--set", "embedding_dim=4", "--set", "batch_size=256"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(sample, tmp_path):
    """A copy of the sample that may be damaged."""
    shutil.copytree(sample, tmp_path / "data", ignore=shutil.ignore_patterns(".qin_zoo_cache"))
    return tmp_path / "data"


def fails(capsys, *args) -> str:
    """Runs a command that must fail; its one message."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    assert done.value.code not in (0, None)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.startswith("Error: ")
    assert sum(line.startswith("Error: ") for line in err.splitlines()) == 1
    return err


def edit(file: Path, **columns):
    """Rewrites a parquet file with columns replaced."""
    frame = pl.read_parquet(file)
    frame.with_columns(**columns).write_parquet(file)


def one_row(file: Path, name: str, row: int, value):
    frame = pl.read_parquet(file)
    values = frame[name].to_list()
    values[row] = value
    dtype = frame[name].dtype
    if isinstance(value, float):
        dtype = pl.Float64
    frame.with_columns(pl.Series(name, values, dtype=dtype)).write_parquet(file)


def shorten(file: Path):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


DATA_FAULTS = {
    "missing file": (lambda d: (d / "valid.parquet").unlink(), ["valid.parquet"]),
    "empty file": (lambda d: (d / "train.parquet").write_bytes(b""), ["train.parquet", "empty"]),
    "not parquet": (lambda d: (d / "train.parquet").write_text("user_id,item_id\n1,2\n"), ["train.parquet", "parquet"]),
    "truncated": (lambda d: shorten(d / "train.parquet"), ["train.parquet", "parquet"]),
    "missing column": (
        lambda d: pl.read_parquet(d / "train.parquet").rename({"item_seq": "item_sequence"}).write_parquet(
            d / "train.parquet"
        ),
        ["train.parquet", "item_seq", "Did you mean 'item_sequence'"],
    ),
    "wrong dtype": (
        lambda d: edit(d / "train.parquet", item_id=pl.col("item_id").cast(pl.String)),
        ["train.parquet", "item_id", "tring"],
    ),
    "id beyond the item table": (lambda d: one_row(d / "valid.parquet", "item_id", 7, 5000), ["item_id", "7", "5000"]),
    "negative id": (lambda d: one_row(d / "train.parquet", "item_id", 5, -3), ["item_id", "5", "-3"]),
    "history beyond the item table": (
        lambda d: one_row(d / "train.parquet", "item_seq", 3, [0] * 99 + [777]),
        ["item_seq", "777"],
    ),
    "negative history": (
        lambda d: one_row(d / "train.parquet", "item_seq", 3, [0] * 99 + [-1]),
        ["item_seq", "row 3", "-1"],
    ),
    "null history": (lambda d: one_row(d / "train.parquet", "item_seq", 4, None), ["item_seq", "4", "null"]),
    "items out of order": (
        lambda d: pl.read_parquet(d / "item_info.parquet").sample(fraction=1, shuffle=True, seed=1).write_parquet(
            d / "item_info.parquet"
        ),
        ["item_info.parquet", "item_id", "row"],
    ),
    "no padding row": (
        lambda d: pl.read_parquet(d / "item_info.parquet")[1:].write_parquet(d / "item_info.parquet"),
        ["item_info.parquet", "row 0", "padding"],
    ),
    "NaN embedding": (
        lambda d: one_row(d / "item_info.parquet", "item_emb_d128", 9, [float("nan")] * 128),
        ["item_info.parquet", "item_emb_d128", "9", "nan"],
    ),
    "infinite embedding": (
        lambda d: one_row(d / "item_info.parquet", "item_emb_d128", 9, [float("inf")] * 128),
        ["item_emb_d128", "9", "inf"],
    ),
    "ragged embedding": (
        lambda d: one_row(d / "item_info.parquet", "item_emb_d128", 9, [1.0] * 100),
        ["item_emb_d128", "9"],
    ),
    "label 2": (lambda d: one_row(d / "train.parquet", "label", 11, 2), ["label", "11", "2"]),
    "label NaN": (lambda d: one_row(d / "train.parquet", "label", 11, float("nan")), ["label", "11"]),
    "no label": (
        lambda d: pl.read_parquet(d / "train.parquet").drop("label").write_parquet(d / "train.parquet"),
        ["train.parquet", "label"],
    ),
    "empty split": (
        lambda d: pl.read_parquet(d / "valid.parquet").clear().write_parquet(d / "valid.parquet"),
        ["valid.parquet", "row"],
    ),
    "level beyond its vocabulary": (
        lambda d: one_row(d / "test.parquet", "likes_level", 2, 11),
        ["likes_level", "test.parquet", "vocab_size", "11"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_data(fault, data, tmp_path, capsys):
    plant, words = DATA_FAULTS[fault]
    plant(data)
    message = fails(capsys, "run", "QIN_sample", "--data", data, *SMALL)
    missing = [w for w in words if w not in message]
    assert not missing, message
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "QIN.csv").exists()


def test_bad_data_leaves_an_earlier_run_alone(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(["run", "QIN_sample", "--data", str(data), *SMALL])
    assert not done.value.code
    folder = tmp_path / "checkpoints" / "sample"
    before = {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    one_row(data / "train.parquet", "label", 0, 5)
    fails(capsys, "run", "QIN_sample", "--data", data, *SMALL)
    assert {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("size", [1, 2999])
def test_batch_norm_of_one_row(size, sample, capsys):
    message = fails(capsys, "run", "QIN_sample", "--data", sample, "--set", f"batch_size={size}")
    assert all(word in message for word in ["batch of one row", "3,000", "Set batch_size to", "batch_norm"])


def test_batch_norm_of_one_row_in_all(data, capsys):
    """No batch_size mends that."""
    pl.read_parquet(data / "train.parquet").head(1).write_parquet(data / "train.parquet")
    assert "Set batch_norm to False" in fails(capsys, "run", "QIN_sample", "--data", data, "--set", "batch_size=32")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["QIN_smaple"], ["QIN_smaple", "Did you mean 'QIN_sample'"]),
        (["QIN_sample", "--config", "nowhere"], ["nowhere"]),
        (["QIN_sample", "--set", "num_layer=2"], ["num_layer", "Did you mean 'num_layers'"]),
        (["QIN_sample", "--set", "num_layers=many"], ["num_layers", "many"]),
        (["QIN_sample", "--set", "batch_size=0"], ["batch_size", "0"]),
        (["QIN_sample", "--set", "model=DIN_CD"], ["DIN_CD", "Did you mean 'DIN_DCN'"]),
        (["QIN_sample", "--set", "dataset_id=../../x"], ["dataset_id", "../../x"]),
        (["QIN_sample", "--set", "optimizer=adamm"], ["adamm"]),
        (["QIN_sample", "--set", "metrics=[AUCC]"], ["AUCC", "AUC"]),
        (["QIN_sample", "--set", "embedding_initializer=__import__('os').system('touch planted')"], ["embedding_init"]),
        (["QIN_sample", "--gpu", "7"], ["GPU 7"]),
        (["QIN_sample", "--data", "nowhere"], ["nowhere"]),
        (["QIN_sample", "--plugin", "nowhere.py"], ["nowhere.py"]),
    ],
)
def test_configuration(args, words, data, tmp_path, capsys):
    if "--data" not in args:
        args = [*args, "--data", data]
    message = fails(capsys, "run", *args)
    assert all(w in message for w in words), message
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "planted").exists()


def write_config(folder: Path, model: str, dataset: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model_config.yaml").write_text(model)
    if dataset:
        (folder / "dataset_config.yaml").write_text(dataset)
    else:
        (folder / "dataset_config").symlink_to(REPOSITORY / "dataset_configs")
    return folder


def test_unknown_dataset(tmp_path, capsys):
    config = write_config(tmp_path / "c", "A: {model: QIN, dataset_id: MicroLens_1M_x2}")
    message = fails(capsys, "run", "A", "--config", config)
    assert "Did you mean 'MicroLens_1M_x1'" in message


def test_vocabulary_that_disagrees_with_the_data(data, tmp_path, capsys):
    dataset = (REPOSITORY / "dataset_configs" / "sample.yaml").read_text()
    dataset = dataset.replace("source: item}", "source: item, vocab_size: 50}", 1)
    config = write_config(tmp_path / "c", "A: {model: QIN, dataset_id: sample}", dataset)
    message = fails(capsys, "run", "A", "--config", config, "--data", data)
    assert all(w in message for w in ("item_id", "vocab_size", "50", "item_info.parquet"))


def test_embedding_without_pretrain_dim_is_filled_from_the_data(data, tmp_path, capsys):
    """Accepted: the challenge repositories' configurations have only embedding_dim."""
    dataset = (REPOSITORY / "dataset_configs" / "sample.yaml").read_text()
    assert "pretrain_dim" not in dataset
    with pytest.raises(SystemExit) as done:
        main(["run", "QIN_sample", "--data", str(data), *SMALL])
    assert not done.value.code
    state = torch.load("checkpoints/sample/QIN_sample.model", weights_only=True)
    assert state["embedding_layer.embedding_layer.feature_encoders.item_emb_d128.weight"].shape == (32, 128)


class TestHistories:
    """What is accepted: lists of any length, zeros anywhere; the newest max_len items are used."""

    @pytest.mark.parametrize("change", ["ragged", "over-long", "zeros at the end"])
    def test_accepted(self, change, data, capsys):
        frame = pl.read_parquet(data / "train.parquet")
        lists = {
            "ragged": [[i for i in row if i] for row in frame["item_seq"].to_list()],
            "over-long": [[*row, *row] for row in frame["item_seq"].to_list()],
            "zeros at the end": [[i for i in row if i] + [0] * row.count(0) for row in frame["item_seq"].to_list()],
        }[change]
        frame.with_columns(pl.Series("item_seq", lists, dtype=pl.List(pl.Int64))).write_parquet(data / "train.parquet")
        with pytest.raises(SystemExit) as done:
            main(["run", "QIN_sample", "--data", str(data), *SMALL])
        assert not done.value.code, capsys.readouterr().err


class TestCheckpoints:
    @pytest.fixture
    def trained(self, sample):
        with pytest.raises(SystemExit) as done:
            main(["run", "QIN_sample", "--data", str(sample), *SMALL])
        assert not done.value.code
        return sample

    def test_of_another_configuration(self, trained, capsys):
        message = fails(capsys, "predict", "QIN_sample", "--data", trained, "--set", "embedding_dim=8")
        assert "another model or configuration" in message

    def test_of_another_model(self, trained, capsys):
        checkpoint = "checkpoints/sample/QIN_sample.model"
        message = fails(capsys, "predict", "DIN_sample", "--data", trained, "--checkpoint", checkpoint)
        assert "another model or configuration" in message

    def test_missing_or_damaged(self, trained, capsys):
        assert "No checkpoint" in fails(capsys, "predict", "DIN_sample", "--data", trained)
        shorten(Path("checkpoints/sample/QIN_sample.model"))
        assert "damaged or replaced after the run" in fails(capsys, "predict", "QIN_sample", "--data", trained, *SMALL)
        Path("checkpoints/sample/QIN_sample.json").unlink()  # which has their hash
        assert "cannot be read" in fails(capsys, "predict", "QIN_sample", "--data", trained, *SMALL)


def test_nowhere_to_write(sample, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    message = fails(capsys, "run", "QIN_sample", "--data", sample, "--set", "model_root=taken", *SMALL)
    assert "taken" in message


def test_disk_full_while_saving(sample, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = fails(capsys, "run", "QIN_sample", "--data", sample, *SMALL)
    assert "No space left on device" in message


def test_interrupt(sample, capsys, monkeypatch):
    from qin_zoo.training.trainer import Trainer

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupt)
    with pytest.raises(SystemExit) as done:
        main(["run", "QIN_sample", "--data", str(sample), *SMALL])
    assert done.value.code == 130
    assert "Interrupted" in capsys.readouterr().err


def test_fields_beyond_their_vocabulary(tiny_seq, tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_seq, folder, ignore=shutil.ignore_patterns(".qin_zoo_cache"))
    arrays = dict(np.load(folder / "valid.npz"))
    arrays["brand"][3] = 67
    np.savez(folder / "valid.npz", **arrays)
    message = fails(capsys, "run", "QIN_tiny_seq", "--data", folder)
    assert all(w in message for w in ("valid.npz", "brand", "row 3", "67"))
