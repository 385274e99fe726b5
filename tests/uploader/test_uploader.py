"""The uploader: an unbroken chain without a lost or doubled LSN, whatever the store does and whenever it stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.catalog import chain_key
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced, NoSuchPoint, StoreAccessDenied
from jetdr_core.store import MemoryStore
from jetdr_core.store.wrapper import StoreWrapper
from tests.domain import fixture
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store, log_device, recovered
from tests.faults.store import Fault, FaultyStore, no_faults, on, seeded

MANY = jetdr.DomainOptions(
    segment_bytes=4096, segment_age_s=0.01, ring_bytes=1 << 20, ring_slots=1024, puts_max=4, upload_workers=2
)
"""A segment for every write, several in flight."""


class HoldingStore(StoreWrapper):
    """Puts of ``held`` keys wait until ``released``.

    The uploader has a loop of its own, so these are events of threads.
    """

    def __init__(self, inner: MemoryStore, held: set[str]) -> None:
        super().__init__(inner)
        self.held = held
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.stored: list[str] = []

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        if key in self.held:
            self.arrived.set()
            await asyncio.to_thread(self.released.wait)
        await self._inner.put_if_absent(key, data)
        self.stored.append(key)


def new_domain(store: Any, **more: Any) -> jetdr.ProtectedDomain:
    return fixture.new_domain(store, **({"options": MANY} | more))


async def assert_dense(store: MemoryStore, lsn_last: int) -> None:
    """Every LSN is in exactly one chained segment."""
    segments = (await jetdr.Catalog.open(store)).segments
    assert segments["first_lsn"][0] == 1
    assert np.array_equal(segments["first_lsn"][1:], segments["last_lsn"][:-1] + 1)
    assert segments["last_lsn"][-1] == lsn_last


async def until(condition: object) -> None:
    """Let others run until ``condition()`` holds."""
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(6))
def test_a_store_that_fails_loses_answers_and_throttles_gets_every_lsn_once(seed: int) -> None:
    async def scenario() -> None:
        inner, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        rates = {Fault.FAIL: 0.1, Fault.LOST_RESPONSE: 0.3, Fault.THROTTLED: 0.1}
        store = FaultyStore(inner)
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", primary)
            store.plan = seeded(seed, rates)
            for n in range(40):
                lsn = disk.write((n * 4096) % DISK_BYTES, bytes([n + 1]) * 4096)
                if n % 2:
                    await domain.uploaded(lsn)
            expected = disk.read(0, DISK_BYTES)
            await domain.uploaded(domain.status().lsn_reserved)
            store.plan = seeded(seed, {})
            last = domain.status().lsn_reserved
        assert store.injected[Fault.LOST_RESPONSE]
        await assert_dense(inner, last)
        assert await recovered(inner) == {"db01": expected}

    asyncio.run(scenario())


def test_orphans_of_a_fenced_owner_are_stepped_over() -> None:
    """The old owner's put of one number hangs while later ones are stored. The new owner meets those as orphans."""

    async def scenario() -> None:
        inner, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        store = HoldingStore(inner, {chain_key(5)})
        old = new_domain(store)
        await old.__aenter__()
        disk = await old.protect("db01", primary)
        await until(lambda: old.status().lsn_uploaded == old.status().lsn_reserved)
        store.held = {chain_key(len(store.stored) + 1)}
        hung = len(store.stored) + 1
        for n in range(8):
            disk.write(n * 4096, bytes([n + 1]) * 4096)
            await asyncio.sleep(0.02)
        await until(lambda: chain_key(hung + 2) in store.stored)
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=inner, disks={"db01": primary}, options=MANY
        )
        async with takeover as new:
            await new.wait_consistent()
            lsns = [new.disk("db01").write(n * 512, bytes([n + 99]) * 512) for n in range(10)]
            await new.uploaded(lsns[-1])
            last = new.status().lsn_reserved
            expected = new.disk("db01").read(0, DISK_BYTES)
        store.released.set()
        with pytest.raises(Fenced):
            await old.uploaded(old.status().lsn_reserved)
        with pytest.raises(Fenced):
            await old.close()
        await assert_dense(inner, last)
        assert await recovered(inner) == {"db01": expected}
        catalog = await jetdr.Catalog.open(inner)
        assert (catalog.chain.links["kind"] == 0).sum() >= 2, "the orphans are still there, and no part of history"
        assert catalog.chain_break is None

    asyncio.run(scenario())


def test_a_late_put_of_a_fenced_owner_does_not_break_the_new_owners_chain() -> None:
    """A put of the old owner lands right after the new owner's epoch object, where its next segment belongs."""

    async def scenario() -> None:
        inner, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        store = HoldingStore(inner, set())
        old = new_domain(store)
        await old.__aenter__()
        disk = await old.protect("db01", primary)
        await until(lambda: old.status().lsn_uploaded == old.status().lsn_reserved)
        number = len(store.stored) + 1
        store.held = {chain_key(number), chain_key(number + 1)}
        disk.write(0, b"1" * 4096)
        await asyncio.to_thread(store.arrived.wait)
        disk.write(4096, b"2" * 4096)
        await asyncio.sleep(0.1)
        gate = HoldingStore(inner, {chain_key(number + 1)})
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=gate, disks={"db01": primary}, options=MANY
        )
        async with takeover as new:
            await asyncio.to_thread(gate.arrived.wait)
            store.released.set()
            await until(lambda: old.status().failure)
            gate.released.set()
            await new.wait_consistent()
            last = new.disk("db01").write(0, b"3" * 512)
            await new.uploaded(last)
            last = new.status().lsn_reserved
            expected = new.disk("db01").read(0, DISK_BYTES)
        with pytest.raises(Fenced):
            await old.close()
        await assert_dense(inner, last)
        assert await recovered(inner) == {"db01": expected}

    asyncio.run(scenario())


def test_after_a_stop_in_mid_upload_the_next_uploader_begins_after_the_last_chained_segment() -> None:
    async def scenario() -> None:
        inner, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        store = HoldingStore(inner, set())
        domain = new_domain(store, log=log)
        await domain.__aenter__()
        disk = await domain.protect("db01", primary)
        await until(lambda: domain.status().lsn_uploaded == domain.status().lsn_reserved)
        store.held = {chain_key(len(store.stored) + 2)}
        for n in range(6):
            disk.write(n * 4096, bytes([n + 1]) * 4096)
            await asyncio.sleep(0.02)
        await asyncio.to_thread(store.arrived.wait)
        closing = asyncio.create_task(domain.close(upload=False))
        await asyncio.sleep(0.05)
        store.released.set()
        await closing
        again = jetdr.ProtectedDomain.open("payroll", log=log, store=inner, disks={"db01": primary}, options=MANY)
        async with again:
            assert again.consistent
            last = again.status().lsn_reserved
        await assert_dense(inner, last)
        assert (await recovered(inner))["db01"][: 6 * 4096] == b"".join(bytes([n + 1]) * 4096 for n in range(6))

    asyncio.run(scenario())


def test_a_segment_is_sealed_by_age_without_being_asked_for() -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store(), options=QUICK) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            lsn = disk.write(0, bytes(512))
            await until(lambda: domain.status().lsn_uploaded >= lsn)
            assert domain.status().rpo_s == 0

    asyncio.run(scenario())


def test_a_segment_is_sealed_by_size_before_its_age() -> None:
    async def scenario() -> None:
        patient = jetdr.DomainOptions(segment_age_s=3600, segment_bytes=64 << 10, ring_bytes=1 << 20)
        store = fresh_store()
        async with new_domain(store, options=patient) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            for n in range(32):
                disk.write(n * 4096, bytes([n + 1]) * 4096)
            disk.flush()
            await until(lambda: domain.status().segments_uploaded >= 1)

    asyncio.run(scenario())


def test_an_idle_domain_proves_that_its_newest_point_is_current() -> None:
    async def scenario() -> None:
        clock, store = ManualClock(1_700_000_000_000_000_000), fresh_store()
        options = jetdr.DomainOptions(segment_age_s=0.01, heartbeat_s=0.01, ring_bytes=1 << 20)
        domain = new_domain(store, clock=clock, options=options)
        async with domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            lsn = disk.write(0, b"a" * 512)
            await domain.uploaded(lsn)
            clock.advance(60_000_000_000)
            proven = clock.time_ns
            async with asyncio.timeout(20):
                while (await jetdr.Catalog.open(store)).time_last_ns < proven:
                    await asyncio.sleep(0.005)
        catalog = await jetdr.Catalog.open(store)
        at = datetime.fromtimestamp(1_700_000_030, UTC)
        assert (await catalog.resolve(at)).lsn >= lsn
        with pytest.raises(NoSuchPoint):
            await catalog.resolve(datetime.fromtimestamp(1_700_000_061, UTC))

    asyncio.run(scenario())


def test_what_a_store_refuses_is_told_to_whoever_waits_and_uploaded_once_it_is_granted() -> None:
    async def scenario() -> None:
        store = FaultyStore(fresh_store())
        domain = new_domain(store)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        store.plan = on("put", Fault.DENIED)
        lsn = disk.write(0, bytes(512))
        with pytest.raises(StoreAccessDenied):
            await domain.uploaded(lsn)
        status = domain.status()
        assert "refused by plan" in status.store_refused
        assert status.store_refused_since_ns > 0
        assert domain.failure is None
        store.plan = no_faults
        domain.resume()
        async with asyncio.timeout(20):
            while domain.status().lsn_uploaded < lsn:
                await asyncio.sleep(0.01)
        assert domain.status().store_refused == ""
        store.plan = on("put", Fault.DENIED)
        disk.write(0, bytes(512))
        with pytest.raises(StoreAccessDenied):
            await domain.close()

    asyncio.run(scenario())
