"""Discrete codes of an embedding column as columns of the item table, with a report of how good they are.

    item_info.parquet → item_info_codes.parquet: the same table with code_1 … code_levels (coarse to fine)

The codes are those of ``qin_zoo/layers/quantize.py`` (residual k-means), numbered 1…codebook_size, with 0 for the
padding row and for items without an embedding (a vector of zeros).

How they relate to a feature with ``codes_of`` (``qin_zoo/data/item_codes.py``): that one computes the same codes
while the data is loaded and shifts level l by (l − 1)·codebook_size, so that all levels share one vocabulary.
Where every item has an embedding, seed 2025 and 20 iterations give equal codes: ``item_codes[l] = code_l +
(l − 1)·codebook_size``. Here each level is a column, hence a plain categorical feature, and the codes can be looked at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from qin_zoo.data.import_files import keep, kept
from qin_zoo.data.item_files import check_output, in_folder, index_column, write_columns, write_report
from qin_zoo.data.item_table import open_item_table
from qin_zoo.data.sources import at
from qin_zoo.errors import DataError
from qin_zoo.layers.quantize import codes_of, residual_codes


@dataclass(frozen=True)
class LevelReport:
    """One level of the codes.

    Attributes:
        used: share of the codebook that some item has as its code.
        perplexity: exp of the entropy of the codes; codebook_size when all are equally frequent.
        error: Σ‖x − x̂‖² / Σ‖x‖² over the items, x̂ the sum of the codewords up to this level.
    """

    used: float
    perplexity: float
    error: float


@dataclass(frozen=True)
class CodesReport:
    """What the codes keep of the embedding.

    Attributes:
        column: the embedding column.
        codebook_size, iterations, seed: what the codes were made with.
        items: items with a code.
        without_embedding: items without an embedding, hence with code 0 at every level; padding not counted.
        distinct: different whole codes.
        collision_rate: share of the items with a code whose whole code another item has, too.
        levels: one report per level.
        reused: whether the codebooks were fitted to the items of the import that this one extends.
    """

    column: str
    codebook_size: int
    iterations: int
    seed: int
    items: int
    without_embedding: int
    distinct: int
    collision_rate: float
    levels: tuple[LevelReport, ...]
    reused: bool = False


def quantize_folder(
    folder: str | Path,
    column: str = "item_emb_d128",
    levels: int = 3,
    codebook_size: int = 256,
    iterations: int = 25,
    seed: int = 1,
    *,
    info: str | Path = "item_info.parquet",
    output: str | Path = "item_info_codes.parquet",
    force: bool = False,
    refit: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[Path, CodesReport]:
    """Writes a copy of a dataset's item table with codes, and the report beside it (``.json``).

    Args:
        folder: the dataset's folder.
        column: the embedding column.
        levels, codebook_size, iterations, seed: of the residual k-means.
        info, output: item tables; a bare name lies in ``folder``.
        force: replace ``output``, and columns ``code_…`` that the table already has.
        refit: fit the codebooks anew where the folder extends an import in which they were fitted.
        cache_dir: where converted columns are kept; see ``qin_zoo/data/cache.py``.

    Returns:
        the table's path and the report.

    Raises:
        DataError: a file, column or number that cannot be used, or an output that exists.
    """
    for name, value in (("levels", levels), ("codebook_size", codebook_size), ("iterations", iterations)):
        if value < 1:
            raise DataError(f"{name}: expected a positive whole number, found {value}.")
    info, output = in_folder(folder, info), in_folder(folder, output)
    names = [f"code_{level}" for level in range(1, levels + 1)]
    check_output(info, output, names, force)
    embeddings = read_embeddings(info, column, cache_dir)
    kept_as = f"codes_{column}_{levels}x{codebook_size}"
    before = None if refit else kept(output.parent, kept_as, {"width": embeddings.shape[1]})
    books = before and (torch.from_numpy(before["codebooks"]), torch.from_numpy(before["sizes"]))
    books = books or fit_codebooks(embeddings, levels, codebook_size, iterations, seed)
    codes, report = code_items(embeddings, levels, codebook_size, iterations, seed, column, books)
    report = replace(report, reused=before is not None)
    arrays = {"codebooks": books[0].numpy(), "sizes": books[1].numpy(), "width": np.array(embeddings.shape[1])}
    keep(output.parent, kept_as, arrays)
    write_columns(info, output, {name: pa.array(codes[:, i]) for i, name in enumerate(names)})
    write_report(output, asdict(report))
    return output, report


def fit_codebooks(
    embeddings: Tensor, levels: int, codebook_size: int, iterations: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Codebooks (levels, codebook_size, d) of the items that have an embedding, and (levels,) codewords in use."""
    known = embeddings[has_embedding(embeddings)]
    padded = torch.cat([known.new_zeros(1, known.shape[1]), known])
    codes, codebooks = residual_codes(padded, codebook_size, levels, seed, iterations)
    return codebooks, codes.amax(0)


def code_items(
    embeddings: Tensor,
    levels: int,
    codebook_size: int,
    iterations: int,
    seed: int,
    column: str = "embedding",
    books: tuple[Tensor, Tensor] | None = None,
) -> tuple[np.ndarray, CodesReport]:
    """Codes of items and their report.

    Args:
        embeddings: (N, d) float32; row 0 is padding, a row of zeros an item without an embedding.
        column: the embedding's name, for the report.
        books: of :func:`fit_codebooks`, perhaps fitted to other items; None fits them to these.

    Returns:
        codes (N, levels) int32, 0 where there is no embedding; the report.
    """
    known = has_embedding(embeddings)
    x = embeddings[known]
    padded = torch.cat([x.new_zeros(1, x.shape[1]), x])
    codebooks, sizes = books or fit_codebooks(embeddings, levels, codebook_size, iterations, seed)
    found = codes_of(padded, codebooks, sizes)[1:]
    codes = np.zeros((len(embeddings), levels), np.int32)
    codes[known.numpy()] = found.int().numpy()

    total = x.double().square().sum()
    left, reports = x.double(), []
    for level in range(levels):
        left = left - codebooks[level][found[:, level] - 1]
        count = torch.bincount(found[:, level] - 1, minlength=codebook_size).double()
        share = count[count > 0] / len(x)
        used, perplexity = (count > 0).double().mean(), (-(share * share.log()).sum()).exp()
        reports.append(LevelReport(used.item(), perplexity.item(), (left.square().sum() / total).item()))
    _, sizes = torch.unique(found, dim=0, return_counts=True)
    report = CodesReport(
        column=column,
        codebook_size=codebook_size,
        iterations=iterations,
        seed=seed,
        items=len(x),
        without_embedding=len(embeddings) - 1 - len(x),
        distinct=len(sizes),
        collision_rate=sizes[sizes > 1].sum().item() / len(x),
        levels=tuple(reports),
    )
    return codes, report


def feature_line(report: CodesReport) -> str:
    """The entry of ``feature_cols`` for the columns that were written."""
    names = ", ".join(f"code_{level}" for level in range(1, len(report.levels) + 1))
    return (
        f"- {{name: [{names}], active: True, dtype: int, type: categorical, source: item, "
        f"vocab_size: {report.codebook_size + 1}}}"
    )


def read_embeddings(info: Path, column: str, cache_dir: str | Path | None = None) -> Tensor:
    """(N, d) float32, row i the embedding of item i, row 0 padding.

    Raises:
        DataError: a table or column that cannot be used; row 0 or every other row counts.
    """
    table = open_item_table(info, {column: "embedding"}, index_column(info), cache_dir)
    embeddings = torch.from_numpy(table[column].take(slice(None)))
    if embeddings[0].any():
        raise DataError(f"{at(info, column, 0)}: expected zeros, row 0 being padding, found an embedding. Zero it.")
    if not has_embedding(embeddings).any():
        raise DataError(
            f"{at(info, column)}: expected embeddings, found zeros for all {len(embeddings) - 1} items. Choose another."
        )
    return embeddings


def has_embedding(embeddings: Tensor) -> Tensor:
    """(N,) bool: which items have one; padding has none."""
    known = embeddings.ne(0).any(dim=1)
    known[0] = False
    return known
