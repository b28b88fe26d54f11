"""A small base experiment with a model that can be slow, fail and die, and workers that need no process."""

import textwrap
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest
import yaml

MODEL = """
    import os, signal, time

    from torch import nn

    from qin_zoo import ZooModel, register_model


    @register_model()
    class Toy(ZooModel):
        '''Linear.'''

        def __init__(self, feature_map, model_id="Toy", pause: float = 0.0, fault: str = "no", units=None, **kwargs):
            super().__init__(feature_map, model_id=model_id, **kwargs)
            self.pause, self.fault = pause, fault
            self.out = nn.Linear(self.context_dim + self.item_dim, 1)

        def logits(self, x):
            import torch

            time.sleep(self.pause)
            if self.fault == "raise":
                raise ValueError("the toy is broken")
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            return self.out(torch.cat([x.context, x.target], dim=-1))
"""
BASE = {
    "model": "Toy", "dataset_id": "small", "pause": 0.0, "fault": "no", "units": None, "learning_rate": 1e-2,
    "embedding_dim": 4, "batch_size": 256, "epochs": 2, "max_len": 8, "optimizer": "adam", "seed": 1,
    "metrics": ["AUC", "logloss"], "monitor": "AUC", "monitor_mode": "max", "debug_mode": False,
    "embedding_regularizer": 0, "model_root": "./checkpoints/",
}  # fmt: skip


def write_project(folder: Path, sample: Path) -> Path:
    """``config/`` with the experiment ``base`` on the sample, and the model in ``toy.py``; returns the folder."""
    config = folder / "config"
    config.mkdir()
    (config / "model_config.yaml").write_text(yaml.safe_dump({"base": BASE}, sort_keys=False))
    columns = [
        {"name": "item_seq", "dtype": "int", "type": "meta"},
        {"name": ["likes_level", "views_level"], "dtype": "int", "type": "categorical", "vocab_size": 11},
        {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item"},
    ]
    dataset = {
        "data_root": "./", "data_format": "parquet", "rebuild_dataset": False, "feature_cols": columns,
        "item_info": str(sample / "item_info.parquet"), "label_col": {"name": "label", "dtype": "float"},
        **{f"{split}_data": str(sample / f"{split}.parquet") for split in ("train", "valid")},
    }  # fmt: skip
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"small": dataset}, sort_keys=False))
    (folder / "toy.py").write_text(textwrap.dedent(MODEL))
    return folder


def write_tuner_file(space: dict, **keys) -> Path:
    """Writes ``search.yaml``, a tuner file over ``base``, into the current folder; further keys of it by name."""
    file = Path("search.yaml")
    content = {"base_config": "config", "base_expid": "base", **keys, "tuner_space": space}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


class ThreadWorker:
    """Does what a worker does, in a thread of this process."""

    device = "CPU"

    def __init__(self, gpu, threads, train, lock):
        self.gpu, self.train = gpu, train
        self.connection = None

    def send(self, job):
        self.connection, theirs = Pipe()
        threading.Thread(target=lambda: theirs.send(self.train(job, self.gpu, theirs)), daemon=True).start()

    def receive(self):
        return self.connection.recv()

    def stop(self, kill=False):
        return None


@pytest.fixture(autouse=True, name="project")
def project_fixture(tmp_path, monkeypatch, sample):
    """The experiment in the folder in which a test runs."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path, sample)


@pytest.fixture(name="tuner_file")
def tuner_file_fixture(project):
    return write_tuner_file
