"""The training loop, with FuxiCTR's semantics, for every FuxiCTR ``BaseModel``."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from qin_zoo.distributed import ALONE
from qin_zoo.errors import CheckpointError, ConfigError, QinZooError
from qin_zoo.progress import Progress
from qin_zoo.training.average import WeightAverage
from qin_zoo.training.checkpoint import Checkpoint, CheckpointStore
from qin_zoo.training.memory import tidy_memory
from qin_zoo.training.stability import NotFinite, Watch, trace
from qin_zoo.training.state import capture, restore
from qin_zoo.training.stop import Stopped, StopRequest

_SECONDS_BETWEEN = 600.0  # checkpoints, where checkpoint_steps does not say
_STEPS_TOGETHER = 50  # reported at once: a GPU is waited for only then
_STEPS_BETWEEN_TALKS = 10
_RETRIES = 5  # from one checkpoint
_RETRY_FACTOR = 0.5  # of the learning rate


@dataclass(frozen=True)
class Evaluation:
    """One evaluation during training.

    Attributes:
        epoch: counted from 1.
        step: optimiser batches since the start of training.
        train_loss: mean over the batches since the previous evaluation, regularisation included.
        metrics: of the validation split.
        learning_rate: in force during those batches.
        seconds: since the start of training, without the time between a stop and its resumption.
        best: whether the weights were saved: the monitor improved, or ``save_best_only`` is off. Those of the last
            such evaluation are kept.
        gradient_norm: mean norm of the gradients of those batches, before clipping; None where the model does not
            tell it.
        largest_gradient_norm: the largest of them.
    """

    epoch: int
    step: int
    train_loss: float
    metrics: dict[str, float]
    learning_rate: float
    seconds: float
    best: bool
    gradient_norm: float | None = None
    largest_gradient_norm: float | None = None

    def as_dict(self) -> dict:
        """JSON values, as records hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Steps:
    """Some steps in a row.

    Attributes:
        numbers: of the steps, from 1.
        losses: of their batches, regularisation included.
        gradient_norms: before clipping; None where the step made no update.
        learning_rate: of the last one.
    """

    numbers: list[int]
    losses: list[float]
    gradient_norms: list[float | None]
    learning_rate: float


@dataclass
class _Sums:
    """What is added up between evaluations, on the model's device."""

    loss: Tensor
    norm: Tensor
    largest: Tensor
    updates: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> _Sums:
        return cls(*(torch.zeros((), device=device) for _ in range(3)))

    def add(self, loss: Tensor, norm: Tensor | None) -> None:
        self.loss = self.loss + loss
        if norm is not None:
            self.norm, self.largest = self.norm + norm, torch.maximum(self.largest, norm)
            self.updates += 1


class Trainer:
    """What ``BaseModel.fit`` does, and what keeps a long training alive.

    It only calls what every FuxiCTR model has (``train_step``, ``evaluate``, ``checkpoint_and_earlystop``, …),
    so models that do not know this project train the same way. Batches, evaluations, learning rates and
    early stopping are those of ``fit``; the weights come out the same, also when the training was stopped and
    resumed in between.

    Args:
        model: a FuxiCTR ``BaseModel``.
        epochs: passes over the training data at most.
        max_gradient_norm: gradients are clipped to this norm.
        on_evaluation: called with each :class:`Evaluation`.
        on_steps: called with :class:`Steps`, fifty at a time.
        checkpoints: where checkpoints go: at every evaluation, and between evaluations. Default: none are made.
        checkpoint_steps: steps between checkpoints; None for one every ten minutes.
        identity: what a checkpoint must agree in with this training, JSON values; see :func:`resume`.
        on_nan: what happens when a loss or gradient is NaN or infinite: ``stop``, or ``rollback`` to the last
            checkpoint with half its learning rate, five times at most from one checkpoint.
        ema_decay: weights are averaged over the steps, and the average is evaluated and kept
            (:class:`~qin_zoo.training.average.WeightAverage`). Default: no average.
        stop: a wish to stop, met at the next step with a checkpoint.
        say: receives what a person should know.
    """

    def __init__(
        self,
        model,
        epochs: int = 1,
        max_gradient_norm: float = 10.0,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        on_steps: Callable[[Steps], None] | None = None,
        checkpoints: CheckpointStore | None = None,
        checkpoint_steps: int | None = None,
        identity: dict[str, Any] | None = None,
        on_nan: Literal["stop", "rollback"] = "stop",
        ema_decay: float | None = None,
        stop: StopRequest | None = None,
        say: Callable[[str], None] = logging.info,
    ):
        self.model = model
        self.epochs = epochs
        self.max_gradient_norm = max_gradient_norm
        self.on_evaluation = on_evaluation
        self.on_steps = on_steps
        self.checkpoints = checkpoints
        self.checkpoint_steps = checkpoint_steps
        self.identity = identity or {}
        self.on_nan = on_nan
        self.ema_decay = ema_decay
        self.stop = stop or StopRequest()
        self.say = say
        self.group = getattr(model, "group", ALONE)
        self.evaluations: list[Evaluation] = []
        self.rollbacks: list[dict] = []
        self._epoch = self._next_batch = 0
        self._drawn: int | None = None  # what the order of the epoch follows from
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []

    def fit(self, train, valid, resume: bool = False) -> list[Evaluation]:
        """Trains, leaves the best weights in the model, and returns every evaluation.

        Args:
            train: loader of the training split; ``len`` is its number of batches.
            valid: loader of the validation split.
            resume: go on from the newest checkpoint, where there is one.

        Raises:
            NotFinite: the loss or the gradient of a step is NaN or infinite.
            Stopped: it was asked to stop, and has saved a checkpoint.
            CheckpointError: the checkpoint is of another configuration or other data.
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
        _require_rows_for_batch_norm(model, train)
        logging.info(f"Training: {model._steps_per_epoch} batches/epoch, at most {self.epochs} epochs")
        self._start = self._saved_at = time.perf_counter()
        self._sums = _Sums.zero(model.device)
        self._watch = Watch(model.device)
        self._average = WeightAverage(model, self.ema_decay) if self.ema_decay else None
        if resume:
            self._resume()
        elif self.on_nan == "rollback":
            self._save()  # something to return to
        while self._epoch < self.epochs and not model._stop_training:
            try:
                self._train_epoch(train, valid)
            except NotFinite as error:
                self._roll_back(error)
                continue
            self._epoch, self._next_batch = self._epoch + 1, 0
        self.group.wait()  # for the one that writes
        model.load_weights(model.checkpoint)
        return self.evaluations

    # ---- one epoch

    def _train_epoch(self, train, valid) -> None:
        model = self.model
        model._epoch_index = self._epoch
        model.train()
        label = f"epoch {self._epoch + 1}/{self.epochs}"
        total, first = model._steps_per_epoch, self._next_batch
        batches = _batches(train, self._epoch, first, self._drawn)
        shown = bool(getattr(model, "_verbose", 1)) and self.group.leads
        bar = Progress(batches, label, total, name=getattr(model, "model_id", ""), shown=shown, initial=first)
        for model._batch_index, batch in enumerate(bar, first):
            model._total_steps += 1
            self._drawn = getattr(train, "drawn", None)
            loss = model.train_step(batch).detach()
            self._count(loss, getattr(model, "gradient_norm", None), train, batch)
            if self._average and getattr(model, "gradient_norm", loss) is not None:
                self._average.update()
            self._next_batch = model._batch_index + 1
            tidy_memory(model._total_steps)
            due = self._checkpoint_is_due()
            if model._total_steps % model._eval_steps == 0:
                self._settle(train)
                bar.set_description(f"{label}, evaluating")
                self._evaluate(valid)
                bar.set_description(label)
                model.train()
                due = True
            stopping = self._is_asked_to_stop()
            if due or stopping:
                self._settle(train)
                self._save()
            if stopping:
                raise Stopped(self.stop.number or signal.SIGTERM, model._total_steps)
            if model._stop_training:
                break
        self._settle(train)

    def _count(self, loss: Tensor, norm: Tensor | None, train, batch) -> None:
        """Takes note of a step, whose values stay on the device until somebody needs them."""
        step = (self.model._total_steps, self.model._batch_index, batch)
        self._raise_if_bad(self._watch.look(loss, norm, step), train)
        self._sums.add(loss, norm)
        self._steps.append((self.model._total_steps, loss, norm))
        if len(self._steps) == _STEPS_TOGETHER:
            self._report_steps()

    def _settle(self, train) -> None:
        """Makes sure that the weights are good, and every step is reported."""
        self._raise_if_bad(self._watch.rest(), train)
        self._report_steps()

    def _report_steps(self) -> None:
        steps, self._steps = self._steps, []
        if not steps or self.on_steps is None:
            return
        numbers, losses, norms = zip(*steps)
        known = iter(torch.stack([n for n in norms if n is not None] or [losses[0]]).tolist())  # one copy from a GPU
        norms = [None if norm is None else next(known) for norm in norms]
        rate = self.model.optimizer.param_groups[0]["lr"]
        self.on_steps(Steps(list(numbers), torch.stack(losses).tolist(), norms, rate))

    def _evaluate(self, valid) -> None:
        model = self.model
        learning_rate = model.optimizer.param_groups[0]["lr"]
        wanted = dict.fromkeys([*model.validation_metrics, *model._monitor.get_metrics()])
        with self._average.in_place() if self._average else nullcontext():
            metrics = {name: float(value) for name, value in model.evaluate(valid, metrics=list(wanted)).items()}
            if not math.isfinite(model._monitor.get_value(metrics)):
                raise QinZooError(
                    f"The monitored metric {model._monitor.kv_pairs} is not a number on the validation split "
                    f"({metrics}): it needs rows with and without a click. Use another valid_data, or another monitor."
                )
            model.checkpoint_and_earlystop(metrics)
        sums, self._sums = self._sums, _Sums.zero(model.device)
        evaluation = Evaluation(
            epoch=model._epoch_index + 1,
            step=model._total_steps,
            train_loss=float(sums.loss) / model._eval_steps,
            metrics=metrics,
            learning_rate=learning_rate,
            seconds=time.perf_counter() - self._start,
            best=model._stopping_steps == 0 or not model._save_best_only,
            gradient_norm=float(sums.norm) / sums.updates if sums.updates else None,
            largest_gradient_norm=float(sums.largest) if sums.updates else None,
        )
        self.evaluations.append(evaluation)
        if self.on_evaluation:
            self.on_evaluation(evaluation)

    # ---- checkpoints

    def _checkpoint_is_due(self) -> bool:
        if self.checkpoint_steps is not None:
            return self.model._total_steps % self.checkpoint_steps == 0
        return self._agreed(time.perf_counter() - self._saved_at > _SECONDS_BETWEEN)

    def _is_asked_to_stop(self) -> bool:
        return self._agreed(bool(self.stop.number))

    def _agreed(self, wish: bool) -> bool:
        """Whether this or another process wishes it; several processes ask each other from time to time only."""
        if self.group.active and self.model._total_steps % _STEPS_BETWEEN_TALKS:
            return False
        return self.group.any(wish)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        facts, tensors = capture(self.model, self.group)
        sums = self._sums
        facts |= {
            "epoch": self._epoch,
            "next_batch": self._next_batch,
            "drawn": self._drawn,
            "updates": sums.updates,
            "seconds": time.perf_counter() - self._start,
            "evaluations": [e.as_dict() for e in self.evaluations],
            "rollbacks": self.rollbacks,
            "identity": self.identity,
        }
        if self._average:
            tensors["average"] = self._average.state()
        tensors["sums"] = {"loss": sums.loss, "norm": sums.norm, "largest": sums.largest}
        if self.group.leads:
            self.checkpoints.save(Checkpoint(self.model._total_steps, facts, tensors))
        self._saved_at = time.perf_counter()

    def _resume(self) -> None:
        checkpoint = self.checkpoints.latest() if self.checkpoints else None
        if checkpoint is None:
            self.say("There is no checkpoint to resume from: training begins anew.")
            return
        _require_same(checkpoint.facts["identity"], self.identity)
        self._go_back_to(checkpoint)
        self.rollbacks = checkpoint.facts["rollbacks"]
        self.say(f"Resumed after step {checkpoint.step}, epoch {self._epoch + 1}.")

    def _go_back_to(self, checkpoint: Checkpoint) -> None:
        facts, tensors = checkpoint.facts, checkpoint.tensors
        restore(self.model, self.group, facts, tensors)
        if self._average:
            self._average.load(tensors["average"])
        self._epoch, self._next_batch, self._drawn = facts["epoch"], facts["next_batch"], facts.get("drawn")
        self.evaluations[:] = [Evaluation(**e) for e in facts["evaluations"]]
        sums = {name: value.to(self.model.device) for name, value in tensors["sums"].items()}
        self._sums = _Sums(**sums, updates=facts["updates"])
        self._start = time.perf_counter() - facts["seconds"]
        self._steps.clear()

    # ---- what is not a number

    def _raise_if_bad(self, bad: tuple[int, int, Any] | None, train) -> None:
        if bad is None:
            return
        step, index, batch = bad
        rows = train.batch_rows(self._epoch, index) if hasattr(train, "batch_rows") else None
        kept = f"The best weights so far, if any, are {self.model.checkpoint}."
        with self.group.paused():  # the other processes may find something else, or nothing
            cause = trace(self.model, batch, rows)
        raise NotFinite(
            f"The training loss or its gradient is not a number at epoch {self._epoch + 1}, batch {index + 1} "
            f"(step {step}). {cause} Lower learning_rate (for QIN also num_row: 4 is known to "
            f"be unstable, 3 is advised), or set on_nan=rollback. {kept}"
        )

    def _roll_back(self, error: NotFinite) -> None:
        """Returns to the last checkpoint with a smaller learning rate, or raises the error again."""
        self.group.wait()  # for the one that writes
        checkpoint = self.checkpoints.latest() if self.on_nan == "rollback" and self.checkpoints else None
        if checkpoint is None:
            raise error
        tried = sum(r["to_step"] == checkpoint.step for r in self.rollbacks)
        if tried == _RETRIES:
            raise NotFinite(
                f"{error} Going back to step {checkpoint.step} with half the learning rate did not help {tried} times."
            ) from error
        failed_at = self.model._total_steps
        self._go_back_to(checkpoint)
        self._watch = Watch(self.model.device)
        for group in self.model.optimizer.param_groups:
            group["lr"] *= _RETRY_FACTOR ** (tried + 1)
        rate = self.model.optimizer.param_groups[0]["lr"]
        self.rollbacks.append(
            {"from_step": failed_at, "to_step": checkpoint.step, "learning_rate": rate, "reason": str(error)}
        )
        self.say(f"{error}\nRolled back to step {checkpoint.step}; the learning rate is {rate:.2e} from here on.")


def size_for_batch_norm(model, rows: int, size: int) -> int:
    """The batch size, or the next one that leaves no batch of one row, of which batch norm cannot take statistics.

    Args:
        model: has batch norm, or any size will do.
        rows: of the training; of one row alone no size will do, and the next one is returned.
        size: rows of a batch.
    """
    if not any(isinstance(m, _BatchNorm) for m in model.modules()):
        return size
    return size + 1 if rows == 1 else next(n for n in itertools.count(max(size, 2)) if rows % n != 1)


def _require_rows_for_batch_norm(model, train) -> None:
    """Raises ConfigError where a batch would have one row."""
    rows, size = getattr(train, "num_samples", 0), getattr(train, "batch_size", 0)
    if size and (enough := size_for_batch_norm(model, rows, size)) != size:
        raise ConfigError(
            f"batch_size {size:,} makes a batch of one row of the {rows:,} training rows, and batch norm needs two. "
            f"Set {f'batch_size to {enough:,}, or ' if rows > 1 else ''}batch_norm to False."
        )


def _batches(train, epoch: int, first: int, drawn: int | None) -> Iterator[Any]:
    """The batches of an epoch from ``first`` on; ``drawn`` is what its order follows from, if it had been drawn."""
    if hasattr(train, "set_epoch"):
        train.set_epoch(epoch, first, drawn)
        return iter(train)
    return itertools.islice(train, first, None)


def _require_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint's identity is this training's."""
    for kind in ours:
        then, now = theirs.get(kind, {}), ours[kind]
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                raise CheckpointError(
                    f"The checkpoint to resume from was made with other {kind}: {key} was {then.get(key)!r:.100}, and "
                    f"is {now.get(key)!r:.100}. Set it back, or run without --resume to begin anew."
                )
