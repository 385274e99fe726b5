"""An IscsiDevice names what is wrong with a portal, a target or a LUN, and survives a target that answers nonsense."""

from __future__ import annotations

import contextlib
import errno
import time

import pytest

from jetdr_core.device import IscsiDevice, IscsiOptions
from jetdr_core.errors import (
    DeviceGone,
    DeviceReadOnly,
    DeviceResized,
    InvalidRequest,
    JetdrError,
)
from tests.device.lun import HURRIED, SIZE
from tests.device.test_conformance import pattern, read
from tests.faults.threaded_proxy import ThreadedProxy
from tests.peers.tgt import Lun, Tgt

pytestmark = pytest.mark.native


def test_portal_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(DeviceGone, match=r"127\.0\.0\.1:1/.*check that the target runs") as caught:
        IscsiDevice("iscsi://127.0.0.1:1/iqn.2026-11.a:b/1")
    assert caught.value.errno == errno.EIO


def test_portal_that_does_not_answer_is_not_waited_for_beyond_the_limit(proxy: ThreadedProxy, lun: Lun) -> None:
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(DeviceGone, match="does not answer"):
        IscsiDevice(lun.url_at(proxy.port), options=HURRIED)
    assert time.monotonic() - began < 10


def test_unknown_target_is_named(lun: Lun) -> None:
    with pytest.raises(DeviceGone, match="no such target"):
        IscsiDevice(lun.url.replace(lun.target, "iqn.2026-11.test.jetdr:nobody"))


@pytest.mark.parametrize("number", [0, 7])
def test_number_that_is_no_disk_is_named(lun: Lun, number: int) -> None:
    with pytest.raises(DeviceGone, match=f"LUN {number}"):
        IscsiDevice(lun.url[:-1] + str(number))


def test_write_protected_lun_is_refused_for_writing_and_can_be_read(tgt: Tgt) -> None:
    lun = tgt.add(SIZE, read_only=True, content=pattern(4096))
    with pytest.raises(DeviceReadOnly, match="write-protected") as caught:
        IscsiDevice(lun.url)
    assert caught.value.errno == errno.EROFS
    device = IscsiDevice(lun.url, writable=False)
    assert read(device, 0, 4096) == pattern(4096)
    with pytest.raises(InvalidRequest, match="read-only"):
        device.write(0, bytes(4096))
    device.close()
    tgt.remove(lun)


def test_lun_that_was_write_protected_meanwhile_is_named(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, options=HURRIED)
    own_tgt.kill()
    own_tgt.change(lun, read_only=True)
    own_tgt.start()
    with pytest.raises(DeviceReadOnly, match="write-protected"):
        device.write(0, bytes(4096))
    device.close()


def test_lun_that_shrank_refuses_what_lies_beyond_its_end_and_serves_the_rest(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    own_tgt.kill()
    own_tgt.change(lun, size_bytes=SIZE // 2)
    own_tgt.start()
    device.write(0, pattern(4096))
    with pytest.raises(DeviceResized, match=f"had {SIZE} bytes when it was opened and has {SIZE // 2} now"):
        device.write(SIZE - 4096, bytes(4096))
    with pytest.raises(DeviceResized):
        read(device, SIZE // 2 - 4096, 8192)
    device.sync()
    assert read(device, 0, 4096) == pattern(4096)
    device.close()


def test_lun_that_grew_keeps_its_size_until_it_is_opened_again(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url)
    own_tgt.kill()
    own_tgt.change(lun, size_bytes=2 * SIZE)
    own_tgt.start()
    device.write(0, pattern(4096))
    assert (device.size_bytes, device.info().size_bytes_now) == (SIZE, 2 * SIZE)
    with pytest.raises(InvalidRequest):
        device.write(SIZE, bytes(4096))
    device.close()
    again = IscsiDevice(lun.url)
    assert again.size_bytes == 2 * SIZE
    again.close()


def test_lun_that_is_taken_away_is_named_when_it_does_not_come_back(own_tgt: Tgt) -> None:
    lun = own_tgt.add(SIZE)
    device = IscsiDevice(lun.url, options=HURRIED)
    own_tgt.detach(lun)
    with pytest.raises(DeviceGone, match="LUN 1") as caught:
        device.write(0, bytes(4096))
    assert caught.value.errno == errno.ENXIO
    device.close()


@pytest.mark.parametrize("seed", range(40))
def test_garbled_answers_end_in_errors_and_in_nothing_worse(proxy: ThreadedProxy, lun: Lun, seed: int) -> None:
    """Bytes of the target's answers are changed at random, from some point on: a login, a size, a status, a length."""
    quick = IscsiOptions(limit_s=0.3, login_limit_s=0.3)
    proxy.garble(seed, first_byte=(seed % 8) * 60)
    try:
        device = IscsiDevice(lun.url_at(proxy.port), options=quick)
    except JetdrError:
        return
    for call in (lambda: device.write(0, pattern(65536)), device.sync, lambda: read(device, 0, 65536)):
        with contextlib.suppress(JetdrError):
            call()
    device.close()
