"""Results: collected, merged, and set side by side; every number against its definition."""

import csv
import json
import math
import statistics
import warnings
from urllib.parse import unquote

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from qin_zoo.bootstrap import draw_users
from qin_zoo.cli import main
from qin_zoo.experiment.record import SCHEMA_VERSION, read_record, write_record
from qin_zoo.metrics import evaluate_metrics
from qin_zoo.pages.plots import style
from qin_zoo.results.entry import entry_of
from qin_zoo.results.lines import boards, compare
from qin_zoo.results.probes import write_probe
from qin_zoo.results.statistics import Estimate, deviation, estimate, holm, mean_and_spread
from qin_zoo.results.store import Store, find_results
from qin_zoo.results.tables import tables


def record(expid="QIN_x", seed=1, auc=0.7, dataset="d", rows="r", seconds=10.0, **params):
    """A run's record, as run_experiment writes it."""
    split = {"file": "test.parquet", "rows": 100, "blake2b": rows, "item_info": {"file": dataset}}
    look = {"train_loss": 0.5, "learning_rate": 0.001, "best": True}
    return {
        "schema_version": SCHEMA_VERSION,
        "expid": expid,
        "model": expid.split("_")[0],
        "dataset_id": dataset,
        "params": {
            "seed": seed,
            "model_id": expid,
            "dataset_id": dataset,
            "monitor": "AUC",
            "feature_cols": [],
            **params,
        },
        "parameters": 1234,
        "rows": {"train": 1000, "valid": 100, "test": 100},
        "valid": {"AUC": auc - 0.01, "logloss": 0.5},
        "test": {"AUC": auc, "logloss": 0.4},
        "reachable": None,
        "calibration": {"test": {"ece": 0.02, "rows": [50, 50], "predicted": [0.2, 0.6], "clicked": [0.1, 0.7]}},
        "scoring": {"rows": 200, "seconds": 0.5},
        "evaluations": [
            {**look, "epoch": 1, "step": 8, "metrics": {"AUC": auc - 0.1}, "seconds": seconds / 2},
            {**look, "epoch": 2, "step": 16, "metrics": {"AUC": auc}, "seconds": seconds},
        ],
        "seconds": seconds + 5,
        "environment": {"cpus": 2},
        "data": {"valid": {**split, "blake2b": rows + "v"}, "test": split},
        "files": {},
    }


def write(folder, *records):
    for r in records:
        file = folder / r["dataset_id"] / f"{r['expid']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(r))
    return folder


def many(**changes):
    """Three seeds of two models and of a variation of the first."""
    made = []
    for seed, noise in ((1, 0.0), (2, 0.01), (3, -0.01)):
        made.append(record(f"QIN_x.plain.s{seed}", seed, 0.70 + noise, **changes))
        made.append(record(f"QIN_x.mean.s{seed}", seed, 0.69 + 1.2 * noise, attention="mean", **changes))
        made.append(record(f"DIN_x.plain.s{seed}", seed, 0.60 - noise, **changes))
    return made


def told(table, first):
    """A row of a table, heading -> text."""
    return next(dict(zip(table.header, (c.text for c in row))) for row in table.rows if row[0].text == first)


def test_the_name_says_experiment_variation_and_seed():
    entry = entry_of(record("QIN_x.two.rows.s3", 3))
    assert (entry.experiment, entry.variation, entry.seed) == ("QIN_x", "two.rows", 3)
    entry = entry_of(record("QIN_x", 3))
    assert (entry.experiment, entry.variation) == ("QIN_x", "plain")
    assert entry.scored == 400
    assert entry.curve == pytest.approx([0.6, 0.7])
    assert entry.calibration["ece"] == 0.02


def strict(text):
    """What a reader makes of JSON that knows no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_metric_that_is_not_a_number_is_null_in_files(tmp_path, capsys):
    """The AUC of rows of one class. Files of old, in which NaN stands, are read as ever."""
    made = record(auc=math.nan, rate=math.inf) | {"valid": {"AUC": 0.6}}
    old, new = write(tmp_path / "old", made) / "d/QIN_x.json", tmp_path / "new/d/QIN_x.json"
    write_record(new, made)
    assert math.isinf(json.loads(new.read_text())["params"].pop("rate"))  # a parameter is what it was
    write_record(new, record(auc=math.nan) | {"valid": {"AUC": 0.6}})
    assert strict(new.read_text())["test"] == {"AUC": None, "logloss": 0.4}
    for file in (old, new):
        found = read_record(file)
        assert math.isnan(found["test"]["AUC"])
        assert math.isnan(found["evaluations"][1]["metrics"]["AUC"])
        assert (found["test"]["logloss"], found["valid"]["AUC"]) == (0.4, 0.6)
    store = Store(tmp_path / "s")
    store.add(entry_of(read_record(new)))
    (file,) = store.folder.glob("*/*.json")
    strict(file.read_text())
    (entry,) = store.entries(warn=pytest.fail)
    assert math.isnan(entry.values["AUC"])
    assert store.add(entry_of(read_record(new))) == "known"
    with pytest.raises(SystemExit):
        main(["runs", "--root", str(new.parents[1]), "--json"])
    (listed,) = strict(capsys.readouterr().out)
    assert listed["metrics"]["test"] == {"AUC": None, "logloss": 0.4}


def test_the_same_again_is_the_same_line_and_another_result_another(tmp_path):
    store = Store(tmp_path / "s")
    assert store.add(entry_of(record(seconds=10))) == "new"
    assert store.add(entry_of(record(seconds=99))) == "known"  # a slower machine, the same result
    assert store.add(entry_of(record(auc=0.71))) == "new"  # other threads, other sums
    assert store.add(entry_of(record(learning_rate=0.1))) == "new"
    assert len(store.entries()) == 3
    (board,) = boards(store.entries())
    first = next(line for line in board.lines if "learning_rate" not in line.first.params)
    assert first.metric("AUC") == {1: pytest.approx(0.705)}  # a seed that was repeated counts once


def test_two_machines_merge_in_any_order(tmp_path):
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    for i, r in enumerate(many()):
        (one if i % 2 else two).add(entry_of(r))
    one.add(entry_of(record("QIN_x.plain.s1", 1, 0.7)))
    both, other = Store(tmp_path / "both"), Store(tmp_path / "other")
    for entry in find_results([one.folder, two.folder]):
        both.add(entry)
    for entry in find_results([two.folder, one.folder]):
        other.add(entry)
    names = sorted(f.relative_to(both.folder) for f in both.folder.rglob("*.json"))
    assert names == sorted(f.relative_to(other.folder) for f in other.folder.rglob("*.json"))
    assert len(names) == 9
    for name in names:
        assert (both.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_tests_and_slices_complete_an_entry(tmp_path):
    runs, store = write(tmp_path / "runs", record()), Store(tmp_path / "s")
    file = next(runs.rglob("*.json"))
    (plain,) = find_results([runs])
    assert store.add(plain) == "new"
    write_probe(file, record(), {"tests": {"t": {}}}, {"tests": {"t": {"AUC": 0.5}}, "slices": {}})
    (tested,) = find_results([runs])
    assert store.add(tested) == "completed"
    assert store.add(plain) == "known"
    assert store.entries()[0].tests == {"t": {"AUC": 0.5}}
    drawn = {"draws": {"groups": 1, "drawn": "x", "values": {}}}
    drawn["tuning"] = {"asked": "3 trials", "trials": 3, "minutes": 0.5}
    assert store.add(entry_of(record() | drawn)) == "completed"
    assert store.entries()[0].tuning == drawn["tuning"]
    assert store.entries()[0].tests == {"t": {"AUC": 0.5}}
    write_probe(file, record(auc=0.7, learning_rate=9), {}, {"tests": {"u": {}}, "slices": {}})
    assert next(find_results([runs])).tests == {}  # of another run


def test_models_with_named_variations_only_stand_in_the_first_table():
    entries = [entry_of(r) for r in many() if "QIN_x.plain" not in r["expid"]]
    (board,) = boards([*entries, *(entry_of(record(f"QIN_x.max.s{s}", s, 0.71, attention="max")) for s in (1, 2))])
    models, _ = tables(board)
    assert [row[0].text for row in models.rows] == ["QIN_x, max", "QIN_x, mean", "DIN_x"]


def test_lines_are_ranked_and_differences_paired_by_seed():
    from scipy.stats import t, ttest_1samp

    (board,) = boards(map(entry_of, many()))
    models, variations = tables(board)
    assert [row[0].text for row in models.rows] == ["QIN_x", "DIN_x"]
    line = told(models, "QIN_x")
    assert line["AUC"] == "0.7000 ± 0.0100"
    assert line["parameters"] == "1,234"
    assert line["training s"] == "10"
    assert line["rows/s scored"] == "400"
    gaps = [0.60 - n - 0.70 - n for n in (0.0, 0.01, -0.01)]
    assert float(told(models, "DIN_x")["p"]) == pytest.approx(float(ttest_1samp(gaps, 0).pvalue), abs=1e-3)
    change = told(variations, "mean")
    low, high = t.interval(0.95, 2, -0.01, 0.002 / math.sqrt(3))
    assert change["Δ AUC"] == f"-0.0100 [{low:+.4f}, {high:+.4f}] *"  # p 0.013 twice, after Holm 0.026
    assert told(variations, "plain")["Δ AUC"] == ""


def test_what_was_scored_on_other_rows_is_not_compared():
    found = boards(
        map(entry_of, [record(), record("DIN_x", dataset="d_codes"), record("MLP_x", dataset="e", rows="other")])
    )
    assert [(b.name, sorted(line.name for line in b.lines)) for b in found] == [
        ("d", ["DIN_x", "QIN_x"]),
        ("e", ["MLP_x"]),
    ]


def test_a_board_is_called_after_what_most_of_it_is():
    """Strategies of embeddings have datasets of their own, on the rows of the models'."""
    several = [record("MLP_x", dataset="d_a"), record("QIN_x", dataset="d_b"), record("DIN_x", dataset="d_b")]
    assert [board.name for board in boards(map(entry_of, several))] == ["d_b"]


def test_lines_of_one_experiment_are_called_after_what_differs():
    """Its dataset; then one or two parameters; a number only where these do not tell."""

    def names(*runs: dict) -> list[str]:
        made = [{**record("QIN_x", seed=1, dataset=r.pop("dataset", "d")), "line": ["QIN_x", "plain"]} for r in runs]
        entries = [entry_of({**one, "params": {**one["params"], **params}}) for one, params in zip(made, runs)]
        return [line.name for line in boards(entries)[0].lines]

    assert names({"seed": 1}, {"seed": 2}) == ["QIN_x"]
    assert names({}, {"epochs": 9}) == ["QIN_x", "QIN_x, epochs=9"]
    assert names({"epochs": 8}, {"epochs": 9}, {"dataset": "e"}) == [
        *("QIN_x on d, epochs=8", "QIN_x on d, epochs=9", "QIN_x on e")
    ]
    far = names({}, {"a": 1, "b": 2, "c": 3})
    assert far[0] == "QIN_x"
    assert far[1].startswith("QIN_x #")


def test_boards_of_one_dataset_id_are_told_apart(tmp_path, capfd):
    """A dataset whose files changed: two boards, whose pictures must not be each other's."""
    store = Store(tmp_path / "s")
    for rows in ("r", "other"):
        for r in (record("QIN_x", rows=rows), record("DIN_x", rows=rows)):
            store.add(entry_of(r))
    found = boards(store.entries())
    names = [board.name for board in found]
    assert len(set(names)) == 2
    assert all(name.startswith("d #") for name in names)
    page = tmp_path / "page.md"
    assert run(capfd, "leaderboard", "--store", store.folder, "--markdown", page)[0] == 0
    assert [line for line in page.read_text().splitlines() if line.startswith("## ")] == [f"## {n}" for n in names]
    assert len(list(tmp_path.glob("*.png"))) == len(set(pictures_of(page))) == 8
    assert run(capfd, "leaderboard", "--store", store.folder, "--dataset", names[0])[0] == 0


def pictures_of(page):
    """What a Markdown parser of others takes for pictures, as names of files."""
    inline = [t for token in MarkdownIt().parse(page.read_text()) for t in token.children or [] if t.type == "image"]
    return [unquote(token.attrs["src"]) for token in inline]


def test_markdown_shows_pictures_and_tables_whatever_names_hold(tmp_path, capfd):
    """Names of runs may hold spaces and brackets; metrics' parts in a store of others whatever they like."""
    store = Store(tmp_path / "s")
    for variation in ("plain", "100 % [a) b"):
        r = record(f"A (1) ü.{variation}.s1", dropout=variation)
        store.add(entry_of(r, {"tests": {"a|b\n<script>": {"AUC": 0.6}}, "slices": {}}))
    page = tmp_path / "my (first) page.md"
    assert run(capfd, "leaderboard", "--store", store.folder, "--markdown", page)[0] == 0
    assert sorted(pictures_of(page)) == sorted(file.name for file in tmp_path.glob("*.png"))
    html = MarkdownIt().enable("table").render(page.read_text())
    assert "<th style=\"text-align:right\">a|b &lt;script&gt;</th>" in html
    assert html.count("<table>") == 3
    assert "<script>" not in html


def test_rows_that_one_result_joins_are_one_board():
    """Files a and b hold the same rows, as the last one tells, and c others."""
    old = [record("QIN_x", dataset="d_b", rows="b"), record("DIN_x", dataset="d", rows="a"), record("MLP_x", rows="c")]
    joins = [{**record(f"FCN_{rows}", rows=rows), "draws": {"groups": 1, "drawn": "", "truth": "t", "values": {}}}
             for rows in "ab"]  # fmt: skip
    names = [{line.name for line in board.lines} for board in boards(map(entry_of, [*old, *joins]))]
    assert sorted(names, key=len) == [{"MLP_x"}, {"QIN_x", "DIN_x", "FCN_a", "FCN_b"}]


def test_statistics():
    values = [0.01, 0.02, 0.03]
    t = 0.02 / (0.01 / math.sqrt(3))  # mean / (s / √n), two degrees of freedom
    assert estimate(values).p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert math.isnan(estimate([0.1]).p)
    assert estimate([0.0, 0.0]).p == 1
    assert estimate([0.1, 0.1]).p == 0
    assert mean_and_spread([0.5]) == "0.5000"
    assert mean_and_spread(values, 2) == f"0.02 ± {statistics.stdev(values):.2f}"


def test_two_errors_add_up_as_in_welch_s_test():
    """Welch's is a difference of two means, whose errors have degrees of freedom of their own."""
    from scipy.stats import ttest_ind

    one, two = np.random.default_rng(0).normal(0.3, 1, 12), np.random.default_rng(1).normal(0, 3, 5)
    errors = one.std(ddof=1) / math.sqrt(12), two.std(ddof=1) / math.sqrt(5)
    found = Estimate(float(one.mean() - two.mean()), *errors, (11, 4))
    welch = ttest_ind(one, two, equal_var=False)
    assert found.p == pytest.approx(float(welch.pvalue))
    interval = welch.confidence_interval(0.95)
    assert [found.mean - found.half, found.mean + found.half] == pytest.approx([interval.low, interval.high])


def test_what_is_visible_is_found_four_times_in_five():
    from scipy.stats import nct, t

    for freedom in (2, 30, 1000):
        found = Estimate(0.0, 0.01, math.nan, (freedom, 1))
        power = nct.sf(t(freedom).ppf(0.975), freedom, found.visible / 0.01)
        assert power == pytest.approx(0.8, abs=0.02 if freedom > 2 else 0.1)


def test_one_user_tells_nothing_of_others():
    """As scipy, whose bootstrap wants two observations: no interval of width 0, and no difference that is certain."""
    from scipy.stats import bootstrap

    y_true, y_pred, users = np.tile([0, 1], 20), np.random.default_rng(0).random(40), np.repeat(np.arange(20), 2)
    alone = draw_users(y_true, y_pred, ["AUC", "gAUC"], np.zeros(40))
    one_of_all = draw_users(np.r_[[0, 1], np.zeros(38)], y_pred, ["gAUC"], users)  # the others' rows have no click
    with pytest.raises(ValueError, match="two or more"):
        bootstrap(([0.7],), np.mean)
    for draws, metric in ((alone, "AUC"), (alone, "gAUC"), (one_of_all, "gAUC")):
        found = estimate([0.1], draws.values[metric], draws.groups)
        assert math.isnan(found.error)
        assert found.interval is None
        assert math.isnan(found.p)
    constant = draw_users(y_true, np.full(40, 0.3), ["AUC"], users)
    assert estimate([0.5], constant.values["AUC"], 20).interval == [0.5, 0.5]  # for any users


def test_p_values_of_several_comparisons():
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])  # R's p.adjust
    assert holm([0.5, math.nan, 0.02, 0.9]) == pytest.approx([1.0, math.nan, 0.06, 1.0], nan_ok=True)
    rng = np.random.default_rng(0)
    tests = rng.random((2000, 10))  # nothing is there to be found
    assert np.mean([min(holm(row)) < 0.05 for row in tests]) == pytest.approx(0.05, abs=0.015)


def with_draws(r, quality, rng_seed):
    """A record whose draws are of 60 users with ten rows each, and their model of this quality."""
    users = np.repeat(np.arange(60), 10)
    rng = np.random.default_rng(7)
    taste = rng.normal(size=600) + np.repeat(rng.normal(size=60), 10)
    y_true = (taste + rng.normal(size=600) > 0).astype(float)
    score = 1 / (1 + np.exp(-(quality * taste + 0.2 * np.random.default_rng(rng_seed).normal(size=600))))
    found = draw_users(y_true, score, ["AUC", "logloss"], users, 300)
    return r | {"draws": found.as_dict(), "test": evaluate_metrics(y_true, score, ["AUC", "logloss"])}


def test_users_are_in_the_intervals_and_pairs_are_surer_than_figures(tmp_path):
    store = Store(tmp_path / "s")
    for seed in (1, 2, 3):
        store.add(entry_of(with_draws(record(f"QIN_x.s{seed}", seed, group_id="user_id"), 0.5, seed)))
        store.add(entry_of(with_draws(record(f"DIN_x.s{seed}", seed, group_id="user_id"), 0.3, 9 + seed)))
    (board,) = boards(store.entries())  # from the store alone
    best, other = board.ranked()
    figure, apart = best.estimate("AUC"), compare(other, best, "AUC")
    drawn = [e.drawn.values["AUC"] for e in best.entries]
    assert figure.users == pytest.approx(float(np.std(np.mean(drawn, axis=0), ddof=1)), rel=1e-5)
    assert figure.half > 5 * deviation([e.values["AUC"] for e in best.entries])
    assert apart.users < 0.7 * figure.users
    table = tables(board)[0]
    assert told(table, "QIN_x")["AUC"].endswith(f"[{figure.mean - figure.half:.4f}, {figure.mean + figure.half:.4f}]")
    assert told(table, "DIN_x")["visible"] == f"{apart.visible:.4f}"
    assert "Users: 60 of user_id" in table.note


def test_a_model_of_one_seed_is_compared_with_one_of_three():
    found = [entry_of(record(f"QIN_x.s{s}", s, 0.7 + 0.01 * s)) for s in (1, 2, 3)]
    (board,) = boards([*found, entry_of(record("Trees_x", 1029, 0.75))])
    trees, zoo = board.ranked()
    apart = compare(zoo, trees, "AUC")
    assert apart.mean == pytest.approx(-0.03)
    assert apart.seeds == pytest.approx(0.01 / math.sqrt(3))


def test_one_model_under_two_names_counts_once():
    made = many() + [
        record(r["expid"].replace("DIN_x.plain", "QIN_x.none"), r["params"]["seed"], r["test"]["AUC"], attention="none")
        for r in many()
        if r["expid"].startswith("DIN_x")
    ]
    (board,) = boards(map(entry_of, reversed(made)))  # the variation first
    models, variations = tables(board)
    assert told(models, "DIN_x")["p"]
    assert told(variations, "none (= DIN_x)")["AUC"] == told(models, "DIN_x")["AUC"]
    assert "QIN_x, none gives the figures of DIN_x to the last digit" in variations.note
    again = [record(r["expid"].replace("DIN", "EIN"), r["params"]["seed"], r["test"]["AUC"], b=1) for r in many()]
    (board,) = boards(map(entry_of, made + [r for r in again if r["expid"].startswith("EIN")]))
    table = tables(board)[0]
    assert told(table, "EIN_x")["p"] == ""
    assert told(table, "DIN_x")["p"] == told(models, "DIN_x")["p"]  # of one comparison still


@pytest.mark.parametrize(
    ("values", "mode", "course"),
    [
        ([0.6, 0.7], "max", "still improving"),
        ([0.7, 0.6], "max", "best at the first look"),
        ([0.6, 0.7, 0.65], "max", ""),
        ([0.6, 0.5, 0.4], "min", "still improving"),
        ([0.6], "max", "one look"),
    ],
)
def test_suspicious_courses_are_told(values, mode, course):
    r = record(monitor_mode=mode)
    r["evaluations"] = [{"metrics": {"AUC": v}, "seconds": 1.0} for v in values]
    entry = entry_of(r)
    assert entry.course == course
    (table,) = tables(*boards([entry]))
    assert told(table, "QIN_x")["curves"] == (f"1 {course}" if course else "")
    assert (f"of 1 runs 1 {course}" in table.note) == bool(course)


def test_distance_from_the_best_that_is_possible():
    known = {"best_auc": 0.75, "blind_auc": 0.55}
    (board,) = boards(entry_of({**r, "reachable": known}) for r in many())
    table = tables(board)[0]
    assert told(table, "QIN_x")["below reachable"] == "0.0600 ± 0.0100"
    assert "0.7500" in table.note


def run(capfd, *argv):
    try:
        main([str(part) for part in argv])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    return status, capfd.readouterr()


def test_the_commands(tmp_path, capfd):
    runs = write(tmp_path / "runs", *many())
    (runs / "d/note.json").write_text('{"a": 1}')
    status, shown = run(capfd, "results", "add", runs, "--store", tmp_path / "s")
    assert (status, shown.out) == (0, f"{tmp_path / 's'}: 9 new\n")
    status, shown = run(capfd, "results", "add", runs, "--store", tmp_path / "s")
    assert "9 known already" in shown.out
    status, shown = run(capfd, "results", "list", "--store", tmp_path / "s")
    assert "9 runs" in shown.out
    assert shown.out.count("0.702000") == 1
    files = {kind: tmp_path / f"l.{kind}" for kind in ("html", "md", "csv")}
    argv = ["--html", files["html"], "--markdown", files["md"], "--csv", files["csv"], "--title", "A <b>"]
    status, shown = run(capfd, "leaderboard", "--store", tmp_path / "s", *argv)
    assert status == 0, shown.err
    assert "0.7000 ± 0.0100" in shown.out
    page = files["html"].read_text()
    assert "A &lt;b&gt;" in page
    assert "0.7000 ± 0.0100" in page
    assert not [part for part in ("http:", "https:", "src=", "@import", "url(h") if part in page]
    assert page.count("<svg") >= 3
    for picture in tmp_path.glob("l_*.png"):
        assert f"({picture.name})" in files["md"].read_text()
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == 9
    assert sorted(float(r["AUC"]) for r in rows if r["variation"] == "mean") == pytest.approx([0.678, 0.69, 0.702])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the record of a run"),
        ("[]", "expected the record of a run"),
        ('{"schema_version": 1, "setting": "x"}', "is no result of qin-zoo: experiment"),
        (
            '{"schema_version": 1, "expid": "E", "params": {}, "evaluations": [], "valid": {"AUC": 1}}',
            "record is damaged",
        ),
    ],
)
def test_files_that_are_no_results(content, message, tmp_path, capfd):
    file = tmp_path / "x.json"
    file.write_text(content)
    status, shown = run(capfd, "results", "add", file, "--store", tmp_path / "s")
    assert status == 1
    assert message in shown.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("key", ["expid", "dataset_id"])
def test_names_lead_to_no_other_folder(key, tmp_path, capfd):
    planted = record()
    planted[key] = "../../elsewhere"
    (tmp_path / "run.json").write_text(json.dumps(planted))
    with pytest.raises(SystemExit):
        main(["results", "add", str(tmp_path / "run.json"), "--store", str(tmp_path / "a/b/store")])
    assert "elsewhere" in capfd.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.json")] == ["run.json"]


def test_a_store_that_cannot_be_used(tmp_path, capfd):
    store = Store(tmp_path / "s")
    status, shown = run(capfd, "leaderboard", "--store", tmp_path / "s")
    assert status == 1
    assert "no folder of results" in shown.err
    store.add(entry_of(record()))
    status, shown = run(capfd, "leaderboard", "--store", store.folder, "--dataset", "dd")
    assert "Did you mean 'd'" in shown.err
    file = next(store.folder.rglob("*.json"))
    file.write_text("{")
    status, shown = run(capfd, "leaderboard", "--store", store.folder)
    assert status == 1
    assert "holds no results" in shown.err
    status, shown = run(capfd, "leaderboard", "--store", store.folder, "--html", tmp_path / "no/such.html")
    assert status == 1


def test_parts_of_a_slice_stand_in_the_order_of_their_numbers(tmp_path):
    parts = {name: {"rows": 10, "clicks": 5, "AUC": 0.6} for name in ("100+", "20–99", "0", "5–19", "1–4")}
    file = next(write(tmp_path / "runs", record()).rglob("*.json"))
    write_probe(file, record(), {}, {"tests": {}, "slices": {"item_clicks": parts}})
    store = Store(tmp_path / "s")
    for entry in find_results([file]):
        store.add(entry)
    (board,) = boards(store.entries())
    table = next(t for t in tables(board) if t.kind == "slices")
    assert table.header[1:] == ["0", "1–4", "5–19", "20–99", "100+"]
    assert told(table, "QIN_x")["5–19"] == "0.6000 (10)"


def losses(expid, *values, **metrics):
    """Runs of an experiment without an AUC, a seed each."""
    made = []
    for seed, value in enumerate(values, 1):
        r = record(f"{expid}.plain.s{seed}", seed, monitor="logloss", monitor_mode="min")
        r["test"] = r["valid"] = {"logloss": value, **metrics}
        made.append(r)
    return made


def test_less_of_a_loss_is_better():
    """Ranked by logloss, and tested against the best; the p-value is scipy's of the seeds' pairs."""
    from scipy.stats import ttest_rel

    best, worst = (0.30, 0.34, 0.31), (0.33, 0.32, 0.36)  # which is better changes with the seed
    (board,) = boards(map(entry_of, [*losses("DIN_x", *worst), *losses("QIN_x", *best)]))
    table = tables(board)[0]
    assert [row[0].text for row in table.rows] == ["QIN_x", "DIN_x"]
    assert "the best logloss first" in table.note
    p = float(ttest_rel(worst, best).pvalue)
    assert told(table, "DIN_x")["p"] == f"{p:.3f}"
    assert told(table, "QIN_x")["p"] == ""


def test_the_picture_of_costs_says_where_the_better_ones_are():
    from qin_zoo.results.plots import plots

    (board,) = boards(map(entry_of, [*losses("DIN_x", 0.3), *losses("QIN_x", 0.2)]))
    assert "down and left is better" in next(p for p in plots(board) if p.key == "cost").told
    (board,) = boards(map(entry_of, many()))
    assert "up and left is better" in next(p for p in plots(board) if p.key == "cost").told


def picture(board, key):
    from qin_zoo.results.plots import plots

    with style():
        return next(plot for plot in plots(board) if plot.key == key)


def test_pictures_and_tables_call_a_line_the_same():
    """One experiment on two datasets with the same rows: its variation alone would not tell which is which."""
    on = [record("QIN_x.plain.s1", auc=auc, dataset=name) for auc, name in ((0.7, "d"), (0.71, "d_text"))]
    (board,) = boards(map(entry_of, [*on, record("QIN_x.deep.s1", auc=0.72)]))
    table = next(t for t in tables(board) if t.kind == "variations")
    names = [row[0].text for row in table.rows]
    assert names == ["QIN_x on d", "QIN_x on d_text", "deep"]
    plot = picture(board, "variations_QIN_x")
    assert [label.get_text() for label in plot.figure.axes[0].get_yticklabels()] == names
    assert "the dashed line is QIN_x on d." in plot.told


@pytest.mark.parametrize("key", ["cost", "curves", "calibration"])
def test_of_many_series_no_two_look_alike(key):
    (board,) = boards(entry_of(record(f"M{n}_x", auc=0.5 + n / 100)) for n in range(30))
    drawn = [line for line in picture(board, key).figure.axes[0].lines if line.get_label().startswith("M")]
    assert len(drawn) == len({(line.get_color(), line.get_marker()) for line in drawn}) == 30


@pytest.mark.parametrize("key", ["calibration", "models"])
def test_long_names_leave_room_for_what_they_name(key):
    """Of many lines that parameters tell apart: their names are within the figure, and the axes are no sliver."""
    many = [record("QIN_x", auc=0.5 + n / 100, epochs=n, history_matches=n % 2 == 0) for n in range(24)]
    (board,) = boards(entry_of({**r, "line": ["QIN_of_a_long_name_x", "plain"]}) for r in many)
    assert max(len(line.name) for line in board.lines) > 40
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of axes that collapse
        figure = picture(board, key).figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    (ax,), width = figure.axes, figure.bbox.width
    assert ax.get_window_extent().height > 100
    texts = [text for legend in figure.legends for text in legend.get_texts()] or ax.get_yticklabels()
    assert len(texts) >= 24
    assert all(text.get_window_extent().x0 >= 0 and text.get_window_extent().x1 <= width for text in texts)


def test_p_values_are_scipy_s_for_differences_of_either_sign():
    from scipy.stats import ttest_rel

    one, other = [0.71, 0.68, 0.70, 0.73], [0.70, 0.70, 0.69, 0.70]
    differences = [a - b for a, b in zip(one, other)]
    assert estimate(differences).p == pytest.approx(float(ttest_rel(one, other).pvalue))


@pytest.mark.parametrize("broken", ["first", "last"])
def test_a_metric_that_is_no_number_is_shown_ranked_last_and_keeps_nobody_back(broken, tmp_path, capfd):
    store = Store(tmp_path / "s")
    for r in many():
        if r["expid"] == ("DIN_x.plain.s2" if broken == "first" else "QIN_x.plain.s2"):  # in the order of names
            r["test"] = r["test"] | {"AUC": math.nan}
        store.add(entry_of(r))
    files = {kind: tmp_path / f"l.{kind}" for kind in ("html", "md", "csv")}
    argv = ["--html", files["html"], "--markdown", files["md"], "--csv", files["csv"]]
    status, shown = run(capfd, "leaderboard", "--store", store.folder, *argv)
    assert status == 0, shown.err
    (board,) = boards(store.entries())
    table = tables(board)[0]
    expected = ["QIN_x", "DIN_x"] if broken == "first" else ["DIN_x", "QIN_x"]
    assert [row[0].text for row in table.rows] == expected
    assert told(table, expected[1])["AUC"] == "nan"
    assert told(table, expected[1])["logloss"] == "0.4000 ± 0.0000"
    assert f"AUC is not a number in 1 of 3 runs of {expected[1]}." in table.note
    assert 'data-value="nan"' not in files["html"].read_text()
    assert [r["AUC"] for r in csv.DictReader(files["csv"].open())].count("nan") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{" * 3, "is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[]", "is no result"),
        ("newer", "newer qin-zoo"),
        ("no metrics", "expected metrics of the test split"),
        ("metric", "Unknown metric 'F1'"),
        ("rows", "expected the number of test rows"),
        ("tuning", "tuning.minutes: Field required"),
        ("calibration", "as many of predicted as of clicked"),
        ("reachable", "reachable.blind_auc: Field required"),
        ("slices", "expected the number of rows of each part"),
    ],
)
def test_a_damaged_result_is_named_and_keeps_nobody_back(content, message, tmp_path):
    store = Store(tmp_path / "s")
    store.add(entry_of(record()))
    good = json.loads(next(store.folder.rglob("*.json")).read_text())
    metrics = {"no metrics": {}, "metric": {"test": {"F1": 1}}}
    changes = {"newer": {"schema_version": 99}, **{name: {"metrics": found} for name, found in metrics.items()}}
    parts = {"rows": {}, "tuning": {"asked": "3 trials", "trials": 3}, "reachable": {"best_auc": 0.9}}
    parts |= {"calibration": {"ece": 0.1, "predicted": [0.1, 0.2], "clicked": [0.1]}}
    parts |= {"slices": {"item_clicks": {"0": {"AUC": 0.5}}}}
    changes |= {name: {name: part} for name, part in parts.items()}
    bad = store.folder / "d/bad.json"
    bad.write_text(json.dumps(good | changes[content]) if content in changes else content)
    said = []
    assert [entry.experiment for entry in store.entries(said.append)] == ["QIN_x"]
    assert len(said) == 1
    assert message in said[0]
    assert str(bad) in said[0]


def test_a_damaged_record_in_a_folder_keeps_nobody_back(tmp_path):
    runs = write(tmp_path / "runs", *many())
    broken = record("A_x")
    del broken["parameters"]
    write(tmp_path / "runs", broken)
    (runs / "d/deep.json").write_text("[" * 100_000)
    said = []
    assert len(list(find_results([runs], said.append))) == 9
    assert len(said) == 1
    assert "A_x.json: the record is damaged" in said[0]
    (runs / "d/deep.model").touch()  # of a run, whose record is not whole
    assert len(list(find_results([runs], said.append))) == 9
    assert "deep.json: the record is damaged" in said[-1]


def test_another_seed_is_another_run_of_the_same_setting():
    one, again, other = (entry_of(record(f"QIN_x.plain.s{s}", s)) for s in (1, 1, 2))
    assert one.identity == again.identity != other.identity
    assert one.setting == other.setting
    assert one.digest != other.digest
