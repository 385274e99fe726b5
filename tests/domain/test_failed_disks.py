"""One disk's fault is that disk's: the others are served and protected, and it returns with the copy that it owes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceBusy, InvalidRequest, NotConsistent, PrimaryAway
from tests.domain.hosted import DISK_BYTES, Drva, Machine, assert_replica_equals_primary, gaps, machine, until

pytestmark = pytest.mark.usefixtures("nbdkit")


@pytest.fixture
def nbdkit(peer: Callable[[str], str]) -> str:
    return peer("nbdkit")


@pytest.fixture(params=[False, True], ids=["write-through", "write-back"])
def made(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(write_back=request.param) as one:
        yield one


async def with_two_disks(made: Machine, *, stop_host: bool = True) -> None:
    """A domain with db01 and web01, which was closed in order."""
    async with made.create() as domain:
        for name in ("db01", "web01"):
            await domain.protect(name, made.primary(name), size_bytes=DISK_BYTES)
            with made.client(name) as guest:
                guest.write(0, name.encode().ljust(4096, b"."))
                guest.flush()
        await domain.close(stop_host=stop_host)


def fault(domain: jetdr.HostedDomain, name: str = "db01") -> str:
    """Why the disk has failed. Empty if it has not."""
    (disk,) = [disk for disk in domain.status().disks if disk.name == name]
    assert disk.failed == (disk.fault is not None)
    return disk.fault.reason if disk.fault is not None else ""


def served(made: Machine, name: str) -> bytes:
    with made.client(name) as guest:
        return guest.read(0, 512)[:5]


def is_served(made: Machine, name: str) -> bool:
    with suppress(OSError):
        return served(made, name) != b""
    return False


async def comes_back(domain: jetdr.HostedDomain) -> None:
    await asyncio.to_thread(until, lambda: not fault(domain))
    await asyncio.wait_for(domain.wait_consistent(), 30)


def removed(path: Path) -> None:
    path.unlink()


def shrunk(path: Path) -> None:
    os.truncate(path, DISK_BYTES // 2)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/disk")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_of_another_user(path: Path) -> None:
    path.symlink_to(path.rename(path.with_suffix(".aside")))
    os.chown(path, 4711, 4711, follow_symlinks=False)


@pytest.mark.parametrize("broken", [removed, shrunk, a_folder, a_pipe, a_link_to_nothing, a_link_of_another_user])
def test_without_one_disk_the_other_is_served_and_protected(made: Machine, broken: Callable[[Path], None]) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        broken(made.primary())
        async with made.open() as domain:
            assert fault(domain)
            assert not fault(domain, "web01")
            with made.client("web01") as guest:
                guest.write(4096, b"logged".ljust(512))
                guest.flush()
            with pytest.raises((ConnectionError, OSError)), made.client("db01"):
                pass
            with pytest.raises(NotConsistent, match="db01"):
                domain.mark("present")
            await domain.unprotect("db01")
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_is_back_is_served_by_itself_and_resynced(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        aside = made.primary().rename(made.folder / "aside")
        async with made.open() as domain:
            assert "there is nothing" in fault(domain)
            assert not domain.consistent
            with aside.open("r+b") as file:
                file.write(b"changed while it was away".ljust(512))
            aside.rename(made.primary())
            await comes_back(domain)
            assert served(made, "db01") == b"chang"
            await assert_replica_equals_primary(domain, made)
            assert len(gaps(domain)) == 1
            assert "'db01' failed" in gaps(domain)[0]
            await domain.close(stop_host=True)
        async with made.open() as domain:
            assert domain.consistent
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_failed_disk_stays_owed_over_restarts(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        aside = made.primary().rename(made.folder / "aside")
        for _ in range(2):
            async with made.open() as domain:
                assert fault(domain)
                assert not domain.consistent
                await domain.close(stop_host=True)
        aside.write_bytes(b"another".ljust(DISK_BYTES, b"?"))
        aside.rename(made.primary())
        async with made.open() as domain:
            await comes_back(domain)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_is_used_where_the_caller_says_it_is_now(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        moved = made.primary().rename(made.folder / "elsewhere.img")
        with moved.open("r+b") as file:
            file.write(b"moved".ljust(512))
        disks = {"db01": moved, "web01": made.primary("web01")}
        async with made.open(disks=disks) as domain:
            await asyncio.wait_for(domain.wait_consistent(), 30)
            assert domain.disk("db01").path == str(moved)
            assert served(made, "db01") == b"moved"
            moved.rename(made.primary())  # for the comparison alone
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_only_the_store_names_is_neither_opened_nor_served(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        before = made.primary().read_bytes()
        for stop_host in (False, True):  # with a host component that serves it still, and without
            async with made.open(disks={"web01": made.primary("web01")}) as domain:
                (disk,) = [disk for disk in domain.status().disks if disk.name == "db01"]
                assert disk.fault is not None
                assert (disk.path, disk.fault.is_named) == ("", False)
                assert f"the store says that it lies at {str(made.primary())!r}" in disk.fault.reason
                with pytest.raises((ConnectionError, OSError)), made.client("db01"):
                    pass
                assert not domain.consistent
                FileDevice(made.primary(), direct=False, lock=True).close()  # nobody has it open
                await domain.close(stop_host=stop_host)
        async with made.open(disks={"web01": made.primary("web01")}) as domain:
            await domain.unprotect("db01")
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await domain.close(stop_host=True)
        assert made.primary().read_bytes() == before

    asyncio.run(scenario())


def test_a_disk_that_is_left_out_while_its_guest_uses_it_is_withdrawn_and_owed(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made, stop_host=False)
        async with made.open(disks={"web01": made.primary("web01")}) as domain:
            assert not domain.consistent
            with pytest.raises((ConnectionError, OSError)), made.client("db01"):
                pass
            await domain.close(stop_host=False)
        made.primary().write_bytes(b"unprotected".ljust(DISK_BYTES, b"-"))
        async with made.open() as domain:
            await comes_back(domain)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_another_process_uses_comes_back_when_it_is_released(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        with closing(FileDevice(made.primary(), direct=False, lock=True)):
            async with made.open() as domain:
                assert "in use" in fault(domain)
                assert served(made, "web01") == b"web01"
                await domain.close(stop_host=True)
        async with made.open() as domain:
            await comes_back(domain)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_guest_goes_on_with_a_disk_that_only_this_process_cannot_open(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made, stop_host=False)
        with made.client("db01") as guest:
            aside = made.primary().rename(made.folder / "aside")
            async with made.open() as domain:
                assert fault(domain)
                guest.write(4096, b"goes on".ljust(512))
                guest.flush()
                aside.rename(made.primary())
                await asyncio.to_thread(until, lambda: not fault(domain))
                guest.write(8192, b"and on".ljust(512))
                guest.flush()
                await asyncio.wait_for(domain.wait_consistent(), 30)
                assert gaps(domain) == []
                await assert_replica_equals_primary(domain, made)
                await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_is_gone_when_the_host_component_dies_keeps_no_other_from_its_guest(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        async with made.open() as domain:
            ring = domain._alive.parts.ring
            await asyncio.to_thread(until, lambda: not ring.write_back or not ring.primaries_lag)
            aside = made.primary().rename(made.folder / "aside")
            made.kill_host()
            await asyncio.to_thread(until, lambda: fault(domain))
            await asyncio.to_thread(until, lambda: is_served(made, "web01"))
            assert served(made, "web01") == b"web01"
            assert not domain.consistent
            with aside.open("r+b") as file:
                file.write(b"changed while it was away".ljust(512))
            aside.rename(made.primary())
            await comes_back(domain)
            assert served(made, "db01") == b"chang"
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_is_elsewhere_now_is_served_from_there_by_a_living_host_component(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made, stop_host=False)
        copy = made.folder / "copy.img"
        copy.write_bytes(b"copy!".ljust(DISK_BYTES, b"."))
        async with made.open(disks={"db01": copy, "web01": made.primary("web01")}) as domain:
            await asyncio.wait_for(domain.wait_consistent(), 30)
            assert served(made, "db01") == b"copy!"
            copy.rename(made.primary())  # for the comparison alone
            await assert_replica_equals_primary(domain, made)
            assert any("another place" in gap for gap in gaps(domain))
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_failed_disk_is_served_from_where_it_was_moved_to(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        moved = made.primary().rename(made.folder / "elsewhere.img")
        async with made.open() as domain:
            assert "there is nothing" in fault(domain)
            assert "was moved to" in await domain.move_disk("db01", moved)
            assert domain.disk("db01").path == str(moved)
            assert served(made, "db01") == b"db01."
            await comes_back(domain)
            made.kill_host()
            await asyncio.to_thread(until, lambda: is_served(made, "db01"))
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await domain.close(stop_host=False)
        async with made.open(disks={"db01": moved, "web01": made.primary("web01")}) as domain:
            await asyncio.wait_for(domain.wait_consistent(), 30)
            moved.rename(made.primary())  # for the comparison alone
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_guest_goes_on_with_a_file_that_is_renamed_and_owes_nothing(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        async with made.open() as domain:
            with made.client("db01") as guest:
                with pytest.raises(InvalidRequest, match=r"is well at .*db01\.img"):
                    await domain.move_disk("db01", made.primary("copy"))
                renamed = made.primary().rename(made.folder / "renamed.img")
                assert await domain.move_disk("db01", renamed) == ""
                guest.write(8192, b"the same file".ljust(512))
                guest.flush()
                assert domain.consistent
                await domain.close(stop_host=False)
                async with made.open(disks={"db01": renamed, "web01": made.primary("web01")}) as again:
                    guest.write(4096, b"the same again".ljust(512))
                    guest.flush()
                    assert again.consistent
                    assert gaps(again) == []
                    renamed.rename(made.primary())  # for the comparison alone
                    await assert_replica_equals_primary(again, made)
                    await again.close(stop_host=True)

    asyncio.run(scenario())


def test_a_file_that_was_copied_and_removed_under_its_guest_is_resynced_from_the_copy(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        copy = made.folder / "copy.img"
        async with made.open() as domain:
            copy.write_bytes(b"copy!".ljust(DISK_BYTES, b"c"))
            made.primary().unlink()
            assert "was moved to" in await domain.move_disk("db01", copy)
            assert served(made, "db01") == b"copy!"
            await asyncio.wait_for(domain.wait_consistent(), 30)
            copy.rename(made.primary())  # for the comparison alone
            await assert_replica_equals_primary(domain, made)
            assert any("was moved to" in gap for gap in gaps(domain))
            await domain.close(stop_host=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [False], ids=["write-through"], indirect=True)
def test_no_other_copy_that_ends_closes_the_gap_of_a_disk_that_is_being_moved(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        copy, go_on, open_gaps = made.folder / "copy.img", threading.Event(), list[bool]()
        async with made.open() as domain:
            copy.write_bytes(bytes(DISK_BYTES))
            made.primary().unlink()
            alive = domain._alive
            assert alive is not None
            server = alive.mode._server  # type: ignore[attr-defined]
            fail, serve_moved = server.fail, server.serve_moved
            alive.copies._resync.submit(go_on.wait, 20)  # copies of other disks are at work

            def fail_as_another_copy_ends(*args: Any) -> None:
                fail(*args)
                alive.copies._close_gap_if_paid()

            def look_at_gap(*args: Any) -> None:
                open_gaps.append(alive.control_log.gap_open)
                serve_moved(*args)

            server.fail, server.serve_moved = fail_as_another_copy_ends, look_at_gap
            await domain.move_disk("db01", copy)
            go_on.set()
            assert open_gaps == [True]
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_place_that_is_in_use_or_too_small_is_refused_and_the_disk_stays_where_it_failed(made: Machine) -> None:
    async def scenario() -> None:
        await with_two_disks(made)
        aside = made.primary().rename(made.folder / "aside")
        small = made.folder / "small"
        small.write_bytes(bytes(DISK_BYTES // 2))
        async with made.open() as domain:
            with pytest.raises(InvalidRequest, match=f"has {DISK_BYTES // 2} bytes"):
                await domain.move_disk("db01", small)
            with closing(FileDevice(aside, direct=False, lock=True)), pytest.raises(DeviceBusy):
                await domain.move_disk("db01", aside)
            assert "there is nothing" in fault(domain)
            aside.rename(made.primary())
            await comes_back(domain)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [True], indirect=True, ids=["write-back"])
def test_a_disk_that_lacks_what_its_guest_was_told_is_safe_is_waited_for(made: Machine) -> None:
    async def scenario() -> None:
        with Drva(made, "create") as drva:
            with made.client() as guest:
                guest.write(0, b"acknowledged".ljust(512))
                guest.flush()
            drva.kill()
            made.kill_host()
        made.ring.unlink()  # the machine was switched off: what the log has is all there is
        aside = made.primary().rename(made.folder / "aside")
        aside.write_bytes(bytes(DISK_BYTES))  # the write had not reached it
        with pytest.raises(PrimaryAway, match="'db01' lacks writes that only the log of domain 'vm' has"):
            async with made.open():
                pass
        aside.rename(made.primary())
        async with made.open() as domain:
            assert served(made, "db01") == b"ackno"
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())
