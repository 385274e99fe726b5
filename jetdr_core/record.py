"""The record: one captured write, zero, mark, disk change or gap boundary. Pure.

The ring, the replication log and the segment encoder share the header's layout with ``native/jetdr.h``
(``struct jdr_record``). docs/formats/log-volume.md has its offsets.

Invariants: LSNs are dense from 1. ``time_ns`` never decreases along LSN. A payload is a multiple of 512 bytes.
"""

from __future__ import annotations

import enum
import json
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.json_text import decode_json
from jetdr_core.limits import CONTROL_BYTES_MAX, SECTOR_BYTES

__all__ = [
    "RECORD",
    "ControlRecord",
    "Kind",
    "RecordBatch",
    "RecordFlag",
    "RecordHeaders",
    "control_body",
    "control_payload",
    "control_records",
    "padded",
]


class Kind(enum.IntEnum):
    """What a record says. WRITE and ZERO change a disk. All other kinds are control records.

    The body of a control record has a class of its own in :mod:`jetdr_core.control_bodies`.
    """

    WRITE = 1
    """``payload_bytes == length`` bytes at ``offset`` of ``disk``."""
    ZERO = 2
    """``length`` zero bytes at ``offset`` of ``disk``, without payload."""
    MARK = 3
    """Names the recovery point at this LSN."""
    GAP_OPEN = 4
    """From this LSN the domain is not consistent."""
    GAP_CLOSE = 5
    """From this LSN the domain is consistent again."""
    DISK_ADD = 6
    """``disk`` is protected. It is ready at once unless it holds data."""
    DISK_READY = 7
    """The initial copy of ``disk`` is complete."""
    DISK_REMOVE = 8
    """``disk`` is no longer protected."""
    DISK_GROW = 9
    """``disk`` has a new size."""
    CONFIG = 10
    """A configuration file of the domain's virtual machines."""
    DIGESTS = 11
    """What some extents of ``disk`` held at earlier LSNs."""
    VOID = 15
    """An LSN whose record was abandoned, because its producer died before it published."""


class RecordFlag(enum.IntFlag):
    """Where a WRITE or ZERO came from."""

    BACKGROUND = 1
    """Pre-existing data, copied."""
    DISCARD = 2
    """The guest's TRIM. Primary and replica both read zeros."""
    REREAD = 4
    """What the primary held after it failed a write here."""


RECORD = np.dtype(
    [
        ("lsn", "<u8"),
        ("time_ns", "<i8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("payload_checksum", "<u8"),  # XXH3-64 of the payload's bytes; 0 without payload
        ("disk", "<u4"),
        ("payload_bytes", "<u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("reserved", "V14"),
    ]
)
assert RECORD.itemsize == 64

RecordHeaders = npt.NDArray[np.void]
"""Structured array of dtype :data:`RECORD`."""


BODY_VALUES_MAX = 64
"""Ours have six at most. A parsed value takes up to twenty times the bytes of its text."""


class RecordBatch(NamedTuple):
    """Consecutive records: ``headers`` (dtype :data:`RECORD`) in LSN order, and their payloads back to back.

    ``payload`` is a view of ``sum(headers["payload_bytes"])`` bytes. The memory belongs to the maker of the batch.
    """

    headers: RecordHeaders
    payload: memoryview


class ControlRecord(NamedTuple):
    """A record that is not data, decoded. ``body`` is its JSON object, unchecked."""

    lsn: int
    time_ns: int
    kind: Kind
    disk: int
    body: dict[str, object]


def control_payload(body: dict[str, object]) -> bytes:
    """Encode ``body`` as the payload of a control record: JSON in UTF-8. The ring pads it to 512 bytes."""
    payload = json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    if len(payload) > CONTROL_BYTES_MAX:
        raise InvalidRequest(
            f"a control record of {len(payload)} bytes is too long", hint=f"at most {CONTROL_BYTES_MAX} bytes fit"
        )
    return payload


def control_body(payload: bytes, where: str) -> dict[str, object]:
    """Decode the payload of a control record. ``where`` names its place in :class:`DamagedObject`."""
    try:
        body = decode_json(payload)
    except ValueError as error:
        raise DamagedObject(where, "control record", f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise DamagedObject(where, "control record", "not a JSON object")
    if _has_more_values(body, BODY_VALUES_MAX):
        raise DamagedObject(where, "control record", f"more than {BODY_VALUES_MAX} values")
    return body


def _has_more_values(body: dict[str, object], values_max: int) -> bool:
    """Whether a body has more than ``values_max`` values, nested ones included. Looks at no more than that."""
    values, left = [*islice(body.values(), values_max + 1)], values_max
    while values and left >= 0:
        value = values.pop()
        left -= 1
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        values += islice(inner, values_max + 1)
    return left < 0


def padded(length: int) -> int:
    """How many bytes a payload of ``length`` bytes takes in ring and log."""
    return -(-length // SECTOR_BYTES) * SECTOR_BYTES


def control_records(batch: RecordBatch) -> list[ControlRecord]:
    """The records of ``batch`` that are not data, decoded. :class:`DamagedObject` if a payload is not JSON."""
    headers = batch.headers
    kinds = headers["kind"]
    rows = np.flatnonzero((kinds != Kind.WRITE) & (kinds != Kind.ZERO))
    ends = np.cumsum(headers["payload_bytes"], dtype=np.uint64)
    return [_control_record(headers[row], batch.payload[: int(ends[row])]) for row in rows]


def _control_record(header: np.void, payload_to_end: memoryview) -> ControlRecord:
    lsn, size = int(header["lsn"]), int(header["payload_bytes"])
    kind = Kind(int(header["kind"]))
    payload = bytes(payload_to_end[len(payload_to_end) - size :]).rstrip(b"\0")
    body = control_body(payload, f"record {lsn}") if payload and kind != Kind.VOID else {}
    return ControlRecord(lsn, int(header["time_ns"]), kind, int(header["disk"]), body)
