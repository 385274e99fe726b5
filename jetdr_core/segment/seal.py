"""Seals a body into a chain object: gives it its place in the chain, and with the place its checksum.

Invariants: sealing is cheap. It is done in the order of the chain, because each object names its predecessor's
checksum. The object's number is not inside it, so the same bytes may be put at another number if an orphan holds the
first.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import lz4.block
import xxhash
from typing_extensions import Buffer

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import DamagedObject
from jetdr_core.limits import CONTROL_BYTES_MAX
from jetdr_core.record import ControlRecord, control_body, control_payload
from jetdr_core.segment.body import SegmentBody
from jetdr_core.segment.index import unpack_index
from jetdr_core.segment.layout import HEADER_BYTES, TRAILER_BYTES, ObjectKind
from jetdr_core.segment.trailer import Trailer, encode_header, encode_trailer, header_checksum, object_checksum


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A chain object that is ready to be put: ``parts``, one after the other, are its bytes.

    ``parts`` may be views of the log's memory, which must not change until the put has returned.
    """

    parts: list[Buffer]
    checksum: bytes
    trailer: Trailer
    control: list[ControlRecord]

    @property
    def first_lsn(self) -> int:
        return self.trailer.first_lsn

    @property
    def last_lsn(self) -> int:
        return self.trailer.last_lsn

    @property
    def size_bytes(self) -> int:
        return self.trailer.object_bytes


def seal(body: SegmentBody, *, domain_uuid: UUID, epoch: int, timeline: int, predecessor: bytes) -> SealedSegment:
    """Make ``body`` the successor of the object whose checksum is ``predecessor``."""
    return _sealed(
        ObjectKind.SEGMENT, body, domain_uuid=domain_uuid, epoch=epoch, timeline=timeline, predecessor=predecessor
    )


def seal_epoch(
    *,
    domain_uuid: UUID,
    epoch: int,
    timeline: int,
    predecessor: bytes,
    lsn_next: int,
    time_ns: int,
    owner: EpochOwner,
) -> SealedSegment:
    """The object with which ``owner`` begins ``epoch``. The next segment begins with ``lsn_next``."""
    raw = control_payload(owner.encode())
    index = lz4.block.compress(raw, store_size=False)
    body = SegmentBody(
        frames=[],
        index=index,
        index_checksum=xxhash.xxh3_64_intdigest(index),
        index_raw_bytes=len(raw),
        first_lsn=lsn_next,
        last_lsn=lsn_next - 1,
        first_time_ns=time_ns,
        last_time_ns=time_ns,
        payload_bytes=0,
        stored_bytes=0,
        entry_count=0,
        control=[],
    )
    return _sealed(
        ObjectKind.EPOCH, body, domain_uuid=domain_uuid, epoch=epoch, timeline=timeline, predecessor=predecessor
    )


def _sealed(
    kind: ObjectKind, body: SegmentBody, *, domain_uuid: UUID, epoch: int, timeline: int, predecessor: bytes
) -> SealedSegment:
    index_offset = HEADER_BYTES + body.stored_bytes
    header = encode_header(kind, domain_uuid)
    trailer = Trailer(
        kind=kind,
        flags=0,
        domain_uuid=domain_uuid,
        epoch=epoch,
        timeline=timeline,
        predecessor=predecessor,
        first_lsn=body.first_lsn,
        last_lsn=body.last_lsn,
        first_time_ns=body.first_time_ns,
        last_time_ns=body.last_time_ns,
        payload_bytes=body.payload_bytes,
        stored_bytes=body.stored_bytes,
        frame_count=len(body.frames),
        entry_count=body.entry_count,
        control_count=len(body.control),
        index_offset=index_offset,
        index_stored_bytes=len(body.index),
        index_raw_bytes=body.index_raw_bytes,
        index_checksum=body.index_checksum,
        object_bytes=index_offset + len(body.index) + TRAILER_BYTES,
        header_checksum=header_checksum(header),
    )
    tail = encode_trailer(trailer)
    return SealedSegment([header, *body.frames, body.index, tail], object_checksum(tail), trailer, body.control)


def decode_epoch(stored: Buffer, trailer: Trailer, key: str) -> EpochOwner:
    """Decode the stored index of an epoch object: who began the epoch."""
    if trailer.kind != ObjectKind.EPOCH or trailer.index_raw_bytes > CONTROL_BYTES_MAX:
        raise DamagedObject(key, "epoch", "is not an epoch object")
    return EpochOwner.decode(control_body(unpack_index(stored, trailer, key), key), key)
