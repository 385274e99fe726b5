"""The reader: few large reads, and memory that stays valid while it is used, and is reused afterwards."""

from __future__ import annotations

import gc
import os

import pytest

from jetdr_core.replication_log.buffers import BufferPool
from jetdr_core.replication_log.reader import LogReader
from tests.faults.device import CrashDevice
from tests.log.tools import VOLUME_BYTES, Forge, new_volume, writes_in

LOG_BYTES = 16 << 20


@pytest.fixture
def forge() -> Forge:
    device = CrashDevice(VOLUME_BYTES)
    section = new_volume(device, section_bytes=LOG_BYTES).open_section("payroll")
    return Forge(device, section.body.area, section.body.tail)


def reader_of(forge: Forge, chunk_bytes: int = 1 << 20, pool: BufferPool | None = None) -> LogReader:
    return LogReader(forge.device, forge.area, where="log", chunk_bytes=chunk_bytes, pool=pool)


def operations(forge: Forge) -> int:
    assert isinstance(forge.device, CrashDevice)
    return forge.device.operations


def test_many_small_batches_come_with_few_reads(forge: Forge) -> None:
    start = forge.cursor
    for n in range(500):
        forge.batch([bytes([n % 256]) * 512])
    before = operations(forge)
    batches = reader_of(forge).read(start, forge.cursor.position, payload_bytes_max=1 << 30)
    assert len(batches) == 500
    assert operations(forge) - before <= 500 * 8192 // (1 << 20) + 1


def test_no_byte_is_read_twice(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    start = forge.cursor
    for n in range(40):
        forge.batch([os.urandom(4096 * (1 + (n * 13) % 50))])
    lengths: list[int] = []
    read_into = forge.device.read_into

    def counted(offset: int, target: memoryview) -> None:
        lengths.append(len(target))
        read_into(offset, target)

    monkeypatch.setattr(forge.device, "read_into", counted)
    reader_of(forge, chunk_bytes=64 << 10).read(start, forge.cursor.position, payload_bytes_max=1 << 30)
    assert sum(lengths) == forge.cursor.position - start.position


@pytest.mark.parametrize("chunk_bytes", [4096, 12288, 1 << 16, 4 << 20])
def test_chunk_size_changes_nothing_but_the_reads(forge: Forge, chunk_bytes: int) -> None:
    start = forge.cursor
    payloads = [os.urandom(512 * (1 + (n * 31) % 300)) for n in range(60)]
    for payload in payloads:
        forge.batch([payload])
    reader = reader_of(forge, chunk_bytes)
    found = []
    cursor = start
    while batches := reader.read(cursor, forge.cursor.position, payload_bytes_max=200_000):
        found += [written.data for batch in batches for written in writes_in(*batch.records)]
        cursor = batches[-1].end
    assert found == payloads
    assert cursor == forge.cursor


def test_reading_stops_at_the_payload_asked_for_but_gives_at_least_one(forge: Forge) -> None:
    start = forge.cursor
    for _ in range(10):
        forge.batch([bytes(8192)])
    reader = reader_of(forge)
    assert len(reader.read(start, forge.cursor.position, payload_bytes_max=1)) == 1
    assert len(reader.read(start, forge.cursor.position, payload_bytes_max=3 * 8192)) == 3
    assert reader.read(forge.cursor, forge.cursor.position, payload_bytes_max=1) == []


def test_nothing_beyond_the_limit_is_remembered(forge: Forge) -> None:
    start = forge.cursor
    after_first = forge.batch([bytes(512)])
    reader = reader_of(forge)
    assert len(reader.read(start, after_first.position, payload_bytes_max=1 << 20)) == 1
    forge.batch([b"\xff" * 512])
    (batch,) = reader.read(after_first, forge.cursor.position, payload_bytes_max=1 << 20)
    assert bytes(batch.records.payload) == b"\xff" * 512


def test_wrap_is_followed_without_a_batch_of_its_own(forge: Forge) -> None:
    start = forge.cursor
    first = forge.batch([bytes(512)])
    forge.wrap()
    forge.cursor = forge.cursor._replace(position=forge.area.lap_end(first.position))
    reader = reader_of(forge)
    batches = reader.read(start, forge.cursor.position, payload_bytes_max=1 << 20)
    assert [batch.end for batch in batches] == [first]
    second = forge.batch([b"\x01" * 512])
    assert [b.end for b in reader.read(first, second.position, payload_bytes_max=1 << 20)] == [second]


def test_batches_stay_valid_while_they_are_held(forge: Forge) -> None:
    start = forge.cursor
    payloads = [os.urandom(65536) for _ in range(64)]
    for payload in payloads:
        forge.batch([payload])
    reader = reader_of(forge, chunk_bytes=128 << 10, pool=BufferPool(1 << 20))
    cursor, held = start, []
    while batches := reader.read(cursor, forge.cursor.position, payload_bytes_max=1):
        held += batches
        cursor = batches[-1].end
    assert [bytes(batch.records.payload) for batch in held] == payloads


def test_memory_goes_back_to_the_pool_when_the_last_view_is_gone() -> None:
    pool = BufferPool(1 << 20)
    view = pool.take(100_000)
    piece = view[1000:2000]
    del view
    gc.collect()
    assert pool.free_bytes == 0
    del piece
    gc.collect()
    assert pool.free_bytes == 1 << 17
    again = pool.take(1 << 17)
    assert pool.free_bytes == 0
    assert len(again) == 1 << 17


def test_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool(1 << 17)
    views = [pool.take(1 << 16) for _ in range(8)]
    del views
    gc.collect()
    assert pool.free_bytes == 1 << 17
