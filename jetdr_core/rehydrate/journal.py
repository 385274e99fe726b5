"""The journal of a recovery: to which recovery a partial file belongs, and which of its frames are durable. Pure.

A header names the recovery. Chunks follow, each appended only after the bytes that it names were synced.
docs/formats/recovery-journal.md has the layout.

Invariant: a chunk that is torn or damaged counts as missing, and so do all chunks after it. What they name is then
written again, which is idempotent.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import xxhash

from jetdr_core.errors import UnsupportedVersion

__all__ = [
    "JOURNAL_BYTES_MAX",
    "Applied",
    "Journal",
    "RecoveryIdentity",
    "decode_journal",
    "encode_chunk",
    "encode_header",
    "is_journal",
]

_MAGIC = b"JDRRCVJ\0"
_VERSION = 1
_HEADER = struct.Struct("<8sHHI")
_CHUNK = struct.Struct("<II")
_ROW = struct.Struct("<QII")
_CHECKSUM = struct.Struct("<Q")
_IDENTITY_BYTES_MAX = 64 << 10
_ROWS_MAX = 1 << 20
JOURNAL_BYTES_MAX = 256 << 20
"""What is read of a journal. What lies after that is written again."""


@dataclass(frozen=True, slots=True)
class RecoveryIdentity:
    """What distinguishes one recovery of a disk from another. Equal identities write equal bytes to equal places.

    ``chain_checksum`` is the checksum of the newest segment used, in hex. It stands for all segments before it.
    ``without`` are the numbers of the segments that the recovery leaves out, because their index is damaged.
    """

    domain_uuid: str
    timeline: int
    lsn: int
    disk: int
    disk_name: str
    size_bytes: int
    format: str
    chain_checksum: str
    without: str = ""


class Applied(NamedTuple):
    """Every needed frame of the segment from ``frame_first`` to ``frame_last`` is durable in the target."""

    segment: int
    frame_first: int
    frame_last: int


class Journal(NamedTuple):
    """What a journal says. The next chunk goes to ``bytes_valid`` and continues ``checksum``."""

    identity: RecoveryIdentity
    applied: list[Applied]
    bytes_valid: int
    checksum: int


def encode_header(identity: RecoveryIdentity) -> bytes:
    body = json.dumps(asdict(identity), sort_keys=True).encode()
    header = _HEADER.pack(_MAGIC, _VERSION, 0, len(body)) + body
    return header + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(header))


def encode_chunk(applied: Sequence[Applied], checksum_before: int) -> tuple[bytes, int]:
    """The bytes and the checksum of a chunk of 1 to ``_ROWS_MAX`` rows."""
    assert 0 < len(applied) <= _ROWS_MAX
    chunk = _CHUNK.pack(len(applied), 0) + b"".join(_ROW.pack(*row) for row in applied)
    checksum = xxhash.xxh3_64_intdigest(chunk, checksum_before)
    return chunk + _CHECKSUM.pack(checksum), checksum


def is_journal(data: bytes) -> bool:
    """Whether ``data`` may be a journal, perhaps of a run that ended before its header was durable."""
    begun = data[: len(_MAGIC)]
    return begun == _MAGIC[: len(begun)] or (len(data) <= _IDENTITY_BYTES_MAX and not any(data))


def decode_journal(data: bytes, where: str) -> Journal | None:
    """Read a journal. None if its header is damaged, :class:`UnsupportedVersion` if a newer engine wrote it."""
    header = _decode_header(data, where)
    if header is None:
        return None
    identity, position, checksum = header
    applied: list[Applied] = []
    while (chunk := _decode_chunk(data, position, checksum)) is not None:
        rows, position, checksum = chunk
        applied += rows
    return Journal(identity, applied, position, checksum)


def _decode_header(data: bytes, where: str) -> tuple[RecoveryIdentity, int, int] | None:
    if len(data) < _HEADER.size:
        return None
    magic, version, _, body_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        return None
    if version > _VERSION:
        raise UnsupportedVersion(f"{where}: journal version {version}; this engine reads up to {_VERSION}")
    end = _HEADER.size + body_bytes
    checksum = _checksum_at(data, end)
    if body_bytes > _IDENTITY_BYTES_MAX or checksum != xxhash.xxh3_64_intdigest(data[:end]):
        return None
    try:
        identity = RecoveryIdentity(**json.loads(data[_HEADER.size : end]))
    except (TypeError, ValueError):
        return None
    return identity, end + _CHECKSUM.size, checksum


def _decode_chunk(data: bytes, position: int, checksum_before: int) -> tuple[list[Applied], int, int] | None:
    if len(data) - position < _CHUNK.size:
        return None
    count, _ = _CHUNK.unpack_from(data, position)
    end = position + _CHUNK.size + count * _ROW.size
    checksum = _checksum_at(data, end)
    if checksum != xxhash.xxh3_64_intdigest(data[position:end], checksum_before) or not 0 < count <= _ROWS_MAX:
        return None
    rows = [Applied(*row) for row in _ROW.iter_unpack(data[position + _CHUNK.size : end])]
    return rows, end + _CHECKSUM.size, checksum


def _checksum_at(data: bytes, position: int) -> int | None:
    if len(data) - position < _CHECKSUM.size:
        return None
    found: int = _CHECKSUM.unpack_from(data, position)[0]
    return found
