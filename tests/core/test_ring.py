"""The ring: LSN order, time, admission, durability waits."""

from __future__ import annotations

import errno
import threading

import pytest

from jetdr_core._core import ManualClock, Ring
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced, InvalidRequest, LogFailed, StallTimeout
from jetdr_core.limits import RECORD_BYTES_MAX
from jetdr_core.record import Kind
from tests.core.rig import Rig


def test_lsns_are_dense_from_one_in_the_order_of_the_log() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    assert [disk.write(0, bytes([n]) * 512) for n in range(1, 6)] == [1, 2, 3, 4, 5]
    rig.commit_all()
    assert [record.lsn for record in rig.records()] == [1, 2, 3, 4, 5]


def test_time_never_decreases_along_lsn_when_the_clock_steps_back() -> None:
    clock = ManualClock(1000)
    rig = Rig(clock=clock)
    disk = rig.disk(MemoryDevice(1 << 20))
    disk.write(0, bytes(512))
    clock.set(400)
    disk.write(0, bytes(512))
    clock.set(1500)
    disk.write(0, bytes(512))
    rig.commit_all()
    assert [record.time_ns for record in rig.records()] == [1000, 1000, 1500]


def test_no_record_is_older_than_an_instant_observed_before_it() -> None:
    clock = ManualClock(5000)
    rig = Rig(clock=clock)
    assert rig.ring.observe() == (0, 5000)
    clock.set(10)
    assert rig.ring.control(Kind.MARK, 0, b"{}", stall_limit_s=1) == (1, 5000)


def test_a_full_ring_stalls_a_write_for_the_limit_and_changes_nothing() -> None:
    rig = Rig(ring_bytes=1 << 16, slots=16)
    primary = MemoryDevice(1 << 20)
    disk = rig.disk(primary, stall_limit_s=0.01)
    for n in range(4):
        disk.write(n << 14, b"a" * (1 << 14))
    with pytest.raises(StallTimeout, match="accepted nothing more within the stall limit"):
        disk.write(0, b"b" * 512)
    assert disk.read(0, 512) == b"a" * 512
    assert disk.stats().stalls == 1
    rig.commit_all()
    assert disk.write(0, b"b" * 512) == 5


def test_the_slots_bound_the_ring_as_the_bytes_do() -> None:
    rig = Rig(slots=16)
    disk = rig.disk(MemoryDevice(1 << 20), stall_limit_s=0)
    for _ in range(15):  # one slot less than there are: its end is where the ring's tail stands
        disk.zero(0, 512)
    with pytest.raises(StallTimeout):
        disk.zero(0, 512)


def test_a_stalled_long_write_is_not_starved_by_short_ones() -> None:
    rig = Rig(ring_bytes=1 << 16, log_bytes=64 << 20)
    disk = rig.disk(MemoryDevice(1 << 20))
    rig.writer.start()
    stop = threading.Event()

    def short_writes() -> None:
        while not stop.is_set():
            disk.write(0, bytes(512))

    threads = [threading.Thread(target=short_writes) for _ in range(3)]
    for thread in threads:
        thread.start()
    lsns = [disk.write(1 << 16, b"x" * (1 << 14)) for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()
    rig.writer.stop()
    assert lsns == sorted(lsns)
    assert disk.stats().failed_writes == 0


def test_a_wait_for_durability_ends_at_its_limit() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    lsn = disk.write(0, bytes(512))
    assert not rig.ring.wait_durable(lsn, 0.01)
    rig.commit_all()
    assert rig.ring.wait_durable(lsn, 0)


def test_a_wish_beyond_the_last_lsn_takes_no_flush_from_others() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    rig.ring.request_durable(1 << 62)
    assert not rig.ring.wait_durable(1 << 62, 0)
    lsn = disk.write(0, bytes(512))
    rig.ring.request_durable(lsn)
    rig.writer.commit()
    assert rig.ring.lsn_durable == lsn


def test_a_flush_that_the_log_does_not_answer_says_that_nothing_is_lost() -> None:
    disk = Rig().disk(MemoryDevice(1 << 20), stall_limit_s=0.01)
    disk.write(0, bytes(512))
    with pytest.raises(StallTimeout, match="did not become durable within the stall limit; nothing is lost"):
        disk.flush()


@pytest.mark.parametrize("error", [0, -5, 1 << 20])
def test_a_ring_is_poisoned_with_an_errno_or_not_at_all(error: int) -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    with pytest.raises(InvalidRequest, match="use an errno"):
        rig.ring.poison(error)
    assert disk.write(0, bytes(512)) == 1


def test_a_poisoned_ring_names_the_failure_to_every_writer() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    lsn = disk.write(0, bytes(512))
    rig.ring.poison(errno.ENOSPC)
    with pytest.raises(LogFailed, match="No space left"):
        disk.write(0, bytes(512))
    with pytest.raises(LogFailed):
        rig.ring.wait_durable(lsn, 1)


def test_a_fenced_ring_refuses_writes_and_changes_nothing() -> None:
    rig = Rig()
    primary = MemoryDevice(1 << 20)
    disk = rig.disk(primary)
    rig.ring.poison(1, fence=("payroll", 3, 4))
    with pytest.raises(Fenced, match="epoch 3 was fenced by epoch 4"):
        disk.write(0, b"x" * 512)
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize(("payload_bytes", "slots"), [(1000, 16), (1 << 16, 17), (0, 16), (1 << 15, 16), (1 << 16, 8)])
def test_a_ring_of_odd_size_is_refused(payload_bytes: int, slots: int) -> None:
    with pytest.raises(InvalidRequest, match="powers of two"):
        Ring(payload_bytes=payload_bytes, slots=slots, lsn_next=1)


def test_a_record_has_at_most_half_of_the_ring_and_what_was_asked_for() -> None:
    assert Ring(payload_bytes=1 << 16, slots=16, lsn_next=1).record_bytes_max == 1 << 15
    assert Ring(payload_bytes=128 << 20, slots=16, lsn_next=1).record_bytes_max == RECORD_BYTES_MAX
    assert Ring(payload_bytes=1 << 16, slots=16, lsn_next=1, record_bytes_max=4096).record_bytes_max == 4096
    with pytest.raises(InvalidRequest, match="at most half the bytes"):
        Ring(payload_bytes=1 << 16, slots=16, lsn_next=1, record_bytes_max=(1 << 15) + 512)
