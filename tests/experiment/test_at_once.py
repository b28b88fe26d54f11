"""Many processes of one name at once, some of them killed: every result is of its own run, or is refused.

Runs, studies, tuners, encoders and importers; what each reports and leaves is compared with what it reports and leaves
alone. ``QIN_ZOO_AT_ONCE=8,20`` lets eight work at once and kills twenty of each kind, at random moments.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest
from processes import start

from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.embed.encode import encode_items
from qin_zoo.embed.items import read_texts
from qin_zoo.embed.store import EmbeddingStore
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.prepare import prepare
from qin_zoo.experiment.run import run_experiment
from qin_zoo.files import file_digest
from qin_zoo.processes import worker as processes
from qin_zoo.study import execute
from qin_zoo.study.plan import Study, plan_runs
from qin_zoo.tuning import tuner as tuning
from qin_zoo.tuning.report import read_lines
from qin_zoo.tuning.space import read_space

sys.path.append(str(Path(__file__).resolve().parent.parent / "tuning"))
from toy_search import write_project

AT_ONCE, KILLS = map(int, os.environ.get("QIN_ZOO_AT_ONCE", "2,1").split(","))
SETTINGS = {"epochs": 1, "batch_size": 512, "embedding_dim": 4, "num_layers": 1, "num_row": 2, "max_len": 8}


class OwnProcess:
    """A worker of studies and tuners that trains in the process which asks for it, so that one kill ends all."""

    device = "CPU"

    def __init__(self, gpu, threads, train, lock=None):
        self.gpu, self._train = gpu, train

    def send(self, job):
        self.connection, theirs = Pipe()
        self._said = self._train(job, self.gpu, _Unheard())
        theirs.send(None)

    def receive(self):
        return self._said

    def stop(self, kill=False):
        return None


class _Unheard:
    """The other end of a connection on which nobody answers but with no."""

    def send(self, said):
        pass

    def recv(self):
        return False


def digests(folder):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    return {str(f.relative_to(folder)): file_digest(f) for f in files}


# ---- what is done at once: ``do`` returns what it reports of itself, ``kept`` what lies there, by variant


class Runs:
    """Two seeds under one name."""

    variants = (1, 2)

    def __init__(self, sample, _):
        self.sample = sample

    def do(self, folder, seed):
        overrides = {**SETTINGS, "seed": seed, "model_root": str(folder)}
        prepared = prepare("QIN_sample", data=self.sample, overrides=overrides)
        record = run_experiment(prepared, folder, echo=lambda text: None, resume=True)
        return [record["valid"], record["test"], record["sha256"]["prediction"]]

    def kept(self, folder):
        for file in (folder / "sample").glob("QIN_sample*.json"):
            if file.name.count(".") > 1:
                continue
            record = json.loads(file.read_text())
            stored = {name: file_digest(file.with_suffix(f".{end}")) for name, end in ENDS.items()}
            assert stored == record["sha256"]
            yield record["params"]["seed"], [record["valid"], record["test"], stored["prediction"]]


ENDS = {"checkpoint": "model", "prediction": "prediction.csv"}


class Studies:
    """Two learning rates for the runs of one study, whose models are also scored on noisy embeddings."""

    variants = (0.005, 0.02)

    def __init__(self, sample, _):
        self.sample = sample

    def do(self, folder, rate):
        processes.Worker = OwnProcess
        study = Study(
            experiments=["QIN_sample"], seeds=[1], variations={"a": {}}, tests={"noisy": {"embedding_noise": 2.0}}
        )
        overrides = {**SETTINGS, "model_root": str(folder), "learning_rate": rate}
        runs = plan_runs(study, folder / "s.yaml")
        options = {"overrides": overrides, "data": self.sample}
        records, failures = execute.run_missing(study, runs, [-1], options, echo=lambda text: None)
        if failures:
            assert all("is being trained by process" in text for text in failures.values()), failures
            raise QinZooError(next(iter(failures.values())))
        return {run.name: [record["valid"], record["test"], record["tests"]] for run, record in records.items()}

    def kept(self, folder):
        return ()  # the runs are those of Runs


class Tuners:
    """A grid that several work on, and another one of the same file name."""

    variants = (0.01, 0.03)

    def __init__(self, sample, folder):
        self.project = write_project(folder, sample)

    def do(self, folder, rate):
        processes.Worker = OwnProcess
        file = folder / "search.yaml"
        if not file.exists():
            text = {"base_config": str(self.project / "config"), "base_expid": "base"}
            text["tuner_space"] = {"seed": [1, 2]}
            partial = folder / f"{os.getpid()}.yaml"
            partial.write_text(json.dumps(text))
            partial.replace(file)
        space = read_space(file, [f"model_root={folder}", f"learning_rate={rate}"])
        search = tuning.plan_search(space, plugins=[self.project / "toy.py"])
        worker = tuning.Tuner(search, echo=lambda text: None)
        worker.run()
        lines = read_lines(search, worker.study)
        assert [line.state for line in lines] == ["finished"] * 2
        for line in lines:
            record = json.loads((folder / "small" / f"{line.expid}.json").read_text())
            assert record["valid"]["AUC"] == line.value
            assert record["params"]["learning_rate"] == rate
        return {str(line.point["seed"]): [line.value, line.metrics] for line in lines}

    def kept(self, folder):
        url = f"sqlite:///{folder}/tune/search.db"
        for name in optuna.get_all_study_names(url):
            trials = [t for t in optuna.load_study(study_name=name, storage=url).trials if t.state.name == "COMPLETE"]
            assert sorted(t.user_attrs["slot"] for t in trials) == [0, 1]  # each once
            record = json.loads((folder / "small" / f"{trials[0].user_attrs['expid']}.json").read_text())
            found = {str(t.params["seed"]): [t.value, t.user_attrs["metrics"]] for t in trials}
            yield record["params"]["learning_rate"], found


class Encoders:
    """Two encoders for one modality, of which one may write it, and a third for another in the same file."""

    variants = (("text", "x"), ("text", "y"), ("more", "x"))

    def __init__(self, _, folder):
        self.items = pl.DataFrame({"item_id": range(60)}), pl.DataFrame(
            {"item_id": range(1, 60), "text": [f"item {i}" for i in range(1, 60)]}
        )

    def do(self, folder, variant):
        name, version = variant
        for table, stem in zip(self.items, ("item_info", "item_text")):
            if not (folder / f"{stem}.parquet").exists():
                table.write_parquet(folder / f"{stem}.{os.getpid()}.tmp")
                os.replace(folder / f"{stem}.{os.getpid()}.tmp", folder / f"{stem}.parquet")
        encode_items(folder, Slow(version), read_texts(folder), name, batch_size=4)
        store = EmbeddingStore(folder)
        stored = store.get(name)
        return [stored.version, np.concatenate(list(store.blocks(name))).tolist()]

    def kept(self, folder):
        store = EmbeddingStore(folder)
        for stored in store.entries():
            if stored.finished:
                rows = np.concatenate(list(store.blocks(store.get(stored.name).name))).tolist()
                yield (stored.name, stored.version), [stored.version, rows]


class Slow:
    """Vectors that say which encoder made them of which text."""

    name, modality, dim = "slow", "text", 3

    def __init__(self, version):
        self.version = version

    def fit(self, inputs):
        pass

    def encode(self, texts):
        time.sleep(0.005)
        made = [hashlib.sha256(f"{self.version} {text}".encode()).digest()[:3] for text in texts]
        return np.array([list(m) for m in made], np.float32)


class Importers:
    """Imports with two seeds of their negatives into one folder, each replacing the other's."""

    variants = (1, 2)

    def __init__(self, _, folder):
        self.source = folder / "toy"
        self.source.mkdir()
        g = np.random.default_rng(0)
        lines = [f"u{g.integers(20)}\ti{g.integers(30)}\t{t}" for t in range(600)]
        text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines])
        (self.source / "toy.inter").write_text(text + "\n")

    def do(self, folder, seed):
        summary = import_folder(
            "recbole", self.source, folder / "o", ImportOptions(seed=seed, negatives=2, force=True)
        )
        return [summary.users, summary.items, {name: vars(counts) for name, counts in summary.splits.items()}]

    def kept(self, folder):
        out = folder / "o"
        if (out / "import.json").exists():  # without it, it is no import
            found = json.loads((out / "import.json").read_text())
            mine = digests(out)
            for name in ("import.json", "dataset_config.yaml"):  # paths stand in them
                del mine[name]
            seed = found["options"]["seed"]
            yield seed, [found["users"], found["items"], found["splits"]]
            assert mine == self.files.setdefault(seed, mine), "files of two imports"

    files: dict


# ---- at once


def child(kind, folder, variant, out):
    try:
        found = {"own": kind.do(folder, variant)}
    except QinZooError as error:
        found = {"refused": str(error)}
    except BaseException:
        found = {"crashed": traceback.format_exc()}
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(out)


class Crowd:
    """Processes that do one kind of thing in one folder."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.started = kind, folder, []
        (folder / "at").mkdir(parents=True)
        (folder / "said").mkdir()

    def start(self, variant):
        out = self.folder / "said" / f"{len(self.started)}.json"
        process = start(child, self.kind, self.folder / "at", variant, out)
        self.started.append((process, variant, out))

    def said(self):
        """(variant, outcome, what) of those that were not killed, when all have ended."""
        for process, variant, out in self.started:
            process.join()
            if out.exists():
                ((outcome, what),) = json.loads(out.read_text()).items()
                yield variant, outcome, what

    def work(self, g, seconds, most):
        """Lets several work at once, kills some of them and begins these again; in the end each once more.

        Returns:
            how many were killed, ``most`` at most.
        """
        variants, killed = self.kind.variants, 0
        for n in range(AT_ONCE):
            self.start(variants[n % len(variants)])
        while killed < min(most, max(1, AT_ONCE // 2)):
            time.sleep(g.uniform(0, 0.7 * seconds))
            alive = [(process, variant) for process, variant, _ in self.started if process.is_alive()]
            if not alive:
                break
            process, variant = g.choice(alive)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += process.exitcode == -signal.SIGKILL
            self.start(variant)
        for process, *_ in self.started:
            process.join()
        for variant in variants:
            self.start(variant)
        return killed


@pytest.mark.slow
@pytest.mark.parametrize("make", [Runs, Studies, Tuners, Encoders, Importers], ids=lambda kind: kind.__name__)
def test_every_result_is_its_own(make, sample, tmp_path):
    (tmp_path / "made").mkdir()
    kind, g = make(sample, tmp_path / "made"), random.Random(make.__name__)
    kind.alone, kind.files, begun = {}, {}, time.monotonic()
    for n, variant in enumerate(kind.variants):
        crowd = Crowd(kind, tmp_path / f"alone{n}")
        crowd.start(variant)
        ((_, outcome, what),) = crowd.said()
        assert outcome == "own", what
        kind.alone[variant] = what
        assert all(what == kind.alone[of] for of, what in kind.kept(crowd.folder / "at"))
    seconds = (time.monotonic() - begun) / len(kind.variants)

    killed, outcomes, kept = 0, Counter(), 0
    for number in range(1 if KILLS == 1 else KILLS):
        crowd = Crowd(kind, tmp_path / f"together{number}")
        killed += crowd.work(g, seconds, KILLS - killed)
        for variant, outcome, what in crowd.said():
            outcomes[outcome] += 1
            assert outcome != "crashed", what
            assert outcome == "refused" or what == kind.alone[variant], f"{variant} has the result of another one"
        found = list(kind.kept(crowd.folder / "at"))
        assert all(what == kind.alone[of] for of, what in found)
        kept += len(found)
        if killed == KILLS:
            break
    assert outcomes["own"], outcomes
    print(f"{make.__name__}: {AT_ONCE} at once, {killed} killed, {dict(outcomes)}, {kept} kept", flush=True)
