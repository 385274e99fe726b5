"""A section that is replaced by a new one of the same domain, and a volume that is made from its sections again."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from uuid import UUID

import pytest

from jetdr_core.errors import (
    LogFailed,
    LogNotALog,
    LogTooSmall,
)
from jetdr_core.replication_log import (
    LogVolume,
    ReplicationLog,
    Section,
    volume_on,
)
from tests.faults.device import CrashDevice
from tests.log.test_volume import FixedDevice
from tests.log.tools import (
    DOMAIN,
    NAME,
    OWNER,
    VOLUME_BYTES,
    hand_driven,
    new_volume,
    open_volume_on,
    recovered,
)

BLOCK = b"x" * 4096


def replaced(volume: LogVolume, section_bytes: int) -> Section:
    return volume.replace_section(NAME, DOMAIN, section_bytes, timeline=1, initial_lsn=100, time_ns=7)


def test_a_replaced_section_stays_as_it_is_until_an_epoch_begins_in_the_new_one() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    with hand_driven(volume) as log:
        written = [log.write(0, BLOCK * n) for n in range(1, 9)]
    replaced(volume, 3 << 20).close()
    assert recovered(device)[1] == written, "nothing has begun, so the old one is used"
    new = ReplicationLog(replaced(open_volume_on(device), 3 << 20))
    new.begin(9)
    new.close(clean=False)
    (row,) = open_volume_on(device).sections
    assert (row.offset, row.section_bytes) == (2 << 20, 3 << 20)
    section = open_volume_on(device).open_section(NAME, DOMAIN)
    assert (section.body.epoch, section.body.initial_lsn) == (9, 100)


def test_sections_that_are_replaced_at_the_same_time_do_not_share_a_place() -> None:
    """A DRVA takes several domains over at once. Between making a section and beginning it, a domain is claimed."""
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    volume.create_section("crm", UUID(int=8), 1 << 20)
    first = ReplicationLog(replaced(volume, 2 << 20))
    second = ReplicationLog(volume.replace_section("crm", UUID(int=8), 2 << 20, timeline=1, initial_lsn=7, time_ns=7))
    volume.create_section("new", UUID(int=9), 1 << 20)
    for log in (first, second):
        log.begin(9)
        log.close(clean=False)
    places = sorted((row.offset, row.end) for row in open_volume_on(device).sections)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(places)), places
    for name, initial_lsn in ((NAME, 100), ("crm", 7), ("new", 1)):
        section = open_volume_on(device).open_section(name)
        assert (section.body.name, section.body.initial_lsn) == (name, initial_lsn)


def test_a_section_that_was_replaced_and_never_began_leaves_its_place() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    replaced(volume, 2 << 20).close()
    volume.create_section("crm", UUID(int=8), 1 << 20)
    assert [row.offset for row in volume.sections] == [1 << 20, 2 << 20]


def test_the_place_of_a_replaced_section_is_used_again() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    for epoch, offset in ((1, 2 << 20), (2, 1 << 20), (3, 2 << 20)):
        log = ReplicationLog(replaced(volume, 1 << 20))
        log.begin(epoch)
        log.close(clean=False)
        assert [row.offset for row in volume.sections] == [offset]
    volume.create_section("crm", UUID(int=8), 1 << 20)
    assert [row.offset for row in volume.sections] == [2 << 20, 1 << 20]
    assert device.size_bytes == 3 << 20


def test_without_room_for_both_the_new_section_takes_the_place_of_the_old_one() -> None:
    device = FixedDevice(4 << 20)
    volume = new_volume(device, section_bytes=2 << 20)
    volume.create_section("crm", UUID(int=8), 1 << 20)
    before = device.size_bytes
    with pytest.raises(LogTooSmall, match="3145728"):
        replaced(volume, 3 << 20)
    log = ReplicationLog(replaced(volume, 2 << 20))
    log.begin(5)
    log.close(clean=False)
    assert [(row.name, row.offset, row.section_bytes) for row in open_volume_on(device).sections] == [
        (NAME, 1 << 20, 2 << 20),
        ("crm", 3 << 20, 1 << 20),
    ]
    assert device.size_bytes == before


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
def test_interrupted_replacement_leaves_the_old_section_or_the_new_one(permanence: str) -> None:
    for n, seed in itertools.product(range(1, 24), range(4)):
        device = CrashDevice(VOLUME_BYTES, seed=seed)
        volume = new_volume(device)
        device.fail_at(n, permanence)  # type: ignore[arg-type]
        with suppress(LogFailed, OSError):
            log = ReplicationLog(replaced(volume, 1 << 20))
            log.begin(5)
        after = device.crash(seed)
        (row,) = open_volume_on(after).sections
        assert row.offset in {1 << 20, 2 << 20}
        open_volume_on(after).open_section(NAME, DOMAIN).close()


def test_a_lost_volume_superblock_is_made_from_the_sections_for_a_domain_that_is_there() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    volume.create_section("crm", UUID(int=8), 2 << 20)
    with hand_driven(volume) as log:
        written = [log.write(0, BLOCK * n) for n in range(1, 9)]
    rows = volume.sections
    device.write(0, os.urandom(1 << 20))
    before = device.image()
    with pytest.raises(LogNotALog, match="nothing on it shows"):
        volume_on(device, OWNER, "volume", UUID(int=9))
    with pytest.raises(LogNotALog, match="holds no replication log"):
        volume_on(device, OWNER, "volume", None)
    assert device.image() == before
    assert volume_on(device, OWNER, "volume", DOMAIN).sections == rows
    assert recovered(device)[1] == written


def test_a_lost_volume_superblock_is_made_with_the_newest_of_sections_that_replaced_one_another() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    with hand_driven(volume) as log:
        log.write(0, BLOCK)
    volume.create_section("crm", UUID(int=8), 1 << 20)
    new = ReplicationLog(replaced(volume, 1 << 20))
    new.begin(9)
    new.close(clean=False)
    rows = volume.sections
    device.write(0, os.urandom(1 << 20))
    assert set(volume_on(device, OWNER, "volume", UUID(int=8)).sections) == set(rows)
