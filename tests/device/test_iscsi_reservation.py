"""Whose a LUN is: one process of a machine, one machine, until it is closed or taken over."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from jetdr_core.device import IscsiDevice
from jetdr_core.errors import (
    DeviceBusy,
)
from tests.device.lun import HURRIED, SIZE, Elsewhere, eventually
from tests.device.test_conformance import pattern, read
from tests.peers.tgt import Lun, Tgt

pytestmark = pytest.mark.native


def test_second_process_finds_the_lun_taken(lun: Lun) -> None:
    device = IscsiDevice(lun.url, lock=True)
    script = f"""
from jetdr_core.device import IscsiDevice
from jetdr_core.errors import DeviceBusy
try:
    IscsiDevice({lun.url!r}, lock=True)
except DeviceBusy as error:
    print(error)
"""
    run = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", script]
    found = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "in use by another process" in found.stdout
    device.close()
    IscsiDevice(lun.url, lock=True).close()


@pytest.fixture
def elsewhere(lun: Lun) -> Iterator[Elsewhere]:
    machine = Elsewhere(lun)
    yield machine
    machine.end()


def test_other_machine_finds_the_lun_reserved_until_it_is_closed(lun: Lun, elsewhere: Elsewhere) -> None:
    device = IscsiDevice(lun.url, lock=True)
    assert device.info().reserved
    assert elsewhere.do("open").startswith("DeviceBusy")
    device.close()
    assert elsewhere.do("open") == "done"
    assert elsewhere.do("write") == "done"
    with pytest.raises(DeviceBusy, match="beef"):
        IscsiDevice(lun.url, lock=True)
    assert elsewhere.do("close") == "done"
    IscsiDevice(lun.url, lock=True).close()


def test_idle_device_reserves_the_lun_again_when_the_target_has_forgotten_it(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, lock=True, options=HURRIED)
    own_tgt.kill()
    limit = time.monotonic() + HURRIED.limit_s + 0.1
    eventually(lambda: time.monotonic() > limit, "longer than a call would wait")
    own_tgt.start()
    eventually(lambda: device.info().reconnects == 1, "the device is back")
    machine = Elsewhere(lun)
    assert machine.do("open").startswith("DeviceBusy")
    machine.end()
    device.close()


def test_reserved_lun_can_be_read_from_elsewhere(lun: Lun, elsewhere: Elsewhere) -> None:
    assert elsewhere.do("open") == "done"
    assert elsewhere.do("write") == "done"
    device = IscsiDevice(lun.url, writable=False)
    assert read(device, 0, 4096) == b"there..." * 512
    device.close()


def test_handles_of_one_machine_share_the_reservation(lun: Lun) -> None:
    device = IscsiDevice(lun.url, lock=True)
    second = device.reopen()
    second.write(0, pattern(4096))
    second.close()
    device.write(4096, pattern(4096))
    device.sync()
    device.close()


def test_crashed_machine_keeps_the_lun_and_gets_it_back(lun: Lun, elsewhere: Elsewhere) -> None:
    assert elsewhere.do("open") == "done"
    elsewhere.end()
    again = Elsewhere(lun)
    assert again.do("open") == "done"
    assert again.do("write") == "done"
    again.end()


def test_machine_that_was_thrown_out_writes_no_more(lun: Lun, elsewhere: Elsewhere) -> None:
    device = IscsiDevice(lun.url, lock=True, options=HURRIED)
    device.write(0, pattern(4096))
    device.sync()
    assert elsewhere.do("preempt") == "done"
    with pytest.raises(DeviceBusy, match="another machine"):
        device.write(0, bytes(4096))
    assert elsewhere.do("close") == "done"
    with pytest.raises(DeviceBusy, match="another machine"):
        device.write(0, bytes(4096))
    device.close()
    reader = IscsiDevice(lun.url, writable=False)
    assert read(reader, 0, 4096) == pattern(4096)
    reader.close()
