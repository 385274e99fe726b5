"""Superblocks of the volume and of its sections: envelope, bodies and the quorum rule. Pure: does no I/O.

A superblock is written in place, so a crash may tear a copy, and a device may lose a write that it had confirmed. So
there are four copies, and what a quorum of two holds is the truth. Each superblock names the checksum of its
predecessor. That tells a copy that an interrupted write left from a copy of another history.

Invariants: copies with the same sequence number are identical. Magic, version, sequence and checksum keep their places
in every version of the format.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import xxhash

from jetdr_core.errors import InvalidRequest, LogDamaged, LogNotALog, UnsupportedVersion
from jetdr_core.identity import check_name
from jetdr_core.limits import (
    BLOCK_BYTES,
    DISKS_MAX,
    SECTION_ALIGN_BYTES,
    SECTION_BYTES_MIN,
    SECTION_SUPERBLOCK_AREA_BYTES,
    SECTIONS_MAX,
    VOLUME_SUPERBLOCK_AREA_BYTES,
)
from jetdr_core.remedies import NEW_LOG
from jetdr_core.replication_log.batch import Cursor, DataArea

SUPERBLOCK_VERSION = 1
SECTION_VERSION = 2
"""The version of a section superblock that knows who began the log: its body is longer than that of version 1."""

COPIES = 4
QUORUM = 2

_ENVELOPE = struct.Struct("<8sHHIQQQ24x")  # magic, version, copies, body length, sequence, parent checksum, checksum
_CHECKSUM_AT = 32
_U64_MAX = (1 << 64) - 1


class Layout(NamedTuple):
    """Where the four copies of one kind of superblock lie, relative to the start of their area."""

    what: str
    magic: bytes
    copy_bytes: int
    stride_bytes: int
    version_max: int

    @property
    def body_bytes_max(self) -> int:
        return self.copy_bytes - _ENVELOPE.size

    def offsets(self) -> list[int]:
        return [copy * self.stride_bytes for copy in range(COPIES)]


VOLUME_LAYOUT = Layout("volume superblock", b"JDRVOLSB", 64 << 10, 256 << 10, version_max=SUPERBLOCK_VERSION)
SECTION_LAYOUT = Layout("section superblock", b"JDRSECSB", 4 << 10, 16 << 10, version_max=SECTION_VERSION)


_NOTHING_THERE = {
    VOLUME_LAYOUT.what: f"name a log volume; if this was the domain's, {NEW_LOG}",
    SECTION_LAYOUT.what: f"it is lost: {NEW_LOG}",
}


class Superblock(NamedTuple):
    """One superblock, taken out of its envelope."""

    version: int
    sequence: int
    parent_checksum: int
    checksum: int
    body: bytes


class Election(NamedTuple):
    """``losers`` are the indexes of the copies that differ from the winner. They are to be rewritten with ``raw``."""

    winner: Superblock
    raw: bytes
    losers: list[int]


# -- envelope and quorum -----------------------------------------------------------------------------------------------


def seal(layout: Layout, body: bytes, *, parent: Superblock | None) -> bytes:
    """Return one copy of the superblock that follows ``parent``, or of the first one."""
    assert len(body) <= layout.body_bytes_max
    sequence, parent_checksum = (parent.sequence + 1, parent.checksum) if parent else (1, 0)
    is_longer = layout is SECTION_LAYOUT and len(body) > SECTION_BODY_BYTES_V1
    version = SECTION_VERSION if is_longer else SUPERBLOCK_VERSION
    head = _ENVELOPE.pack(layout.magic, version, COPIES, len(body), sequence, parent_checksum, 0)
    raw = (head + body).ljust(layout.copy_bytes, b"\0")
    return raw[:_CHECKSUM_AT] + _checksum(raw).to_bytes(8, "little") + raw[_CHECKSUM_AT + 8 :]


def unseal(layout: Layout, raw: bytes) -> Superblock | None:
    """Return the superblock in one copy, or None if none there can be believed."""
    if len(raw) != layout.copy_bytes or not raw.startswith(layout.magic):
        return None
    _, version, _, body_bytes, sequence, parent_checksum, checksum = _ENVELOPE.unpack_from(raw)
    if checksum != _checksum(raw) or body_bytes > layout.body_bytes_max:
        return None
    body = raw[_ENVELOPE.size : _ENVELOPE.size + body_bytes]
    return Superblock(version, sequence, parent_checksum, checksum, body)


def _checksum(raw: bytes) -> int:
    """Return the XXH3-64 of everything but the checksum itself."""
    digest = xxhash.xxh3_64(raw[:_CHECKSUM_AT])
    digest.update(memoryview(raw)[_CHECKSUM_AT + 8 :])
    return digest.intdigest()


def elect(layout: Layout, copies: Sequence[bytes], *, where: str) -> Election:
    """Decide by quorum which superblock is valid.

    Raises :class:`LogNotALog` if no copy was ever a superblock, :class:`LogDamaged` if there is no quorum or if a newer
    copy shows that the quorum is out of date, and :class:`UnsupportedVersion` if the winner is newer than this engine.
    """
    votes = Counter(raw for raw in copies if unseal(layout, raw))
    candidates = [raw for raw, count in votes.items() if count >= QUORUM]
    if not candidates:
        raise _no_quorum(layout, copies, where)
    raw = max(candidates, key=lambda copy: _unsealed(layout, copy).sequence)
    winner = _unsealed(layout, raw)
    _check_descent(layout, winner, [_unsealed(layout, copy) for copy in votes if copy != raw], where)
    if winner.version > layout.version_max:
        raise UnsupportedVersion(
            f"{where}: the {layout.what} has version {winner.version}, this engine reads up to {layout.version_max}",
            hint="use the engine that wrote it, or a newer one",
            version=winner.version,
        )
    return Election(winner, raw, [index for index, copy in enumerate(copies) if copy != raw])


def _unsealed(layout: Layout, raw: bytes) -> Superblock:
    superblock = unseal(layout, raw)
    assert superblock is not None
    return superblock


def _no_quorum(layout: Layout, copies: Sequence[bytes], where: str) -> LogNotALog | LogDamaged:
    if not any(raw.startswith(layout.magic) for raw in copies):
        return LogNotALog(f"{where} holds no replication log", hint=_NOTHING_THERE[layout.what])
    whole = sum(unseal(layout, raw) is not None for raw in copies)
    return LogDamaged(
        f"{where}: quorum lost: {whole} of {COPIES} copies of the {layout.what} are valid, no {QUORUM} of them agree",
        hint=f"restore the volume's first MiB from a backup, or {NEW_LOG}",
    )


def _check_descent(layout: Layout, winner: Superblock, others: Sequence[Superblock], where: str) -> None:
    """Refuse a newer copy, unless it is the winner's child: only then an interrupted write left it."""
    for other in others:
        child = other.sequence == winner.sequence + 1 and other.parent_checksum == winner.checksum
        if other.sequence >= winner.sequence and not child:
            raise LogDamaged(
                f"{where}: quorum lost: a copy of the {layout.what} has sequence {other.sequence}, "
                f"which does not follow from {winner.sequence}, the newest that a quorum holds",
                hint=f"the device lost flushed writes: replace it, and {NEW_LOG}",
            )


def is_unfinished_format(copies: Sequence[bytes]) -> bool:
    """Whether the copies are blank, or are what an interrupted first write of a volume superblock leaves."""
    first = [copy for copy in (unseal(VOLUME_LAYOUT, raw) for raw in copies) if copy and copy.sequence == 1]
    blank = sum(not any(raw) for raw in copies)
    return len(first) + blank == COPIES and len(first) < QUORUM


# -- the volume's body -------------------------------------------------------------------------------------------------

_VOLUME = struct.Struct("<16s16sQI4x")  # volume uuid, owner uuid, size, section count
_ROW = struct.Struct("<64s16sQQI4x")  # name, domain uuid, offset, bytes, flags
assert _ENVELOPE.size + _VOLUME.size + SECTIONS_MAX * _ROW.size <= VOLUME_LAYOUT.copy_bytes, "the table fits its slot"


class SectionRow(NamedTuple):
    """One row of the section table: the section's name, its domain, and where it lies on the volume."""

    name: str
    domain_uuid: UUID
    offset: int
    section_bytes: int
    flags: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.section_bytes


class VolumeBody(NamedTuple):
    """What the volume superblock says."""

    volume_uuid: UUID
    owner: UUID
    size_bytes: int
    sections: tuple[SectionRow, ...]


def encode_volume(body: VolumeBody) -> bytes:
    head = _VOLUME.pack(body.volume_uuid.bytes, body.owner.bytes, body.size_bytes, len(body.sections))
    rows = (_ROW.pack(row.name.encode(), row.domain_uuid.bytes, *row[2:]) for row in body.sections)
    return head + b"".join(rows)


def decode_volume(raw: bytes, *, where: str) -> VolumeBody:
    """Decode the body. :class:`LogDamaged` if no engine wrote it."""
    if len(raw) < _VOLUME.size:
        raise _malformed(VOLUME_LAYOUT, where, f"its body has {len(raw)} bytes")
    volume_uuid, owner, size_bytes, count = _VOLUME.unpack_from(raw)
    if count > SECTIONS_MAX or len(raw) != _VOLUME.size + count * _ROW.size:
        raise _malformed(VOLUME_LAYOUT, where, f"it names {count} sections in {len(raw)} bytes")
    rows = tuple(_decode_row(fields, where) for fields in _ROW.iter_unpack(raw[_VOLUME.size :]))
    _check_rows(rows, size_bytes, where)
    return VolumeBody(UUID(bytes=volume_uuid), UUID(bytes=owner), size_bytes, rows)


def _decode_row(fields: tuple[bytes, bytes, int, int, int], where: str) -> SectionRow:
    name, domain_uuid, offset, section_bytes, flags = fields
    return SectionRow(_decode_name(name, VOLUME_LAYOUT, where), UUID(bytes=domain_uuid), offset, section_bytes, flags)


def _decode_name(raw: bytes, layout: Layout, where: str) -> str:
    try:
        return check_name("section", raw.rstrip(b"\0").decode())
    except (UnicodeDecodeError, InvalidRequest):
        raise _malformed(layout, where, f"a section's name is {raw!r}") from None


def _check_rows(rows: Sequence[SectionRow], size_bytes: int, where: str) -> None:
    if len({row.name for row in rows}) != len(rows):
        raise _malformed(VOLUME_LAYOUT, where, "two sections have the same name")
    end = VOLUME_SUPERBLOCK_AREA_BYTES
    for row in sorted(rows, key=lambda row: row.offset):
        aligned = row.offset % SECTION_ALIGN_BYTES == row.section_bytes % SECTION_ALIGN_BYTES == 0
        if not aligned or row.section_bytes < SECTION_BYTES_MIN or row.offset < end or row.end > size_bytes:
            raise _malformed(
                VOLUME_LAYOUT,
                where,
                f"section {row.name!r}, {row.section_bytes} bytes at {row.offset}, overlaps one or leaves the volume",
            )
        end = row.end


def _malformed(layout: Layout, where: str, problem: str) -> LogDamaged:
    return LogDamaged(
        f"{where}: the {layout.what} is malformed: {problem}",
        hint=f"restore the superblock from a backup, or {NEW_LOG}",
    )


# -- a section's body --------------------------------------------------------------------------------------------------

_SECTION = struct.Struct("<64s16sQQQQIIQQ")
# name, domain uuid, section id, data offset, data bytes, epoch, timeline, flags, lsn uploaded, initial LSN
_CURSOR = struct.Struct("<QQQQq")
SECTION_BODY_BYTES_V1 = _SECTION.size + 2 * _CURSOR.size
_WITNESS = struct.Struct("<16s16s16sH6x")  # nonce, state id, digest of the places, count of disk identities
DISK_IDENTITY_BYTES = 7
assert SECTION_BODY_BYTES_V1 + _WITNESS.size + DISKS_MAX * DISK_IDENTITY_BYTES <= SECTION_LAYOUT.body_bytes_max, (
    "every disk has room"
)
UNKNOWN_ID = bytes(16)
_FLAG_CLEAN = 1
_FLAG_WRITE_BACK = 2


class SectionBody(NamedTuple):
    """What a section superblock says.

    The oldest batch that is still needed begins at ``tail``. ``head`` is the furthest place that was known to be
    durable when this was written. With ``clean`` it is the end of the log. ``initial_lsn`` is the first LSN that the
    section ever held. With ``write_back`` the primaries may lag the log.

    ``nonce`` and ``epoch`` are those of the claim that began the log. ``state_id`` names the state folder that the log
    relies on. ``places`` is a digest of where the primaries are. ``disks`` identifies the primaries as they were at a
    clean end, in the order of the disks' numbers. All four are zero or empty if they are not known.
    """

    name: str
    domain_uuid: UUID
    section_id: int
    data_offset: int
    data_bytes: int
    epoch: int
    timeline: int
    clean: bool
    lsn_uploaded: int
    initial_lsn: int
    tail: Cursor
    head: Cursor
    write_back: bool = False
    nonce: bytes = UNKNOWN_ID
    state_id: bytes = UNKNOWN_ID
    places: bytes = UNKNOWN_ID
    disks: tuple[bytes, ...] = ()

    @property
    def area(self) -> DataArea:
        return DataArea(self.section_id, self.data_offset, self.data_bytes)


def encode_section(body: SectionBody) -> bytes:
    flags = (_FLAG_CLEAN if body.clean else 0) | (_FLAG_WRITE_BACK if body.write_back else 0)
    fixed = _SECTION.pack(
        *(body.name.encode(), body.domain_uuid.bytes, body.section_id, body.data_offset, body.data_bytes),
        *(body.epoch, body.timeline, flags, body.lsn_uploaded, body.initial_lsn),
    )
    known = fixed + _CURSOR.pack(*body.tail) + _CURSOR.pack(*body.head)
    if body.nonce == body.state_id == body.places == UNKNOWN_ID and not body.disks:
        return known
    return known + _WITNESS.pack(body.nonce, body.state_id, body.places, len(body.disks)) + b"".join(body.disks)


def decode_section(raw: bytes, *, where: str) -> SectionBody:
    """Decode the body. :class:`LogDamaged` if no engine wrote it."""
    nonce, state_id, places, disks = _decode_witness(raw[SECTION_BODY_BYTES_V1:], where)
    if len(raw) < SECTION_BODY_BYTES_V1:
        raise _malformed(SECTION_LAYOUT, where, f"its body has {len(raw)} bytes")
    name, domain_uuid, *numbers = _SECTION.unpack_from(raw)
    section_id, data_offset, data_bytes, epoch, timeline, flags, lsn_uploaded, initial_lsn = numbers
    body = SectionBody(
        *(_decode_name(name, SECTION_LAYOUT, where), UUID(bytes=domain_uuid), section_id, data_offset, data_bytes),
        *(epoch, timeline, bool(flags & _FLAG_CLEAN), lsn_uploaded, initial_lsn),
        tail=Cursor(*_CURSOR.unpack_from(raw, _SECTION.size)),
        head=Cursor(*_CURSOR.unpack_from(raw, _SECTION.size + _CURSOR.size)),
        write_back=bool(flags & _FLAG_WRITE_BACK),
        nonce=nonce,
        state_id=state_id,
        places=places,
        disks=disks,
    )
    _check_section(body, where)
    return body


def _decode_witness(raw: bytes, where: str) -> tuple[bytes, bytes, bytes, tuple[bytes, ...]]:
    """What a longer body says besides that of version 1."""
    if not raw:
        return UNKNOWN_ID, UNKNOWN_ID, UNKNOWN_ID, ()
    if len(raw) < _WITNESS.size:
        raise _malformed(SECTION_LAYOUT, where, f"its body ends {len(raw)} bytes after the head")
    nonce, state_id, places, count = _WITNESS.unpack_from(raw)
    disks = raw[_WITNESS.size :]
    if len(disks) != count * DISK_IDENTITY_BYTES or count > DISKS_MAX:
        raise _malformed(SECTION_LAYOUT, where, f"it identifies {count} disks in {len(disks)} bytes")
    pieces = (disks[at : at + DISK_IDENTITY_BYTES] for at in range(0, len(disks), DISK_IDENTITY_BYTES))
    return nonce, state_id, places, tuple(pieces)


def _check_section(body: SectionBody, where: str) -> None:
    tail, head = body.tail, body.head
    aligned = all(n % BLOCK_BYTES == 0 for n in (body.data_offset, body.data_bytes, tail.position, head.position))
    ordered = tail.position <= head.position and tail.batch_number <= head.batch_number and tail.lsn <= head.lsn
    room = head.position - tail.position <= body.data_bytes
    bounded = max(head.position + body.data_bytes, head.batch_number, head.lsn) < _U64_MAX >> 1
    if not (aligned and ordered and room and bounded and body.section_id and body.data_bytes):
        raise _malformed(SECTION_LAYOUT, where, f"tail {tail} and head {head} in {body.data_bytes} bytes cannot be")


def check_place(body: SectionBody, row: SectionRow, *, where: str) -> None:
    """Raise :class:`LogDamaged` unless the section's superblock and its row in the volume's table agree."""
    expected = (row.name, row.domain_uuid, row.offset + SECTION_SUPERBLOCK_AREA_BYTES)
    found = (body.name, body.domain_uuid, body.data_offset)
    if found != expected or body.data_offset + body.data_bytes > row.end:
        raise _malformed(
            SECTION_LAYOUT,
            where,
            f"it describes {body.name!r}, {body.data_bytes} bytes at {body.data_offset}, outside section {row.name!r}",
        )
