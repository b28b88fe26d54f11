"""A small training on the sample, for tests of what trainings do."""

import torch

from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment

SETTINGS = {
    "epochs": 3, "batch_size": 128, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8,
    "net_dropout": 0.2, "eval_steps": 9, "checkpoint_steps": 2, "accumulation_steps": 3, "early_stop_patience": 3,
}  # fmt: skip


def train(sample, folder, resume=False, echo=lambda text: None, overwrite=False, **changes):
    torch.set_num_threads(1)
    overrides = {**SETTINGS, "model_root": str(folder), **changes}
    prepared = prepare("QIN_sample", data=sample, overrides=overrides)
    return run_experiment(prepared, folder, echo=echo, resume=resume, overwrite=overwrite)
