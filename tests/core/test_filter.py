"""The IO filter: the log says what the primary holds, byte for byte, whatever overlaps, fails or is refused."""

from __future__ import annotations

import os
import random
import threading

import pytest

from jetdr_core._core import IoFilter, Ring
from jetdr_core.device import FileDevice, MemoryDevice
from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import RECORD_BYTES_MAX
from jetdr_core.record import Kind, RecordFlag
from tests.core.rig import Rig, replay

SIZE = 1 << 20


def test_overlapping_writes_of_many_threads_leave_log_and_primary_equal() -> None:
    rig = Rig(log_bytes=64 << 20)
    primary = MemoryDevice(SIZE)
    disk = rig.disk(primary)
    rig.writer.start()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            offset = chance.randrange(0, 64) * 512
            length = chance.randrange(1, 24) * 512
            if chance.random() < 0.2:
                disk.zero(offset, length, discard=chance.random() < 0.5)
            else:
                disk.write(offset, bytes([chance.randrange(1, 256)]) * length)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.flush()
    rig.writer.stop()
    assert replay(rig.records(), SIZE) == disk.read(0, SIZE)


def test_one_lsn_order_spans_all_disks_of_the_ring() -> None:
    rig = Rig()
    disks = [rig.disk(MemoryDevice(SIZE), number) for number in (1, 2, 3)]
    for n in range(9):
        disks[n % 3].write(0, bytes([n + 1]) * 512)
    rig.commit_all()
    assert [(record.lsn, record.disk) for record in rig.records()] == [(n + 1, n % 3 + 1) for n in range(9)]


def test_a_flush_on_one_disk_makes_the_whole_log_durable() -> None:
    rig = Rig()
    one, two = (rig.disk(MemoryDevice(SIZE), number) for number in (1, 2))
    rig.writer.start()
    one.write(0, b"a" * 512)
    assert two.flush() == 1
    assert [record.payload for record in rig.records()] == [b"a" * 512]
    rig.writer.stop()


def test_zeros_of_any_length_are_one_record_without_payload(tmp_path: os.PathLike[str]) -> None:
    rig = Rig()
    path = os.path.join(tmp_path, "disk")
    primary = FileDevice(path, direct=False, create_bytes=64 << 20)
    disk = rig.disk(primary)
    disk.write(0, b"a" * 4096)
    disk.zero(0, 64 << 20)
    rig.commit_all()
    record = rig.records()[-1]
    assert (record.kind, record.length, record.payload) == (Kind.ZERO, 64 << 20, b"")
    assert disk.read(0, 4096) == bytes(4096)
    assert os.stat(path).st_blocks == 0


def test_background_copies_carry_their_flag_and_elide_zeros() -> None:
    rig = Rig()
    primary = MemoryDevice(SIZE)
    primary.write(0, b"old!" * 1024)
    disk = rig.disk(primary)
    disk.copy_background(0, 4096)
    disk.copy_background(4096, 4096)
    rig.commit_all()
    data, zeros = rig.records()
    assert (data.kind, data.flags, data.payload) == (Kind.WRITE, RecordFlag.BACKGROUND, b"old!" * 1024)
    assert (zeros.kind, zeros.flags, zeros.length) == (Kind.ZERO, RecordFlag.BACKGROUND, 4096)
    assert rig.ring.used_bytes == 0


def test_a_long_hole_is_copied_as_one_record_and_data_is_not_taken_for_one(tmp_path: os.PathLike[str]) -> None:
    rig = Rig()
    path = os.path.join(tmp_path, "disk")
    with open(path, "wb") as file:
        file.truncate(8 << 20)
        file.seek(6 << 20)
        file.write(b"data")
    primary = FileDevice(path, direct=False)
    disk = rig.disk(primary)
    assert disk.copy_background(0, 4 << 20) == 1
    assert disk.copy_background(4 << 20, 4 << 20) == 0
    rig.commit_all()
    assert [(record.kind, record.length) for record in rig.records()] == [(Kind.ZERO, 4 << 20)]
    assert rig.ring.used_bytes == 0


@pytest.mark.parametrize(
    ("offset", "length"),
    [(1, 512), (0, 511), (0, 0), (SIZE, 512), (SIZE - 512, 1024), (1 << 62, 512), (0, SIZE + 512), (0, 1 << 19)],
)
def test_unaligned_or_out_of_range_writes_are_refused_and_change_nothing(offset: int, length: int) -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(SIZE))
    with pytest.raises(InvalidRequest, match="multiples of 512 within the disk"):
        disk.write(offset, bytes(length))
    assert rig.ring.lsn_reserved == 0
    assert rig.ring.used_bytes == 0


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (0, -512), (1 << 63, 512), (0, 1 << 70)])
def test_numbers_beyond_any_disk_are_refused(offset: int, length: int) -> None:
    disk = Rig().disk(MemoryDevice(SIZE))
    for call in (disk.zero, disk.read, disk.copy_background):
        with pytest.raises(InvalidRequest):
            call(offset, length)


def test_a_closed_disk_refuses_every_call() -> None:
    disk = Rig().disk(MemoryDevice(SIZE))
    disk.close()
    disk.close()
    for call in (lambda: disk.write(0, bytes(512)), lambda: disk.read(0, 512), disk.flush, lambda: disk.zero(0, 512)):
        with pytest.raises(InvalidRequest, match="closed"):
            call()


def test_close_waits_for_the_calls_inside() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(MemoryDevice):
        def write(self, _offset: int, _data: object) -> None:
            entered.set()
            leave.wait()

    disk = Rig().disk(Slow(SIZE))
    lsns: list[int] = []
    writer = threading.Thread(target=lambda: lsns.append(disk.write(0, bytes(512))))
    writer.start()
    entered.wait()
    closer = threading.Thread(target=disk.close)
    closer.start()
    leave.set()
    closer.join()
    writer.join()
    assert lsns == [1]


def test_after_close_nothing_more_is_written() -> None:
    rig = Rig(ring_bytes=1 << 16, log_bytes=64 << 20)
    disk = rig.disk(MemoryDevice(SIZE))
    rig.writer.start()
    begun = threading.Semaphore(0)

    def write_for_ever() -> None:
        while True:
            disk.write(0, bytes(16384))

    def write_until_refused() -> None:
        disk.write(0, bytes(16384))
        begun.release()
        with pytest.raises(InvalidRequest, match="closed"):
            write_for_ever()

    threads = [threading.Thread(target=write_until_refused) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in threads:
        begun.acquire()
    disk.close()
    lsn, used = rig.ring.lsn_reserved, rig.ring.used_bytes
    for thread in threads:
        thread.join()
    assert rig.ring.lsn_reserved == lsn
    assert rig.ring.used_bytes <= used
    rig.writer.stop()
    assert rig.ring.used_bytes == 0


@pytest.mark.parametrize("record_bytes_max", [0, 511, 1000, RECORD_BYTES_MAX + 512, 1 << 40, 1 << 63, (1 << 64) - 512])
def test_a_longest_write_beyond_what_any_log_takes_is_refused(record_bytes_max: int) -> None:
    ring = Ring(payload_bytes=128 << 20, slots=16, lsn_next=1)
    for of_ring in (ring, None):
        with pytest.raises(InvalidRequest, match="is not valid"):
            IoFilter(
                of_ring,
                MemoryDevice(SIZE),
                disk=1,
                size_bytes=SIZE,
                record_bytes_max=record_bytes_max,
                stall_limit_s=0,
            )


def test_a_longest_write_beyond_this_log_is_refused_with_what_it_takes() -> None:
    rig = Rig(log_bytes=256 << 10, ring_bytes=1 << 20)
    rig.record_bytes_max = 65536 + 512
    with pytest.raises(InvalidRequest, match="with this log 65536 bytes"):
        rig.disk(MemoryDevice(SIZE))


def test_without_a_ring_writes_go_to_the_primary_alone() -> None:
    primary = MemoryDevice(SIZE)
    disk = IoFilter(None, primary, disk=1, size_bytes=SIZE, record_bytes_max=SIZE, stall_limit_s=1)
    assert disk.write(0, b"z" * 512) == 0
    assert disk.flush() == 0
    assert disk.read(0, 512) == b"z" * 512


def test_without_a_ring_a_write_of_any_length_is_taken_in_pieces() -> None:
    disk = IoFilter(None, MemoryDevice(SIZE), disk=1, size_bytes=SIZE, record_bytes_max=4096, stall_limit_s=1)
    assert disk.write(512, b"z" * 10240) == 0
    assert disk.read(0, 11264) == bytes(512) + b"z" * 10240 + bytes(512)
    assert disk.stats().writes == 3
