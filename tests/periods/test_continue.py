"""`qin-zoo continue`: rows, staleness and weights from period to period, against what the files themselves say."""

# ruff: noqa: F811 (fixtures that are imported)

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from period_runs import COLUMNS, SMALL, run, without_pictures, write_items  # noqa: F401

from qin_zoo.bootstrap import Draws
from qin_zoo.data.periods import cut_into_periods
from qin_zoo.errors import QinZooError
from qin_zoo.experiment.continued import prepare_continuation
from qin_zoo.experiment.predict import predict_split
from qin_zoo.experiment.prepare import prepare_params
from qin_zoo.experiment.run import run_experiment
from qin_zoo.periods.period import METHODS
from qin_zoo.results.entry import entry_of
from qin_zoo.results.lines import boards
from qin_zoo.results.render import write_markdown
from qin_zoo.results.trained import find_run
from qin_zoo.study.execute import train
from qin_zoo.study.periods import over_periods
from qin_zoo.study.plan import plan_runs, read_study


def go_on(record, folder, echo=lambda _: None, resume=False, name=None, **changes):
    path = record["files"]["record"]
    prepared = prepare_continuation(Path(path), folder, name=name, overrides=changes)
    return run_experiment(prepared, folder.parent, echo=echo, resume=resume)


def held(folder, frame) -> list[set]:
    """The values of each row: its user, and of its items the numbers and the tags."""
    tags = pl.read_parquet(folder / "item_info.parquet")["tags"].to_list()
    found = []
    for user, item, history in frame.select("user", "item_id", "item_seq").iter_rows():
        items = [item, *history]
        found.append({("user", user), *(("item_id", i) for i in items), *(("tags", t) for i in items for t in tags[i])})
    return [{(name, v) for name, v in row if v} for row in found]


def test_rows_and_staleness_of_two_periods(run):
    record, folders = run
    pool = pl.read_parquet(folders[0] / "train.parquet")
    stale: Counter = Counter()
    for t in (1, 2):
        new = pl.read_parquet(folders[t] / "train.parquet")
        occurs = set().union(*held(folders[t], new))
        sizes = {"user": 40, "item_id": (0, 35, 37)[t], "tags": 13}
        every = {(name, value) for name, size in sizes.items() for value in range(1, size)}
        stale = Counter({value: stale[value] + 1 for value in every - occurs})
        weight = {value: 1 / s + 1 for value, s in stale.items()}
        rows, covered, chosen = held(folders[t], pool), set(), []
        while len(chosen) < len(new):
            gains = [round(sum(weight.get(v, 0) for v in row - covered), 9) for row in rows]
            if not max(gains):
                break
            chosen.append(int(np.argmax(gains)))
            covered |= rows[chosen[-1]]
        record = go_on(record, folders[t])
        assert record["expid"] == f"r.p{t}"
        pool = pl.read_parquet(f"checkpoints/d/r.p{t}.train.parquet")
        assert len(pool) == len(chosen) + len(new)
        assert held(folders[t], pool) == [rows[i] for i in sorted(chosen)] + held(folders[t], new)
        with np.load(f"checkpoints/d/r.p{t}.staleness.npz") as file:
            for name, size in sizes.items():
                assert file[name].tolist() == [stale[name, v] for v in range(size)], name
        facts = record["period"]
        assert (facts["number"], facts["replayed"], facts["rows"]) == (t, len(chosen), len(new))
    assert record["sizes"]["item_id"]["vocab_size"] == 37, "a table grows"
    assert record["data"]["train"]["rows"] == len(new)


def test_the_rivals(run):
    record, folders = run
    found = {}
    for method in METHODS:
        lines = []
        found[method] = go_on(record, folders[1], lines.append, name=method, replay=method)
        assert any("begin anew" in line for line in lines) == (method == "all")
    replayed = {m: r["period"]["replayed"] for m, r in found.items()}
    assert replayed["none"] == 0
    assert replayed["random"] == replayed["all"] == 48
    assert 0 < replayed["fesail"] < 48
    assert go_on(record, folders[1], resume=True, name="random", replay="random") == found["random"], "finished"
    again = go_on(found["random"], folders[2])
    assert again["params"]["replay"] == "random"
    assert again["period"]["pool"] == 96


def test_weights_are_taken_over_and_stale_rows_held_back(run):
    record, folders = run
    old = torch.load("checkpoints/d/r.model", weights_only=True)
    name = next(n for n in old if "item_id" in n)
    held_back = go_on(record, folders[1], name="held", stale_strength=1e6)
    new = torch.load("checkpoints/d/held.model", weights_only=True)
    with np.load("checkpoints/d/held.staleness.npz") as file:
        stale = file["item_id"][: len(old[name])] > 0
    assert stale.sum() >= 8
    same = (new[name][: len(old[name])] == old[name]).all(1).numpy()
    assert same[stale].all()
    assert same[~stale].mean() < 0.5, "an MLP trains targets, not items of histories"
    go_on(record, folders[1], name="free", stale_strength=0)
    free = torch.load("checkpoints/d/free.model", weights_only=True)
    assert not (free[name][: len(old[name])] == old[name]).all(1).numpy()[stale].all()
    lines = []
    retired = go_on(record, folders[1], lines.append, name="retired", retire_after=1)
    assert any("rows of retired values begin anew" in line for line in lines)
    assert retired["period"]["replayed"] == 0, "none is trained again for them"
    assert held_back["period"]["replayed"] > 0


def test_what_is_refused(run, tmp_path):
    record, folders = run
    named = pl.read_parquet(folders[1] / "ids_item.parquet")
    named.with_columns(pl.col("original_id").reverse()).write_parquet(folders[1] / "ids_item.parquet")
    with pytest.raises(QinZooError, match=r"expected number 1 to be 'film 1', as in .*p0.*; it is 'film 34'"):
        go_on(record, folders[1])
    named.write_parquet(folders[1] / "ids_item.parquet")
    first = go_on(record, folders[1])
    Path("checkpoints/d/r.p1.train.parquet").unlink()
    with pytest.raises(QinZooError, match="replay none"):
        go_on(first, folders[2])
    assert go_on(first, folders[2], replay="none")["period"]["number"] == 2
    path = Path(record["files"]["record"])
    prepared = prepare_continuation(path, folders[1])
    path.write_text(path.read_text().replace(record["sha256"]["checkpoint"], "0" * 64))
    with pytest.raises(QinZooError, match="trained again since"):
        run_experiment(prepared, tmp_path, echo=lambda _: None, overwrite=True)


def test_words_of_csv_files_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [["b", "b", "a", "c"], ["z", "a", "a", "d"], ["z", "q", "b", "b"]]
    for t, known in enumerate(words):
        (tmp_path / f"p{t}").mkdir()
        for split in ("train", "valid", "test"):
            rows = [f"{word},{i % 2},{i}" for i, word in enumerate(known * 2)]
            (tmp_path / f"p{t}" / f"{split}.csv").write_text("\n".join(["word,label,x", *rows]) + "\n")
    columns = [
        {"name": "word", "dtype": "str", "type": "categorical"},
        {"name": "x", "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    ]
    params = SMALL | {"dataset_id": "c", "feature_cols": columns, "label_col": {"name": "label", "dtype": "float"}}
    params |= {"data_root": str(tmp_path / "data"), "data_format": "csv", "batch_size": 4}
    params |= {f"{s}_data": str(tmp_path / "p0" / f"{s}.csv") for s in ("train", "valid", "test")}
    record = run_experiment(prepare_params("r", params, tmp_path), tmp_path, echo=lambda _: None)
    numbers = []
    for t in (1, 2):
        record = go_on(record, tmp_path / f"p{t}")
        encoder = json.loads(Path(f"checkpoints/c/r.p{t}.encoder.json").read_text())["vocabularies"]["word"]
        assert encoder["words"] == ["b", "a", "c"]
        numbers.append(encoder["beyond"])
        rows = pl.read_parquet(f"checkpoints/c/r.p{t}.train.parquet")["word"].to_list()
        known = dict(zip([*encoder["words"], None, *encoder["beyond"]], range(1, 20)))
        assert rows[-8:] == [known[w] for w in words[t] * 2]
    assert numbers == [["z", "d"], ["z", "d", "q"]] or numbers == [["d", "z"], ["d", "z", "q"]]
    assert record["sizes"]["word"]["vocab_size"] == 5 + 3
    # of the first period's rows one with c, which did not occur since
    assert rows[:-8].count(known["c"]) == 1
    prepared, weights = find_run("checkpoints/c/r.p2.json", None, None)
    files = predict_split(prepared, "test", weights, tmp_path / "again", echo=lambda _: None)
    assert files.prediction.read_bytes() == Path(record["files"]["prediction"]).read_bytes()


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(run):
    record, folders = run
    whole = go_on(record, folders[1], name="whole", epochs=3)

    def stop(evaluation):
        if evaluation.epoch == 2:
            raise KeyboardInterrupt

    prepared = prepare_continuation(Path(record["files"]["record"]), folders[1], name="cut", overrides={"epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepared, folders[1].parent, echo=lambda _: None, on_evaluation=stop)
    assert not Path("checkpoints/d/cut.json").exists()
    lines = []
    again = go_on(record, folders[1], lines.append, resume=True, name="cut", epochs=3)
    assert any("Resumed after step" in line for line in lines)
    assert again["valid"] == whole["valid"]
    one, other = (torch.load(f"checkpoints/d/{name}.model", weights_only=True) for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_study_over_periods(run, tmp_path):
    record, folders = run
    keys = ("feature_cols", "label_col", "item_info", "train_data", "valid_data", "test_data")
    dataset = {"d": {key: record["params"][key] for key in keys}}
    model = {"E": {**SMALL, "dataset_id": "d", "max_len": 4, "model_root": "./studied/"}}
    (tmp_path / "dataset_config.yaml").write_text(json.dumps(dataset))
    (tmp_path / "model_config.yaml").write_text(json.dumps(model))
    study = {"experiments": ["E"], "seeds": [1, 2], "periods": list(map(str, folders[1:]))}
    study["variations"] = {"random": {"replay": "random"}}
    (tmp_path / "s.yaml").write_text(json.dumps(study))
    plan = read_study(tmp_path / "s.yaml")
    runs, records = plan_runs(plan, tmp_path / "s.yaml"), {}
    for planned in runs:
        said, records[planned] = train((plan, planned, {}), -1, None)
        assert said == "done", records[planned]
    names = sorted(file.stem for file in Path("studied/d").glob("E*.json"))
    assert names == ["E.pretrained.s1", "E.pretrained.s2", *(f"E.random.s{s}.p{n}" for s in (1, 2) for n in (1, 2))]
    for planned, found in records.items():
        single = [json.loads(Path(f"studied/d/{planned.name}.p{n}.json").read_text()) for n in (1, 2)]
        assert found["test"]["AUC"] == np.mean([r["test"]["AUC"] for r in single])
        assert [r["params"]["seed"] for r in single] == [planned.seed] * 2
        assert found["rows"]["test"] == sum(r["rows"]["test"] for r in single)
        assert entry_of(found).seconds == sum(r["evaluations"][-1]["seconds"] for r in single), "of training"
        drawn = Draws.from_dict(found["draws"])
        mean = drawn.values["AUC"].mean()
        assert mean == pytest.approx(found["test"]["AUC"], abs=0.01), "of a thousand draws"
        assert over_periods(planned, planned.prepare(), {}) == found, "it is finished"
    (board,) = boards(entry_of(r, r) for r in records.values())
    assert [(line.name, len(line.seeds)) for line in board.lines] == [("E, random", 2)]
    write_markdown([board], tmp_path / "page.md", "periods", {})
    assert "By period" in (tmp_path / "page.md").read_text()


def test_cutting_a_folder(tmp_path):
    (tmp_path / "all").mkdir()
    for split, (first, last) in {"train": (0, 150), "valid": (150, 180), "test": (180, 203)}.items():
        pl.DataFrame({"row": np.arange(first, last)}).write_parquet(tmp_path / "all" / f"{split}.parquet")
    (tmp_path / "all/ids_item.parquet").write_bytes(b"the same")
    found = cut_into_periods(tmp_path / "all", tmp_path / "cut", 4, 0.2)
    files = [[tmp_path / f"cut/{t}/{split}.parquet" for split in ("train", "valid", "test")] for t in range(4)]
    rows = [[pl.read_parquet(file)["row"].to_list() for file in three] for three in files]
    periods = [train + valid for train, valid, _ in rows]
    assert periods[0] == list(range(101))
    assert [row for period in [*periods, rows[-1][2]] for row in period] == list(range(203)), "every row, in its order"
    assert [rows[t][2] for t in range(3)] == periods[1:], "each is tested on the next"
    assert {len(period) for period in periods[1:]} <= {25, 26}
    assert [len(valid) for _, valid, _ in rows] == [20, 5, 5, 5]
    assert found[0] == {"train": 81, "valid": 20, "test": len(periods[1])}
    assert (tmp_path / "cut/3/ids_item.parquet").read_bytes() == b"the same"
    with pytest.raises(QinZooError, match="is there already"):
        cut_into_periods(tmp_path / "all", tmp_path / "cut", 4)
    with pytest.raises(QinZooError, match="too few"):
        cut_into_periods(tmp_path / "all", tmp_path / "other", 80)


def test_histories_that_stand_once_per_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    g, lists = np.random.default_rng(5), [[] for _ in range(12)]
    for t in range(3):
        oldest = 1 + 6 * t
        lists = [seen + g.integers(oldest, 30, 3).tolist() for seen in lists]
        folder = tmp_path / f"p{t}"
        folder.mkdir()
        pl.DataFrame({"full_item_seq": lists}).write_parquet(folder / "user_info.parquet")
        pl.DataFrame({"item_index": np.arange(30)}).write_parquet(folder / "item_info.parquet")
        for split in ("train", "valid", "test"):
            columns = {"user_index": g.integers(0, 12, 40), "item_index": g.integers(oldest, 30, 40)}
            columns |= {"seq_len": g.integers(0, 3 * t + 4, 40), "label": np.arange(40) % 2}
            pl.DataFrame(columns).write_parquet(folder / f"{split}.parquet")
    columns = [{"name": name, "dtype": "int", "type": "meta"} for name in ("user_index", "seq_len")]
    columns.append({"name": "item_index", "dtype": "int", "type": "categorical", "source": "item", "vocab_size": 30})
    params = SMALL | {"model": "DIN", "dataset_id": "u", "feature_cols": columns, "attention_hidden_units": [4]}
    params |= {"label_col": {"name": "label", "dtype": "float"}, "max_len": 12}
    names = ("train_data", "valid_data", "test_data", "item_info", "user_info")
    params |= {name: str(tmp_path / f"p0/{name.removesuffix('_data')}.parquet") for name in names}
    record = run_experiment(prepare_params("r", params, tmp_path), tmp_path, echo=lambda _: None)
    record = go_on(record, tmp_path / "p1")
    assert record["period"]["replayed"] > 0
    changed = pl.DataFrame({"full_item_seq": [seen[::-1] for seen in lists]})
    changed.write_parquet(tmp_path / "p2/user_info.parquet")
    with pytest.raises(QinZooError, match="to be as it was"):
        go_on(record, tmp_path / "p2")
