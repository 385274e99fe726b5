"""A log that was copied with holes has its space before anybody relies on it, or is refused with what is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceFull, LogNotALog
from jetdr_core.replication_log import ReplicationLog, open_volume

OWNER, DOMAIN = UUID(int=1), UUID(int=2)
SECTION_BYTES = 8 << 20


def held_bytes(path: Path) -> int:
    return 512 * path.stat().st_blocks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A copy with holes of a log with some records' worth of bytes."""
    with open_volume(tmp_path / "log", owner=OWNER, create=True) as volume:
        row = volume.create_section("payroll", DOMAIN, SECTION_BYTES)
        volume.device.write(row.offset + (2 << 20), b"x" * 4096)
    subprocess.run(["cp", "--sparse=always", tmp_path / "log", tmp_path / "moved"], check=True)
    (tmp_path / "moved").chmod(0o600)
    assert held_bytes(tmp_path / "moved") < SECTION_BYTES // 2
    return tmp_path / "moved"


def test_a_copy_with_holes_gets_its_space_and_keeps_its_content(moved: Path) -> None:
    before = moved.read_bytes()
    open_volume(moved, owner=OWNER).close()
    assert held_bytes(moved) >= len(before)
    assert moved.read_bytes() == before


def test_what_is_erased_in_a_log_keeps_its_space(moved: Path) -> None:
    with open_volume(moved, owner=OWNER) as volume:
        section = volume.open_section("payroll", DOMAIN)
        volume.device.zero(2 << 20, 4 << 20)
        section.device.zero(2 << 20, 4 << 20)
        log = ReplicationLog(section)
        log.begin(1)
        log.close(clean=True)
    assert held_bytes(moved) >= moved.stat().st_size
    assert moved.read_bytes()[2 << 20 : 6 << 20] == bytes(4 << 20)


def test_without_room_for_the_holes_the_log_is_refused_and_nothing_is_taken(moved: Path, small: Path) -> None:
    subprocess.run(["cp", "--sparse=always", moved, small / "log"], check=True)
    (small / "log").chmod(0o600)
    before, free = held_bytes(small / "log"), os.statvfs(small).f_bfree
    missing = (small / "log").stat().st_size - before
    with pytest.raises(DeviceFull, match=f"{missing} of its .* bytes have no space") as refused:
        open_volume(small / "log", owner=OWNER)
    assert f"free {missing - free * os.statvfs(small).f_frsize} bytes more" in str(refused.value.hint)
    assert (held_bytes(small / "log"), os.statvfs(small).f_bfree) == (before, free)


def test_a_sparse_file_that_is_no_log_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.write(b"somebody's disk")
    with pytest.raises(LogNotALog):
        open_volume(path, owner=OWNER)
    assert held_bytes(path) < 1 << 20


def test_a_disk_still_gives_back_what_is_discarded(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "disk.img", create_bytes=8 << 20)
    device.zero(0, 8 << 20)
    device.close()
    assert held_bytes(tmp_path / "disk.img") == 0
