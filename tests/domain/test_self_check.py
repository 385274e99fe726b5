"""The self-check: what is recorded is what the disks held, and nothing is recorded while they may differ."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest
import xxhash

import jetdr_core as jetdr
from jetdr_core.control_bodies import Digests, body_of
from jetdr_core.device import MemoryDevice
from jetdr_core.domain import self_check
from jetdr_core.domain.recent_writes import BATCH_SAMPLES, DISK_SAMPLES, RecentWrites, Written
from jetdr_core.errors import PrimaryFailed
from jetdr_core.limits import DIGEST_BYTES_MAX
from jetdr_core.record import RECORD, Kind
from tests.core.test_primary_failure import Broken
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, new_domain, recovered
from tests.faults.store import Fault, FaultyStore


async def digests(store: object) -> list[tuple[int, int, Digests]]:
    """Every DIGESTS record that the store holds: its LSN, its disk, its body."""
    found = []
    async with await jetdr.Catalog.open(store) as catalog:  # type: ignore[arg-type]
        for number in catalog.segments["number"].tolist():
            for record in (await catalog.index(number)).control:
                body = body_of(record)
                if isinstance(body, Digests):
                    found.append((record.lsn, record.disk, body))
    return found


def test_digests_of_each_disk_are_recorded_and_are_what_is_recovered() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            disks = [await domain.protect(name, MemoryDevice(DISK_BYTES)) for name in ("db01", "web01")]
            for n in range(8):
                disks[n % 2].write(n * 30720, bytes([n + 1]) * 30720)
            assert await domain.record_digests() == 2 * self_check.EXTENTS
            lsn = disks[0].write(0, b"later" + bytes(507))
            await domain.uploaded(lsn)
        found = await digests(store)
        assert [disk for _, disk, _ in found] == [1, 2]
        for lsn, disk, body in found:
            images = await recovered(store, lsn - 1)
            for extent in body.extents:
                data = images[("db01", "web01")[disk - 1]][extent.offset : extent.offset + extent.length]
                assert extent.lsn < lsn
                assert len(data) == extent.length == self_check.EXTENT_BYTES
                assert xxhash.xxh3_128_digest(data) == extent.digest

    asyncio.run(scenario())


def test_after_a_repair_all_that_was_copied_is_digested() -> None:
    """What was found to differ, and was copied, is settled only by a later digest of the same place."""
    extents = [(0, DIGEST_BYTES_MAX + 4096), *((place << 20, 4096) for place in range(3, 15))]

    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            await domain.protect("db01", MemoryDevice(16 << 20))
            await domain.wait_consistent()
            await domain.uploaded(await domain.copy_extents("db01", extents))
        found = [extent for _, _, body in await digests(store) for extent in body.extents]
        assert [(extent.offset, extent.length) for extent in found] == [
            (0, DIGEST_BYTES_MAX),
            (DIGEST_BYTES_MAX, 4096),
            *extents[1:],
        ]

    asyncio.run(scenario())


def test_nothing_is_recorded_while_disk_and_log_may_differ() -> None:
    async def scenario() -> None:
        primary = Broken(5)
        primary.failing = False
        async with new_domain(fresh_store()) as domain:
            disk = await domain.protect("db01", primary)
            assert await domain.record_digests() > 0
            primary.failing = True  # the resync cannot read, so the gap stays open
            with pytest.raises(PrimaryFailed):
                disk.zero(0, 8192)
            assert await domain.record_digests() == 0
            with pytest.raises(OSError, match="primary"):  # its flush fails for good
                await domain.close()

    asyncio.run(scenario())


def test_rounds_are_made_by_themselves_and_an_idle_domain_is_left_alone() -> None:
    async def scenario() -> None:
        store, options = fresh_store(), replace(QUICK, self_check_s=0.02)
        async with new_domain(store, options=options) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            before = disk.write(0, b"a" * 512)
            while domain.status().lsn_reserved == before:
                await asyncio.sleep(0.005)
            lsn = domain.status().lsn_reserved
            await asyncio.sleep(0.1)  # several rounds, which are left out
            assert domain.status().lsn_reserved == lsn
        assert len(await digests(store)) == 1

    asyncio.run(scenario())


def test_without_an_interval_there_is_no_round() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store, options=replace(QUICK, self_check_s=0)) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            disk.write(0, b"a" * 512)
            domain.mark("m")
        assert not await digests(store)

    asyncio.run(scenario())


def test_a_catalog_is_the_same_with_summaries_and_holds_no_digest() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.record_digests()
        async with await jetdr.Catalog.open(store) as catalog:
            (row,) = [record for record in catalog.chain.control if record.kind == Kind.DIGESTS]
        assert row.body == {}

    asyncio.run(scenario())


def test_recent_writes_are_a_bounded_sample_of_data_records() -> None:
    recent = RecentWrites(random.Random(1))
    for batch in range(100):
        headers = np.zeros(10, RECORD)
        headers["kind"] = [Kind.WRITE, Kind.ZERO, Kind.MARK, *[Kind.WRITE] * 7]
        headers["disk"], headers["offset"], headers["length"] = 1, (batch * 10 + np.arange(10)) * 512, 512
        recent.note(headers)
        assert len(recent.of(1)) == min(DISK_SAMPLES, (batch + 1) * BATCH_SAMPLES)
    assert all(isinstance(place, Written) and place.offset // 512 % 10 != 2 for place in recent.of(1))
    assert recent.of(2) == []
    assert min(place.offset for place in recent.of(1)) >= (100 - DISK_SAMPLES // BATCH_SAMPLES) * 10 * 512


def test_a_store_that_is_away_does_not_stop_the_rounds() -> None:
    async def scenario() -> None:
        store, away = fresh_store(), [False]
        faulty = FaultyStore(store, lambda *_: Fault.FAIL if away[0] else None)
        async with new_domain(faulty) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            away[0] = True
            disk.write(0, b"a" * 512)
            assert await domain.record_digests() == self_check.EXTENTS
            away[0] = False

    asyncio.run(scenario())
