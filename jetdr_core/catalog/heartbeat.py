"""The heartbeat: an idle owner says that everything captured up to some instant is in the store. Pure codec.

Without it, the newest instant of an idle domain would be that of its last write, however long ago.

Invariants: the heartbeat is advisory. It counts only while its epoch owns the chain.

- If its LSN is the chain's last, it extends the time up to which instants may be asked for, never the LSN.
- If its LSN is higher, the chain has lost its end: the store held that LSN once.
- If its LSN is lower, it is stale, and says nothing.

In a domain with a key it has a tag, and one without a right tag does not count.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import xxhash
from typing_extensions import Buffer

from jetdr_core.catalog.keys import heartbeat_key
from jetdr_core.domain_key import TAG_BYTES, DomainKey, TagPurpose
from jetdr_core.errors import DamagedObject, Forged, UnsupportedVersion

_MAGIC = b"JDRBEAT\1"
_VERSION = 1
_VERSION_TAGGED = 2
_LAYOUT = struct.Struct("<8sH6xQQq16sQ")
_TAG_AT = _LAYOUT.size - 8 - TAG_BYTES
_BODY_BYTES = _LAYOUT.size - 8

HEARTBEAT_BYTES = _LAYOUT.size


class Heartbeat(NamedTuple):
    """At ``time_ns`` the owner of ``epoch`` had captured nothing beyond ``lsn``, and the store held all up to it."""

    epoch: int
    lsn: int
    time_ns: int


def heartbeat(epoch: int, *, lsn: int, time_ns: int, domain_key: DomainKey | None = None) -> tuple[str, bytes]:
    """Key and bytes of a heartbeat. The owner of ``epoch`` replaces it each time."""
    version = _VERSION if domain_key is None else _VERSION_TAGGED
    said = _LAYOUT.pack(_MAGIC, version, epoch, lsn, time_ns, b"", 0)[:_TAG_AT]
    tag = bytes(TAG_BYTES) if domain_key is None else domain_key.tag(TagPurpose.HEARTBEAT, said)
    body = said + tag
    return heartbeat_key(epoch), body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def decode_heartbeat(data: Buffer, key: str, domain_key: DomainKey | None = None) -> Heartbeat:
    """Decode a heartbeat. ``key`` names the object in errors.

    With ``domain_key``, :class:`Forged` is raised unless an owner of the domain made it.
    """
    view = memoryview(data)
    if len(view) != _LAYOUT.size:
        raise DamagedObject(key, "heartbeat", f"{len(view)} bytes instead of {_LAYOUT.size}")
    magic, version, epoch, lsn, time_ns, tag, checksum = _LAYOUT.unpack(view)
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(view[:_BODY_BYTES]) != checksum:
        raise DamagedObject(key, "heartbeat", "magic or checksum is wrong")
    if version > _VERSION_TAGGED:
        raise UnsupportedVersion(f"{key}: heartbeat of format {version}", hint="use a newer engine", key=key)
    if domain_key is not None and not domain_key.is_tag(tag, TagPurpose.HEARTBEAT, view[:_TAG_AT]):
        raise Forged(key, "heartbeat", "has no right tag")
    return Heartbeat(epoch, lsn, time_ns)
