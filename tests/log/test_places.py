"""A log volume in every place that it can lie: block devices and LUNs promise what a file promises."""

from __future__ import annotations

import os
from uuid import UUID

import pytest

from jetdr_core.device.place import open_device
from jetdr_core.errors import DeviceGone, LogForeign, LogNotALog, LogTooSmall
from jetdr_core.limits import VOLUME_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log import ReplicationLog, describe_volume, open_volume, take_over_volume
from tests.log.tools import DOMAIN, NAME, OWNER, hand_driven, read_all
from tests.peers.tgt import Tgt

STRANGER = UUID(int=99)


def test_flushed_records_are_there_after_reopening(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 2 << 20)
        with hand_driven(volume, clean=False) as driven:
            written = [driven.write(0, os.urandom(512 * (1 + 37 * n % 64))) for n in range(30)]
            driven.flush()
    with open_volume(log_place, owner=OWNER) as volume:
        log = ReplicationLog(volume.open_section(NAME))
        assert read_all(log) == written
        log.close()


def test_log_goes_around_many_times(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 1 << 20)
        with hand_driven(volume) as driven:
            for n in range(300):
                last = driven.write(0, bytes([n % 256]) * 16384)
                driven.flush()
                if n % 20 == 19:
                    driven.checkpoint_all()
            assert driven.log.state().head_position > 4 * driven.log.body.data_bytes
            assert driven.read_all() == []
            last = driven.write(0, os.urandom(4096))
        log = ReplicationLog(volume.open_section(NAME))
        assert read_all(log) == [last]
        log.close()


def test_volume_of_another_owner_is_refused_until_it_is_taken_over_on_purpose(log_place: str) -> None:
    open_volume(log_place, owner=STRANGER, create=True).close()
    with pytest.raises(LogForeign, match=str(STRANGER)):
        open_volume(log_place, owner=OWNER)
    with pytest.raises(LogForeign, match="belongs to owner"):
        take_over_volume(log_place, OWNER, expected=UUID(int=7))
    assert take_over_volume(log_place, OWNER, expected=STRANGER) == STRANGER
    open_volume(log_place, owner=OWNER).close()
    with pytest.raises(LogForeign):
        open_volume(log_place, owner=STRANGER)


def test_place_that_holds_something_else_is_left_alone(log_place: str) -> None:
    if not log_place.startswith(("iscsi:", "/dev/")):
        with open(log_place, "wb") as file:
            file.truncate(VOLUME_SUPERBLOCK_AREA_BYTES)
    device = open_device(log_place)
    device.write(4096, b"somebody's data ".ljust(4096))
    device.sync()
    device.close()
    with pytest.raises(LogNotALog):
        open_volume(log_place, owner=OWNER, create=True)
    device = open_device(log_place, writable=False)
    found = bytearray(4096)
    device.read_into(4096, found)
    device.close()
    assert found == b"somebody's data ".ljust(4096)


def test_section_that_does_not_fit_is_refused_where_the_place_cannot_grow(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        if log_place.startswith(("iscsi:", "/dev/")):
            with pytest.raises(LogTooSmall, match=r"has \d+ bytes left"):
                volume.create_section(NAME, DOMAIN, 1 << 30)
        assert volume.sections == ()
        volume.create_section(NAME, DOMAIN, 8 << 20)


def test_volume_is_described_while_it_is_written(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 1 << 20)
        with hand_driven(volume) as driven:
            driven.write(0, bytes(4096))
            driven.flush()
            described = describe_volume(log_place)
    assert described.owner == OWNER
    assert [section.lsn_last for section in described.sections] == [1]


def test_lun_that_is_not_there_is_named_and_not_made(tgt: Tgt) -> None:
    url = f"iscsi://127.0.0.1:{tgt.port}/iqn.2026-11.test.jetdr:nobody/1"
    with pytest.raises(DeviceGone, match="nobody"):
        open_volume(url, owner=OWNER, create=True)
