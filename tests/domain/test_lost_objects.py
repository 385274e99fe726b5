"""Objects that are lost in mid-chain while the owner lives: after a take-over, nothing of it is called stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key, heartbeat
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import ChainBroken, Fenced, ObjectUnavailable, StoreLost
from jetdr_core.store import MemoryStore
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store, log_device, new_domain, recovered, within
from tests.faults.withheld import WITHHELD, Withholding

WRITES = 8


@contextlib.asynccontextmanager
async def living_owner(store: MemoryStore) -> AsyncIterator[tuple[jetdr.ProtectedDomain, jetdr.Disk]]:
    domain = new_domain(store)
    await domain.__aenter__()
    disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
    for n in range(WRITES):
        await domain.uploaded(disk.write(n * 512, bytes([n + 1]) * 512))
    try:
        yield domain, disk
    finally:
        with contextlib.suppress(Fenced, StoreLost):
            await domain.close(upload=False)


def taken_over(store: Any, **more: Any) -> jetdr.ProtectedDomain:
    return jetdr.ProtectedDomain.take_over(
        "payroll",
        log=log_device(),
        log_bytes=LOG_BYTES,
        store=store,
        disks={"db01": MemoryDevice(DISK_BYTES)},
        options=QUICK,
        **more,
    )


async def numbers(store: MemoryStore) -> int:
    return len([info async for info in store.list_prefix("chain/")])


async def assert_nothing_is_called_stored(owner: jetdr.ProtectedDomain, disk: jetdr.Disk) -> None:
    for n in range(3):
        with pytest.raises((Fenced, StoreLost)):
            await within(20, owner.uploaded(disk.write(n * 512, b"o" * 512)))


SINGLE = [(from_end,) for from_end in range(WRITES)]


@pytest.mark.parametrize("lost", [*SINGLE, (0, 1), (0, 2), (1, 3), (0, 1, 2, 3, 4)])
def test_after_a_takeover_nothing_that_the_old_owner_uploads_is_called_stored(lost: Sequence[int]) -> None:
    """Counted from the end of the chain. What uploads in flight do not explain is refused, and fences nobody."""

    async def scenario() -> None:
        store = fresh_store()
        async with living_owner(store) as (owner, disk):
            last = await numbers(store)
            for from_end in lost:
                await store.delete(chain_key(last - from_end))
            explained = max(lost) < QUICK.puts_max or len(lost) == max(lost) + 1
            if not explained:
                with pytest.raises(ChainBroken, match=r"is lost.*give_up_from"):
                    await taken_over(store).__aenter__()
                return
            async with taken_over(store):
                await assert_nothing_is_called_stored(owner, disk)

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [3, 4, 5])
def test_what_follows_a_lost_object_is_given_up_when_somebody_says_so(number: int) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with living_owner(store) as (owner, disk):
            await store.delete(chain_key(number))
            with pytest.raises(ChainBroken) as refused:
                await taken_over(store).__aenter__()
            assert refused.value.facts["number"] == number
            with pytest.raises(ChainBroken):
                await taken_over(store, give_up_from=number + 1).__aenter__()
            async with taken_over(store, give_up_from=number) as new:
                await assert_nothing_is_called_stored(owner, disk)
                await new.wait_consistent()
                protected = new.disks.get("db01") or await new.protect("db01", MemoryDevice(DISK_BYTES))
                await new.uploaded(protected.write(0, b"new!" * 128))
                expected = protected.read(0, DISK_BYTES)
            assert (await jetdr.Catalog.open(store)).chain_break is None
            assert await recovered(store) == {"db01": expected}

    asyncio.run(scenario())


def test_a_claim_is_above_every_epoch_that_the_store_names() -> None:
    """The objects of the newest owner come after what was lost, or only a heartbeat names its epoch."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            await domain.uploaded(disk.write(0, b"a" * 512))
        claimed, newest = await numbers(store) + 1, 0
        for _ in range(3):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
            ) as domain:
                await domain.uploaded(domain.disk("db01").write(0, b"b" * 512))
                newest = domain.status().epoch
        await store.delete(chain_key(claimed))
        async with taken_over(store, give_up_from=claimed) as domain:
            assert domain.status().epoch > newest
            newest = domain.status().epoch + 7
        key, data = heartbeat(newest, lsn=1, time_ns=1)
        await store.replace(key, [data])
        async with taken_over(store) as domain:
            assert domain.status().epoch > newest

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["denied", "archived", "unreadable"])
def test_a_claim_waits_for_an_object_that_may_name_a_newer_epoch(why: str) -> None:
    """The newest owner may be alive, and its only object beyond the lost one cannot be read."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            for _ in range(2):
                await domain.uploaded(disk.write(0, b"a" * 512))
        lost = await numbers(store)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            newest = domain.status().epoch
        await store.delete(chain_key(lost))
        there = sorted([info.key async for info in store.list_prefix("")])
        last = await numbers(store) + 1
        withholding = Withholding(store, chain_key(last), WITHHELD[why])
        for key in [key for key in there if not key.startswith("chain/")]:
            await store.delete(key)  # no heartbeat names the epoch either
        with pytest.raises(ObjectUnavailable, match=chain_key(last)):
            await taken_over(withholding, give_up_from=lost).__aenter__()
        async with taken_over(store, give_up_from=lost) as domain:
            assert domain.status().epoch > newest

    asyncio.run(scenario())
