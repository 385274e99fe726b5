"""Volumes written by every released version of the format are read, and this engine still writes the same bytes."""

from __future__ import annotations

import gzip
import json

import pytest

from jetdr_core.device import MemoryDevice
from jetdr_core.replication_log import LogVolume, ReplicationLog
from tests.golden import make_log
from tests.log.tools import read_all

GOLDEN = make_log.HERE


def device_of(name: str) -> MemoryDevice:
    image = gzip.decompress((GOLDEN / f"{name}.img.gz").read_bytes())
    device = MemoryDevice(len(image))
    device.write(0, image)
    return device


@pytest.mark.parametrize("name", ["log-v1"])
@pytest.mark.parametrize("section", ["payroll", "crm"])
def test_golden_volume_is_read_whole(name: str, section: str) -> None:
    volume = LogVolume(device_of(name), owner=make_log.OWNER, where=name)
    wanted = json.loads((GOLDEN / f"{name}.json").read_text())[section]
    log = ReplicationLog(volume.open_section(section))
    assert list(log.tail) == wanted["tail"]
    assert list(log.outcome.head) == wanted["head"]
    assert log.outcome.clean == wanted["clean"]
    found = read_all(log)
    assert [written.lsn for written in found] == list(range(log.tail.lsn + 1, log.outcome.head.lsn + 1))
    assert all(written.data == make_log.payload(written.lsn) for written in found)
    assert all(written.offset % 512 == 0 for written in found)


def test_golden_volume_can_be_continued() -> None:
    volume = LogVolume(device_of("log-v1"), owner=make_log.OWNER, where="log-v1")
    log = ReplicationLog(volume.open_section("payroll", make_log.PAYROLL.domain_uuid))
    log.begin(3)
    log.close()
    log = ReplicationLog(volume.open_section("payroll"))
    assert (log.body.epoch, log.body.timeline, log.outcome.clean) == (3, 3, True)
    log.close()


def test_this_engine_writes_the_newest_golden_volume_byte_for_byte() -> None:
    image, contents = make_log.build()
    assert image == gzip.decompress((GOLDEN / "log-v1.img.gz").read_bytes())
    assert contents == json.loads((GOLDEN / "log-v1.json").read_text())
