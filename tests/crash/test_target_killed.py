"""The log's iSCSI target killed, cut off and frozen under load: the guests go on, nothing acknowledged is missing."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import DeviceGone, LogFailed
from jetdr_core.replication_log import describe_volume
from tests.crash.test_sigkill import check, kill_a_writer
from tests.domain.fixture import recovered
from tests.faults.threaded_proxy import threaded_proxy
from tests.peers.tgt import Tgt

DISK_BYTES = 8 << 20
SLOT_BYTES = 4096
OPTIONS = jetdr.DomainOptions(segment_bytes=1 << 20, segment_age_s=0.05, ring_bytes=1 << 23, stall_limit_s=20)


class Guest:
    """Writes stamped blocks for ever, each one newer than the last, and flushes now and then."""

    def __init__(self, disk: jetdr.Disk, first_slot: int, slots: int, seed: int) -> None:
        self._disk = disk
        self._chance = random.Random(seed)
        self._slots = range(first_slot, first_slot + slots)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.flushes = 0
        self.writes = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        assert self.error is None, self.error

    def _write(self) -> None:
        try:
            while not self._ending.is_set():
                self.writes += 1
                slot = self._chance.choice(self._slots)
                stamp = f"write {self.writes} of {self._slots}".encode().ljust(64, b".")
                self._disk.write(slot * SLOT_BYTES, stamp * (SLOT_BYTES // 64))
                if self.writes % 16 == 0:
                    self._disk.flush()
                    self.flushes += 1
        except BaseException as error:  # noqa: BLE001 - told by end()
            self.error = error


def flushes_of(guests: list[Guest]) -> int:
    return sum(guest.flushes for guest in guests)


def await_flushes(guests: list[Guest], more: int) -> None:
    """Until so many more flushes came back."""
    wanted, limit = flushes_of(guests) + more, time.monotonic() + 40
    while flushes_of(guests) < wanted:
        assert time.monotonic() < limit, "the guests' flushes do not come back"
        for guest in guests:
            assert guest.error is None, guest.error
        time.sleep(0.005)


async def domain_under_load(folder: Path, log: str, trouble: object) -> None:
    """Two guests write while ``trouble(guests)`` happens; then the replica, and the log alone, equal the disk."""
    store = f"file://{folder}/store"
    domain = jetdr.ProtectedDomain.create("payroll", log=log, log_bytes=64 << 20, store=store, options=OPTIONS)
    async with domain:
        disk = await domain.protect("db01", folder / "db01.img", size_bytes=DISK_BYTES)
        half = DISK_BYTES // SLOT_BYTES // 2
        guests = [Guest(disk, number * half, half, number) for number in range(2)]
        for guest in guests:
            guest.start()
        try:
            await asyncio.to_thread(trouble, guests)  # type: ignore[arg-type]
        finally:
            for guest in guests:
                await asyncio.to_thread(guest.end)
        assert domain.consistent
        lsn = await asyncio.to_thread(disk.flush)
        await domain.uploaded(lsn)
        expected = disk.read(0, DISK_BYTES)
    assert await recovered(store) == {"db01": expected}
    described = await asyncio.to_thread(describe_volume, log)
    assert [(section.damage, section.clean) for section in described.sections] == [(None, True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path


def test_target_killed_and_restarted_under_load_loses_nothing(own_tgt: Tgt, folder: Path) -> None:
    lun = own_tgt.add(96 << 20)

    def kill_and_restart(guests: list[Guest]) -> None:
        for _ in range(6):
            await_flushes(guests, 20)
            own_tgt.kill()
            own_tgt.start()
        await_flushes(guests, 20)

    asyncio.run(domain_under_load(folder, lun.url, kill_and_restart))


def test_line_to_the_target_cut_under_load_loses_nothing(tgt: Tgt, folder: Path) -> None:
    lun = tgt.add(96 << 20)
    with threaded_proxy(tgt.port) as proxy:

        def cut(guests: list[Guest]) -> None:
            for turn in range(20):
                await_flushes(guests, 5)
                proxy.cut_uploads(after_bytes=turn * 7_001)
            await_flushes(guests, 20)

        asyncio.run(domain_under_load(folder, lun.url_at(proxy.port), cut))
    tgt.remove(lun)


def test_line_to_the_target_frozen_under_load_loses_nothing(tgt: Tgt, folder: Path) -> None:
    lun = tgt.add(96 << 20)
    with threaded_proxy(tgt.port) as proxy:

        def freeze(guests: list[Guest]) -> None:
            await_flushes(guests, 20)
            proxy.freeze()
            proxy.let_new_ones_pass()
            await_flushes(guests, 20)
            proxy.thaw()
            await_flushes(guests, 20)

        asyncio.run(domain_under_load(folder, lun.url_at(proxy.port), freeze))
    tgt.remove(lun)


def test_log_survives_the_death_of_writer_and_target(own_tgt: Tgt, folder: Path) -> None:
    """Both killed at once, as when the rack loses power with the target's cache intact."""
    lun = own_tgt.add(96 << 20)
    folder.joinpath("store").rmdir()
    ready, flushed = kill_a_writer(folder, 11, lun.url)
    own_tgt.kill()
    own_tgt.start()
    asyncio.run(check(folder, 11, lun.url, ready, flushed))


def test_target_that_stays_away_fails_the_log_and_the_domain_opens_again(
    own_tgt: Tgt, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETDR_ISCSI_LIMIT_S", "0.5")
    lun = own_tgt.add(96 << 20)
    store = f"file://{folder}/store"

    async def lose_the_target() -> int:
        domain = jetdr.ProtectedDomain.create("payroll", log=lun.url, log_bytes=64 << 20, store=store, options=OPTIONS)
        lsn = 0
        with pytest.raises(LogFailed):
            async with domain:
                disk = await domain.protect("db01", folder / "db01.img", size_bytes=DISK_BYTES)
                disk.write(0, b"flushed." * 512)
                lsn = await asyncio.to_thread(disk.flush)
                own_tgt.kill()
                disk.write(4096, b"too late" * 512)
                with pytest.raises(LogFailed):
                    await asyncio.to_thread(disk.flush)
        return lsn

    async def come_back(lsn: int) -> bytes:
        async with jetdr.ProtectedDomain.open(
            "payroll", log=lun.url, store=store, disks={"db01": folder / "db01.img"}, options=OPTIONS
        ) as domain:
            assert domain.status().lsn_recovered >= lsn
            await domain.wait_consistent()
            return (folder / "db01.img").read_bytes()

    lsn = asyncio.run(lose_the_target())
    with pytest.raises(DeviceGone, match="there is no portal"):
        asyncio.run(come_back(lsn))
    own_tgt.start()
    expected = asyncio.run(come_back(lsn))
    assert expected[:8192] == b"flushed." * 512 + b"too late" * 512
    assert asyncio.run(recovered(store)) == {"db01": expected}
