"""A scrub finds what the store gives back wrongly, and calls nothing verified that it did not compare."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
import xxhash

from jetdr_core.catalog import Catalog
from jetdr_core.cli.repair_command import why_refused
from jetdr_core.control_bodies import Digest, Digests
from jetdr_core.errors import InvalidRequest
from jetdr_core.record import Kind
from jetdr_core.scrub import Agreement, ScrubReport, scrub
from jetdr_core.scrub.digests import RecordedDigest, UnreadDigests, newest_digests
from jetdr_core.scrub.extent_reader import WantedExtent, read_extents
from jetdr_core.scrub.repair import plan_repair, still_unread
from jetdr_core.segment import HEADER_BYTES
from jetdr_core.store import MemoryStore
from tests.rehydrate.chains import Chain

SIZE = 256 << 10
EXTENT = 16 << 10


def digest(chain: Chain, disk: int, *offsets: int, image: bytes | None = None) -> int:
    """Record what the disk holds now, as its owner would."""
    held = chain.replay(disk, SIZE, chain.lsn) if image is None else image
    extents = (
        Digest(chain.lsn, offset, EXTENT, xxhash.xxh3_128_digest(held[offset : offset + EXTENT])) for offset in offsets
    )
    return chain.control(Kind.DIGESTS, disk, **Digests(tuple(extents)).encode())


async def build() -> Chain:
    """Two disks in four segments, each with digests after its writes."""
    chain, chance = Chain(MemoryStore()), random.Random(4)
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    chain.add_disk(2, "b", SIZE)
    for disk in (1, 2):
        chain.write(disk, 0, os.urandom(EXTENT))
    for _ in range(4):
        for n in range(12):
            chain.write(n % 2 + 1, chance.randrange(0, 440) * 512, os.urandom(chance.randrange(1, 60) * 512))
        chain.zero(1, 32768, 8192)
        digest(chain, 1, 0, 32768, SIZE - EXTENT)
        digest(chain, 2, 0, 65536)
        await chain.seal()
    return chain


async def flip(chain: Chain, key: str, at: int) -> None:
    data = bytearray(await chain.store.get(key))
    data[at] ^= 1
    await chain.store.replace(key, [bytes(data)])


def agreements(report: ScrubReport) -> list[Agreement]:
    return [found.agreement for found in report.comparisons]


def test_what_the_owner_read_is_what_the_store_gives_back_at_every_lsn() -> None:
    async def scenario() -> None:
        chain = await build()
        heard: list[tuple[int, int]] = []
        report = await scrub(chain.store, progress=lambda *row: heard.append(row))
        assert agreements(report) == [Agreement.EQUAL] * 20
        assert report.is_sound
        assert (report.digests, report.domain) == (8, "payroll")
        assert heard == [(n + 1, 20) for n in range(20)]
        assert report.verified is not None
        assert report.verified.lsn == chain.lsn - 1
        assert report.disks()[0].bytes_compared == 12 * EXTENT
        assert [(disk.name, disk.compared) for disk in report.disks()] == [("a", 12), ("b", 8)]

    asyncio.run(scenario())


def test_a_write_that_the_engine_never_logged_is_found_with_extent_lsn_and_objects() -> None:
    async def scenario() -> None:
        chain = await build()
        image = bytearray(chain.replay(1, SIZE, chain.lsn))
        image[4096:8192] = os.urandom(4096)  # the disk has it, and no record says so
        lsn = chain.lsn
        digest(chain, 1, 0, SIZE - EXTENT, image=bytes(image))
        await chain.seal()
        report = await scrub(chain.store)
        (found,) = [found for found in report.comparisons if found.agreement is Agreement.DIFFERENT]
        assert (found.disk, found.offset, found.length, found.lsn) == ("a", 0, EXTENT, lsn)
        assert found.keys
        assert set(found.keys) <= set(chain.keys)
        assert "the disk held other bytes than the store gives back (from chain/" in str(found)
        assert not report.is_sound
        assert report.verified is not None
        assert report.verified.lsn < lsn, "the other extent of that LSN is equal, and the point is in doubt"

    asyncio.run(scenario())


def test_stray_data_where_the_disk_holds_a_hole_is_found() -> None:
    async def scenario() -> None:
        chain = await build()
        digest(chain, 2, 0, image=bytes(SIZE))
        digest(chain, 1, SIZE - EXTENT, image=bytes(SIZE))
        await chain.seal()
        assert Agreement.DIFFERENT in agreements(await scrub(chain.store, sample=1, disks=["b"]))

    asyncio.run(scenario())


def test_a_damaged_frame_is_unreadable_and_never_different() -> None:
    async def scenario() -> None:
        chain = await build()
        await flip(chain, chain.keys[-1], HEADER_BYTES)
        report = await scrub(chain.store)
        assert Agreement.UNREADABLE in agreements(report)
        assert Agreement.DIFFERENT not in agreements(report)
        assert not report.is_sound
        assert any("checksum is wrong" in found.problem for found in report.comparisons)
        untouched = [found for found in report.comparisons if found.lsn < chain.lsn - 14]
        assert all(found.agreement is Agreement.EQUAL for found in untouched)

    asyncio.run(scenario())


def test_a_segment_that_vanishes_makes_unreadable_what_may_lie_in_it_and_its_digests() -> None:
    async def scenario() -> None:
        chain = await build()
        async with await Catalog.open(chain.store) as catalog:
            whole = [found async for found in newest_digests(catalog)]
            await chain.store.delete(chain.keys[-1])
            left = [found async for found in newest_digests(catalog)]
            wanted = [WantedExtent(chain.lsn - 15, 2, SIZE, 0, EXTENT), WantedExtent(chain.lsn, 2, SIZE, 0, SIZE)]
            older, newer = [read async for read in read_extents(catalog, wanted)]
        assert [type(found) for found in left] == [UnreadDigests] * 2 + [RecordedDigest] * (len(whole) - 5)
        assert older.data == chain.replay(2, SIZE, chain.lsn - 15)[:EXTENT]
        assert newer.data is None
        assert "is missing" in newer.problem

    asyncio.run(scenario())


def test_what_lies_too_far_back_is_not_called_compared() -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        chain.add_disk(1, "a", SIZE)
        chain.write(1, 0, os.urandom(SIZE))
        for _ in range(6):
            await chain.seal()
            chain.write(1, SIZE - 512, os.urandom(512))
        digest(chain, 1, 0)
        await chain.seal()
        report = await scrub(chain.store, indexes_max=2)
        assert agreements(report) == [Agreement.TOO_FAR]
        assert report.is_sound
        assert report.verified is None
        assert report.disks()[0].compared == 0
        assert agreements(await scrub(chain.store)) == [Agreement.EQUAL]

    asyncio.run(scenario())


def test_a_digest_inside_a_gap_or_off_its_disk_says_nothing() -> None:
    async def scenario() -> None:
        chain = await build()
        chain.control(Kind.GAP_OPEN, reason="test")
        digest(chain, 1, 0, image=bytes(range(256)) * 1024)
        chain.control(Kind.GAP_CLOSE)
        off = Digest(chain.lsn, SIZE, EXTENT, bytes(16))
        chain.control(Kind.DIGESTS, 1, **Digests((off, Digest(chain.lsn + 9, 0, EXTENT, bytes(16)))).encode())
        chain.control(Kind.DIGESTS, 9, **Digests((Digest(chain.lsn, 0, EXTENT, bytes(16)),)).encode())
        await chain.seal()
        report = await scrub(chain.store)
        assert agreements(report) == [Agreement.EQUAL] * 20

    asyncio.run(scenario())


def test_the_newest_are_compared_first_and_a_disk_is_chosen_by_name() -> None:
    async def scenario() -> None:
        chain = await build()
        report = await scrub(chain.store, sample=3, disks=["a"])
        assert [found.lsn for found in report.comparisons] == [chain.lsn - 2] * 3
        with pytest.raises(InvalidRequest, match="no disk 'c'; choose from: a, b"):
            await scrub(chain.store, disks=["c"])
        with pytest.raises(InvalidRequest, match="a sample of 0"):
            await scrub(chain.store, sample=0)

    asyncio.run(scenario())


def test_a_store_without_digests_is_sound_and_nothing_is_verified() -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        chain.add_disk(1, "a", SIZE)
        await chain.seal()
        report = await scrub(chain.store)
        assert (report.digests, report.comparisons, report.verified, report.is_sound) == (0, (), None, True)

    asyncio.run(scenario())


def test_a_repair_copies_what_the_newest_state_lacks_and_nothing_else() -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        chain.add_disk(1, "a", SIZE)
        lsn = chain.write(1, 0, os.urandom(SIZE // 2))
        await chain.seal()
        chain.write(1, 4096, os.urandom(8192))
        chain.zero(1, SIZE // 4, SIZE // 8)
        await chain.seal()
        assert (await plan_repair(chain.store)).lost == ()
        await flip(chain, chain.keys[1], HEADER_BYTES)
        plan = await plan_repair(chain.store)
        assert plan.ranges() == {"a": [(0, 4096), (12288, SIZE // 4), (3 * SIZE // 8, SIZE // 2)]}
        assert {extent.lsn_first for extent in plan.lost} == {lsn}
        assert not (await plan_repair(chain.store, disks=["b"])).lost
        assert len(await still_unread(chain.store, plan.ranges())) == 3
        for start, end in plan.ranges()["a"]:
            chain.write(1, start, os.urandom(end - start))
        await chain.seal()
        assert await still_unread(chain.store, plan.ranges()) == []
        assert (await plan_repair(chain.store)).lost == ()

    asyncio.run(scenario())


def test_a_break_in_the_chain_is_no_case_for_a_repair() -> None:
    async def scenario() -> None:
        chain = await build()
        await chain.store.delete(chain.keys[2])
        plan = await plan_repair(chain.store, settle_s=0)
        assert chain.keys[2] in plan.why_not
        assert "nobody reads what comes after that" in why_refused(plan)
        assert "'jetdr drva CONFIG --take-over DOMAIN --give-up-from DOMAIN=NUMBER'" in why_refused(plan)

    asyncio.run(scenario())
