"""The protected domain where it is hard: races, stalls, cancelled calls, lost answers, disks and logs that fail."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.device import FileDevice, MemoryDevice
from jetdr_core.errors import (
    Fenced,
    InstantInGap,
    JetdrError,
    LogBusy,
    LogFailed,
    NotConsistent,
    PrimaryFailed,
    StallTimeout,
)
from jetdr_core.options import DomainOptions
from jetdr_core.store.wrapper import StoreWrapper
from tests.children import run_python
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store, log_device, rebuilt
from tests.faults.device import CrashDevice
from tests.faults.store import Fault, FaultyStore, on

IMPATIENT = DomainOptions(
    segment_age_s=0.02,
    ring_bytes=1 << 20,
    ring_slots=64,
    heartbeat_s=60,
    upload_workers=1,
    stall_limit_s=0.05,
    close_limit_s=0.5,
)


def new_domain(store: Any, **more: Any) -> jetdr.ProtectedDomain:
    settings: dict[str, Any] = {"log": log_device(), "log_bytes": LOG_BYTES, "options": QUICK} | more
    return jetdr.ProtectedDomain.create("payroll", store=store, **settings)


async def within(limit_s: float, work: Any) -> Any:
    return await asyncio.wait_for(work, limit_s)


class Gate(MemoryDevice):
    """A disk with data whose reads wait until ``open`` is set."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.open = threading.Event()
        self.reading = threading.Event()

    def read_into(self, offset: int, target: Buffer) -> None:
        self.reading.set()
        assert self.open.wait(20)
        super().read_into(offset, target)


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
        assert catalog.hole is None
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
        assert (await jetdr.Catalog.open(store)).hole is None

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
        assert (await jetdr.Catalog.open(store)).hole is None

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
            assert (await rebuilt(inner, "after failure"))["db01"][: 128 << 10] == differs

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
            found = (await rebuilt(store, at))["db01"][:512]
        except InstantInGap:
            return
        assert found == b"b" * 512, "that is what the disk held at that instant"

    asyncio.run(scenario())


# -- taking over -------------------------------------------------------------------------------------------------------


class OnFirst(StoreWrapper):
    """Runs ``work`` before the first put."""

    def __init__(self, inner: Any, work: Any) -> None:
        super().__init__(inner)
        self.work = work

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        work, self.work = self.work, None
        if work:
            await work()
        await self._inner.put_if_absent(key, data)


def test_a_busy_domain_can_be_taken_over() -> None:
    """The old owner uploads one more segment between the new owner's look at the chain and its claim."""

    async def scenario() -> None:
        store, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        old = new_domain(store)
        await old.__aenter__()
        disk = await old.protect("db01", primary)
        await old.uploaded(old.status().lsn_reserved)

        async def busy() -> None:
            await old.uploaded(disk.write(0, b"more" * 128))

        try:
            async with jetdr.ProtectedDomain.take_over(
                "payroll",
                log=log,
                log_bytes=LOG_BYTES,
                store=OnFirst(store, busy),
                disks={"db01": primary},
                options=QUICK,
            ) as new:
                await new.wait_consistent()
        finally:
            with contextlib.suppress(Fenced):
                await old.close()

    asyncio.run(scenario())


def test_a_takeover_that_lost_the_race_can_be_repeated_with_the_same_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        old = new_domain(store)
        await old.__aenter__()
        disk = await old.protect("db01", primary)
        await old.uploaded(old.status().lsn_reserved)

        async def busy() -> None:
            await old.uploaded(disk.write(0, b"more" * 128))

        def takeover(through: Any) -> jetdr.ProtectedDomain:
            return jetdr.ProtectedDomain.take_over(
                "payroll",
                log=tmp_path / "new",
                log_bytes=LOG_BYTES,
                store=through,
                disks={"db01": primary},
                options=QUICK,
            )

        try:
            with contextlib.suppress(JetdrError):
                async with takeover(OnFirst(store, busy)):
                    return
            async with takeover(store) as new:
                await new.wait_consistent()
        finally:
            with contextlib.suppress(Fenced):
                await old.close()

    asyncio.run(scenario())


def test_reopening_does_not_go_on_when_another_log_took_the_domain_over_meanwhile() -> None:
    """The same as an old log refused, but the takeover comes between the look at the chain and the claim."""

    async def scenario() -> None:
        store, one, two = fresh_store(), MemoryDevice(DISK_BYTES), MemoryDevice(DISK_BYTES)
        log = log_device()
        patient = DomainOptions(segment_age_s=3600, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=3600)
        first = new_domain(store, log=log, options=patient)
        await first.__aenter__()
        disk = await first.protect("db01", one)
        await first.uploaded(first.status().lsn_reserved)
        for n in range(3):
            disk.write(0, bytes([n + 1]) * 512)
            disk.flush()
        await first.close(upload=False)  # three LSNs are in this log only

        async def take_over() -> None:
            async with jetdr.ProtectedDomain.take_over(
                "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": two}, options=QUICK
            ) as second:
                await second.uploaded(second.status().lsn_reserved)
                await second.close(upload=False)

        with pytest.raises(JetdrError):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=OnFirst(store, take_over), disks={"db01": one}, options=QUICK
            ) as domain:
                await domain.wait_consistent()
                await domain.uploaded(domain.status().lsn_reserved)

    asyncio.run(scenario())


def test_a_takeover_whose_claims_answer_was_lost_still_owes_a_copy_when_opened() -> None:
    async def scenario() -> None:
        inner, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        old = new_domain(inner, options=DomainOptions(segment_age_s=3600, ring_bytes=1 << 20, heartbeat_s=3600))
        await old.__aenter__()
        disk = await old.protect("db01", primary)
        await old.uploaded(old.status().lsn_reserved)
        disk.write(0, b"only in the old log".ljust(512))
        disk.flush()
        await old.close(upload=False)  # ... and that log is lost now

        class Lost(StoreWrapper):
            cut = False

            async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
                await self._inner.put_if_absent(key, data)
                raise RuntimeError("the process dies here")

        with pytest.raises(RuntimeError):
            async with jetdr.ProtectedDomain.take_over(
                "payroll", log=log, log_bytes=LOG_BYTES, store=Lost(inner), disks={"db01": primary}, options=QUICK
            ):
                pass
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=inner, disks={"db01": primary}, options=QUICK
        ) as domain:
            await domain.wait_consistent()
            domain.mark("now")
            expected = domain.disk("db01").read(0, DISK_BYTES)
        assert (await rebuilt(inner, "now"))["db01"] == expected

    asyncio.run(scenario())


class WrongOnce(StoreWrapper):
    """The first answer about ``key`` has a wrong last byte."""

    def __init__(self, inner: Any, key: str) -> None:
        super().__init__(inner)
        self.key: str | None = key

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        data = await self._inner.get_range(key, offset, length)
        if key != self.key:
            return data
        self.key = None
        return data[:-1] + bytes([data[-1] ^ 1])


def test_one_wrong_answer_while_taking_over_does_not_make_all_later_uploads_unreachable() -> None:
    async def scenario() -> None:
        inner, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        async with new_domain(inner) as old:
            disk = await old.protect("db01", primary)
            for n in range(6):
                await old.uploaded(disk.write(0, bytes([n + 1]) * 512))
            last = old.status().lsn_reserved
        keys = [info.key async for info in inner.list_prefix("chain/")]
        store = WrongOnce(inner, keys[3])
        with contextlib.suppress(JetdrError):
            async with jetdr.ProtectedDomain.take_over(
                "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": primary}, options=QUICK
            ) as domain:
                await domain.wait_consistent()
                last = domain.disk("db01").write(0, bytes([7]) * 512)
                await domain.uploaded(last)
        assert store.key is None
        catalog = await jetdr.Catalog.open(inner)
        assert catalog.hole is None, "what the new owner was told is uploaded is in the chain"
        assert catalog.lsn_last >= last

    asyncio.run(scenario())


def test_a_disk_that_is_missing_on_reopening_is_an_error_not_a_new_disk_of_zeros(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store, log=tmp_path / "log") as domain:
            disk = await domain.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)
            disk.write(0, b"payroll data".ljust(512))
        os.rename(tmp_path / "disk", tmp_path / "moved")
        with pytest.raises(FileNotFoundError):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=tmp_path / "log", store=store, options=QUICK
            ) as domain:
                assert domain.consistent
                assert domain.disk("db01").read(0, 512) == bytes(512)
        assert not (tmp_path / "disk").exists()

    asyncio.run(scenario())


def test_a_takeover_with_a_missing_disk_is_refused_before_it_fences_the_owner(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        old = new_domain(store)
        await old.__aenter__()
        disk = await old.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)
        await old.uploaded(old.status().lsn_reserved)
        with pytest.raises(FileNotFoundError):
            async with jetdr.ProtectedDomain.take_over(
                "payroll",
                log=log_device(),
                log_bytes=LOG_BYTES,
                store=store,
                disks={"db01": tmp_path / "typo"},
                options=QUICK,
            ):
                pass
        try:
            await old.uploaded(disk.write(0, bytes(512)))  # nothing was changed: the owner goes on
        finally:
            with contextlib.suppress(Fenced):
                await old.close()

    asyncio.run(scenario())


# -- closing, cancelling, failing --------------------------------------------------------------------------------------


def test_who_waits_for_an_upload_is_told_when_the_domain_closes() -> None:
    async def scenario() -> None:
        unreachable = False
        store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
        domain = new_domain(store)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        await domain.uploaded(domain.status().lsn_reserved)
        unreachable = True
        waiting = asyncio.create_task(domain.uploaded(disk.write(0, b"x" * 512)))
        await asyncio.sleep(0.1)
        await domain.close(upload=False)
        done, _ = await asyncio.wait([waiting], timeout=3)
        assert done, "it waits for ever"

    asyncio.run(scenario())


def test_who_waits_for_an_upload_is_told_when_the_log_has_failed() -> None:
    async def scenario() -> None:
        log = CrashDevice(8 << 20)
        domain = new_domain(fresh_store(), log=log, options=IMPATIENT)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        await domain.uploaded(domain.status().lsn_reserved)
        log.fail_at(1, "permanent")
        lsn = disk.write(0, b"x" * 512)
        try:
            with pytest.raises(LogFailed):
                await within(3, domain.uploaded(lsn))
        finally:
            with contextlib.suppress(JetdrError):
                await domain.close()

    asyncio.run(scenario())


def test_unprotecting_one_disk_does_not_cancel_who_waits_for_another() -> None:
    async def scenario() -> None:
        first = Gate(DISK_BYTES)
        first.write(0, b"a" * 512)
        second = MemoryDevice(DISK_BYTES)
        second.write(0, b"b" * 512)
        async with new_domain(fresh_store()) as domain:
            await domain.protect("db01", first, wait=False)
            await domain.protect("web01", second, wait=False)
            waiting = asyncio.create_task(domain.wait_consistent())
            await asyncio.sleep(0.1)
            await domain.unprotect("web01")
            first.open.set()
            with contextlib.suppress(asyncio.CancelledError):
                await within(5, waiting)
                return
            pytest.fail("nobody cancelled the one who waits")

    asyncio.run(scenario())


def test_everything_is_released_whatever_error_ended_the_upload(tmp_path: Path) -> None:
    async def scenario() -> None:
        class Strange(StoreWrapper):
            broken = False

            async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
                if self.broken:
                    raise ValueError("a bug in a store")
                await self._inner.put_if_absent(key, data)

        inner = fresh_store()
        store = Strange(inner)
        domain = new_domain(store, log=tmp_path / "log")
        await domain.__aenter__()
        disk = await domain.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)
        await domain.uploaded(domain.status().lsn_reserved)
        store.broken = True
        disk.write(0, b"x" * 512)
        with contextlib.suppress(ValueError):
            await domain.close()
        async with jetdr.ProtectedDomain.open("payroll", log=tmp_path / "log", store=inner, options=QUICK):
            pass

    asyncio.run(scenario())


def test_everything_is_released_when_a_primary_fails_to_sync_in_its_own_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        class Strange(MemoryDevice):
            def sync(self) -> None:
                raise RuntimeError("not an OSError")

        inner, primary = fresh_store(), Strange(DISK_BYTES)
        domain = new_domain(inner, log=tmp_path / "log")
        await domain.__aenter__()
        await domain.protect("db01", primary)
        with contextlib.suppress(RuntimeError):
            await domain.close()
        async with jetdr.ProtectedDomain.open(
            "payroll", log=tmp_path / "log", store=inner, options=QUICK, disks={"db01": MemoryDevice(DISK_BYTES)}
        ):
            pass

    asyncio.run(scenario())


CANCELLED_CLOSE = """
import asyncio, contextlib, sys
import jetdr_core as jetdr
from jetdr_core.device import FileDevice
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store
from tests.faults.store import Fault, FaultyStore

async def scenario(folder):
    unreachable = False
    store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
    domain = jetdr.ProtectedDomain.create(
        "payroll", log=f"{folder}/log", log_bytes=LOG_BYTES, store=store, options=QUICK
    )
    await domain.__aenter__()
    disk = await domain.protect("db01", f"{folder}/disk", size_bytes=DISK_BYTES)
    await domain.uploaded(domain.status().lsn_reserved)
    unreachable = True
    disk.write(0, b"x" * 512)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(domain.close(), 0.3)
    await domain.close(upload=False)
    await asyncio.sleep(0.3)
    FileDevice(f"{folder}/log", lock=True).close()

asyncio.run(scenario(sys.argv[1]))
"""


def test_a_close_that_is_cancelled_still_releases_everything(tmp_path: Path) -> None:
    """In a process of its own: what is left behind otherwise disturbs the tests that follow."""
    done = run_python(CANCELLED_CLOSE, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_opening_that_is_cancelled_releases_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        inner = fresh_store()
        async with new_domain(inner, log=tmp_path / "log") as domain:
            await domain.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)

        class Hanging(StoreWrapper):
            async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
                try:
                    await asyncio.sleep(3600)
                finally:
                    await asyncio.sleep(0.05)  # as an SDK does that closes its connection

        again = jetdr.ProtectedDomain.open("payroll", log=tmp_path / "log", store=Hanging(inner), options=QUICK)
        with contextlib.suppress(TimeoutError):
            await within(0.5, again.__aenter__())
        async with jetdr.ProtectedDomain.open("payroll", log=tmp_path / "log", store=inner, options=QUICK):
            pass

    asyncio.run(scenario())


def test_protecting_a_disk_that_the_log_does_not_take_leaves_it_unlocked(tmp_path: Path) -> None:
    async def scenario() -> None:
        unreachable = False
        store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
        domain = new_domain(store, log_bytes=1 << 20, options=IMPATIENT)
        await domain.__aenter__()
        try:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(domain.status().lsn_reserved)
            unreachable = True
            for length in (65536, 4096, 512):
                with contextlib.suppress(StallTimeout):
                    while True:
                        disk.write(0, os.urandom(length))
            with pytest.raises(StallTimeout):
                await domain.protect("web01", tmp_path / "disk", size_bytes=DISK_BYTES)
            FileDevice(tmp_path / "disk", direct=False, lock=True).close()
        finally:
            unreachable = False
            with contextlib.suppress(JetdrError):
                await domain.close()

    asyncio.run(scenario())


def test_closing_says_which_acknowledged_writes_the_log_could_not_take() -> None:
    async def scenario() -> None:
        unreachable = False
        store, log = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None), log_device()
        primary = MemoryDevice(DISK_BYTES)
        domain = new_domain(store, log=log, log_bytes=1 << 20, options=IMPATIENT)
        await domain.__aenter__()
        disk = await domain.protect("db01", primary)
        unreachable = True
        lsn = 0
        with contextlib.suppress(StallTimeout):
            while True:
                lsn = disk.write(0, os.urandom(65536))
        error: Exception | None = None
        try:
            await domain.close()
        except JetdrError as caught:
            error = caught
        unreachable = False
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, options=QUICK, disks={"db01": primary}
        ) as domain:
            lost = lsn - domain.status().lsn_recovered
        assert lost <= 0 or "they are in its log" not in str(error), f"{lost} acknowledged writes are nowhere: {error}"

    asyncio.run(scenario())


def test_a_heartbeat_that_is_refused_does_not_end_the_upload() -> None:
    async def scenario() -> None:
        store = FaultyStore(fresh_store(), on("replace", Fault.DENIED))
        options = DomainOptions(segment_age_s=0.02, ring_bytes=1 << 20, heartbeat_s=0.02)
        domain = new_domain(store, options=options)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        await asyncio.sleep(0.4)
        assert store.injected[Fault.DENIED]
        try:
            await domain.uploaded(disk.write(0, b"x" * 512))
        finally:
            with contextlib.suppress(JetdrError):
                await domain.close()

    asyncio.run(scenario())


def test_a_wish_for_what_the_full_log_cannot_take_does_not_spin() -> None:
    async def scenario() -> None:
        unreachable = False
        store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
        domain = new_domain(store, log_bytes=1 << 20, options=IMPATIENT)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        assert domain._running is not None
        source = domain._running.uploader._source
        reads, read_durable = 0, source.read_durable

        def counting(*arguments: Any) -> Any:
            nonlocal reads
            reads += 1
            return read_durable(*arguments)

        source.read_durable = counting  # type: ignore[assignment, method-assign]
        unreachable = True
        lsn = 0
        with contextlib.suppress(StallTimeout):
            while True:
                lsn = disk.write(0, os.urandom(65536))
        waiting = asyncio.create_task(domain.uploaded(lsn))
        await asyncio.sleep(0.5)
        reads = 0
        await asyncio.sleep(1)
        seen = reads
        unreachable = False
        await within(20, waiting)
        await domain.close()
        assert seen < 100, f"{seen} reads of nothing in a second"

    asyncio.run(scenario())


# -- small -------------------------------------------------------------------------------------------------------------


def test_an_option_that_cannot_work_is_refused_before_a_log_is_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        with contextlib.suppress(JetdrError):
            async with new_domain(fresh_store(), log=tmp_path / "log", options=DomainOptions(ring_bytes=3 << 20)):
                pass
        assert not (tmp_path / "log").exists()

    asyncio.run(scenario())


def test_create_on_a_device_can_be_repeated_after_the_store_failed() -> None:
    async def scenario() -> None:
        inner, log = fresh_store(), log_device()
        with pytest.raises(JetdrError):
            async with new_domain(FaultyStore(inner, on("put", Fault.DENIED)), log=log):
                pass
        async with new_domain(inner, log=log):
            pass

    asyncio.run(scenario())


def test_naming_a_disk_that_the_domain_does_not_have_is_refused_on_opening() -> None:
    async def scenario() -> None:
        store, log = fresh_store(), log_device()
        async with new_domain(store, log=log) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
        with pytest.raises(JetdrError, match="db10"):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, disks={"db10": MemoryDevice(DISK_BYTES)}, options=QUICK
            ):
                pass

    asyncio.run(scenario())


def test_a_closed_domain_says_so_to_who_waits_for_its_copy() -> None:
    async def scenario() -> None:
        first, second = Gate(DISK_BYTES), MemoryDevice(DISK_BYTES)
        first.write(0, b"a" * 512)
        second.write(0, b"a" * 512)
        domain = new_domain(fresh_store())
        await domain.__aenter__()
        await domain.protect("db01", first, wait=False)
        await domain.protect("web01", second, wait=False)
        waiting = asyncio.create_task(domain.wait_consistent())
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(domain.close())
        await asyncio.sleep(0.1)
        first.open.set()
        await closing
        try:
            await within(5, waiting)
        except NotConsistent:
            return
        except asyncio.CancelledError:
            pytest.fail("nobody cancelled the one who waits")

    asyncio.run(scenario())


def test_one_log_device_is_not_opened_twice_at_once() -> None:
    """A path is locked; a device object that two domains are given is not: both write the same section."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            await domain.protect("db01", primary)

        def again() -> jetdr.ProtectedDomain:
            return jetdr.ProtectedDomain.open("payroll", log=log, store=store, disks={"db01": primary}, options=QUICK)

        first, second = again(), again()
        await first.__aenter__()
        try:
            with contextlib.suppress(LogBusy):
                await second.__aenter__()
                second.disk("db01").write(0, b"2" * 512)
                second.disk("db01").flush()
                first.disk("db01").write(0, b"1" * 512)
                first.disk("db01").flush()
        finally:
            for domain in (first, second):
                with contextlib.suppress(JetdrError):
                    await domain.close()
        async with again() as domain:
            await domain.wait_consistent()

    asyncio.run(scenario())
