"""The log in use: appending, reading after the writer, trimming, wrapping, running full, and failing."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import suppress
from uuid import UUID

import pytest

from jetdr_core._core import IoFilter, Ring
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, JetdrError, LogDamaged, LogFailed, StallTimeout
from jetdr_core.replication_log import LogVolume, ReplicationLog, format_volume, open_volume
from jetdr_core.replication_log.batch import parse_header
from tests.faults.device import CrashDevice, Permanence
from tests.log.tools import (
    DOMAIN,
    NAME,
    OWNER,
    VOLUME_BYTES,
    Forge,
    HandDriven,
    Written,
    damage,
    hand_driven,
    new_volume,
    open_volume_on,
    read_all,
    recovered,
)

pytestmark = pytest.mark.native
BLOCK = b"x" * 4096


def test_batches_become_readable_when_they_are_durable() -> None:
    with hand_driven(new_volume(CrashDevice(VOLUME_BYTES))) as driven:
        written = [driven.write(0, BLOCK), driven.write(4096, BLOCK * 2)]
        driven.commit()
        assert driven.read_all() == []
        driven.flush()
        assert driven.read_all() == written


def test_native_writer_and_codec_make_the_same_bytes() -> None:
    native, forged = CrashDevice(VOLUME_BYTES), CrashDevice(VOLUME_BYTES)
    volume = new_volume(native)
    with hand_driven(volume) as driven:
        area = driven.log.body.area
        forged.write(0, native.image()[: 1 << 20])
        forged.grow(native.size_bytes)
        forge = Forge(forged, area, driven.log.tail._replace(time_ns=1000))
        for count in (1, 3, 64, 70):
            payloads = [os.urandom(512 * (1 + n % 5)) for n in range(count)]
            for payload in payloads:
                driven.write(8192, payload)
            driven.commit()
            forge.batch(payloads, offset=8192)
        end = forge.cursor.position
        state = driven.writer.state()
        assert (state.head_position, state.batch_written) == (end, 4)
        assert state.previous_checksum == forge.cursor.checksum
        start = area.data_offset
        assert native.image()[start : start + end] == forged.image()[start : start + end]


def test_log_wraps_around_many_times() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        found: list[Written] = []
        written: list[Written] = []
        cursor = driven.log.tail
        for n in range(300):
            written.append(driven.write(4096 * (n % 100), os.urandom(512 * (1 + (n * 37) % 64))))
            driven.flush()
            if n % 20 == 19:
                while batches := driven.log.read(cursor, payload_bytes_max=1 << 16):
                    cursor = batches[-1].end
                    found += [w for w in read_all(driven.log) if w.lsn <= cursor.lsn and w.lsn > len(found)]
                driven.log.checkpoint(cursor.lsn, cursor)
        assert found == written
        assert driven.log.state().head_position > 4 * driven.log.body.data_bytes
        written_tail = written[driven.log.tail.lsn :]
    log, rest = recovered(device)
    assert log.outcome.clean
    assert rest == written_tail


def test_wrap_marker_closes_a_lap_that_has_no_room_for_the_next_batch() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        big = driven.log.record_bytes_max
        area = driven.log.body.area
        written = []
        for n in range(8):
            written.append(driven.write(0, bytes([n]) * (big - 8192)))
            driven.flush()
            if n % 3 == 2:
                driven.checkpoint_all()
        assert driven.log.state().head_position > area.data_bytes
        image = device.image()[area.data_offset : area.data_offset + area.data_bytes]
        headers = [parse_header(image[at : at + 4096]) for at in range(0, len(image), 4096)]
        assert any(header is not None and header.wraps for header in headers)
    assert recovered(device)[1] == written[driven.log.tail.lsn :]


def fill(driven: HandDriven) -> int:
    """Write until log and ring are full, and return the last LSN that was taken."""
    lsn = 0
    with pytest.raises(StallTimeout):
        while lsn < 1000:
            lsn = driven.write(0, os.urandom(32768)).lsn
            driven.commit()
    return lsn


def test_full_log_stalls_the_writer_with_a_clear_error_and_goes_on_after_a_checkpoint() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        lsn = fill(driven)
        assert driven.log.used_bytes <= driven.log.body.data_bytes
        durable = driven.flush()
        assert 0 < durable < lsn
        while driven.flush() < lsn:
            driven.checkpoint_all()
        assert driven.write(0, BLOCK).lsn == lsn + 1


def test_checkpoint_survives_power_loss() -> None:
    device = CrashDevice(VOLUME_BYTES)
    driven = HandDriven(new_volume(device))
    for _ in range(10):
        driven.write(0, BLOCK)
    driven.flush()
    driven.checkpoint_all()
    kept = driven.write(0, BLOCK)
    driven.flush()
    log, found = recovered(device.crash(0))
    assert (log.body.lsn_uploaded, log.tail.lsn) == (10, 10)
    assert found == [kept]


def test_tail_never_moves_back_nor_beyond_what_is_uploaded_or_durable() -> None:
    with hand_driven(new_volume(CrashDevice(VOLUME_BYTES))) as driven:
        first = driven.log.tail
        for _ in range(3):
            driven.write(0, BLOCK)
            driven.flush()
        cursors = [batch.end for batch in driven.log.read(first, payload_bytes_max=1 << 20)]
        with pytest.raises(InvalidRequest, match="uploaded 1"):
            driven.log.checkpoint(1, cursors[1])
        with pytest.raises(InvalidRequest, match="durable"):
            driven.log.checkpoint(9, cursors[2]._replace(position=cursors[2].position + 4096))
        driven.log.checkpoint(2, cursors[1])
        driven.log.checkpoint(3, cursors[0])
        assert (driven.log.tail.lsn, driven.log.body.lsn_uploaded) == (2, 3)


def test_time_promised_before_closing_is_not_undercut_afterwards() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        driven.write(0, BLOCK)
        driven.flush()
        driven.clock.set(10**9)
        _, promised = driven.ring.observe()
    log, _ = recovered(device)
    assert log.outcome.clean
    assert log.outcome.head.time_ns >= promised


def test_a_checkpoint_promises_no_time_that_what_is_on_its_way_undercuts() -> None:
    """A ring that outlives its process brings its records to the log later, with the times that they have."""
    device = CrashDevice(VOLUME_BYTES)
    driven = HandDriven(new_volume(device))
    driven.write(0, BLOCK)
    driven.flush()
    on_its_way = driven.ring.lsn_reserved, driven.clock.time_ns
    driven.write(0, BLOCK)
    driven.clock.advance(10**6)
    driven.checkpoint_all()
    log, _ = recovered(device.crash(0))
    assert (log.outcome.head.lsn, log.outcome.head.time_ns) == on_its_way


def test_log_that_could_not_take_everything_is_not_marked_clean() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        fill(driven)
        assert driven.flush() < driven.ring.lsn_reserved
    assert not recovered(device)[0].outcome.clean


def test_log_is_begun_before_it_is_started_or_trimmed() -> None:
    log = ReplicationLog(new_volume(CrashDevice(VOLUME_BYTES)).open_section(NAME))
    ring = Ring(payload_bytes=1 << 20, slots=64, lsn_next=1)
    with pytest.raises(InvalidRequest, match="begin an epoch first"):
        log.start(ring)
    with pytest.raises(InvalidRequest, match="begin an epoch first"):
        log.checkpoint(0, log.tail)
    log.close()
    with pytest.raises(InvalidRequest, match="is closed"):
        log.begin(1)


def test_ring_that_does_not_follow_the_log_is_refused() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        driven.write(0, BLOCK)
    log = ReplicationLog(open_volume_on(device).open_section(NAME))
    log.begin(2)
    for lsn_next in (1, 3):
        with pytest.raises(InvalidRequest, match="cannot start at LSN 2"):
            log.start(Ring(payload_bytes=1 << 20, slots=64, lsn_next=lsn_next))
    log.close()


def test_state_tells_fill_and_progress() -> None:
    with hand_driven(new_volume(CrashDevice(VOLUME_BYTES))) as driven:
        driven.write(0, BLOCK)
        driven.commit()
        state = driven.log.state()
        assert (state.name, state.epoch, state.lsn_written, state.lsn_durable) == (NAME, 1, 1, 0)
        assert state.used_bytes == driven.log.used_bytes == 8192
        assert not state.failed


def test_power_loss_while_closing_leaves_a_log_that_opens() -> None:
    for n, seed in itertools.product(range(1, 9), range(6)):
        device = CrashDevice(VOLUME_BYTES, seed=seed)
        driven = HandDriven(new_volume(device))
        written = [driven.write(0, BLOCK)]
        driven.flush()
        device.fail_at(n, "permanent")
        driven.filter.close()
        with suppress(LogFailed):
            driven.log.close()
        log, found = recovered(device.crash(seed))
        assert found == written
        assert log.outcome.head.lsn == 1


# -- failing devices ---------------------------------------------------------------------------------------------------


def life(device: CrashDevice, flushed: list[Written], written: list[Written]) -> None:
    """A short life of a log, telling what was acknowledged as it goes; stops where an error surfaces."""
    volume = open_volume_on(device)
    driven = HandDriven(volume)
    try:
        for n in range(4):
            written.append(driven.write(4096 * n, bytes([len(written) + 1]) * 512 * (n + 1)))
            driven.flush()
            flushed[:] = written
        driven.checkpoint_all()
        written.append(driven.write(0, BLOCK))
        driven.flush()
        flushed[:] = written
    finally:
        driven.filter.close()
        driven.log.close()


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
def test_every_failing_io_leaves_what_was_acknowledged(permanence: Permanence) -> None:
    for n in itertools.count(1):
        device = CrashDevice(VOLUME_BYTES, seed=n)
        new_volume(device)
        flushed: list[Written] = []
        written: list[Written] = []
        device.fail_at(n, permanence)
        before = device.operations
        with suppress(JetdrError, OSError):
            life(device, flushed, written)
        reached = device.operations - before >= n
        device = device.crash(n)
        log, found = recovered(device)
        first = log.tail.lsn
        assert found == written[first : first + len(found)], n
        assert first + len(found) >= len(flushed), n
        assert first <= len(flushed), n
        if not reached:
            assert n > 40, "the life of a log takes more I/Os than that"
            break


def test_failed_flush_is_never_acknowledged_later() -> None:
    device = CrashDevice(VOLUME_BYTES)
    driven = HandDriven(new_volume(device))
    lsn = driven.write(0, BLOCK).lsn
    device.fail_at(2, "transient")
    with pytest.raises(LogFailed):
        driven.flush()
    with pytest.raises(LogFailed):
        driven.ring.wait_durable(lsn, 0.1)
    with pytest.raises(LogFailed):
        driven.write(0, BLOCK)
    assert driven.log.state().failed
    driven.log.close()
    assert not recovered(device)[0].outcome.clean


def test_what_a_failed_flush_left_is_written_again_before_it_is_called_durable() -> None:
    """The next life reads it, though the device has lost it and no later flush brings it back."""
    for seed in range(12):
        device = CrashDevice(VOLUME_BYTES, seed=seed)
        driven = HandDriven(new_volume(device))
        written = [driven.write(0, BLOCK)]
        driven.flush()
        written += [driven.write(0, BLOCK), driven.write(4096, BLOCK)]
        device.fail_at(2, "transient")
        with pytest.raises(LogFailed):
            driven.flush()
        driven.filter.close()
        driven.log.close()
        driven = HandDriven(open_volume_on(device))
        assert driven.log.outcome.head.lsn == 3, "the next life finds it"
        written.append(driven.write(8192, BLOCK))
        driven.flush()
        _, found = recovered(device.crash(seed))
        assert found == written, seed
        driven.filter.close()


def test_only_what_no_flush_is_known_for_is_written_again() -> None:
    device = CrashDevice(VOLUME_BYTES)
    driven = HandDriven(new_volume(device))
    for _ in range(20):
        driven.write(0, BLOCK)
        driven.flush()
    last = driven.log.state().head_position
    driven.filter.close()
    driven.log.close(clean=False)
    log = ReplicationLog(open_volume_on(device).open_section(NAME))
    assert log.outcome.unproven is not None
    assert log.outcome.unproven.batch_number == 19
    assert last - log.outcome.unproven.position == 8192, "the last batch alone: each names the flush before it"
    log.close(clean=False)


def test_failed_checkpoint_poisons_log_and_ring() -> None:
    device = CrashDevice(VOLUME_BYTES)
    driven = HandDriven(new_volume(device))
    driven.write(0, BLOCK)
    driven.flush()
    (batch,) = driven.log.read(driven.log.tail, payload_bytes_max=1)
    device.fail_at(1, "transient")
    with pytest.raises(LogFailed, match="section superblock failed"):
        driven.log.checkpoint(1, batch.end)
    with pytest.raises(LogFailed):
        driven.write(0, BLOCK)
    with pytest.raises(LogFailed):
        driven.log.checkpoint(1, batch.end)
    assert driven.log.state().failed
    driven.log.close()


def test_damage_found_while_reading_is_named_and_what_came_before_is_returned() -> None:
    device = CrashDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        for _ in range(4):
            driven.write(0, BLOCK)
            driven.flush()
        damage(device, driven.log.body.area.physical(2 * 8192) + 5000)
        batches = driven.log.read(driven.log.tail, payload_bytes_max=1 << 20)
        assert [batch.end.lsn for batch in batches] == [1, 2]
        with pytest.raises(LogDamaged, match=r"batch 3 \(LSN 3 to 3\)"):
            driven.log.read(batches[-1].end, payload_bytes_max=1 << 20)
        damage(device, driven.log.body.area.physical(2 * 8192) + 5000)  # flips it back
        assert [b.end.lsn for b in driven.log.read(batches[-1].end, payload_bytes_max=1 << 20)] == [3, 4]


# -- the real thing ----------------------------------------------------------------------------------------------------


def replicate(log: ReplicationLog, ring: Ring, lsn_last: int) -> list[bytes]:
    """Read the log up to ``lsn_last`` meanwhile, trim it, and return what the two disks of 1 MiB then hold."""
    replicas = [bytearray(1 << 20), bytearray(1 << 20)]
    cursor, lsn = log.tail, 0
    while lsn < lsn_last:
        for batch in log.read(cursor, payload_bytes_max=1 << 20):
            start = 0
            for header in batch.records.headers:
                end, at = start + int(header["payload_bytes"]), int(header["offset"])
                replicas[int(header["disk"])][at : at + end - start] = batch.records.payload[start:end]
                lsn, start = lsn + 1, end
                assert int(header["lsn"]) == lsn
            cursor = batch.end
        log.checkpoint(cursor.lsn, cursor)
        ring.wait_durable(min(lsn + 1, ring.lsn_reserved), 0.05)
    return [bytes(replica) for replica in replicas]


def hammer(io_filter: IoFilter) -> None:
    """Write 192 times 64 KiB over 15 places, each time other bytes, then flush."""
    data = os.urandom(65536)
    for n in range(192):
        io_filter.write((n % 15) * 65536, data[n * 16 :] + data[: n * 16])
    io_filter.flush()


def drain(log: ReplicationLog, ring: Ring, replicas: list[bytearray], lsn_last: int) -> None:
    """Apply records to the replicas as they become durable, trimming the log after them."""
    cursor, lsn = log.tail, 0
    while lsn < lsn_last:
        for batch in log.read(cursor, payload_bytes_max=1 << 20):
            start = 0
            for header in batch.records.headers:
                end = start + int(header["payload_bytes"])
                at = int(header["offset"])
                replicas[int(header["disk"])][at : at + end - start] = batch.records.payload[start:end]
                lsn, start = lsn + 1, end
                assert int(header["lsn"]) == lsn
            cursor = batch.end
        log.checkpoint(cursor.lsn, cursor)
        ring.wait_durable(min(lsn + 1, ring.lsn_reserved), 0.05)


def test_threads_write_while_the_log_is_read_and_trimmed(log_place: str) -> None:
    """A log of 4 MiB takes 24 MiB from two disks, on a real place, with the writer's own thread."""
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 4 << 20)
        log = ReplicationLog(volume.open_section(NAME))
        log.begin(1)
        ring = Ring(payload_bytes=1 << 21, slots=1 << 10, lsn_next=1)
        log.start(ring)
        disks = [MemoryDevice(1 << 20), MemoryDevice(1 << 20)]
        filters = [
            IoFilter(ring, disk, disk=n, size_bytes=1 << 20, record_bytes_max=log.record_bytes_max, stall_limit_s=20)
            for n, disk in enumerate(disks)
        ]
        threads = [threading.Thread(target=hammer, args=(each,)) for each in filters]
        for thread in threads:
            thread.start()
        replicas = [bytearray(1 << 20), bytearray(1 << 20)]
        drain(log, ring, replicas, lsn_last=384)
        for thread in threads:
            thread.join()
        for disk, replica in zip(disks, replicas, strict=True):
            assert bytes(disk._bytes) == bytes(replica)
        for each in filters:
            each.close()
        log.close()
        log = ReplicationLog(volume.open_section(NAME))
        assert log.outcome.clean
        assert log.outcome.head.lsn == 384
        log.close()


def test_two_sections_do_not_touch_each_other(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 1 << 20)
        volume.create_section("crm", UUID(int=8), 1 << 20)
        with hand_driven(volume) as one, hand_driven(volume, name="crm") as two:
            for n in range(200):
                one.write(0, bytes([n]) * 8192)
                two.write(0, bytes([255 - n]) * 4096)
                one.flush()
                two.flush()
                if n % 20 == 19:
                    one.checkpoint_all()
                    two.checkpoint_all()
            last = one.write(0, BLOCK), two.write(0, BLOCK)
        for name, expected in zip((NAME, "crm"), last, strict=True):
            log = ReplicationLog(volume.open_section(name))
            assert read_all(log) == [expected]
            log.close()


def test_log_works_on_a_device_of_4k_blocks() -> None:
    device = CrashDevice(2 << 20, block_bytes=4096)
    format_volume(device, owner=OWNER, where="volume")
    LogVolume(device, owner=OWNER, where="volume").create_section(NAME, DOMAIN, 1 << 20)
    with hand_driven(open_volume_on(device)) as driven:
        written = [driven.write(512 * n, bytes([n]) * 512) for n in range(9)]
    assert recovered(device)[1] == written
