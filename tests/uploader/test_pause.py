"""A paused domain sends nothing, captures everything, and goes on from there."""

from __future__ import annotations

import asyncio

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, log_device, new_domain, recovered
from tests.uploader.test_uploader import until


def test_a_paused_domain_uploads_nothing_until_it_is_resumed() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(domain.status().lsn_reserved)
            before = domain.status().lsn_uploaded
            domain.pause()
            lsn = disk.write(0, b"a" * 512)
            waiting = asyncio.create_task(domain.uploaded(lsn))
            await until(lambda: domain.status().rpo_s > 10 * QUICK.segment_age_s)
            status = domain.status()
            assert (status.paused, status.lsn_uploaded, status.failure) == (True, before, "")
            assert not waiting.done()
            domain.resume()
            await waiting
            assert domain.status().lsn_uploaded == lsn
            assert not domain.status().paused
        assert (await recovered(store))["db01"][:512] == b"a" * 512

    asyncio.run(scenario())


def test_a_domain_closed_while_paused_uploads_after_the_next_opening() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            await domain.uploaded(domain.status().lsn_reserved)
            domain.pause()
            lsn = disk.write(0, b"b" * 512)
        assert (await jetdr.Catalog.open(store)).lsn_last < lsn
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
        ) as again:
            assert not again.status().paused
            await again.uploaded(lsn)
        assert (await recovered(store))["db01"][:512] == b"b" * 512

    asyncio.run(scenario())


def test_every_object_stored_is_counted_once_in_the_latency() -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(disk.write(0, b"c" * 512))
            status = domain.status()
        assert sum(status.upload_latency_counts) == status.segments_uploaded > 0
        assert status.upload_latency_sum_s > 0

    asyncio.run(scenario())
