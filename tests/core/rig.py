"""A rig for the native core: ring, log writer and filters over memory devices, and a reader of what was written."""

from __future__ import annotations

from typing import NamedTuple

from jetdr_core._core import DirtyMap, IoFilter, LogWriter, ManualClock, Ring
from jetdr_core.device import MemoryDevice
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.record import Kind, RecordHeaders
from jetdr_core.replication_log.batch import Cursor, DataArea
from jetdr_core.replication_log.reader import LogReader

SECTION_ID = 0x5EC7
START = Cursor(position=0, batch_number=0, lsn=0, checksum=0, time_ns=0)


class Logged(NamedTuple):
    """One record read back from the log."""

    lsn: int
    time_ns: int
    kind: Kind
    flags: int
    disk: int
    offset: int
    length: int
    payload: bytes


class Rig:
    """One ring, one writer driven by hand (or started), any number of disks."""

    def __init__(
        self,
        *,
        log: BlockDevice | None = None,
        log_bytes: int = 4 << 20,
        ring_bytes: int = 1 << 20,
        slots: int = 1024,
        clock: ManualClock | None = None,
    ) -> None:
        self.log = log or MemoryDevice(log_bytes)
        self.ring = Ring(payload_bytes=ring_bytes, slots=slots, lsn_next=1, clock=clock)
        self.writer = LogWriter(
            self.ring,
            self.log,
            data_offset=0,
            data_bytes=self.log.size_bytes,
            section_id=SECTION_ID,
            epoch=1,
            head_position=0,
            tail_position=0,
            batch_number=0,
            previous_checksum=0,
        )
        self.record_bytes_max = min(ring_bytes // 4, self.ring.record_bytes_max)

    def disk(
        self,
        primary: BlockDevice,
        number: int = 1,
        *,
        stall_limit_s: float = 5.0,
        dirty_map: DirtyMap | None = None,
    ) -> IoFilter:
        return IoFilter(
            self.ring,
            primary,
            disk=number,
            size_bytes=primary.size_bytes,
            record_bytes_max=self.record_bytes_max,
            stall_limit_s=stall_limit_s,
            dirty_map=dirty_map,
        )

    def commit_all(self) -> None:
        """Write and flush everything published."""
        self.ring.request_durable(self.ring.lsn_reserved)
        while self.writer.commit():
            pass
        self.writer.commit()

    def records(self, cursor: Cursor = START) -> list[Logged]:
        """Everything durable in the log behind ``cursor``."""
        reader = LogReader(self.log, DataArea(SECTION_ID, 0, self.log.size_bytes), where="rig")
        found: list[Logged] = []
        while batches := reader.read(cursor, self.writer.state().durable_position, payload_bytes_max=1 << 20):
            for batch in batches:
                found += split(batch.records.headers, batch.records.payload)
            cursor = batches[-1].end
        return found


def split(headers: RecordHeaders, payload: memoryview) -> list[Logged]:
    """A batch's records, each with its payload."""
    found, at = [], 0
    for row in headers:
        size = int(row["payload_bytes"])
        found.append(
            Logged(
                int(row["lsn"]),
                int(row["time_ns"]),
                Kind(int(row["kind"])),
                int(row["flags"]),
                int(row["disk"]),
                int(row["offset"]),
                int(row["length"]),
                bytes(payload[at : at + size]),
            )
        )
        at += size
    return found


def replay(records: list[Logged], size_bytes: int, disk: int = 1) -> bytes:
    """A disk of zeros with the records applied in LSN order."""
    image = bytearray(size_bytes)
    for record in records:
        if record.disk == disk and record.kind in (Kind.WRITE, Kind.ZERO):
            data = record.payload if record.kind == Kind.WRITE else bytes(record.length)
            image[record.offset : record.offset + record.length] = data
    return bytes(image)
