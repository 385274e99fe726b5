"""An IscsiDevice comes back: lost connections, restarted targets, and caches lost with unsynced writes in them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from jetdr_core.device import IscsiDevice
from jetdr_core.errors import (
    DeviceGone,
)
from tests.device.lun import HURRIED, SIZE, eventually
from tests.device.test_conformance import pattern, read
from tests.faults.threaded_proxy import ThreadedProxy
from tests.peers.initiator import reset_lun
from tests.peers.tgt import Lun, Tgt

pytestmark = pytest.mark.native


def test_write_waits_for_a_target_that_restarts(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    own_tgt.kill()
    restart = threading.Timer(0.5, own_tgt.start)
    restart.start()
    device.write(0, pattern(8192))
    device.sync()
    restart.join()
    assert lun.image.read_bytes()[:8192] == pattern(8192)
    assert device.info().reconnects == 1
    device.close()


def test_unsynced_writes_that_the_target_lost_with_its_cache_are_written_again(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    device.write(0, pattern(65536))
    device.write(4096, pattern(4096, seed=2))
    device.zero(16384, 4096)
    assert device.info().retained_bytes > 65536
    own_tgt.kill()
    os.truncate(lun.image, 0)
    own_tgt.change(lun, size_bytes=SIZE)  # the cache is gone, and everything in it
    own_tgt.start()
    device.sync()
    expected = bytearray(pattern(65536))
    expected[4096:8192] = pattern(4096, seed=2)
    expected[16384:20480] = bytes(4096)
    assert lun.image.read_bytes()[:65536] == expected
    assert device.info().retained_bytes == 0
    device.close()


def test_unsynced_writes_are_written_again_when_the_target_resets_the_lun(lun: Lun) -> None:
    device = IscsiDevice(lun.url)
    device.write(0, pattern(65536))
    reset_lun(lun)
    device.sync()
    assert device.info().replayed_bytes == 65536
    assert read(device, 0, 65536) == pattern(65536)
    device.close()


def test_synced_writes_are_not_kept(lun: Lun) -> None:
    device = IscsiDevice(lun.url)
    device.write(0, pattern(65536))
    device.sync()
    assert device.info().retained_bytes == 0
    device.close()


def test_what_is_kept_is_bounded_by_syncs_of_its_own(tgt: Tgt) -> None:
    lun = tgt.add(256 << 20)
    device = IscsiDevice(lun.url)
    piece = bytes(8 << 20)
    most = 0
    for offset in range(0, 256 << 20, len(piece)):
        device.write(offset, piece)
        most = max(most, device.info().retained_bytes)
    assert 64 << 20 < most <= 96 << 20
    assert device.info().syncs >= 2
    device.close()
    tgt.remove(lun)


def test_write_that_could_not_be_brought_back_fails_every_later_call(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, options=HURRIED)
    device.write(0, pattern(4096))
    own_tgt.kill()
    with pytest.raises(DeviceGone):
        device.sync()
    own_tgt.start()
    for call in (device.sync, lambda: device.write(0, bytes(4096)), lambda: read(device, 0, 4096)):
        with pytest.raises(DeviceGone):
            call()
    device.close()
    again = IscsiDevice(lun.url)
    again.write(0, bytes(4096))
    again.sync()
    again.close()


def test_device_with_nothing_at_stake_works_again_when_the_target_does(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, options=HURRIED)
    device.write(0, pattern(4096))
    device.sync()
    own_tgt.kill()
    with pytest.raises(DeviceGone):
        read(device, 0, 4096)
    own_tgt.start()
    assert read(device, 0, 4096) == pattern(4096)
    device.close()


def test_cut_connections_are_made_again_under_load(proxy: ThreadedProxy, lun: Lun) -> None:
    device = IscsiDevice(lun.url_at(proxy.port))
    data = pattern(SIZE)
    for turn in range(20):
        proxy.cut_uploads(after_bytes=(turn * 97_001) % SIZE)
        device.write(0, data[turn:] + data[:turn])
        device.sync()
        assert read(device, 0, SIZE) == data[turn:] + data[:turn]
    assert device.info().reconnects >= 10
    device.close()


def test_frozen_connection_is_found_out_and_made_again(proxy: ThreadedProxy, lun: Lun) -> None:
    device = IscsiDevice(lun.url_at(proxy.port))
    proxy.freeze()
    writer = threading.Thread(target=device.write, args=(0, pattern(65536)))
    writer.start()
    eventually(lambda: "does not answer" in device.info().failure, "the silence is noticed")
    proxy.thaw()
    writer.join()
    device.sync()
    assert read(device, 0, 65536) == pattern(65536)
    assert device.info().reconnects >= 1
    device.close()


def test_write_of_a_lost_connection_does_not_come_late(proxy: ThreadedProxy, tgt: Tgt, lun: Lun) -> None:
    """A line that held a write back delivers it when a newer one is there: the target must not take it any more."""
    device = IscsiDevice(lun.url_at(proxy.port), lock=True)
    proxy.freeze()
    writer = threading.Thread(target=device.write, args=(0, b"old!" * 1024))
    writer.start()
    eventually(lambda: "does not answer" in device.info().failure, "the silence is noticed")
    proxy.let_new_ones_pass()
    writer.join()
    device.write(0, b"new!" * 1024)
    device.sync()
    proxy.thaw()
    other = IscsiDevice(lun.url, writable=False)
    for _ in range(50):
        assert read(other, 0, 4096) == b"new!" * 1024
        time.sleep(0.005)
    other.close()
    device.close()


def test_close_does_not_wait_for_a_target_that_is_away(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    device.write(0, pattern(4096))
    own_tgt.kill()
    began = time.monotonic()
    device.close()
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match="closed"):
        device.write(0, pattern(4096))


def test_stopped_target_is_waited_for(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    os.kill(own_tgt.pid, signal.SIGSTOP)
    wake = threading.Timer(1.0, os.kill, (own_tgt.pid, signal.SIGCONT))
    wake.start()
    device.write(0, pattern(4096))
    device.sync()
    wake.join()
    assert device.info().reconnects == 0
    device.close()


def test_another_lun_in_its_place_is_not_written(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, options=HURRIED)
    before = lun.image.read_bytes()
    own_tgt.kill()
    own_tgt.exchange(lun)
    own_tgt.start()
    with pytest.raises(DeviceGone, match="another LUN"):
        device.write(0, pattern(4096))
    device.close()
    assert lun.image.read_bytes() == before
