"""The journal of a recovery: to which recovery the data of a disk belongs, and which of its frames are durable. Pure.

A header names the recovery. Chunks follow, each appended only after the bytes that it names were synced. A chunk has
the digest of these bytes, so that a run that continues the recovery can tell whether they are still there.
docs/formats/recovery-journal.md has the layout.

Invariant: a chunk that is torn or damaged counts as missing, and so do all chunks after it. What they name is then
written again, which is idempotent.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from jetdr_core.errors import UnsupportedVersion
from jetdr_core.json_text import decode_json

__all__ = [
    "APPLIED",
    "HEADER_BYTES_MAX",
    "Applied",
    "AppliedTable",
    "Encoded",
    "Journal",
    "RecoveryIdentity",
    "decode_journal",
    "encode_applied",
    "encode_encoded",
    "encode_header",
    "encode_identity",
    "is_journal",
    "journal_bytes_max",
]

_MAGIC = b"JDRRCVJ\0"
_VERSION = 3
_VERSION_FIRST = 2
"""The oldest version that can be continued. It lacks the words."""
_HEADER = struct.Struct("<8sHHI")
_CHUNK = struct.Struct("<II")
_ENCODED = struct.Struct("<Q16s")
_CHECKSUM = struct.Struct("<Q")
_IDENTITY_BYTES_MAX = 64 << 10
_ROWS_MAX = 1 << 20

HEADER_BYTES_MAX = _HEADER.size + _IDENTITY_BYTES_MAX + _CHECKSUM.size

APPLIED = np.dtype([("segment", "<u8"), ("frame_first", "<u4"), ("frame_last", "<u4"), ("digest", "<u8")])
"""Frames of a segment that are applied: see :class:`Applied`."""

AppliedTable = npt.NDArray[np.void]
"""Structured array of dtype :data:`APPLIED`."""

assert APPLIED.itemsize == _ENCODED.size, "rows of all kinds of chunk have one size"


class _Kind(enum.IntEnum):
    """What the rows of a chunk are."""

    APPLIED = 0
    ENCODED = 1


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
    """Every frame of the segment from ``frame_first`` to ``frame_last`` holds bytes of the disk, which are durable.

    ``digest`` is the digest of these bytes, as ``native/kernels/scatter.h`` defines it.
    """

    segment: int
    frame_first: int
    frame_last: int
    digest: int


class Encoded(NamedTuple):
    """The disk was encoded as a stream of ``size_bytes``, whose XXH3-128 is ``digest``. The stream is durable."""

    size_bytes: int
    digest: bytes


class Journal(NamedTuple):
    """What a journal says. The next chunk goes to ``bytes_valid`` and continues ``checksum``.

    ``asked`` are the words that named the point when the recovery began, such as ``latest``. Empty if not known.
    """

    identity: RecoveryIdentity
    asked: str
    applied: AppliedTable
    encoded: Encoded | None
    bytes_valid: int
    checksum: int


def encode_header(identity: RecoveryIdentity, asked: str = "") -> bytes:
    """The header of a journal. ``asked`` are the words that named the point."""
    return _header(_VERSION, asdict(identity) | {"asked": asked})


def encode_identity(identity: RecoveryIdentity) -> bytes:
    """Bytes that are equal for equal recoveries, whichever release began them and in whichever words."""
    return _header(_VERSION_FIRST, asdict(identity))


def encode_applied(applied: Sequence[Applied], checksum_before: int) -> tuple[bytes, int]:
    """The bytes and the checksum of a chunk of 1 to ``_ROWS_MAX`` rows."""
    return _chunk(_Kind.APPLIED, np.array(applied, APPLIED).tobytes(), checksum_before)


def encode_encoded(encoded: Encoded, checksum_before: int) -> tuple[bytes, int]:
    """The bytes and the checksum of the chunk that says that a stream is complete."""
    return _chunk(_Kind.ENCODED, _ENCODED.pack(*encoded), checksum_before)


def journal_bytes_max(frames: int) -> int:
    """How much of a journal is read for a disk of ``frames`` needed frames, so that no file can make a reader swell.

    A run adds at most a row, in a chunk of its own, for every frame that is not applied yet.
    """
    return HEADER_BYTES_MAX + 2 * (frames + 1) * (_CHUNK.size + APPLIED.itemsize + _CHECKSUM.size)


def is_journal(data: bytes) -> bool:
    """Whether ``data`` may be a journal, perhaps of a run that ended before its header was durable."""
    begun = data[: len(_MAGIC)]
    return begun == _MAGIC[: len(begun)] or (len(data) <= HEADER_BYTES_MAX and not any(data))


def decode_journal(data: bytes, where: str) -> Journal | None:
    """Read a journal. None if its header is damaged, :class:`UnsupportedVersion` if a newer engine wrote it."""
    header = _decode_header(data, where)
    if header is None:
        return None
    identity, asked, position, checksum = header
    tables: list[AppliedTable] = [np.empty(0, APPLIED)]
    encoded: Encoded | None = None
    while (chunk := _decode_chunk(data, position, checksum)) is not None:
        kind, rows, position, checksum = chunk
        if kind == _Kind.APPLIED:
            tables.append(np.frombuffer(rows, APPLIED))
        elif kind == _Kind.ENCODED:
            encoded = Encoded(*_ENCODED.unpack_from(rows))
    return Journal(identity, asked, np.concatenate(tables), encoded, position, checksum)


def _header(version: int, fields: dict[str, object]) -> bytes:
    body = json.dumps(fields, sort_keys=True).encode()
    header = _HEADER.pack(_MAGIC, version, 0, len(body)) + body
    return header + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(header))


def _chunk(kind: _Kind, rows: bytes, checksum_before: int) -> tuple[bytes, int]:
    count = len(rows) // APPLIED.itemsize
    assert 0 < count <= _ROWS_MAX
    chunk = _CHUNK.pack(count, kind) + rows
    checksum = xxhash.xxh3_64_intdigest(chunk, checksum_before)
    return chunk + _CHECKSUM.pack(checksum), checksum


def _decode_header(data: bytes, where: str) -> tuple[RecoveryIdentity, str, int, int] | None:
    if len(data) < _HEADER.size:
        return None
    magic, version, _, body_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or version < _VERSION_FIRST:
        return None
    if version > _VERSION:
        raise UnsupportedVersion(
            f"{where}: journal version {version}; this engine reads versions {_VERSION_FIRST} to {_VERSION}"
        )
    end = _HEADER.size + body_bytes
    checksum = _checksum_at(data, end)
    if body_bytes > _IDENTITY_BYTES_MAX or checksum != xxhash.xxh3_64_intdigest(data[:end]):
        return None
    try:
        fields = decode_json(data[_HEADER.size : end])
        asked = str(fields.pop("asked", ""))
        identity = RecoveryIdentity(**fields)
    except (AttributeError, TypeError, ValueError):
        return None
    return identity, asked, end + _CHECKSUM.size, checksum


def _decode_chunk(data: bytes, position: int, checksum_before: int) -> tuple[int, bytes, int, int] | None:
    if len(data) - position < _CHUNK.size:
        return None
    count, kind = _CHUNK.unpack_from(data, position)
    if not 0 < count <= _ROWS_MAX:
        return None
    end = position + _CHUNK.size + count * APPLIED.itemsize
    checksum = _checksum_at(data, end)
    if checksum is None or checksum != xxhash.xxh3_64_intdigest(data[position:end], checksum_before):
        return None
    return kind, data[position + _CHUNK.size : end], end + _CHECKSUM.size, checksum


def _checksum_at(data: bytes, position: int) -> int | None:
    if len(data) - position < _CHECKSUM.size:
        return None
    found: int = _CHECKSUM.unpack_from(data, position)[0]
    return found
