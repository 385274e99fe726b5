"""Opening a log: what was flushed is there, a torn tail is cut silently, a damaged middle is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import UUID

import pytest

from jetdr_core.errors import InvalidRequest, LogDamaged, LogFailed, UnsupportedVersion
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.replication_log import batch as codec
from tests.faults.device import CrashDevice
from tests.log.tools import (
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
    write_records,
)

BLOCK = bytes(range(256)) * 16


@pytest.fixture
def device() -> CrashDevice:
    return CrashDevice(VOLUME_BYTES)


def forged(device: CrashDevice, *, clean: bool = False) -> Forge:
    """A fresh section, in use, with a forge at its head."""
    volume = new_volume(device)
    section = volume.open_section("payroll")
    section.update(lambda body: body._replace(clean=clean, epoch=1))
    forge = Forge(device, section.body.area, section.body.tail)
    section.close()
    return forge


def lsns(found: list[Written]) -> list[int]:
    return [written.lsn for written in found]


def test_empty_section_opens_clean(device: CrashDevice) -> None:
    new_volume(device)
    log, found = recovered(device)
    assert log.outcome.clean
    assert (log.outcome.head.lsn, found) == (0, [])


def test_history_that_began_elsewhere_goes_on_at_its_lsn(device: CrashDevice) -> None:
    volume = new_volume(device)
    volume.create_section("crm", UUID(int=7), SECTION_BYTES_MIN, timeline=3, initial_lsn=500, time_ns=77)
    with hand_driven(volume, name="crm") as driven:
        assert (driven.log.outcome.head.lsn, driven.log.outcome.head.time_ns) == (499, 77)
        assert driven.log.body.timeline == 3
        assert driven.write(0, BLOCK).lsn == 500


def test_cleanly_closed_log_holds_everything(device: CrashDevice) -> None:
    volume = new_volume(device)
    with hand_driven(volume) as driven:
        written = [driven.write(4096 * n, os.urandom(512 * (1 + n % 9))) for n in range(50)]
    log, found = recovered(device)
    assert log.outcome.clean
    assert found == written


def test_log_that_was_not_closed_is_not_clean(device: CrashDevice) -> None:
    volume = new_volume(device)
    with hand_driven(volume, clean=False) as driven:
        driven.write(0, BLOCK)
        driven.flush()
    log, found = recovered(device)
    assert not log.outcome.clean
    assert lsns(found) == [1]


def test_flushed_writes_survive_power_loss_and_the_rest_is_a_prefix() -> None:
    for seed in range(150):
        device = CrashDevice(VOLUME_BYTES)
        driven = HandDriven(new_volume(device))
        written = [driven.write(4096 * n, os.urandom(512 * (1 + (seed + n) % 20))) for n in range(seed % 7)]
        flushed = driven.flush()
        for n in range(1 + seed % 11):
            written.append(driven.write(4096 * n, os.urandom(512 * (1 + (seed * n) % 20))))
            if n % 3 != seed % 3:
                driven.commit()
        log, found = recovered(device.crash(seed))
        assert found == written[: len(found)], seed
        assert len(found) >= flushed, seed
        assert not log.outcome.clean, seed


def test_what_was_cut_never_comes_back() -> None:
    """The same records come again, at the same times.

    Only erasing tells the log of the second life from that of the first.
    """
    cuts = 0
    for seed in range(60):
        device = CrashDevice(VOLUME_BYTES)
        driven = HandDriven(new_volume(device), epoch=1)
        for n in range(5):
            driven.write(4096 * n, bytes([n + 1]) * 8192)
            driven.commit()
        device = device.crash(seed)
        log, found = recovered(device)
        cuts += bool(log.outcome.leftovers)
        driven = HandDriven(open_volume_on(device), epoch=1, time_ns=1000 + len(found))
        if len(found) < 5:
            driven.write(4096 * len(found), bytes([len(found) + 1]) * 8192)
            driven.flush()
            found.append(Written(len(found) + 1, 4096 * len(found), bytes([len(found) + 1]) * 8192))
        assert recovered(device.crash(seed))[1] == found, seed
    assert cuts, "no seed left anything after the cut"


def test_damaged_middle_known_by_a_later_batch_is_named(device: CrashDevice) -> None:
    forge = forged(device)
    for n in range(6):
        forge.batch([bytes([n]) * 8192, BLOCK])
        forge.flushed()
    offset, length = forge.places[3]
    damage(device, offset + length - 1)
    with pytest.raises(LogDamaged, match=r"batch 3 \(LSN 5 to 6\)") as caught:
        recovered(device)
    assert (caught.value.facts["lsn_first"], caught.value.facts["lsn_last"]) == (5, 6)
    assert "a payload is not what was written, though a later batch knew it durable" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "problem"),
    [(0, "there is no batch header"), (130, "a record header is not what was written"), (5000, "a payload")],
)
def test_damage_before_the_superblocks_head_is_named(device: CrashDevice, where: int, problem: str) -> None:
    with hand_driven(new_volume(device)) as driven:
        for n in range(4):
            driven.write(4096 * n, os.urandom(8192))
            driven.commit()
        offset = driven.log.body.area.physical(driven.log.tail.position)
    damage(device, offset + where)
    with pytest.raises(LogDamaged, match="though the superblock knew it durable") as caught:
        recovered(device)
    assert problem in str(caught.value)
    assert "batch 1 " in str(caught.value)


def test_damaged_last_flushed_batch_of_a_clean_log_is_not_cut(device: CrashDevice) -> None:
    with hand_driven(new_volume(device)) as driven:
        driven.write(0, BLOCK)
    damage(device, driven.log.body.area.physical(0) + 4096)
    with pytest.raises(LogDamaged):
        recovered(device)


def test_damage_changes_nothing_on_the_volume(device: CrashDevice) -> None:
    forge = forged(device)
    for _ in range(4):
        forge.batch([BLOCK])
        forge.flushed()
    damage(device, forge.places[2][0])
    before = device.image()
    with pytest.raises(LogDamaged):
        recovered(device)
    assert device.image() == before


def test_witness_on_the_next_lap_counts(device: CrashDevice) -> None:
    forge = forged(device)
    section = open_volume_on(device).open_section("payroll")
    data_bytes = forge.area.data_bytes
    while forge.cursor.position + 8192 <= data_bytes:
        forge.batch([BLOCK])
    section.update(lambda body: body._replace(tail=forge.cursor, head=forge.cursor))
    last = forge.cursor.batch_number
    forge.batch([bytes(65536)])
    forge.flushed()
    forge.batch([BLOCK])
    damage(device, forge.places[last + 1][0])
    with pytest.raises(LogDamaged, match=f"batch {last + 1} "):
        recovered(device)


def test_torn_middle_of_unflushed_batches_is_cut_with_all_after_it(device: CrashDevice) -> None:
    forge = forged(device)
    for _ in range(6):
        forge.batch([BLOCK, BLOCK])
    damage(device, forge.places[4][0] + 5000)
    log, found = recovered(device)
    assert lsns(found) == [1, 2, 3, 4, 5, 6]
    assert log.outcome.cut_bytes == sum(forge.places[n][1] for n in (4, 5, 6))
    assert log.outcome.case is not None
    assert log.outcome.case.label == "broken payload, at the torn end"


@pytest.mark.parametrize("place", [100, 140, 5000], ids=["header", "record header", "payload"])
def test_every_damage_is_named_or_told_by_what_lies_after_it(place: int) -> None:
    """Every batch of a small log is damaged, with every choice of flushes between its batches.

    A batch that was written after a flush proves the batches before that flush. Whole batches prove nothing by
    themselves, but are told.
    """
    count = 5
    for flushes in range(1 << count):
        for damaged in range(1, count + 1):
            device = CrashDevice(VOLUME_BYTES)
            forge = forged(device)
            for number in range(1, count + 1):
                forge.batch([BLOCK])
                if flushes >> (number - 1) & 1:
                    forge.flushed()
            damage(device, forge.places[damaged][0] + place)
            if any(flushes >> (number - 1) & 1 for number in range(damaged, count)):
                with pytest.raises(LogDamaged, match=f"batch {damaged} "):
                    recovered(device)
                continue
            log, found = recovered(device)
            assert lsns(found) == list(range(1, damaged))
            assert log.outcome.whole_beyond == count - damaged
            assert bool(log.cut_short) == (damaged < count)
            log.check_cut(damaged - 1, "somebody knew it durable")
            if damaged < count:
                assert f"after LSN {damaged - 1}, at offset {forge.places[damaged][0]}, and" in log.cut_short
                with pytest.raises(LogDamaged, match=f"batch {damaged} .* though somebody knew it durable"):
                    log.check_cut(damaged, "somebody knew it durable")


def test_what_lies_after_a_cut_counts_only_if_it_is_whole_and_of_this_epoch(device: CrashDevice) -> None:
    forge = forged(device)
    for _ in range(5):
        forge.batch([BLOCK])
    forge.epoch = 2
    forge.batch([BLOCK])
    damage(device, forge.places[2][0])
    damage(device, forge.places[4][0] + 5000)
    log, _ = recovered(device)
    assert log.outcome.whole_beyond == 2


def test_stale_lap_is_not_taken_for_the_present(device: CrashDevice) -> None:
    forge = forged(device)
    section = open_volume_on(device).open_section("payroll")
    for lap in range(3):
        while forge.cursor.position + 3 * 8192 <= forge.area.data_bytes * (lap + 1):
            forge.batch([bytes([lap]) * 8192])
        tail = forge.cursor
        section.update(lambda body, tail=tail: body._replace(tail=tail, head=tail))  # type: ignore[misc]
        kept = [forge.batch([bytes([lap]) * 30000 + bytes(208)]).lsn for _ in range(2)]
        log, found = recovered(device)
        assert lsns(found) == kept
        assert log.outcome.case is not None
        assert log.outcome.case.label in {"no header, at the torn end", "a header of another number, at the torn end"}


def test_batch_of_another_life_is_cut(device: CrashDevice) -> None:
    forge = forged(device)
    first = forge.batch([BLOCK])
    forge.cursor = first._replace(checksum=first.checksum ^ 1)
    forge.batch([BLOCK])
    log, found = recovered(device)
    assert lsns(found) == [1]
    assert log.outcome.case is not None
    assert log.outcome.case.label == "a header of another past, at the torn end"


def test_batch_of_another_section_is_cut(device: CrashDevice) -> None:
    forge = forged(device)
    first = forge.batch([BLOCK])
    other = Forge(device, forge.area._replace(section_id=99), first)
    other.batch([BLOCK])
    log, found = recovered(device)
    assert lsns(found) == [1]
    assert log.outcome.case is not None
    assert log.outcome.case.label == "another section's header, at the torn end"


def test_batch_after_a_clean_end_is_kept_and_the_end_is_not_clean(device: CrashDevice) -> None:
    forge = forged(device, clean=True)
    forge.batch([BLOCK])
    log, found = recovered(device)
    assert lsns(found) == [1]
    assert not log.outcome.clean


def test_full_log_is_followed_to_the_very_end(device: CrashDevice) -> None:
    forge = forged(device)
    while forge.cursor.position + 8192 <= forge.area.data_bytes:
        forge.batch([BLOCK])
    assert forge.cursor.position == forge.area.data_bytes
    log, found = recovered(device)
    assert log.outcome.case is None
    assert len(found) == forge.cursor.lsn


def test_batch_of_a_newer_version_is_refused(device: CrashDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    forge = forged(device)
    forge.batch([BLOCK])
    with monkeypatch.context() as patch:
        patch.setattr(codec, "BATCH_VERSION", 2)
        forge.batch([BLOCK])
    with pytest.raises(UnsupportedVersion, match="version 2"):
        recovered(device)


def test_newer_version_left_by_another_section_is_no_obstacle(
    device: CrashDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = forged(device)
    first = forge.batch([BLOCK])
    with monkeypatch.context() as patch:
        patch.setattr(codec, "BATCH_VERSION", 2)
        Forge(device, forge.area._replace(section_id=99), first).batch([BLOCK])
    assert lsns(recovered(device)[1]) == [1]


def test_unreadable_device_is_an_error_and_never_a_cut(device: CrashDevice) -> None:
    forge = forged(device)
    forge.batch([BLOCK])
    section = open_volume_on(device).open_section("payroll")
    device.fail_at(1, "transient")
    with pytest.raises(LogFailed, match="nothing was changed"):
        ReplicationLog(section)
    device.heal()
    assert lsns(recovered(device)[1]) == [1]


def inconsistent() -> Iterator[tuple[str, int, object]]:
    yield "LSN not dense", 1, ("lsn", 9)
    yield "time running backwards", 1, ("time_ns", 0)
    yield "payloads longer than the batch", 1, ("payload_bytes", 1 << 30)
    yield "payload not of whole sectors", 1, ("payload_bytes", 100)
    yield "LSN not following", 0, ("lsn", 5)


@pytest.mark.parametrize(("why", "index", "change"), list(inconsistent()), ids=str)
def test_records_that_cannot_be_are_not_believed(
    device: CrashDevice, why: str, index: int, change: tuple[str, int]
) -> None:
    forge = forged(device)
    headers = write_records(forge.cursor, [BLOCK, BLOCK])
    headers[index][change[0]] = change[1]
    raw, _ = codec.pack_batch(
        headers, [BLOCK, BLOCK], section_id=forge.area.section_id, epoch=1, cursor=forge.cursor, durable_batch=0
    )
    device.write(forge.area.physical(0), raw)
    log, found = recovered(device)
    assert found == []
    assert log.outcome.case is not None
    assert log.outcome.case.label == "broken record headers, at the torn end"


def test_older_epoch_cannot_begin(device: CrashDevice) -> None:
    with hand_driven(new_volume(device)) as driven:
        assert driven.log.body.epoch == 1
    log = ReplicationLog(open_volume_on(device).open_section("payroll"))
    with pytest.raises(InvalidRequest, match="epoch 0 cannot begin"):
        log.begin(0)
    log.close()


def test_opening_and_closing_without_use_writes_nothing(device: CrashDevice) -> None:
    forge = forged(device)
    forge.batch([BLOCK])
    before = device.image()
    log = ReplicationLog(open_volume_on(device).open_section("payroll"))
    assert lsns(read_all(log)) == [1]
    log.close()
    assert device.image() == before
