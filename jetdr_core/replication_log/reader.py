"""LogReader: follows the batches of a section, with few large reads.

Invariants: one read of the device serves all batches in it, and no byte is read twice while the reader moves forward.
Nothing at or beyond ``limit`` is looked at, so what a writer is about to write is never cached. A batch is returned
only after its header, record headers and payloads have passed their checks. Batches lie in memory of a pool, and stay
valid for as long as anything refers to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jetdr_core._kernels import verify_payloads
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import LogDamaged, LogFailed, UnsupportedVersion
from jetdr_core.limits import BATCH_RECORDS_MAX, BLOCK_BYTES, SEGMENT_RECORDS_MAX
from jetdr_core.record import RecordBatch, RecordHeaders
from jetdr_core.remedies import NEW_LOG
from jetdr_core.replication_log.batch import (
    BATCH_VERSION,
    BatchHeader,
    Cursor,
    DataArea,
    cursor_after,
    find_headers,
    parse_header,
    parse_records,
    records_of,
)
from jetdr_core.replication_log.buffers import BufferPool
from jetdr_core.replication_log.defect import Defect

CHUNK_BYTES = 4 << 20
_BROKEN = {Defect.BROKEN_RECORDS, Defect.BROKEN_PAYLOAD}
_RECORDS_MAX = SEGMENT_RECORDS_MAX - BATCH_RECORDS_MAX


class LogBatch(NamedTuple):
    """The records of one batch, and the place after it. ``durable_batch``: a flush had returned for that one before."""

    records: RecordBatch
    end: Cursor
    durable_batch: int


class BadBatch(NamedTuple):
    """What lies where the next batch should begin, if it is not that batch. ``header`` is there if it is valid."""

    defect: Defect
    header: BatchHeader | None = None


class LogReader:
    """Reads one section. For one thread at a time, but any thread may use the batches that it returns.

    One read of the device takes ``chunk_bytes``, or one batch that is longer.
    """

    def __init__(
        self,
        device: BlockDevice,
        area: DataArea,
        *,
        where: str,
        chunk_bytes: int = CHUNK_BYTES,
        pool: BufferPool | None = None,
    ) -> None:
        self._device = device
        self._area = area
        self._where = where
        self._chunk_bytes = chunk_bytes
        self._pool = pool or BufferPool()
        self._start = 0  # virtual position of the window's first byte
        self._window = memoryview(b"")

    def read(self, cursor: Cursor, limit: int, *, payload_bytes_max: int) -> list[LogBatch]:
        """Return the batches after ``cursor`` and before position ``limit``. All of them must be durable.

        The list ends once it has ``payload_bytes_max`` of payload, or as many records as one segment takes. It has at
        least one batch if there is one. Raises :class:`LogDamaged` if the very next batch is not what was written. A
        damaged batch further on ends the list before it.
        """
        batches: list[LogBatch] = []
        payload_bytes = records = 0
        while cursor.position < limit and payload_bytes < payload_bytes_max and records <= _RECORDS_MAX:
            batch = self.examine(cursor, limit)
            if isinstance(batch, BadBatch):
                if batches:
                    break
                self.forget()
                raise self.damaged(cursor, batch, "it had been flushed")
            cursor = batch.end
            if len(batch.records.headers):
                batches.append(batch)
                payload_bytes += len(batch.records.payload)
                records += len(batch.records.headers)
        return batches

    def examine(self, cursor: Cursor, limit: int) -> LogBatch | BadBatch:
        """Return the batch at ``cursor``, reading no further than ``limit``. A WRAP batch has no records.

        Raises :class:`LogFailed` if the device cannot be read.
        """
        block = self._peek(cursor.position, BLOCK_BYTES, limit)
        header = parse_header(block) if block is not None else None
        if header is None or not self._fits(header, cursor, limit):
            return BadBatch(Defect.NO_HEADER)
        if header.section_id != self._area.section_id:
            return BadBatch(Defect.OTHER_SECTION, header)
        self._check_version(header)
        if header.batch_number != cursor.batch_number + 1 or header.position != cursor.position:
            return BadBatch(Defect.OTHER_NUMBER, header)
        if header.previous_checksum != cursor.checksum:
            return BadBatch(Defect.OTHER_PAST, header)
        return self._examine_content(header, cursor, limit)

    def raw(self, cursor: Cursor, limit: int) -> tuple[memoryview, Cursor]:
        """Return the bytes of the batch at ``cursor``, which has passed its checks, and the place after it."""
        batch = self.examine(cursor, limit)
        if isinstance(batch, BadBatch):
            raise self.damaged(cursor, batch, "it had been found whole")
        block = self._peek(cursor.position, BLOCK_BYTES, limit)
        header = None if block is None else parse_header(block)
        assert header is not None, "it was examined"
        view = self._peek(cursor.position, header.total_bytes, limit)
        assert view is not None, "it was examined"
        return view, batch.end

    def headers_beyond(self, cursor: Cursor, end: int) -> Iterator[BatchHeader]:
        """Yield the headers of this section between ``cursor`` and position ``end`` that have a higher number."""
        position = cursor.position
        while position < end:
            length = min(self._chunk_bytes, end - position, self._area.lap_end(position) - position)
            view = self._pool.take(length)
            self._read_device(position, view)
            yield from find_headers(view, position, self._area, number_above=cursor.batch_number)
            position += length

    def is_whole(self, header: BatchHeader) -> bool:
        """Whether all records and payloads of the batch with that header, which lies where it says, are right."""
        view = self._peek(header.position, header.total_bytes, header.position + header.total_bytes)
        if view is None:
            return False
        headers = parse_records(header, view)
        return headers is not None and verify_payloads(headers, records_of(header, headers, view).payload) < 0

    def forget(self) -> None:
        """Forget what was read ahead. It is read from the device again."""
        self._window = memoryview(b"")

    def damaged(self, cursor: Cursor, found: BadBatch, why: str) -> LogDamaged:
        """Return the error that names the batch after ``cursor`` and what is wrong with it."""
        number, lsn = cursor.batch_number + 1, cursor.lsn + 1
        known = found.header if found.defect in _BROKEN else None
        problem = found.defect.value
        if found.defect is Defect.OTHER_NUMBER and found.header is not None:
            problem = f"batch {found.header.batch_number} lies there"
        lsns = f"LSN {lsn} to {known.last_lsn}" if known else f"from LSN {lsn}"
        return LogDamaged(
            f"{self._where}: batch {number} ({lsns}) at offset {self._area.physical(cursor.position)} is damaged: "
            f"{problem}, though {why}",
            hint=f"records up to LSN {cursor.lsn} can be read; to go on, {NEW_LOG}",
            batch_number=number,
            position=cursor.position,
            lsn_first=lsn,
            lsn_last=known.last_lsn if known else None,
        )

    # -- checks ----------------------------------------------------------------------------------------------------

    def _fits(self, header: BatchHeader, cursor: Cursor, limit: int) -> bool:
        """Whether a batch of that length can lie at the cursor. The lengths of a later version mean nothing here."""
        end = min(limit, self._area.lap_end(cursor.position))
        return header.version > BATCH_VERSION or cursor.position + header.total_bytes <= end

    def _check_version(self, header: BatchHeader) -> None:
        if header.version > BATCH_VERSION:
            raise UnsupportedVersion(
                f"{self._where}: a batch has format version {header.version}, this engine reads up to {BATCH_VERSION}",
                hint="use the engine that wrote it, or a newer one",
                version=header.version,
            )

    def _examine_content(self, header: BatchHeader, cursor: Cursor, limit: int) -> LogBatch | BadBatch:
        view = self._peek(cursor.position, header.total_bytes, limit)
        assert view is not None, "the batch fits"
        headers = parse_records(header, view)
        if headers is None or not _follow(headers, header, cursor):
            return BadBatch(Defect.BROKEN_RECORDS, header)
        records = records_of(header, headers, view)
        if verify_payloads(headers, records.payload) >= 0:
            return BadBatch(Defect.BROKEN_PAYLOAD, header)
        time_ns = int(headers["time_ns"][-1]) if len(headers) else cursor.time_ns
        return LogBatch(records, cursor_after(header, self._area, time_ns=time_ns), header.durable_batch)

    # -- the window ------------------------------------------------------------------------------------------------

    def _peek(self, position: int, length: int, limit: int) -> memoryview | None:
        """Return ``length`` bytes from ``position``, or None if they cross ``limit`` or the end of the lap."""
        stop = min(limit, self._area.lap_end(position))
        if position + length > stop:
            return None
        at = position - self._start
        if at < 0 or at + length > len(self._window):
            self._load(position, min(max(length, self._chunk_bytes), stop - position))
            at = 0
        return self._window[at : at + length]

    def _load(self, position: int, length: int) -> None:
        """Move the window to ``position``. What it has already is copied, and the rest is read."""
        at = position - self._start
        left = self._window[at:] if 0 <= at < len(self._window) else self._window[:0]
        window = self._pool.take(length)
        window[: len(left)] = left
        if len(left) < length:
            self._read_device(position + len(left), window[len(left) :])
        self._start, self._window = position, window

    def _read_device(self, position: int, target: memoryview) -> None:
        offset = self._area.physical(position)
        try:
            self._device.read_into(offset, target)
        except OSError as error:
            raise LogFailed(
                f"{self._where}: reading {len(target)} bytes at {offset} failed: {error}",
                hint="check the device; nothing was changed",
                errno=error.errno,
                position=position,
            ) from error


def _follow(headers: RecordHeaders, header: BatchHeader, cursor: Cursor) -> bool:
    """Whether the records go on where the batch before ended, in LSN and in time."""
    in_time = len(headers) == 0 or int(headers["time_ns"][0]) >= cursor.time_ns
    return header.first_lsn == cursor.lsn + 1 and in_time
