"""Backpressure: how long the writes of a disk wait while the log fills, and what that may cost a guest."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from jetdr_core._core import IoFilter, OffReason
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import StallTimeout
from tests.core.host import Host, Shared, program, shared_ring, until
from tests.core.rig import Rig, replay

SIZE = 1 << 20
PIECE = 64 << 10


@pytest.mark.parametrize(
    "promise", ["light", "rate", "once", "budget", "window", "at-once", "longest", "refill", "still"]
)
def test_the_delays_of_a_disk_keep_their_promises(promise: str) -> None:
    done = subprocess.run([program("backpressure"), promise], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "kept\n"


def press(
    ring_owner: Rig | Shared,
    bytes_per_s: int | None,
    *,
    delay_max_s: float = 0.5,
    budget_s: float = 30,
    valid_s: float = 60,
) -> None:
    ring = ring_owner.ring if isinstance(ring_owner, Rig) else ring_owner.drva
    assert ring is not None
    ring.set_pressure(bytes_per_s, delay_max_s=delay_max_s, budget_s=budget_s, valid_s=valid_s)


def write_for(disk: IoFilter, seconds: float) -> int:
    """Write as quickly as the disk lets us, and return how much."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        disk.write(count % 16 * PIECE, bytes([count % 255 + 1]) * PIECE)
        count += 1
    return count * PIECE


def test_a_disk_is_held_to_its_part_and_nothing_is_lost() -> None:
    rig = Rig(log_bytes=64 << 20)
    primary = MemoryDevice(SIZE)
    disk = rig.disk(primary)
    rig.writer.start()
    press(rig, 4 << 20)
    written = write_for(disk, 0.5)
    assert written < 4 << 20, "half a second, and what the first write may have at once"
    press(rig, None)
    stats = disk.stats()
    write_for(disk, 0.01)
    disk.flush()
    rig.writer.stop()
    assert disk.stats().throttled == stats.throttled
    assert stats.throttled > 0
    assert stats.throttled_ns >= stats.throttled_ns_max > 0
    assert replay(rig.records(), SIZE) == disk.read(0, SIZE)


def test_the_storm_of_one_disk_delays_no_write_of_its_neighbour() -> None:
    rig = Rig(log_bytes=64 << 20)
    storm, calm = rig.disk(MemoryDevice(SIZE), 1), rig.disk(MemoryDevice(SIZE), 2)
    rig.writer.start()
    press(rig, 1 << 20)
    threads = [threading.Thread(target=write_for, args=(storm, 0.5)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        calm.write(0, bytes(4096))
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    rig.writer.stop()
    assert storm.stats().throttled > 8
    assert calm.stats().throttled == 0


def test_what_nobody_renews_delays_nobody() -> None:
    rig = Rig(log_bytes=64 << 20)
    disk = rig.disk(MemoryDevice(SIZE))
    rig.writer.start()
    press(rig, 1, delay_max_s=5, valid_s=0.2)
    begun = time.monotonic()
    for _ in range(100):
        disk.write(0, bytes(PIECE))
    assert time.monotonic() - begun < 4, "the first delay ends with the word of its owner, and there is no other"
    assert disk.stats().throttled_ns > 0
    rig.writer.stop()


def test_a_delay_ends_at_once_when_the_limit_is_lifted() -> None:
    rig = Rig(log_bytes=64 << 20)
    disk = rig.disk(MemoryDevice(SIZE))
    rig.writer.start()
    press(rig, 1, delay_max_s=60, budget_s=180)
    disk.write(0, bytes(PIECE))
    waiting = threading.Thread(target=disk.write, args=(0, bytes(PIECE)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    press(rig, None)
    waiting.join(10)
    assert not waiting.is_alive()
    rig.writer.stop()


def test_a_delayed_write_still_fails_within_its_stall_limit() -> None:
    rig = Rig(ring_bytes=1 << 17)  # nobody drains it
    disk = rig.disk(MemoryDevice(SIZE), stall_limit_s=0.3)
    press(rig, 1, delay_max_s=60)
    begun = time.monotonic()
    with pytest.raises(StallTimeout):
        for _ in range(10):
            disk.write(0, bytes(32 << 10))
    assert disk.stats().throttled_ns_max < 0.5e9
    assert time.monotonic() - begun < 4 * 0.3 + 1


def full_log(shared: Shared) -> None:
    """Let the log have no room for what comes next."""
    writer = shared.log_writer()
    host = shared.host()
    while shared.log.size_bytes - writer.state().head_position > 256 << 10:
        host.call("write", 0, PIECE, 1)
        writer.commit()
    host.kill()
    writer.start()


def is_full(shared: Shared, host: Host) -> bool:
    """Write a little. Whether it waits for the log, while the ring still has room."""
    host.call("write", 0, 16384, 7)
    return not shared.drva.wait_durable(shared.drva.lsn_reserved, 0.2)


@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize("write_back", [False, True])
def test_guests_wait_for_a_full_log_no_longer_than_their_budget(*, write_back: bool, flushes: bool) -> None:
    with shared_ring(write_back=write_back) as shared:
        full_log(shared)
        host = shared.host(limit_ms=20_000)
        until(lambda: is_full(shared, host), "the log to be full")
        press(shared, None, budget_s=0.6)
        begun, calls = time.monotonic(), 0
        while shared.drva.logging:
            assert host.call("write", calls % 8 * 16384, 16384, 7) >= 0
            if flushes:
                assert host.call("flush") >= 0
            calls += 1
        assert shared.drva.off().reason == OffReason.OVERLOAD
        assert time.monotonic() - begun < 10, "a third of the budget at once, which is far from the stall limit"
        assert host.call("flush") >= 0


def test_a_full_log_of_a_dead_appliance_is_waited_for_as_long_as_the_stall_limit_says() -> None:
    with shared_ring() as shared:
        full_log(shared)
        press(shared, None, budget_s=0.01, valid_s=0)
        host = shared.host(limit_ms=300)
        until(lambda: host.call("write", 0, 16384, 7) >= 0 and not shared.drva.logging, "logging to go off")
        assert shared.drva.off().reason == OffReason.FULL


def test_a_guest_whose_budget_is_spent_waits_for_its_own_primary_without_haste() -> None:
    """The log is full and the ring is not, and the disk's share of the ring is taken by writes that hang."""
    with shared_ring() as shared:
        full_log(shared)
        host = shared.host(limit_ms=20_000)
        until(lambda: is_full(shared, host), "the log to be full")
        press(shared, None, budget_s=0)
        host.call("block")
        for _ in range(3):
            host.call("start", 0, PIECE - 4096, 7)
        host.begin("stats")
        _, _, stalls_before, _ = host.end()
        assert not host.answers(0.5)
        assert shared.drva.logging
        host.begin("stats")
        _, _, stalls, _ = host.end()
        assert stalls - stalls_before < 5
        host.call("unblock")
