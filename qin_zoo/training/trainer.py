"""The training loop, with FuxiCTR's semantics, for every FuxiCTR ``BaseModel``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from qin_zoo.errors import QinZooError


@dataclass(frozen=True)
class Evaluation:
    """One evaluation during training.

    Attributes:
        epoch: counted from 1.
        step: optimiser batches since the start of training.
        train_loss: mean over the batches since the previous evaluation, regularisation included.
        metrics: of the validation split.
        learning_rate: in force during those batches.
        seconds: since the start of training.
        best: whether the monitor improved, and the checkpoint was saved.
    """

    epoch: int
    step: int
    train_loss: float
    metrics: dict[str, float]
    learning_rate: float
    seconds: float
    best: bool

    def as_dict(self) -> dict:
        return asdict(self)


class Trainer:
    """What ``BaseModel.fit`` does, with a record of every evaluation and no synchronisation at every step.

    It only calls what every FuxiCTR model has (``train_step``, ``evaluate``, ``checkpoint_and_earlystop``, …),
    so models that do not know this project train the same way. Batches, evaluations, learning rates and
    early stopping are those of ``fit``; the weights come out the same.

    Args:
        model: a FuxiCTR ``BaseModel``.
        epochs: passes over the training data at most.
        max_gradient_norm: gradients are clipped to this norm.
        on_evaluation: called with each :class:`Evaluation`.
    """

    def __init__(
        self,
        model,
        epochs: int = 1,
        max_gradient_norm: float = 10.0,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ):
        self.model = model
        self.epochs = epochs
        self.max_gradient_norm = max_gradient_norm
        self.on_evaluation = on_evaluation
        self.evaluations: list[Evaluation] = []

    def fit(self, train, valid) -> list[Evaluation]:
        """Trains, leaves the best weights in the model, and returns every evaluation.

        Args:
            train: loader of the training split; ``len`` is its number of batches.
            valid: loader of the validation split.

        Raises:
            QinZooError: the loss is NaN or infinite.
        """
        model = self.model
        # The state that BaseModel.fit prepares for train_step and checkpoint_and_earlystop.
        model.valid_gen = valid
        model._max_gradient_norm = self.max_gradient_norm
        model._best_metric = np.inf if model._monitor_mode == "min" else -np.inf
        model._stopping_steps = 0
        model._stop_training = False
        model._steps_per_epoch = len(train)
        model._total_steps = model._batch_index = model._epoch_index = 0
        if model._eval_steps is None:
            model._eval_steps = model._steps_per_epoch
        if model._eval_steps > self.epochs * model._steps_per_epoch:
            raise QinZooError(
                f"eval_steps is {model._eval_steps}, but the whole training has only "
                f"{self.epochs * model._steps_per_epoch} batches ({self.epochs} epochs of {model._steps_per_epoch}): "
                "nothing would ever be evaluated or saved. Lower eval_steps, or leave it out for one per epoch."
            )
        logging.info(f"Training: {model._steps_per_epoch} batches/epoch, at most {self.epochs} epochs")
        self._start = time.perf_counter()
        for epoch in range(self.epochs):
            model._epoch_index = epoch
            self._train_epoch(train, valid)
            if model._stop_training:
                break
        model.load_weights(model.checkpoint)
        return self.evaluations

    def _train_epoch(self, train, valid) -> None:
        model = self.model
        model.train()
        loss_sum = 0.0
        bar = tqdm(train, desc=f"epoch {model._epoch_index + 1}/{self.epochs}", leave=False, disable=None)
        for model._batch_index, batch in enumerate(bar):
            model._total_steps += 1
            loss_sum = loss_sum + model.train_step(batch).detach()  # stays on the device until an evaluation
            if model._total_steps % model._eval_steps == 0:
                bar.set_description(f"epoch {model._epoch_index + 1}/{self.epochs}, evaluating")
                self._evaluate(float(loss_sum) / model._eval_steps, valid)
                loss_sum = 0.0
                model.train()
            if model._stop_training:
                break

    def _evaluate(self, train_loss: float, valid) -> None:
        model = self.model
        if not math.isfinite(train_loss):
            raise QinZooError(
                f"The training loss is {train_loss} at epoch {model._epoch_index + 1}, batch {model._batch_index + 1}. "
                "Lower learning_rate (for QIN also num_row: 4 is known to be unstable, 3 is advised). The best "
                f"checkpoint so far, if any, is {model.checkpoint}."
            )
        learning_rate = model.optimizer.param_groups[0]["lr"]
        metrics = model.evaluate(valid)
        if not math.isfinite(model._monitor.get_value(metrics)):
            raise QinZooError(
                f"The monitored metric {model._monitor.kv_pairs} is not a number on the validation split ({metrics}): "
                "it needs rows with and without a click. Use another valid_data, or another monitor."
            )
        model.checkpoint_and_earlystop(metrics)
        evaluation = Evaluation(
            epoch=model._epoch_index + 1,
            step=model._total_steps,
            train_loss=train_loss,
            metrics={k: float(v) for k, v in metrics.items()},
            learning_rate=learning_rate,
            seconds=time.perf_counter() - self._start,
            best=model._stopping_steps == 0,
        )
        self.evaluations.append(evaluation)
        if self.on_evaluation:
            self.on_evaluation(evaluation)
