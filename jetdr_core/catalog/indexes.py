"""IndexReader: reads the index of any segment of the chain, or of many segments, newest first.

Invariants: an index is returned only if its object has the checksum that the chain names, and with the domain's key the
right tags. An index from the metadata repository is checked in the same way.

A chain may have many thousands of segments with one write each. A request, a thread and a task for every one of them
take longer than the work, so indexes are read in batches: requested together, decoded together, given together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np

from jetdr_core.catalog.keys import chain_key
from jetdr_core.catalog.links import LinkTable
from jetdr_core.catalog.repository import MetadataRepository
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import (
    ChainBroken,
    DamagedObject,
    InvalidRequest,
    JetdrError,
    ObjectNotFound,
    ObjectUnavailable,
    StoreError,
)
from jetdr_core.segment import (
    TRAILER_BYTES,
    SegmentIndex,
    believed_trailer,
    decode_index,
    encrypted_is_damage,
    object_checksum,
)
from jetdr_core.store import ObjectRange, ObjectStore

BATCH_ROWS = 64
BATCH_BYTES = 1 << 20
"""A batch of indexes, as they are decoded, takes no more. A longer index is a batch of its own."""

PREFETCH_BATCHES = 4
PREFETCH_ROWS = 16
PREFETCH_BYTES = 32 << 20
"""So many batches, or so many rows if their batches are small, are read ahead, in bounded memory."""

_INLINE_BYTES_MAX = 256 << 10
"""Longer footers are decoded in a thread, so that the event loop is not held up."""

OnDamage = Callable[[int, JetdrError], None]
Unreadable = DamagedObject | ChainBroken


@dataclass(frozen=True, slots=True)
class SegmentRead:
    """A segment's number, key and object size, and its index."""

    number: int
    key: str
    object_bytes: int
    index: SegmentIndex


class _Wanted(NamedTuple):
    """What a row of the chain's table says of a segment whose index is wanted."""

    number: int
    checksum: bytes
    index_offset: int
    object_bytes: int
    lsn_first: int
    lsn_last: int

    @property
    def key(self) -> str:
        return chain_key(self.number)

    @property
    def footer(self) -> ObjectRange:
        return ObjectRange(self.key, self.index_offset, self.object_bytes - self.index_offset)

    def lost(self, error: ObjectUnavailable) -> ChainBroken:
        problem = "is missing" if isinstance(error, ObjectNotFound) else error.problem
        return ChainBroken(
            f"{self.key} {problem}: LSN {self.lsn_first} to {self.lsn_last} cannot be read",
            hint=f"LSN {self.lsn_first - 1} or earlier does not need it",
            number=self.number,
            key=self.key,
            lsn_last=self.lsn_first - 1,
        )


class IndexReader:
    """Reads the indexes of ``segments``, which are rows of the chain's table. Used from one event loop.

    Several reads may be in flight at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        domain_uuid: UUID,
        segments: LinkTable,
        repository: MetadataRepository | None,
        domain_key: DomainKey | None = None,
    ) -> None:
        self._store = store
        self._domain_uuid = domain_uuid
        self.segments = segments
        self._repository = repository
        self._domain_key = domain_key

    async def read(self, number: int) -> SegmentIndex:
        """The index of segment ``number``. :class:`DamagedObject`, or :class:`ChainBroken` if the object is gone."""
        nth = int(np.searchsorted(self.segments["number"], number))
        if nth == len(self.segments) or int(self.segments["number"][nth]) != number:
            raise InvalidRequest(
                f"chain object {number} is no segment of this history", hint="use a number of .segments"
            )
        (found,) = await self._read(_wanted(self.segments[nth : nth + 1]))
        if isinstance(found, JetdrError):
            raise found
        return found

    async def newest_first(self, lsn: int, on_damage: OnDamage | None) -> AsyncGenerator[list[SegmentRead], None]:
        """See :meth:`Catalog.indexes_newest_first`."""
        rows = self.segments[(self.segments["first_lsn"] <= lsn) & (self.segments["entry_count"] > 0)][::-1]
        ahead = _ReadAhead(_batches(rows), self._read)
        try:
            while (batch := await ahead.next()) is not None:
                good: list[SegmentRead] = []
                for wanted, index in batch:
                    if not isinstance(index, JetdrError):
                        good.append(SegmentRead(wanted.number, wanted.key, wanted.object_bytes, _up_to(index, lsn)))
                        continue
                    if on_damage is None:
                        raise index
                    if good:
                        yield good
                    good = []
                    on_damage(wanted.number, index)
                if good:
                    yield good
        finally:
            await ahead.end()

    async def _read(self, batch: Sequence[_Wanted]) -> list[SegmentIndex | Unreadable]:
        """The index of each segment, or why there is none."""
        kept = await self._kept(batch) if self._repository else {}
        missing = [wanted for wanted in batch if wanted not in kept]
        found: dict[_Wanted, SegmentIndex | Unreadable] = {**kept, **await self._fetch(missing)}
        return [found[wanted] for wanted in batch]

    async def _kept(self, batch: Sequence[_Wanted]) -> dict[_Wanted, SegmentIndex]:
        """Those indexes that the repository has."""
        assert self._repository is not None
        footers = await self._repository.get(
            self._domain_uuid, [(wanted.checksum, wanted.footer.length) for wanted in batch]
        )
        there = {wanted: footer for wanted, footer in zip(batch, footers, strict=True) if footer is not None}
        decoded = await _decoded(there, self._domain_key)
        for wanted, index in decoded.items():
            if isinstance(index, DamagedObject):
                await self._repository.drop(self._domain_uuid, wanted.checksum)
        return {wanted: index for wanted, index in decoded.items() if not isinstance(index, DamagedObject)}

    async def _fetch(self, batch: Sequence[_Wanted]) -> dict[_Wanted, SegmentIndex | Unreadable]:
        """The indexes from the store. What is good is kept in the repository."""
        if not batch:
            return {}
        footers: dict[_Wanted, bytes] = {}
        found: dict[_Wanted, SegmentIndex | Unreadable] = {}
        results = await self._store.get_ranges([wanted.footer for wanted in batch])
        for wanted, result in zip(batch, results, strict=True):
            if isinstance(result, ObjectUnavailable):
                found[wanted] = wanted.lost(result)
            elif isinstance(result, StoreError):
                raise result
            else:
                footers[wanted] = result
        found |= await _decoded(footers, self._domain_key)
        if self._repository:
            good = [wanted for wanted in footers if not isinstance(found[wanted], JetdrError)]
            await self._repository.put(self._domain_uuid, [(wanted.checksum, footers[wanted]) for wanted in good])
        return found


class _ReadAhead:
    """Reads batches before they are asked for, and gives them in order.

    Besides the batch given last, at most ``PREFETCH_BYTES`` of decoded indexes and one batch are held.
    """

    def __init__(
        self,
        batches: Iterator[LinkTable],
        read: Callable[[Sequence[_Wanted]], Awaitable[list[SegmentIndex | Unreadable]]],
    ) -> None:
        self._batches = batches
        self._read = read
        self._waiting: deque[tuple[LinkTable, asyncio.Task[list[tuple[_Wanted, SegmentIndex | Unreadable]]]]] = deque()

    async def next(self) -> list[tuple[_Wanted, SegmentIndex | Unreadable]] | None:
        """The next batch, or None after the last."""
        while self._has_room and (rows := next(self._batches, None)) is not None:
            self._waiting.append((rows, asyncio.create_task(self._read_rows(rows))))
        if not self._waiting:
            return None
        _, task = self._waiting.popleft()
        return await task

    async def end(self) -> None:
        """Give up what is being read."""
        for _, task in self._waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._waiting), return_exceptions=True)

    @property
    def _has_room(self) -> bool:
        rows = sum(len(rows) for rows, _ in self._waiting)
        taken_bytes = sum(int(rows["index_raw_bytes"].sum(dtype=np.uint64)) for rows, _ in self._waiting)
        return taken_bytes < PREFETCH_BYTES and (len(self._waiting) < PREFETCH_BATCHES or rows < PREFETCH_ROWS)

    async def _read_rows(self, rows: LinkTable) -> list[tuple[_Wanted, SegmentIndex | Unreadable]]:
        wanted = _wanted(rows)
        return list(zip(wanted, await self._read(wanted), strict=True))


def _batches(rows: LinkTable) -> Iterator[LinkTable]:
    """Consecutive rows that are read together. The first batches are short, because little may be needed."""
    ends = np.cumsum(rows["index_raw_bytes"], dtype=np.uint64)
    first, rows_max = 0, 4
    while first < len(rows):
        before = int(ends[first - 1]) if first else 0
        fits = int(np.searchsorted(ends, np.uint64(before + BATCH_BYTES), "right"))
        end = max(first + 1, min(fits, first + rows_max))
        yield rows[first:end]
        first, rows_max = end, min(2 * rows_max, BATCH_ROWS)


def _wanted(rows: LinkTable) -> list[_Wanted]:
    names = ("index_offset", "object_bytes", "first_lsn", "last_lsn")
    checksums = [checksum.tobytes() for checksum in rows["checksum"]]
    columns = (rows[name].tolist() for name in names)
    return [_Wanted(*values) for values in zip(rows["number"].tolist(), checksums, *columns, strict=True)]


async def _decoded(
    footers: Mapping[_Wanted, bytes], domain_key: DomainKey | None
) -> dict[_Wanted, SegmentIndex | DamagedObject]:
    if sum(map(len, footers.values())) > _INLINE_BYTES_MAX:
        return await asyncio.to_thread(_decode, footers, domain_key)
    return _decode(footers, domain_key)


def _decode(
    footers: Mapping[_Wanted, bytes], domain_key: DomainKey | None
) -> dict[_Wanted, SegmentIndex | DamagedObject]:
    found: dict[_Wanted, SegmentIndex | DamagedObject] = {}
    for wanted, footer in footers.items():
        try:
            found[wanted] = _decode_one(footer, wanted, domain_key)
        except DamagedObject as error:
            found[wanted] = error
    return found


def _decode_one(footer: bytes, wanted: _Wanted, domain_key: DomainKey | None) -> SegmentIndex:
    key, view = wanted.key, memoryview(footer)
    if object_checksum(view[-TRAILER_BYTES:]) != wanted.checksum:
        raise DamagedObject(key, "trailer", "is not the one that the chain names")
    trailer = believed_trailer(view[-TRAILER_BYTES:], wanted.number, domain_key, key)
    with encrypted_is_damage(key):
        return decode_index(view[:-TRAILER_BYTES], trailer, key, domain_key)


def _up_to(index: SegmentIndex, lsn: int) -> SegmentIndex:
    entries = index.entries
    if len(entries) == 0 or int(entries["lsn"][-1]) <= lsn:
        return index
    return index._replace(entries=entries[: int(np.searchsorted(entries["lsn"], lsn, "right"))])
