"""The pictures of a search: its history, the importance of its parameters, and all trials side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from qin_zoo.errors import first_line
from qin_zoo.files import replace_file
from qin_zoo.tuning.tuner import Search


def draw_plots(trials: list[FrozenTrial], search: Search, stem: Path) -> tuple[dict[str, Path], list[str]]:
    """Draws ``<stem>.history.png``, ``<stem>.importance.png`` and ``<stem>.parallel.png``.

    Args:
        trials: of the search; only finished and pruned ones are drawn.
        search: the search.
        stem: path without suffix.

    Returns:
        title -> picture, and what to say of pictures that could not be drawn.
    """
    study = _copy(trials, search)
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    if not finished:
        return {}, ["No picture is drawn before a trial has finished."]
    pictures: dict[str, Path] = {}
    notes: list[str] = []
    varied = [key for key in finished[0].params if len({repr(t.params.get(key)) for t in finished}) > 1]
    drawings = [("History", "history", lambda: _history(study, search))]
    if len(finished) < 2 or not varied:
        notes.append("Importance and parallel coordinates need two finished trials with different parameters.")
    else:
        drawings.append(("Parallel coordinates", "parallel", lambda: _parallel(study, search, varied)))
        if len({t.value for t in finished}) > 1:
            drawings.insert(1, ("Importance", "importance", lambda: _importance(study, search, varied)))
        else:
            notes.append("All finished trials have the same value, so no parameter is of any importance.")
    for title, name, draw in drawings:
        path = stem.with_name(f"{stem.name}.{name}.png")
        try:
            figure = draw()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:  # Optuna, of trials it cannot make sense of
            notes.append(f"{title} could not be drawn. {first_line(error)}")
            continue
        with replace_file(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")
        pictures[title] = path
    return pictures, notes


def _copy(trials: list[FrozenTrial], search: Search) -> optuna.Study:
    """The trials as a study of their own, in the order in which they ended, without those that were lost or failed."""
    study = optuna.create_study(direction=search.direction)
    done = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    study.add_trials(sorted(done, key=lambda t: t.datetime_complete))
    return study


def _figure(title: str, width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(title, fontsize=11)
    ax.tick_params(labelsize=8)
    return figure, ax


def _history(study: optuna.Study, search: Search):
    """Every trial's value in the order in which they ended, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure, ax = _figure(search.name, 6.4, 4.0)
    finished = [(n, t.value) for n, t in enumerate(study.trials, 1) if t.state == TrialState.COMPLETE]
    pruned = [(n, t.value) for n, t in enumerate(study.trials, 1) if t.state == TrialState.PRUNED]
    pruned = [(n, value) for n, value in pruned if value is not None]
    x, y = zip(*finished)
    best = (np.minimum if search.direction == "minimize" else np.maximum).accumulate(y)
    ax.step([*x, len(study.trials)], [*best, best[-1]], where="post", color="#dd6b20", label="best so far")
    ax.plot(x, y, "o", markersize=4, color="#2b6cb0", label="finished")
    if pruned:
        ax.plot(*zip(*pruned), "x", markersize=5, color="#a0aec0", label="pruned, last value")
    ax.set_xlabel("trials, in the order in which they ended", fontsize=9)
    ax.set_ylabel(f"valid {search.monitor}", fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


def _importance(study: optuna.Study, search: Search, varied: list[str]):
    """What share of the values' variance each parameter explains, alone and with others."""
    # fANOVA and not Optuna's default, which compares the best tenth of the trials with the rest: a grid has few
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    figure, ax = _figure(search.name, 6.4, 1.2 + 0.4 * len(shares))
    names = list(reversed(shares))
    bars = ax.barh(names, [shares[name] for name in names], color="#2b6cb0", height=0.6)
    ax.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    ax.set_xlim(0, 1.1 * max(shares.values()) or 1)
    ax.set_xlabel(f"share of the variance of valid {search.monitor} (fANOVA)", fontsize=9)
    ax.grid(alpha=0.3, axis="x")
    ax.set_axisbelow(True)
    return figure


def _parallel(study: optuna.Study, search: Search, varied: list[str]):
    """A line for each trial over an axis for each parameter, coloured by its value; the best one thick."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    figure, ax = _figure(search.name, max(6.4, 1.5 * (len(varied) + 1) + 1.5), 4.4)
    axes = [_Axis(key, finished) for key in varied]
    values = np.array([t.value for t in finished])
    span = np.ptp(values) or 1.0
    sign = -1 if search.direction == "minimize" else 1
    order = np.argsort(sign * values, kind="stable")
    # lines of trials with the same value of a parameter would hide one another
    spread = (np.argsort(order) / max(1, len(order) - 1) - 0.5) * 0.06
    places = [axis.heights + spread * axis.is_discrete for axis in axes]
    heights = np.column_stack([*places, (values - values.min()) / span])
    colours = ScalarMappable(Normalize(values.min(), values.max()), "viridis" if sign > 0 else "viridis_r")
    for i in order:
        is_best = i == order[-1]
        colour = "#dd6b20" if is_best else colours.to_rgba(values[i])
        ax.plot(heights[i], color=colour, linewidth=2.5 if is_best else 1, alpha=1 if is_best else 0.7)
    outline = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}
    marks = [axis.marks() for axis in axes]
    marks.append([(share, f"{values.min() + share * span:.4f}") for share in (0, 0.25, 0.5, 0.75, 1)])
    for x, axis_marks in enumerate(marks):
        ax.axvline(x, color="#4a5568", linewidth=0.8, zorder=1)
        for y, text in axis_marks:
            ax.plot(x, y, "_", color="#4a5568", markersize=6)
            ax.text(x + 0.03, y, text, fontsize=8, va="center", bbox=outline)
    ax.set_xticks(range(len(marks)), [*varied, f"valid {search.monitor}"], fontsize=9)
    ax.set_yticks([])
    ax.set_xlim(-0.2, len(marks) - 0.6)
    ax.set_ylim(-0.05, 1.05)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(f"{search.name}; the best in orange", fontsize=11)
    return figure


class _Axis:
    """Places of one parameter's values between 0 and 1."""

    def __init__(self, key: str, trials: list[FrozenTrial]):
        distribution = trials[0].distributions[key]
        values = [t.params[key] for t in trials]
        self._log = getattr(distribution, "log", False)
        self._whole = all(isinstance(v, int) for v in values)
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            self._places = {repr(choice): i / max(1, len(choices) - 1) for i, choice in enumerate(choices)}
            self._names = [str(choice) for choice in choices]
            self.is_discrete = True
            self.heights = np.array([self._places[repr(value)] for value in values])
            return
        self._names = None
        self.is_discrete = len(set(values)) < 10
        scaled = np.log(values) if self._log else np.asarray(values, dtype=float)
        self._low, self._high = scaled.min(), scaled.max()
        self.heights = (scaled - self._low) / ((self._high - self._low) or 1.0)

    def marks(self) -> list[tuple[float, str]]:
        """(place, text) of the labels."""
        if self._names is not None:
            return list(zip(self._places.values(), self._names))
        marks = {}
        for share in np.linspace(0, 1, 5):
            number = self._low + share * (self._high - self._low)
            number = np.exp(number) if self._log else number
            number = round(number) if self._whole else number
            place = (np.log(number) if self._log else number) - self._low
            text = str(number) if self._whole else f"{number:.3g}"
            marks[text] = (place / ((self._high - self._low) or 1.0), text)
        return list(marks.values())
