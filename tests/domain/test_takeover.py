"""Claims of a domain that race, lose, are repeated or are answered wrongly, and disks that are not where they were."""

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
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import (
    Fenced,
    JetdrError,
    PrimaryAway,
)
from jetdr_core.options import DomainOptions
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
        assert (await recovered(inner, "now"))["db01"] == expected

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
        assert catalog.chain_break is None, "what the new owner was told is uploaded is in the chain"
        assert catalog.lsn_last >= last

    asyncio.run(scenario())


def test_a_disk_that_is_missing_on_reopening_has_failed_and_is_not_a_new_disk_of_zeros(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store, log=tmp_path / "log") as domain:
            disk = await domain.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)
            disk.write(0, b"payroll data".ljust(512))
        os.rename(tmp_path / "disk", tmp_path / "moved")
        async with jetdr.ProtectedDomain.open(
            "payroll", log=tmp_path / "log", store=store, disks={"db01": tmp_path / "disk"}, options=QUICK
        ) as domain:
            assert not domain.consistent
            with pytest.raises(PrimaryAway, match="there is nothing at its path"):
                domain.disk("db01").read(0, 512)
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
