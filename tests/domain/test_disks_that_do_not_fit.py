"""Whatever is wrong with one disk, the domain opens, the other disks are protected, and the remedy that is named works.

Here this process has the disks. tests/domain/test_failed_disks.py has the same with a host component.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.device import FileDevice
from jetdr_core.domain import primary as primary_module
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.errors import InvalidRequest, NotConsistent, PrimaryAway
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, new_domain, recovered, within
from tests.peers.loop import loop_device
from tests.peers.sick_disk import sick_disk

Find = Callable[[str], str]


class Site:
    """A domain with db01, which is at ``path``, and web01."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.store, self.folder, self.path = fresh_store(), folder, path
        self.disks = {"db01": path, "web01": folder / "web01.img"}

    async def make(self) -> None:
        async with new_domain(self.store, log=self.folder / "log") as domain:
            for name, path in self.disks.items():
                disk = await domain.protect(name, path, size_bytes=DISK_BYTES)
                disk.write(0, name.encode().ljust(512, b"."))

    def open(self, **more: Any) -> jetdr.ProtectedDomain:
        settings: dict[str, Any] = {"disks": self.disks, "options": QUICK} | more
        return jetdr.ProtectedDomain.open("payroll", log=self.folder / "log", store=self.store, **settings)


@contextmanager
def missing(path: Path) -> Iterator[None]:
    aside = path.rename(path.with_suffix(".aside"))
    yield
    aside.rename(path)


@contextmanager
def shrunk(path: Path) -> Iterator[None]:
    os.truncate(path, DISK_BYTES // 2)
    yield
    os.truncate(path, DISK_BYTES)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    with contextlib.closing(FileDevice(path, direct=False, lock=True)):
        yield


@contextmanager
def a_folder(path: Path) -> Iterator[None]:
    with missing(path):
        path.mkdir()
        yield
        path.rmdir()


@contextmanager
def a_pipe(path: Path) -> Iterator[None]:
    with missing(path):
        os.mkfifo(path)
        yield
        path.unlink()


@contextmanager
def a_link_of_another_user(path: Path) -> Iterator[None]:
    with missing(path):
        path.symlink_to(path.with_suffix(".aside"))
        os.chown(path, 4711, 4711, follow_symlinks=False)
        yield
        path.unlink()


@contextmanager
def below_a_file(path: Path) -> Iterator[None]:
    """What the path's folder was is a file: ENOTDIR."""
    aside = path.parent.rename(path.parent.with_suffix(".aside"))
    path.parent.touch()
    yield
    path.parent.unlink()
    aside.rename(path.parent)


WAYS: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[None]], str]] = {
    "missing": (missing, "there is nothing at its path; is the file system mounted?"),
    "shrunk": (shrunk, f"has {DISK_BYTES // 2} bytes, expected {DISK_BYTES}"),
    "in use": (in_use, "in use"),
    "a folder": (a_folder, "Is a directory"),
    "a pipe": (a_pipe, "neither a regular file nor a block device"),
    "another user's link": (a_link_of_another_user, "symbolic link"),
    "below a file": (below_a_file, "there is nothing at its path"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_does_not_fit_is_a_failed_disk_of_an_open_domain(way: str, tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    site, (broken, words) = Site(tmp_path, tmp_path / "vm" / "db01.img"), WAYS[way]

    async def scenario() -> None:
        await site.make()
        await remedied(site, broken, words)

    asyncio.run(scenario())


async def remedied(site: Site, broken: Callable[[Path], contextlib.AbstractContextManager[None]], words: str) -> None:
    """With db01 broken the rest works. When it is well, one call takes it back."""
    with contextlib.ExitStack() as until_well:
        until_well.enter_context(broken(site.path))
        domain = await site.open().__aenter__()
        try:
            fault = domain.disk("db01").fault
            assert fault is not None
            assert words in fault.reason
            assert "move-disk" in fault.remedy
            assert "unprotect" in fault.remedy
            await the_rest_works(domain, site)
            until_well.close()
            assert "db01" in await domain.move_disk("db01", site.path)
            await within(20, domain.wait_consistent())
            await equals_primaries(domain, site)
        finally:
            await domain.close()
    async with site.open(disks=site.disks | {"new01": site.folder / "new01.img"}) as domain:
        assert domain.consistent


async def the_rest_works(domain: jetdr.ProtectedDomain, site: Site) -> None:
    db01, web01 = domain.disk("db01"), domain.disk("web01")
    for call in (lambda: db01.write(0, bytes(512)), lambda: db01.read(0, 512), db01.flush, lambda: db01.zero(0, 512)):
        with pytest.raises(PrimaryAway):
            call()
    web01.write(4096, b"goes on".ljust(512))
    web01.flush()
    with pytest.raises(NotConsistent, match="db01"):
        domain.mark("present")
    with pytest.raises(PrimaryAway, match="'db01'"):
        await within(10, domain.wait_consistent())
    new = site.folder / "new01.img"
    new.write_bytes(b"new".ljust(DISK_BYTES, b"n"))
    await within(20, domain.protect("new01", new))
    status = {disk.name: disk for disk in domain.status().disks}
    assert status["db01"].failed
    assert status["new01"].ready


async def equals_primaries(domain: jetdr.ProtectedDomain, site: Site) -> None:
    point = domain.mark("checked")
    await domain.uploaded(point.lsn)
    images = await recovered(site.store, point.lsn)
    assert images.keys() == domain.disks.keys()
    for name, image in images.items():
        assert image == Path(domain.disk(name).path).read_bytes(), name  # noqa: ASYNC240 - small


@contextmanager
def block_device(peer: Find, folder: Path) -> Iterator[tuple[Site, Any]]:
    with sick_disk(peer, folder, "1M", mounted=False) as sick:
        site = Site(folder, Path(sick.device))
        yield site, sick


def do(*command: object, check: bool = True) -> None:
    subprocess.run([str(word) for word in command], check=check)


def test_a_mounted_device_is_a_failed_disk(peer: Find, tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        await site.make()
        do(peer("mkfs.ext4"), "-q", "-F", site.path)
        do("mount", site.path, tmp_path / "mnt")
        try:
            async with site.open() as domain:
                fault = domain.disk("db01").fault
                assert fault is not None
                assert "is mounted" in fault.reason
                await the_rest_works(domain, site)
                with pytest.raises(jetdr.errors.DeviceBusy, match="is mounted"):
                    await domain.move_disk("db01", site.path)
                do("umount", site.path)
                await domain.move_disk("db01", site.path)
                await within(20, domain.wait_consistent())
        finally:
            do("umount", "--quiet", tmp_path / "mnt", check=False)

    (tmp_path / "mnt").mkdir()
    with loop_device(tmp_path / "image", DISK_BYTES) as device:
        asyncio.run(scenario(Site(tmp_path, Path(device))))


@pytest.mark.parametrize(("way", "words"), [("fail", "Input/output error"), ("hang", "has not answered")])
def test_a_device_that_fails_or_hangs_is_a_failed_disk(
    peer: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, words: str
) -> None:
    monkeypatch.setattr(primary_module, "PLACE_LIMIT_S", 0.5)

    async def scenario(site: Site, sick: Any) -> None:
        async with new_domain(site.store, log=site.folder / "log") as domain:
            await domain.protect("db01", site.path)
            await domain.protect("web01", site.disks["web01"], size_bytes=DISK_BYTES)
        sick.forget_device()
        getattr(sick, way)()
        with sick.well_at_the_end():
            async with site.open() as domain:
                fault = domain.disk("db01").fault
                assert fault is not None
                assert words in fault.reason
                await the_rest_works(domain, site)
                sick.go_on()
                sick.heal()
                await within(20, comes_back(domain, site))
                await within(20, domain.wait_consistent())

    with block_device(peer, tmp_path) as (site, sick):
        asyncio.run(scenario(site, sick))


async def comes_back(domain: jetdr.ProtectedDomain, site: Site) -> None:
    """What hung while it was opened has the device until it is closed."""
    while domain.disk("db01").fault is not None:
        with contextlib.suppress(jetdr.errors.DeviceBusy, PrimaryAway):
            await domain.move_disk("db01", site.path)
        await asyncio.sleep(0.05)


# -- a disk that is elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_content", [False, True])
def test_a_disk_that_was_moved_while_it_was_not_there_is_resynced_from_its_new_place(
    tmp_path: Path, other_content: bool
) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        moved = site.path.rename(tmp_path / "elsewhere.img")
        if other_content:
            moved.write_bytes(b"restored from a backup".ljust(DISK_BYTES, b"r"))
        async with site.open() as domain:
            assert "was moved to" in await domain.move_disk("db01", moved)
            await within(20, domain.wait_consistent())
            assert domain.disk("db01").path == str(moved)
            domain.disk("db01").write(8192, b"there".ljust(512))
            await equals_primaries(domain, site)
        async with site.open(disks=site.disks | {"db01": moved}) as domain:
            assert domain.consistent

    asyncio.run(scenario())


def test_a_disk_that_is_renamed_while_it_is_open_is_not_resynced(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        async with site.open() as domain:
            renamed = site.path.rename(tmp_path / "renamed.img")
            assert await domain.move_disk("db01", renamed) == ""
            assert domain.consistent
            domain.disk("db01").write(0, b"the same file".ljust(512))
            await equals_primaries(domain, site)

    asyncio.run(scenario())


def test_a_disk_whose_file_is_replaced_while_it_is_open_is_resynced_within_a_gap(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        async with site.open() as domain:
            copy = tmp_path / "copy.img"
            copy.write_bytes(b"copied to another datastore".ljust(DISK_BYTES, b"c"))
            site.path.unlink()
            assert "was moved to" in await domain.move_disk("db01", copy)
            await within(20, domain.wait_consistent())
            await equals_primaries(domain, site)

    asyncio.run(scenario())


def test_no_other_copy_that_ends_closes_the_gap_of_a_disk_that_is_being_moved(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        async with site.open() as domain:
            disk, copy, open_gaps = domain.disk("db01"), tmp_path / "copy.img", list[bool]()
            copy.write_bytes(bytes(DISK_BYTES))
            site.path.unlink()
            alive, adopt = domain._alive, disk.adopt
            assert alive is not None
            other = threading.Thread(target=alive.copies._close_gap_if_paid)

            def adopt_as_another_copy_ends(*args: Any) -> None:
                other.start()
                other.join(0.2)
                adopt(*args)
                open_gaps.append(alive.control_log.gap_open)

            setattr(disk, "adopt", adopt_as_another_copy_ends)  # noqa: B010 - the disk has it as a method
            await domain.move_disk("db01", copy)
            other.join()
            assert open_gaps == [True]

    asyncio.run(scenario())


def test_what_could_lose_a_write_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        copy, small = tmp_path / "copy.img", tmp_path / "small.img"
        copy.write_bytes(bytes(DISK_BYTES))
        small.write_bytes(bytes(DISK_BYTES // 2))
        async with site.open() as domain:
            with pytest.raises(InvalidRequest, match=r"is well at .*db01.img.*; stop its guest, move the file"):
                await domain.move_disk("db01", copy)
            with pytest.raises(InvalidRequest, match="is where disk 'web01' is"):
                await domain.move_disk("db01", site.disks["web01"])
            with pytest.raises(InvalidRequest, match="protects no disk 'db02'"):
                await domain.move_disk("db02", copy)
            site.path.unlink()
            for path, error in ((small, InvalidRequest), (tmp_path, OSError), (tmp_path / "absent", FileNotFoundError)):
                with pytest.raises(error):
                    await domain.move_disk("db01", path)
            assert domain.consistent
            domain.disk("db01").write(0, b"to the file that was open".ljust(512))
            assert domain.disk("db01").path == str(site.path)

    asyncio.run(scenario())


def test_a_disk_that_is_lost_is_given_up_and_its_points_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        site = Site(tmp_path, tmp_path / "db01.img")
        await site.make()
        site.path.unlink()
        async with site.open() as domain:
            lsn = domain.status().lsn_recovered
            await domain.unprotect("db01")
            await within(20, domain.wait_consistent())
            await equals_primaries(domain, site)
            assert (await recovered(site.store, lsn))["db01"][:4] == b"db01"
        async with site.open(disks={"web01": site.disks["web01"]}) as domain:
            assert domain.consistent

    asyncio.run(scenario())


def test_a_fault_tells_what_the_system_said_with_its_remedy_and_no_number() -> None:
    fault = DiskFault.of(OSError(errno.EROFS, "host component: /vm/db01.img: Read-only file system"))
    assert fault.reason.startswith("host component: /vm/db01.img: Read-only file system; the file system is mounted")
    assert "jetdr move-disk" in fault.remedy
