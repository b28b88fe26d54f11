"""Draws how far every model is from boosted trees on the same test rows: python experiments/against_trees.py OUT.png

From the stored results (experiments/results) alone: AUC, mean over seeds, less that of the trees, with its 95 %
interval over seeds and over users, who are drawn again for both alike.
"""

from pathlib import Path

import typer

from qin_zoo.pages.plots import REFERENCE, picture
from qin_zoo.results.lines import Line, boards, compare
from qin_zoo.results.statistics import Estimate
from qin_zoo.results.store import Store

SETS = {
    "MovieLens-1M": "ml-1m",
    "KuaiRand-Pure": "kuairand",
    "MovieLens-100K": "ml-100k_rated",
    "TikTok, light users": "tiktok_light",
}
BASELINES = {"LogisticRegression": "logistic regression", "UserItemMeans": "user and item means"}
TREES = "BoostedTrees"
LEAST, MOST = -0.031, 0.0145  # farther ones are arrows


def differences(dataset: str) -> list[tuple[str, Estimate]]:
    """Baselines of the dataset; networks with the trees' columns besides, or tuned without them, and what was tuned so
    with ``history_matches``; the worst first."""
    counted = f"{dataset.removesuffix('_rated')}_counted"
    for board in boards(Store(Path(__file__).parent / "results").entries()):
        for trees in (line for line in board.lines if line.name == f"{TREES}_{dataset}"):
            shown, named = told(dataset), []
            tuned = {(x.first.experiment, x.first.dataset_id) for x in board.lines if x.first.tuning}
            for x in board.lines:
                if x.first.dataset_id == counted or x.first.experiment in shown:
                    named.append((called(x), x))
                elif x.first.tuning:
                    named.append((f"{called(x)}, not counted", x))
                elif (x.first.experiment, x.first.dataset_id) in tuned and x.first.params.get("history_matches"):
                    named.append((f"{called(x)}, history_matches", x))
            return sorted(((name, compare(x, trees, "AUC")) for name, x in named), key=lambda pair: pair[1].mean)
    raise SystemExit(f"{dataset}: no trees among the stored results.")


def told(dataset: str) -> set[str]:
    """Experiments that are shown of the baselines."""
    return {f"{model}_{dataset}" for model in BASELINES}


def called(line: Line) -> str:
    """Model and variation."""
    variation = "" if line.first.variation == "plain" else f", {line.first.variation}"
    return BASELINES.get(line.first.model, line.first.model) + variation


def main(out: Path) -> None:
    """Draws into OUT, a .png or .svg, how far every model is from boosted trees on the same test rows."""
    title = "Test AUC less that of boosted trees on the same rows: green ahead, red behind, grey may be chance"
    with picture(out, 9.5, 6.6, title) as figure:
        for ax, (name, dataset) in zip(figure.subplots(2, 2).flat, SETS.items()):
            apart = differences(dataset)
            for row, (_, e) in enumerate(apart):
                colour = "C2" if e.mean > e.half else "C7" if e.mean < -e.half else "C8"
                if e.mean < LEAST:
                    ax.plot(LEAST, row, "<", color=colour)
                else:
                    ax.errorbar(e.mean, row, xerr=e.half, fmt="o", color=colour)
            ax.axvline(0, **REFERENCE)
            ax.set_yticks(range(len(apart)), [label for label, _ in apart])
            ax.set_title(name, parse_math=False)
            ax.set(xlim=(LEAST - 0.001, MOST), xticks=[-0.03, -0.02, -0.01, 0, 0.01])
        figure.supxlabel("difference in AUC, with its 95 % interval over users and seeds", fontsize=9)


if __name__ == "__main__":
    typer.run(main)
