"""Chains made for the catalog's tests: segments put into a memory store, one record a nanosecond-exact second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar
from uuid import UUID

import numpy as np

from jetdr_core.catalog import Catalog, chain_key, heartbeat, read_chain, write_summaries
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.record import RECORD, Kind, RecordBatch, control_payload, padded
from jetdr_core.segment import NO_PREDECESSOR, SealedSegment, build_body, seal, seal_epoch
from jetdr_core.store import MemoryStore

DOMAIN = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")
START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000_000
DISK_BYTES = 1 << 30

T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def time_ns(lsn: int) -> int:
    """When record ``lsn`` was captured."""
    return START_NS + lsn * STEP_NS


class ChainMaker:
    """An owner of a chain: collects records, seals them, puts them. ``fork`` makes a second owner of the same chain."""

    def __init__(self, store: MemoryStore | None = None, domain_key: DomainKey | None = None) -> None:
        self.store = store or MemoryStore()
        self.domain_key = domain_key
        self.number = 1
        self.lsn = 1
        self.epoch = 0
        self.predecessor = NO_PREDECESSOR
        self.clock = time_ns
        self._rows: list[tuple[object, ...]] = []
        self._payload = bytearray()

    def fork(self) -> ChainMaker:
        other = ChainMaker(self.store, self.domain_key)
        other.number, other.lsn, other.epoch, other.predecessor = self.number, self.lsn, self.epoch, self.predecessor
        return other

    # -- records -------------------------------------------------------------------------------------------------------

    def write(self, disk: int = 1, offset: int = 0, data: bytes = b"x" * 512) -> int:
        return self._add(Kind.WRITE, disk, offset, data)

    def control(self, kind: Kind, disk: int = 0, **body: object) -> int:
        return self._add(kind, disk, 0, control_payload(body))

    def add_disk(self, disk: int = 1, name: str = "db01", *, holds_data: bool = False) -> int:
        return self.control(
            Kind.DISK_ADD, disk, name=name, uuid=f"u{disk}", path=name, size_bytes=DISK_BYTES, holds_data=holds_data
        )

    def mark(self, name: str) -> int:
        return self.control(Kind.MARK, name=name)

    def _add(self, kind: Kind, disk: int, offset: int, payload: bytes) -> int:
        size = padded(len(payload))
        row = (self.lsn, self.clock(self.lsn), offset, len(payload), 0, disk, size, kind, 0, b"")
        self._rows.append(row)
        self._payload += payload.ljust(size, b"\0")
        self.lsn += 1
        return self.lsn - 1

    # -- objects -------------------------------------------------------------------------------------------------------

    def begin(self, **body: str) -> SealedSegment:
        """The next epoch's object, as the next of the chain."""
        self.epoch += 1
        names = {"domain": "payroll", "domain_uuid": str(DOMAIN)} if self.epoch == 1 else {}
        epoch = seal_epoch(
            domain_uuid=DOMAIN,
            epoch=self.epoch,
            timeline=1,
            predecessor=self.predecessor,
            lsn_next=self.lsn,
            time_ns=time_ns(self.lsn),
            owner=EpochOwner(**{"owner": f"owner-{self.epoch}", "host": "drva"} | names | body),
            number=self.number,
            domain_key=self.domain_key,
        )
        return self._sealed(epoch)

    def seal(self) -> SealedSegment:
        """The records since the last call, as the next of the chain."""
        batch = RecordBatch(np.array(self._rows, RECORD), memoryview(bytes(self._payload)))
        self._rows, self._payload = [], bytearray()
        content_key = None if self.domain_key is None else self.domain_key.new_content_key()
        body = build_body([batch], verify=False, content_key=content_key)
        return self._sealed(
            seal(
                body,
                domain_uuid=DOMAIN,
                epoch=self.epoch,
                timeline=1,
                predecessor=self.predecessor,
                number=self.number,
                domain_key=self.domain_key,
            )
        )

    def _sealed(self, segment: SealedSegment) -> SealedSegment:
        self.predecessor = segment.checksum
        return segment

    def put(self, segment: SealedSegment) -> str:
        """Put at the next number; returns the key."""
        key = chain_key(self.number)
        run(self.store.put_if_absent(key, segment.parts))
        self.number += 1
        return key

    def segment(self, records: int = 1) -> str:
        """Seal and put what is pending, or ``records`` new writes."""
        if not self._rows:
            for _ in range(records):
                self.write()
        return self.put(self.seal())

    def beat(self, lsn: int, seconds_later: float) -> None:
        key, data = heartbeat(
            self.epoch, lsn=lsn, time_ns=time_ns(lsn) + int(seconds_later * STEP_NS), domain_key=self.domain_key
        )
        run(self.store.replace(key, [data]))

    def open(self) -> Catalog:
        return run(Catalog.open(self.store, domain_key=self.domain_key))

    def summarise(self) -> list[int]:
        """Write the missing summaries; returns their groups."""
        return run(write_summaries(self.store, run(read_chain(self.store, domain_key=self.domain_key))))

    def damage(self, key: str, place: int = -100) -> None:
        data = bytearray(run(self.store.get(key)))
        data[place] ^= 0xFF
        run(self.store.replace(key, [bytes(data)]))


def domain(segments: int = 0) -> ChainMaker:
    """A chain with its epoch object, one empty disk (LSN 1) and ``segments`` further segments of one write."""
    maker = ChainMaker()
    maker.put(maker.begin())
    maker.add_disk()
    maker.segment()
    for _ in range(segments):
        maker.segment()
    return maker
