"""Files of pretrained vectors (``pretrained_emb``): keys, the values of a feature, and one vector for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.sources import check_file
from qin_zoo.errors import DataError, first_line

_ARRAYS = ("key", "value")


def read_vectors(path: Path, dtype: str = "str") -> tuple[pl.Series, np.ndarray]:
    """The keys and vectors of a file.

    Args:
        path: .h5, .npz or .parquet with the arrays (columns) ``key``, (N,), and ``value``, (N, dim).
        dtype: of the feature: ``str``, ``int`` or ``float``.

    Returns:
        the keys as a vocabulary of that dtype writes its words, (N,) text; the vectors, (N, dim) float32.

    Raises:
        DataError: no such file, or one of other contents.
    """
    check_file(path)
    try:
        keys, values = _arrays(path)
        keys = _as_text(keys, dtype)
        values = np.stack([np.asarray(v) for v in values]) if values.dtype == object else values
        values = values.astype(np.float32)
    except KeyError as error:
        raise DataError(
            f"{path}: expected {' and '.join(_ARRAYS)}, found no {error.args[0]!r:.80}. Rename what holds the "
            "values of the feature to key, their vectors to value."
        ) from None
    except (OSError, ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as pretrained vectors. {first_line(error)}") from None
    if values.ndim != 2 or len(keys) != len(values) or not values.size:
        raise DataError(
            f"{path}: expected a vector for each key, found {len(keys)} keys and values of the shape {values.shape}. "
            "Write it again."
        )
    if wrong := np.flatnonzero(~np.isfinite(values).all(1)).tolist():
        raise DataError(f"{path}, row {wrong[0]}: expected finite numbers. Replace NaN and infinite ones.")
    return keys, values


def write_vectors(path: Path, keys: pl.Series, values: np.ndarray) -> None:
    """Writes a file that FuxiCTR's ``PretrainedEmbedding`` reads: keys (N,), values (N, dim)."""
    np.savez(path, key=np.asarray(keys.to_list(), dtype=np.str_), value=values)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            arrays = {name: file[name][:] for name in _ARRAYS if name in file}
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS if name in file}
    else:
        table = pl.read_parquet(path, glob=False)
        arrays = {name: table[name].to_numpy() for name in _ARRAYS if name in table.columns}
    return arrays["key"], arrays["value"]


def _as_text(keys: np.ndarray, dtype: str) -> pl.Series:
    if keys.dtype.kind in "OS":
        keys = np.asarray([k.decode() if isinstance(k, bytes) else k for k in keys.tolist()])
    if dtype == "str":
        return pl.Series(keys.astype(np.str_).tolist(), dtype=pl.String)
    return pl.Series(keys.astype(np.int64 if dtype == "int" else np.float64)).cast(pl.String)
