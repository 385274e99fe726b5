"""The heartbeat: an idle owner says that everything captured up to some instant is in the store. Pure codec.

Without it, the newest instant of an idle domain would be that of its last write, however long ago.

Invariants: the heartbeat is advisory. It counts only while its epoch owns the chain.

- If its LSN is the chain's last, it extends the time up to which instants may be asked for, never the LSN.
- If its LSN is higher, the chain has lost its end: the store held that LSN once.
- If its LSN is lower, it is stale, and says nothing.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import xxhash
from typing_extensions import Buffer

from jetdr_core.catalog.keys import heartbeat_key
from jetdr_core.errors import DamagedObject, UnsupportedVersion

_MAGIC = b"JDRBEAT\1"
_VERSION = 1
_LAYOUT = struct.Struct("<8sH6xQQq16xQ")
_BODY_BYTES = _LAYOUT.size - 8

HEARTBEAT_BYTES = _LAYOUT.size


class Heartbeat(NamedTuple):
    """At ``time_ns`` the owner of ``epoch`` had captured nothing beyond ``lsn``, and the store held all up to it."""

    epoch: int
    lsn: int
    time_ns: int


def heartbeat(epoch: int, *, lsn: int, time_ns: int) -> tuple[str, bytes]:
    """Key and bytes of a heartbeat. The owner of ``epoch`` replaces it each time."""
    body = _LAYOUT.pack(_MAGIC, _VERSION, epoch, lsn, time_ns, 0)[:_BODY_BYTES]
    return heartbeat_key(epoch), body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def decode_heartbeat(data: Buffer, key: str) -> Heartbeat:
    """Decode a heartbeat. ``key`` names the object in errors."""
    view = memoryview(data)
    if len(view) != _LAYOUT.size:
        raise DamagedObject(key, "heartbeat", f"{len(view)} bytes instead of {_LAYOUT.size}")
    magic, version, epoch, lsn, time_ns, checksum = _LAYOUT.unpack(view)
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(view[:_BODY_BYTES]) != checksum:
        raise DamagedObject(key, "heartbeat", "magic or checksum is wrong")
    if version > _VERSION:
        raise UnsupportedVersion(f"{key}: heartbeat of format {version}", hint="use a newer engine", key=key)
    return Heartbeat(epoch, lsn, time_ns)
