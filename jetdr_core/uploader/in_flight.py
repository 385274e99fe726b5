"""PutsInFlight: sealed segments on their way to the store.

Several puts run at once, so they end in any order. They are *stored* in LSN order all the same: a segment counts only
once all before it do, because readers follow the chain and stop at a missing number.

An orphan of an older epoch may hold the number of a segment. Then every segment in flight needs a later number. So the
segments are *renumbered*: put again, in their order, after the last number that was given out. In a domain with a key
they are sealed again for that, because their tags cover their numbers. Those that had been
stored already become orphans themselves. They do not chain, because the object that they name as predecessor comes
after them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from jetdr_core.replication_log import Cursor
from jetdr_core.segment import SealedSegment, SegmentBody
from jetdr_core.uploader.chain import ChainWriter, NumberTaken
from jetdr_core.uploader.latency import UploadLatency
from jetdr_core.uploader.patience import Patience

__all__ = ["PutsInFlight", "StoredSegment"]


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment that the store holds. ``number`` is its number in the chain, ``end`` the log position after it."""

    number: int
    sealed: SealedSegment
    end: Cursor


@dataclass(slots=True)
class _Put:
    sealed: SealedSegment
    end: Cursor
    number: asyncio.Task[int]


class PutsInFlight:
    """At most ``puts_max`` at once. Fed by one task and emptied by another, in one event loop.

    A put that the store refuses waits as ``patience`` says.
    """

    def __init__(
        self,
        chain: ChainWriter,
        puts_max: int,
        latency: UploadLatency,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._chain = chain
        self._patience = patience
        self._latency = latency
        self._clock = clock
        self._puts: deque[_Put] = deque()
        self._room = asyncio.Semaphore(puts_max)
        self._numbering = asyncio.Lock()  # held while a segment gets its number and its put begins
        self._added = asyncio.Event()

    @property
    def tasks(self) -> list[asyncio.Task[int]]:
        """All puts that are in flight."""
        return [put.number for put in self._puts]

    async def add(self, body: SegmentBody, end: Cursor) -> None:
        """Seal ``body`` as the next object of the chain, and begin to put it. Waits for room."""
        await self._room.acquire()
        async with self._numbering:
            number, sealed = self._chain.seal(body)
            self._puts.append(_Put(sealed, end, asyncio.create_task(self._put(number, sealed))))
        self._added.set()

    async def next_stored(self) -> StoredSegment:
        """Wait until the first segment in flight is stored. Raises what its put raised."""
        while True:
            while not self._puts:
                self._added.clear()
                await self._added.wait()
            first = self._puts[0]
            try:
                number = await first.number
            except NumberTaken:
                await self._renumber()
                continue
            self._puts.popleft()
            self._room.release()
            return StoredSegment(number, first.sealed, first.end)

    async def _renumber(self) -> None:
        async with self._numbering:
            for put in self._puts:
                with suppress(NumberTaken):
                    await put.number  # any other failure ends the upload here
            self._chain.checksum = self._puts[0].sealed.trailer.predecessor
            for put in self._puts:
                put.number = asyncio.create_task(self._put_later(put))
                await put.number

    async def _put_later(self, put: _Put) -> int:
        while True:
            number = self._chain.number_next
            self._chain.number_next += 1
            put.sealed = put.sealed.moved_to(number, self._chain.checksum)
            try:
                await self._put(number, put.sealed)
            except NumberTaken:
                continue
            self._chain.checksum = put.sealed.checksum
            return number

    async def _put(self, number: int, sealed: SealedSegment) -> int:
        begun = self._clock()
        await self._patience.until_granted(lambda: self._chain.put(number, sealed))
        self._latency.add(self._clock() - begun)
        return number
