"""The ends of things: protecting while closing, unprotecting what failed, closing again, taking over leftovers."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, PrimaryFailed, StoreError
from jetdr_core.store.wrapper import StoreWrapper
from tests.domain.fixture import (
    DISK_BYTES,
    LOG_BYTES,
    QUICK,
    fresh_store,
    log_device,
    new_domain,
    recovered,
)


class Dying(MemoryDevice):
    """Fails zeros and reads once it is ``dead``."""

    dead = False

    def zero(self, offset: int, length: int) -> None:
        self._live()
        super().zero(offset, length)

    def read_into(self, offset: int, target: Buffer) -> None:
        self._live()
        super().read_into(offset, target)

    def _live(self) -> None:
        if self.dead:
            raise OSError(errno.EIO, "the disk died")


def test_unprotecting_a_disk_that_died_ends_its_gap() -> None:
    async def scenario() -> None:
        dying = Dying(DISK_BYTES)
        async with new_domain(fresh_store()) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            disk = await domain.protect("web01", dying)
            dying.dead = True
            with pytest.raises(PrimaryFailed):
                disk.zero(0, 512)
            with pytest.raises(PrimaryFailed):
                await domain.wait_consistent()
            assert not domain.consistent
            await domain.unprotect("web01")
            async with asyncio.timeout(10):
                while not domain.consistent:
                    await asyncio.sleep(0.005)
            domain.mark("without it")

    asyncio.run(scenario())


def test_protecting_while_closing_is_refused_and_closing_goes_on() -> None:
    async def scenario() -> None:
        closing, opening, go = threading.Event(), threading.Event(), threading.Event()

        class Slow(MemoryDevice):
            def sync(self) -> None:
                closing.set()
                go.wait(10)

        class Late(MemoryDevice):
            def fileno(self) -> int:
                opening.set()
                closing.wait(10)
                return -1

        log, store = log_device(), fresh_store()
        domain = new_domain(store, log=log)
        await domain.__aenter__()
        await domain.protect("db01", Slow(DISK_BYTES))
        late = asyncio.create_task(domain.protect("late", Late(DISK_BYTES), wait=False))
        await asyncio.to_thread(opening.wait, 10)
        close = asyncio.create_task(domain.close())
        with pytest.raises(InvalidRequest, match="being closed"):
            await late
        go.set()
        await close
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": MemoryDevice(DISK_BYTES)}, options=QUICK
        ) as again:
            assert set(again.disks) == {"db01"}

    asyncio.run(scenario())


def test_closing_again_after_a_cancelled_close_is_harmless() -> None:
    async def scenario() -> None:
        domain = new_domain(fresh_store())
        await domain.__aenter__()
        close = asyncio.create_task(domain.close())
        await asyncio.sleep(0)
        close.cancel()
        await asyncio.wait({close})
        await domain.close(upload=False)
        await domain.close()

    asyncio.run(scenario())


def test_a_takeover_with_the_unborn_log_of_a_refused_creation_owes_a_resync() -> None:
    async def scenario() -> None:
        class Lost(StoreWrapper):
            async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
                await self._inner.put_if_absent(key, data)
                raise StoreError("put", key, "the answer was lost for good", transient=False)

        store, unborn, used, primary = fresh_store(), log_device(), log_device(), MemoryDevice(DISK_BYTES)
        with pytest.raises(StoreError):
            await new_domain(Lost(store), log=unborn).__aenter__()
        async with jetdr.ProtectedDomain.take_over(
            "payroll", log=used, log_bytes=LOG_BYTES, store=store, options=QUICK
        ) as domain:
            disk = await domain.protect("db01", primary)
            await domain.uploaded(disk.write(0, b"a" * 512))
        patient = replace(QUICK, segment_age_s=3600)
        domain = jetdr.ProtectedDomain.open("payroll", log=used, store=store, disks={"db01": primary}, options=patient)
        await domain.__aenter__()
        domain.disk("db01").write(0, b"b" * 512)
        await domain.close(upload=False)
        async with jetdr.ProtectedDomain.take_over(
            "payroll", log=unborn, log_bytes=LOG_BYTES, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            await domain.wait_consistent()
            domain.mark("taken over")
        assert (await recovered(store))["db01"][:512] == b"b" * 512

    asyncio.run(scenario())
