"""What FileDevice adds to the conformance suite: creation, locking, growth, the kinds of files it takes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceBusy, DeviceFull, InvalidRequest
from tests.peers.loop import needs_root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    needs_root()
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_created_file_is_allocated_and_private(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    status = os.stat(tmp_path / "log")
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= 1 << 20
    device.close()


def test_existing_file_is_not_created_anew(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        FileDevice(tmp_path / "log", create_bytes=1 << 20)
    assert (tmp_path / "log").read_bytes() == b"mine"


def test_missing_file_stays_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileDevice(tmp_path / "log")


@pytest.mark.parametrize("size", [0, -4096, 1000])
def test_impossible_size_is_refused_and_leaves_no_file(tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidRequest):
        FileDevice(tmp_path / "log", create_bytes=size)
    assert not (tmp_path / "log").exists()


def test_file_without_room_says_so_and_is_removed(tmp_path: Path) -> None:
    with pytest.raises((DeviceFull, OSError)) as caught:
        FileDevice(tmp_path / "log", create_bytes=1 << 45)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "log").exists()


def test_folder_and_special_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FileDevice(tmp_path)
    with pytest.raises(InvalidRequest, match="neither a regular file nor a block device"):
        FileDevice("/dev/null", direct=False)


def test_second_process_finds_the_lock_taken(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20, lock=True)
    script = f"""
from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceBusy
try:
    FileDevice({str(tmp_path / "log")!r}, lock=True)
except DeviceBusy as error:
    print(error)
"""
    run = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", script]
    found = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "in use by another process" in found.stdout
    device.close()


def test_lock_goes_with_the_device(tmp_path: Path) -> None:
    FileDevice(tmp_path / "log", create_bytes=1 << 20, lock=True).close()
    FileDevice(tmp_path / "log", lock=True).close()


def test_busy_file_is_not_removed_by_the_one_who_came_second(tmp_path: Path) -> None:
    first = FileDevice(tmp_path / "log", create_bytes=1 << 20, lock=True)
    with pytest.raises(DeviceBusy):
        FileDevice(tmp_path / "log", lock=True)
    assert (tmp_path / "log").exists()
    first.close()


def test_grown_file_keeps_its_bytes_and_reads_zeros_after_them(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    device.write(0, b"x" * 4096)
    device.grow(2 << 20)
    assert device.size_bytes == os.stat(tmp_path / "log").st_size == 2 << 20
    target = bytearray(2 << 20)
    device.read_into(0, target)
    assert target == b"x" * 4096 + bytes((2 << 20) - 4096)
    device.close()


def test_file_does_not_shrink(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=2 << 20)
    with pytest.raises(InvalidRequest):
        device.grow(1 << 20)
    device.close()


def test_read_only_device_refuses_changes(tmp_path: Path) -> None:
    FileDevice(tmp_path / "log", create_bytes=1 << 20).close()
    device = FileDevice(tmp_path / "log", writable=False)
    with pytest.raises(InvalidRequest, match="read-only"):
        device.write(0, bytes(4096))
    with pytest.raises(InvalidRequest, match="read-only"):
        device.zero(0, 4096)
    with pytest.raises(InvalidRequest, match="read-only"):
        device.grow(2 << 20)
    device.close()


def test_reopened_device_is_independent_of_the_first(tmp_path: Path) -> None:
    first = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    second = first.reopen()
    os.unlink(tmp_path / "log")
    first.write(0, b"x" * 4096)
    first.close()
    target = bytearray(4096)
    second.read_into(0, target)
    assert target == b"x" * 4096
    assert second.path == str(tmp_path / "log")
    second.close()


def test_closed_device_refuses_io(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    device.close()
    with pytest.raises(ValueError, match="closed"):
        device.write(0, bytes(4096))


def test_truncated_file_is_a_short_read(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    os.truncate(tmp_path / "log", 4096)
    with pytest.raises(OSError, match="short"):
        device.read_into(0, bytearray(8192))
    device.close()


def test_zeroed_range_gives_its_space_back(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    before = os.stat(tmp_path / "log").st_blocks
    device.zero(0, 1 << 20)
    assert os.stat(tmp_path / "log").st_blocks < before
    device.close()


def test_growth_without_room_leaves_the_size(small_disk: Path) -> None:
    device = FileDevice(small_disk / "log", create_bytes=1 << 20)
    with pytest.raises(DeviceFull, match="no room"):
        device.grow(64 << 20)
    assert device.size_bytes == os.stat(small_disk / "log").st_size == 1 << 20
    device.close()


def test_creation_without_room_names_what_is_free(small_disk: Path) -> None:
    with pytest.raises(DeviceFull, match="are free"):
        FileDevice(small_disk / "log", create_bytes=64 << 20)
    assert list(small_disk.iterdir()) == []


def test_file_system_without_direct_io_is_used_through_the_cache_and_says_so(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(tmp_path)], check=True)
    try:
        device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
        assert not device.direct
        device.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
