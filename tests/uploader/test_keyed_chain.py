"""An owner with a key: what it puts has a right tag for its number, however often the number changes."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from jetdr_core.catalog import Catalog, chain_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import Forged
from jetdr_core.segment import NO_PREDECESSOR, SegmentBody, build_body
from jetdr_core.store import MemoryStore
from jetdr_core.uploader import ChainEnd, ChainWriter, UploadLatency
from jetdr_core.uploader.in_flight import PutsInFlight
from jetdr_core.verify import verify
from tests.segment.sample import Records
from tests.segment.tampering import trailer_of
from tests.uploader.listed_source import cursor_at, patience

DOMAIN_UUID = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")
KEY = DomainKey(bytes(range(32)), DOMAIN_UUID)
OTHER_KEY = DomainKey(bytes(32), DOMAIN_UUID)
OWNER = EpochOwner(owner="owner", host="drva", domain="payroll", domain_uuid=str(DOMAIN_UUID))


def body(lsn: int, domain_key: DomainKey = KEY) -> SegmentBody:
    records = Records(lsn)
    records.write(1, 0, bytes([lsn]) * 512)
    return build_body([records.batch()], content_key=domain_key.new_content_key())


def writer(store: MemoryStore, end: ChainEnd, domain_key: DomainKey = KEY) -> ChainWriter:
    return ChainWriter(store, domain="payroll", domain_uuid=DOMAIN_UUID, timeline=1, end=end, domain_key=domain_key)


async def begun(store: MemoryStore, domain_key: DomainKey = KEY) -> ChainWriter:
    chain = writer(store, ChainEnd(0, NO_PREDECESSOR, 0), domain_key)
    await chain.claim(1, 0, OWNER)
    return chain


def test_segments_that_get_later_numbers_are_sealed_for_them() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        old = await begun(store)
        new = writer(store, ChainEnd(1, old.checksum, 1))
        await new.claim(1, 0, OWNER)
        old.seal(body(1))  # met the claim
        number, orphan = old.seal(body(2))
        await store.put_if_absent(chain_key(number), orphan.parts)  # was in flight, and takes number 3
        in_flight = PutsInFlight(new, 4, UploadLatency(), patience(), lambda: 0.0)
        for lsn in range(1, 4):
            await in_flight.add(body(lsn), cursor_at(lsn))
        stored = [await in_flight.next_stored() for _ in range(3)]
        assert [segment.number for segment in stored] == [6, 7, 8]
        assert [segment.sealed.trailer.number for segment in stored] == [6, 7, 8]
        await in_flight.add(body(4), cursor_at(4))
        assert (await in_flight.next_stored()).number == 9
        catalog = await Catalog.open(store, domain_key=KEY)
        assert (catalog.lsn_last, catalog.chain_break) == (4, None)
        report = await verify(store, domain_key=KEY)
        assert (report.damage, report.chain_problem) == ((), "")

    asyncio.run(scenario())


def test_claims_in_a_break_are_sealed_for_the_numbers_that_they_get() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        old = await begun(store)
        for lsn in range(1, 6):
            number, sealed = old.seal(body(lsn))
            if number != 3:
                await store.put_if_absent(chain_key(number), sealed.parts)
        first = trailer_of(await store.get(chain_key(2)))
        before = await Catalog.open(store, domain_key=KEY)
        new = writer(store, ChainEnd(2, before.chain.tail.checksum, 1))
        await new.claim(first.last_lsn + 1, first.last_time_ns, OWNER)

        async def announce(_: int) -> EpochOwner:
            return OWNER

        await new.close_break({4, 5, 6}, first.last_lsn + 1, first.last_time_ns, announce)
        catalog = await Catalog.open(store, domain_key=KEY)
        assert (catalog.chain_break, catalog.chain.tail.epoch, new.number_next) == (None, 3, 8)
        assert trailer_of(await store.get(chain_key(7))).number == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("domain_key", [OTHER_KEY, None])
def test_what_stands_in_the_way_is_not_believed_without_a_right_tag(domain_key: DomainKey | None) -> None:
    """Nor does it fence: anybody could put an object of a newer epoch."""

    async def scenario() -> None:
        store, theirs = MemoryStore(), MemoryStore()
        chain = await begun(store)
        foreign = ChainWriter(
            theirs,
            domain="payroll",
            domain_uuid=DOMAIN_UUID,
            timeline=1,
            end=ChainEnd(1, chain.checksum, 8),
            domain_key=domain_key,
        )
        await foreign.claim(1, 0, OWNER)
        await store.put_if_absent(chain_key(2), [await theirs.get(chain_key(2))])
        with pytest.raises(Forged, match=chain_key(2)):
            await chain.put(*chain.seal(body(1)))
        with pytest.raises(Forged, match=chain_key(2)):
            await writer(store, ChainEnd(1, chain.checksum, 1)).claim(1, 0, OWNER)

    asyncio.run(scenario())


def test_an_answer_that_was_lost_does_no_harm() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        chain = await begun(store)
        number, sealed = chain.seal(body(1))
        await chain.put(number, sealed)
        await chain.put(number, sealed)

    asyncio.run(scenario())
