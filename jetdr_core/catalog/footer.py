"""Footers: the index and the trailer of one chain object, fetched with one range-GET, or with two if the index is long.

Invariant: a trailer that is returned was verified against its own checksum, and with the domain's key against its tag.
An index is verified when it is decoded.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from jetdr_core.catalog.keys import chain_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject, ObjectNotFound, ObjectUnavailable
from jetdr_core.record import ControlRecord, Kind
from jetdr_core.segment import (
    TRAILER_BYTES,
    ObjectKind,
    Trailer,
    believed_trailer,
    decode_epoch,
    decode_index,
    encrypted_is_damage,
    object_checksum,
)
from jetdr_core.store import ObjectStore

TAIL_BYTES = 64 << 10
"""How much of an object's end is fetched at once. The footer of a segment of 4 KiB writes fits."""

_NOTHING: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class Footer:
    """What following the chain needs to know of one object.

    ``index`` is the stored index of a segment with control records. It is decoded only if it is history, and one object
    at a time, because a short index may be long when it is decoded. ``damage`` says why the owner of an epoch object is
    unknown. ``domain_key`` checks the index.
    """

    number: int
    trailer: Trailer
    checksum: bytes
    index: bytes = b""
    domain_key: DomainKey | None = None
    owner: EpochOwner | None = None
    damage: DamagedObject | None = None

    @property
    def key(self) -> str:
        return chain_key(self.number)

    def control(self) -> list[ControlRecord]:
        """The control records, DIGESTS without their bodies. :class:`DamagedObject` if the index is damaged.

        No history is made of digests, and every chain has many. So neither a catalog nor a summary holds their bodies,
        only at which LSNs there are some.
        """
        if not self.index:
            return []
        with encrypted_is_damage(self.key):
            control = decode_index(self.index, self.trailer, self.key, self.domain_key).control
        return [record._replace(body=_NOTHING) if record.kind == Kind.DIGESTS else record for record in control]


async def read_trailer(
    store: ObjectStore, number: int, object_bytes: int, domain_key: DomainKey | None = None
) -> Footer:
    """Read the trailer alone. It proves the last row of a summary."""
    key = chain_key(number)
    tail = await _tail(store, key, object_bytes, TRAILER_BYTES)
    trailer = _trailer(tail, object_bytes, number, domain_key)
    return Footer(number, trailer, object_checksum(tail))


async def read_footer(
    store: ObjectStore, number: int, object_bytes: int, domain_key: DomainKey | None = None
) -> Footer:
    """Read the trailer, and an index with control records, or the owner.

    :class:`DamagedObject` if the trailer is damaged. :class:`WrongKey` if object 1 is encrypted, and so is the domain.
    """
    key = chain_key(number)
    tail = await _tail(store, key, object_bytes, TAIL_BYTES)
    trailer = _trailer(tail, object_bytes, number, domain_key)
    checksum = object_checksum(tail[-TRAILER_BYTES:])
    if trailer.kind == ObjectKind.SEGMENT and trailer.control_count == 0:
        return Footer(number, trailer, checksum)
    if trailer.footer_bytes > len(tail):
        tail = await _range(store, key, trailer.index_offset, trailer.footer_bytes)
    index = tail[len(tail) - trailer.footer_bytes : len(tail) - TRAILER_BYTES]
    if trailer.kind == ObjectKind.SEGMENT:
        return Footer(number, trailer, checksum, index=index, domain_key=domain_key)
    try:
        with encrypted_is_damage(key) if number != 1 else nullcontext():
            return Footer(number, trailer, checksum, owner=decode_epoch(index, trailer, key, domain_key))
    except DamagedObject as error:
        return Footer(number, trailer, checksum, damage=error)


async def _tail(store: ObjectStore, key: str, object_bytes: int, tail_bytes: int) -> bytes:
    length = min(object_bytes, tail_bytes)
    if not length:
        raise DamagedObject(key, "object", "is empty")
    return await _range(store, key, object_bytes - length, length)


async def _range(store: ObjectStore, key: str, offset: int, length: int) -> bytes:
    """A part of an object that was listed. It is damage if the object vanished since, or cannot be got for good."""
    try:
        return await store.get_range(key, offset, length)
    except ObjectNotFound as error:
        raise DamagedObject(key, "object", "has vanished since it was listed") from error
    except ObjectUnavailable as error:
        raise DamagedObject(key, "object", error.problem) from error


def _trailer(tail: bytes, object_bytes: int, number: int, domain_key: DomainKey | None) -> Trailer:
    key = chain_key(number)
    trailer = believed_trailer(tail, number, domain_key, key)
    if trailer.object_bytes != object_bytes:
        raise DamagedObject(key, "trailer", f"says {trailer.object_bytes} bytes, the object has {object_bytes}")
    return trailer
