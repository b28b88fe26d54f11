"""Slots of a search: each is worked on once, whoever asks, and none is lost with a tuner."""

import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from toy_search import project_fixture, tuner_file_fixture  # noqa: F401

from qin_zoo.errors import QinZooError
from qin_zoo.tuning import alive
from qin_zoo.tuning.alive import Lock, lock_path, new_tuner
from qin_zoo.tuning.space import read_space
from qin_zoo.tuning.study import SharedStudy, existing_studies, open_storage, study_name

URL = "sqlite:///study.db"
RANGES = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "embedding_dim": {"low": 2, "high": 8, "step": 2},
    "units": [[64, 32], [16], None],
}


@pytest.fixture
def study(tuner_file):
    """Makes a study as another tuner sees it."""

    def make(space=None, slots=None, **options) -> SharedStudy:
        space = space or read_space(tuner_file({"seed": [1, 2, 3], "units": [[64, 32], [16]]}))
        tuner = new_tuner()
        slots = slots or space.size
        shared = SharedStudy(open_storage(URL), "s-1", space, slots, "maximize", tuner, Path(), **options)
        shared.lock = Lock(lock_path(Path(), tuner))
        return shared

    return make


def states(study) -> Counter:
    return Counter(t.state.name for t in study.trials().values())


class TestSlots:
    def test_a_grid_once(self, study):
        one, other = study(), study()
        points = [claim.point for claim in iter(lambda: (one if len(one.trials()) % 2 else other).claim(), None)]
        assert points == [{"units": u, "seed": s} for u in ([64, 32], [16]) for s in (1, 2, 3)]
        assert states(one) == {"RUNNING": 6}
        assert one.others_running() == other.others_running() == 3
        assert one.claim() is None

    def test_several_processes(self, tuner_file, project):
        """Three tuners claim as fast as they can while one after another is killed: every slot is done once."""
        tuner_file({"seed": list(range(20)), "epochs": [1, 2]})
        script = project / "claims.py"
        script.write_text(
            textwrap.dedent(
                """
                import time
                from pathlib import Path
                from optuna.trial import TrialState
                from qin_zoo.tuning.alive import Lock, lock_path, new_tuner
                from qin_zoo.tuning.space import read_space
                from qin_zoo.tuning.study import SharedStudy, open_storage

                space, tuner = read_space(Path("search.yaml")), new_tuner()
                lock = Lock(lock_path(Path(), tuner))
                storage = open_storage("sqlite:///study.db")
                study = SharedStudy(storage, "s-1", space, space.size, "maximize", tuner, Path())
                print("ready", flush=True)
                while True:
                    study.free_the_dead()
                    claim = study.claim()
                    if claim is None and not study.others_running():
                        break
                    if claim is None:
                        time.sleep(0.05)
                        continue
                    print(claim.slot, flush=True)
                    time.sleep(0.02)
                    assert study.finish(claim, TrialState.COMPLETE, float(claim.slot))
                """
            )
        )
        start = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
        for process in start[:2]:
            for _ in range(4):  # "ready" and three slots: it is in the middle of its work
                process.stdout.readline()
            process.kill()
            process.wait()
        start[2].communicate(timeout=60)
        assert start[2].returncode == 0

        trials = optuna.load_study(study_name="s-1", storage=URL).trials
        done = [t for t in trials if t.state == TrialState.COMPLETE]
        assert sorted(t.user_attrs["slot"] for t in done) == list(range(40))
        assert [t.value for t in done] == [t.user_attrs["slot"] for t in done]
        assert all("lost" in t.user_attrs or "withdrawn" in t.user_attrs for t in trials if t not in done)
        assert len({t.user_attrs["tuner"] for t in done}) >= 2

    def test_withdraws(self, study, monkeypatch):
        """Another tuner takes the slot between this one's look and its claim."""
        one, other = study(), study()
        template = one._template

        def late(slot, earlier):
            if not earlier:
                other.claim()
            return template(slot, earlier)

        monkeypatch.setattr(one, "_template", late)
        assert one.claim() is None  # the other one got there first each time
        assert [t.user_attrs["tuner"] for t in one.trials().values()] == [other.tuner] * 6
        assert states(one) == {"RUNNING": 6}


class TestDead:
    def test_at_once_on_this_machine(self, study):
        one, other = study(), study()
        claim = one.claim()
        assert one.finish(one.claim(), TrialState.COMPLETE, 0.5)
        assert other.free_the_dead() == 0
        one.lock._file.close()  # what its end does, however it ends
        assert other.free_the_dead() == 1
        assert other.trials()[0].user_attrs["lost"].endswith("was killed")
        assert not lock_path(Path(), one.tuner).exists()
        assert other.claim().slot == claim.slot
        assert states(other) == {"RUNNING": 1, "COMPLETE": 1}
        assert not one.finish(claim, TrialState.COMPLETE, 0.9)  # should it come back
        assert states(other) == {"RUNNING": 1, "COMPLETE": 1}

    def test_elsewhere_by_its_silence(self, study, monkeypatch):
        one, other = study(), study()
        one.claim()
        one.beat()
        one.lock.release()  # no lock to see, as on another machine
        now = time.monotonic()
        assert other.free_the_dead() == 0
        monkeypatch.setattr(alive.time, "monotonic", lambda: now + alive.SILENCE_SECONDS + 1)
        one.beat()
        assert other.free_the_dead() == 0
        monkeypatch.setattr(alive.time, "monotonic", lambda: now + 3 * alive.SILENCE_SECONDS)
        assert other.free_the_dead() == 1

    def test_stopped(self, study):
        one, other = study(), study()
        one.lose(one.claim(), "its tuner was stopped")
        assert other.claim().slot == 0


class TestFailed:
    def test_once_by_each_command(self, study):
        one = study()
        one.finish(one.claim(), TrialState.FAIL, error="no memory")
        assert one.claim().slot == 1
        again = study()
        assert again.claim().slot == 0
        assert again.trials()[0].state == TrialState.RUNNING


class TestRanges:
    def test_values(self, tuner_file, study):
        shared = study(read_space(tuner_file(RANGES)), 12)
        points = [shared.claim().point for _ in range(12)]
        assert shared.claim() is None
        assert all(1e-4 <= p["learning_rate"] <= 1e-1 for p in points)
        assert {p["embedding_dim"] for p in points} <= {2, 4, 6, 8}
        assert all(isinstance(p["embedding_dim"], int) for p in points)
        assert all(p["units"] in RANGES["units"] for p in points)
        assert len({repr(p) for p in points}) == 12

    def test_repeatable_and_resumed(self, tuner_file, study):
        """Stopped and resumed, or in one go: the same trials, since each slot has its own random numbers."""
        space = read_space(tuner_file(RANGES))

        def work(shared, count, found):
            for claim in iter(shared.claim, None):
                found.append(claim.point)
                shared.finish(claim, TrialState.COMPLETE, -abs(claim.point["learning_rate"] - 0.01))
                if len(found) == count:
                    return

        whole, parts = [], []
        work(study(space, 14, seed=3), 14, whole)
        Path("study.db").unlink()
        work(study(space, 14, seed=3), 5, parts)
        work(study(space, 14, seed=3), 14, parts)
        assert parts == whole
        Path("study.db").unlink()
        other = []
        work(study(space, 14, seed=4), 3, other)
        assert other != whole[:3]

    def test_a_lost_trial_keeps_its_parameters(self, tuner_file, study):
        space = read_space(tuner_file(RANGES))
        one = study(space, 3)
        claim = one.claim()
        one.lose(claim, "stopped")
        again = study(space, 3, seed=99).claim()
        assert (again.slot, again.point) == (claim.slot, claim.point)

    def test_pruning(self, tuner_file, study):
        shared = study(read_space(tuner_file(RANGES)), 8, pruner="median")
        for n in range(5):
            claim = shared.claim()
            assert not any(shared.should_prune(claim, step, 0.7 + n / 100) for step in (1, 2, 3))
            shared.finish(claim, TrialState.COMPLETE, 0.7 + n / 100)
        bad, good = shared.claim(), shared.claim()
        assert not shared.should_prune(bad, 1, 0.5)  # never after one evaluation alone
        assert shared.should_prune(bad, 2, 0.6)
        assert not shared.should_prune(good, 2, 0.9)
        shared.finish(bad, TrialState.PRUNED)
        assert shared.trials()[5].value == 0.6
        assert shared.claim().slot == 7  # a pruned trial is done


class TestStorage:
    def test_names(self, tuner_file):
        """A name is of what is searched over what; where files lie and what is printed is no part of it."""
        name = study_name(read_space(tuner_file({"seed": [1, 2]})), {"train": 1})
        assert name.startswith("search-")
        assert study_name(read_space(tuner_file({"seed": [1, 2], "model_root": "x"})), {"train": 1}) == name
        others = [
            study_name(read_space(tuner_file({"seed": [1, 3]})), {"train": 1}),
            study_name(read_space(tuner_file({"seed": [1, 2]}), ["epochs=9"]), {"train": 1}),
            study_name(read_space(tuner_file({"seed": [1, 2]})), {"train": 2}),
        ]
        assert len({name, *others}) == 4

    def test_existing(self, study):
        study()
        assert existing_studies(open_storage(URL), "s-1") == []
        optuna.create_study(storage=URL, study_name="search-01234567")
        assert existing_studies(open_storage(URL), "search") == ["search-01234567"]

    @pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "nonsense", "postgresql://nobody@localhost:1/x"])
    def test_out_of_reach(self, url, project, monkeypatch):
        monkeypatch.setattr("qin_zoo.tuning.study.time.sleep", lambda seconds: None)
        with pytest.raises(QinZooError, match="The storage cannot be used"):
            open_storage(url)
