"""A domain with a key: its owner needs the key, and believes nothing in the store that was made without it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key, heartbeat, heartbeat_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.device import MemoryDevice
from jetdr_core.domain.known import read_known
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.errors import Forged, InvalidRequest, ObjectUnavailable, StoreLost, WrongKey
from jetdr_core.segment import TRAILER_BYTES, seal_epoch
from jetdr_core.segment.trailer import encode_trailer
from jetdr_core.store import MemoryStore
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store, image, log_device, new_domain
from tests.faults.withheld import WITHHELD, Withholding
from tests.segment.tampering import changed, trailer_of

WATCHFUL = jetdr.DomainOptions(
    segment_age_s=0.02, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=0.02, upload_workers=1, store_check_s=0.02
)
LIMIT_S = 20


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    KeyFile(tmp_path / "key").make()
    return tmp_path / "key"


async def numbers(store: MemoryStore) -> list[int]:
    return [int(info.key[-10:]) async for info in store.list_prefix("chain/")]


async def begun(store: Any, key_file: Path, options: jetdr.DomainOptions = QUICK, writes: int = 3) -> Any:
    domain = new_domain(store, options=options, key_file=key_file)
    await domain.__aenter__()
    disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
    for n in range(writes):
        await domain.uploaded(disk.write(n * 512, bytes([n + 1]) * 512))
    return domain


async def until(condition: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_everything_that_the_owner_stores_has_a_tag_and_the_key_is_bound(key_file: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        store, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        async with new_domain(store, log=log, options=WATCHFUL, key_file=key_file) as domain:
            disk = await domain.protect("db01", primary)
            for n in range(20):
                disk.write(n * 4096, bytes([n + 1]) * 4096)
            beaten = heartbeat_key(1)
            async with asyncio.timeout(LIMIT_S):
                while beaten not in [info.key async for info in store.list_prefix("heartbeat/")]:
                    await asyncio.sleep(0.01)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK, key_file=key_file
        ) as again:
            again.disk("db01").write(0, b"again".ljust(512))
        key = KeyFile(key_file).read()
        catalog = await jetdr.Catalog.open(store, domain_key=key)
        assert (key.domain_uuid, catalog.chain_break) == (catalog.chain.domain_uuid, None)
        assert (await jetdr.verify(store, domain_key=key)).is_sound
        objects = [trailer_of(await store.get(chain_key(number))) for number in await numbers(store)]
        assert all(trailer.is_tagged for trailer in objects)
        await jetdr.rehydrate(store, at="latest", target=tmp_path / "out", format="raw", domain_key=key)
        assert (tmp_path / "out" / "db01.raw").read_bytes() == image(primary)

    asyncio.run(scenario())


def test_a_domain_with_a_key_is_not_opened_without_it_nor_with_another(key_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    KeyFile(other).make()

    async def scenario() -> None:
        store, primary, log = fresh_store(), MemoryDevice(DISK_BYTES), log_device()
        async with new_domain(store, log=log, key_file=key_file) as domain:
            await domain.protect("db01", primary)
        before = await numbers(store)
        for wrong, told in ((None, "has a key, and none was given"), (other, "holds key")):
            places: Any = {"store": store, "disks": {"db01": primary}, "options": QUICK, "key_file": wrong}
            with pytest.raises(WrongKey, match=told):
                await jetdr.ProtectedDomain.open("payroll", log=log, **places).__aenter__()
            with pytest.raises(WrongKey, match=told):
                await jetdr.ProtectedDomain.take_over(
                    "payroll", log=log_device(), log_bytes=LOG_BYTES, **places
                ).__aenter__()
        assert await numbers(store) == before
        assert KeyFile(other).read().domain_uuid is None

    asyncio.run(scenario())


def test_a_domain_without_a_key_cannot_be_opened_with_one(key_file: Path) -> None:
    async def scenario() -> None:
        store, log = fresh_store(), log_device()
        async with new_domain(store, log=log):
            pass
        with pytest.raises(Forged, match="has no tag"):
            await jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, options=QUICK, key_file=key_file
            ).__aenter__()

    asyncio.run(scenario())


def test_the_key_of_one_domain_is_not_used_for_a_new_one(key_file: Path) -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store(), key_file=key_file):
            pass
        store = fresh_store()
        with pytest.raises(WrongKey, match="is the key of domain"):
            await new_domain(store, key_file=key_file).__aenter__()
        assert await numbers(store) == []

    asyncio.run(scenario())


def test_a_missing_key_file_is_told_before_anything_is_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        with pytest.raises(InvalidRequest, match=r"no-such-key does not exist"):
            await new_domain(store, key_file=tmp_path / "no-such-key").__aenter__()
        assert await numbers(store) == []

    asyncio.run(scenario())


# -- forged while the owner runs ---------------------------------------------------------------------------------------


async def foreign_epoch(store: MemoryStore, predecessor: int, epoch: int) -> list[Any]:
    """The claim of somebody who lacks the key, with the key's id and otherwise right."""
    before = await store.get(chain_key(predecessor))
    said = trailer_of(before)
    sealed = seal_epoch(
        domain_uuid=said.domain_uuid,
        epoch=epoch,
        timeline=1,
        predecessor=said.predecessor,
        lsn_next=said.last_lsn + 1,
        time_ns=said.last_time_ns,
        owner=EpochOwner(owner="somebody", host="else"),
        number=predecessor + 1,
        domain_key=DomainKey(bytes(32), said.domain_uuid),
    )
    trailer = sealed.trailer._replace(key_id=said.key_id)
    return [*sealed.parts[:-1], encode_trailer(trailer)]


@pytest.mark.parametrize("epoch", [1, 2, 99])
def test_a_forged_object_in_the_way_stops_the_upload_and_does_not_fence(key_file: Path, epoch: int) -> None:
    async def scenario() -> None:
        store = fresh_store()
        domain = await begun(store, key_file)
        last = (await numbers(store))[-1]
        await store.put_if_absent(chain_key(last + 1), await foreign_epoch(store, last, epoch))
        lsn = domain.disk("db01").write(0, b"x" * 512)
        with pytest.raises(Forged, match=f"{chain_key(last + 1)}: trailer: has a wrong tag"):
            await domain.uploaded(lsn)
        assert chain_key(last + 1) in domain.status().forged
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_a_forged_object_after_the_last_is_refused_at_opening_and_removing_it_helps(key_file: Path) -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log, key_file=key_file) as domain:
            disk = await domain.protect("db01", primary)
            disk.write(0, b"a" * 512)
        last = (await numbers(store))[-1]
        planted = chain_key(last + 1)
        await store.put_if_absent(planted, await foreign_epoch(store, last, 7))
        reopened: Any = {"log": log, "store": store, "disks": {"db01": primary}, "options": QUICK, "key_file": key_file}
        with pytest.raises(Forged, match=f"'payroll' cannot be continued: .*{planted}.*never was one, .*remove it"):
            await jetdr.ProtectedDomain.open("payroll", **reopened).__aenter__()
        await store.delete(planted)
        async with jetdr.ProtectedDomain.open("payroll", **reopened) as again:
            assert again.status().epoch == 2

    asyncio.run(scenario())


def test_an_object_that_is_changed_in_place_is_found_by_a_spot_check_and_uploads_go_on(key_file: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        domain = await begun(store, key_file, WATCHFUL)
        genuine = await store.get(chain_key(3))
        await store.replace(chain_key(3), [changed(genuine, 70)])
        assert len(changed(genuine, 70)) == len(genuine)
        await until(lambda: chain_key(3) in domain.status().forged)
        assert domain.failure is None
        await domain.uploaded(domain.disk("db01").write(0, b"y" * 512))
        await store.replace(chain_key(3), [genuine])
        await until(lambda: not domain.status().forged)
        await domain.close()

    asyncio.run(scenario())


def test_a_forged_newest_object_is_a_loss_that_names_the_forgery(key_file: Path) -> None:
    """It claims a newer epoch, which would fence the owner if it were genuine."""

    async def scenario() -> None:
        store = fresh_store()
        domain = await begun(store, key_file, WATCHFUL)
        last = (await numbers(store))[-1]
        data = await store.get(chain_key(last))
        trailer = trailer_of(data)._replace(epoch=9)
        await store.replace(chain_key(last), [data[:-TRAILER_BYTES] + encode_trailer(trailer)])
        await until(lambda: domain.failure is not None)
        assert isinstance(domain.failure, StoreLost)
        assert "has a wrong tag" in str(domain.failure)
        assert chain_key(last) in domain.status().forged
        await domain.close(upload=False)

    asyncio.run(scenario())


def test_a_forged_heartbeat_raises_no_epoch(key_file: Path) -> None:
    """The name alone would: a claim is above every epoch that the store names."""

    async def scenario() -> None:
        store, log = fresh_store(), log_device()
        async with new_domain(store, log=log, key_file=key_file):
            pass
        for forger in (None, DomainKey(bytes(32), KeyFile(key_file).read().domain_uuid)):
            key, data = heartbeat(9_999_999_999, lsn=1, time_ns=1, domain_key=forger)
            await store.replace(key, [data])
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, options=QUICK, key_file=key_file
            ) as domain:
                assert domain.status().epoch < 4

    asyncio.run(scenario())


@pytest.mark.parametrize("why", WITHHELD)
def test_a_heartbeat_that_cannot_be_read_may_be_a_newer_owners(key_file: Path, why: str) -> None:
    async def scenario() -> None:
        store = fresh_store()
        await (await begun(store, key_file)).close()
        key = KeyFile(key_file).read()
        beat, data = heartbeat(9, lsn=1, time_ns=1, domain_key=key)
        await store.replace(beat, [data])
        assert (await read_known(store, "payroll", key)).epoch_newest == 9
        withholding = Withholding(store, beat, WITHHELD[why])
        if why == "missing":
            assert (await read_known(withholding, "payroll", key)).epoch_newest == 1
        else:
            with pytest.raises(ObjectUnavailable, match=beat):
                await read_known(withholding, "payroll", key)

    asyncio.run(scenario())
