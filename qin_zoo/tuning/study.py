"""The trials of a search in an Optuna storage, shared exactly: no slot is worked on by two tuners.

A search has numbered slots: the combinations of a grid, or the N trials of a search in ranges. A tuner takes a slot by
adding a running trial with its own name to the storage, and then reads the trials back: of several on one slot, the
one with the lowest number has it, the others withdraw. Trials become visible in the order of their numbers, so this
needs nothing but what every Optuna storage does, and there is no queue that a killed tuner could leave half-filled.

A trial that a dead tuner leaves running is marked as lost, and its slot is free again, with the same parameters.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from qin_zoo.errors import QinZooError, first_line
from qin_zoo.tuning.alive import Beats, is_dead, lock_path
from qin_zoo.tuning.space import Space

_PRUNERS = {
    # not before five trials are known, and not by a first evaluation alone
    "median": partial(optuna.pruners.MedianPruner, n_startup_trials=5, n_warmup_steps=2),
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "none": optuna.pruners.NopPruner,
}
_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
# Where files lie and how much is printed; the content of the files is part of a search's identity.
_NOT_IDENTIFYING = {
    "gpu", "verbose", "num_workers", "model_root", "cache_dir", "data_root", "train_data", "valid_data", "test_data",
    "item_info", "user_info", "feature_map_json",
}  # fmt: skip

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Claim:
    """A slot that this tuner has, with its running trial.

    Attributes:
        slot: from 0.
        trial: Optuna's.
        point: key -> value of everything that is varied.
    """

    slot: int
    trial: Trial
    point: dict[str, object]


class SharedStudy:
    """A search in a storage, as one of possibly several tuners sees it.

    Args:
        storage: of :func:`open_storage`.
        name: of the study; made if it is new.
        slots: number of trials.
        direction: ``maximize`` or ``minimize``.
        tuner: this tuner's name, of :func:`~qin_zoo.tuning.alive.new_tuner`.
        folder: where the tuners' locks lie.
        pruner: ``median``, ``halving`` or ``none``.
        seed: of the sampler; every slot has its own random numbers, whoever works on it.

    Raises:
        QinZooError: the storage has a study of this name that searches in the other direction.
    """

    def __init__(
        self,
        storage,
        name: str,
        space: Space,
        slots: int,
        direction: str,
        tuner: str,
        folder: Path,
        pruner: str = "none",
        seed: int = 0,
    ):
        self.space, self.slots, self.name, self.tuner = space, slots, name, tuner
        self._folder, self._seed, self._beats = folder, seed, Beats()
        self._distributions = distributions(space)
        self._study = _reach(
            lambda: optuna.create_study(
                storage=storage,
                study_name=name,
                direction=direction,
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=seed),
                pruner=_PRUNERS[pruner](),
            )
        )
        if self._study.direction.name.lower() != direction:
            raise QinZooError(f"The study {name} is to {self._study.direction.name.lower()}; this search would not.")
        self._storage, self._id = self._study._storage, self._study._study_id
        # A slot that failed under an earlier command is tried again, once by each command.
        self._failed_before = {t._trial_id for t in self._all() if t.state == TrialState.FAIL}

    # ---- reading

    def trials(self) -> dict[int, FrozenTrial]:
        """slot -> its latest trial that was neither lost nor withdrawn; such a one only where there is no other."""
        latest: dict[int, FrozenTrial] = {}
        for trial in self._all():
            slot = trial.user_attrs["slot"]
            if "withdrawn" not in trial.user_attrs and (slot not in latest or "lost" not in trial.user_attrs):
                latest[slot] = trial
        return dict(sorted(latest.items()))

    def _all(self) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._id, deepcopy=False)
        return sorted((t for t in trials if "slot" in t.user_attrs), key=lambda t: t.number)

    def _by_slot(self) -> dict[int, list[FrozenTrial]]:
        slots = defaultdict(list)
        for trial in self._all():
            slots[trial.user_attrs["slot"]].append(trial)
        return slots

    def _is_taken(self, trial: FrozenTrial) -> bool:
        again = {"lost", "withdrawn"} & trial.user_attrs.keys() or trial._trial_id in self._failed_before
        return trial.state in _TAKEN or not again

    def others_running(self) -> int:
        """How many trials other tuners are working on."""
        return sum(t.state == TrialState.RUNNING and t.user_attrs["tuner"] != self.tuner for t in self._all())

    # ---- working

    def claim(self) -> Claim | None:
        """Takes the first free slot; None where there is none."""
        while True:
            by_slot = self._by_slot()
            slot = next((s for s in range(self.slots) if not any(map(self._is_taken, by_slot[s]))), None)
            if slot is None:
                return None
            trial_id = self._storage.create_new_trial(self._id, self._template(slot, by_slot[slot]))
            rivals = [t for t in self._by_slot()[slot] if self._is_taken(t)]
            if rivals[0]._trial_id == trial_id:
                return self._begin(slot, trial_id, by_slot[slot])
            self._storage.set_trial_user_attr(trial_id, "withdrawn", f"trial {rivals[0].number} has the slot")
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _template(self, slot: int, earlier: list[FrozenTrial]) -> FrozenTrial:
        attributes = {"slot": slot, "tuner": self.tuner}
        if self.space.is_grid:
            point, labels = self.space.point(slot), self._distributions
            params = {key: labels[key].choices[values.index(point[key])] for key, values in self.space.lists.items()}
            return create_trial(state=TrialState.RUNNING, params=params, distributions=labels, user_attrs=attributes)
        # A trial that was lost is begun again, not drawn again: its weights may be there to go on from.
        lost = [t for t in earlier if "lost" in t.user_attrs and t.params.keys() == self._distributions.keys()]
        fixed = {"fixed_params": lost[-1].params} if lost else {}
        return create_trial(state=TrialState.RUNNING, user_attrs=attributes, system_attrs=fixed)

    def _begin(self, slot: int, trial_id: int, earlier: list[FrozenTrial]) -> Claim:
        if self.space.is_grid:
            return Claim(slot, Trial(self._study, trial_id), self.space.point(slot))
        failures = sum("lost" not in t.user_attrs and "withdrawn" not in t.user_attrs for t in earlier)
        # Two tuners with one generator each would draw the same trials, and a resumed one the same again.
        digest = hashlib.blake2b(repr((self._seed, slot, failures)).encode(), digest_size=4).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                multivariate=True, constant_liar=True, seed=int.from_bytes(digest, "little")
            )
        trial = Trial(self._study, trial_id)
        drawn = {key: _suggest(trial, key, distribution) for key, distribution in self._distributions.items()}
        return Claim(slot, trial, values_of(self.space, drawn, self._distributions))

    def should_prune(self, claim: Claim, step: int, value: float) -> bool:
        """Records a value during a trial, and says whether the trial is worth going on with."""
        claim.trial.report(value, step)
        return claim.trial.should_prune()

    def note(self, claim: Claim, **attributes: object) -> None:
        """Keeps something of a trial beside it."""
        for key, value in attributes.items():
            claim.trial.set_user_attr(key, value)

    def finish(self, claim: Claim, state: TrialState, value: float | None = None, **attributes: object) -> bool:
        """Ends a trial.

        Returns:
            False if another tuner, taking this one for dead, has ended it before; nothing is changed then.
        """
        try:
            self.note(claim, **attributes)
            self._study.tell(claim.trial.number, value if state == TrialState.COMPLETE else None, state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            return False
        return True

    def beat(self) -> None:
        """Tells tuners on other machines that this one is alive."""
        self._study.set_user_attr(f"beat {self.tuner}", time.time())

    def free_the_dead(self) -> int:
        """Marks as lost what dead tuners left running; returns how many trials that were."""
        running: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in self._all():
            if trial.state == TrialState.RUNNING:
                running[trial.user_attrs["tuner"]].append(trial)
        beats, lost = self._study.user_attrs, 0
        for tuner, trials in running.items():
            dead = tuner != self.tuner and is_dead(lock_path(self._folder, tuner))
            if self._beats.is_silent(tuner, beats.get(f"beat {tuner}")) if dead is None else dead:
                lost += sum(self._lose(t._trial_id, f"its tuner {tuner} was killed") for t in trials)
        return lost

    def lose(self, claim: Claim, why: str) -> None:
        """Gives a slot back whose trial was stopped, for this tuner or another to begin again."""
        self._lose(claim.trial._trial_id, why)

    def _lose(self, trial_id: int, why: str) -> bool:
        try:
            self._storage.set_trial_user_attr(trial_id, "lost", why)
            return self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:  # another tuner was quicker
            return False


def study_name(space: Space, data: dict) -> str:
    """Name of the file and a fingerprint of base experiment, space and data: change one, and the search is another."""
    search = space.as_dict() | {"model": _of_consequence(space.model)}
    # of several variants of a dataset, each id is a fingerprint of the whole
    search["datasets"] = {name: _of_consequence(block) for name, block in space.datasets.items()}
    text = json.dumps({**search, "data": data}, default=str)
    return f"{space.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _of_consequence(block: dict) -> dict:
    return {key: value for key, value in block.items() if key not in _NOT_IDENTIFYING}


def open_storage(url: str):
    """An Optuna storage.

    Args:
        url: of a database, as Optuna and SQLAlchemy write it: ``sqlite:///FILE``, ``postgresql://…``, ``mysql://…``.

    Raises:
        QinZooError: the database cannot be reached, or is of another version of Optuna.
    """
    # Several tuners write to one file: each waits for the others' writes, which are short.
    arguments = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
    return _reach(lambda: optuna.storages.RDBStorage(url, engine_kwargs=arguments))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's names for what is varied."""
    found: dict[str, BaseDistribution] = {key: CategoricalDistribution(_choices(v)) for key, v in space.lists.items()}
    for key, r in space.ranges.items():
        found[key] = (IntDistribution if r.whole else FloatDistribution)(r.low, r.high, log=r.log, step=r.step)
    return found


def existing_studies(storage, stem: str) -> list[str]:
    """Names of the studies of a tuner file of this name, whatever it said then."""
    names = optuna.get_all_study_names(storage)
    return [name for name in names if name[:-9] == stem and name[-9:-8] == "-"]


def _choices(values: list) -> list:
    """A list's values where Optuna's storages can hold and tell them apart, else their text."""
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in values)
    if plain and len({*values}) == len(values):
        return values
    return [json.dumps(value, default=str) for value in values]


def values_of(space: Space, drawn: Mapping[str, object], named: Mapping[str, BaseDistribution]) -> dict[str, object]:
    """What Optuna's parameters stand for, which are ``drawn`` from the distributions ``named``, both by key."""
    point = {key: values[named[key].choices.index(drawn[key])] for key, values in space.lists.items() if key in drawn}
    return point | {key: drawn[key] for key in space.ranges if key in drawn}


def _suggest(trial: Trial, key: str, distribution: BaseDistribution):
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _reach(connect):
    """What ``connect`` returns; tried again where two tuners make the tables of a new database at once."""
    waits = [0.2, 0.5, 1.0, 2.0]
    while True:
        try:
            return connect()
        except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
            if not waits or isinstance(error, (ImportError, ValueError)):
                raise QinZooError(
                    f"The storage cannot be used. {first_line(error)} Expected the URL of a database, as in "
                    "sqlite:///FILE; drivers of other databases are installed beside Optuna."
                ) from error
            time.sleep(waits.pop(0))
