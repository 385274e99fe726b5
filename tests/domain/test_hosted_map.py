"""The dirty map of a disk that a host component serves: after any death what it owes is copied, and no more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core._core import MapStart, MapState
from jetdr_core.domain.generation import Generation
from jetdr_core.host import HostControl, MapRequest
from tests.domain.hosted import (
    DISK_BYTES,
    Drva,
    Machine,
    assert_replica_equals_primary,
    assert_whole_and_end,
    gaps,
    machine,
    until,
)

REGION = 64 << 10
LATE = (3, 17, 40)
"""The regions that are written to last."""


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine() as one:
        yield one


def sidecar(made: Machine) -> Path:
    return Path(f"{made.primary()}.jetdr-map")


def clear_map(made: Machine) -> None:
    """Have everything that can be cleared be cleared."""
    with closing(made.host.control) as control:
        while _map(control).marked_bytes:
            control.tend_map(1)


def state(made: Machine) -> MapState:
    """How the map is, as the host component says."""
    with closing(made.host.control) as control:
        return _map(control)


def relies_on(made: Machine) -> int:
    """Up to which LSN the first block of the sidecar relies on the log for what it has cleared."""
    return int.from_bytes(sidecar(made).read_bytes()[4096 + 32 : 4096 + 40], "little")


def is_served(made: Machine) -> bool:
    with closing(made.host.control) as control:
        return 1 in control.stats()


def _map(control: HostControl) -> MapState:
    found = control.stats()[1].map
    assert found is not None
    return found


def write(made: Machine, regions: tuple[int, ...] = LATE) -> None:
    with made.client() as guest:
        for region in regions:
            guest.write(region * REGION + 4096, os.urandom(4096))


def fill(made: Machine) -> None:
    """Let a guest fill the disk, and have the map cleared."""
    with made.client() as guest:
        for offset in range(0, DISK_BYTES, 1 << 20):
            guest.write(offset, os.urandom(1 << 20))
        guest.flush()
    clear_map(made)


def lose_power(made: Machine) -> None:
    """The ring goes with the machine's memory, and so does everything beside it."""
    for path in (made.folder / "run/vm").iterdir():
        path.unlink()


async def reopen(made: Machine) -> int:
    """Open the domain, wait until it is consistent, and compare. Returns the bytes that were copied."""
    async with made.open() as domain:
        await asyncio.wait_for(domain.wait_consistent(), 20)
        copied = domain.status().disks[0].copied_bytes
        await assert_whole_and_end(domain, made)
    return copied


# -- deaths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["host", "both", "power"])
def test_after_a_death_only_what_was_marked_is_copied(made: Machine, death: str) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        write(made)
        if death != "host":
            drva.kill()
            write(made, (50,))  # of this the log has nothing
        made.kill_host()
        if death == "host":
            assert drva.ask("wait")["disks"][0]["copied_bytes"] == len(LATE) * REGION
            assert drva.ask("equal")
            drva.close(stop_host=True)
            return
    if death == "power":
        lose_power(made)
    assert asyncio.run(reopen(made)) == (len(LATE) + 1) * REGION
    assert asyncio.run(reopen(made)) == 0, "the domain was closed clean"


def test_a_drva_that_dies_costs_no_copy_and_clears_nothing(made: Machine) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
        write(made)
        with closing(made.host.control) as control:
            for _ in range(3):
                control.tend_map(1)
        assert state(made).marked_bytes == len(LATE) * REGION
    assert asyncio.run(reopen(made)) == 0


def test_writes_that_bypassed_the_log_while_no_drva_was_there_are_all_that_is_copied(made: Machine) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
        with made.client() as guest:
            guest.write(0, b"a" * 512)
            guest.flush()  # waits for the stall limit, and then logging is off
        write(made)
    assert asyncio.run(reopen(made)) == len(LATE) * REGION


def test_a_resync_that_is_cut_off_by_deaths_goes_on_with_what_is_left(made: Machine) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
        made.kill_host()
        lose_power(made)
    for module, name in (
        ("jetdr_core.domain.control_log", "ControlLog.open_gap"),
        ("jetdr_core.host.host_client", "HostControl.add_mapped"),
        ("jetdr_core.domain.hosting.hosted_map", "HostedMap.settle"),
    ):
        with Drva(made, "open", dies_at=(module, name), expect_open=False) as drva:
            drva.died()
        if made.host.running():
            if is_served(made):
                write(made)
            made.kill_host()
    asyncio.run(reopen(made))


def test_a_map_that_has_another_name_too_is_neither_believed_nor_written_to(made: Machine) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
        made.kill_host()
    elsewhere = made.folder / "elsewhere"
    elsewhere.hardlink_to(sidecar(made))
    before = elsewhere.read_bytes()
    assert asyncio.run(reopen(made)) == DISK_BYTES
    assert elsewhere.read_bytes() == before


# -- bypass ------------------------------------------------------------------------------------------------------------


def test_after_a_bypass_exactly_the_regions_that_were_written_are_copied(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
            await asyncio.to_thread(fill, made)
            await asyncio.to_thread(write, made, (60,))  # marked, but not owed
            domain._alive.parts.ring.stop_logging()
            await asyncio.to_thread(write, made)
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert len(gaps(domain)) == 1
            db01, web01 = domain.status().disks
            assert (db01.copied_bytes, web01.copied_bytes) == (len(LATE) * REGION, 0)
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


# -- doubts ------------------------------------------------------------------------------------------------------------


def restore_disk(made: Machine) -> None:
    """Restore the disk from a backup, which lacks what was written since."""
    made.folder.joinpath("restored").write_bytes(bytes(DISK_BYTES))
    made.folder.joinpath("restored").rename(made.primary())


@pytest.mark.parametrize(
    "doubt",
    [
        lambda made: sidecar(made).unlink(),
        lambda made: sidecar(made).chmod(0o666),
        restore_disk,
    ],
    ids=["lost", "of others", "disk restored"],
)
def test_a_map_in_doubt_costs_a_full_copy_and_the_log_says_why(
    made: Machine, doubt: Callable[[Machine], object], caplog: pytest.LogCaptureFixture
) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
        made.kill_host()
    doubt(made)
    lose_power(made)
    assert asyncio.run(reopen(made)) == DISK_BYTES
    assert "db01: all of it is to be copied: " in caplog.text


def test_a_disk_that_was_changed_while_the_domain_was_closed_is_copied(made: Machine) -> None:
    async def scenario() -> None:
        async with made.open() as domain:
            assert "db01" in domain.status().changed
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert domain.status().disks[0].copied_bytes == DISK_BYTES
            await assert_whole_and_end(domain, made)

    with Drva(made, "create") as drva:
        fill(made)
        drva.close(stop_host=True)
    with open(made.primary(), "r+b") as disk:
        disk.seek(5 * REGION)
        disk.write(os.urandom(512))
    asyncio.run(scenario())


@pytest.mark.parametrize("changed", [True, False])
def test_a_disk_is_copied_if_it_was_changed_while_its_host_component_was_ended(made: Machine, changed: bool) -> None:
    async def scenario() -> None:
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert (domain.status().disks[0].copied_bytes, len(gaps(domain))) == (changed * DISK_BYTES, changed)
            await assert_whole_and_end(domain, made)

    with Drva(made, "create") as drva:
        fill(made)
        drva.kill()
    made.host.stop()
    if changed:
        with open(made.primary(), "r+b") as disk:
            disk.seek(5 * REGION)
            disk.write(os.urandom(512))
    asyncio.run(scenario())


def test_an_appliance_without_maps_leaves_everything_owed(made: Machine) -> None:
    with Drva(made, "create") as drva:
        fill(made)
        with closing(made.host.control) as control:
            assert control.owed(1, 0) is None
            control.add(1, DISK_BYTES, 0, "db01", str(made.primary()))  # as an earlier release does
            assert control.owed(1, 0) == (0, DISK_BYTES)
        drva.kill()


def test_a_domain_taken_over_with_a_new_log_believes_no_map(made: Machine) -> None:
    async def scenario() -> int:
        async with made.take_over() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            copied = domain.status().disks[0].copied_bytes
            await assert_whole_and_end(domain, made)
        return copied

    with Drva(made, "create") as drva:
        fill(made)
        assert drva.ask("equal"), "the store knows the disk by now"
        drva.kill()
    made.log = made.folder / "log2"
    assert asyncio.run(scenario()) == DISK_BYTES


# -- a disk that grows -------------------------------------------------------------------------------------------------


def test_the_map_of_a_disk_that_has_grown_goes_on(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            disk = await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await asyncio.to_thread(fill, made)
            await asyncio.to_thread(write, made)
            os.truncate(made.primary(), 2 * DISK_BYTES)
            await asyncio.to_thread(until, lambda: disk.primary_bytes == 2 * DISK_BYTES)
            relied_on = relies_on(made)
            await domain.grow_disk("db01")
            assert relies_on(made) >= relied_on > 0
            await asyncio.to_thread(write, made, (100,))
            await asyncio.to_thread(made.kill_host)
            await asyncio.to_thread(until, lambda: domain.status().host.restarts == 1)  # type: ignore[union-attr]
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert domain.status().disks[0].copied_bytes == (len(LATE) + 1) * REGION
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_growths_that_are_asked_for_at_once_leave_one_thread_that_clears_the_map(made: Machine) -> None:
    """As when a growth was given up, because a flush of the primary hung, and is asked for again."""
    request = MapRequest(MapStart.MARKED, 0, 0, str(Generation(0)), str(Generation(0)), 0, 0)

    def grow(size_bytes: int) -> None:
        with closing(made.host.control) as control:
            control.add_mapped(1, size_bytes, "db01", str(made.primary()), request)

    def threads() -> int:
        return len(os.listdir(f"/proc/{pid}/task"))

    with Drva(made, "create") as drva, ThreadPoolExecutor(8) as pool:
        pid = made.host.pid
        before = threads()
        drva.kill()
        for size_bytes in range(DISK_BYTES + (1 << 20), DISK_BYTES + (9 << 20), 1 << 20):
            os.truncate(made.primary(), size_bytes)
            list(pool.map(grow, [size_bytes] * 8))
        until(lambda: threads() <= before, 5)
        assert state(made).owed_bytes == 0


def test_a_sidecar_that_cannot_be_made_costs_only_a_copy(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create(options=jetdr.DomainOptions(map_folder="/nowhere", segment_age_s=0.05)) as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await asyncio.to_thread(fill, made)
            await asyncio.to_thread(until, lambda: domain.status().disks[0].map_failure is not None)
            await asyncio.to_thread(made.kill_host)
            await asyncio.to_thread(until, lambda: domain.status().host.restarts == 1)  # type: ignore[union-attr]
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert domain.status().disks[0].copied_bytes == DISK_BYTES
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())
