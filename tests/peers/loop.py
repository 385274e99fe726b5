"""Loop devices and partitions on them, as real block devices. Only root can make them."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_S = 30.0
_PARTITION_AT = 1 << 20


def needs_root() -> None:
    """Skip the test, which CI forbids, if this process cannot make loop devices."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("loop devices and mounts need root and /dev/loop-control")


@contextmanager
def loop_device(image: Path, size_bytes: int, *, content: bytes = b"") -> Iterator[str]:
    """Make ``image`` anew, and yield the path of a loop device over it."""
    needs_root()
    image.write_bytes(content)
    os.truncate(image, size_bytes)
    with _attached(image) as path:
        yield path


@contextmanager
def partition_on_loop_device(image: Path, size_bytes: int) -> Iterator[str]:
    """Yield the path of the only partition, of ``size_bytes``, on a loop device."""
    needs_root()
    image.write_bytes(b"")
    os.truncate(image, _PARTITION_AT + size_bytes + _PARTITION_AT)
    table = f"label: gpt\nstart={_PARTITION_AT // 512}, size={size_bytes // 512}\n"
    command = ["sfdisk", "--quiet", "--no-tell-kernel", str(image)]  # otherwise it ends with a machine-wide sync()
    subprocess.run(command, input=table, text=True, check=True)
    with _attached(image, "--partscan") as path:
        subprocess.run(["partx", "--update", path], check=True)  # for a kernel that does not read partition tables
        try:
            yield _node_of(f"{path}p1", path)
        finally:
            subprocess.run(["partx", "--delete", path], check=True)


def attach(image: Path, *options: str) -> str:
    """Return a loop device over the file. Two processes may be offered the same device, so the slower one retries."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        command = ["losetup", "--find", "--show", *options, str(image)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
        if done.returncode == 0:
            return done.stdout.strip()
        assert time.monotonic() < deadline, f"{command}: {done.stderr}"
        time.sleep(0.05)


@contextmanager
def _attached(image: Path, *options: str) -> Iterator[str]:
    path = attach(image, *options)
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


def _node_of(partition: str, disk: str) -> str:
    """Return the partition's device node. In a container without udev it is made here."""
    if not Path(partition).exists():
        name = Path(partition).name
        major, minor = Path(f"/sys/block/{Path(disk).name}/{name}/dev").read_text().strip().split(":")
        os.mknod(partition, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
    return partition
