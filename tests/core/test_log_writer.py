"""The log writer: batches in LSN order, wrap, a full log, and what a failing device does to it."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

import pytest

from jetdr_core._core import IoFilter, LogWriter, Ring
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, LogFailed, StallTimeout
from jetdr_core.limits import SECTION_SUPERBLOCK_AREA_BYTES, SEGMENT_RECORDS_MAX, record_bytes_max
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


def test_a_full_log_is_made_durable_though_nobody_asks_so_that_it_can_leave() -> None:
    rig = Rig(log_bytes=64 << 10, ring_bytes=1 << 17)
    disk = rig.disk(MemoryDevice(1 << 20), stall_limit_s=0)
    for _ in range(6):
        disk.write(0, bytes(16384))
    while rig.writer.commit():
        pass
    assert 0 < rig.writer.state().lsn_durable == rig.writer.state().lsn_written < 6


def write_until(disk: IoFilter, enough: threading.Event) -> None:
    while not enough.is_set():
        with suppress(StallTimeout):  # once the writer has stopped
            disk.write(0, bytes(512))


def test_stop_returns_with_what_was_published_though_others_write_on() -> None:
    rig = Rig(log_bytes=256 << 20, ring_bytes=1 << 20)
    disk = rig.disk(MemoryDevice(1 << 20), stall_limit_s=0)
    enough = threading.Event()

    threads = [threading.Thread(target=write_until, args=(disk, enough)) for _ in range(2)]
    rig.writer.start()
    for thread in threads:
        thread.start()
    rig.ring.wait_durable(100, 10)
    lsn = rig.disk(MemoryDevice(1 << 20), 2).write(0, bytes(512))
    rig.writer.stop()
    assert rig.writer.state().lsn_durable >= lsn
    enough.set()
    for thread in threads:
        thread.join()


def test_a_writer_that_was_stopped_or_runs_refuses_to_start() -> None:
    rig = Rig()
    rig.writer.start()
    with pytest.raises(InvalidRequest, match="runs already"):
        rig.writer.start()
    rig.writer.stop()
    with pytest.raises(InvalidRequest, match="was stopped"):
        rig.writer.start()


def test_a_tail_that_moves_back_or_beyond_what_is_durable_is_refused_and_changes_nothing() -> None:
    """The room is an unsigned difference: with a tail a lap back it would reach into the next section."""
    device = MemoryDevice(2 << 20)
    device.write(1 << 20, b"N" * (1 << 20))
    head = (1 << 20) + (900 << 10)
    ring = Ring(payload_bytes=1 << 20, slots=1024, lsn_next=1)
    writer = LogWriter(ring, device, **(GEOMETRY | {"head_position": head, "tail_position": head}))
    disk = IoFilter(ring, MemoryDevice(1 << 20), disk=1, size_bytes=1 << 20, record_bytes_max=1 << 18, stall_limit_s=0)
    disk.write(0, b"x" * (200 << 10))
    writer.commit()
    for position in (0, head - 4096, head + 4096, head + 1, 1 << 62):
        with pytest.raises(InvalidRequest, match="tail cannot move"):
            writer.set_tail(position)
    writer.set_tail(head)
    ring.request_durable(1)
    writer.commit()
    writer.set_tail(writer.state().durable_position)
    after = bytearray(1 << 20)
    device.read_into(1 << 20, after)
    assert after == b"N" * (1 << 20)


# -- the longest record ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_bytes", [64 << 10, 68 << 10, (1 << 20) - SECTION_SUPERBLOCK_AREA_BYTES])
def test_the_longest_record_fits_wherever_the_lap_ends(data_bytes: int) -> None:
    """Before its end or behind it, once the log is empty: from every place of the lap."""
    longest = data_bytes // 4 // 4096 * 4096
    for head in range(data_bytes, 2 * data_bytes, 4096):
        ring = Ring(payload_bytes=1 << 20, slots=16, lsn_next=1, record_bytes_max=longest)
        geometry = {"data_bytes": data_bytes, "head_position": head, "tail_position": head}
        writer = LogWriter(ring, MemoryDevice(data_bytes), **(GEOMETRY | geometry))
        for lsn in (1, 2):
            ring.control(Kind.CONFIG, 0, b"t" * longest, stall_limit_s=0)
            ring.request_durable(lsn)
            writer.commit()
            assert ring.lsn_durable == lsn, f"from {head - data_bytes} of {data_bytes}"
            writer.set_tail(writer.state().durable_position)


def test_longest_records_fill_lap_after_lap() -> None:
    """The tail follows only what is durable, as an uploader's does; records of all lengths move the lap's end about."""
    data_bytes, chance = 960 << 10, random.Random(5)
    rig = Rig(log_bytes=data_bytes, ring_bytes=1 << 20)
    longest = rig.ring.record_bytes_max
    assert longest == record_bytes_max(data_bytes + SECTION_SUPERBLOCK_AREA_BYTES) == 240 << 10
    for _ in range(400):
        for length in (longest, 512 * chance.randint(1, 100)):
            lsn, _time = rig.ring.control(Kind.CONFIG, 0, bytes(length), stall_limit_s=0)
            rig.commit_all()
            assert rig.ring.lsn_durable == lsn
            rig.writer.set_tail(rig.writer.state().durable_position)
    assert rig.writer.state().head_position > 100 * data_bytes


def test_a_record_longer_than_the_log_takes_is_refused_and_jams_nothing() -> None:
    rig = Rig(log_bytes=960 << 10, ring_bytes=4 << 20)
    disk = rig.disk(MemoryDevice(1 << 20))
    for _ in range(2):
        disk.write(0, b"x" * (235 << 10))
        rig.commit_all()
        rig.writer.set_tail(rig.writer.state().durable_position)
    with pytest.raises(InvalidRequest, match=r"record of 512000 bytes is longer than the log takes \(245760\)"):
        rig.ring.control(Kind.CONFIG, 0, b"t" * (500 << 10), stall_limit_s=0)
    lsn = disk.write(0, b"y" * 512)
    rig.commit_all()
    assert rig.ring.lsn_durable == lsn


def test_a_ring_that_was_given_longer_records_than_the_log_takes_is_refused() -> None:
    log = MemoryDevice(1 << 20)
    for longest in (262144 + 512, 524288):
        ring = Ring(payload_bytes=1 << 20, slots=16, lsn_next=1, record_bytes_max=longest)
        with pytest.raises(InvalidRequest, match=f"longest record \\({longest}\\)"):
            LogWriter(ring, log, **GEOMETRY)
    LogWriter(Ring(payload_bytes=1 << 20, slots=16, lsn_next=1, record_bytes_max=262144), log, **GEOMETRY)


GEOMETRY = {
    "data_offset": 0,
    "data_bytes": 1 << 20,
    "section_id": SECTION_ID,
    "epoch": 1,
    "head_position": 0,
    "tail_position": 0,
    "batch_number": 0,
    "previous_checksum": 0,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"data_bytes": 4095},
        {"data_bytes": 4096},
        {"data_offset": 512},
        {"tail_position": 4096},
        {"head_position": 8 << 20},
        {"batch_bytes_max": 1},
        {"batch_bytes_max": (64 << 20) + 4096},
    ],
)
def test_impossible_geometry_is_refused(wrong: dict[str, int]) -> None:
    rig = Rig()
    with pytest.raises(InvalidRequest, match="is not valid"):
        LogWriter(rig.ring, rig.log, **(GEOMETRY | wrong))


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
