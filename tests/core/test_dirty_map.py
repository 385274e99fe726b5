"""The dirty map: a bit is durable before its write, and cleared once nothing differs. No damaged map is believed."""

from __future__ import annotations

import errno
import threading

import pytest
from typing_extensions import Buffer

from jetdr_core._core import DirtyMap, MapFound, MapStart
from jetdr_core.errors import InvalidRequest, PrimaryFailed
from tests.core.host import until
from tests.core.map_rig import (
    REGION,
    REGIONS,
    SIZE,
    Left,
    Life,
    begin_map,
    clear,
    owed,
    owed_regions,
    used,
)
from tests.core.rig import Rig
from tests.faults.device import CrashDevice

BIG = 17 << 30
"""A disk whose map has two blocks."""


def marked_regions(sidecar: CrashDevice, epoch: int = 2) -> set[int]:
    """What the next opening would find, if power were lost now and nothing unflushed survived."""
    found = begin_map(CrashDevice(image=sidecar.durable()), MapStart.MARKED, epoch=epoch + 1, earlier=epoch)
    assert found.found is MapFound.BELIEVED
    return owed_regions(found)


@pytest.fixture
def life() -> Life:
    return Life(Left.new(), 2, MapStart.AGREES)


# -- marks -------------------------------------------------------------------------------------------------------------


def test_a_bit_is_durable_before_the_write_reaches_the_primary(life: Life) -> None:
    seen: list[set[int]] = []
    write = life.left.primary.write

    class Watched(CrashDevice):
        def write(self, offset: int, data: Buffer) -> None:
            seen.append(marked_regions(life.left.sidecar))
            write(offset, data)

    watched = Watched(SIZE)
    disk = life.rig.disk(watched, 2, dirty_map=life.map)
    disk.write(3 * REGION, b"a" * 512)
    disk.write(5 * REGION - 512, b"b" * 1024)
    assert seen == [{3}, {3, 4, 5}]


def test_a_hot_region_costs_no_flush(life: Life) -> None:
    for n in range(20):
        life.disk.write(n * 512, b"a" * 512)
    assert life.map.state().intents == 1


def test_a_zero_of_the_whole_disk_marks_all_of_it_at_once(life: Life) -> None:
    life.disk.zero(0, SIZE)
    assert life.map.state().intents == 1
    assert marked_regions(life.left.sidecar) == set(range(REGIONS))


def test_cold_writes_of_many_threads_share_flushes_and_are_all_durable(life: Life) -> None:
    """While others clear regions in the same block. The log is not durable, so nothing new may be cleared."""
    for region in (0, 1, 2):
        life.disk.write(region * REGION, b"a" * 512)
    clear(life)
    lacking: list[int] = []
    ended = threading.Event()

    def write(region: int) -> None:
        life.disk.write(region * REGION, b"b" * 512)
        if region not in marked_regions(life.left.sidecar):
            lacking.append(region)

    def tend() -> None:
        while not ended.is_set():
            life.disk.tend_map()

    tender = threading.Thread(target=tend)
    threads = [threading.Thread(target=write, args=(region,)) for region in range(REGIONS)]
    tender.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    tender.join()
    assert lacking == []
    assert marked_regions(life.left.sidecar) == set(range(REGIONS))


class Void(CrashDevice):
    """A primary that is longer than this machine's memory, and keeps nothing."""

    size_bytes = BIG

    def write(self, offset: int, data: Buffer) -> None:
        """Keep nothing."""


class Gated(CrashDevice):
    """A sidecar whose next write waits until ``go`` is set, once ``gate`` is."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.gate, self.begun, self.go = (threading.Event() for _ in range(3))

    def write(self, offset: int, data: Buffer) -> None:
        if self.gate.is_set() and not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(20)
        super().write(offset, data)


def test_a_bit_that_a_clearing_wrote_is_flushed_before_its_write_goes_on() -> None:
    """The clearing is at the first block when a write needs a bit of the second one, and writes that too, unflushed."""
    sidecar, rig = Gated(DirtyMap.file_bytes(BIG)), Rig()
    dirty_map = begin_map(sidecar, MapStart.AGREES, size_bytes=BIG)
    disk = rig.disk(Void(4096), dirty_map=dirty_map)
    for offset in (0, BIG - (4 << 20)):
        disk.write(offset, b"a" * 512)
    disk.tend_map()
    rig.commit_all()
    sidecar.gate.set()
    clearing = threading.Thread(target=disk.tend_map)
    clearing.start()
    assert sidecar.begun.wait(20)
    writing = threading.Thread(target=disk.write, args=(BIG - (1 << 20), b"b" * 512))
    writing.start()
    until(lambda: dirty_map.state().marked_bytes > 0, "the write wants its bit")
    sidecar.go.set()
    writing.join()
    clearing.join()
    image = CrashDevice(image=sidecar.durable())
    found = begin_map(image, MapStart.MARKED, epoch=3, earlier=2, size_bytes=BIG)
    assert found.found is MapFound.BELIEVED
    assert owed(found)[-1][0] == BIG - (1 << 20)


# -- clearing ----------------------------------------------------------------------------------------------------------


def test_a_region_is_cleared_once_log_and_primary_are_durable(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    clear(life)
    assert life.map.state().marked_bytes == 0
    life.left.sidecar.sync()
    assert marked_regions(life.left.sidecar) == set()


def test_a_region_is_not_cleared_before_its_record_is_durable(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    for _ in range(3):
        life.disk.tend_map()
    assert life.map.state().marked_bytes == REGION


def test_a_region_written_to_during_the_pass_stays(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    life.disk.tend_map()
    life.disk.write(512, b"a" * 512)
    life.rig.commit_all()
    life.disk.tend_map()
    assert life.map.state().marked_bytes == REGION


def test_a_write_in_flight_keeps_its_region_marked(life: Life) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(CrashDevice):
        def write(self, offset: int, data: Buffer) -> None:
            begun.set()
            assert go.wait(20)
            super().write(offset, data)

    disk = life.rig.disk(Slow(SIZE), 2, dirty_map=life.map)
    thread = threading.Thread(target=disk.write, args=(0, b"a" * 512))
    thread.start()
    assert begun.wait(20)
    for _ in range(3):
        disk.tend_map()
        life.rig.commit_all()
    still_marked = life.map.state().marked_bytes
    go.set()
    thread.join()
    assert still_marked == REGION


def test_a_clearing_flushes_the_primary_first(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    life.disk.tend_map()
    life.rig.commit_all()
    syncs = life.left.primary.syncs
    life.disk.tend_map()
    assert life.left.primary.syncs == syncs + 1


def test_a_pass_with_nothing_to_clear_flushes_nothing(life: Life) -> None:
    for _ in range(3):
        clear(life)
    assert life.left.primary.syncs == 0


def test_a_cleared_region_is_marked_anew(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    clear(life)
    life.disk.write(0, b"b" * 512)
    assert marked_regions(life.left.sidecar) == {0}
    assert life.map.state().intents == 2


def test_a_primary_that_fails_its_flush_keeps_all_marks_and_is_suspect(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    life.disk.tend_map()
    life.rig.commit_all()
    life.left.primary.fail_at(1, "transient")
    with pytest.raises(PrimaryFailed) as failed:
        life.disk.tend_map()
    assert failed.value.suspect
    assert life.disk.stats().suspect
    assert owed_regions(life.map) == {0}
    with pytest.raises(PrimaryFailed):
        life.disk.flush()
    assert marked_regions(life.left.sidecar) == {0}


# -- what is owed ------------------------------------------------------------------------------------------------------


def test_what_was_marked_at_a_crash_is_owed_and_a_copy_pays_it() -> None:
    before = Life(Left.new(), 2, MapStart.AGREES)
    before.disk.write(2 * REGION, b"a" * 512)
    after = Life(Left(before.left.primary, before.left.sidecar, bytes(SIZE)), 3, MapStart.MARKED)
    assert owed(after.map) == [(2 * REGION, REGION)]
    clear(after)
    assert owed(after.map) == [(2 * REGION, REGION)], "no pass clears what is owed"
    after.disk.copy_background(2 * REGION, REGION)
    assert owed(after.map) == []
    assert marked_regions(after.left.sidecar, 3) == {2}, "the copy is not durable in the log yet"
    clear(after)
    after.left.sidecar.sync()
    assert marked_regions(after.left.sidecar, 3) == set()


def test_a_region_is_paid_by_its_parts_in_order_only(life: Life) -> None:
    life.map.owe(0, 2 * REGION)
    half = REGION // 2
    life.disk.copy_background(half, half)
    assert owed_regions(life.map) == {0, 1}
    life.disk.copy_background(0, half)
    life.disk.copy_background(half, REGION)
    assert owed_regions(life.map) == {1}
    life.disk.copy_background(REGION + half, half)
    assert owed_regions(life.map) == set()


def test_a_part_copied_before_its_region_became_owed_again_does_not_count(life: Life) -> None:
    life.map.owe(0, REGION)
    half = REGION // 2
    life.disk.copy_background(0, half)
    life.map.owe(0, 512)
    life.disk.copy_background(half, half)
    assert owed_regions(life.map) == {0}


def test_the_last_region_of_a_disk_may_be_short(life: Life) -> None:
    life.map.owe(SIZE - 512, 512)
    assert owed(life.map) == [((REGIONS - 1) * REGION, SIZE - (REGIONS - 1) * REGION)]
    life.disk.copy_background(*owed(life.map)[0])
    assert owed(life.map) == []
    with pytest.raises(InvalidRequest):
        life.map.owe(SIZE, 512)


def test_a_failed_write_that_cannot_be_logged_is_owed(life: Life) -> None:
    life.left.primary.fail_at(1, "permanent")
    with pytest.raises(PrimaryFailed) as failed:
        life.disk.write(4 * REGION, b"a" * 512)
    assert failed.value.suspect
    assert owed_regions(life.map) == {4}


def test_a_failed_write_that_was_read_back_is_not_owed(life: Life) -> None:
    life.left.primary.fail_at(1, "transient")
    with pytest.raises(PrimaryFailed) as failed:
        life.disk.write(4 * REGION, b"a" * 512)
    assert not failed.value.suspect
    assert owed_regions(life.map) == set()
    assert life.map.state().marked_bytes == REGION


# -- a sidecar that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_a_sidecar_that_fails_costs_no_write_and_is_never_believed(life: Life, nth: int, permanence: str) -> None:
    life.disk.write(0, b"a" * 512)
    life.left.sidecar.fail_at(nth, permanence)  # type: ignore[arg-type]
    for region in range(1, 6):
        life.disk.write(region * REGION, b"a" * 512)
    life.left.sidecar.heal()
    assert life.map.state().failed_errno == errno.EIO
    assert life.map.state().marked_bytes == 6 * REGION, "it is kept in memory"
    if permanence == "transient":
        found = begin_map(life.left.sidecar, MapStart.MARKED, epoch=3, earlier=2)
        assert found.found is not MapFound.BELIEVED
        assert owed_regions(found) == set(range(REGIONS))


def test_no_write_goes_on_before_a_sidecar_that_failed_is_made_unreadable() -> None:
    """Until then its earlier map would be believed, and that has no bit for the write."""

    class Failing(Gated):
        def sync(self) -> None:
            if self.gate.is_set() and not self.begun.is_set():
                raise OSError(errno.EIO, "the sidecar failed")
            super().sync()

        def write(self, offset: int, data: Buffer) -> None:
            if offset or bytes(data).strip(b"\0"):
                CrashDevice.write(self, offset, data)
            else:
                super().write(offset, data)  # it is made unreadable

    sidecar, primary, rig = Failing(DirtyMap.file_bytes(SIZE)), CrashDevice(SIZE), Rig()
    disk = rig.disk(primary, dirty_map=begin_map(sidecar, MapStart.AGREES))
    sidecar.gate.set()
    first = threading.Thread(target=disk.write, args=(0, b"a" * 512))
    first.start()
    assert sidecar.begun.wait(20)
    second = threading.Thread(target=disk.write, args=(3 * REGION, b"b" * 512))
    second.start()
    second.join(0.2)
    early = primary.image() != bytes(SIZE)
    sidecar.go.set()
    first.join()
    second.join()
    assert not early
    assert primary.image()[3 * REGION : 3 * REGION + 512] == b"b" * 512


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_sidecar_that_fails_as_the_map_begins_is_never_believed(nth: int) -> None:
    for start in MapStart:
        sidecar = CrashDevice(image=used())
        sidecar.fail_at(nth, "transient")
        begin_map(sidecar, start, epoch=3, earlier=2).owe(2 * REGION, 512)
        sidecar.heal()
        found = begin_map(sidecar, MapStart.MARKED, epoch=4, earlier=3)
        assert 2 in owed_regions(found)
        assert start is MapStart.AGREES or {1, 2} <= owed_regions(found)


def test_without_a_sidecar_the_map_is_kept_in_memory() -> None:
    dirty_map = begin_map(None, MapStart.AGREES)
    dirty_map.owe(REGION, 512)
    assert owed_regions(dirty_map) == {1}
    assert dirty_map.state().failed_errno == errno.ENODEV
    assert begin_map(None, MapStart.MARKED).found is MapFound.NONE


def test_a_filter_refuses_the_map_of_a_disk_of_another_size(life: Life) -> None:
    with pytest.raises(InvalidRequest):
        life.rig.disk(CrashDevice(SIZE + 512), 3, dirty_map=begin_map(None, MapStart.AGREES))
