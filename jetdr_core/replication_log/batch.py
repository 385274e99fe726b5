"""The batch: what one group commit writes. Pure: packs and checks bytes, does no I/O.

A data area is written again and again, so it is full of batches of older laps, and of batches that were cut after a
crash. A reader must take none of them for the next batch. Therefore batch numbers are dense from 1, and each batch
names the checksum of the one before.

Invariants: a batch is 4 KiB aligned, and never crosses the end of the data area. Bytes to be parsed are untrusted: no
length in them is used before it is bounded. ``native/core/log_writer.c`` has the same layout, and
docs/formats/log-volume.md its offset tables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from typing_extensions import Buffer

from jetdr_core.limits import BATCH_RECORDS_MAX, BLOCK_BYTES, RECORD_BYTES_MAX, SECTOR_BYTES, UNSYNCED_BYTES_MAX
from jetdr_core.record import RECORD, RecordBatch, RecordHeaders

BATCH_MAGIC = 0x42524A4C  # "LJRB"
BATCH_VERSION = 1
BATCH_HEADER_BYTES = 128
FLAG_WRAP = 1

BATCH_PAYLOAD_BYTES_MAX = UNSYNCED_BYTES_MAX
"""No writer makes a longer payload, and no reader believes one."""

_HEADER = struct.Struct("<IHHQQQQIIQQQQQ32xQ")
_CHECKED_BYTES = 120

BATCH_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u2"),
        ("flags", "<u2"),
        ("section_id", "<u8"),
        ("epoch", "<u8"),
        ("batch_number", "<u8"),
        ("first_lsn", "<u8"),
        ("record_count", "<u4"),
        ("header_bytes", "<u4"),
        ("payload_bytes", "<u8"),
        ("previous_checksum", "<u8"),
        ("durable_batch", "<u8"),
        ("position", "<u8"),
        ("records_checksum", "<u8"),
        ("reserved", "V32"),
        ("checksum", "<u8"),
    ]
)
assert BATCH_HEADER.itemsize == _HEADER.size == BATCH_HEADER_BYTES
assert BATCH_PAYLOAD_BYTES_MAX >= RECORD_BYTES_MAX, "the longest record fits into a batch"


def blocks(length: int) -> int:
    """Return ``length`` rounded up to whole 4 KiB blocks."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


BATCH_BYTES_MAX = blocks(BATCH_HEADER_BYTES + BATCH_RECORDS_MAX * RECORD.itemsize) + BATCH_PAYLOAD_BYTES_MAX


class Cursor(NamedTuple):
    """A place between two batches: right after batch ``batch_number``, whose checksum is ``checksum``.

    The next batch begins at ``position`` (virtual, bytes). ``lsn`` and ``time_ns`` are those of the last record. Batch
    number 0 stands for the place before the first batch.
    """

    position: int
    batch_number: int
    lsn: int
    checksum: int
    time_ns: int


class BatchHeader(NamedTuple):
    """A batch header whose checksum is right. Lengths are bounded only if ``version`` is :data:`BATCH_VERSION`."""

    version: int
    flags: int
    section_id: int
    epoch: int
    batch_number: int
    first_lsn: int
    record_count: int
    header_bytes: int
    payload_bytes: int
    previous_checksum: int
    durable_batch: int
    position: int
    records_checksum: int
    checksum: int

    @property
    def wraps(self) -> bool:
        return self.flags & FLAG_WRAP != 0

    @property
    def total_bytes(self) -> int:
        """How many bytes of the log the batch takes."""
        return self.header_bytes + blocks(self.payload_bytes)

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.record_count - 1


class DataArea(NamedTuple):
    """Where a section's batches lie: ``data_bytes`` at ``data_offset`` of the volume, used as a ring.

    Positions are virtual: they only grow. One lap of the ring is ``data_bytes`` long.
    """

    section_id: int
    data_offset: int
    data_bytes: int

    def physical(self, position: int) -> int:
        """Return the offset on the volume of a virtual position."""
        return self.data_offset + position % self.data_bytes

    def lap_end(self, position: int) -> int:
        """Return the virtual position at which the lap of ``position`` ends."""
        return (position // self.data_bytes + 1) * self.data_bytes


# -- packing -----------------------------------------------------------------------------------------------------------


def pack_batch(
    headers: RecordHeaders,
    payloads: Sequence[Buffer],
    *,
    section_id: int,
    epoch: int,
    cursor: Cursor,
    durable_batch: int,
    flags: int = 0,
) -> tuple[bytes, int]:
    """Return the batch that follows ``cursor``, ready to be written at its position, and its checksum.

    ``payloads`` are in the order of the records, and as long as the headers say.
    """
    records = headers.tobytes()
    payload = b"".join(payloads)
    header_bytes = blocks(BATCH_HEADER_BYTES + len(records))
    fields = _HEADER.pack(
        *(BATCH_MAGIC, BATCH_VERSION, flags, section_id, epoch, cursor.batch_number + 1, cursor.lsn + 1),
        *(len(headers), header_bytes, len(payload), cursor.checksum, durable_batch, cursor.position),
        *(xxhash.xxh3_64_intdigest(records), 0),
    )
    checksum = xxhash.xxh3_64_intdigest(fields[:_CHECKED_BYTES])
    head = fields[:_CHECKED_BYTES] + checksum.to_bytes(8, "little") + records
    return head.ljust(header_bytes, b"\0") + payload.ljust(blocks(len(payload)), b"\0"), checksum


def pack_wrap(*, section_id: int, epoch: int, cursor: Cursor, durable_batch: int) -> tuple[bytes, int]:
    """Return the empty batch which says that the next one begins with the next lap, and its checksum."""
    none = np.zeros(0, RECORD)
    return pack_batch(
        none, (), section_id=section_id, epoch=epoch, cursor=cursor, durable_batch=durable_batch, flags=FLAG_WRAP
    )


# -- checking ----------------------------------------------------------------------------------------------------------


def parse_header(block: Buffer) -> BatchHeader | None:
    """Return the header at the start of ``block`` (at least 128 bytes), or None if none there can be believed."""
    view = memoryview(block)[:BATCH_HEADER_BYTES]
    magic, *fields = _HEADER.unpack(view)
    if magic != BATCH_MAGIC or xxhash.xxh3_64_intdigest(view[:_CHECKED_BYTES]) != fields[-1]:
        return None
    header = BatchHeader(*fields)
    return header if header.version > BATCH_VERSION or _is_bounded(header) else None


def _is_bounded(header: BatchHeader) -> bool:
    return (
        header.version == BATCH_VERSION
        and header.record_count <= BATCH_RECORDS_MAX
        and header.header_bytes == blocks(BATCH_HEADER_BYTES + header.record_count * RECORD.itemsize)
        and header.payload_bytes <= BATCH_PAYLOAD_BYTES_MAX
        and header.payload_bytes % SECTOR_BYTES == 0
        and header.position % BLOCK_BYTES == 0
        and header.batch_number > 0
        and (not header.wraps or (header.total_bytes == BLOCK_BYTES and header.record_count == 0))
    )


def parse_records(header: BatchHeader, view: memoryview) -> RecordHeaders | None:
    """Return the record headers of the batch in ``view``, or None if they fail their checks.

    ``view`` has at least ``header_bytes`` of the batch. The array refers to the memory of ``view``, and keeps it alive.
    """
    records = view[BATCH_HEADER_BYTES : BATCH_HEADER_BYTES + header.record_count * RECORD.itemsize]
    if xxhash.xxh3_64_intdigest(records) != header.records_checksum:
        return None
    headers: RecordHeaders = np.frombuffer(records, RECORD)
    return headers if _are_plausible(header, headers) else None


def _are_plausible(header: BatchHeader, headers: RecordHeaders) -> bool:
    lengths = headers["payload_bytes"].astype(np.uint64)
    lsns = headers["lsn"]
    return bool(
        int(lengths.sum()) == header.payload_bytes
        and not (lengths % SECTOR_BYTES).any()
        and (lsns - np.uint64(header.first_lsn) == np.arange(len(headers), dtype=np.uint64)).all()
        and (np.diff(headers["time_ns"]) >= 0).all()
    )


def records_of(header: BatchHeader, headers: RecordHeaders, view: memoryview) -> RecordBatch:
    """Return the records of the batch in ``view``, without copying."""
    return RecordBatch(headers, view[header.header_bytes : header.header_bytes + header.payload_bytes])


def cursor_after(header: BatchHeader, area: DataArea, *, time_ns: int) -> Cursor:
    """Return the place after the batch. ``time_ns`` is that of the last record, in this batch or an earlier one."""
    end = area.lap_end(header.position) if header.wraps else header.position + header.total_bytes
    return Cursor(end, header.batch_number, header.last_lsn, header.checksum, time_ns)


def find_headers(view: memoryview, position: int, area: DataArea, *, number_above: int) -> list[BatchHeader]:
    """Return the headers of ``area`` in ``view`` (whole blocks, read from ``position``) above ``number_above``.

    Only headers that lie where they say count. The blocks of payloads in between are passed over.
    """
    count = len(view) // BLOCK_BYTES
    table: npt.NDArray[np.void] = np.ndarray((count,), BATCH_HEADER, buffer=view, strides=(BLOCK_BYTES,))
    places = np.arange(count, dtype=np.uint64) * np.uint64(BLOCK_BYTES) + np.uint64(position)
    likely = (table["magic"] == BATCH_MAGIC) & (table["section_id"] == area.section_id) & (table["position"] == places)
    likely &= table["batch_number"] > number_above
    found = (parse_header(view[index * BLOCK_BYTES :]) for index in np.flatnonzero(likely).tolist())
    return [header for header in found if header is not None and header.version == BATCH_VERSION]
