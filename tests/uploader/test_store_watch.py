"""The owner notices that the store lost what it held. Until then nothing is called stored that cannot be recovered."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced, StoreAccessDenied, StoreLost
from jetdr_core.segment import TRAILER_BYTES
from jetdr_core.store import DirectoryStore, MemoryStore
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, fresh_store, log_device, new_domain
from tests.faults.store import Fault, FaultyStore, on
from tests.faults.withheld import WITHHELD

WATCHFUL = jetdr.DomainOptions(
    segment_age_s=0.02, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=60, upload_workers=1, store_check_s=0.02
)
BLIND = jetdr.DomainOptions(
    segment_age_s=0.02, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=60, upload_workers=1, store_check_s=3600
)
"""Checks nothing at intervals, only what each upload checks."""

LIMIT_S = 20


class CountingStore(MemoryStore):
    """Counts the requests that only read."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.requests += 1
        return await super().get_range(key, offset, length)

    def list_prefix(self, prefix: str) -> Any:
        self.requests += 1
        return super().list_prefix(prefix)


async def begun(store: Any, options: jetdr.DomainOptions, writes: int = 6) -> tuple[jetdr.ProtectedDomain, jetdr.Disk]:
    """An open domain that has uploaded an object for each of some writes, and its disk."""
    domain = new_domain(store, options=options)
    await domain.__aenter__()
    disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
    for n in range(writes):
        await domain.uploaded(disk.write(n * 512, bytes([n + 1]) * 512))
    return domain, disk


async def failed(domain: jetdr.ProtectedDomain) -> BaseException:
    async with asyncio.timeout(LIMIT_S):
        while (failure := domain.failure) is None:
            await asyncio.sleep(0.005)
    return failure


async def keys(store: Any) -> list[str]:
    return [info.key async for info in store.list_prefix("chain/")]


async def lose_newest(store: MemoryStore) -> None:
    await store.delete((await keys(store))[-1])


async def lose_first(store: MemoryStore) -> None:
    await store.delete(chain_key(1))


async def lose_one_within(store: MemoryStore) -> None:
    await store.delete(chain_key(3))


async def lose_all(store: MemoryStore) -> None:
    for key in await keys(store):
        await store.delete(key)


async def cut_one_within(store: MemoryStore) -> None:
    await store.replace(chain_key(3), [(await store.get(chain_key(3)))[:-8]])


async def put_another_in_its_place(store: MemoryStore) -> None:
    await store.replace((await keys(store))[-1], [await store.get(chain_key(2))])


LOSSES = [lose_newest, lose_first, lose_one_within, lose_all, cut_one_within, put_another_in_its_place]


@pytest.mark.parametrize("lose", LOSSES)
def test_an_idle_owner_notices_what_its_store_lost(lose: Callable[[MemoryStore], Awaitable[None]]) -> None:
    async def scenario() -> None:
        store = CountingStore()
        domain, _ = await begun(store, WATCHFUL)
        seen = store.requests
        async with asyncio.timeout(LIMIT_S):
            while store.requests < seen + 6:  # two checks: the owner has seen the store whole
                await asyncio.sleep(0.005)
        assert domain.failure is None
        await lose(store)
        failure = await failed(domain)
        assert isinstance(failure, StoreLost)
        assert "take the domain over" in str(failure)
        with pytest.raises(StoreLost):
            await domain.uploaded(1)
        status = domain.status()
        assert (status.store_lost, status.failure) == (True, str(failure))
        assert (status.lsn_uploaded, status.proven_ns, status.consistent) == (0, 0, False)
        assert domain.status().rpo_s > status.rpo_s > 0, "it grows, although nothing is written"
        await domain.close(upload=False)

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_store_that_is_rolled_back_takes_no_upload_that_is_called_stored(count: int) -> None:
    """Without a check at intervals: each upload sees whether its predecessor is still there."""

    async def scenario() -> None:
        store = fresh_store()
        domain, disk = await begun(store, BLIND)
        for key in (await keys(store))[-count:]:
            await store.delete(key)
        lsn = disk.write(0, b"x" * 512)
        with pytest.raises(StoreLost, match="the object is gone"):
            await domain.uploaded(lsn)
        assert domain.status().lsn_uploaded == 0, "what else was lost is not known"
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_a_container_that_was_emptied_gets_no_more_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood there alone would be in the way of whoever begins anew."""
    monkeypatch.setattr("jetdr_core.uploader.store_watch.LOOK_S", 0.0)

    async def scenario() -> None:
        store = fresh_store()
        domain, disk = await begun(store, BLIND)
        await lose_all(store)
        lsn = disk.write(0, b"x" * 512)
        with pytest.raises(StoreLost, match="the object is gone"):
            await domain.uploaded(lsn)
        assert not await keys(store)
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_after_a_loss_the_log_is_not_trimmed() -> None:
    async def scenario() -> None:
        store, log = fresh_store(), log_device()
        domain = new_domain(store, log=log, options=BLIND)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        await domain.uploaded(disk.write(0, b"a" * 512))
        await lose_newest(store)
        last = disk.write(512, b"b" * 512)
        assert isinstance(await failed(domain), StoreLost)
        used = domain.status().log_used_bytes
        disk.write(1024, b"c" * 512)
        disk.flush()
        assert domain.status().log_used_bytes > used > 0
        assert domain.status().lsn_uploaded < last
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_an_owner_whose_place_was_taken_by_a_newer_epoch_is_fenced_and_not_told_of_a_loss() -> None:
    """The newest object was lost, so the new owner claimed at a number that the old one had used."""

    async def scenario() -> None:
        store, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        old, disk = await begun(store, BLIND)
        await lose_newest(store)
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": primary}, options=BLIND
        )
        async with takeover:
            lsn = disk.write(0, b"o" * 512)
            with pytest.raises(Fenced):
                await old.uploaded(lsn)
        await old.close(upload=False)

    asyncio.run(scenario())


def test_an_owner_without_uploads_learns_that_it_is_fenced() -> None:
    """No guest writes, so nothing is uploaded that would meet the newer epoch."""

    async def scenario() -> None:
        store, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        old, disk = await begun(store, WATCHFUL)
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": primary}, options=BLIND
        )
        async with takeover:
            assert isinstance(await failed(old), Fenced)
            with pytest.raises(Fenced):
                disk.write(0, b"o" * 512)
        await old.close(upload=False)

    asyncio.run(scenario())


def test_an_orphan_after_the_newest_object_fences_nobody_and_is_looked_at_once() -> None:
    async def scenario() -> None:
        store = CountingStore()
        domain, _ = await begun(store, BLIND)
        watch = domain._opened.upload._uploader.watch  # type: ignore[union-attr]
        orphan = await store.get(chain_key(1))  # of the same domain and no newer epoch
        await store.put_if_absent(chain_key(watch._last.number + 1), [orphan])
        await watch.check(store)
        before = store.requests
        await watch.check(store)
        assert store.requests == before + 3
        assert domain.failure is None
        await domain.close(upload=False)

    asyncio.run(scenario())


def of_a_newer_format(raw: bytes) -> bytes:
    """The object as a newer engine would have put it."""
    trailer = raw[-TRAILER_BYTES:]
    body = trailer[:8] + (99).to_bytes(2, "little") + trailer[10:-8]
    return raw[:-TRAILER_BYTES] + body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")


def test_an_owner_that_a_newer_engine_has_replaced_is_fenced() -> None:
    async def scenario() -> None:
        store, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        old, disk = await begun(store, BLIND)
        await lose_newest(store)
        taken_over = fresh_store()
        for key in await keys(store):
            await taken_over.put_if_absent(key, [await store.get(key)])
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=taken_over, disks={"db01": primary}, options=BLIND
        )
        async with takeover:
            for key in sorted(set(await keys(taken_over)) - set(await keys(store))):
                await store.put_if_absent(key, [of_a_newer_format(await taken_over.get(key))])
        with pytest.raises(Fenced):
            await old._opened.upload._uploader.watch.check(store)  # type: ignore[union-attr]
        with pytest.raises(Fenced):
            await old.uploaded(disk.write(0, b"o" * 512))
        await old.close(upload=False)

    asyncio.run(scenario())


def test_a_store_that_does_not_answer_for_a_while_has_lost_nothing() -> None:
    async def scenario() -> None:
        store = FaultyStore(fresh_store())
        domain, disk = await begun(store, WATCHFUL)
        store.plan = on("get range", Fault.FAIL, times=6)
        async with asyncio.timeout(LIMIT_S):
            await domain.uploaded(disk.write(0, b"x" * 512))
        assert domain.failure is None
        await domain.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("lose", LOSSES)
def test_what_is_waited_for_is_seen_to_be_held(lose: Callable[[MemoryStore], Awaitable[None]]) -> None:
    """The next check is an hour away, and the upload itself succeeded."""

    async def scenario() -> None:
        store = fresh_store()
        domain, _ = await begun(store, BLIND)
        lsn = domain.status().lsn_reserved
        await domain.held(lsn)
        await lose(store)
        await domain.uploaded(lsn)
        with pytest.raises(StoreLost):
            await domain.held(lsn)
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_a_store_that_takes_objects_and_lets_nobody_read_them_holds_nothing_for_sure() -> None:
    async def scenario() -> None:
        store = FaultyStore(fresh_store())
        domain, disk = await begun(store, BLIND)
        store.plan = on("get range", Fault.DENIED)
        before = domain.status().lsn_uploaded
        lsn = disk.write(0, b"x" * 512)
        for _ in range(2):
            with pytest.raises(StoreAccessDenied):
                await domain.held(lsn)
        assert domain.status().lsn_uploaded == before
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_a_check_takes_three_requests() -> None:
    async def scenario() -> None:
        store = CountingStore()
        domain, _ = await begun(store, BLIND)
        watch = domain._opened.upload._uploader.watch  # type: ignore[union-attr]
        await watch.check(store)
        before = store.requests
        await watch.check(store)
        assert store.requests == before + 3
        await domain.close()

    asyncio.run(scenario())


# -- the directory store -----------------------------------------------------------------------------------------------


def replaced_by_a_copy(store: Path) -> None:
    shutil.copytree(store, store.with_name("copy"))
    store.rename(store.with_name("aside"))
    store.with_name("copy").rename(store)


def renamed(store: Path) -> None:
    store.rename(store.with_name("aside"))


def removed(store: Path) -> None:
    shutil.rmtree(store)


def removed_and_made(store: Path) -> None:
    shutil.rmtree(store)
    store.mkdir()


def replaced_by_a_link(store: Path) -> None:
    store.rename(store.with_name("aside"))
    shutil.copytree(store.with_name("aside"), store.with_name("copy"))
    store.symlink_to(store.with_name("copy"))


def replaced_by_a_file(store: Path) -> None:
    store.rename(store.with_name("aside"))
    store.touch()


@pytest.mark.parametrize(
    "change", [replaced_by_a_copy, renamed, removed, removed_and_made, replaced_by_a_link, replaced_by_a_file]
)
def test_a_directory_that_the_path_no_longer_leads_to_takes_nothing(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    async def scenario() -> None:
        path = tmp_path / "store"
        store = DirectoryStore(path, create=True)
        await store.put_if_absent("chain/1", [b"a"])
        change(path)
        for call in (store.put_if_absent("b", [b"b"]), store.replace("c", [b"c"]), store.get("chain/1")):
            with pytest.raises(StoreLost, match="no longer leads to the directory"):
                await call
        with pytest.raises(StoreLost):
            [info async for info in store.list_prefix("")]
        await store.close()

    asyncio.run(scenario())
    assert not [*tmp_path.rglob("b"), *tmp_path.rglob("c")]


def test_a_directory_that_was_renamed_and_renamed_back_has_lost_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "store"
        store = DirectoryStore(path, create=True)
        await store.put_if_absent("a", [b"a"])
        renamed(path)
        path.with_name("aside").rename(path)
        assert await store.get("a") == b"a"
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("why", WITHHELD)
def test_an_object_that_the_store_does_not_give_any_more_is_lost_until_it_does(why: str) -> None:
    class Archiving(MemoryStore):
        withheld = ""

        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            if key == self.withheld:
                raise WITHHELD[why](key)
            return await super().get_range(key, offset, length)

    async def scenario() -> None:
        store = Archiving()
        domain, _ = await begun(store, WATCHFUL)
        store.withheld = chain_key(1)
        failure = await failed(domain)
        assert isinstance(failure, StoreLost)
        assert chain_key(1) in str(failure)
        assert (WITHHELD[why]("k").problem if why != "missing" else "the object is gone") in str(failure)
        assert not await domain.is_store_whole()
        store.withheld = ""
        assert await domain.is_store_whole()
        await domain.close(upload=False)

    asyncio.run(scenario())
