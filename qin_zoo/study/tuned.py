"""The tuning phase of a study: every line of its tables gets the same, trials or minutes, on the validation split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qin_zoo.config.experiments import load_experiment, resolve_experiment
from qin_zoo.errors import ConfigError
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.tuning.report import Results, read_lines, write_results
from qin_zoo.tuning.space import make_space
from qin_zoo.tuning.tuner import Search, Tuner, plan_search

_MOST_TRIALS = 10_000  # where minutes end a search


def tune_lines(
    study: Study,
    file: Path,
    runs: list[StudyRun],
    gpus: list[int],
    options: dict,
    echo: Callable[[str], None] = print,
    until: float | None = None,
) -> tuple[list[StudyRun], dict[StudyRun, str]]:
    """Tunes what a study compares, or goes on with it; afterwards its runs have the best parameters that were found.

    Args:
        study: with ``tuning``.
        file: where it is written.
        runs, gpus, options, echo, until: as of :func:`~qin_zoo.study.execute.run_missing`.

    Returns:
        the runs whose tuning is complete, with ``tuning`` saying what it took, and the messages of those whose search
        found nothing.

    Raises:
        QinZooError: the space or a run's configuration cannot be used; nothing has been started then.
    """
    tuning, searches, failures = study.tuning, {}, {}
    for run in runs:
        if run.line not in searches:
            searches[run.line] = plan_line(study, file, run, options)
    tuned: list[StudyRun] = []
    for line, search in searches.items():
        timeout = None if until is None else max(0.0, until - time.monotonic())
        budget = None if tuning.minutes is None else tuning.minutes * 60
        tuner = Tuner(search, gpus=gpus, timeout=timeout, budget=budget, echo=echo)
        before = tuner.spent()
        tuner.run()
        spent, results = tuner.spent(), Results(search, read_lines(search, tuner.study), [])
        if spent != before or not results.page.exists():
            results = write_results(search, tuner.study)
        name, own = " ".join(filter(None, line)), [run for run in runs if run.line == line]
        complete = results.is_complete or (budget is not None and spent >= budget)
        if not complete and until is not None and time.monotonic() > until:
            echo(f"{name}: {results.progress} The time is over.")
        elif not results.finished:
            error = results.failed[0].error if results.failed else "no trial was finished"
            failures |= dict.fromkeys(own, f"tuning: {error}")
        else:
            best = results.finished[0]
            echo(f"{name}: best {search.monitor} {best.value:.6f} of {results.page}")
            given = {
                "asked": f"{tuning.trials} trials" if tuning.minutes is None else f"{tuning.minutes:g} minutes",
                "trials": sum(trial.state in ("finished", "pruned") for trial in results.lines),
                "minutes": spent / 60,
                "monitor": search.monitor,
                "value": best.value,
                "point": best.point,
                "search": search.name,
            }
            tuned += [replace(run, overrides={**run.overrides, **best.point}, tuning=given) for run in own]
    return tuned, failures


def plan_line(study: Study, file: Path, run: StudyRun, options: dict) -> Search:
    """The search for what a run and its other seeds have in common, over all but what its variation is about."""
    tuning, fixed = study.tuning, study.variations[run.variation]
    written = {**tuning.space, **tuning.spaces.get(run.experiment, {})}
    written = {key: value for key, value in written.items() if key not in fixed}
    if not written:
        raise ConfigError(f"{file}: tuning has nothing to vary in {run.experiment}, {run.variation}; widen its space.")
    overrides = {key: value for key, value in run.overrides.items() if key not in written}
    dataset_id = overrides.pop("dataset_id", None)
    overrides |= {"seed": tuning.seed, **(options.get("overrides") or {})}
    params = load_experiment(resolve_experiment(run.experiment, run.config), run.experiment, dataset_id)
    places = dict.fromkeys(written, f"{file}, tuning")
    name = ".".join([file.stem, run.experiment, run.variation, params["dataset_id"]])
    space = make_space(file, params, f"{run.experiment}.{run.variation}", written, places, overrides, name)
    if len(space.datasets) > 1:
        raise ConfigError(f"{file}: tuning varies parameters of the dataset; make them variations of the study.")
    trials: int | None = tuning.trials or _MOST_TRIALS
    if space.is_grid:
        space = space.draw(trials, tuning.seed) if space.size > trials else space
        trials = None
    plugins = options.get("plugins")
    return plan_search(space, trials=trials, plugins=plugins, pruner=tuning.pruner, seed=tuning.seed)
