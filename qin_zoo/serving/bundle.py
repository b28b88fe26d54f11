"""The file that ``qin-zoo export`` writes: an ONNX model whose last field is a manifest with a hash of everything.

An ONNX file is a protobuf message: fields one behind the other. The manifest is a ``metadata_props`` entry behind all
others, so that reading it needs neither protobuf nor onnx, and what stands before it is what was hashed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from qin_zoo.errors import QinZooError

FORMAT = 1
CONTEXT, HISTORY, NEW = "context.", "history.", "new."  # prefixes of the graph's inputs
_KEY = b"qin_zoo"
_METADATA_PROPS = 14  # number of the field in ONNX's ModelProto
_AGAIN = "Copy the file again from where it was exported, or export it anew (qin-zoo export)."


def seal(graph: bytes, manifest: dict) -> tuple[bytes, dict]:
    """What stands in the file, and the manifest with the hash.

    Args:
        graph: a serialised ONNX model.
        manifest: JSON values.
    """
    manifest = {**manifest, "format": FORMAT}
    manifest["sha256"] = _digest(graph, manifest)
    entry = _field(1, _KEY) + _field(2, json.dumps(manifest, ensure_ascii=False).encode())
    return graph + _field(_METADATA_PROPS, entry), manifest


def read(path: str | Path) -> tuple[bytes, dict]:
    """An exported model's bytes and manifest.

    Raises:
        QinZooError: there is no such file, it is no export, it was cut short or changed, or it is of a newer format.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QinZooError(
            f"{path}: {error.strerror}. Expected a file that `qin-zoo export` wrote (NAME.onnx)."
        ) from error
    end, entry = _last_field(data, path)
    manifest = _manifest(entry, path)
    found, expected = _digest(memoryview(data)[:end], manifest), manifest.get("sha256")
    if found != expected:
        raise QinZooError(
            f"{path} was changed after it was exported: expected SHA-256 {expected}, found {found}. {_AGAIN}"
        )
    if manifest.get("format") != FORMAT:
        raise QinZooError(
            f"{path} has format {manifest.get('format')!r}, this version of qin-zoo reads {FORMAT}. Export it with "
            "this version, or use the version that exported it."
        )
    return data, manifest


def _digest(graph, manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(graph)
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def _manifest(entry: bytes, path: Path) -> dict:
    try:
        start = len(_field(1, _KEY))
        if entry[:start] != _field(1, _KEY):
            raise ValueError
        length, start = _number(entry, start + 1)
        manifest = json.loads(entry[start : start + length])
        if not isinstance(manifest, dict):
            raise ValueError
    except (ValueError, IndexError):
        raise QinZooError(
            f"{path}: expected the manifest of qin-zoo at its end, found none. It is another ONNX file, or was cut "
            f"short. {_AGAIN}"
        ) from None
    return manifest


def _last_field(data: bytes, path: Path) -> tuple[int, bytes]:
    """Where the last field of the message begins, and what it holds."""
    at = begin = content = 0
    number = kind = None
    try:
        while at < len(data):
            begin = at
            tag, at = _number(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                _, at = _number(data, at)
            elif kind == 2:
                length, content = _number(data, at)
                at = content + length
            else:
                raise ValueError
    except (ValueError, IndexError):
        raise QinZooError(f"{path} is no ONNX file. Expected a file that `qin-zoo export` wrote (NAME.onnx).") from None
    if at > len(data):
        raise QinZooError(f"{path} was cut short: expected {at:,} bytes or more, found {len(data):,}. {_AGAIN}")
    if kind != 2 or number != _METADATA_PROPS:
        return begin, b""
    return begin, data[content:]


def _number(data, at: int) -> tuple[int, int]:
    """A variable-length number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
