"""A run, repeated from its record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from qin_zoo.config.experiments import apply_overrides
from qin_zoo.data.dataset import has_item_table
from qin_zoo.data.encode import is_raw
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import Prepared, prepare_params
from qin_zoo.experiment.record import content_of, environment, identity, read_record, require_record

# Where files lie, and what they are called, is today's; so is what they are scored on.
_OF_TODAY = (
    "model_id", "data_root", "train_data", "valid_data", "test_data", "item_info", "user_info", "feature_map_json",
    "encoder_file", "metrics", "batch_size", "precision", "compile", "missing_embeddings", "embedding_noise",
    "shuffle_history",
)  # fmt: skip


@dataclass(frozen=True)
class Repetition:
    """A recorded run, ready to run again.

    Attributes:
        record: what was recorded; ``data`` may be its :func:`~qin_zoo.experiment.record.content_of`.
        prepared: the same run; its files carry ``.repeat`` in their name.
    """

    record: dict
    prepared: Prepared

    def tell_differences(self, echo: Callable[[str], None]) -> None:
        """Says what is not as it was, before the run: versions, machine, data."""
        then, now = self.record["environment"], environment()
        for name in now:
            if then.get(name) != now[name]:
                echo(f"{name}: {then.get(name)} then, {now[name]} now")
        data = self.record["data"]
        then = data if isinstance(data, str) else content_of(data)
        if then != content_of(self.prepared.open_dataset().fingerprints()):
            echo("The data files are not those of the recorded run.")

    def tell_result(self, record: dict, echo: Callable[[str], None]) -> None:
        """Compares the metrics of the two runs."""
        for split in ("valid", "test"):
            for name, value in self.record[split].items():
                again = record[split].get(name)
                same = "identical" if again == value else f"recorded {value:.6f}"
                echo(f"{split} {name}: {again if again is None else f'{again:.6f}'}, {same}")


def as_trained(prepared: Prepared, checkpoint: Path, given: Iterable[str], echo: Callable[[str], None]) -> Prepared:
    """The experiment with the parameters, sizes and vocabularies that these weights were trained with.

    A record beside them tells, and of raw files what was kept of their encoding; that this is missing is said as a
    warning. Parameters that were ``given`` stay; what else the configuration says otherwise is told.
    """
    params, encoder = prepared.params, checkpoint.with_suffix(".encoder.json")
    encodes = "encoder_file" not in given and not has_item_table(params) and is_raw(params)
    if encodes and encoder.is_file():
        prepared = replace(prepared, params=apply_overrides(prepared.params, {"encoder_file": str(encoder)}))
    elif encodes and checkpoint.is_file() and not params.get("encoder_file"):
        logging.warning(
            f"{checkpoint}: there is no {encoder.name} beside it, which a run keeps: vocabularies and scales are those "
            f"of {params['train_data']} as it is now. If the weights were trained with other rows, predictions "
            "are wrong; name the run's file with --set encoder_file=FILE."
        )
    record = read_record(checkpoint.with_suffix(".json"))
    if record is None or record["params"].get("model") != prepared.params["model"]:
        return prepared  # of another model: loading them says so
    then, now = identity(record["params"], {})["parameters"], identity(prepared.params, {})["parameters"]
    kept = {*_OF_TODAY, *given}
    other = sorted(key for key in {*then, *now} - kept if then.get(key) != now.get(key))
    if not other:
        return replace(prepared, trained=record)
    told = ", ".join(f"{key} {then.get(key)!r:.40} (configured: {now.get(key)!r:.40})" for key in other)
    echo(f"{checkpoint.name} was trained with {told}: that is what is used.")
    params = {key: value for key, value in prepared.params.items() if key not in other or key in record["params"]}
    params |= {key: record["params"][key] for key in other if key in record["params"]}
    return replace(prepared, params=params, trained=record)


def prepare_repetition(run: Path | dict, *, plugins: Iterable[Path] | None = None, **options) -> Repetition:
    """Reads a run's record and prepares the same run.

    Args:
        run: the record, ``<expid>.json``, or what a store keeps of it, :func:`qin_zoo.results.entry.record_of`.
        plugins: files of models that the record names are not loaded unless they are given here: a record shall not
            decide which code runs.
        options: gpu, data and overrides, as in :func:`~qin_zoo.experiment.prepare.prepare`.

    Raises:
        ConfigError: it is no record of a run, or parameters in it cannot be used.
    """
    record = run if isinstance(run, dict) else require_record(run)
    if record.get("baseline"):
        raise ConfigError(f"{run} is the record of a baseline: `qin-zoo baseline {run}` repeats it.")
    missing = [p for p in record.get("plugins", []) if p not in map(str, plugins or [])]
    if missing:
        raise ConfigError(f"{run}: the run used models of {missing[0]}; give --plugin {missing[0]} if you trust it.")
    folder = Path(record.get("config_dir") or ".")
    prepared = prepare_params(f"{record['expid']}.repeat", record["params"], folder, plugins=plugins, **options)
    return Repetition(record, prepared)
