"""What the tests of the log share: volumes in memory, a log driven by hand, and batches forged with the codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import xxhash

from jetdr_core._core import IoFilter, ManualClock, Ring
from jetdr_core.device import BlockDevice, MemoryDevice
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.record import RECORD, Kind, RecordHeaders
from jetdr_core.replication_log import LogVolume, ReplicationLog, format_volume
from jetdr_core.replication_log.batch import Cursor, DataArea, blocks, pack_batch, pack_wrap

OWNER = UUID(int=1)
DOMAIN = UUID(int=2)
NAME = "payroll"
DISK_BYTES = 8 << 20
VOLUME_BYTES = 1 << 20


class Written(NamedTuple):
    """One write as the model remembers it."""

    lsn: int
    offset: int
    data: bytes


def new_volume(device: BlockDevice, *, section_bytes: int = SECTION_BYTES_MIN) -> LogVolume:
    """A fresh volume with one section."""
    format_volume(device, owner=OWNER, where="volume")
    volume = LogVolume(device, owner=OWNER, where="volume")
    volume.create_section(NAME, DOMAIN, section_bytes)
    return volume


def open_volume_on(device: BlockDevice) -> LogVolume:
    return LogVolume(device, owner=OWNER, where="volume")


class HandDriven:
    """A log whose writer commits only when told, with a ring, a manual clock and a filter over a disk in memory."""

    def __init__(self, volume: LogVolume, *, name: str = NAME, epoch: int | None = None, time_ns: int = 1000) -> None:
        self.log = ReplicationLog(volume.open_section(name))
        head = self.log.outcome.head
        self.clock = ManualClock(max(time_ns, head.time_ns))
        self.log.begin(self.log.body.epoch + 1 if epoch is None else epoch)
        self.ring = Ring(
            payload_bytes=1 << 20, slots=1 << 12, lsn_next=head.lsn + 1, time_ns_last=head.time_ns, clock=self.clock
        )
        self.writer = self.log.start(self.ring, threaded=False)
        self.disk = MemoryDevice(DISK_BYTES)
        self.filter = IoFilter(
            self.ring,
            self.disk,
            disk=1,
            size_bytes=DISK_BYTES,
            record_bytes_max=self.log.record_bytes_max,
            stall_limit_s=0.01,
        )

    def write(self, offset: int, data: bytes) -> Written:
        self.clock.advance(1)
        return Written(self.filter.write(offset, data), offset, data)

    def commit(self) -> int:
        return self.writer.commit()

    def flush(self) -> int:
        """Commit and flush everything that fits, and return the durable LSN."""
        self.ring.request_durable(self.ring.lsn_reserved)
        while self.writer.commit() > 0:
            pass
        self.writer.commit()
        return self.ring.lsn_durable

    def read_all(self, cursor: Cursor | None = None) -> list[Written]:
        return read_all(self.log, cursor)

    def checkpoint_all(self) -> None:
        cursor = self.log.tail
        while batches := self.log.read(cursor, payload_bytes_max=1 << 20):
            cursor = batches[-1].end
        self.log.checkpoint(cursor.lsn, cursor)


@contextmanager
def hand_driven(volume: LogVolume, *, clean: bool = True, name: str = NAME) -> Iterator[HandDriven]:
    driven = HandDriven(volume, name=name)
    try:
        yield driven
    finally:
        driven.filter.close()
        driven.log.close(clean=clean)


def read_all(log: ReplicationLog, cursor: Cursor | None = None, *, payload_bytes_max: int = 64 << 10) -> list[Written]:
    """Return copies of all durable writes from ``cursor`` on, by default from the tail."""
    cursor = cursor or log.tail
    found: list[Written] = []
    while batches := log.read(cursor, payload_bytes_max=payload_bytes_max):
        for batch in batches:
            found += writes_in(batch.records.headers, batch.records.payload)
        cursor = batches[-1].end
    return found


def writes_in(headers: RecordHeaders, payload: memoryview) -> list[Written]:
    ends = np.cumsum(headers["payload_bytes"].astype(np.int64))
    starts = ends - headers["payload_bytes"]
    return [
        Written(int(header["lsn"]), int(header["offset"]), bytes(payload[start:end]))
        for header, start, end in zip(headers, starts, ends, strict=True)
        if header["kind"] == Kind.WRITE
    ]


def recovered(device: BlockDevice, name: str = NAME) -> tuple[ReplicationLog, list[Written]]:
    """Open the section for recovery alone, and read what is there. The log is closed at return."""
    log = ReplicationLog(open_volume_on(device).open_section(name))
    found = read_all(log)
    log.close()
    return log, found


# -- forging -----------------------------------------------------------------------------------------------------------


def write_records(cursor: Cursor, payloads: Sequence[bytes], *, offset: int = 0) -> RecordHeaders:
    """Headers of WRITE records that follow ``cursor``, one nanosecond apart."""
    headers: RecordHeaders = np.zeros(len(payloads), RECORD)
    for index, payload in enumerate(payloads):
        row = headers[index]
        row["lsn"], row["time_ns"] = cursor.lsn + 1 + index, cursor.time_ns + 1 + index
        row["offset"], row["length"], row["disk"] = offset, len(payload), 1
        row["payload_bytes"], row["kind"] = len(payload), Kind.WRITE
        row["payload_checksum"] = xxhash.xxh3_64_intdigest(payload)
    return headers


class Forge:
    """Packs batches one after the other, and writes them to a device. The reference for the native writer."""

    def __init__(self, device: BlockDevice, area: DataArea, cursor: Cursor, *, epoch: int = 1) -> None:
        self.device = device
        self.area = area
        self.cursor = cursor
        self.epoch = epoch
        self.durable = cursor.batch_number
        self.places: dict[int, tuple[int, int]] = {}
        """Batch number to (volume offset, bytes)."""

    def batch(self, payloads: Sequence[bytes], *, offset: int = 0) -> Cursor:
        """Append one batch of WRITE records, after a WRAP batch if it needs one. Return the cursor after it."""
        headers = write_records(self.cursor, payloads, offset=offset)
        length = blocks(128 + 64 * len(headers)) + blocks(sum(map(len, payloads)))
        if self.cursor.position + length > self.area.lap_end(self.cursor.position):
            self.wrap()
        raw, checksum = pack_batch(headers, payloads, **self._chain())
        end = self.cursor.position + len(raw)
        time_ns = int(headers["time_ns"][-1]) if len(headers) else self.cursor.time_ns
        return self._put(
            raw, Cursor(end, self.cursor.batch_number + 1, self.cursor.lsn + len(headers), checksum, time_ns)
        )

    def wrap(self) -> Cursor:
        raw, checksum = pack_wrap(**self._chain())
        end = self.area.lap_end(self.cursor.position)
        return self._put(
            raw, self.cursor._replace(position=end, batch_number=self.cursor.batch_number + 1, checksum=checksum)
        )

    def flushed(self) -> None:
        """Have later batches say that all batches before now are durable."""
        self.durable = self.cursor.batch_number

    def _chain(self) -> dict[str, Any]:
        return {
            "section_id": self.area.section_id,
            "epoch": self.epoch,
            "cursor": self.cursor,
            "durable_batch": self.durable,
        }

    def _put(self, raw: bytes, after: Cursor) -> Cursor:
        offset = self.area.physical(self.cursor.position)
        self.device.write(offset, raw)
        self.places[after.batch_number] = (offset, len(raw))
        self.cursor = after
        return after


def damage(device: BlockDevice, offset: int) -> None:
    """Flip one byte."""
    start = offset // 4096 * 4096
    block = bytearray(4096)
    device.read_into(start, block)
    block[offset - start] ^= 0x40
    device.write(start, block)
