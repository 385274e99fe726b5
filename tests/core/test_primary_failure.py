"""A primary that fails: its errors are told as its own, and log and primary never differ unsaid."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest
from typing_extensions import Buffer

from jetdr_core.device import MemoryDevice
from jetdr_core.errors import PrimaryFailed, StallTimeout
from jetdr_core.record import Kind, RecordFlag
from jetdr_core.resync import Region, copy_regions
from tests.core.rig import Rig, replay
from tests.faults.device import CrashDevice

SIZE = 1 << 20


class Broken(MemoryDevice):
    """Tears the write it fails, and fails reading it back; both with the error it is given."""

    def __init__(self, number: int) -> None:
        super().__init__(SIZE)
        self.number = number
        self.failing = True
        self.reads = 0

    def write(self, offset: int, data: Buffer) -> None:
        if self.failing:
            super().write(offset, bytes(memoryview(data)[:512]))
            raise OSError(self.number, "primary")
        super().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        super().zero(offset, length // 2)
        raise OSError(self.number, "primary")

    def read_into(self, offset: int, target: Buffer) -> None:
        self.reads += 1
        if self.failing:
            raise OSError(self.number, "primary")
        super().read_into(offset, target)

    def sync(self) -> None:
        raise OSError(self.number, "primary")


class Held(MemoryDevice):
    """Writes wait, once they have said so, until ``go``; a ``torn`` one then fails, halfway."""

    def __init__(self, *, torn: int = 0) -> None:
        super().__init__(SIZE)
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.torn = torn

    def write(self, offset: int, data: Buffer) -> None:
        self.entered.release()
        assert self.go.wait(20)
        if self.torn:
            self.torn -= 1
            super().write(offset, bytes(memoryview(data)[: len(memoryview(data)) // 2]))
            raise OSError(errno.EIO, "once")
        super().write(offset, data)


NUMBERS = [errno.EIO, errno.ETIMEDOUT, errno.EINVAL, errno.ESHUTDOWN, errno.E2BIG, errno.EBUSY, errno.ENOMEM]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_error_of_the_primary_is_told_as_the_primarys(number: int) -> None:
    disk = Rig().disk(Broken(number))
    calls: tuple[Callable[[], object], ...] = (
        lambda: disk.write(0, b"x" * 4096),
        lambda: disk.zero(0, 4096),
        lambda: disk.copy_background(0, 4096),
        lambda: disk.read(0, 512),
        disk.flush,
    )
    for call, suspect in zip(calls, (True, True, False, False, True), strict=True):
        with pytest.raises(PrimaryFailed, match="the primary disk failed") as caught:
            call()
        assert (caught.value.errno, caught.value.suspect) == (number, suspect)
        assert isinstance(caught.value.__cause__, OSError)


def test_a_failed_read_on_a_poisoned_domain_is_the_primarys_failure() -> None:
    rig = Rig()
    disk = rig.disk(Broken(errno.EIO))
    rig.ring.poison(errno.ENOSPC)
    with pytest.raises(PrimaryFailed):
        disk.read(0, 512)


# -- writes ------------------------------------------------------------------------------------------------------------


def test_a_write_that_the_primary_failed_is_logged_as_what_the_primary_holds() -> None:
    for seed in range(20):
        rig = Rig()
        primary = CrashDevice(SIZE, seed=seed)
        disk = rig.disk(primary)
        disk.write(0, b"a" * 8192)
        primary.fail_at(1, "transient")
        with pytest.raises(PrimaryFailed, match="write of 8192 bytes at 4096") as caught:
            disk.write(4096, b"b" * 8192)
        rig.commit_all()
        assert replay(rig.records(), SIZE) == primary.image()
        assert rig.records()[-1].flags == RecordFlag.REREAD
        assert not caught.value.suspect
        assert not disk.stats().suspect


def test_a_failed_write_that_cannot_be_read_back_makes_the_disk_suspect_and_logs_nothing() -> None:
    rig = Rig()
    primary = CrashDevice(SIZE)
    disk = rig.disk(primary)
    primary.fail_at(1, "permanent")
    with pytest.raises(PrimaryFailed, match="may differ until all of it is resynced") as caught:
        disk.write(0, b"b" * 512)
    rig.commit_all()
    assert rig.records() == []
    assert rig.ring.used_bytes == 0
    assert caught.value.suspect
    assert disk.stats().suspect
    disk.trust()
    assert not disk.stats().suspect


def test_a_failed_zero_makes_the_disk_suspect_without_reading_it_back() -> None:
    """It may be as long as the disk, and others wait for its range meanwhile."""
    rig = Rig()
    primary = Broken(errno.EIO)
    primary.failing = False
    disk = rig.disk(primary)
    with pytest.raises(PrimaryFailed) as caught:
        disk.zero(0, SIZE)
    assert caught.value.suspect
    assert disk.stats().suspect
    assert primary.reads == 0
    assert disk.write(0, b"x" * 512) == 1


def test_a_failed_write_is_read_back_into_the_room_it_has_when_the_ring_has_no_more() -> None:
    rig = Rig(ring_bytes=1 << 16)
    primary = Held(torn=1)
    disk, other = rig.disk(primary), rig.disk(MemoryDevice(SIZE), 2, stall_limit_s=0)
    errors: list[PrimaryFailed] = []

    def write() -> None:
        with pytest.raises(PrimaryFailed) as caught:
            disk.write(0, b"a" * 16384)
        errors.append(caught.value)

    writer = threading.Thread(target=write)
    writer.start()
    primary.entered.acquire()
    for _ in range(3):
        other.write(0, b"b" * 16384)
    with pytest.raises(StallTimeout):
        other.write(0, b"b" * 512)
    primary.go.set()
    writer.join()
    rig.commit_all()
    assert [error.suspect for error in errors] == [False]
    assert replay(rig.records(), SIZE) == disk.read(0, SIZE) == b"a" * 8192 + bytes(SIZE - 8192)


def test_a_failed_write_takes_turns_with_those_that_overlap_it() -> None:
    rig = Rig(ring_bytes=1 << 16, log_bytes=8 << 20)
    primary = Held(torn=1)
    disk = rig.disk(primary, stall_limit_s=20)
    rig.writer.start()

    def write(offset: int, data: bytes) -> None:
        try:
            disk.write(offset, data)
        except PrimaryFailed:
            assert data[0] == ord("a")

    first = threading.Thread(target=write, args=(0, b"a" * 16384))
    first.start()
    primary.entered.acquire()
    others = [threading.Thread(target=write, args=(8192 + 512, b"b" * 16384)) for _ in range(4)]
    for thread in others:
        thread.start()
    primary.go.set()
    for thread in [first, *others]:
        thread.join()
    disk.flush()
    rig.writer.stop()
    assert replay(rig.records(), SIZE) == disk.read(0, SIZE)
    assert not disk.stats().suspect


# -- flushes -----------------------------------------------------------------------------------------------------------


def test_after_a_failed_flush_no_flush_claims_that_anything_is_durable() -> None:
    """On Linux the pages of a failed fsync are clean afterwards: the second fsync succeeds, the bytes are gone."""
    rig = Rig()
    primary = CrashDevice(SIZE, seed=3)
    disk = rig.disk(primary)
    rig.writer.start()
    disk.write(0, b"a" * 8192)
    primary.fail_at(1, "transient")
    for _ in range(3):
        with pytest.raises(PrimaryFailed, match="flush") as caught:
            disk.flush()
        assert (caught.value.errno, caught.value.suspect) == (errno.EIO, True)
        assert (disk.stats().suspect, disk.stats().sync_failed) == (True, errno.EIO)
        disk.trust()
        assert (disk.stats().suspect, disk.stats().sync_failed) == (False, errno.EIO)
    assert primary.syncs == 0
    assert rig.disk(primary).flush() == 1, "opened again, it is asked again"
    rig.writer.stop()


def test_a_failure_that_the_kernel_reports_once_is_told_to_every_flush_it_concerns() -> None:
    class Once(MemoryDevice):
        def __init__(self) -> None:
            super().__init__(SIZE)
            self.entered, self.go = threading.Event(), threading.Event()

        def sync(self) -> None:
            if not self.entered.is_set():
                self.entered.set()
                assert self.go.wait(20)
                raise OSError(errno.EIO, "told once")

    rig = Rig()
    primary = Once()
    disk = rig.disk(primary)
    results: list[object] = []

    def flush() -> None:
        try:
            results.append(disk.flush())
        except PrimaryFailed as error:
            results.append(error.errno)

    threads = [threading.Thread(target=flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    primary.entered.wait()
    primary.go.set()
    for thread in threads:
        thread.join()
    assert results == [errno.EIO] * 4


# -- a primary that does not answer ------------------------------------------------------------------------------------


def test_a_disk_whose_primary_hangs_stops_no_other_disk() -> None:
    rig = Rig(ring_bytes=1 << 16)
    primary = Held()
    slow, quick = rig.disk(primary, stall_limit_s=0.01), rig.disk(MemoryDevice(SIZE), 2, stall_limit_s=0.01)
    hanging = [threading.Thread(target=slow.write, args=(n << 14, b"a" * (1 << 14))) for n in range(2)]
    for thread in hanging:
        thread.start()
        primary.entered.acquire()
    with pytest.raises(StallTimeout, match="this disk's own primary has not answered"):
        slow.write(1 << 17, b"b" * 512)
    for n in range(2):
        quick.write(n << 14, b"c" * (1 << 14))
    with pytest.raises(StallTimeout, match="the replication log accepted nothing more"):
        quick.write(0, b"c" * 512)
    primary.go.set()
    for thread in hanging:
        thread.join()
    rig.commit_all()
    assert slow.write(1 << 17, b"b" * 512) == 5
    assert rig.ring.used_bytes == 512


def test_a_write_waits_for_the_answers_that_its_disk_is_owed() -> None:
    rig = Rig(slots=16)
    primary = Held()
    disk = rig.disk(primary, stall_limit_s=20)
    threads = [threading.Thread(target=disk.write, args=(n << 12, b"a" * 512)) for n in range(12)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        primary.entered.acquire()
    primary.go.set()
    for thread in threads:
        thread.join()
    rig.commit_all()
    assert sorted(record.offset for record in rig.records()) == [n << 12 for n in range(12)]


# -- background copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
def test_a_background_copy_ends_with_the_primarys_error(number: int) -> None:
    rig = Rig()
    primary = Broken(number)
    regions = iter([Region(0, 4096, False)])
    with pytest.raises(PrimaryFailed):
        copy_regions(
            rig.disk(primary),
            rig.ring,
            regions,
            log_holes=True,
            stopping=threading.Event(),
            progress=lambda _: None,
        )
    assert primary.reads == 1


def test_a_background_copy_leaves_three_quarters_of_the_ring_to_new_writes() -> None:
    rig = Rig(ring_bytes=1 << 20, log_bytes=8 << 20)
    primary = MemoryDevice(SIZE)
    primary.write(0, b"old!" * (SIZE // 4))
    disk, stopping, highest = rig.disk(primary), threading.Event(), 0

    def progress(_copied: int) -> None:
        nonlocal highest
        highest = max(highest, rig.ring.used_bytes)

    rig.writer.start()
    regions = iter([Region(offset, 4096, False) for offset in range(0, SIZE, 4096)])
    assert copy_regions(disk, rig.ring, regions, log_holes=True, stopping=stopping, progress=progress)
    rig.writer.stop()
    assert highest <= (1 << 18) + 4096
    assert {record.kind for record in rig.records()} == {Kind.WRITE}
