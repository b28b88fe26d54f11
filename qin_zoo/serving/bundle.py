"""The file that ``qin-zoo export`` writes: an ONNX model whose last field is a manifest with a hash of everything.

An ONNX file is a protobuf message: fields one behind the other. The manifest is a ``metadata_props`` entry behind all
others, so that reading it needs neither protobuf nor onnx, and what stands before it is what was hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from pathlib import Path

from qin_zoo.errors import QinZooError
from qin_zoo.files import parse_json
from qin_zoo.serving.graph import fault, fields, number
from qin_zoo.serving.manifest import check

FORMAT = 1
CONTEXT, HISTORY, NEW, BESIDE = "context.", "history.", "new.", "beside."  # prefixes of the graph's inputs
_KEY = b"qin_zoo"
_METADATA_PROPS = 14  # number of the field in ONNX's ModelProto
_LARGEST = 2**31 - 1  # bytes that protobuf reads
_EXPECTED = "Expected a file that `qin-zoo export` wrote (NAME.onnx)."
_AGAIN = "Copy the file again from where it was exported, or export it anew (qin-zoo export)."


def seal(graph: bytes, manifest: dict) -> tuple[bytes, dict]:
    """What stands in the file of a serialised ONNX model, and its manifest, JSON values, with the hash."""
    manifest = {**manifest, "format": FORMAT}
    manifest["sha256"] = _digest(graph, manifest)
    entry = _field(1, _KEY) + _field(2, json.dumps(manifest, ensure_ascii=False).encode())
    return graph + _field(_METADATA_PROPS, entry), manifest


def read(path: str | Path) -> tuple[bytes, dict]:
    """An exported model's bytes and manifest.

    Raises:
        QinZooError: there is no such file, it is no export, it was cut short or changed, it is of a newer format, or
            its scores would depend on other files or be no numbers.
    """
    path = Path(path)
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():  # a pipe or a device may have no end
            raise QinZooError(f"{path} is no regular file. {_EXPECTED}")
        if (size := path.stat().st_size) > _LARGEST:
            raise QinZooError(f"{path} has {size:,} bytes; an ONNX file holds at most {_LARGEST:,}.")
        data = path.read_bytes()
    except OSError as error:
        raise QinZooError(f"{path}: {error.strerror}. {_EXPECTED}") from error
    end, entry = _last_field(data, path)
    graph = memoryview(data)[:end]
    manifest, found = _manifest(entry, graph, path)
    expected = manifest.get("sha256")
    if found != expected:
        raise QinZooError(
            f"{path} was changed after it was exported: expected SHA-256 {expected}, found {found}. {_AGAIN}"
        )
    if manifest.get("format") != FORMAT:
        raise QinZooError(
            f"{path} has format {manifest.get('format')!r}, this version of qin-zoo reads {FORMAT}. Export it with "
            "this version, or use the version that exported it."
        )
    try:
        check(manifest)
    except ValueError as error:
        raise QinZooError(f"{path} has a manifest that qin-zoo did not write. {error}. {_AGAIN}") from None
    try:
        reason = fault(graph)
    except (ValueError, IndexError):
        reason = "is no ONNX model"
    if reason is not None:
        raise QinZooError(f"{path} {reason}. Export it anew (qin-zoo export).")
    return data, manifest


def _digest(graph, manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(graph)
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def _manifest(entry: bytes, graph: memoryview, path: Path) -> tuple[dict, str]:
    """The manifest, and the hash that it should have."""
    try:
        start = len(_field(1, _KEY))
        if entry[:start] != _field(1, _KEY):
            raise ValueError
        length, start = number(entry, start + 1)
        manifest = parse_json(entry[start : start + length])
        if not isinstance(manifest, dict):
            raise ValueError
        return manifest, _digest(graph, manifest)
    except (ValueError, IndexError):
        raise QinZooError(
            f"{path}: expected the manifest of qin-zoo at its end, found none. It is another ONNX file, or was cut "
            f"short. {_AGAIN}"
        ) from None


def _last_field(data: bytes, path: Path) -> tuple[int, bytes]:
    """Where the last field of the message begins, and what it holds."""
    try:
        (last,) = deque(fields(data, 0, len(data)), 1) or [(None, None, 0, 0, 0)]
    except (ValueError, IndexError):
        raise QinZooError(f"{path} is no ONNX file. {_EXPECTED}") from None
    field, kind, begin, content, at = last
    if at > len(data):
        raise QinZooError(f"{path} was cut short: expected {at:,} bytes or more, found {len(data):,}. {_AGAIN}")
    if kind != 2 or field != _METADATA_PROPS:
        return begin, b""
    return begin, data[content:]


def _field(place: int, content: bytes) -> bytes:
    """A field of bytes."""
    return bytes([place << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
