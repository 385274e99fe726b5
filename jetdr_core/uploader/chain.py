"""ChainWriter: extends a domain's chain, and finds out if another owner does.

Two owners may write to one store: one has taken the domain over, and the other does not know yet. The store decides
between them. Every object is put if absent, so each number of the chain has one object.

Invariants: a claim of ownership is an epoch object at the first missing number. What an older epoch puts after that
object does not chain, and readers step over it. After :class:`Fenced` this writer puts nothing more. In a domain with a
key, what another object says is believed only if it has a right tag. Used from one event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from itertools import chain, count
from typing import NamedTuple
from uuid import UUID

from jetdr_core.catalog import chain_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import ChainBroken, Fenced, ObjectExists
from jetdr_core.remedies import VERIFY
from jetdr_core.segment import (
    TRAILER_BYTES,
    Origin,
    SealedSegment,
    SegmentBody,
    believed_origin,
    object_checksum,
    seal,
    seal_epoch,
)
from jetdr_core.store import ObjectStore

__all__ = ["ChainEnd", "ChainWriter", "ClaimLost", "NumberTaken", "StoredObject"]

log = logging.getLogger(__name__)


class ChainEnd(NamedTuple):
    """The last chained object, which the next one names as its predecessor. ``number`` is the last number in use."""

    number: int
    checksum: bytes
    epoch: int


class StoredObject(NamedTuple):
    """A chain object as it was stored."""

    number: int
    size_bytes: int
    checksum: bytes


class NumberTaken(Exception):
    """An orphan of an older epoch holds the number. The object has to be put at a later one."""


class ClaimLost(Exception):
    """The chain grew while it was being claimed, and has to be read anew."""


class ChainWriter:
    """One owner's end of the chain.

    ``number_next`` and ``checksum`` move when an object is sealed, before it is stored. ``claimed`` is the epoch
    object, once there is one. ``domain_key`` is bound to the domain.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        domain: str,
        domain_uuid: UUID,
        timeline: int,
        end: ChainEnd,
        domain_key: DomainKey | None = None,
    ) -> None:
        self.store = store
        self.domain_key = domain_key
        self.domain = domain
        self.domain_uuid = domain_uuid
        self.timeline = timeline
        self.epoch = end.epoch
        self.number_next = end.number + 1
        self.checksum = end.checksum
        self.claimed: StoredObject | None = None
        self.time_ns = 0
        """The time of the last record in the chain when it was claimed."""

    async def claim(self, lsn_next: int, time_ns: int, owner: EpochOwner) -> SealedSegment:
        """Become the owner: put the next epoch's object at the first missing number.

        :class:`ClaimLost` if one is there.
        """
        sealed = self._seal_epoch(lsn_next, time_ns, owner)
        try:
            await self.store.put_if_absent(chain_key(self.number_next), sealed.parts)
        except ObjectExists:
            if (await self._there(self.number_next))[1] != sealed.checksum:
                raise ClaimLost from None
        self._claimed(self.number_next, sealed)
        return sealed

    async def close_break(
        self, after: Collection[int], lsn_next: int, time_ns: int, announce: Callable[[int], Awaitable[EpochOwner]]
    ) -> None:
        """Claim once more, at each number that is missing before those of ``after``, and at a free one after them.

        An older owner that lives goes on after the last of them. So its next upload meets a newer epoch, although the
        first missing number is one that it had used. ``announce`` gives the body of the claim of an epoch.
        :class:`ClaimLost` if another owner claims at the same time.
        """
        last = max(after)
        missing = [number for number in range(self.number_next, last) if number not in after]
        numbers = chain(missing, count(last + 1))
        while self.number_next <= last + 1:
            owner = await announce(self.epoch + 1)
            self._claimed(*await self._put_at_free(numbers, self._seal_epoch(lsn_next, time_ns, owner)))

    def _seal_epoch(self, lsn_next: int, time_ns: int, owner: EpochOwner) -> SealedSegment:
        self.time_ns = time_ns
        return seal_epoch(
            domain_uuid=self.domain_uuid,
            epoch=self.epoch + 1,
            timeline=self.timeline,
            predecessor=self.checksum,
            lsn_next=lsn_next,
            time_ns=time_ns,
            owner=owner,
            number=self.number_next,
            domain_key=self.domain_key,
        )

    async def _put_at_free(self, numbers: Iterator[int], sealed: SealedSegment) -> tuple[int, SealedSegment]:
        """Put ``sealed`` at the first of ``numbers`` that is free. Returns the number, and the object as it was put."""
        for number in numbers:
            moved = sealed.moved_to(number, self.checksum)
            try:
                await self.put(number, moved)
            except NumberTaken:
                continue
            except Fenced:
                raise ClaimLost from None
            return number, moved
        raise AssertionError("numbers do not end")

    def _claimed(self, number: int, sealed: SealedSegment) -> None:
        self.claimed = StoredObject(number, sealed.size_bytes, sealed.checksum)
        self.epoch += 1
        self.number_next = number + 1
        self.checksum = sealed.checksum

    def seal(self, body: SegmentBody) -> tuple[int, SealedSegment]:
        """Give ``body`` the next number, and the last sealed object as its predecessor."""
        sealed = seal(
            body,
            domain_uuid=self.domain_uuid,
            epoch=self.epoch,
            timeline=self.timeline,
            predecessor=self.checksum,
            number=self.number_next,
            domain_key=self.domain_key,
        )
        number = self.number_next
        self.number_next, self.checksum = number + 1, sealed.checksum
        return number, sealed

    async def put(self, number: int, sealed: SealedSegment) -> None:
        """Store the object at ``number``, whole and durable at return.

        An object may be there already. If it is this one, the answer to an earlier attempt was lost, and all is well.
        If an older epoch put it, :class:`NumberTaken` is raised, for a newer epoch :class:`Fenced`, and otherwise
        :class:`ChainBroken`. :class:`Forged` if no owner of the domain put it.
        """
        try:
            await self.store.put_if_absent(chain_key(number), sealed.parts)
        except ObjectExists:
            await self._explain(number, sealed)

    async def _explain(self, number: int, sealed: SealedSegment) -> None:
        key = chain_key(number)
        there, checksum = await self._there(number)
        if checksum == sealed.checksum:
            return
        if there.epoch > self.epoch:
            raise Fenced(self.domain, self.epoch, there.epoch)
        if there.epoch == self.epoch:
            raise ChainBroken(
                f"{key} holds other bytes of the same epoch {self.epoch}",
                hint=f"the object is damaged or was put by hand: {VERIFY}",
            )
        log.warning("domain %s: an orphan of epoch %d holds %s", self.domain, there.epoch, key)
        raise NumberTaken

    async def _there(self, number: int) -> tuple[Origin, bytes]:
        """Return who put chain object ``number``, and its checksum."""
        key = chain_key(number)
        async for info in self.store.list_prefix(key):
            if info.key == key and info.size_bytes >= TRAILER_BYTES:
                tail = await self.store.get_range(key, info.size_bytes - TRAILER_BYTES, TRAILER_BYTES)
                there = believed_origin(tail, number, self.domain_key, key)
                if there.domain_uuid != self.domain_uuid:
                    raise ChainBroken(
                        f"{key} belongs to another domain", hint="give each domain a container of its own"
                    )
                return there, object_checksum(tail)
        raise ChainBroken(f"{key} exists but is no chain object", hint=VERIFY)
