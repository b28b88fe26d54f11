"""What makes a downloaded file good: its size, its digests, its parquet structure, and a record of all that."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qin_zoo.errors import DataError, first_line
from qin_zoo.files import file_digest, read_json

RECORD_FILE = "checksums.json"
_MAGIC = b"PAR1"


@dataclass
class Origin:
    """What a server says about one file; None where it says nothing.

    Attributes:
        url: where it came from, without user name and password.
        size: bytes of the whole file.
        sha256, md5: hexadecimal digests of the whole file.
    """

    url: str
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str], *, partial: bool = False) -> Origin:
        """From the headers of a 200 answer, or of a 206 (``partial``), whose length and MD5 are those of a piece."""
        length = headers.get("Content-Length", "")
        return cls(
            url=url,
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
            size=int(length) if length.isdecimal() and not partial else None,
            sha256=_sha256_header(headers),
            md5=None if partial else _hex(headers.get("Content-MD5", ""), 16),
        )

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may name: a strong ETag, else the date of the last change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def contradicts(self, other: Origin) -> bool:
        """Whether both speak of ETag, date, size or SHA-256, and differ."""
        pairs = (
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
            (self.size, other.size),
            (self.sha256, other.sha256),
        )
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _sha256_header(headers: Mapping[str, str]) -> str | None:
    for header, pattern in (("Repr-Digest", r"sha-256=:([^:]+):"), ("Digest", r"sha-256=([^,\s]+)")):
        if match := re.search(pattern, headers.get(header, ""), re.IGNORECASE):
            return _hex(match[1], 32)
    return None


def _hex(encoded: str, size: int) -> str | None:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == size else None


def parse_sums(text: str) -> dict[str, str]:
    """File name → SHA-256 from the text of a SHA256SUMS file; lines of another form are passed over."""
    found = re.findall(r"^([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?([^/\r\n]+?)\r?$", text, re.MULTILINE)
    return {name: digest.lower() for digest, name in found}


def parquet_fault(path: Path) -> str | None:
    """Why ``path`` is no whole parquet file, or None: looks at both ends and the footer, decodes no rows."""
    with open(path, "rb") as file:
        start = file.read(64)
        file.seek(max(0, path.stat().st_size - 4))
        end = file.read(4)
    if not start:
        return "expected a parquet file, found 0 bytes"
    if not start.startswith(_MAGIC):
        return f"expected a parquet file, found one that begins with {start[:24]!r}"
    if end != _MAGIC:
        return "the parquet file lacks its end"
    try:
        footer = pq.read_metadata(path)
        for group in range(footer.num_row_groups):
            for column in range(footer.num_columns):
                _check_extent(footer.row_group(group).column(column), path.stat().st_size)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"the parquet file's footer cannot be used ({first_line(error)})"
    return None


def _check_extent(column: pq.ColumnChunkMetaData, size: int) -> None:
    start = min(o for o in (column.data_page_offset, column.dictionary_page_offset) if o)
    if start + column.total_compressed_size > size:
        raise ValueError(f"column {column.path_in_schema} ends behind the end of the file")


def fault(path: Path, sha256: str, origin: Origin | None, listed: str | None, record: Entry | None) -> str | None:
    """Why a file is not what it should be, or None when nothing known speaks against it.

    Args:
        path: the file.
        sha256: its digest, computed.
        origin: what the server said of it.
        listed: its digest in the server's SHA256SUMS.
        record: its entry in the local record.
    """
    size = path.stat().st_size
    if origin and origin.size not in (None, size):
        return f"expected {origin.size:,} bytes, as the server says, found {size:,}"
    if record and record.size != size:
        return f"expected {record.size:,} bytes, as {RECORD_FILE} says, found {size:,}"
    if wrong := parquet_fault(path):
        return wrong
    claims = {
        "the server": origin and origin.sha256,
        "the server's SHA256SUMS": listed,
        RECORD_FILE: record and record.sha256,
    }
    for who, expected in claims.items():
        if expected and expected != sha256:
            return f"expected SHA-256 {expected}, as {who} says, found {sha256}"
    if origin and origin.md5 and origin.md5 != (found := file_digest(path, "md5")):
        return f"expected MD5 {origin.md5}, as the server says, found {found}"
    return None


@dataclass
class Entry:
    """One file in the local record: bytes, hexadecimal SHA-256, and where it came from."""

    size: int
    sha256: str
    url: str


class Record:
    """``checksums.json`` of a folder: what each file was when it was first verified. Safe to use from threads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD_FILE
        self._lock = threading.Lock()
        self._read()

    def get(self, name: str) -> Entry | None:
        """The entry of a file, or None."""
        fields = self._read().get(name)
        return Entry(**fields) if fields else None

    def put(self, name: str, entry: Entry) -> None:
        """Adds or replaces an entry; what another process added meanwhile stays."""
        with self._lock:
            write_json(self.path, self._read() | {name: vars(entry)})

    def _read(self) -> dict[str, dict]:
        try:
            content = read_json(self.path)
            return {name: vars(Entry(int(e["size"]), str(e["sha256"]), str(e["url"]))) for name, e in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Going on without it would take whatever lies there as good.
            raise DataError(
                f"{self.path}: expected the checksums of this folder's files, found something else "
                f"({first_line(error)}). Delete it; the files will be compared with the server again."
            ) from None


def write_json(path: Path, content: dict) -> None:
    """Writes ``content`` so that ``path`` is at any time either the old or the new text."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
