"""What IscsiDevice adds to the conformance suite: logging in, naming what is wrong, coming back, whose the LUN is."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetdr_core.device import IscsiDevice, IscsiLun, IscsiOptions
from jetdr_core.device.place import open_device
from jetdr_core.errors import (
    DeviceAccessDenied,
    DeviceBusy,
    DeviceGone,
    DeviceReadOnly,
    DeviceResized,
    InvalidRequest,
    JetdrError,
)
from tests.device.test_conformance import pattern, read
from tests.faults.threaded_proxy import ThreadedProxy, threaded_proxy
from tests.peers.initiator import reset_lun
from tests.peers.tgt import Lun, Tgt

pytestmark = pytest.mark.native
SIZE = 4 << 20
SECRET = "correct-horse-battery"
HURRIED = IscsiOptions(limit_s=1.5, login_limit_s=1.0)


@pytest.fixture
def lun(tgt: Tgt) -> Iterator[Lun]:
    made = tgt.add(SIZE)
    yield made
    tgt.remove(made)


@pytest.fixture
def proxy(tgt: Tgt) -> Iterator[ThreadedProxy]:
    with threaded_proxy(tgt.port) as line:
        yield line


def eventually(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


# -- the URL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "iscsi://",
        "iscsi://host",
        "iscsi://host/iqn.2026-11.a:b",
        "iscsi://host/iqn.2026-11.a:b/x",
        "iscsi://host/iqn.2026-11.a:b/1/2",
        "iscsi://host/disk/1",
        "iscsi://host:0/iqn.2026-11.a:b/1",
        "iscsi://host:99999/iqn.2026-11.a:b/1",
        "iscsi://host/iqn.2026-11.a:b/16384",
        "iscsi://ho st/iqn.2026-11.a:b/1",
        "iscsi://host/iqn.2026-11.a:b/1\n",
        "http://host/iqn.2026-11.a:b/1",
    ],
)
def test_url_that_names_no_lun_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"iscsi://|port|iSCSI URL"):
        IscsiDevice(url)


@pytest.mark.parametrize("user", [f"backup:{SECRET}", f"backup%{SECRET}"])
def test_password_in_a_url_is_refused_and_not_repeated(user: str) -> None:
    with pytest.raises(InvalidRequest, match="password") as caught:
        IscsiDevice(f"iscsi://{user}@127.0.0.1/iqn.2026-11.a:b/1")
    assert SECRET not in str(caught.value)


# -- logging in ------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked_lun(tgt: Tgt) -> Iterator[Lun]:
    """A LUN that wants a password."""
    made = tgt.add(SIZE, user="backup", password=SECRET)
    yield made
    tgt.remove(made)


def test_user_and_password_open_the_lun(locked_lun: Lun) -> None:
    device = IscsiDevice(locked_lun.url, options=IscsiOptions(password=SECRET))
    device.write(0, pattern(4096))
    assert read(device, 0, 4096) == pattern(4096)
    device.close()


@pytest.mark.parametrize("options", [IscsiOptions(password="guessed-in-vain"), IscsiOptions()])
def test_wrong_or_missing_password_is_denied(locked_lun: Lun, options: IscsiOptions) -> None:
    with pytest.raises(DeviceAccessDenied, match="user and password") as caught:
        IscsiDevice(locked_lun.url, options=options)
    assert caught.value.errno == errno.EACCES


def test_user_is_wanted_where_the_target_wants_one(locked_lun: Lun) -> None:
    with pytest.raises(DeviceAccessDenied):
        IscsiDevice(locked_lun.url.replace("backup@", ""), options=IscsiOptions(password=SECRET))


def test_password_comes_from_the_environment(locked_lun: Lun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", SECRET)
    IscsiDevice(locked_lun.url).close()


def test_password_file_is_read_when_private_and_refused_when_not(
    locked_lun: Lun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD_FILE", str(file))
    file.chmod(0o600)
    IscsiDevice(locked_lun.url).close()
    file.chmod(0o640)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        IscsiDevice(locked_lun.url)


def test_lun_with_a_password_file_of_its_own_does_without_the_environments(
    locked_lun: Lun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", "of-another-lun")
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o600)
    place = IscsiLun(locked_lun.url, file)
    open_device(place).close()
    assert SECRET not in repr(place)


def test_password_is_in_no_representation(locked_lun: Lun) -> None:
    options = IscsiOptions(password=SECRET)
    device = IscsiDevice(locked_lun.url, options=options)
    shown = repr(options) + repr(device) + repr(device.info()) + device.path
    device.close()
    assert SECRET not in shown
    assert "backup" not in shown


# -- what is wrong is named ------------------------------------------------------------------------------------------


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


# -- coming back -----------------------------------------------------------------------------------------------------


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


# -- a hostile target ---------------------------------------------------------------------------------------------


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


# -- whose it is -----------------------------------------------------------------------------------------------------

THERE = IscsiOptions(initiator="iqn.2026-11.test.jetdr:there", machine=0xBEEF)


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


class Elsewhere:
    """A process on another machine: its own initiator and key, and no part in this machine's lock."""

    def __init__(self, lun: Lun) -> None:
        script = f"""
import sys
from jetdr_core.device import IscsiDevice, IscsiOptions, iscsi
from jetdr_core.errors import JetdrError
iscsi._lock = lambda url: None
options = IscsiOptions(initiator={THERE.initiator!r}, machine={THERE.machine})
device = None
for line in sys.stdin:
    try:
        match line.strip():
            case "open" | "preempt" as word:
                device = IscsiDevice({lun.url!r}, options=options, lock=True, preempt=word == "preempt")
            case "write":
                device.write(0, b"there..." * 512)
                device.sync()
            case "close":
                device.close()
        print("done", flush=True)
    except JetdrError as error:
        print(type(error).__name__, error, flush=True)
"""
        run = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", script]
        self.process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


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
