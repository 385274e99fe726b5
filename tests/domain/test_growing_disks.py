"""A disk that was enlarged is protected in its new size. Recovery points have the size that was protected then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.control_bodies import DiskGrow
from jetdr_core.device import FileDevice
from jetdr_core.errors import InvalidRequest, PrimaryAway, PrimaryFailed, StallTimeout
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, new_domain, recovered, within
from tests.domain.hosted import DISK_BYTES as HOSTED_BYTES
from tests.domain.hosted import Machine, assert_replica_equals_primary, gaps, machine, until
from tests.faults.device import CrashDevice
from tests.peers.loop import attach

GROWN = 2 * DISK_BYTES


class Site:
    """An embedded domain with disk db01, a file."""

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.store, self.folder, self.path = fresh_store(), folder, path or folder / "db01.img"

    async def make(self) -> int:
        """Returns the LSN of a point before the disk grows."""
        async with new_domain(self.store, log=self.folder / "log") as domain:
            disk = await domain.protect("db01", self.path, size_bytes=DISK_BYTES)
            return disk.write(0, b"before".ljust(512))

    def open(self) -> jetdr.ProtectedDomain:
        return jetdr.ProtectedDomain.open(
            "payroll", log=self.folder / "log", store=self.store, options=QUICK, disks={"db01": self.path}
        )


def enlarge(path: Path, size_bytes: int, tail: bytes = b"") -> None:
    os.truncate(path, size_bytes)
    if tail:
        with path.open("r+b") as file:
            file.seek(size_bytes - len(tail))
            file.write(tail)


async def point(domain: jetdr.ProtectedDomain, name: str) -> int:
    await within(20, domain.wait_consistent())
    lsn = domain.mark(name).lsn
    await domain.uploaded(lsn)
    return lsn


def growths(domain: Any) -> list[int]:
    """The sizes that the disk had, in order."""
    (disk,) = domain._alive.control_log.history.facts(1 << 60).disks
    return [size for _, size in disk.sizes]


@pytest.mark.parametrize("tail", [b"", b"old data in the new end".ljust(4096, b"+")], ids=["hole", "data"])
def test_a_disk_that_grew_while_it_was_closed_is_protected_whole(tmp_path: Path, tail: bytes) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        before = await site.make()
        enlarge(site.path, GROWN, tail)
        async with site.open() as domain:
            disk = domain.disk("db01")
            assert disk.size_bytes == GROWN
            after = await point(domain, "grown")
            disk.write(GROWN - 512, b"the new end".ljust(512))
            last = await point(domain, "written")
            assert growths(domain) == [DISK_BYTES, GROWN]
            images = [(await recovered(site.store, lsn))["db01"] for lsn in (before, after, last)]
            assert [len(image) for image in images] == [DISK_BYTES, GROWN, GROWN]
            assert images[1].endswith(tail or bytes(4096))
            assert images[2] == site.path.read_bytes()
        async with site.open() as domain:
            assert domain.consistent
            assert growths(domain) == [DISK_BYTES, GROWN]

    asyncio.run(scenario())


@pytest.mark.parametrize("tail", [b"", b"old data in the new end".ljust(4096, b"+")], ids=["hole", "data"])
def test_a_disk_that_grows_while_it_is_open_owes_only_the_data_in_its_new_end(tmp_path: Path, tail: bytes) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        before = await site.make()
        async with site.open() as domain:
            disk = domain.disk("db01")
            enlarge(site.path, GROWN, tail)
            with pytest.raises(InvalidRequest, match=f"not valid on a disk of {DISK_BYTES} bytes"):
                disk.write(DISK_BYTES, bytes(512))
            assert bool(await domain.grow_disk("db01")) == bool(tail)
            assert await domain.grow_disk("db01") == ""
            after = await point(domain, "grown")
            assert bool(tail) == (0 < disk.stats().background_bytes <= 64 << 10)  # a region of the map
            assert len(domain._alive.control_log.history.gaps) == bool(tail)
            disk.write(DISK_BYTES, b"across the old end".ljust(512))
            last = await point(domain, "written")
            images = [(await recovered(site.store, lsn))["db01"] for lsn in (before, after, last)]
            assert [len(image) for image in images] == [DISK_BYTES, GROWN, GROWN]
            assert images[1].endswith(tail or bytes(4096))
            assert images[2] == site.path.read_bytes()
            assert domain.consistent

    asyncio.run(scenario())


@pytest.mark.parametrize("format_name", ["raw", "flat", "stream"])
def test_recoveries_before_and_after_growth_have_the_size_of_their_point(
    tmp_path: Path, peer: Callable[[str], str], format_name: str
) -> None:
    async def scenario() -> tuple[list[Path], Path]:
        site = Site(tmp_path)
        before = await site.make()
        async with site.open() as domain:
            enlarge(site.path, GROWN, b"end".ljust(512))
            await domain.grow_disk("db01")
            after = await point(domain, "grown")
        disks = []
        for lsn in (before, after):
            report = await jetdr.rehydrate(site.store, at=lsn, target=tmp_path / str(lsn), format=format_name)
            disks.append(Path(report.disks[0].path))
        return disks, site.path

    (old, new), primary = asyncio.run(scenario())
    sizes = []
    for nth, disk in enumerate((old, new)):
        raw = tmp_path / f"{nth}.raw"
        source = ["-f", "raw" if format_name == "raw" else "vmdk"]
        subprocess.run([peer("qemu-img"), "convert", *source, "-O", "raw", disk, raw], check=True)
        sizes.append(raw.stat().st_size)
    assert sizes == [DISK_BYTES, GROWN]
    assert (tmp_path / "1.raw").read_bytes() == primary.read_bytes()


def test_calls_that_come_while_a_disk_grows_are_made_on_the_grown_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        site, failed, ended, written = Site(tmp_path), list[Exception](), threading.Event(), list[int]()
        await site.make()
        async with site.open() as domain:
            disk = domain.disk("db01")

            def work() -> None:
                try:
                    while not ended.is_set():
                        written.append(disk.write(0, b"guest".ljust(512)))
                        disk.read(0, 512)
                except Exception as error:  # noqa: BLE001 - asserted below
                    failed.append(error)

            guests = [threading.Thread(target=work) for _ in range(2)]
            for guest in guests:
                guest.start()
            enlarge(site.path, GROWN)
            await domain.grow_disk("db01")
            grown_at = len(written)
            await asyncio.to_thread(until, lambda: failed or len(written) > grown_at + 10)
            ended.set()
            for guest in guests:
                guest.join()
            assert not failed
            lsn = await point(domain, "grown")
            expected = disk.read(0, GROWN)
        assert (await recovered(site.store, lsn))["db01"] == expected

    asyncio.run(scenario())


def test_a_disk_that_has_failed_a_flush_does_not_grow_and_goes_on_to_say_so() -> None:
    async def scenario() -> None:
        primary = CrashDevice(DISK_BYTES)
        async with new_domain(fresh_store()) as domain:
            disk = await domain.protect("db01", primary)
            disk.write(0, b"lost".ljust(512))
            primary.fail_at(1, "transient")
            with pytest.raises(PrimaryFailed):
                disk.flush()
            primary.grow(GROWN)
            with pytest.raises(PrimaryAway, match="failed a flush"):
                await domain.grow_disk("db01")
            with pytest.raises(PrimaryFailed):
                disk.flush()

    asyncio.run(scenario())


def test_a_disk_that_has_shrunk_does_not_grow_and_names_the_remedy(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await site.make()
        async with site.open() as domain:
            os.truncate(site.path, DISK_BYTES // 2)
            with pytest.raises(InvalidRequest, match=r"it has shrunk, .*give it back its size"):
                await domain.grow_disk("db01")
            os.truncate(site.path, DISK_BYTES + 100)
            assert await domain.grow_disk("db01") == ""  # no whole sector more
            assert growths(domain) == [DISK_BYTES]

    asyncio.run(scenario())


def test_a_block_device_that_grew_while_it_was_closed_owes_its_new_end_only(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(DISK_BYTES))
    device = attach(image)

    async def scenario() -> None:
        site = Site(tmp_path, Path(device))
        async with new_domain(site.store, log=tmp_path / "log") as domain:
            (await domain.protect("db01", device)).write(0, b"before".ljust(512))
        enlarge(image, GROWN)
        await asyncio.to_thread(subprocess.run, ["losetup", "--set-capacity", device], check=True)
        async with site.open() as domain:
            disk = domain.disk("db01")
            assert disk.size_bytes == GROWN
            await point(domain, "grown")
            assert disk.stats().background_bytes == GROWN - DISK_BYTES
            assert (await recovered(site.store))["db01"] == image.read_bytes()

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_growth_that_could_not_be_logged_leaves_no_gap_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        site = Site(tmp_path)
        await site.make()
        async with site.open() as domain:
            control_log: Any = domain._alive.control_log
            append = control_log.append

            def full(body: object, *more: int) -> object:
                if isinstance(body, DiskGrow):
                    raise StallTimeout("the ring is full", hint="")
                return append(body, *more)

            monkeypatch.setattr(control_log, "append", full)
            enlarge(site.path, GROWN, b"end".ljust(512))
            with pytest.raises(StallTimeout):
                await domain.grow_disk("db01")
            await asyncio.to_thread(until, lambda: domain.consistent)
            monkeypatch.undo()
            assert "its new end holds data" in await domain.grow_disk("db01")
            await point(domain, "grown")
            assert (await recovered(site.store))["db01"] == site.path.read_bytes()

    asyncio.run(scenario())


# -- with a host component ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["write-through", "write-back"])
def made(request: pytest.FixtureRequest, peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=request.param) as one:
        yield one


def test_guests_see_the_new_size_when_they_connect_again_and_go_on_meanwhile(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=HOSTED_BYTES)
            with made.client() as old:
                old.write(0, b"before".ljust(512))
                enlarge(made.primary(), 2 * HOSTED_BYTES)
                await asyncio.to_thread(until, lambda: domain.status().disks[0].primary_bytes == 2 * HOSTED_BYTES)
                assert domain.disk("db01").size_bytes == HOSTED_BYTES
                assert await domain.grow_disk("db01") == ""
                old.write(4096, b"goes on".ljust(512))
                assert old.size_bytes == HOSTED_BYTES
                with made.client() as new:
                    assert new.size_bytes == 2 * HOSTED_BYTES
                    new.write(2 * HOSTED_BYTES - 512, b"the new end".ljust(512))
                    new.flush()
            assert domain.consistent
            assert gaps(domain) == []
            await assert_replica_equals_primary(domain, made)
            made.kill_host()
            await asyncio.to_thread(until, lambda: size_at(made) == 2 * HOSTED_BYTES)
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await domain.close(stop_host=False)
        async with made.open() as domain:
            assert domain.disk("db01").size_bytes == 2 * HOSTED_BYTES
            assert size_at(made) == 2 * HOSTED_BYTES
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def size_at(made: Machine) -> int:
    try:
        with made.client() as guest:
            return int(guest.size_bytes)
    except OSError:
        return 0


@pytest.mark.parametrize("stop_host", [True, False], ids=["host stopped", "host lives"])
def test_an_opening_takes_over_what_a_disk_grew_by(made: Machine, stop_host: bool) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=HOSTED_BYTES)
            await domain.close(stop_host=stop_host)
        enlarge(made.primary(), 2 * HOSTED_BYTES, b"old data".ljust(4096, b"+"))
        async with made.open() as domain:
            assert domain.disk("db01").size_bytes == 2 * HOSTED_BYTES
            assert size_at(made) == 2 * HOSTED_BYTES
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


class Hanging(FileDevice):
    """A device whose file system does not answer before ``answers`` is set."""

    answers = threading.Event()

    def look_at_size(self) -> int:
        self.answers.wait(60)
        return super().look_at_size()


def test_a_disk_whose_size_cannot_be_asked_for_keeps_no_other_disk_from_being_looked_at(made: Machine) -> None:
    Hanging.answers.clear()

    async def scenario() -> None:
        async with made.create() as domain:
            for name in ("db01", "db02"):
                await domain.protect(name, made.primary(name), size_bytes=HOSTED_BYTES)
            first = domain.disk("db01")
            first.primary = replace(first.primary, device=Hanging(made.primary(), direct=False, writable=False))
            enlarge(made.primary("db02"), 2 * HOSTED_BYTES)
            await asyncio.to_thread(until, lambda: domain.disk("db02").primary_bytes == 2 * HOSTED_BYTES)
            enlarge(made.primary("db02"), HOSTED_BYTES // 2)
            await asyncio.to_thread(until, lambda: domain.disk("db02").fault)
            enlarge(made.primary("db02"), HOSTED_BYTES)
            await asyncio.to_thread(until, lambda: not domain.disk("db02").fault)
            Hanging.answers.set()
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_shrinks_under_its_guest_is_taken_from_it_until_it_has_its_size(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=HOSTED_BYTES)
            with made.client() as guest:
                guest.write(HOSTED_BYTES - 512, b"cut off".ljust(512))
                guest.flush()
            await asyncio.to_thread(until, lambda: not domain._alive.parts.ring.primaries_lag or not made.write_back)
            os.truncate(made.primary(), HOSTED_BYTES // 2)
            await asyncio.to_thread(until, lambda: domain.disk("db01").fault)
            fault = domain.disk("db01").fault
            assert fault is not None
            assert "it has shrunk" in fault.reason
            assert "give it back its size" in fault.remedy
            assert not domain.consistent
            with closing(FileDevice(made.primary(), direct=False, lock=True)):
                os.truncate(made.primary(), HOSTED_BYTES)  # what was cut off is zeros now
            await asyncio.to_thread(until, lambda: not domain.disk("db01").fault)
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())
