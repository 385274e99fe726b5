"""The log writer: batches in LSN order, wrap, a full log, and what a failing device does to it."""

from __future__ import annotations

import random

import pytest

from jetdr_core._core import LogWriter
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, LogFailed, StallTimeout
from jetdr_core.limits import SEGMENT_RECORDS_MAX
from jetdr_core.record import Kind
from jetdr_core.replication_log.batch import DataArea
from jetdr_core.replication_log.reader import LogReader
from jetdr_core.segment import build_body
from tests.core.rig import SECTION_ID, START, Logged, Rig
from tests.faults.device import CrashDevice


def test_records_come_back_as_they_were_written_over_many_laps() -> None:
    rig = Rig(log_bytes=256 << 10, ring_bytes=1 << 18)
    disk = rig.disk(MemoryDevice(1 << 20))
    chance = random.Random(7)
    written: list[bytes] = []
    found: list[Logged] = []
    cursor = START
    for _ in range(200):
        for _ in range(chance.randrange(1, 5)):
            data = chance.randbytes(512 * chance.randrange(1, 40))
            disk.write(0, data)
            written.append(data)
        rig.commit_all()
        found += rig.records(cursor)
        state = rig.writer.state()
        last = found[-1]
        cursor = START._replace(
            position=state.durable_position,
            batch_number=state.batch_durable,
            lsn=last.lsn,
            checksum=state.previous_checksum,
            time_ns=last.time_ns,
        )
        rig.writer.set_tail(cursor.position)
    assert [record.payload for record in found] == written
    assert rig.writer.state().head_position > 8 * rig.log.size_bytes


def test_a_full_log_writes_no_further_until_the_tail_moves() -> None:
    rig = Rig(log_bytes=64 << 10, ring_bytes=1 << 17)
    disk = rig.disk(MemoryDevice(1 << 20), stall_limit_s=0.01)

    def write_for_ever() -> None:
        while True:
            disk.write(0, bytes(4096))
            rig.writer.commit()

    with pytest.raises(StallTimeout):
        write_for_ever()
    state = rig.writer.state()
    assert state.head_position <= 64 << 10
    assert rig.writer.commit() == 0
    rig.ring.request_durable(rig.ring.lsn_reserved)
    rig.writer.commit()
    assert rig.writer.state().lsn_durable == state.lsn_written, "what is written can leave, though more is wanted"
    rig.writer.set_tail(state.head_position)
    assert rig.writer.commit() > 0


def test_a_burst_longer_than_log_and_ring_goes_through_when_space_is_given_back() -> None:
    rig = Rig(log_bytes=128 << 10, ring_bytes=1 << 16)
    disk = rig.disk(MemoryDevice(1 << 20))
    rig.writer.start()
    for n in range(400):
        disk.write(0, bytes([n % 256]) * 8192)
        if n % 4 == 3:
            disk.flush()
            rig.writer.set_tail(rig.writer.state().durable_position)
    rig.writer.stop()
    assert rig.writer.state().lsn_durable == 400


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
@pytest.mark.parametrize("nth", [1, 2])
def test_the_first_failed_write_or_flush_poisons_the_log(nth: int, permanence: str) -> None:
    log = CrashDevice(1 << 20)
    rig = Rig(log=log)
    disk = rig.disk(MemoryDevice(1 << 20))
    disk.write(0, b"a" * 512)
    log.fail_at(nth, permanence)  # type: ignore[arg-type]
    rig.ring.request_durable(1)
    with pytest.raises(LogFailed, match="Input/output error"):
        rig.writer.commit()
    log.heal()
    with pytest.raises(LogFailed):
        rig.writer.commit()
    with pytest.raises(LogFailed):
        disk.write(0, b"b" * 512)
    assert rig.writer.state().lsn_durable == 0
    assert rig.writer.state().failed_errno == 5


def test_a_batch_goes_to_devices_with_4_kib_sectors_whole() -> None:
    rig = Rig(log=MemoryDevice(1 << 20, block_bytes=4096))
    disk = rig.disk(MemoryDevice(1 << 20))
    payloads = [bytes([n]) * (512 * n) for n in range(1, 12)]
    for payload in payloads:
        disk.write(0, payload)
    rig.commit_all()
    assert [record.payload for record in rig.records()] == payloads


def test_stop_commits_what_was_published() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(1 << 20))
    rig.writer.start()
    for _ in range(50):
        disk.write(0, bytes(4096))
    rig.writer.stop()
    assert rig.writer.state().lsn_durable == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"data_bytes": 4095},
        {"data_bytes": 4096},
        {"data_offset": 512},
        {"tail_position": 4096},
        {"head_position": 8 << 20},
        {"batch_bytes_max": 1},
    ],
)
def test_impossible_geometry_is_refused(wrong: dict[str, int]) -> None:
    rig = Rig()
    geometry = {
        "data_offset": 0,
        "data_bytes": 1 << 20,
        "section_id": SECTION_ID,
        "epoch": 1,
        "head_position": 0,
        "tail_position": 0,
        "batch_number": 0,
        "previous_checksum": 0,
    }
    with pytest.raises(InvalidRequest, match="is not valid"):
        LogWriter(rig.ring, rig.log, **(geometry | wrong))


def test_no_more_records_are_read_at_once_than_one_segment_takes() -> None:
    rig = Rig(log_bytes=64 << 20, slots=1 << 15)
    disk = rig.disk(MemoryDevice(1 << 20))
    rig.writer.start()
    for _ in range(SEGMENT_RECORDS_MAX + 10_000):
        disk.zero(0, 512, discard=True)
    disk.flush()
    rig.writer.stop()
    reader = LogReader(rig.log, DataArea(SECTION_ID, 0, rig.log.size_bytes), where="rig")
    batches = reader.read(START, rig.writer.state().durable_position, payload_bytes_max=1 << 20)
    assert build_body([batch.records for batch in batches]).last_lsn <= SEGMENT_RECORDS_MAX


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_payloads_around_the_rings_end_are_logged_whole(block_bytes: int) -> None:
    rig = Rig(log=MemoryDevice(4 << 20, block_bytes=block_bytes), ring_bytes=64 << 10, slots=64)
    disk = rig.disk(MemoryDevice(1 << 20))
    rng, mark = random.Random(1), b"a mark" * 100
    expected = []
    for _ in range(200):
        data = rng.randbytes(512 * rng.randint(1, 31))
        disk.write(0, data)
        rig.ring.control(Kind.MARK, 0, mark, stall_limit_s=1)
        expected += [data, mark + bytes(424)]
        rig.commit_all()
    assert [record.payload for record in rig.records()] == expected
