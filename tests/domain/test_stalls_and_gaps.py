"""History, stalls and gaps: what contradicts, what does not fit, what failed, and what nobody can know."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import (
    InstantInGap,
    JetdrError,
    PrimaryFailed,
    StallTimeout,
)
from jetdr_core.options import DomainOptions
from tests.domain.fixture import (
    DISK_BYTES,
    IMPATIENT,
    QUICK,
    Gate,
    fresh_store,
    image,
    new_domain,
    recovered,
    within,
)
from tests.faults.device import CrashDevice
from tests.faults.store import Fault, FaultyStore

# -- control records that contradict the history -----------------------------------------------------------------------


def test_unprotecting_a_disk_twice_at_once_leaves_the_history_whole() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            one = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.protect("web01", MemoryDevice(DISK_BYTES))
            await asyncio.gather(domain.unprotect("web01"), domain.unprotect("web01"), return_exceptions=True)
            lsn = one.write(0, b"x" * 512)
            await domain.uploaded(lsn)
        catalog = await jetdr.Catalog.open(store)
        assert catalog.chain_break is None
        assert catalog.lsn_last == lsn

    asyncio.run(scenario())


def test_unprotect_can_be_repeated_after_a_stall() -> None:
    """The log's device is slow to flush: unprotect gives up waiting, says so, and its caller does it again."""

    async def scenario() -> None:
        store, slow = fresh_store(), threading.Event()
        slow.set()

        class SlowSync(MemoryDevice):
            def sync(self) -> None:
                assert slow.wait(20)

        async with new_domain(store, log=SlowSync(8 << 20), options=IMPATIENT) as domain:
            one = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.protect("web01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(domain.status().lsn_reserved)
            slow.clear()
            with pytest.raises(StallTimeout):
                await domain.unprotect("web01")
            slow.set()
            with contextlib.suppress(JetdrError):
                await domain.unprotect("web01")
            lsn = one.write(0, b"x" * 512)
            await domain.uploaded(lsn)
        assert (await jetdr.Catalog.open(store)).chain_break is None

    asyncio.run(scenario())


def test_a_copy_that_ends_while_its_disk_is_unprotected_leaves_the_history_whole() -> None:
    async def scenario() -> None:
        store, first, second = fresh_store(), Gate(DISK_BYTES), MemoryDevice(DISK_BYTES)
        first.write(0, b"a" * 512)
        second.write(0, b"b" * 512)
        arrived, released = threading.Event(), threading.Event()
        async with new_domain(store) as domain:
            other = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.protect("slow", first, wait=False)
            disk = await domain.protect("web01", second, wait=False)

            class LastPiece(type(disk.copy)):  # type: ignore[misc]
                def advance(self, copied_bytes: int) -> None:
                    arrived.set()
                    assert released.wait(20)

            disk.copy = LastPiece()
            first.open.set()
            await asyncio.to_thread(arrived.wait, 20)  # all of web01 is copied; the copy's thread has not said so yet
            removing = asyncio.create_task(domain.unprotect("web01"))
            while "web01" in domain.disks:
                await asyncio.sleep(0.001)
            released.set()
            await removing
            lsn = other.write(0, b"x" * 512)
            await domain.uploaded(lsn)
        assert (await jetdr.Catalog.open(store)).chain_break is None

    asyncio.run(scenario())


def test_a_configuration_longer_than_the_log_takes_is_refused_not_stuck() -> None:
    async def scenario() -> None:
        domain = new_domain(fresh_store(), log_bytes=1 << 20, options=QUICK)
        await domain.__aenter__()
        try:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            with contextlib.suppress(JetdrError):
                domain.store_config("db01.vmx", "\n" * (510 << 10))
            disk.write(0, b"x" * 512)
            await asyncio.to_thread(disk.flush)
        finally:
            await domain.close(upload=False)

    asyncio.run(scenario())


# -- suspect disks, stalls, gaps ---------------------------------------------------------------------------------------


class FailingZero(MemoryDevice):
    """Fails to write zeros, half done."""

    def zero(self, offset: int, length: int) -> None:
        super().zero(offset, length // 2)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_failed_write_that_a_full_log_cannot_hold_makes_the_domain_inconsistent() -> None:
    async def scenario() -> None:
        unreachable = False
        inner, primary = fresh_store(), FailingZero(DISK_BYTES)
        store = FaultyStore(inner, lambda *_: Fault.FAIL if unreachable else None)
        domain = new_domain(store, log_bytes=1 << 20, options=replace(IMPATIENT, ring_slots=1 << 15))
        await domain.__aenter__()
        disk = await domain.protect("db01", primary)
        other = await domain.protect("web01", MemoryDevice(DISK_BYTES))
        disk.write(0, b"a" * (128 << 10))
        unreachable = True
        with pytest.raises(StallTimeout):
            while True:
                other.write(0, os.urandom(65536))
        for length in (32768, 4096, 512):
            with contextlib.suppress(StallTimeout):
                while True:
                    other.write(0, os.urandom(length))
        with pytest.raises(PrimaryFailed):
            disk.zero(0, 128 << 10)
        assert disk.stats().failed_writes == 1, "the primary was asked, and failed"
        assert not domain.consistent
        unreachable = False
        await domain.uploaded(domain.status().lsn_durable)
        consistent = domain.consistent
        if consistent:
            domain.mark("after failure")
        differs = disk.read(0, 128 << 10)
        await domain.close()
        if consistent:
            assert (await recovered(inner, "after failure"))["db01"][: 128 << 10] == differs

    asyncio.run(scenario())


def test_a_copy_that_ends_while_the_log_is_full_is_completed_when_there_is_room() -> None:
    async def scenario() -> None:
        unreachable = False
        primary = Gate(64 << 10)
        primary.write(0, b"old" * 512)
        store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
        domain = new_domain(store, log_bytes=1 << 20, options=IMPATIENT)
        await domain.__aenter__()
        try:
            other = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(domain.status().lsn_reserved)
            unreachable = True
            disk = await domain.protect("web01", primary, wait=False)
            await asyncio.to_thread(primary.reading.wait, 20)

            def fill() -> None:
                for length in (65536, 32768, 4096, 512):
                    with contextlib.suppress(StallTimeout):
                        while True:
                            other.write(0, os.urandom(length))
                with contextlib.suppress(StallTimeout):
                    while True:
                        other.zero(0, 512)

            await asyncio.to_thread(fill)
            primary.open.set()
            await asyncio.sleep(0.5)
            unreachable = False
            await within(10, domain.wait_consistent())
            assert disk.name in {state.name for state in domain.status().disks if state.ready}
        finally:
            unreachable = False
            with contextlib.suppress(JetdrError):
                await domain.close()

    asyncio.run(scenario())


def test_instants_between_the_last_durable_record_and_an_unclean_reopening_are_refused() -> None:
    """What was acknowledged in between is unknown: naming such an instant must not quietly give an older state."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), CrashDevice(8 << 20), MemoryDevice(DISK_BYTES)
        clock = ManualClock(1_700_000_000_000_000_000)
        options = DomainOptions(segment_age_s=3600, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=3600)
        domain = new_domain(store, log=log, options=options, clock=clock)
        await domain.__aenter__()
        disk = await domain.protect("db01", primary)
        disk.write(0, b"a" * 512)
        await domain.uploaded(disk.flush())
        after = log.crash(1)  # nothing reaches the log from here on
        clock.advance(60_000_000_000)
        disk.write(0, b"b" * 512)  # acknowledged, not flushed: allowed to be lost, but not to be denied
        written_ns = clock.time_ns
        clock.advance(3600_000_000_000)
        with contextlib.suppress(Exception):
            await domain.close(upload=False)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=after, store=store, disks={"db01": primary}, options=QUICK, clock=clock
        ) as domain:
            await domain.wait_consistent()
        at = datetime.fromtimestamp(written_ns // 10**9 + 1, UTC)
        try:
            found = (await recovered(store, at))["db01"][:512]
        except InstantInGap:
            return
        assert found == b"b" * 512, "that is what the disk held at that instant"

    asyncio.run(scenario())


def test_a_log_full_of_what_is_stored_has_room_after_a_crash() -> None:
    """The owner dies once the store has all of a full log, and before the log's tail has moved."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), MemoryDevice(8 << 20), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log, log_bytes=1 << 20, options=IMPATIENT) as domain:
            disk = await domain.protect("db01", primary)
            await domain.uploaded(domain.status().lsn_reserved)
            domain.pause()
            while (status := domain.status()).log_used_bytes < status.log_bytes - (24 << 10):
                disk.write(0, os.urandom(4096))
                disk.flush()
            crashed = MemoryDevice(log.size_bytes)
            crashed.write(0, image(log))
            domain.resume()
            await domain.uploaded(status.lsn_reserved)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=crashed, store=store, options=IMPATIENT, disks={"db01": primary}
        ) as domain:
            await within(20, domain.wait_consistent())
            lsn = domain.disk("db01").write(0, b"y" * 512)
            await within(20, domain.uploaded(lsn))

    asyncio.run(scenario())
