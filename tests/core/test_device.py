"""Devices as native code uses them: any memory, any block size, and whatever a device written in Python may do."""

from __future__ import annotations

import errno
import faulthandler
import os
import random
import threading
from pathlib import Path

import pytest
from typing_extensions import Buffer

from jetdr_core.device import BlockDevice, FileDevice, IscsiDevice, MemoryDevice
from jetdr_core.errors import InvalidRequest, LogFailed, PrimaryFailed
from tests.core.rig import Rig
from tests.peers.tgt import Tgt

SIZE = 4 << 20


def direct_file(path: Path) -> FileDevice:
    device = FileDevice(path, create_bytes=SIZE)
    if not device.direct or device.block_bytes != 512:
        pytest.skip("no direct I/O with blocks of 512 bytes here")
    return device


class FourKibBlocks(FileDevice):
    @property
    def block_bytes(self) -> int:
        return 4096


# -- descriptors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [512, 8192, (1 << 20) + 512, (2 << 20) + 1536])
def test_a_direct_primary_takes_any_memory(tmp_path: Path, length: int) -> None:
    rig = Rig(ring_bytes=16 << 20, log_bytes=32 << 20)
    disk = rig.disk(direct_file(tmp_path / "disk"))
    data = random.Random(length).randbytes(length)
    padded = bytearray(b"?" * 48 + data)
    disk.write(4096, memoryview(padded)[48:])
    target = bytearray(48 + length)
    disk.read_into(4096, memoryview(target)[48:])
    assert target[48:] == data
    assert disk.read(4096, length) == data
    rig.commit_all()
    assert [record.payload for record in rig.records()] == [data]


@pytest.mark.parametrize("length", [512, 8192, (1 << 20) + 512, (2 << 20) + 1536])
def test_a_lun_takes_any_memory_as_primary_and_as_log(tgt: Tgt, length: int) -> None:
    primary, log = tgt.add(SIZE), tgt.add(32 << 20, block_bytes=4096)
    rig = Rig(log=IscsiDevice(log.url), ring_bytes=16 << 20)
    disk = rig.disk(IscsiDevice(primary.url))
    data = random.Random(length).randbytes(length)
    padded = bytearray(b"?" * 48 + data)
    disk.write(4096, memoryview(padded)[48:])
    target = bytearray(48 + length)
    disk.read_into(4096, memoryview(target)[48:])
    assert target[48:] == data
    disk.zero(4096, 512)
    rig.commit_all()
    assert [record.payload for record in rig.records()] == [data, b""]
    assert primary.image.read_bytes()[4096 : 4096 + length] == bytes(512) + data[512:]
    tgt.remove(primary)
    tgt.remove(log)


def test_a_direct_log_with_blocks_of_4_kib_takes_records_of_single_sectors(tmp_path: Path) -> None:
    log = FourKibBlocks(tmp_path / "log", create_bytes=SIZE)
    if not log.direct:
        pytest.skip("no direct I/O here")
    rig = Rig(log=log, ring_bytes=64 << 10)
    disk = rig.disk(MemoryDevice(1 << 20))
    chance, written = random.Random(1), []
    for n in range(100):
        written.append(chance.randbytes(512 * chance.randint(1, 30)))
        disk.write(0, written[-1])
        if n % 3 == 0:
            rig.commit_all()
    rig.commit_all()
    assert [record.payload for record in rig.records()] == written


def test_a_primary_that_takes_no_single_sectors_is_refused_by_name(tmp_path: Path) -> None:
    devices: list[BlockDevice] = [MemoryDevice(SIZE, block_bytes=4096)]
    direct = FourKibBlocks(tmp_path / "disk", create_bytes=SIZE)
    if direct.direct:
        devices.append(direct)
    for device in devices:
        with pytest.raises(InvalidRequest, match="blocks of 4096 bytes takes no single sectors; use a disk with"):
            Rig().disk(device)


def test_a_buffered_primary_takes_single_sectors_whatever_its_blocks(tmp_path: Path) -> None:
    disk = Rig().disk(FourKibBlocks(tmp_path / "disk", create_bytes=SIZE, direct=False))
    disk.write(512, b"x" * 512)
    assert disk.read(0, 1024) == bytes(512) + b"x" * 512


# -- Python ------------------------------------------------------------------------------------------------------------


def test_a_device_cannot_keep_the_memory_it_was_lent() -> None:
    kept: list[memoryview] = []

    class Keeping(MemoryDevice):
        def read_into(self, offset: int, target: Buffer) -> None:
            super().read_into(offset, target)
            kept.append(target)  # type: ignore[arg-type]

    disk = Rig().disk(Keeping(SIZE))
    disk.read(0, 4096)
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_a_device_reaches_the_caller_and_its_write_is_a_failed_one(
    interrupt: type[BaseException],
) -> None:
    class Interrupted(MemoryDevice):
        def write(self, _offset: int, _data: Buffer) -> None:
            raise interrupt

    rig = Rig()
    disk = rig.disk(Interrupted(SIZE))
    with pytest.raises(interrupt) as caught:
        disk.write(0, b"x" * 512)
    assert isinstance(caught.value.__cause__, PrimaryFailed)
    assert disk.stats().failed_writes == 1
    rig.commit_all()
    assert [record.length for record in rig.records()] == [512], "what the primary holds was read back"


def test_an_interrupt_while_reading_back_goes_before_the_error_that_led_there() -> None:
    class Both(MemoryDevice):
        def write(self, _offset: int, _data: Buffer) -> None:
            raise OSError(errno.ENOSPC, "full")

        def read_into(self, _offset: int, _target: Buffer) -> None:
            raise KeyboardInterrupt

    disk = Rig().disk(Both(SIZE))
    with pytest.raises(KeyboardInterrupt):
        disk.write(0, b"x" * 512)
    assert disk.stats().suspect


def test_an_interrupt_inside_the_logs_device_reaches_the_one_who_commits() -> None:
    class Interrupted(MemoryDevice):
        def write(self, _offset: int, _data: Buffer) -> None:
            raise KeyboardInterrupt

    rig = Rig(log=Interrupted(SIZE))
    disk = rig.disk(MemoryDevice(SIZE))
    disk.write(0, bytes(512))
    with pytest.raises(KeyboardInterrupt) as caught:
        rig.writer.commit()
    assert isinstance(caught.value.__cause__, LogFailed)


class Hostile(Exception):
    """Its errno is whatever would look like success, or an error itself."""

    def __init__(self, number: object) -> None:
        self._number = number

    @property
    def errno(self) -> object:
        if isinstance(self._number, BaseException):
            raise self._number
        return self._number


@pytest.mark.parametrize("number", [0, -5, 1 << 40, "5", None, 2.5, RuntimeError("no"), KeyboardInterrupt()])
def test_no_exception_of_a_device_passes_for_success(number: object) -> None:
    class Raising(MemoryDevice):
        def write(self, _offset: int, _data: Buffer) -> None:
            raise Hostile(number)

    disk = Rig().disk(Raising(SIZE))
    with pytest.raises(PrimaryFailed) as caught:
        disk.write(0, b"x" * 512)
    assert caught.value.errno == errno.EIO


def test_errors_of_two_threads_are_not_mixed() -> None:
    class Named(MemoryDevice):
        def read_into(self, offset: int, _target: Buffer) -> None:
            raise OSError(errno.EIO, f"at {offset}")

    disk = Rig().disk(Named(SIZE))
    wrong: list[str] = []

    def read(offset: int) -> None:
        for _ in range(200):
            try:
                disk.read(offset, 512)
            except PrimaryFailed as error:
                if f"at {offset}" not in str(error.__cause__):
                    wrong.append(str(error.__cause__))

    threads = [threading.Thread(target=read, args=(n * 512,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_cannot_write_into_its_parents_log() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(SIZE))
    disk.write(0, b"p" * 4096)
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # the fault is expected
        disk.write(0, b"c" * 4096)
        os._exit(0)
    assert os.waitpid(child, 0)[1] != 0
    rig.commit_all()
    assert [record.payload for record in rig.records()] == [b"p" * 4096]
