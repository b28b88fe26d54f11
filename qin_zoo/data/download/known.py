"""The datasets that can be downloaded: one table, the only source of file names."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from qin_zoo.errors import DataError, suggest


class KnownDataset(NamedTuple):
    """Where a dataset lies and what it consists of.

    Attributes:
        base: URL of the folder that holds ``files``; ends in a slash.
        files: file names in that folder.
        raw: file names of the raw files, relative to ``base`` by ``raw_folder``.
        raw_folder: relative URL of the folder of the raw files.
        out: where its dataset configuration expects it, relative to the working directory.
    """

    base: str
    files: tuple[str, ...]
    raw: tuple[str, ...]
    raw_folder: str
    out: str


KNOWN = {
    "MicroLens_1M_x1": KnownDataset(
        base="https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/MicroLens_1M_x1/",
        files=("train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"),
        raw=("item_feature.parquet", "item_emb.parquet", "item_seq.parquet"),
        raw_folder="../",
        out="data/MicroLens_1M_x1",
    ),
}


def known_dataset(name: str) -> KnownDataset:
    """The table's entry for ``name``.

    Raises:
        DataError: no such dataset.
    """
    if name not in KNOWN:
        raise DataError(
            f"No dataset '{name}' to download: the known ones are {', '.join(sorted(KNOWN))}.{suggest(name, KNOWN)}"
        )
    return KNOWN[name]


def file_urls(dataset: KnownDataset, mirror: str | None = None, *, raw: bool = False) -> dict[str, str]:
    """File name → URL. ``mirror`` takes the place of ``dataset.base``; ``raw`` adds the raw files.

    Raises:
        DataError: ``mirror`` is not the http(s) address of a folder.
    """
    base = dataset.base
    if mirror is not None:
        parts = urlsplit(mirror)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise DataError(
                f"--mirror {mirror}: expected the http or https address of the folder that holds "
                f"{dataset.files[0]}, such as {dataset.base}"
            )
        base = mirror.rstrip("/") + "/"
    urls = {name: base + name for name in dataset.files}
    if raw:
        urls |= {name: urljoin(base, dataset.raw_folder + name) for name in dataset.raw}
    return urls


def without_login(url: str) -> str:
    """``url`` without user name and password: for messages and for files on disk."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
