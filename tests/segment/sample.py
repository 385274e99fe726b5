"""Records made for the segment's tests, and what a disk holds after them, computed the slow way."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import xxhash

from jetdr_core.record import RECORD, Kind, RecordBatch, control_payload, padded
from jetdr_core.segment import (
    NO_FRAME,
    NO_PREDECESSOR,
    TRAILER_BYTES,
    SealedSegment,
    SegmentIndex,
    build_body,
    decode_frame,
    decode_index,
    decode_trailer,
    seal,
)

DOMAIN = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")
KEY = "chain/00000000/0000000007"


@dataclass
class Records:
    """Builds batches by hand, record after record."""

    lsn: int = 1
    time_ns: int = 1_700_000_000_000_000_000
    rows: list[tuple[object, ...]] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)

    def _add(self, kind: Kind, disk: int, offset: int, length: int, payload: bytes, flags: int) -> int:
        checksum = xxhash.xxh3_64_intdigest(payload) if payload else 0
        stored = payload.ljust(padded(len(payload)), b"\0")
        self.rows.append((self.lsn, self.time_ns, offset, length, checksum, disk, len(stored), kind, flags, b""))
        self.payloads.append(stored)
        self.lsn += 1
        self.time_ns += 1_000
        return self.lsn - 1

    def write(self, disk: int, offset: int, data: bytes, flags: int = 0) -> int:
        return self._add(Kind.WRITE, disk, offset, len(data), data, flags)

    def zero(self, disk: int, offset: int, length: int, flags: int = 0) -> int:
        return self._add(Kind.ZERO, disk, offset, length, b"", flags)

    def control(self, kind: Kind, disk: int = 0, body: dict[str, object] | None = None) -> int:
        payload = b"" if kind == Kind.VOID else control_payload(body or {})
        return self._add(kind, disk, 0, len(payload), payload, 0)

    def batch(self) -> RecordBatch:
        """The records since the last call."""
        headers = np.array(self.rows, RECORD)
        payload = memoryview(b"".join(self.payloads))
        self.rows, self.payloads = [], []
        return RecordBatch(headers, payload)


def sealed(*batches: RecordBatch, predecessor: bytes = NO_PREDECESSOR) -> SealedSegment:
    return seal(build_body(batches), domain_uuid=DOMAIN, epoch=1, timeline=1, predecessor=predecessor)


def object_bytes(segment: SealedSegment) -> bytes:
    return b"".join(bytes(part) for part in segment.parts)


def decoded(data: bytes) -> SegmentIndex:
    trailer = decode_trailer(data[-TRAILER_BYTES:], KEY)
    return decode_index(data[trailer.index_offset : trailer.index_end], trailer, KEY)


def pieces_of(data: bytes) -> list[tuple[int, int, int, bytes | None]]:
    """(LSN, disk, offset, bytes or None for zeros) of every piece of the object."""
    index = decoded(data)
    frames = [
        bytes(decode_frame(data[row["offset"] : row["offset"] + row["stored_bytes"]], row, KEY)) for row in index.frames
    ]
    return [(int(row["lsn"]), int(row["disk"]), int(row["offset"]), _piece(row, frames)) for row in index.entries]


def _piece(row: np.void, frames: list[bytes]) -> bytes | None:
    if row["frame"] == NO_FRAME:
        return None
    start = int(row["frame_offset"])
    frame = frames[int(row["frame"])]
    return frame[start : start + int(row["length"])]


def lengths_of(data: bytes) -> list[int]:
    return [int(length) for length in decoded(data).entries["length"]]
