"""Segments are stored in LSN order, however their puts end, and move to later numbers when an orphan holds one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest
from typing_extensions import Buffer

from jetdr_core.catalog import chain_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import StoreAccessDenied, StoreLost
from jetdr_core.segment import NO_PREDECESSOR, SegmentBody, build_body
from jetdr_core.store import MemoryStore, ObjectStore, StoreWrapper
from jetdr_core.uploader import ChainEnd, ChainWriter, UploadLatency
from jetdr_core.uploader.in_flight import PutsInFlight
from tests.segment.sample import Records
from tests.uploader.listed_source import cursor_at, patience

DOMAIN_UUID = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")


class HoldingStore(StoreWrapper):
    """Puts of ``held`` keys wait until they are released.

    Those of ``denied`` keys are refused, and those of ``lost`` keys fail.
    """

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.held: dict[str, asyncio.Event] = {}
        self.denied: set[str] = set()
        self.lost: set[str] = set()

    def hold(self, *numbers: int) -> list[asyncio.Event]:
        events = [asyncio.Event() for _ in numbers]
        self.held |= dict(zip(map(chain_key, numbers), events, strict=True))
        return events

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        if key in self.held:
            await self.held[key].wait()
        if key in self.denied:
            raise StoreAccessDenied("put", key, "refused by plan")
        if key in self.lost:
            raise StoreLost("put", key, "lost by plan")
        await self._inner.put_if_absent(key, data)


def body(lsn: int) -> SegmentBody:
    records = Records(lsn)
    records.write(1, 0, bytes([lsn]) * 512)
    return build_body([records.batch()])


async def new_chain(store: ObjectStore) -> ChainWriter:
    chain = ChainWriter(
        store, domain="payroll", domain_uuid=DOMAIN_UUID, timeline=1, end=ChainEnd(0, NO_PREDECESSOR, 0)
    )
    owner = EpochOwner(owner="owner", host="drva", domain="payroll", domain_uuid=str(DOMAIN_UUID))
    await chain.claim(1, 0, owner)
    return chain


async def put_orphan(inner: MemoryStore, number: int) -> None:
    """An object of an older epoch, as a fenced owner puts it late."""
    older = await new_chain(MemoryStore())
    older.seal(body(1))
    _, sealed = older.seal(body(2))
    await inner.put_if_absent(chain_key(number), sealed.parts)


async def fill(in_flight: PutsInFlight, count: int) -> None:
    for lsn in range(1, count + 1):
        await in_flight.add(body(lsn), cursor_at(lsn))


def test_segments_are_stored_in_lsn_order_though_their_puts_end_in_another() -> None:
    async def scenario() -> None:
        store = HoldingStore(MemoryStore())
        chain, latency = await new_chain(store), UploadLatency()
        first, second, third = store.hold(2, 3, 4)
        in_flight = PutsInFlight(chain, 4, latency, patience(), lambda: 0.0)
        await fill(in_flight, 3)
        stored = asyncio.create_task(in_flight.next_stored())
        third.set()
        second.set()
        await asyncio.wait(in_flight.tasks[1:])
        assert not stored.done()
        first.set()
        found = [await stored, await in_flight.next_stored(), await in_flight.next_stored()]
        assert [(one.number, one.end.lsn) for one in found] == [(2, 1), (3, 2), (4, 3)]
        assert sum(latency.counts) == 3
        assert in_flight.tasks == []

    asyncio.run(scenario())


def test_no_more_are_in_flight_than_the_maximum() -> None:
    async def scenario() -> None:
        store = HoldingStore(MemoryStore())
        in_flight = PutsInFlight(await new_chain(store), 2, UploadLatency(), patience(), lambda: 0.0)
        first, *_ = store.hold(2, 3)
        await fill(in_flight, 2)
        third = asyncio.create_task(in_flight.add(body(3), cursor_at(3)))
        await asyncio.sleep(0)
        assert not third.done()
        first.set()
        await in_flight.next_stored()
        await third

    asyncio.run(scenario())


def test_an_orphan_moves_every_segment_in_flight_to_a_later_number() -> None:
    async def scenario() -> None:
        inner = MemoryStore()
        store = HoldingStore(inner)
        chain = await new_chain(store)
        chain.epoch += 1
        in_flight = PutsInFlight(chain, 4, UploadLatency(), patience(), lambda: 0.0)
        await put_orphan(inner, 2)
        await fill(in_flight, 3)
        found = [await in_flight.next_stored() for _ in range(3)]
        assert [(one.number, one.end.lsn) for one in found] == [(5, 1), (6, 2), (7, 3)]

    asyncio.run(scenario())


def test_an_orphan_at_the_later_number_is_stepped_over() -> None:
    async def scenario() -> None:
        inner = MemoryStore()
        chain = await new_chain(inner)
        chain.epoch += 1
        in_flight = PutsInFlight(chain, 4, UploadLatency(), patience(), lambda: 0.0)
        for number in (2, 3):
            await put_orphan(inner, number)
        await fill(in_flight, 1)
        assert (await in_flight.next_stored()).number == 4

    asyncio.run(scenario())


def test_the_error_of_a_put_is_raised_when_its_turn_comes() -> None:
    async def scenario() -> None:
        store = HoldingStore(MemoryStore())
        in_flight = PutsInFlight(await new_chain(store), 4, UploadLatency(), patience(), lambda: 0.0)
        store.lost = {chain_key(3)}
        await fill(in_flight, 2)
        assert (await in_flight.next_stored()).number == 2
        with pytest.raises(StoreLost):
            await in_flight.next_stored()

    asyncio.run(scenario())


def test_an_error_beside_an_orphan_ends_the_renumbering() -> None:
    """Nothing may be called stored then: the chain does not lead there."""

    async def scenario() -> None:
        inner = MemoryStore()
        store = HoldingStore(inner)
        chain = await new_chain(store)
        chain.epoch += 1
        in_flight = PutsInFlight(chain, 4, UploadLatency(), patience(), lambda: 0.0)
        await put_orphan(inner, 2)
        store.lost = {chain_key(3)}
        await fill(in_flight, 2)
        with pytest.raises(StoreLost):
            await in_flight.next_stored()
        assert len(in_flight.tasks) == 2

    asyncio.run(scenario())


def test_a_refusal_beside_an_orphan_is_waited_for_and_the_chain_stays_whole() -> None:
    async def scenario() -> None:
        inner = MemoryStore()
        store = HoldingStore(inner)
        chain = await new_chain(store)
        chain.epoch += 1
        in_flight = PutsInFlight(chain, 4, UploadLatency(), patience(), lambda: 0.0)
        await put_orphan(inner, 2)
        store.denied = {chain_key(3)}
        await fill(in_flight, 2)
        first = asyncio.ensure_future(in_flight.next_stored())
        await asyncio.sleep(0.05)
        assert not first.done()
        store.denied = set()
        numbers = [(await first).number, (await in_flight.next_stored()).number]
        assert numbers == [4, 5]

    asyncio.run(scenario())
