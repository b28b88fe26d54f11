"""A run, repeated from its record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qin_zoo.errors import ConfigError
from qin_zoo.training.prepare import Prepared, prepare_params
from qin_zoo.training.record import environment, read_record


@dataclass(frozen=True)
class Repetition:
    """A recorded run, ready to run again.

    Attributes:
        record: what was recorded.
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
        if self.record["data"] != self.prepared.open_dataset().fingerprints():
            echo("The data files are not those of the recorded run.")

    def tell_result(self, record: dict, echo: Callable[[str], None]) -> None:
        """Compares the metrics of the two runs."""
        for split in ("valid", "test"):
            for name, value in self.record[split].items():
                again = record[split].get(name)
                same = "identical" if again == value else f"recorded {value:.6f}"
                echo(f"{split} {name}: {again if again is None else f'{again:.6f}'}, {same}")


def prepare_repetition(
    path: Path,
    *,
    gpu: int = -1,
    data: Path | None = None,
    overrides: Iterable[str] | Mapping[str, object] | None = None,
    plugins: Iterable[Path] | None = None,
) -> Repetition:
    """Reads a run's record and prepares the same run.

    Args:
        path: the record, ``<expid>.json``.
        gpu, data, overrides, plugins: as in :func:`~qin_zoo.training.prepare.prepare`. Files of models that the
            record names are not loaded unless they are given here: a record shall not decide which code runs.

    Raises:
        ConfigError: it is no record of a run, or parameters in it cannot be used.
    """
    record = read_record(path)
    wanted = {"params": dict, "environment": dict, "data": dict, "valid": dict, "test": dict, "expid": str}
    if record is None or not all(isinstance(record.get(key), kind) for key, kind in wanted.items()):
        raise ConfigError(f"{path} is no record of a run (the <expid>.json that `qin-zoo run` writes).")
    missing = [p for p in record.get("plugins", []) if p not in map(str, plugins or [])]
    if missing:
        raise ConfigError(f"{path}: the run used models of {missing[0]}; give --plugin {missing[0]} if you trust it.")
    prepared = prepare_params(
        f"{record['expid']}.repeat",
        record["params"],
        Path(record.get("config_dir") or "."),
        gpu=gpu,
        data=data,
        overrides=overrides,
        plugins=plugins,
    )
    return Repetition(record, prepared)
