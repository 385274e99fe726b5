"""What FileDevice adds to the conformance suite: creation, locking, growth, the kinds of files it takes."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceBusy, DeviceFull, InvalidRequest
from tests.peers.loop import loop_device, needs_root, partition_on_loop_device


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
    with pytest.raises(
        DeviceFull, match=f"/log: making a file of {1 << 45} bytes, allocated, failed: .*; .*"
    ) as caught:
        FileDevice(tmp_path / "log", create_bytes=1 << 45)
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    assert "ask for less" in caught.value.hint
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


def test_a_symbolic_link_is_followed_unless_another_user_made_it(tmp_path: Path) -> None:
    FileDevice(tmp_path / "log", create_bytes=1 << 20).close()
    (tmp_path / "link").symlink_to("log")
    FileDevice(tmp_path / "link", lock=True).close()
    needs_root()
    os.lchown(tmp_path / "link", 54321, 54321)
    for lock in (False, True):
        with pytest.raises(InvalidRequest, match="link is a symbolic link of user 54321, who decides"):
            FileDevice(tmp_path / "link", lock=lock)


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


def test_growth_beyond_the_limit_on_file_sizes_names_it(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        with pytest.raises(DeviceFull, match=r"/log: growing from 1048576 to 4194304 bytes failed: .*\(ulimit -f\)"):
            device.grow(4 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert device.size_bytes == os.stat(tmp_path / "log").st_size == 1 << 20
    device.close()


def test_file_that_this_user_may_not_make_says_where_and_what_to_do(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        PermissionError, match=r"/log: making a file of 1048576 bytes, .* failed: Read-only file"
    ) as caught:
        FileDevice(small_disk / "log", create_bytes=1 << 20)
    assert "mount that file system for writing, or name another place" in str(caught.value)


@contextmanager
def mounted(path: str, place: Path) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", path, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def another_node_of(path: str, place: Path) -> Iterator[str]:
    os.mknod(place, 0o600 | stat.S_IFBLK, os.stat(path).st_rdev)
    yield str(place)


def test_a_mounted_block_device_is_refused(tmp_path: Path, peer: Callable[[str], str]) -> None:
    with loop_device(tmp_path / "image", 8 << 20) as path:
        subprocess.run([peer("mkfs.ext4"), "-q", path], check=True)
        before = Path(path).read_bytes()
        with mounted(path, tmp_path / "mounted"):
            with pytest.raises(DeviceBusy, match=f"{path} is in use .*, or is mounted.*; see lsblk"):
                FileDevice(path, lock=True)
            FileDevice(path, writable=False).close()
        assert len(Path(path).read_bytes()) == len(before)
        device = FileDevice(path, lock=True)
        (tmp_path / "again").mkdir()
        refused = subprocess.run(["mount", path, str(tmp_path / "again")], capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        device.close()
        with mounted(path, tmp_path / "later"):
            pass


def test_a_block_device_with_a_mounted_partition_is_refused(tmp_path: Path, peer: Callable[[str], str]) -> None:
    with partition_on_loop_device(tmp_path / "image", 8 << 20) as path:
        subprocess.run([peer("mkfs.ext4"), "-q", path], check=True)
        with mounted(path, tmp_path / "mounted"), pytest.raises(DeviceBusy, match="or is mounted"):
            FileDevice(path.removesuffix("p1"), lock=True)


def test_a_block_device_in_use_is_refused_by_any_other_node(tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", 8 << 20) as path, another_node_of(path, tmp_path / "node") as other:
        device = FileDevice(path, lock=True)
        again = device.reopen()
        for node in (path, other):
            with pytest.raises(DeviceBusy, match=f"{node} is in use by another process"):
                FileDevice(node, lock=True)
        again.write(0, b"x" * 4096)
        again.close()
        device.close()
        FileDevice(other, lock=True).close()


def test_file_system_without_direct_io_is_used_through_the_cache_and_says_so(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(tmp_path)], check=True)
    try:
        device = FileDevice(tmp_path / "log", create_bytes=1 << 20)
        assert not device.direct
        device.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
