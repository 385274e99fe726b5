"""The devices that the conformance suite runs on, each empty and 1 MiB long.

The loop device and the file system without O_DIRECT need root; elsewhere those rows do not exist.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetdr_core.device import BlockDevice, FileDevice, MemoryDevice
from tests.faults.device import CrashDevice

DEVICE_BYTES = 1 << 20
Opened = Iterator[BlockDevice]


@contextmanager
def file_on(folder: Path, *, direct: bool = True) -> Opened:
    device = FileDevice(folder / "device", create_bytes=DEVICE_BYTES, direct=direct)
    try:
        yield device
    finally:
        device.close()


@contextmanager
def file_buffered(folder: Path) -> Opened:
    with file_on(folder, direct=False) as device:
        yield device


@contextmanager
def file_on_tmpfs(folder: Path) -> Opened:
    shared = Path("/dev/shm") / f"jetdr-{os.getpid()}"
    shared.mkdir()
    try:
        with file_on(shared) as device:
            yield device
    finally:
        shutil.rmtree(shared)


@contextmanager
def file_on_ramfs(folder: Path) -> Opened:
    """A file system that refuses O_DIRECT."""
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(folder)], check=True)
    try:
        with file_on(folder) as device:
            yield device
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def loop_device(folder: Path) -> Opened:
    image = folder / "image"
    image.write_bytes(bytes(DEVICE_BYTES))
    found = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    path = found.stdout.strip()
    try:
        device = FileDevice(path, lock=True)
        try:
            yield device
        finally:
            device.close()
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


@contextmanager
def memory(folder: Path) -> Opened:
    yield MemoryDevice(DEVICE_BYTES)


@contextmanager
def memory_of_4k_blocks(folder: Path) -> Opened:
    yield MemoryDevice(DEVICE_BYTES, block_bytes=4096)


@contextmanager
def crash(folder: Path) -> Opened:
    yield CrashDevice(DEVICE_BYTES)


ROOT = os.geteuid() == 0 and Path("/dev/loop-control").exists() and shutil.which("losetup") is not None
OPENERS: list[Callable[[Path], object]] = [
    *(file_on, file_buffered, file_on_tmpfs, memory, memory_of_4k_blocks, crash),
    *((file_on_ramfs, loop_device) if ROOT else ()),
]


@pytest.fixture(params=OPENERS, ids=lambda opener: opener.__name__)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    with request.param(tmp_path) as opened:
        yield opened
