"""The pictures of a search, drawn by Optuna: its history, the importance of its parameters, all trials side by side."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from qin_zoo.errors import first_line
from qin_zoo.pages.plots import save
from qin_zoo.tuning.tuner import Search


def draw_plots(trials: list[FrozenTrial], search: Search, stem: Path) -> tuple[dict[str, Path], list[str]]:
    """Draws ``<stem>.history.png``, ``<stem>.importance.png`` and ``<stem>.parallel.png`` of trials that ended.

    Returns:
        title -> picture, and what to say of pictures that could not be drawn.

    Raises:
        QinZooError: a picture cannot be written.
    """
    import matplotlib
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    study = optuna.create_study(direction=search.direction)
    done = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    study.add_trials(sorted(done, key=lambda t: t.datetime_complete))
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    if not finished:
        return {}, ["No picture is drawn before a trial has finished."]
    pictures: dict[str, Path] = {}
    notes: list[str] = []
    named = {"target_name": f"valid {search.monitor}"}
    varied = [key for key in finished[0].params if len({repr(t.params.get(key)) for t in finished}) > 1]

    def parallel():
        ax = drawn.plot_parallel_coordinate(study, varied, **named)
        ax.figure.set_size_inches(max(6.4, 1.5 * (len(varied) + 1) + 1.5), 4.4)
        return ax

    def importance():
        # not Optuna's default, which compares the best tenth of the trials with the rest: a grid has few
        return drawn.plot_param_importances(study, FanovaImportanceEvaluator(seed=0), varied, **named)

    drawings = [("History", "history", lambda: drawn.plot_optimization_history(study, **named))]
    if len(finished) < 2 or not varied:
        notes.append("Importance and parallel coordinates need two finished trials with different parameters.")
    else:
        drawings.append(("Parallel coordinates", "parallel", parallel))
        if len({t.value for t in finished}) > 1:
            drawings.append(("Importance", "importance", importance))
        else:
            notes.append("All finished trials have the same value, so no parameter is of any importance.")
    for title, name, draw in drawings:
        path = stem.with_name(f"{stem.name}.{name}.png")
        # Optuna sets a style for all plots to come, and calls its own experimental
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                figure = draw().figure
            except (ValueError, RuntimeError, ZeroDivisionError) as error:  # Optuna, of trials it cannot make sense of
                notes.append(f"{title} could not be drawn. {first_line(error)}")
                continue
            save(figure, path, bbox_inches="tight")
            pyplot.close(figure)
        pictures[title] = path
    return pictures, notes
