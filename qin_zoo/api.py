"""qin-zoo from Python: what the commands do, as objects that show themselves in a notebook.

    import qin_zoo as qz

    data = qz.Dataset.open("data/ml-100k")  # a folder that `qin-zoo data import` or `data sample` has written
    run = qz.train("QIN", data, epochs=5)  # files as of `qin-zoo run QIN --data data/ml-100k`
    run.evaluate(), run.curves, run.explain(5)
    run.export("qin.onnx")
    run = qz.load("checkpoints/ml-100k/QIN.json")  # another day
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qin_zoo.calibration import Calibrator, read_calibrator
from qin_zoo.data import SPLITS
from qin_zoo.data.dataset import count_rows
from qin_zoo.data.specs import active_columns
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.calibrate import calibrate_run
from qin_zoo.experiment.from_data import describe_data
from qin_zoo.experiment.predict import predict_rows
from qin_zoo.experiment.prepare import Prepared, load_trained, prepare
from qin_zoo.experiment.record import read_record
from qin_zoo.experiment.report import baselines_of, verdict
from qin_zoo.experiment.run import run_experiment
from qin_zoo.log import silent, warnings_shown
from qin_zoo.results.trained import find_run

if TYPE_CHECKING:
    from qin_zoo.explain.explanation import Explanation
    from qin_zoo.export.export import Exported

Folder = str | Path


@dataclass(frozen=True)
class Dataset:
    """A folder of data and what it says of itself: see :meth:`open`.

    Attributes:
        folder: of its files.
        params: its dataset configuration, FuxiCTR's keys.
    """

    folder: Path
    params: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: Folder) -> Dataset:
        """Reads what a folder says of itself; no row is read.

        Args:
            folder: written by ``qin-zoo data import`` or ``data sample``; or with a ``dataset_config.yaml`` beside its
                files; or in the challenge's layout, or encoded by FuxiCTR.

        Raises:
            QinZooError: there is no such folder, or it does not say what its columns are.
        """
        folder = Path(folder).expanduser()
        return cls(folder, describe_data(folder))

    @property
    def name(self) -> str:
        """Its id, the folder of its results."""
        return self.params["dataset_id"]

    @property
    def features(self) -> dict[str, str]:
        """Active feature -> its type; of encoded fields, which say it in their ``feature_map.json``, none."""
        return {name: column["type"] for name, column in active_columns(self.params)}

    @cached_property
    def rows(self) -> dict[str, int]:
        """Split -> number of its rows.

        Raises:
            DataError: a file is missing.
        """
        files = {split: self.params.get(f"{split}_data") for split in SPLITS}
        return {s: count_rows({**self.params, "train_data": file}) for s, file in files.items() if file}

    def _repr_html_(self) -> str:
        rows = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        table = _table(["feature", "type"], [[name, kind] for name, kind in self.features.items()])
        return f"<p><b>{escape(self.name)}</b>: {rows} rows</p>{table}"


def train(
    model: str,
    data: Dataset | Folder | None = None,
    *,
    config: Folder | None = None,
    name: str | None = None,
    gpu: int = -1,
    resume: bool = False,
    overwrite: bool = False,
    plugins: Iterable[Folder] = (),
    quiet: bool = False,
    **params: Any,
) -> Run:
    """Trains, evaluates and predicts as ``qin-zoo run`` does, and writes the same files.

    Args:
        model: name of a model, to be trained on ``data``; or an experiment id.
        data: the data, or their folder. Default: those that the experiment names.
        config: folder with ``model_config.yaml``. Default: an experiment is found by its id, a model needs none.
        name: of the run and its files. Default: ``model``.
        gpu: index of the GPU, -1 for the CPU.
        resume: go on where the run was stopped.
        overwrite: replace another run of this name; otherwise this one is numbered.
        plugins: files or folders with further models; those of ``@register_model`` in a notebook are known anyway.
        quiet: print nothing.
        **params: of model and training, as in a configuration: ``epochs=5``, ``embedding_dim=32``.

    Raises:
        QinZooError: a name, parameter or file that cannot be used.
        Stopped: the kernel was interrupted; a checkpoint has been saved, ``resume=True`` goes on from it.
    """
    changes = params if name is None else {**params, "model_id": name}
    paths = [Path(plugin) for plugin in plugins]
    folder = data.folder if isinstance(data, Dataset) else data and Path(data)
    echo = silent if quiet else print
    with warnings_shown():
        prepared = prepare(model, config and Path(config), gpu=gpu, data=folder, overrides=changes, plugins=paths)
        argv = [f"qin_zoo.train({model!r})"]
        record = run_experiment(prepared, Path.cwd(), argv, echo, resume=resume, overwrite=overwrite)
    return load(record["files"]["record"], plugins=paths, gpu=gpu)


def load(
    run: Folder,
    data: Dataset | Folder | None = None,
    *,
    config: Folder | None = None,
    checkpoint: Folder | None = None,
    gpu: int = -1,
    plugins: Iterable[Folder] = (),
) -> Run:
    """A run that was trained before, here or by ``qin-zoo run``.

    Args:
        run: its record, ``…/<expid>.json``, name, ``DATASET/NAME`` or short id; or an experiment id, or with ``data``
            the name of a model.
        data: other data, or their folder, of the same columns. Default: those of the run.
        config: folder with ``model_config.yaml``, for an id.
        checkpoint: weights in the place of the run's own.
        gpu: index of the GPU, -1 for the CPU.
        plugins: files or folders with further models.

    Raises:
        QinZooError: there is no such run, or its weights are not those of its record.
    """
    folder = data.folder if isinstance(data, Dataset) else data and Path(data)
    options = {"data": folder, "gpu": gpu, "plugins": [Path(plugin) for plugin in plugins]}
    weights = checkpoint and Path(checkpoint)
    with warnings_shown():
        prepared, weights = find_run(str(run), config and Path(config), weights, **options)
    record = read_record(weights.with_suffix(".json"))
    if record is None:
        raise ConfigError(f"{weights.with_suffix('.json')}: no record of a run, which stands beside its weights.")
    return Run(prepared, weights, record)


@dataclass(frozen=True)
class Run:
    """A trained run; made by :func:`train` or :func:`load`.

    Attributes:
        prepared: the experiment with the parameters that the weights were trained with.
        checkpoint: file of the weights.
        record: what is kept of the run, as in ``<expid>.json``.
    """

    prepared: Prepared = field(repr=False)
    checkpoint: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.record["expid"]

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the run, all of them."""
        return self.record["params"]

    @cached_property
    def model(self):
        """The model with its weights, a torch module in evaluation mode."""
        return load_trained(self.prepared, self._dataset, self.checkpoint)

    @cached_property
    def _dataset(self):
        with warnings_shown():
            return self.prepared.open_dataset()

    def predict(self, split: str = "test") -> np.ndarray:
        """Click probabilities of a split's rows, (N,) float64, calibrated where :meth:`calibrate` was called.

        Args:
            split: ``train``, ``valid`` or ``test``.
        """
        return self._scored(split)[0]

    def evaluate(self, split: str | None = None) -> dict[str, float]:
        """The run's metrics on a split; empty where it has no labels.

        Args:
            split: ``train``, ``valid`` or ``test``. Default: ``test`` where that has labels, else ``valid``.
        """
        return self._scored(split or ("test" if self.record["test"] else "valid"))[1]

    def explain(self, row: int, split: str = "valid") -> Explained:
        """Why the model predicts what it does for a row; as ``qin-zoo explain``, which writes the same files.

        Args:
            row: of the split, from 0.
            split: ``train``, ``valid`` or ``test``.
        """
        from qin_zoo.explain.run import explain_row

        explanation, files = explain_row(self.prepared, row, split, self.checkpoint)
        return Explained(explanation, files.picture)

    def calibrate(self, method: str = "platt") -> Calibrator:
        """Fits a calibration step on the validation split, which predictions and exports use from then on.

        Args:
            method: ``platt`` or ``isotonic``.
        """
        return calibrate_run(self.prepared, method, self.checkpoint, echo=silent)

    def export(self, path: Folder, *, table: str = "fp32", items: Folder | None = None) -> Exported:
        """Writes one ONNX file with a manifest, which :class:`qin_zoo.serving.Scorer` scores without torch.

        Args:
            path: file to write, ``NAME.onnx``, or a folder.
            table: how items are kept: ``fp32``, ``fp16`` or ``int8``.
            items: parquet file of items to add to the catalogue or to replace.
        """
        from qin_zoo.export.export import export_run

        more = {"table": table, "items": items and Path(items)}
        return export_run(self.prepared, Path(path), checkpoint=self.checkpoint, echo=silent, **more)

    @property
    def curves(self) -> Curves:
        """Losses and validation metrics of the training."""
        return Curves(self.name, self.record["evaluations"], self.checkpoint.with_suffix(".png"))

    def _scored(self, split: str) -> tuple[np.ndarray, dict[str, float]]:
        self._dataset.require(split)
        return predict_rows(self.model, self._dataset, split, read_calibrator(self.checkpoint))

    def _repr_html_(self) -> str:
        record = self.record
        names = list(record["valid"] or record["test"])
        scored = [split for split in ("valid", "test") if record[split]]
        rows = [[split, *(f"{record[split][name]:.4f}" for name in names)] for split in scored]
        size = f"{record['rows']['train']:,} training rows, {record['parameters']:,} parameters"
        title = f"<b>{escape(self.name)}</b>: {escape(record['model'])} on {escape(record['dataset_id'])}, {size}"
        said = verdict(record, baselines_of(record)).replace("**", "")
        return f"<p>{title}</p>{_table(['split', *names], rows)}<p>{escape(said)}</p>"


@dataclass(frozen=True)
class Curves:
    """How a training went.

    Attributes:
        name: of the run.
        evaluations: one entry for each look at the validation rows: ``epoch``, ``step``, ``train_loss``, ``metrics``,
            ``learning_rate``, ``seconds``, ``best``.
        picture: PNG file.
    """

    name: str
    evaluations: list[dict[str, Any]] = field(repr=False)
    picture: Path

    def __getitem__(self, key: str) -> np.ndarray:
        """(looks,) float64 of ``train_loss``, ``learning_rate``, … or of a validation metric such as ``AUC``."""
        return np.array([{**e, **e["metrics"]}[key] for e in self.evaluations], np.float64)

    def _repr_png_(self) -> bytes | None:
        return self.picture.read_bytes() if self.picture.is_file() else None


@dataclass(frozen=True)
class Explained:
    """A prediction, explained.

    Attributes:
        explanation: all that is said of it: contributions of features and of the history's items, weights.
        picture: PNG file; report and values stand beside it.
    """

    explanation: Explanation
    picture: Path

    def _repr_png_(self) -> bytes:
        return self.picture.read_bytes()


def _table(header: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"
