"""Closing, cancelling, failing: everything is released, and whoever waits is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.device import FileDevice, MemoryDevice
from jetdr_core.domain.open_domain import OpenDomain
from jetdr_core.errors import (
    JetdrError,
    LogFailed,
    StallTimeout,
)
from jetdr_core.options import DomainOptions
from jetdr_core.store.wrapper import StoreWrapper
from tests.children import run_python
from tests.domain.fixture import (
    DISK_BYTES,
    IMPATIENT,
    QUICK,
    Gate,
    fresh_store,
    log_device,
    new_domain,
    within,
)
from tests.faults.device import CrashDevice
from tests.faults.store import Fault, FaultyStore, on


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
        async with jetdr.ProtectedDomain.open(
            "payroll", log=tmp_path / "log", store=inner, disks={"db01": tmp_path / "disk"}, options=QUICK
        ):
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
from jetdr_core.domain.open_domain import OpenDomain
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

        place: dict[str, Any] = {"log": tmp_path / "log", "disks": {"db01": tmp_path / "disk"}, "options": QUICK}
        again = jetdr.ProtectedDomain.open("payroll", store=Hanging(inner), **place)
        with contextlib.suppress(TimeoutError):
            await within(0.5, again.__aenter__())
        async with jetdr.ProtectedDomain.open("payroll", store=inner, **place):
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
        assert domain._opened is not None
        source = domain._opened.mode.source
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


def test_a_guest_that_begins_while_the_rest_is_uploaded_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_rest = OpenDomain._upload_rest

    async def slowly(self: OpenDomain[Any]) -> None:
        (tmp_path / "disk").write_bytes(b"Z" * DISK_BYTES)  # unprotected: the domain has let it go
        await upload_rest(self)

    async def scenario() -> None:
        log, store = log_device(), fresh_store()
        (tmp_path / "disk").write_bytes(bytes(DISK_BYTES))
        async with new_domain(store, log=log) as domain:
            await domain.protect("db01", str(tmp_path / "disk"))
            with monkeypatch.context() as patch:
                patch.setattr(OpenDomain, "_upload_rest", slowly)
                await domain.close()
        disks = {"db01": tmp_path / "disk"}
        async with jetdr.ProtectedDomain.open("payroll", log=log, store=store, disks=disks, options=QUICK) as domain:
            await within(20, domain.wait_consistent())
            assert [gap.reason for gap in domain._alive.control_log.history.gaps] != []

    asyncio.run(scenario())
