"""The fixed ends of a chain object: its header and its trailer. Pure.

The trailer says where the object belongs (domain, epoch, predecessor, LSN and time range) and where its index lies.
It has the index's checksum, and the index has the frames' checksums. XXH3-128 of the trailer is the object's checksum,
by which its successor names it. So one checksum covers every byte.

Anybody can compute checksums. In a domain with a key, the trailer has tags in the same places: the index's, and its
own. The trailer's tag covers the whole trailer, with the object's number and its predecessor. The index has the tags
of the frames.

Invariant: every number is checked against the object's size before it is used.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import numpy as np
import xxhash
from typing_extensions import Buffer

from jetdr_core.domain_key import KEY_ID_BYTES, SALT_BYTES, TAG_BYTES, DomainKey, TagPurpose
from jetdr_core.errors import DamagedObject, Forged, UnsupportedVersion
from jetdr_core.limits import FRAME_BYTES, SEGMENT_RECORDS_MAX
from jetdr_core.segment.layout import (
    CHECKSUM_AT,
    CONTROL,
    ENCRYPTED,
    ENTRIES_MAX,
    ENTRY,
    FRAME,
    FRAME_TAGGED,
    HEADER,
    HEADER_BYTES,
    HEADER_MAGIC,
    INDEX_BYTES_MAX,
    TAG_AT,
    TAGGED,
    TRAILER,
    TRAILER_BYTES,
    TRAILER_MAGIC,
    VERSION,
    VERSION_TAGGED,
    ObjectKind,
)

_LZ4_RATIO_MAX = 255
"""LZ4 cannot expand more. So the bytes that were read bound what decoding them may allocate."""


class Trailer(NamedTuple):
    """The trailer, decoded. docs/formats/segment.md has its offsets.

    ``payload_bytes`` counts what was captured, zeros included. ``stored_bytes`` counts the frames as they are stored.
    The last five fields are zero in an object without tags.
    """

    kind: ObjectKind
    flags: int
    domain_uuid: UUID
    epoch: int
    timeline: int
    predecessor: bytes
    first_lsn: int
    last_lsn: int
    first_time_ns: int
    last_time_ns: int
    payload_bytes: int
    stored_bytes: int
    frame_count: int
    entry_count: int
    control_count: int
    index_offset: int
    index_stored_bytes: int
    index_raw_bytes: int
    index_checksum: int
    object_bytes: int
    header_checksum: int
    key_id: bytes = bytes(KEY_ID_BYTES)
    salt: bytes = bytes(SALT_BYTES)
    number: int = 0
    index_tag: bytes = bytes(TAG_BYTES)
    tag: bytes = bytes(TAG_BYTES)

    @property
    def is_tagged(self) -> bool:
        """Whether the object has tags, which say that it was made by somebody who has the domain's key."""
        return bool(self.flags & TAGGED)

    @property
    def is_encrypted(self) -> bool:
        """Whether frames and index can be read with the domain's key only."""
        return bool(self.flags & ENCRYPTED)

    @property
    def frame_type(self) -> np.dtype[np.void]:
        """The type of the rows of its frame table."""
        return FRAME_TAGGED if self.is_tagged else FRAME

    @property
    def index_end(self) -> int:
        """Where the index ends and the trailer begins."""
        return self.index_offset + self.index_stored_bytes

    @property
    def footer_bytes(self) -> int:
        """Length of index and trailer together, which is what a reader fetches first."""
        return self.object_bytes - self.index_offset


class Origin(NamedTuple):
    """Who put a chain object: the domain, and the epoch of its owner."""

    domain_uuid: UUID
    epoch: int


def object_checksum(trailer: Buffer) -> bytes:
    """The checksum by which the chain names an object. ``trailer`` are the bytes of its trailer."""
    return xxhash.xxh3_128_digest(trailer)


def encode_header(kind: ObjectKind, domain_uuid: UUID, *, is_tagged: bool = False) -> bytes:
    """The first 64 bytes of an object."""
    version = VERSION_TAGGED if is_tagged else VERSION
    body = HEADER.pack(HEADER_MAGIC, version, kind, domain_uuid.bytes, 0)[:-8]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def header_checksum(header: Buffer) -> int:
    """The checksum at the end of a header."""
    return int.from_bytes(memoryview(header)[HEADER_BYTES - 8 : HEADER_BYTES], "little")


def check_header(header: Buffer, trailer: Trailer, key: str) -> None:
    """Raise :class:`DamagedObject` unless ``header`` belongs to ``trailer``."""
    expected = encode_header(trailer.kind, trailer.domain_uuid, is_tagged=trailer.is_tagged)
    if bytes(memoryview(header)[:HEADER_BYTES]) != expected or header_checksum(expected) != trailer.header_checksum:
        raise DamagedObject(key, "header", "does not belong to the trailer")


def encode_trailer(trailer: Trailer) -> bytes:
    """The last 256 bytes of an object."""
    kind, flags, domain_uuid, *fields = trailer
    version = VERSION_TAGGED if trailer.is_tagged else VERSION
    body = TRAILER.pack(TRAILER_MAGIC, version, kind, flags, domain_uuid.bytes, *fields, 0)[:CHECKSUM_AT]
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def decode_origin(tail: Buffer, key: str) -> Origin:
    """Return who put the object, whatever its version. ``tail`` and ``key`` are as for :func:`decode_trailer`."""
    raw = memoryview(tail)[-TRAILER_BYTES:]
    if len(raw) < TRAILER_BYTES:
        raise DamagedObject(key, "trailer", f"{len(raw)} bytes are not a chain object")
    magic, _, _, _, domain_uuid, epoch, *_, checksum = TRAILER.unpack(raw)
    if magic != TRAILER_MAGIC or xxhash.xxh3_64_intdigest(raw[:CHECKSUM_AT]) != checksum:
        raise DamagedObject(key, "trailer", "magic or checksum is wrong")
    return Origin(UUID(bytes=domain_uuid), epoch)


def decode_trailer(tail: Buffer, key: str) -> Trailer:
    """Decode and check the trailer at the end of ``tail``, which is any suffix of the object that contains it.

    ``key`` names the object in :class:`DamagedObject` and :class:`UnsupportedVersion`.
    """
    origin, raw = decode_origin(tail, key), memoryview(tail)[-TRAILER_BYTES:]
    _, version, kind, flags, _, *fields, _ = TRAILER.unpack(raw)
    if version > VERSION_TAGGED or (version == VERSION_TAGGED and flags not in (TAGGED, TAGGED | ENCRYPTED)):
        unknown = "" if version > VERSION_TAGGED else f" with flags {flags}"
        raise UnsupportedVersion(
            f"{key}: chain object of format {version}{unknown}; this engine reads up to {VERSION_TAGGED}",
            hint="use a newer engine",
            key=key,
        )
    if version < 1 or kind not in (ObjectKind.SEGMENT, ObjectKind.EPOCH) or (flags and version != VERSION_TAGGED):
        raise DamagedObject(key, "trailer", f"version {version}, kind {kind}, flags {flags} do not exist")
    trailer = Trailer(ObjectKind(kind), flags, origin.domain_uuid, *fields)
    problem = _sizes_problem(trailer) or _range_problem(trailer)
    if trailer.is_tagged and encode_trailer(trailer) != raw:
        problem = "bytes that say nothing are not zero"  # else the tag would not cover them
    if problem:
        raise DamagedObject(key, "trailer", problem)
    return trailer


def believed_origin(tail: Buffer, number: int, domain_key: DomainKey | None, key: str) -> Origin:
    """Return who put object ``number``. ``tail`` and ``key`` are as for :func:`decode_trailer`.

    Without a key anybody is believed, and the version does not matter. With ``domain_key``, :class:`Forged` is raised
    unless an owner put it, and :class:`UnsupportedVersion` if that owner's engine was newer.
    """
    if domain_key is None:
        return decode_origin(tail, key)
    trailer = believed_trailer(tail, number, domain_key, key)
    return Origin(trailer.domain_uuid, trailer.epoch)


def believed_trailer(tail: Buffer, number: int | None, domain_key: DomainKey | None, key: str) -> Trailer:
    """Decode and check the trailer of object ``number``, with ``domain_key`` its tag too.

    None stands for the number that the trailer says. Raises as :func:`decode_trailer` and :func:`check_tag` do.
    """
    try:
        trailer = decode_trailer(tail, key)
    except UnsupportedVersion:
        _check_newer(memoryview(tail)[-TRAILER_BYTES:], number, domain_key, key)
        raise
    check_tag(trailer, trailer.number if number is None else number, domain_key, key)
    return trailer


def _check_newer(raw: memoryview, number: int | None, domain_key: DomainKey | None, key: str) -> None:
    """Raise :class:`Forged` for a newer version without a right tag: anybody may write any version into an object."""
    if domain_key is None or (number is not None and number < domain_key.number_first):
        return
    before, tag, after = raw[:TAG_AT], raw[TAG_AT : TAG_AT + TAG_BYTES], raw[TAG_AT + TAG_BYTES : CHECKSUM_AT]
    if not domain_key.is_tag(bytes(tag), TagPurpose.TRAILER, before, bytes(TAG_BYTES), after):
        raise Forged(
            key, "trailer", "is of a newer format, and has a wrong tag: nobody who has the domain's key made it"
        )


def with_tag(trailer: Trailer, domain_key: DomainKey) -> Trailer:
    """The trailer with its tag. Everything else in it must be as it will be stored."""
    return trailer._replace(tag=domain_key.tag(TagPurpose.TRAILER, _tagged_bytes(trailer)))


def check_tag(trailer: Trailer, number: int, domain_key: DomainKey | None, key: str) -> None:
    """Raise :class:`Forged` unless an owner of the domain made the object that has ``trailer`` as object ``number``.

    Without a key nothing is checked.
    """
    if domain_key is None or (number < domain_key.number_first and not trailer.is_tagged):
        return
    problem = ""
    if not trailer.is_tagged:
        problem = f"has no tag, but {domain_key.source} says that objects from {domain_key.number_first} on have one"
    elif trailer.domain_uuid != domain_key.domain_uuid:
        problem = f"is of domain {trailer.domain_uuid}"
    elif trailer.key_id != domain_key.key_id:
        problem = f"was tagged with key {trailer.key_id.hex()}, the domain's key is {domain_key.key_id.hex()}"
    elif not domain_key.is_tag(trailer.tag, TagPurpose.TRAILER, _tagged_bytes(trailer)):
        problem = "has a wrong tag: it was not made, or was changed, by somebody who lacks the domain's key"
    elif trailer.is_encrypted != domain_key.encrypts:
        problem = f"is {'' if trailer.is_encrypted else 'not '}encrypted, the mode of the key is {domain_key.mode!s}"
    elif trailer.number != number:
        problem = f"was made as object {trailer.number}"
    if problem:
        raise Forged(key, "trailer", problem)


def _tagged_bytes(trailer: Trailer) -> bytes:
    """What the tag of a trailer covers: the whole trailer without its tag and its checksum."""
    return encode_trailer(trailer._replace(tag=bytes(TAG_BYTES)))[:CHECKSUM_AT]


def _sizes_problem(trailer: Trailer) -> str:
    if trailer.index_offset != HEADER_BYTES + trailer.stored_bytes:
        return f"index at {trailer.index_offset} does not follow {trailer.stored_bytes} bytes of frames"
    if trailer.object_bytes != trailer.index_end + TRAILER_BYTES:
        return f"object of {trailer.object_bytes} bytes does not end after its index at {trailer.index_end}"
    if trailer.index_raw_bytes > min(INDEX_BYTES_MAX, _LZ4_RATIO_MAX * trailer.index_stored_bytes):
        return f"index of {trailer.index_stored_bytes} bytes cannot hold {trailer.index_raw_bytes}"
    if trailer.stored_bytes > trailer.frame_count * FRAME_BYTES:
        return f"{trailer.frame_count} frames cannot hold {trailer.stored_bytes} bytes"
    if trailer.entry_count > ENTRIES_MAX or _tables_bytes(trailer) > trailer.index_raw_bytes:
        return f"an index of {trailer.index_raw_bytes} bytes cannot hold its tables"
    return ""


def _tables_bytes(trailer: Trailer) -> int:
    rows = ((trailer.frame_count, trailer.frame_type), (trailer.entry_count, ENTRY), (trailer.control_count, CONTROL))
    return sum(count * dtype.itemsize for count, dtype in rows)


def _range_problem(trailer: Trailer) -> str:
    if trailer.first_lsn < 1 or trailer.epoch < 1:
        return f"LSN {trailer.first_lsn} and epoch {trailer.epoch} count from 1"
    if not 0 <= trailer.first_time_ns <= trailer.last_time_ns:
        return f"times run from {trailer.first_time_ns} to {trailer.last_time_ns}"
    records = trailer.last_lsn - trailer.first_lsn + 1
    if trailer.kind == ObjectKind.EPOCH:
        rows = trailer.frame_count + trailer.entry_count + trailer.control_count
        return (
            f"an epoch object has {records} records and {rows} rows" if records or rows or trailer.payload_bytes else ""
        )
    if records > SEGMENT_RECORDS_MAX or trailer.control_count > records:
        return f"{records} records, {trailer.control_count} of them control records, are more than a segment holds"
    if not 0 < records <= trailer.entry_count + trailer.control_count:
        return f"{trailer.entry_count} entries and {trailer.control_count} control records are not {records} records"
    return ""
