"""ChainMaker: puts a domain's chain into a store without filter and log, so that a long history is made quickly.

Invariant: the engine's own code (build_body, seal) makes every object.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt

from jetdr_core.catalog import LINK, Summary, chain_key, encode_summary
from jetdr_core.catalog.links import link
from jetdr_core.control_bodies import DiskAdd, EpochOwner
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.record import RECORD, ControlRecord, Kind, RecordBatch, control_payload, padded
from jetdr_core.segment import NO_PREDECESSOR, SealedSegment, SegmentBody, build_body, seal, seal_epoch
from jetdr_core.store import ObjectStore

__all__ = ["DISK", "DOMAIN_UUID", "ChainMaker"]

DISK = 1
DOMAIN_UUID = UUID("0b5e7c5e-0000-4000-8000-00000000be5c")
_START_NS = 1_700_000_000_000_000_000
_STEP_NS = 1000


class ChainMaker:
    """One owner's chain of one disk. ``number`` is that of the next object, ``lsn`` that of the next record.

    ``links`` (rows of the catalog's table) and ``checksums`` have one item per object. ``control`` holds all control
    records.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.number = 1
        self.lsn = 1
        self.links: list[tuple[object, ...]] = []
        self.checksums: list[bytes] = []
        self.control: list[ControlRecord] = []

    @property
    def time_ns(self) -> int:
        """The time of the next record."""
        return _START_NS + self.lsn * _STEP_NS

    async def begin(self, size_bytes: int) -> None:
        """Put the domain's first two objects: its first epoch, and a disk without data."""
        await self._put(
            seal_epoch(
                domain_uuid=DOMAIN_UUID,
                epoch=1,
                timeline=1,
                predecessor=self._predecessor,
                lsn_next=self.lsn,
                time_ns=self.time_ns,
                owner=EpochOwner(owner="bench", host="bench", domain="bench", domain_uuid=str(DOMAIN_UUID)),
            )
        )
        added = DiskAdd(name="disk", uuid="bench", path="disk", size_bytes=size_bytes, holds_data=False)
        payload = control_payload(added.encode())
        size = padded(len(payload))
        headers = np.array([(1, self.time_ns, 0, len(payload), 0, DISK, size, Kind.DISK_ADD, 0, b"")], RECORD)
        await self.put_body(build_body([RecordBatch(headers, memoryview(payload.ljust(size, b"\0")))]))

    async def write(
        self, offsets: Sequence[int] | npt.NDArray[np.int64], write_bytes: int, payload: memoryview
    ) -> None:
        """Put one segment with a write of ``write_bytes`` at each offset. ``payload`` holds their bytes in order."""
        headers = np.zeros(len(offsets), RECORD)
        headers["lsn"] = np.arange(self.lsn, self.lsn + len(offsets))
        headers["time_ns"] = self.time_ns + np.arange(len(offsets)) * _STEP_NS
        headers["offset"] = offsets
        headers["length"] = headers["payload_bytes"] = write_bytes
        headers["disk"], headers["kind"] = DISK, Kind.WRITE
        await self.put_body(build_body([RecordBatch(headers, payload)], verify=False))

    async def put_body(self, body: SegmentBody) -> None:
        """Seal and put the next segment."""
        await self._put(seal(body, domain_uuid=DOMAIN_UUID, epoch=1, timeline=1, predecessor=self._predecessor))

    def summary(self, group: int) -> bytes:
        """Return the summary of a complete group, which its owner puts into the store."""
        numbers = range(max(1, group * CHAIN_GROUP), (group + 1) * CHAIN_GROUP)
        links = np.array(self.links[numbers[0] - 1 : numbers[-1]], LINK)
        predecessor = self.checksums[numbers[0] - 2] if group else NO_PREDECESSOR
        data = encode_summary(Summary(group, DOMAIN_UUID, predecessor, links, self.control if group == 0 else []))
        assert data is not None
        return data

    @property
    def _predecessor(self) -> bytes:
        return self.checksums[-1] if self.checksums else NO_PREDECESSOR

    async def _put(self, sealed: SealedSegment) -> None:
        await self.store.put_if_absent(chain_key(self.number), sealed.parts)
        self.links.append(link(self.number, sealed.trailer, sealed.checksum))
        self.checksums.append(sealed.checksum)
        self.control += sealed.control
        self.number += 1
        self.lsn = sealed.last_lsn + 1
