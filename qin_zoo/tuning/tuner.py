"""A search from its file to its results: what `qin-zoo tune` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.trial import TrialState

from qin_zoo.config.blocks import ExperimentParams
from qin_zoo.config.experiments import check_params
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.prepare import Prepared, prepare
from qin_zoo.files import replace_text
from qin_zoo.processes.worker import Crew
from qin_zoo.registry import get_model
from qin_zoo.threads import share
from qin_zoo.tuning.alive import BEAT_SECONDS, Lock, lock_path, new_tuner
from qin_zoo.tuning.space import Space, dump, show, write_base
from qin_zoo.tuning.study import Claim, SharedStudy, existing_studies, open_storage, study_name
from qin_zoo.tuning.worker import Job, train

_POLL_SECONDS = 1.0
_DEFAULT_TRIALS = 50


@dataclass(frozen=True)
class Search:
    """A search that has been read and checked.

    Attributes:
        space: what is searched.
        base: the base experiment.
        folder: ``<model_root>/tune``.
        name: of the study, and of its files.
        storage_url: of the Optuna storage.
        trials: number of trials.
        pruner: name of the pruner.
        seed: of the sampler.
        data, plugins: as of :func:`~qin_zoo.experiment.prepare.prepare`.
    """

    space: Space
    base: Prepared
    folder: Path
    name: str
    storage_url: str
    trials: int
    pruner: str
    seed: int
    data: Path | None
    plugins: tuple[Path, ...]

    @property
    def trial_folder(self) -> Path:
        """The configuration folder of the trials, each of which can be run and predicted by its id."""
        return self.folder / self.name

    @property
    def monitor(self) -> str:
        """What is compared, for people."""
        weights = self.base.params["monitor"]
        if isinstance(weights, str):
            return weights
        return " ".join(f"{weight:+g} {name}" for name, weight in weights.items()).removeprefix("+").removeprefix("1 ")

    @property
    def direction(self) -> str:
        """Optuna's word: ``minimize`` or ``maximize``."""
        return "minimize" if self.base.params["monitor_mode"] == "min" else "maximize"

    @property
    def goal(self) -> str:
        """The same for people: ``smallest`` or ``largest``."""
        return "smallest" if self.direction == "minimize" else "largest"


def plan_search(
    space: Space,
    *,
    trials: int | None = None,
    storage: str | None = None,
    data: Path | None = None,
    plugins: Iterable[Path] | None = None,
    pruner: str | None = None,
    seed: int = 0,
) -> Search:
    """Checks every combination, and opens the data; starts and stores nothing of the search.

    Args:
        space: what is searched; :func:`~qin_zoo.tuning.space.read_space` reads a tuner file.
        trials: how many trials a search in ranges has. Default: 50. A grid has one for each combination.
        storage: URL of an Optuna storage. Default: SQLite, ``<model_root>/tune/<name of the file>.db``.
        data: folder that replaces the configured folder of the dataset's files.
        plugins: files or folders with further models.
        pruner: ``median``, ``halving`` or ``none``. Default: ``median`` with ranges, ``none`` for a grid.
        seed: of the sampler.

    Raises:
        QinZooError: anything in the experiment, its data or the options that cannot be used.
    """
    if space.is_grid and trials is not None:
        raise QinZooError(
            f"{space.file} has lists only, so it is a grid of {space.size} trials; --trials is for ranges, as in "
            "learning_rate: {low: 1.e-4, high: 1.e-2, log: true}."
        )
    plugins = tuple(plugins or ())
    base = _check_combinations(space, data, plugins)
    dataset = base.open_dataset()  # converts files that are new before several workers would
    for split in ("train", "valid"):
        dataset.require(split, labels=True)
    folder = Path(base.params["model_root"]) / "tune"
    return Search(
        space=space,
        base=base,
        folder=folder,
        name=study_name(space, dataset.fingerprints()),
        storage_url=storage or f"sqlite:///{quote(str(folder / space.file.stem))}.db",
        trials=space.size if space.is_grid else trials or _DEFAULT_TRIALS,
        pruner=pruner or ("none" if space.is_grid else "median"),
        seed=seed,
        data=data,
        plugins=plugins,
    )


def _check_combinations(space: Space, data: Path | None, plugins: tuple[Path, ...]) -> Prepared:
    """The first combination, prepared; a mistake in any is one message that says where it is written."""
    points = space.corners()
    for point in points:
        model, dataset = space.trial_blocks(point)
        params = ExperimentParams({**model, **dataset, "model_id": space.expid}, origin=space.origin)
        check_params(params, get_model(params["model"], plugins))
    with tempfile.TemporaryDirectory() as temporary:
        write_base(space, Path(temporary))
        return prepare(space.expid, Path(temporary), data=data, overrides=points[0], plugins=plugins)


@dataclass
class Tuner:
    """Works on a search with the devices of this machine, beside other tuners if there are any.

    Args:
        search: of :func:`plan_search`.
        gpus: one worker for each; -1 is a share of the CPU.
        timeout: seconds after which no trial is started; None for no limit.
        budget: seconds of all trials together, earlier ones included, after which none is started; None for no limit.
    """

    search: Search
    gpus: Sequence[int] = (-1,)
    timeout: float | None = None
    budget: float | None = None
    echo: Callable[[str], None] = print
    study: SharedStudy = field(init=False)

    def __post_init__(self):
        import torch

        for gpu in self.gpus:
            if gpu >= torch.cuda.device_count():
                raise QinZooError(
                    f"GPU {gpu} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} GPU(s) "
                    "on this machine. Leave out --gpu for the CPU, or install a CUDA build of torch."
                )
        search, name = self.search, new_tuner()
        try:
            self._lock = Lock(lock_path(search.folder, name))
            write_base(search.space, search.trial_folder / "base")
        except OSError as error:
            raise QinZooError(f"Cannot write to {search.folder}: {error.strerror}. Set model_root.") from error
        try:
            storage = open_storage(search.storage_url)
            others = [n for n in existing_studies(storage, search.space.name) if n != search.name]
            self.study = SharedStudy(
                storage, search.name, search.space, search.trials, search.direction, name, search.folder,
                search.pruner, search.seed,
            )  # fmt: skip
        except BaseException:
            self._lock.release()
            raise
        threads = share(max(1, sum(gpu < 0 for gpu in self.gpus)))
        self._crew = Crew(self.gpus, threads, train, self._lock.path)
        if others and not self.study.trials():
            self.echo(
                f"{search.space.file.name} says something else than before, or its base experiment or data changed: "
                f"this is a new search, {search.name}; {', '.join(others)} stays as it is."
            )

    def run(self) -> None:
        """Works until every slot is done, here or elsewhere, or the time is over.

        Raises:
            KeyboardInterrupt: after every trial of this tuner has been stopped and given back.
        """
        self._announce()
        started = beaten = time.monotonic()
        looked, waits = 0.0, False
        self.study.beat()

        def fill() -> bool:
            nonlocal beaten, looked, waits
            now = time.monotonic()
            if now - beaten > BEAT_SECONDS:
                self.study.beat()
                beaten = now
            if now - looked > _POLL_SECONDS:
                if freed := self.study.free_the_dead():
                    self.echo(f"{freed} trial(s) of a tuner that was killed are begun again")
                looked = time.monotonic()
            over = self.timeout is not None and now - started > self.timeout
            over = over or (self.budget is not None and self.spent() >= self.budget)
            while self._crew.idle and not over and (claim := self.study.claim()):
                self._start(claim)
            others = 0 if over or self._crew.busy else self.study.others_running()
            if others and not waits:
                waits = True
                self.echo(f"waiting for {others} trial(s) of other tuners, to take over what they may leave")
            return others > 0

        try:
            self._crew.run(fill, self._hear, self.echo)
        except BaseException:
            for claim, _, _ in self._crew.busy.values():
                self.study.lose(claim, "its tuner was stopped")
            raise
        finally:
            self._lock.release()

    def spent(self) -> float:
        """Seconds of all trials, whoever has trained them, those under way included."""
        ended = sum(t.user_attrs.get("seconds", 0.0) for t in self.study.trials().values())
        return ended + sum(time.monotonic() - begun for _, _, begun in self._crew.busy.values())

    def _announce(self) -> None:
        search = self.search
        done = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in self.study.trials().values())
        kind = f"a grid of {search.trials} trials" if search.space.is_grid else f"{search.trials} trials in ranges"
        if self.budget is not None:
            kind = f"{self.budget / 60:g} minutes of trials, {self.spent() / 60:.1f} spent before"
        devices = ", ".join(dict.fromkeys(worker.device for worker in self._crew.idle))
        dataset = search.base.params["dataset_id"]
        self.echo(
            f"{search.name}: {kind}, {search.goal} {search.monitor} of {dataset}'s valid split, {len(self.gpus)} "
            f"worker(s) on {devices}{f'; {done} finished before' if done else ''}"
        )

    def _start(self, claim: Claim) -> None:
        search = self.search
        expid = search.space.trial_expid(claim.slot + 1, claim.point)
        model, dataset = search.space.trial_blocks(claim.point)
        worker = self._crew.take((claim, expid, time.monotonic()))
        self.study.note(claim, expid=expid, device=worker.device)
        for kind, name, block in (("model", expid, model), ("dataset", model["dataset_id"], dataset)):
            replace_text(search.trial_folder / f"{kind}_config" / f"{name}.yaml", dump({name: block}))
        base = search.trial_folder / "base"
        worker.send(Job(expid, search.space.expid, base, search.trial_folder, claim.point, search.data, search.plugins))

    def _hear(self, task: tuple[Claim, str, float], kind: str, what: Any, number: int = 0) -> bool | None:
        """What a trial says: of an evaluation its value and number, answered by whether to prune; else its end."""
        claim, expid, started = task
        if kind == "evaluation":
            return self.study.should_prune(claim, number, what)
        if kind == "stopped":  # by somebody else's SIGTERM
            return self.study.lose(claim, "its process was told to stop")
        seconds = time.monotonic() - started
        if kind == "failed":
            kept = self.study.finish(claim, TrialState.FAIL, seconds=seconds, error=what)
            told = f"failed: {what.splitlines()[0]}"
        else:
            state, value = TrialState.COMPLETE if kind == "done" else TrialState.PRUNED, what.pop("value")
            kept = self.study.finish(claim, state, value, seconds=seconds, **what)
            told = f"{self.search.monitor} {value:.6f}"
            told += f", pruned after {what['evaluations']} evaluations" if kind == "pruned" else ""
        if not kept:
            told = "ended here, but another tuner had taken it over; its result counts"
        done = sum(t.state != TrialState.RUNNING for t in self.study.trials().values())
        point = "  ".join(f"{key} {show(v)}" for key, v in claim.point.items())
        self.echo(f"[{done}/{self.search.trials}] {expid}: {told}  ({seconds:.0f} s)  {point}")
        return None
