"""The calibration step of trained weights, kept beside them as JSON.

It belongs to the very weights it was fitted to: their hash stands in the file, and it is refused beside any other.
"""

from __future__ import annotations

from pathlib import Path

from qin_zoo.calibration import Step, step_from_dict
from qin_zoo.errors import CheckpointError, QinZooError
from qin_zoo.files import file_digest, read_json

_AGAIN = "Fit it again (qin-zoo calibrate), or delete it."


def calibration_file(checkpoint: Path, suffix: str = ".json") -> Path:
    """Where the step of these weights is kept; ``.md`` and ``.png`` for its report and picture."""
    return Path(checkpoint).with_suffix(f".calibration{suffix}")


def discard_step(checkpoint: Path) -> None:
    """Deletes the step of weights that are about to be replaced, its report and its picture."""
    for suffix in (".json", ".md", ".png"):
        calibration_file(checkpoint, suffix).unlink(missing_ok=True)


def read_step(checkpoint: Path) -> Step | None:
    """The calibration step of these weights; None where there is none.

    Raises:
        CheckpointError: it was fitted to other weights, or the file is damaged.
    """
    file = calibration_file(checkpoint)
    if not file.is_file():
        return None
    try:
        found = read_json(file)
        step, weights = step_from_dict(found["step"]), found["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, QinZooError):
        raise CheckpointError(f"{file} holds no calibration step. {_AGAIN}") from None
    if weights != file_digest(checkpoint):
        raise CheckpointError(
            f"{file} was fitted to other weights than {checkpoint} (SHA-256 {weights[:12]}…): they were trained anew "
            f"since. {_AGAIN}"
        )
    return step
