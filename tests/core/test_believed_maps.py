"""A map is believed only if it is whole, of this disk and log, and newer than both."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import xxhash

from jetdr_core._core import DirtyMap, IoFilter, MapFound, MapStart
from jetdr_core.device import FileDevice
from tests.core.map_rig import (
    REGION,
    REGIONS,
    SECTION,
    SIZE,
    TIMELINE,
    Left,
    Life,
    begin_map,
    clear,
    owed_regions,
    sidecar_device,
    used,
)
from tests.core.rig import Rig
from tests.faults.device import CrashDevice
from tests.golden.make_dirty_map import GOLDEN

BLOCK = 4096
TIB = 1 << 40


@pytest.fixture
def life() -> Life:
    return Life(Left.new(), 2, MapStart.AGREES)


def sign(image: bytearray, at: int) -> None:
    """Give the block at ``at`` the checksum that fits."""
    digest = xxhash.xxh3_64_intdigest(bytes(image[at : at + BLOCK - 8]))
    image[at + BLOCK - 8 : at + BLOCK] = digest.to_bytes(8, "little")


# -- which maps are believed -------------------------------------------------------------------------------------------


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


def test_a_bit_that_only_one_copy_had_is_in_both_once_the_map_goes_on() -> None:
    """Its region is in use from then on without another write to the sidecar, and one copy may be torn at any time."""
    sidecar = sidecar_device()
    dirty_map = begin_map(sidecar, MapStart.AGREES)
    before = sidecar.image()
    dirty_map.owe(REGION, 512)
    half = len(before) // 2
    for image in (before[:half] + sidecar.image()[half:], sidecar.image()[:half] + before[half:]):
        goes_on = CrashDevice(image=image)
        begin_map(goes_on, MapStart.MARKED, epoch=3, earlier=2)
        for torn in range(2):
            left = bytearray(goes_on.durable())
            left[torn * half + BLOCK + 512] ^= 1
            found = begin_map(CrashDevice(image=bytes(left)), MapStart.MARKED, epoch=4, earlier=3)
            assert (found.found, owed_regions(found)) == (MapFound.BELIEVED, {1}), f"copy {torn} is torn"


def test_the_golden_map_is_read() -> None:
    found = found_in(GOLDEN.read_bytes())
    assert (found.found, owed_regions(found)) == (MapFound.BELIEVED, {1})


def test_a_map_goes_on_into_another_generation() -> None:
    sidecar = sidecar_device()
    dirty_map = begin_map(sidecar, MapStart.AGREES)
    dirty_map.owe(REGION, 512)
    dirty_map.go_on(SECTION, TIMELINE, (5, bytes([5]) * 16))
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
