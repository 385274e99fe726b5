"""Small refusals: options, names and devices that cannot work."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import (
    JetdrError,
    LogBusy,
    NotConsistent,
)
from jetdr_core.options import DomainOptions
from tests.domain.fixture import (
    DISK_BYTES,
    QUICK,
    Gate,
    fresh_store,
    log_device,
    new_domain,
    within,
)
from tests.faults.store import Fault, FaultyStore, on


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
