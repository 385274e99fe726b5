"""The devices that the conformance suite runs on, each empty and 1 MiB long; a LUN and a proxy for iSCSI's own tests.

Loop devices and the file system without O_DIRECT need root; LUNs need tgtd. Where they cannot be had, their rows are
skipped with the reason, which CI forbids.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from jetdr_core.device import BlockDevice, FileDevice, IscsiDevice, MemoryDevice
from tests.device.lun import SIZE
from tests.faults.device import CrashDevice
from tests.faults.threaded_proxy import ThreadedProxy, threaded_proxy
from tests.peers.loop import loop_device, needs_root, partition_on_loop_device
from tests.peers.tgt import Lun, Tgt

DEVICE_BYTES = 1 << 20
Opened = Iterator[BlockDevice]


@pytest.fixture
def tmp_path(disk_path: Path) -> Path:
    return disk_path


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
    needs_root()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(folder)], check=True)
    try:
        with file_on(folder) as device:
            yield device
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def file_device(path: str) -> Opened:
    device = FileDevice(path, lock=True)
    try:
        yield device
    finally:
        device.close()


@contextmanager
def loop(folder: Path) -> Opened:
    with loop_device(folder / "image", DEVICE_BYTES) as path, file_device(path) as device:
        yield device


@contextmanager
def partition(folder: Path) -> Opened:
    with partition_on_loop_device(folder / "image", DEVICE_BYTES) as path, file_device(path) as device:
        yield device


@contextmanager
def memory(folder: Path) -> Opened:
    yield MemoryDevice(DEVICE_BYTES)


@contextmanager
def memory_of_4k_blocks(folder: Path) -> Opened:
    yield MemoryDevice(DEVICE_BYTES, block_bytes=4096)


@contextmanager
def crash(folder: Path) -> Opened:
    yield CrashDevice(DEVICE_BYTES)


@contextmanager
def on_lun(tgt: Tgt, lun: Lun) -> Opened:
    device = IscsiDevice(lun.url, lock=True)
    try:
        yield device
    finally:
        device.close()
        tgt.remove(lun)


@contextmanager
def lun(tgt: Tgt) -> Opened:
    with on_lun(tgt, tgt.add(DEVICE_BYTES)) as device:
        yield device


@contextmanager
def lun_of_4k_blocks(tgt: Tgt) -> Opened:
    with on_lun(tgt, tgt.add(DEVICE_BYTES, block_bytes=4096)) as device:
        yield device


@contextmanager
def lun_thin(tgt: Tgt) -> Opened:
    with on_lun(tgt, tgt.add(DEVICE_BYTES, thin=True)) as device:
        yield device


IN_FOLDER: list[Callable[[Path], AbstractContextManager[BlockDevice]]] = [
    *(file_on, file_buffered, file_on_tmpfs, memory, memory_of_4k_blocks, crash),
    *(file_on_ramfs, loop, partition),
]
ON_TGT: list[Callable[[Tgt], AbstractContextManager[BlockDevice]]] = [lun, lun_of_4k_blocks, lun_thin]


@pytest.fixture(name="lun")
def lun_to_open(tgt: Tgt) -> Iterator[Lun]:
    """A LUN of the shared target, not opened yet."""
    made = tgt.add(SIZE)
    yield made
    tgt.remove(made)


@pytest.fixture
def proxy(tgt: Tgt) -> Iterator[ThreadedProxy]:
    with threaded_proxy(tgt.port) as line:
        yield line


@pytest.fixture(params=[*IN_FOLDER, *ON_TGT], ids=lambda opener: opener.__name__)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockDevice]:
    place = request.getfixturevalue("tgt") if request.param in ON_TGT else tmp_path
    with request.param(place) as opened:
        yield opened
