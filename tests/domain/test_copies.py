"""What is owed, and when it is paid: every disk that a history can have, and what is said of one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from jetdr_core._core import IoFilter, Ring
from jetdr_core.catalog import DomainHistory
from jetdr_core.control_bodies import DiskAdd
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.primary import Primary
from jetdr_core.resync import Region
from tests.domain.fixture import DISK_BYTES, Gate


@dataclass
class Site:
    """A domain without a log: its disks copy into a ring that nobody drains, once their gates are open."""

    ring: Ring
    control_log: ControlLog
    copies: Copies

    def add(self, name: str, *, ready: bool) -> tuple[Disk, Gate]:
        """A protected disk with data, whose initial copy is complete or not."""
        number, gate = self.control_log.history.disk_next, Gate(DISK_BYTES)
        gate.write(0, b"x" * 512)
        io_filter = IoFilter(
            self.ring, gate, disk=number, size_bytes=DISK_BYTES, record_bytes_max=1 << 16, stall_limit_s=1
        )
        disk = Disk(number, name, Primary(gate, ""), io_filter, self.copies.owe_suspect)
        self.control_log.append(DiskAdd(name, "uuid", DISK_BYTES, "", holds_data=not ready), number)
        with self.control_log.lock:
            self.copies.attach(disk)
        return disk, gate

    def wait(self) -> None:
        asyncio.run(asyncio.wait_for(self.copies.wait(), 20))


class LateMap:
    """A dirty map of which the first region comes to be owed only when the writes in flight have ended."""

    def __init__(self) -> None:
        self._owed = deque[Region]()

    @property
    def owed_bytes(self) -> int:
        return sum(region.length for region in self._owed)

    def look(self) -> None:
        return None

    def owes_any(self) -> bool:
        return bool(self._owed)

    surely_owes = False

    def settle(self) -> None:
        self._owed.append(Region(0, 512, hole=False))

    def owed_regions(self, _primary: Primary) -> Iterator[Region]:
        while self._owed:
            yield self._owed.popleft()


@contextmanager
def site() -> Iterator[Site]:
    ring = Ring(payload_bytes=4 << 20, slots=1024, lsn_next=1)
    control_log = ControlLog("vm", ring, DomainHistory(), record_bytes_max=1 << 16, stall_limit_s=1)
    copies = Copies(ring, control_log, is_crowded=lambda: False)
    with ExitStack() as ended:
        ended.callback(copies.stop)
        yield Site(ring, control_log, copies)


@pytest.mark.parametrize("ready", [False, True], ids=["new", "ready"])
@pytest.mark.parametrize("gap", ["", "unclean stop"], ids=["no gap", "gap"])
def test_a_gap_owes_every_disk_a_copy_and_otherwise_only_new_disks_are_owed_one(*, ready: bool, gap: str) -> None:
    with site() as here:
        disk, gate = here.add("db01", ready=ready)
        if gap:
            here.control_log.open_gap(gap)
        here.copies.owe_known()
        assert here.copies.owes_any == (not ready or bool(gap))
        assert here.copies.gap_owed == (gap if ready else "")
        gate.open.set()
        here.wait()
        assert here.control_log.is_ready(disk.number)
        assert not here.copies.owes_any


def test_after_a_bypass_all_disks_are_copied_and_only_then_the_gap_ends() -> None:
    with site() as here:
        first, first_gate = here.add("db01", ready=True)
        second, second_gate = here.add("web01", ready=False)
        here.copies.owe_all("the ring was full")
        assert here.copies.gap_owed == "the ring was full"
        second_gate.open.set()
        assert first_gate.reading.wait(20)
        assert here.control_log.gap_open
        first_gate.open.set()
        here.wait()
        assert not here.control_log.gap_open
        assert [gap.reason for gap in here.control_log.history.gaps] == ["the ring was full"]
        assert here.control_log.history.consistent
        assert {disk.copy.copied_bytes for disk in (first, second)} == {DISK_BYTES}


def test_a_gap_lasts_until_the_last_of_several_disks_is_resynced() -> None:
    with site() as here:
        _, first_gate = here.add("db01", ready=True)
        _, second_gate = here.add("web01", ready=True)
        here.control_log.open_gap("unclean stop")
        here.copies.owe_known()
        first_gate.open.set()
        assert second_gate.reading.wait(20)  # the first disk is complete
        assert here.control_log.gap_open
        second_gate.open.set()
        here.wait()
        assert not here.control_log.gap_open
        assert len(here.control_log.history.gaps) == 1, "no moment in between was a recovery point"


def test_a_gap_that_gives_no_reason_owes_copies_all_the_same() -> None:
    with site() as here:
        _, gate = here.add("db01", ready=True)
        here.control_log.open_gap("")
        here.copies.owe_known()
        assert here.copies.gap_owed
        assert gate.reading.wait(20)
        assert here.control_log.gap_open
        gate.open.set()
        here.wait()
        assert not here.control_log.gap_open


def test_a_suspect_disk_is_owed_a_resync_only_while_it_is_protected_and_the_domain_open() -> None:
    with site() as here:
        disk, gate = here.add("db01", ready=True)
        other, _ = here.add("web01", ready=True)
        gate.open.set()
        with here.control_log.lock:
            here.copies.forget(other)
        here.copies.owe_suspect(other)
        assert not here.copies.owes_any
        here.copies.owe_suspect(disk)
        here.wait()
        assert [gap.reason for gap in here.control_log.history.gaps] == ["disk db01 failed a write"]
        here.copies.stop()
        here.copies.owe_suspect(disk)
        assert not here.copies.owes_any


def test_a_copy_waits_for_writes_in_flight_whose_regions_are_not_owed_yet() -> None:
    """They bypassed the log. Otherwise it would find that nothing is owed, and close the gap."""
    with site() as here:
        disk, gate = here.add("db01", ready=True)
        gate.open.set()
        disk.map = LateMap()  # type: ignore[assignment]
        here.control_log.open_gap("writes bypassed the log")
        here.copies.owe_all("writes bypassed the log")
        here.wait()
        assert disk.copy.copied_bytes == 512
        assert not here.control_log.gap_open
