"""IndexReader: reads the index of any segment of the chain, or of many segments, newest first.

Invariants: an index is returned only if its object has the checksum that the chain names. An index from the metadata
repository is checked in the same way. Reading ahead holds at most ``PREFETCH_BYTES`` of decoded indexes besides the one
in use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from jetdr_core.catalog.keys import chain_key
from jetdr_core.catalog.links import LinkTable
from jetdr_core.catalog.repository import MetadataRepository
from jetdr_core.errors import ChainBroken, DamagedObject, InvalidRequest, JetdrError, ObjectNotFound
from jetdr_core.segment import TRAILER_BYTES, SegmentIndex, decode_index, decode_trailer, object_checksum
from jetdr_core.store import ObjectStore

PREFETCH = 16
PREFETCH_BYTES = 32 << 20
_INLINE_BYTES_MAX = 256 << 10
"""A longer index is decoded in a thread, so that the event loop is not held up."""

OnDamage = Callable[[int, JetdrError], None]


@dataclass(frozen=True, slots=True)
class SegmentRead:
    """A segment's number, key and object size, and its index."""

    number: int
    key: str
    object_bytes: int
    index: SegmentIndex


class IndexReader:
    """Reads the indexes of ``segments``, which are rows of the chain's table. Used from one event loop.

    Several reads may be in flight at once.
    """

    def __init__(
        self, store: ObjectStore, domain_uuid: UUID, segments: LinkTable, repository: MetadataRepository | None
    ) -> None:
        self._store = store
        self._domain_uuid = domain_uuid
        self.segments = segments
        self._repository = repository

    async def read(self, number: int) -> SegmentIndex:
        """The index of segment ``number``. :class:`DamagedObject`, or :class:`ChainBroken` if the object is gone."""
        nth = int(np.searchsorted(self.segments["number"], number))
        if nth == len(self.segments) or int(self.segments["number"][nth]) != number:
            raise InvalidRequest(
                f"chain object {number} is no segment of this history", hint="use a number of .segments"
            )
        return await self._read(self.segments[nth])

    async def newest_first(self, lsn: int, on_damage: OnDamage | None) -> AsyncGenerator[SegmentRead, None]:
        """See :meth:`Catalog.indexes_newest_first`."""
        rows = self.segments[(self.segments["first_lsn"] <= lsn) & (self.segments["entry_count"] > 0)][::-1]
        waiting: deque[tuple[np.void, asyncio.Task[SegmentIndex]]] = deque()
        waiting_bytes, nth = 0, 0
        try:
            while nth < len(rows) or waiting:
                while nth < len(rows) and (not waiting or (len(waiting) < PREFETCH and waiting_bytes < PREFETCH_BYTES)):
                    waiting.append((rows[nth], asyncio.ensure_future(self._read(rows[nth]))))
                    waiting_bytes += int(rows[nth]["index_raw_bytes"])
                    nth += 1
                row, task = waiting.popleft()
                waiting_bytes -= int(row["index_raw_bytes"])
                number = int(row["number"])
                try:
                    index = await task
                except (DamagedObject, ChainBroken) as error:
                    if on_damage is None:
                        raise
                    on_damage(number, error)
                    continue
                yield SegmentRead(number, chain_key(number), int(row["object_bytes"]), _up_to(index, lsn))
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _read(self, row: np.void) -> SegmentIndex:
        checksum = row["checksum"].tobytes()
        footer_bytes = int(row["object_bytes"]) - int(row["index_offset"])
        kept = await self._repository.get(self._domain_uuid, checksum, footer_bytes) if self._repository else None
        if kept is not None and self._repository:
            try:
                return await _decoded(kept, row)
            except DamagedObject:
                await self._repository.drop(self._domain_uuid, checksum)
        footer = await self._fetch(row)
        index = await _decoded(footer, row)
        if self._repository:
            await self._repository.put(self._domain_uuid, checksum, footer)
        return index

    async def _fetch(self, row: np.void) -> bytes:
        key = chain_key(int(row["number"]))
        offset = int(row["index_offset"])
        try:
            return await self._store.get_range(key, offset, int(row["object_bytes"]) - offset)
        except ObjectNotFound as error:
            raise ChainBroken(
                f"{key} is missing: LSN {row['first_lsn']} to {row['last_lsn']} cannot be read",
                hint=f"LSN {int(row['first_lsn']) - 1} or earlier does not need it",
                number=int(row["number"]),
                key=key,
                lsn_last=int(row["first_lsn"]) - 1,
            ) from error


async def _decoded(footer: bytes, row: np.void) -> SegmentIndex:
    if len(footer) > _INLINE_BYTES_MAX:
        return await asyncio.to_thread(_decode, footer, row)
    return _decode(footer, row)


def _decode(footer: bytes, row: np.void) -> SegmentIndex:
    key, view = chain_key(int(row["number"])), memoryview(footer)
    if object_checksum(view[-TRAILER_BYTES:]) != row["checksum"].tobytes():
        raise DamagedObject(key, "trailer", "is not the one that the chain names")
    return decode_index(view[:-TRAILER_BYTES], decode_trailer(view[-TRAILER_BYTES:], key), key)


def _up_to(index: SegmentIndex, lsn: int) -> SegmentIndex:
    entries = index.entries
    if len(entries) == 0 or int(entries["lsn"][-1]) <= lsn:
        return index
    return index._replace(entries=entries[: int(np.searchsorted(entries["lsn"], lsn, "right"))])
