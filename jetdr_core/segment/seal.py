"""Seals a body into a chain object: gives it its place in the chain, and with the place its checksum.

Invariants: sealing is cheap. It is done in the order of the chain, because each object names its predecessor's
checksum. An orphan may hold the number that an object was sealed for. The object is then sealed again for another
number: :meth:`SealedSegment.moved_to`. An object without tags does not have its number inside it, so its bytes stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

import lz4.block
import xxhash
from typing_extensions import Buffer

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject
from jetdr_core.limits import CONTROL_BYTES_MAX
from jetdr_core.record import ControlRecord, control_body, control_payload
from jetdr_core.segment.body import SegmentBody, protect_index
from jetdr_core.segment.index import unpack_index
from jetdr_core.segment.layout import ENCRYPTED, HEADER_BYTES, TAGGED, TRAILER_BYTES, ObjectKind
from jetdr_core.segment.trailer import (
    Trailer,
    encode_header,
    encode_trailer,
    header_checksum,
    object_checksum,
    with_tag,
)


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A chain object that is ready to be put: ``parts``, one after the other, are its bytes.

    ``parts`` may be views of the log's memory, which must not change until the put has returned.
    """

    parts: list[Buffer]
    checksum: bytes
    trailer: Trailer
    control: list[ControlRecord]
    domain_key: DomainKey | None = None

    def moved_to(self, number: int, predecessor: bytes) -> SealedSegment:
        """The same content, sealed as object ``number`` after the object whose checksum is ``predecessor``."""
        trailer = self.trailer._replace(predecessor=predecessor)
        if self.domain_key is not None:
            trailer = with_tag(trailer._replace(number=number), self.domain_key)
        tail = encode_trailer(trailer)
        return replace(self, parts=[*self.parts[:-1], tail], checksum=object_checksum(tail), trailer=trailer)

    @property
    def first_lsn(self) -> int:
        return self.trailer.first_lsn

    @property
    def last_lsn(self) -> int:
        return self.trailer.last_lsn

    @property
    def size_bytes(self) -> int:
        return self.trailer.object_bytes


class _Place(NamedTuple):
    """Where in which chain an object is to be."""

    domain_uuid: UUID
    epoch: int
    timeline: int
    predecessor: bytes
    number: int
    domain_key: DomainKey | None


def seal(
    body: SegmentBody,
    *,
    domain_uuid: UUID,
    epoch: int,
    timeline: int,
    predecessor: bytes,
    number: int = 0,
    domain_key: DomainKey | None = None,
) -> SealedSegment:
    """Make ``body`` object ``number`` of the chain, the successor of the object whose checksum is ``predecessor``.

    With ``domain_key``, which is bound to the domain, the object has tags. ``body`` was built with a content key then.
    """
    return _sealed(ObjectKind.SEGMENT, body, _Place(domain_uuid, epoch, timeline, predecessor, number, domain_key))


def seal_epoch(
    *,
    domain_uuid: UUID,
    epoch: int,
    timeline: int,
    predecessor: bytes,
    lsn_next: int,
    time_ns: int,
    owner: EpochOwner,
    number: int = 0,
    domain_key: DomainKey | None = None,
) -> SealedSegment:
    """The object with which ``owner`` begins ``epoch``. The next segment begins with ``lsn_next``."""
    raw = control_payload(owner.encode())
    content_key = None if domain_key is None else domain_key.new_content_key()
    index, index_tag = protect_index(lz4.block.compress(raw, store_size=False), content_key)
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
        content_key=content_key,
        index_tag=index_tag,
    )
    return _sealed(ObjectKind.EPOCH, body, _Place(domain_uuid, epoch, timeline, predecessor, number, domain_key))


def _sealed(kind: ObjectKind, body: SegmentBody, place: _Place) -> SealedSegment:
    assert (body.content_key is None) == (place.domain_key is None), "content and trailer have tags, or neither has"
    index_offset = HEADER_BYTES + body.stored_bytes
    header = encode_header(kind, place.domain_uuid, is_tagged=place.domain_key is not None)
    trailer = Trailer(
        kind=kind,
        flags=0,
        domain_uuid=place.domain_uuid,
        epoch=place.epoch,
        timeline=place.timeline,
        predecessor=place.predecessor,
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
    if place.domain_key is not None and body.content_key is not None:
        trailer = trailer._replace(
            flags=TAGGED | ENCRYPTED if place.domain_key.encrypts else TAGGED,
            key_id=place.domain_key.key_id,
            salt=body.content_key.salt,
            number=place.number,
            index_tag=body.index_tag,
        )
        trailer = with_tag(trailer, place.domain_key)
    tail = encode_trailer(trailer)
    parts = [header, *body.frames, body.index, tail]
    return SealedSegment(parts, object_checksum(tail), trailer, body.control, place.domain_key)


def decode_epoch(stored: Buffer, trailer: Trailer, key: str, domain_key: DomainKey | None = None) -> EpochOwner:
    """Decode the stored index of an epoch object: who began the epoch. With ``domain_key`` its tag is checked."""
    if trailer.kind != ObjectKind.EPOCH or trailer.index_raw_bytes > CONTROL_BYTES_MAX:
        raise DamagedObject(key, "epoch", "is not an epoch object")
    return EpochOwner.decode(control_body(unpack_index(stored, trailer, key, domain_key), key), key)
