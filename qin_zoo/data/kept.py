"""What was fitted to the items of an import, kept beside it: a later import that extends it is put into the same space.

``fitted_NAME.npz`` in the folder holds the arrays of one transform. ``qin-zoo data import … --extend`` takes them
along, and what was fitted in a folder that extends another one is used instead of fitting anew: axes that flip, words
that move and codes that change would be other inputs to a model that goes on being trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qin_zoo.data.sources import readable
from qin_zoo.errors import DataError
from qin_zoo.files import read_json, replace_file

FITTED = "fitted_*.npz"
_IMPORT = "import.json"


def keep(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a transform of the folder's items, if the folder is an import's: others number nothing that stays."""
    if (folder / _IMPORT).is_file():
        with replace_file(_file(folder, name)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def kept(folder: Path, name: str, expected: Mapping[str, object]) -> dict[str, np.ndarray] | None:
    """The transform that a folder has taken over from the import that it extends; None where it is to be fitted.

    Args:
        folder: of the dataset.
        name: of the transform.
        expected: entries of the arrays that say what it was fitted to, and have to be these.

    Raises:
        DataError: it was fitted to something else, or is damaged.
    """
    file = _file(folder, name)
    if not file.is_file() or not _extends(folder):
        return None
    with readable(file, "Fit it anew with --refit."), np.load(file, allow_pickle=False) as found:
        arrays = dict(found)
    for key, value in expected.items():
        then = arrays[key].tolist() if key in arrays else None
        if then != value:
            raise DataError(
                f"{file}: what the extended import has fitted is of {key} {then}, and this would be {value}. Give the "
                "options of then, or fit it anew with --refit, after which models have to be trained anew, too."
            )
    return arrays


def take_along(old: Path, new: Path) -> list[str]:
    """Copies the transforms of an import to one that extends it; their names."""
    files = sorted(old.glob(FITTED)) if old.resolve() != new.resolve() else []
    for file in files:
        with replace_file(new / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return [file.name for file in files]


def _file(folder: Path, name: str) -> Path:
    return folder / f"fitted_{name}.npz"


def _extends(folder: Path) -> bool:
    try:
        return bool(read_json(folder / _IMPORT)["options"]["extend"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
