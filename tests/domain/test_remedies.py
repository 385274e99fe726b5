"""Remedies that errors name, walked to their end: the domain is consistent, stays so over restarts, and is recovered.

Each of these errors says: take the domain over with a new log. The volume is the one that the configuration names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import InvalidRequest, JetdrError, LogNotALog
from jetdr_core.options import DomainOptions
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, recovered

SECTION_BYTES = 2 << 20
SLOW = DomainOptions(segment_age_s=3600, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=60, close_limit_s=0.01)


class Site:
    """A domain with its log and disk on files, and what ``backup`` kept of its store.

    The store is in memory: what it says is the same, and no opening starts a process for it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = fresh_store()
        self.log = place / "log"
        self.backup: dict[str, bytes] = {}
        self.disk = place / "db01.img"

    @property
    def objects(self) -> dict[str, bytes]:
        return self.store._container.objects

    def created(self) -> jetdr.ProtectedDomain:
        return jetdr.ProtectedDomain.create(
            "payroll", log=self.log, log_bytes=SECTION_BYTES, store=self.store, options=QUICK
        )

    def opened(self, options: DomainOptions = QUICK) -> jetdr.ProtectedDomain:
        return jetdr.ProtectedDomain.open(
            "payroll", log=self.log, store=self.store, options=options, disks={"db01": self.disk}
        )

    def taken_over(self, *, log_bytes: int = SECTION_BYTES, discard_log: str | None = None) -> jetdr.ProtectedDomain:
        return jetdr.ProtectedDomain.take_over(
            "payroll",
            log=self.log,
            log_bytes=log_bytes,
            store=self.store,
            options=QUICK,
            disks={"db01": self.disk},
            discard_log=discard_log,
        )

    def overwrite(self, offset: int, data: bytes) -> None:
        with self.log.open("r+b") as file:
            file.seek(offset)
            file.write(data)


async def begun(site: Site) -> None:
    """A domain with a history, closed in order, and a copy of its store from the middle of that."""
    async with site.created() as domain:
        disk = await domain.protect("db01", site.disk, size_bytes=DISK_BYTES)
        await domain.uploaded(disk.write(0, b"old" * 512 + bytes(512)))
    site.backup = dict(site.objects)
    async with site.opened() as domain:
        for n in range(8):
            await domain.uploaded(domain.disk("db01").write(4096 + n * 512, bytes([n]) * 512))


async def assert_lasts(site: Site) -> None:
    """The domain goes on over restarts without a gap, and what is recovered is what the disk holds."""
    for n in range(3):
        async with site.opened() as domain:
            assert domain.status().consistent, "an orderly end owes nothing"
            domain.disk("db01").write(n * 512, b"after" + bytes(507))
            await domain.uploaded(domain.mark(f"restart {n} of {uuid4()}").lsn)
    assert (await recovered(site.store))["db01"] == site.disk.read_bytes()


def rolled_back(site: Site) -> None:
    site.objects.clear()
    site.objects.update(site.backup)


def section_lost(site: Site) -> None:
    for copy in range(4):
        site.overwrite((1 << 20) + copy * (16 << 10), os.urandom(4096))


def section_torn(site: Site) -> None:
    """Copies of the section's superblock that are damaged, but can be told from nothing."""
    for copy in range(4):
        site.overwrite((1 << 20) + copy * (16 << 10) + 64, os.urandom(64))


def volume_lost(site: Site) -> None:
    site.overwrite(0, os.urandom(1 << 20))


def volume_torn(site: Site) -> None:
    for copy in range(4):
        site.overwrite(copy * (256 << 10) + 64, os.urandom(64))


def log_swapped(site: Site) -> None:
    """The domain went on with another log since, and that is lost."""

    async def elsewhere() -> None:
        own, site.log = site.log, site.place / "other"
        async with site.taken_over() as domain:
            await domain.wait_consistent()
        site.log.unlink()
        site.log = own

    asyncio.run(elsewhere())


BROKEN: list[Callable[[Site], None]] = [rolled_back, section_lost, section_torn, volume_lost, volume_torn, log_swapped]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("log_bytes", [SECTION_BYTES, 3 << 20])
def test_taking_over_with_a_new_log_works_on_the_volume_that_is_configured(
    tmp_path: Path, broken: Callable[[Site], None], log_bytes: int
) -> None:
    site = Site(tmp_path)
    asyncio.run(begun(site))
    broken(site)

    async def scenario() -> None:
        with pytest.raises(JetdrError) as refused:
            async with site.opened():
                pass
        assert "take the domain over with a new" in str(refused.value.hint)
        async with site.taken_over(log_bytes=log_bytes) as domain:
            await domain.wait_consistent()
            await domain.uploaded(domain.mark("taken over").lsn)
        await assert_lasts(site)

    asyncio.run(scenario())


def test_a_log_that_alone_has_some_of_the_data_is_not_given_up_unless_it_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await begun(site)
        async with site.opened(SLOW) as domain:
            domain.pause()
            domain.disk("db01").write(0, b"only in the log" + bytes(497))
            domain.disk("db01").flush()
        before = site.log.read_bytes()
        with pytest.raises(InvalidRequest, match=r"alone has LSN \d+ to \d+ \(1 LSNs\)") as refused:
            async with site.taken_over():
                pass
        assert site.log.read_bytes() == before, "the log is as it was"
        await assert_lasts(site)  # the first remedy: open it without taking it over
        async with site.opened(SLOW) as domain:
            domain.pause()
            domain.disk("db01").write(0, b"only in the log" + bytes(497))
        (identity,) = {word for word in str(refused.value.hint).split("'") if len(word) == 16}
        async with site.taken_over(discard_log=identity) as domain:  # the second: name it
            await domain.wait_consistent()
        await assert_lasts(site)

    asyncio.run(scenario())


def test_a_log_that_was_uploaded_is_replaced_by_a_larger_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await begun(site)
        async with site.taken_over(log_bytes=8 << 20) as domain:
            await domain.wait_consistent()
        await assert_lasts(site)
        async with site.opened() as domain:
            assert domain.status().log_bytes > 7 << 20

    asyncio.run(scenario())


def test_a_file_that_was_named_by_mistake_is_not_made_a_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await begun(site)
        site.log = tmp_path / "somebody.img"
        site.log.write_bytes(b"somebody's data " * (1 << 18))
        before = site.log.read_bytes()
        with pytest.raises(LogNotALog, match="nothing on it shows that the domain's log was there") as refused:
            async with site.taken_over():
                pass
        assert site.log.read_bytes() == before
        assert "move this file away" in str(refused.value.hint)
        site.log.rename(tmp_path / "moved away")
        async with site.taken_over() as domain:
            await domain.wait_consistent()
        await assert_lasts(site)

    asyncio.run(scenario())


def test_a_takeover_that_fails_before_its_claim_leaves_the_old_log_in_use(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await begun(site)
        own, site.disk = site.disk, tmp_path / "absent"
        with pytest.raises((JetdrError, OSError)):
            async with site.taken_over():
                pass
        site.disk = own
        await assert_lasts(site)

    asyncio.run(scenario())
