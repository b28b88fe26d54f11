"""Fusing text and image vectors into one embedding of the item table.

``text_only``          PCA of the text vectors to D
``image_only``         PCA of the image vectors to D
``concat_then_pca``    PCA of [text; image] to D: the challenge's own item_emb_d128
``pca_then_concat``    PCA of each to D/2 on its own, then side by side

The PCA is fitted block by block, from mean and scatter matrix in float64, so it equals that of the whole table up to
rounding; memory holds a few thousand rows, whatever the number of items. Items without a vector (zeros, or NaN) take
no part in the fit and stay zero; where [text; image] lacks one of the two, that part counts as its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.data.import_files import keep, kept
from qin_zoo.data.item_files import ITEM_FILE, list_array, write_report
from qin_zoo.data.sources import ParquetSource, at
from qin_zoo.embed.store import ABOUT, EmbeddingStore, Stored
from qin_zoo.errors import DataError, suggest
from qin_zoo.files import replace_file

Arrays = Mapping[str, np.ndarray]
STRATEGIES = ("text_only", "image_only", "concat_then_pca", "pca_then_concat")
SCHEMA_VERSION = 1
_BLOCK_ROWS = 2048  # rows that are fitted or projected at a time
_GROUP_BLOCKS = 16  # blocks in a row group of the table
# Components of less than this share of the first one's variance are rounding, which whitening must not blow up.
_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Part:
    """One PCA of a fusion.

    Attributes:
        sources: names of the embeddings that went in, side by side.
        dim_in, dim: numbers per item before and after.
        items: items the PCA was fitted on.
        left_out: items that took no part in the fit, padding not counted.
        explained: share of the variance that the ``dim`` components keep.
        explained_by_component: the share of each.
        reused: whether it was fitted to the items of the import that this one extends.
    """

    sources: list[str]
    dim_in: int
    dim: int
    items: int
    left_out: int
    explained: float
    explained_by_component: list[float]
    reused: bool = False


@dataclass(frozen=True)
class FuseReport:
    """What :func:`fuse` wrote; also in JSON beside the table.

    Attributes:
        path: the item table.
        column: the embedding's column.
        strategy, dim, whiten: as asked for.
        parts: one for each PCA.
        encoders: name -> encoder, version, fingerprint and checksum of the vectors that went in.
    """

    path: Path
    column: str
    strategy: str
    dim: int
    whiten: bool
    parts: list[Part]
    encoders: dict[str, dict[str, Any]]


def fuse(
    folder: str | Path,
    strategy: str = "pca_then_concat",
    *,
    text: str = "text",
    image: str = "image",
    dim: int = 128,
    whiten: bool = False,
    refit: bool = False,
) -> FuseReport:
    """Writes ``item_info_<strategy>.parquet``: the item table with the column ``item_emb_d<dim>`` made by a strategy.

    Args:
        folder: a dataset folder with ``item_info.parquet`` and a store of embeddings.
        strategy: one of :data:`STRATEGIES`.
        text, image: names of the embeddings in the store.
        dim: the size; ``pca_then_concat`` gives the text the greater half of an odd one.
        whiten: whether each number gets variance 1.
        refit: fit the PCA anew where the folder extends an import in which one was fitted.

    Raises:
        DataError: an embedding is missing, unfinished or damaged; sizes or numbers of items do not fit.
    """
    folder = Path(folder)
    if strategy not in STRATEGIES:
        raise DataError(
            f"Unknown strategy '{strategy}'.{suggest(strategy, STRATEGIES)} One of {', '.join(STRATEGIES)}."
        )
    groups = {
        "text_only": [([text], dim)],
        "image_only": [([image], dim)],
        "concat_then_pca": [([text, image], dim)],
        "pca_then_concat": [([text], dim - dim // 2), ([image], dim // 2)],
    }[strategy]
    if min(size for _, size in groups) < 1:
        raise DataError(f"Strategy {strategy}: expected a size of at least 1 per modality, found {dim}. Correct --dim.")
    if text == image and not strategy.endswith("_only"):
        raise DataError(f"Strategy {strategy}: expected two embeddings, found '{text}' twice. Correct --image.")
    table = folder / ITEM_FILE
    store, num_items = EmbeddingStore(folder), ParquetSource(table).num_rows
    stored = {name: store.get(name) for names, _ in groups for name in names}
    for found in stored.values():
        if found.rows != num_items:
            raise DataError(
                f"{store.path}, '{found.name}': expected {num_items:,} rows as in {table}, found {found.rows:,}. "
                "Encode it again with --force."
            )
    projections = []
    for names, size in groups:
        kept_as = f"pca_{'_'.join(names)}_{size}{'_whitened' if whiten else ''}"
        expected = {"widths": [stored[name].dim for name in names]}
        axes = None if refit else kept(folder, kept_as, expected)
        projections.append(Projection(store, [stored[name] for name in names], size, whiten, axes))
        keep(folder, kept_as, {**projections[-1].arrays(), **expected})
    path, parts = folder / f"item_info_{strategy}.parquet", [projection.part for projection in projections]
    encoders = {n: {k: getattr(s, k) for k in ABOUT} | {"checksum": f"{s.checksum:08x}"} for n, s in stored.items()}
    report = FuseReport(path, f"item_emb_d{dim}", strategy, dim, whiten, parts, encoders)
    sidecar = report.path.with_suffix(".json")
    with replace_file(report.path) as file:
        _write_table(table, file, report.column, projections)
        sidecar.unlink(missing_ok=True)  # it must not describe another table
    write_report(report.path, {"schema_version": SCHEMA_VERSION, **asdict(report), "path": report.path.name})
    return report


class Projection:
    """The PCA of one or more embeddings side by side, fitted on the store.

    Args:
        store: where they lie.
        stored: the embeddings; an item takes part in the fit if it has a vector in each.
        dim: components kept.
        whiten: divide each by its standard deviation.
        axes: :meth:`arrays` of an earlier fit, to be used instead of fitting.

    Raises:
        DataError: ``dim`` exceeds the numbers of the embeddings or the items that have vectors.
    """

    def __init__(
        self, store: EmbeddingStore, stored: Sequence[Stored], dim: int, whiten: bool, axes: Arrays | None = None
    ) -> None:
        self._store, self._stored, self._widths = store, list(stored), [s.dim for s in stored]
        names, width = [s.name for s in stored], sum(self._widths)
        what = " and ".join(f"'{name}'" for name in names)
        if dim > width:
            raise DataError(f"PCA of {what}: expected at most its {width} numbers, found {dim}. Make --dim smaller.")
        if axes is not None:
            self._mean, self._components, self._scale = axes["mean"], axes["components"], axes["scale"]
            items, left_out, *shares = (float(value) for value in axes["facts"])
            self.part = Part(names, width, dim, int(items), int(left_out), sum(shares), shares, reused=True)
            return
        items, self._mean, scatter = self._moments()
        if dim > items - 1:
            raise DataError(
                f"PCA of {what} to {dim}: expected at least {dim + 1} items with vectors, found {items}. Make --dim "
                "smaller, or encode more items."
            )
        variances, axes = np.linalg.eigh(scatter / (items - 1))  # ascending
        variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
        shares = variances[:dim] / max(variances.sum(), np.finfo(float).tiny)  # 0 where all vectors are the same
        self._components = axes[:, :dim] * _signs(axes[:, :dim])  # (width, dim)
        self._scale = np.ones(dim)
        if whiten:
            real = variances[:dim] > _NO_VARIANCE * max(variances[0], np.finfo(float).tiny)
            self._scale = np.where(real, 1 / np.sqrt(np.where(real, variances[:dim], 1)), 0)
        left_out = stored[0].rows - items - 1
        self.part = Part(names, width, dim, items, left_out, float(shares.sum()), [float(s) for s in shares])

    def arrays(self) -> dict[str, np.ndarray]:
        """What makes the same projection again, in arrays of whatever shape."""
        facts = [self.part.items, self.part.left_out, *self.part.explained_by_component]
        return {"mean": self._mean, "components": self._components, "scale": self._scale, "facts": np.array(facts)}

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Vectors (B, dim) float32 of the items ``start`` to ``stop``; zero where an item has no vector at all."""
        parts = [self._store.rows(s.name, start, stop) for s in self._stored]
        present = _present(parts)
        centred, place = np.zeros((stop - start, len(self._mean))), 0
        for part, there in zip(parts, present):
            columns = slice(place, place + part.shape[1])
            centred[there, columns] = part[there] - self._mean[columns]  # the missing part counts as its mean
            place = columns.stop
        vectors = centred @ self._components * self._scale
        vectors[~np.any(present, axis=0)] = 0
        return vectors.astype(np.float32)

    def _moments(self) -> tuple[int, np.ndarray, np.ndarray]:
        """How many items take part, their mean (width,) and Σ (x − mean)(x − mean)ᵀ (width, width), in float64."""
        width, rows = sum(self._widths), self._stored[0].rows
        items, mean, scatter = 0, np.zeros(width), np.zeros((width, width))
        for start in range(0, rows, _BLOCK_ROWS):
            parts = [self._store.rows(s.name, start, min(start + _BLOCK_ROWS, rows)) for s in self._stored]
            x = np.hstack(parts)[np.all(_present(parts), axis=0)].astype(np.float64)
            if not len(x):
                continue
            # Blocks are centred on their own and then joined (Chan et al., 1983): no digits are lost to a great mean.
            shift = x.mean(axis=0) - mean
            x -= mean + shift
            total = items + len(x)
            scatter += x.T @ x + np.outer(shift, shift) * (items * len(x) / total)
            mean += shift * (len(x) / total)
            items = total
        return items, mean, scatter


def _signs(axes: np.ndarray) -> np.ndarray:
    """+1 or −1 for each column, so that its entry of the greatest size becomes positive."""
    return np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)


def _present(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows have a vector in each of the parts (M, B): finite, and not all zeros."""
    return np.array([np.isfinite(part).all(axis=1) & part.any(axis=1) for part in parts])


def _write_table(table: Path, out: Path, column: str, projections: Sequence[Projection]) -> None:
    """Copies the item table, the column replaced or added, a row group at a time."""
    try:
        source = pq.ParquetFile(table, pre_buffer=False)
        schema = source.schema_arrow
        index = next((name for name in ("item_id", "item_index") if name in schema.names), None)
        field = pa.field(column, pa.list_(pa.float32()))
        place = schema.get_field_index(column)
        schema = (schema.set(place, field) if place >= 0 else schema.append(field)).remove_metadata()
        # Without dictionaries: hardly two numbers of an embedding are equal, so one would only add to the file.
        with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
            start = 0
            for batch in source.iter_batches(_GROUP_BLOCKS * _BLOCK_ROWS):
                stop = start + batch.num_rows
                if index is not None and batch.column(index).to_pylist() != list(range(start, stop)):
                    raise DataError(
                        f"{at(table, index)}, rows {start} to {stop - 1}: row i has to describe item i, row 0 being "
                        "padding. Sort the table and give every missing id a row."
                    )
                blocks = [(begin, min(begin + _BLOCK_ROWS, stop)) for begin in range(start, stop, _BLOCK_ROWS)]
                vectors = np.vstack([np.hstack([p.rows(*block) for p in projections]) for block in blocks])
                lists = list_array(vectors)
                columns = [lists if f.name == column else batch.column(f.name) for f in schema]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                start = stop
    except pa.ArrowException as error:
        raise DataError(f"{table}: cannot be read or copied ({error}). Fetch or write it again.") from error
