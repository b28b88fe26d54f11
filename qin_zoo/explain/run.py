"""One prediction of a trained experiment, explained in files: what `qin-zoo explain` does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from qin_zoo.calibration import read_calibrator
from qin_zoo.data import SPLITS
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import Prepared, load_trained
from qin_zoo.explain.explanation import Explanation, explain
from qin_zoo.explain.picture import draw_explanation
from qin_zoo.explain.report import render_report
from qin_zoo.files import replace_text


@dataclass(frozen=True)
class Files:
    """Where an explanation lies: ``<expid>.explain.<split>.<row>.*``."""

    report: Path
    values: Path
    picture: Path


def explain_row(
    prepared: Prepared, row: int, split: str = "valid", checkpoint: Path | None = None, out: Path | None = None
) -> tuple[Explanation, Files]:
    """Explains a prediction of a trained experiment and writes report, values and picture.

    Args:
        row: of the split, from 0.
        split: ``train``, ``valid`` or ``test``.
        checkpoint: weights. Default: the experiment's own.
        out: folder for the files. Default: beside the weights.

    Raises:
        QinZooError: the experiment, its data or its weights cannot be used, or there is no such row.
    """
    if split not in SPLITS:
        raise ConfigError(f"Unknown split '{split}': expected {', '.join(SPLITS)}.")
    checkpoint = Path(checkpoint or prepared.files.checkpoint)
    dataset = prepared.open_dataset()
    model = load_trained(prepared, dataset, checkpoint)
    explanation = explain(model, dataset, split, row, prepared.expid, read_calibrator(checkpoint))
    base = Path(out or checkpoint.parent) / f"{prepared.expid}.explain.{split}.{row}"
    files = Files(*(base.with_name(base.name + suffix) for suffix in (".md", ".json", ".png")))
    draw_explanation(explanation, files.picture)
    replace_text(files.values, json.dumps(asdict(explanation), indent=2, ensure_ascii=False) + "\n")
    replace_text(files.report, render_report(explanation, files.picture.name))
    return explanation, files
