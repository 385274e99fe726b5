"""StoreWatch: notices that the store no longer holds what its owner has put there.

A store may lose objects while it goes on taking new ones: a life-cycle policy deletes them, a snapshot is restored, or
another directory takes the place of the store's. An owner that only puts would never see that, and would trim its log
after uploads that nobody can recover.

Invariants: a segment is called stored only if its predecessor is still there. None is put unless the newest object was
seen within ``LOOK_S`` before, so a container that was emptied gets no more objects. What is checked is what the store
has answered, so a store that does not answer is not called lost. An owner without uploads learns here that a newer
owner has taken the domain over. In a domain with a key an object is believed only if it has a right tag, and each check
reads a part of one more object, chosen at random. Memory: two numbers for each group that was listed. Used from one
event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import xxhash

from jetdr_core.catalog import chain_key, chain_number
from jetdr_core.catalog.keys import chain_prefix, group_numbers
from jetdr_core.errors import DamagedObject, Fenced, ObjectNotFound, ObjectUnavailable, StoreError, StoreLost
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.segment import TRAILER_BYTES, Origin, SealedSegment, believed_origin, object_checksum
from jetdr_core.store import ObjectStore
from jetdr_core.uploader.chain import ChainWriter, StoredObject
from jetdr_core.uploader.spot_check import spot_check

__all__ = ["StoreWatch"]

_CHECK = "check"

LOOK_S = 2.0
"""A look at the newest object that is older than that is repeated before a put."""

log = logging.getLogger(__name__)


class StoreWatch:
    """Watches the chain that ``chain`` extends, from the epoch object that claimed it on."""

    def __init__(self, chain: ChainWriter, interval_s: float, clock: Callable[[], float]) -> None:
        self._chain = chain
        self._interval_s = interval_s
        self._clock = clock
        self._hurry = asyncio.Event()
        self.seen_s = clock()
        """When the last check began that found the chain whole, on ``clock``. Who claims a chain has read it."""
        self._looked_s = self.seen_s  # when the newest object was last seen
        assert chain.claimed is not None, "a chain is claimed before it is extended"
        self._last = chain.claimed
        self._first: StoredObject | None = None
        self._seen: dict[int, tuple[int, int]] = {}  # by group: how many objects were listed, a digest of their sizes
        self._group_next = 0
        self._turn = 0
        self._group_lost: int | None = None
        self._suspect: int | None = None
        self._orphans: set[int] = set()  # numbers after ours that a newer owner has not put
        self.forged = ""
        """What fails its checks with the domain's key. Empty if nothing does. Uploads go on."""

    async def until_due(self) -> None:
        """Wait for the next check."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._interval_s)
        self._hurry.clear()

    async def look(self) -> None:
        """Check. Raises :class:`StoreLost`, or :class:`Fenced` for a newer owner."""
        began_s = self._clock()
        await self.check(self._chain.store)
        self.seen_s = began_s

    def hurry(self) -> None:
        """Have the next check begin at once."""
        self._hurry.set()

    async def before_put(self) -> None:
        """See the newest object, unless it was seen a moment ago. Raises as the watch does."""
        if self._clock() - self._looked_s > LOOK_S:
            await self._see_last(self._chain.store)

    async def stored(self, number: int, sealed: SealedSegment) -> None:
        """Note that ``sealed`` was put as ``number``, if its predecessor is still there. Raises as the watch does."""
        await self._see_last(self._chain.store)
        self._last = StoredObject(number, sealed.size_bytes, sealed.checksum)

    async def check(self, store: ObjectStore) -> None:
        """See the newest object, the first one, and that one group has all its objects: three requests.

        The newest group and an older one take turns. With the domain's key a part of one object is checked too.
        """
        await self._see_last(store)
        await self._see_first(store)
        await self._see_part(store)
        newest = (self._last.number + 1) // CHAIN_GROUP  # a newer owner begins at the next number
        self._turn += 1
        if newest == 0 or self._turn % 2:
            await self._see_group(store, newest)
        else:
            await self._see_group(store, self._group_next)
            self._group_next = (self._group_next + 1) % newest

    async def is_whole(self, store: ObjectStore) -> bool:
        """Return whether ``store`` holds again what was missed, and what is newest."""
        try:
            await self._see(store, self._last)
            await self._see_first(store)
            if self._suspect is not None:
                await self._see_part(store)
            for group in {self._last.number // CHAIN_GROUP, self._group_lost}:
                if group is not None:
                    await self._see_group(store, group)
        except StoreError:
            return False
        return True

    async def _see_last(self, store: ObjectStore) -> None:
        looked_s = self._clock()
        await self._see(store, self._last)
        self._looked_s = looked_s

    async def _see(self, store: ObjectStore, stored: StoredObject) -> None:
        key, lost, there = chain_key(stored.number), None, None
        try:
            tail = await store.get_range(key, stored.size_bytes - TRAILER_BYTES, TRAILER_BYTES)
            if object_checksum(tail) == stored.checksum and self._believed(tail, stored.number) is not None:
                return
        except ObjectUnavailable as error:
            lost = error  # or it is shorter, and perhaps a newer owner's
        with suppress(ObjectUnavailable):
            there = await self._there(store, stored.number)
        if there is None and lost is not None and not self.forged:
            raise _lost(key, lost)
        self._refuse(key, there)

    def _refuse(self, key: str, there: Origin | None) -> NoReturn:
        """Raise: what stands at ``key`` is not what was stored there."""
        if there is not None and self._is_newer(there):
            raise Fenced(self._chain.domain, self._chain.epoch, there.epoch)
        raise StoreLost(_CHECK, key, self.forged or "another object has taken its place")

    async def _there(self, store: ObjectStore, number: int) -> Origin | None:
        """Return who put chain object ``number``, if that is believed."""
        key = chain_key(number)
        async for info in store.list_prefix(key):
            if info.key == key and info.size_bytes >= TRAILER_BYTES:
                tail = await store.get_range(key, info.size_bytes - TRAILER_BYTES, TRAILER_BYTES)
                return self._believed(tail, number)
        return None

    def _believed(self, tail: bytes, number: int) -> Origin | None:
        """Return who put the object ``number`` whose trailer is ``tail``. None if it is damaged or forged."""
        try:
            return believed_origin(tail, number, self._chain.domain_key, chain_key(number))
        except DamagedObject as error:
            self._note_forged(error)
            return None

    def _note_forged(self, error: DamagedObject) -> None:
        if self._chain.domain_key is not None and not self.forged:
            self.forged = str(error)
            log.error("domain %s: %s", self._chain.domain, error)

    async def _see_part(self, store: ObjectStore) -> None:
        """Check a part of an object at random, or of the one that failed its check before."""
        domain_key = self._chain.domain_key
        if domain_key is None or self._last.number < domain_key.number_first:
            return
        number = self._suspect or random.randint(domain_key.number_first, self._last.number)
        key = chain_key(number)
        size = await anext((info.size_bytes async for info in store.list_prefix(key) if info.key == key), 0)
        try:
            if size:  # if not, it is told by the listing of its group
                await spot_check(store, number, size, domain_key)
        except ObjectUnavailable as error:
            self._suspect = number
            raise _lost(key, error) from None
        except DamagedObject as error:
            self._suspect = number
            if isinstance(error.__cause__, ObjectUnavailable):
                raise _lost(key, error.__cause__) from None
            self._note_forged(error)
        else:
            if self._suspect is not None:
                self._suspect, self.forged = None, ""

    async def _see_first(self, store: ObjectStore) -> None:
        """See object 1, which says whose the container is."""
        if self._first is not None:
            return await self._see(store, self._first)
        key = chain_key(1)
        size = await anext((info.size_bytes async for info in store.list_prefix(key) if info.key == key), 0)
        if size < TRAILER_BYTES:
            raise StoreLost(_CHECK, key, "the first object of the domain is gone")
        try:
            tail = await store.get_range(key, size - TRAILER_BYTES, TRAILER_BYTES)
            is_ours = believed_origin(tail, 1, self._chain.domain_key, key).domain_uuid == self._chain.domain_uuid
        except DamagedObject as error:
            self._note_forged(error)
            raise StoreLost(_CHECK, key, str(error)) from None
        except ObjectUnavailable as error:
            raise _lost(key, error) from None
        if not is_ours:
            raise StoreLost(_CHECK, key, "the store holds another domain")
        self._first = StoredObject(1, size, object_checksum(tail))
        return None

    async def _see_group(self, store: ObjectStore, group: int) -> None:
        """See that the store lists every number that was in use, with the size that it had before."""
        numbers = [number for number in group_numbers(group) if number <= self._last.number]
        infos = [info async for info in store.list_prefix(chain_prefix(group))]
        rows = {number: info.size_bytes for info in infos if (number := chain_number(info.key)) is not None}
        await self._see_newer(store, rows)
        self._group_lost = group
        if missing := [number for number in numbers if number not in rows]:
            cause = f"the object is gone, one of {len(missing)} that the group lacks"
            raise StoreLost(_CHECK, chain_key(missing[0]), cause)
        sizes = [rows[number] for number in numbers]
        count, digest = self._seen.get(group, (0, _digest([])))
        if _digest(sizes[:count]) != digest:
            raise StoreLost(_CHECK, chain_prefix(group), "an object of the group has another size than before")
        self._seen[group] = (len(sizes), _digest(sizes))
        self._group_lost = None

    async def _see_newer(self, store: ObjectStore, rows: dict[int, int]) -> None:
        """Raise :class:`Fenced` if a newer owner has put one of ``rows``, numbers with sizes, that were just listed.

        Only numbers are looked at that this owner has not given out: its puts meet the others. What cannot be read or
        believed is left to them, too.
        """
        foreign = {number for number in rows if number >= self._chain.number_next}
        self._orphans &= foreign
        for number in sorted(foreign - self._orphans):
            key = chain_key(number)
            with suppress(ObjectUnavailable, DamagedObject):
                tail = await store.get_range(key, max(0, rows[number] - TRAILER_BYTES), TRAILER_BYTES)
                there = believed_origin(tail, number, self._chain.domain_key, key)
                if self._is_newer(there):
                    raise Fenced(self._chain.domain, self._chain.epoch, there.epoch)
                self._orphans.add(number)

    def _is_newer(self, there: Origin) -> bool:
        return there.domain_uuid == self._chain.domain_uuid and there.epoch > self._chain.epoch


def _lost(key: str, error: ObjectUnavailable) -> StoreLost:
    problem = "is gone" if isinstance(error, ObjectNotFound) else error.problem
    return StoreLost(_CHECK, key, f"the object {problem}")


def _digest(sizes: list[int]) -> int:
    return xxhash.xxh64_intdigest(repr(sizes).encode())
