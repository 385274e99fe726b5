"""The crash device keeps the promises that the tests under the log rely on."""

from __future__ import annotations

import pytest

from tests.faults.device import CrashDevice


def read(device: CrashDevice, offset: int, length: int) -> bytes:
    target = bytearray(length)
    device.read_into(offset, target)
    return bytes(target)


def test_synced_write_survives_every_crash() -> None:
    for seed in range(20):
        device = CrashDevice(1 << 16)
        device.write(0, b"a" * 4096)
        device.sync()
        assert read(device.crash(seed), 0, 4096) == b"a" * 4096


def test_unsynced_writes_are_applied_dropped_and_torn() -> None:
    fates = set()
    for seed in range(60):
        device = CrashDevice(1 << 16)
        device.write(0, b"a" * 4096)
        fates.add(read(device.crash(seed), 0, 4096).count(b"a"))
    assert {0, 4096} < fates
    assert all(count % 512 == 0 for count in fates)


def test_overlapping_unsynced_writes_settle_in_any_order() -> None:
    seen = set()
    for seed in range(60):
        device = CrashDevice(1 << 16)
        device.write(0, b"a" * 512)
        device.write(0, b"b" * 512)
        seen.add(read(device.crash(seed), 0, 512)[:1])
    assert seen == {b"a", b"b", b"\0"}


def test_crashed_device_answers_nothing_more() -> None:
    device = CrashDevice(1 << 16)
    device.crash(0)
    with pytest.raises(OSError, match="Input/output error"):
        read(device, 0, 512)


def test_transient_failure_hits_one_io_and_permanent_all_after_it() -> None:
    device = CrashDevice(1 << 16)
    device.fail_at(2, "transient")
    device.write(0, bytes(512))
    with pytest.raises(OSError, match="Input/output error"):
        device.sync()
    device.sync()
    device.fail_at(1, "permanent")
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output error"):
            device.write(0, bytes(512))


def test_write_before_a_failed_sync_is_not_made_durable_by_the_next() -> None:
    lost = 0
    for seed in range(20):
        device = CrashDevice(1 << 16, seed=seed)
        device.write(0, b"a" * 512)
        device.fail_at(1, "transient")
        with pytest.raises(OSError, match="Input/output error"):
            device.sync()
        device.sync()
        lost += read(device.crash(seed), 0, 512) != b"a" * 512
    assert lost
