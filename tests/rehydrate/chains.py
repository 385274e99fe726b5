"""Builds a chain of segments in a store straight from writes, with a naive model beside it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import xxhash

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.record import RECORD, Kind, RecordBatch, control_payload, padded
from jetdr_core.segment import NO_PREDECESSOR, SealedSegment, build_body, seal, seal_epoch
from jetdr_core.store.protocol import ObjectStore

EPOCH_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000_000

Row = tuple[int, int, int, int, bytes]
"""Kind, disk, offset, length, payload."""


class Chain:
    """Appends records, seals them into segments, remembers every write. Time advances one second per LSN."""

    def __init__(self, store: ObjectStore, name: str = "payroll", domain_key: DomainKey | None = None) -> None:
        self.store = store
        self.name = name
        self.domain_uuid = uuid.uuid5(uuid.NAMESPACE_DNS, name)
        self.domain_key = None if domain_key is None else domain_key.bound_to(self.domain_uuid)
        self.number = 0
        self.epoch = 0
        self.lsn = 0
        self.predecessor = NO_PREDECESSOR
        self.rows: list[Row] = []
        self.history: list[Row] = []
        self.keys: list[str] = []

    # -- records -------------------------------------------------------------------------------------------------------

    def write(self, disk: int, offset: int, data: bytes) -> int:
        return self._append((Kind.WRITE, disk, offset, len(data), data))

    def zero(self, disk: int, offset: int, length: int) -> int:
        return self._append((Kind.ZERO, disk, offset, length, b""))

    def control(self, kind: Kind, disk: int = 0, **body: object) -> int:
        payload = control_payload(body)
        return self._append((kind, disk, 0, len(payload), payload.ljust(padded(len(payload)), b"\0")))

    def add_disk(self, disk: int, name: str, size_bytes: int, *, holds_data: bool = False) -> int:
        disk_uuid = str(uuid.uuid5(self.domain_uuid, name))
        return self.control(
            Kind.DISK_ADD, disk, name=name, uuid=disk_uuid, size_bytes=size_bytes, path=name, holds_data=holds_data
        )

    def mark(self, name: str) -> int:
        return self.control(Kind.MARK, name=name)

    def _append(self, row: Row) -> int:
        self.rows.append(row)
        self.history.append(row)
        self.lsn += 1
        return self.lsn

    def time_ns(self, lsn: int) -> int:
        return EPOCH_NS + lsn * STEP_NS

    # -- objects -------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Put the next epoch's object; a new chain needs one first."""
        self.epoch += 1
        owner = EpochOwner(owner=str(uuid.UUID(int=self.epoch)), host="test")
        if self.epoch == 1:
            owner = replace(owner, domain=self.name, domain_uuid=str(self.domain_uuid))
        await self._put(
            seal_epoch(
                domain_uuid=self.domain_uuid,
                epoch=self.epoch,
                timeline=1,
                predecessor=self.predecessor,
                lsn_next=self.lsn + 1,
                time_ns=self.time_ns(self.lsn + 1),
                owner=owner,
                number=self.number + 1,
                domain_key=self.domain_key,
            )
        )

    async def seal(self) -> str:
        """Put the records since the last call as one segment; returns its key."""
        content_key = None if self.domain_key is None else self.domain_key.new_content_key()
        body = build_body([batch_of(self.rows, self.lsn - len(self.rows) + 1)], content_key=content_key)
        self.rows = []
        sealed = seal(
            body,
            domain_uuid=self.domain_uuid,
            epoch=self.epoch,
            timeline=1,
            predecessor=self.predecessor,
            number=self.number + 1,
            domain_key=self.domain_key,
        )
        return await self._put(sealed)

    async def _put(self, sealed: SealedSegment) -> str:
        self.number += 1
        self.predecessor = sealed.checksum
        key = f"chain/{self.number // 1024:08d}/{self.number:010d}"
        await self.store.put_if_absent(key, sealed.parts)
        self.keys.append(key)
        return key

    # -- the model -----------------------------------------------------------------------------------------------------

    def replay(self, disk: int, size_bytes: int, lsn: int) -> bytes:
        """The bytes of the disk after ``lsn``, by applying every record in order."""
        image = bytearray(size_bytes)
        for kind, number, offset, length, data in self.history[:lsn]:
            if number == disk and kind in (Kind.WRITE, Kind.ZERO):
                image[offset : offset + length] = data or bytes(length)
        return bytes(image)


def batch_of(rows: Iterable[Row], lsn_first: int) -> RecordBatch:
    rows = list(rows)
    headers = np.zeros(len(rows), RECORD)
    for at, (kind, disk, offset, length, payload) in enumerate(rows):
        header = headers[at]
        header["lsn"], header["kind"], header["disk"] = lsn_first + at, kind, disk
        header["time_ns"] = EPOCH_NS + (lsn_first + at) * STEP_NS
        header["offset"], header["length"], header["payload_bytes"] = offset, length, len(payload)
        header["payload_checksum"] = xxhash.xxh3_64_intdigest(payload) if payload else 0
    return RecordBatch(headers, memoryview(b"".join(row[4] for row in rows)))
