"""The tuning phase of a study: every line of its tables gets the same, trials or minutes, on the validation split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qin_zoo.config.experiments import load_experiment, resolve_experiment
from qin_zoo.errors import ConfigError
from qin_zoo.study.plan import Study, StudyRun
from qin_zoo.tuning.report import Results, read_results, write_results
from qin_zoo.tuning.space import Space, make_space
from qin_zoo.tuning.tuner import Search, Tuner, plan_space

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
        runs: of the study.
        gpus: one process for each; -1 is a share of the CPU.
        options: of :func:`~qin_zoo.experiment.prepare.prepare`, the same for all runs.
        echo: receives what a person wants to see.
        until: :func:`time.monotonic` after which no trial is started. Default: never.

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
        results = read_results(search, tuner.study)
        if tuner.spent() != before or not results.page.exists():
            results = write_results(search, tuner.study)
        own = [run for run in runs if run.line == line]
        over = until is not None and time.monotonic() > until
        if not (results.is_complete or (budget is not None and tuner.spent() >= budget)) and over:
            echo(f"{' '.join(filter(None, line))}: {results.progress} The time is over.")
        elif not results.finished:
            error = results.failed[0].error if results.failed else "no trial was finished"
            failures |= dict.fromkeys(own, f"tuning: {error}")
        else:
            best = results.finished[0]
            echo(f"{' '.join(filter(None, line))}: best {search.monitor} {best.value:.6f} of {results.page}")
            asked = f"{tuning.trials} trials" if tuning.minutes is None else f"{tuning.minutes:g} minutes"
            given = _given(results, asked, tuner.spent())
            tuned += [replace(run, overrides={**run.overrides, **best.point}, tuning=given) for run in own]
    return tuned, failures


def _given(results: Results, asked: str, seconds: float) -> dict:
    """What was spent, and what it gave; ``asked`` is the same for all that were tuned alike."""
    best = results.finished[0]
    done = [line for line in results.lines if line.state in ("finished", "pruned")]
    return {
        "asked": asked,
        "trials": len(done),
        "minutes": seconds / 60,
        "monitor": results.search.monitor,
        "value": best.value,
        "point": best.point,
        "search": results.search.name,
    }


def plan_line(study: Study, file: Path, run: StudyRun, options: dict) -> Search:
    """The search for what a run and its other seeds have in common."""
    tuning = study.tuning
    space = _space(study, file, run, options)
    trials = tuning.trials or _MOST_TRIALS
    if not space.ranges:
        space = replace(space, sampled=space.size > trials)
        trials = min(trials, space.size)
    return plan_space(
        space,
        trials=None if space.is_grid else trials,
        plugins=options.get("plugins"),
        pruner=tuning.pruner,
        seed=tuning.seed,
    )


def _space(study: Study, file: Path, run: StudyRun, options: dict) -> Space:
    """What may be varied of a line: what is written, but for what its variation is about."""
    fixed = study.variations[run.variation]
    written = {**study.tuning.space, **study.tuning.spaces.get(run.experiment, {})}
    written = {key: value for key, value in written.items() if key not in fixed}
    if not written:
        raise ConfigError(f"{file}: tuning has nothing to vary in {run.experiment}, {run.variation}; widen its space.")
    overrides = {key: value for key, value in run.overrides.items() if key not in written}
    dataset_id = overrides.pop("dataset_id", None)
    overrides |= {"seed": study.tuning.seed, **(options.get("overrides") or {})}
    params = load_experiment(resolve_experiment(run.experiment, run.config), run.experiment, dataset_id)
    space = make_space(
        file,
        params,
        f"{run.experiment}.{run.variation}",
        written,
        dict.fromkeys(written, f"{file}, tuning"),
        overrides,
        name=".".join([file.stem, run.experiment, run.variation, params["dataset_id"]]),
    )
    if len(space.datasets) > 1:
        raise ConfigError(f"{file}: tuning varies parameters of the dataset; make them variations of the study.")
    return space
