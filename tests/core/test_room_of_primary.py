"""A primary without room: what waits, what a guest is told, and that nothing of it lasts once there is room."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from typing_extensions import Buffer

from jetdr_core.device import MemoryDevice
from jetdr_core.errors import PrimaryFailed
from tests.core.host import Host, shared_ring, until
from tests.core.rig import Rig, replay

SIZE = 1 << 20
PRIMARY = 0x20000  # JDR_PRIMARY
FULL = -(PRIMARY | errno.ENOSPC)
CHANGES = 2


class Thin(MemoryDevice):
    """Writes fail with ``number`` while ``full``."""

    def __init__(self, number: int) -> None:
        super().__init__(SIZE)
        self.number = number
        self.full = threading.Event()
        self.full.set()
        self.tried = threading.Event()

    def write(self, offset: int, data: Buffer) -> None:
        self.tried.set()
        if self.full.is_set():
            raise OSError(self.number, "no room")
        super().write(offset, data)


def held(primary: MemoryDevice) -> bytes:
    data = bytearray(SIZE)
    primary.read_into(0, data)
    return bytes(data)


def trouble(host: Host) -> list[int]:
    host.begin("trouble")
    return host.end()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_waits_for_room_and_succeeds_when_there_is_some(number: int) -> None:
    rig, primary = Rig(), Thin(number)
    disk = rig.disk(primary)
    results: list[int] = []
    writer = threading.Thread(target=lambda: results.append(disk.write(0, b"x" * 4096)))
    writer.start()
    assert primary.tried.wait(10)
    until(lambda: disk.stats().trouble == CHANGES, "the disk to be in trouble")
    assert disk.stats().trouble_errno == number
    assert abs(disk.stats().trouble_since_ns - time.time_ns()) < 10e9
    assert not results
    primary.full.clear()
    writer.join()
    assert results == [1]
    assert disk.stats().failed_writes == 0
    rig.commit_all()
    assert replay(rig.records(), SIZE) == held(primary)


def test_after_the_limit_the_writer_is_told_and_what_the_disk_holds_is_logged() -> None:
    rig, primary = Rig(), Thin(errno.ENOSPC)
    disk = rig.disk(primary, stall_limit_s=0.1)
    begun = time.monotonic()
    with pytest.raises(PrimaryFailed) as caught:
        disk.write(0, b"x" * 4096)
    assert 0.1 <= time.monotonic() - begun < 2
    assert caught.value.errno == errno.ENOSPC
    assert not caught.value.suspect
    primary.full.clear()
    disk.write(4096, b"y" * 4096)
    rig.commit_all()
    assert replay(rig.records(), SIZE) == held(primary)


def test_trouble_ends_once_nothing_has_failed_for_a_while_and_begins_anew() -> None:
    rig, primary = Rig(), Thin(errno.EIO)
    disk = rig.disk(primary)
    for _ in range(2):
        with pytest.raises(PrimaryFailed):
            disk.write(0, b"x" * 4096)
    since_ns = disk.stats().trouble_since_ns
    primary.full.clear()
    disk.read(0, 4096)
    assert disk.stats().trouble == CHANGES, "other calls say nothing about changes"
    disk.write(0, b"x" * 4096)
    assert disk.stats().trouble == CHANGES, "one right answer may be chance"
    until(lambda: disk.stats().trouble == 0, "the trouble to end")  # JDR_CALM_NS
    primary.full.set()
    with pytest.raises(PrimaryFailed):
        disk.write(0, b"x" * 4096)
    assert disk.stats().trouble == CHANGES
    assert disk.stats().trouble_since_ns > since_ns


def test_in_write_back_acknowledged_writes_wait_for_room_and_are_read_meanwhile() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host(limit_ms=100)
        shared.log_writer().start()
        host.call("full")
        assert host.call("write", 0, 4096, 7) == 1
        until(lambda: trouble(host) == [CHANGES, errno.ENOSPC], "the trouble")
        assert host.call("read", 0, 4096) == 7
        begun = time.monotonic()
        assert host.call("write", 4096, 4096, 8) == FULL, "the guest is told after the stall limit"
        assert time.monotonic() - begun < 2
        assert shared.drva.logging
        assert shared.drva.lsn_in_primaries == 0
        host.call("room")
        until(lambda: shared.drva.lsn_in_primaries == 1, "the write to reach the primary")
        until(lambda: host.call("write", 4096, 4096, 9) > 0, "writes to be taken again")
        assert host.call("read", 0, 4096) == 7
        assert host.call("close") == 0
        assert shared.primary.read_bytes()[:8192] == b"\7" * 4096 + b"\11" * 4096
        assert shared.writer is not None
        shared.writer.stop()


def test_in_write_back_a_ring_full_of_what_waits_for_room_refuses_and_does_not_hang() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host(limit_ms=100)
        shared.log_writer().start()
        host.call("full")
        results: list[int] = []
        begun = time.monotonic()
        while not results or results[-1] > 0:
            results.append(host.call("other", 0, 4096, 1) or host.call("write", 0, 32768, 7))
            assert time.monotonic() - begun < 20
        assert results[-1] == FULL
        assert shared.drva.logging
        host.call("room")
        until(lambda: host.call("write", 0, 4096, 9) > 0, "writes to be taken again")
        assert host.call("close") == 0
        assert shared.writer is not None
        shared.writer.stop()
