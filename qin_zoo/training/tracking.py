"""A run's curves as TensorBoard event files."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from types import TracebackType

from qin_zoo.training.trainer import Evaluation, Steps


class Tracker:
    """Writes scalars to a folder: ``train/…`` by step, ``valid/…`` by evaluation.

    A disk that is full ends the tracking, with a warning, not the training.

    Args:
        folder: of the event files; ``tensorboard --logdir`` reads it. None for no tracking.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._writer, self._done = folder, None, folder is None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._writer is not None and not self._done:
            self._try(self._writer.close)

    def steps(self, steps: Steps) -> None:
        """Losses, gradient norms and learning rate of the last steps."""
        self._try(self._open, steps.numbers[0])
        for number, loss, norm in zip(steps.numbers, steps.losses, steps.gradient_norms):
            self._scalars(number, {"train/loss": loss} | ({} if norm is None else {"train/gradient_norm": norm}))
        self._scalars(steps.numbers[-1], {"train/learning_rate": steps.learning_rate})
        self._try(self._flush)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Metrics of an evaluation; :meth:`steps` has been told of its steps before."""
        metrics = {f"valid/{name}": value for name, value in evaluation.metrics.items()}
        self._scalars(evaluation.step, {"train/mean_loss": evaluation.train_loss, **metrics})
        self._try(self._flush)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._try(self._write, Event(step=step, wall_time=time.time(), summary=summary))

    def _open(self, step: int) -> None:
        """Begins a file; what a run that was killed has written of this and later steps is hidden."""
        if self._writer is not None:
            return
        # Its SummaryWriter writes from a thread, where a full disk would never be noticed.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"), f".{step}")
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event) -> None:
        self._writer.write_event(event)

    def _flush(self) -> None:
        self._writer.flush()

    def _try(self, action, *args) -> None:
        if self._done:
            return
        try:
            action(*args)
        except OSError as error:
            self._done = True
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    self._writer.close()
            logging.warning(f"Event files in {self._folder} end here: {error.strerror}. The training goes on.")
