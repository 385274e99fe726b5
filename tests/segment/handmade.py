"""Chain objects made by hand from public formats, checksums right: what anybody who may write to a store can put.

An object is small when it is stored, and as long as LZ4 allows when it is decoded.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import lz4.block
import numpy as np
import numpy.typing as npt
import xxhash

from jetdr_core.record import Kind
from jetdr_core.segment import ENTRY, FRAME, HEADER_BYTES, NO_FRAME, TRAILER_BYTES, ObjectKind, Trailer, object_checksum
from jetdr_core.segment.columns import pack_columns
from jetdr_core.segment.layout import CONTROL
from jetdr_core.segment.trailer import encode_header, encode_trailer, header_checksum

SMALL_BYTES = 64 << 10
TIME_NS = 1_700_001_000_000_000_000
Table = npt.NDArray[np.void]


class Forged(NamedTuple):
    """An object, its checksum, the next LSN, and how long its index is when it is decoded."""

    data: bytes
    checksum: bytes
    lsn_next: int
    index_raw_bytes: int


def zeros(lsn: int, count: int, *, stride: int = 0) -> Table:
    """Entries: ``count`` ZERO records of a sector each of disk 1, ``stride`` bytes apart."""
    entries = np.zeros(count, ENTRY)
    entries["lsn"] = np.arange(lsn, lsn + count)
    entries["time_ns"], entries["length"], entries["frame"], entries["kind"] = TIME_NS, 512, NO_FRAME, Kind.ZERO
    entries["offset"], entries["disk"] = np.arange(count) * stride, 1
    return entries


def controls(lsn: int, kinds: list[Kind], bodies: list[bytes]) -> tuple[Table, bytes]:
    """Control records, one a body; the kinds take turns."""
    table = np.zeros(len(bodies), CONTROL)
    table["lsn"], table["time_ns"] = np.arange(lsn, lsn + len(bodies)), TIME_NS
    table["kind"] = [kinds[nth % len(kinds)] for nth in range(len(bodies))]
    table["body_bytes"] = [len(body) for body in bodies]
    return table, b"".join(bodies)


def _index(frames: Table, entries: Table, control: Table, bodies: bytes) -> tuple[bytes, bytes]:
    """An index, and as it is stored."""
    raw = pack_columns(frames, ("offset",)) + pack_columns(entries, ("lsn", "time_ns"))
    raw += pack_columns(control, ("lsn", "time_ns")) + bodies
    return raw, lz4.block.compress(raw, store_size=False, mode="high_compression", compression=12)


def forge(
    predecessor: bytes,
    lsn: int,
    domain: UUID,
    *,
    entries: Table | None = None,
    control: tuple[Table, bytes] | None = None,
    frames: bytes = b"",
    frame_table: Table | None = None,
) -> Forged:
    """A segment that chains to ``predecessor`` and begins with ``lsn``."""
    entries = np.zeros(0, ENTRY) if entries is None else entries
    table, bodies = (np.zeros(0, CONTROL), b"") if control is None else control
    frame_table = np.zeros(0, FRAME) if frame_table is None else frame_table
    raw, index = _index(frame_table, entries, table, bodies)
    last = max(int(rows["lsn"].max(initial=0)) for rows in (entries, table))
    header = encode_header(ObjectKind.SEGMENT, domain)
    fixed: dict[str, Any] = {"kind": ObjectKind.SEGMENT, "flags": 0, "epoch": 1, "timeline": 1, "payload_bytes": 0}
    fixed |= {"first_time_ns": TIME_NS, "last_time_ns": TIME_NS}
    trailer = Trailer(
        **fixed,
        domain_uuid=domain,
        predecessor=predecessor,
        first_lsn=lsn,
        last_lsn=last,
        stored_bytes=len(frames),
        frame_count=len(frame_table),
        entry_count=len(entries),
        control_count=len(table),
        index_offset=HEADER_BYTES + len(frames),
        index_stored_bytes=len(index),
        index_raw_bytes=len(raw),
        index_checksum=xxhash.xxh3_64_intdigest(index),
        object_bytes=HEADER_BYTES + len(frames) + len(index) + TRAILER_BYTES,
        header_checksum=header_checksum(header),
    )
    tail = encode_trailer(trailer)
    return Forged(header + frames + index + tail, object_checksum(tail), last + 1, len(raw))


def compressed_frames(raws: list[bytes]) -> tuple[bytes, Table]:
    """Frames that LZ4 makes short, and their table."""
    stored = [lz4.block.compress(raw, store_size=False) for raw in raws]
    table = np.zeros(len(raws), FRAME)
    offset = HEADER_BYTES
    for row, (raw, data) in enumerate(zip(raws, stored, strict=True)):
        table[row] = (offset, len(data), len(raw), xxhash.xxh3_64_intdigest(data), 1)
        offset += len(data)
    return b"".join(stored), table
