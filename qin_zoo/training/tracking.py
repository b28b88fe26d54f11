"""A run's curves and parameters for those who look at them: TensorBoard, and what else is wished for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from qin_zoo.errors import first_line

if TYPE_CHECKING:
    from qin_zoo.training.trainer import Evaluation, Steps


class Sink(Protocol):
    """Where numbers of a run go.

    What it raises ends the tracking there, with a warning, and not the training.
    """

    name: str

    def begin(self, step: int, params: Mapping[str, object], metrics: list[str]) -> None:
        """The run begins, or goes on, with this step; ``metrics`` are those that :meth:`close` will tell."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step."""

    def flush(self) -> None:
        """What was told shall be seen from now on."""

    def close(self, best: Mapping[str, float], finished: bool) -> None:
        """The run ends: ``best`` are the metrics of the weights that are kept, of the test rows, too."""


class Tracker:
    """Tells some sinks scalars: ``train/…`` by step, ``valid/…`` by evaluation, in the end ``best/…`` and ``test/…``.

    Args:
        sinks: empty for no tracking.
        params: of the run; lists and mappings as text.
        has_test: whether there will be metrics of the test rows.
    """

    def __init__(self, sinks: list[Sink], params: Mapping[str, object], has_test: bool = False) -> None:
        self._sinks, self._params, self._begun = list(sinks), shown_params(params), False
        kinds = ("best", "test") if has_test else ("best",)
        self._metrics = [f"{kind}/{name}" for kind in kinds for name in params["metrics"]]
        self._best: dict[str, float] = {}

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._begun:
            self._tell(lambda sink: sink.close(self._best, kind is None))

    def steps(self, steps: Steps) -> None:
        """Losses, gradient norms and learning rate of the last steps."""
        if not self._begun:
            self._begun = True
            self._tell(lambda sink: sink.begin(steps.numbers[0], self._params, self._metrics))
        for number, loss, norm in zip(steps.numbers, steps.losses, steps.gradient_norms):
            self._scalars(number, {"train/loss": loss} | ({} if norm is None else {"train/gradient_norm": norm}))
        self._scalars(steps.numbers[-1], {"train/learning_rate": steps.learning_rate})
        self._tell(lambda sink: sink.flush())

    def evaluation(self, evaluation: Evaluation) -> None:
        """Metrics of an evaluation; :meth:`steps` has been told of its steps before."""
        metrics = {f"valid/{name}": value for name, value in evaluation.metrics.items()}
        if evaluation.best:
            self._best = {f"best/{name}": value for name, value in evaluation.metrics.items()}
        self._scalars(evaluation.step, {"train/mean_loss": evaluation.train_loss, **metrics})
        self._tell(lambda sink: sink.flush())

    def tested(self, metrics: Mapping[str, float]) -> None:
        """Metrics of the test rows; empty where they have no labels."""
        self._best |= {f"test/{name}": value for name, value in metrics.items()}

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._tell(lambda sink: sink.scalars(step, values))

    def _tell(self, action: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                action(sink)
            except Exception as error:  # a full disk, a server that is gone, whatever a library raises
                self._sinks.remove(sink)
                why = getattr(error, "strerror", None) or first_line(error)
                logging.warning(f"{sink.name} ends here: {why}. The training goes on.")


def shown_params(params: Mapping[str, object]) -> dict[str, str | float | bool]:
    """Parameters as trackers and reports show them: one value each, without what describes the data's columns."""
    found: dict[str, str | float | bool] = {}
    for key, value in params.items():
        if isinstance(value, (list, tuple)) and any(isinstance(part, dict) for part in value):
            continue
        if value is not None:
            found[key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


class EventFiles:
    """TensorBoard's event files in a folder; ``tensorboard --logdir`` reads it.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"Event files in {folder}"
        self._folder, self._writer = folder, None

    def begin(self, step: int, params: Mapping[str, object], metrics: list[str]) -> None:
        """Begins a file; what a run that was killed has written of this and later steps is hidden."""
        # Its SummaryWriter writes from a thread, where a full disk would never be noticed.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import hparams

        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"), f".{step}")
        self._write(step, session_log=SessionLog(status=SessionLog.START))
        *begin, self._end = hparams(dict(params), dict.fromkeys(metrics))
        for summary in begin:
            self._write(step, summary=summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(step, summary=summary)
        self._last = step

    def flush(self) -> None:
        self._or_close(self._writer.flush)

    def close(self, best: Mapping[str, float], finished: bool) -> None:
        if finished:
            self.scalars(self._last, best)
            self._write(self._last, summary=self._end)
        self._or_close(self._writer.close)

    def _write(self, step: int, **content: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._or_close(self._writer.write_event, Event(step=step, wall_time=time.time(), **content))

    def _or_close(self, write: Callable[..., None], *content: object) -> None:
        try:
            write(*content)
        except OSError:
            with suppress(OSError):  # the writer's own close begins with what has just failed
                getattr(self._writer, "_py_recordio_writer", self._writer).close()
            raise
