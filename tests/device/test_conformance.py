"""What every BlockDevice promises, whatever it stands on."""

from __future__ import annotations

import mmap
import os
import threading

import numpy as np
import pytest

from jetdr_core.device import BlockDevice
from jetdr_core.errors import InvalidRequest


def read(device: BlockDevice, offset: int, length: int) -> bytes:
    target = bytearray(length)
    device.read_into(offset, target)
    return bytes(target)


def pattern(length: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(length)


def test_new_device_reads_as_zeros(device: BlockDevice) -> None:
    assert read(device, 0, device.size_bytes) == bytes(device.size_bytes)


def test_size_and_block_are_what_was_made(device: BlockDevice) -> None:
    assert device.size_bytes == 1 << 20
    assert device.block_bytes in {512, 4096}


def test_written_bytes_are_read_back_and_nothing_else_changes(device: BlockDevice) -> None:
    block = device.block_bytes
    data = pattern(3 * block)
    device.write(block, data)
    assert read(device, 0, 5 * block) == bytes(block) + data + bytes(block)


def test_whole_device_is_written_and_read_at_once(device: BlockDevice) -> None:
    data = pattern(device.size_bytes)
    device.write(0, data)
    assert read(device, 0, device.size_bytes) == data


def test_last_block_is_reachable(device: BlockDevice) -> None:
    data = pattern(device.block_bytes)
    device.write(device.size_bytes - device.block_bytes, data)
    assert read(device, device.size_bytes - device.block_bytes, device.block_bytes) == data


@pytest.mark.parametrize("shift", [0, 1, 8, 511])
def test_alignment_of_the_callers_memory_does_not_matter(device: BlockDevice, shift: int) -> None:
    length = 2 * device.block_bytes
    memory = memoryview(mmap.mmap(-1, length + 4096))[shift : shift + length]
    memory[:] = pattern(length)
    device.write(0, memory)
    target = memoryview(mmap.mmap(-1, length + 4096))[shift : shift + length]
    device.read_into(0, target)
    assert target == memory


def test_any_contiguous_buffer_is_taken(device: BlockDevice) -> None:
    words = np.arange(device.block_bytes // 8, dtype=np.uint64)
    device.write(0, words.data)
    target = np.zeros_like(words)
    device.read_into(0, target.data)
    assert (target == words).all()


def test_zeroed_range_reads_as_zeros_and_its_neighbours_stay(device: BlockDevice) -> None:
    data = pattern(device.size_bytes)
    device.write(0, data)
    block = device.block_bytes
    device.zero(block, 9 * block)
    assert read(device, 0, device.size_bytes) == data[:block] + bytes(9 * block) + data[10 * block :]


def test_zeroing_everything_keeps_the_size(device: BlockDevice) -> None:
    device.write(0, pattern(device.size_bytes))
    device.zero(0, device.size_bytes)
    assert read(device, 0, device.size_bytes) == bytes(device.size_bytes)


def test_empty_io_does_nothing(device: BlockDevice) -> None:
    device.write(0, b"")
    device.zero(device.size_bytes, 0)
    assert read(device, device.size_bytes, 0) == b""


def test_sync_keeps_what_was_written(device: BlockDevice) -> None:
    device.write(0, pattern(device.block_bytes))
    device.sync()
    assert read(device, 0, device.block_bytes) == pattern(device.block_bytes)


@pytest.mark.parametrize(
    ("offset", "length"), [(1, 4096), (0, 100), (-4096, 4096), (1 << 20, 4096), (0, (1 << 20) + 4096)]
)
def test_bad_range_is_refused_and_changes_nothing(device: BlockDevice, offset: int, length: int) -> None:
    data = pattern(device.size_bytes)
    device.write(0, data)
    with pytest.raises(InvalidRequest):
        device.write(offset, bytes(length))
    with pytest.raises(InvalidRequest):
        device.zero(offset, length)
    with pytest.raises(InvalidRequest):
        device.read_into(offset, bytearray(length))
    assert read(device, 0, device.size_bytes) == data


def test_buffer_that_cannot_be_used_is_refused(device: BlockDevice) -> None:
    with pytest.raises(InvalidRequest, match="read-only"):
        device.read_into(0, bytes(4096))
    with pytest.raises(InvalidRequest, match="contiguous"):
        device.write(0, memoryview(bytes(8192))[::2])


def test_threads_write_their_own_ranges_at_once(device: BlockDevice) -> None:
    share = device.size_bytes // 4

    def fill(number: int) -> None:
        for offset in range(number * share, (number + 1) * share, 16384):
            device.write(offset, bytes([number + 1]) * 16384)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(device, 0, device.size_bytes) == b"".join(bytes([number]) * share for number in range(1, 5))


def test_descriptor_if_any_reaches_the_same_bytes(device: BlockDevice) -> None:
    device.write(0, pattern(4096))
    if (fd := device.fileno()) >= 0:
        target = mmap.mmap(-1, 4096)
        assert os.preadv(fd, [target], 0) == 4096
        assert target[:] == pattern(4096)


def test_closing_is_idempotent(device: BlockDevice) -> None:
    device.close()
    device.close()
