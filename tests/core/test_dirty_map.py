"""The dirty map: a bit is durable before its write, and cleared once nothing differs. No damaged map is believed."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
import xxhash
from typing_extensions import Buffer

from jetdr_core._core import DirtyMap, IoFilter, MapFound, MapStart
from jetdr_core.device import FileDevice
from jetdr_core.errors import InvalidRequest, PrimaryFailed
from tests.core.host import until
from tests.core.map_rig import (
    REGION,
    REGIONS,
    SIZE,
    Left,
    Life,
    begin_map,
    owed,
    owed_regions,
    sidecar_device,
)
from tests.core.rig import Rig
from tests.faults.device import CrashDevice
from tests.golden.make_dirty_map import GOLDEN

BLOCK = 4096
TIB = 1 << 40
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


def clear(life: Life) -> None:
    """Let a whole pass go by, in which nobody writes."""
    life.disk.tend_map()
    life.rig.commit_all()
    life.disk.tend_map()


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


def sign(image: bytearray, at: int) -> None:
    """Give the block at ``at`` the checksum that fits."""
    digest = xxhash.xxh3_64_intdigest(bytes(image[at : at + BLOCK - 8]))
    image[at + BLOCK - 8 : at + BLOCK] = digest.to_bytes(8, "little")


# -- which maps are believed -------------------------------------------------------------------------------------------


def used(size_bytes: int = SIZE) -> bytes:
    """A sidecar of generation 2 in which region 1 is marked."""
    sidecar = sidecar_device(size_bytes)
    begin_map(sidecar, MapStart.AGREES, size_bytes=size_bytes).owe(REGION, 512)
    return sidecar.image()


def found_in(image: bytes, **changed: object) -> DirtyMap:
    asked = {"epoch": 3, "earlier": 2} | changed
    return begin_map(CrashDevice(image=image), MapStart.MARKED, **asked)  # type: ignore[arg-type]


def test_the_map_of_the_last_generation_is_believed() -> None:
    found = found_in(used())
    assert found.found is MapFound.BELIEVED
    assert owed_regions(found) == {1}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"domain": b"x" * 16}, MapFound.FOREIGN),
        ({"disk": b"x" * 16}, MapFound.FOREIGN),
        ({"section_id": 7}, MapFound.OTHER_LOG),
        ({"timeline": 2}, MapFound.OTHER_LOG),
        ({"size_bytes": SIZE + 512}, MapFound.RESIZED),
        ({"earlier": 3, "epoch": 4}, MapFound.STALE),
        ({"earlier": 1}, MapFound.STALE),
    ],
    ids=str,
)
def test_a_map_of_something_else_is_not_believed(changed: dict[str, object], why: MapFound) -> None:
    found = found_in(used(), **changed)
    assert found.found is why
    assert owed_regions(found) == set(range(-(-found.size_bytes // REGION)))


def test_a_missing_map_is_not_believed() -> None:
    for image in (bytes(len(used())), used()[:0] + bytes(BLOCK)):
        found = found_in(image)
        assert found.found is MapFound.NONE
        assert owed_regions(found) == set(range(REGIONS))


def test_a_map_of_a_newer_version_is_not_believed() -> None:
    image = bytearray(used())
    for at in (0, len(image) // 2):
        image[at + 8] = 2
        sign(image, at)
    assert found_in(bytes(image)).found is MapFound.NEWER


@pytest.mark.parametrize("copy", [0, 1])
def test_one_flipped_bit_anywhere_in_one_copy_is_survived(copy: int) -> None:
    image, half = used(), len(used()) // 2
    for at in range(copy * half, (copy + 1) * half, 97):
        damaged = bytearray(image)
        damaged[at] ^= 1 << at % 8
        found = found_in(bytes(damaged))
        assert (found.found, owed_regions(found)) == (MapFound.BELIEVED, {1}), f"byte {at}"


def test_a_block_damaged_in_both_copies_makes_all_of_the_map_damaged() -> None:
    image, half = used(), len(used()) // 2
    for place in range(half // BLOCK):
        for byte in range(0, BLOCK, 61):
            damaged = bytearray(image)
            for copy in (0, 1):
                damaged[copy * half + place * BLOCK + byte] ^= 0x10
            found = found_in(bytes(damaged))
            assert found.found is MapFound.DAMAGED, f"place {place}, byte {byte}"
            assert owed_regions(found) == set(range(REGIONS))


def test_a_map_that_was_cut_off_anywhere_is_not_believed_or_says_what_it_said() -> None:
    image = used()
    for length in range(0, len(image), 512):
        cut = image[:length] + bytes(-length % 512)
        found = found_in(cut or bytes(512))
        assert owed_regions(found) >= {1}
        if length < len(image) // 2:
            assert found.found is not MapFound.BELIEVED


def test_blocks_of_an_earlier_map_in_the_same_sidecar_say_nothing() -> None:
    sidecar = sidecar_device()
    begin_map(sidecar, MapStart.AGREES)
    blocks = sidecar.image()
    begin_map(sidecar, MapStart.AGREES).owe(REGION, 512)
    image = bytearray(sidecar.image())
    half = len(image) // 2
    for copy in (0, 1):
        image[copy * half + BLOCK : (copy + 1) * half] = blocks[copy * half + BLOCK : (copy + 1) * half]
    assert found_in(bytes(image)).found is MapFound.DAMAGED


def test_the_union_of_two_whole_copies_counts() -> None:
    """One copy was written, and the other was not, when power was lost."""
    sidecar = sidecar_device()
    dirty_map = begin_map(sidecar, MapStart.AGREES)
    before = sidecar.image()
    dirty_map.owe(REGION, 512)
    half = len(before) // 2
    for image in (before[:half] + sidecar.image()[half:], sidecar.image()[:half] + before[half:]):
        assert owed_regions(found_in(image)) == {1}


def test_the_golden_map_is_read() -> None:
    found = found_in(GOLDEN.read_bytes())
    assert (found.found, owed_regions(found)) == (MapFound.BELIEVED, {1})


def test_a_map_goes_on_into_another_generation() -> None:
    sidecar = sidecar_device()
    dirty_map = begin_map(sidecar, MapStart.AGREES)
    dirty_map.owe(REGION, 512)
    dirty_map.go_on((5, bytes([5]) * 16))
    assert found_in(sidecar.image()).found is MapFound.STALE
    found = found_in(sidecar.image(), earlier=5, epoch=6)
    assert (found.found, owed_regions(found)) == (MapFound.BELIEVED, {1})


def test_both_copies_of_a_tebibyte_take_at_most_one_mebibyte() -> None:
    assert DirtyMap.file_bytes(TIB) <= 1 << 20
    assert DirtyMap.file_bytes(64 * TIB) <= 64 << 20
    assert DirtyMap.file_bytes(512) == 4 * BLOCK


# -- the primary's file ------------------------------------------------------------------------------------------------


class OnFile:
    """A map of a disk that is a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "db01.img"
        self.path.write_bytes(bytes(SIZE))
        self.sidecar = sidecar_device()

    def begin(self, start: MapStart, epoch: int) -> tuple[IoFilter, DirtyMap]:
        device = FileDevice(self.path, direct=False)
        dirty_map = begin_map(self.sidecar, start, epoch=epoch, earlier=epoch - 1, primary_fd=device.fileno())
        return Rig().disk(device, dirty_map=dirty_map), dirty_map


def test_a_disk_that_another_file_took_the_place_of_is_not_believed(tmp_path: Path) -> None:
    disk = OnFile(tmp_path)
    disk.begin(MapStart.AGREES, 2)
    other = tmp_path / "restored.img"
    other.write_bytes(bytes(SIZE))
    other.rename(disk.path)
    assert disk.begin(MapStart.MARKED, 3)[1].found is MapFound.REPLACED


def test_a_disk_that_was_changed_after_its_map_was_ended_is_not_believed(tmp_path: Path) -> None:
    disk = OnFile(tmp_path)
    io_filter, dirty_map = disk.begin(MapStart.AGREES, 2)
    io_filter.write(0, b"a" * 512)
    io_filter.close()
    dirty_map.end()
    assert disk.begin(MapStart.MARKED, 3)[1].found is MapFound.BELIEVED
    disk.begin(MapStart.AGREES, 2)[1].end()
    while disk.path.stat().st_ctime_ns >= time.time_ns() - 20_000_000:
        pass
    with disk.path.open("r+b") as file:
        file.write(b"not ours")
    assert disk.begin(MapStart.MARKED, 3)[1].found is MapFound.CHANGED


def test_a_disk_that_was_changed_long_after_its_map_was_kept_is_not_believed(tmp_path: Path) -> None:
    disk = OnFile(tmp_path)
    disk.begin(MapStart.AGREES, 2)
    image = bytearray(disk.sidecar.image())
    alive_at = 8 + 8 + 16 + 56 + 24 + 16
    for at in (0, len(image) // 2):  # an hour ago
        alive = int.from_bytes(image[at + alive_at : at + alive_at + 8], "little") - 3600 * 10**9
        image[at + alive_at : at + alive_at + 8] = alive.to_bytes(8, "little")
        sign(image, at)
    disk.sidecar = CrashDevice(image=bytes(image))
    assert disk.begin(MapStart.MARKED, 3)[1].found is MapFound.CHANGED


def test_a_map_whose_log_was_set_back_is_not_believed(life: Life) -> None:
    life.disk.write(0, b"a" * 512)
    life.disk.write(REGION, b"a" * 512)
    clear(life)
    image = life.left.sidecar.image()
    assert found_in(image, log_lsn=2).found is MapFound.BELIEVED
    assert found_in(image, log_lsn=1).found is MapFound.LOG_OLDER


def test_a_map_that_was_set_back_is_not_believed(life: Life) -> None:
    image, now_ns = life.left.sidecar.image(), time.time_ns()
    assert found_in(image, log_time_ns=now_ns + 50 * 10**9).found is MapFound.BELIEVED
    assert found_in(image, log_time_ns=now_ns + 70 * 10**9).found is MapFound.OLDER


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
