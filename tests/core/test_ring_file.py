"""A ring in a file outlives both of its sides, and whatever state they die in."""

from __future__ import annotations

import os
import signal
from tempfile import TemporaryFile

import pytest

from jetdr_core._core import OffReason, Ring
from jetdr_core.errors import (
    DamagedObject,
    InvalidRequest,
    LoggingOff,
    RingApart,
    RingBusy,
    RingForeign,
    StallTimeout,
    UnsupportedVersion,
)
from jetdr_core.record import Kind
from tests.core.host import DOMAIN, Shared, shared_ring, until
from tests.core.rig import replay

LSN_RESERVED_AT = 112  # docs/formats/ring.md


def test_what_a_host_writes_reaches_the_log_in_order() -> None:
    with shared_ring() as shared:
        host = shared.host()
        assert host.opened == 0
        assert [host.call("write", n * 4096, 4096, n + 1) for n in range(8)] == list(range(1, 9))
        shared.drain()
        assert [record.lsn for record in shared.records()] == list(range(1, 9))
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_the_ring_survives_the_death_of_both_sides() -> None:
    with shared_ring() as shared:
        host = shared.host()
        for n in range(8):
            host.call("write", n * 4096, 4096, n + 1)
        host.kill()
        shared.leave()
        shared.come_back()
        shared.drain()
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_a_new_consumer_goes_on_behind_the_log_and_repeats_nothing() -> None:
    with shared_ring() as shared:
        host = shared.host()
        for n in range(4):
            host.call("write", n * 4096, 4096, n + 1)
        shared.drain()
        shared.leave()
        for n in range(4, 8):
            host.call("write", n * 4096, 4096, n + 1)
        shared.come_back()
        shared.drain()
        assert [record.lsn for record in shared.records()] == list(range(1, 9))


def test_what_was_written_and_not_flushed_is_still_in_the_ring() -> None:
    with shared_ring() as shared:
        host = shared.host()
        writer = shared.log_writer()
        for n in range(4):
            host.call("write", n * 4096, 4096, n + 1)
        assert writer.commit() == 4
        assert shared.drva.used_bytes == 4 * 4096
        del writer
        shared.leave()
        shared.log.write(0, bytes(1 << 16))  # the device loses what it had not flushed
        shared.come_back()
        shared.drain()
        assert [record.lsn for record in shared.records()] == [1, 2, 3, 4]


@pytest.mark.parametrize("state", ["reserve", "publish", "admit", "lock", "gate"])
def test_a_host_killed_anywhere_stops_nobody(state: str) -> None:
    with shared_ring() as shared:
        host = shared.host()
        host.call("write", 0, 4096, 1)
        host.die(state, 64 << 10)
        assert not shared.drva.host_alive
        assert not shared.drva.host_ended
        again = shared.host()
        assert again.call("write", 4096, 4096, 2) > 0
        shared.drva.control(Kind.MARK, 0, b"{}", stall_limit_s=1)
        shared.drain()
        kinds = [record.kind for record in shared.records()]
        void = [Kind.VOID] if state in ("reserve", "publish") else []
        assert kinds == [Kind.WRITE, *void, Kind.WRITE, Kind.MARK]
        assert [record.lsn for record in shared.records()] == list(range(1, len(kinds) + 1))
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_the_room_of_a_dead_host_comes_back() -> None:
    with shared_ring(ring_bytes=1 << 16) as shared:
        for _ in range(8):
            shared.host().die("admit", 32 << 10)
            shared.host().die("reserve", 16 << 10)
            shared.drain()
            shared.leave()
            shared.come_back()
        assert shared.drva.used_bytes == 0
        assert shared.host().call("write", 0, 32 << 10, 7) > 0


def test_a_host_stopped_within_the_lock_holds_up_the_drva_for_a_limit_only() -> None:
    with shared_ring() as shared:
        host = shared.host()
        host.call("write", 0, 512, 1)
        host.begin("stop-locked")
        until(lambda: os.waitpid(host.process.pid, os.WUNTRACED | os.WNOHANG)[0] != 0, "the host to stop")
        with pytest.raises(StallTimeout):
            shared.drva.control(Kind.MARK, 0, b"{}", stall_limit_s=0.1)
        assert shared.drva.observe()[0] == 1
        host.send(signal.SIGCONT)
        assert host.end() == [0]
        assert shared.drva.control(Kind.MARK, 0, b"{}", stall_limit_s=1)[0] == 2


# -- logging off -----------------------------------------------------------------------------------------------------


def test_a_full_ring_switches_logging_off_and_the_guest_goes_on() -> None:
    with shared_ring(ring_bytes=1 << 16) as shared:
        host = shared.host(limit_ms=50)
        for n in range(40):
            assert host.call("write", n * 4096, 4096, n + 1) >= 0
        off = shared.drva.off()
        assert (off.logging, off.reason, off.times) == (False, OffReason.FULL, 1)
        assert host.call("flush") >= 0
        assert shared.primary.read_bytes()[39 * 4096] == 40
        shared.drain()
        with pytest.raises(LoggingOff):
            shared.drva.control(Kind.MARK, 0, b"{}", stall_limit_s=0)
        logged = shared.records()
        assert off.since_ns >= logged[-1].time_ns
        assert [record.lsn for record in logged] == list(range(1, 17))


def test_a_primary_that_does_not_answer_is_waited_for_with_logging_on() -> None:
    with shared_ring(ring_bytes=1 << 16) as shared:
        host = shared.host(limit_ms=50)
        host.call("block")
        for n in range(3):  # two of them hold the disk's share of the ring
            host.call("start", n * 16384, 16384, n + 1)
        assert not host.answers(0.4)
        assert shared.drva.logging
        host.call("unblock")
        host.begin("join")
        assert sorted(host.end()) == [1, 2, 3]
        assert shared.drva.logging


def test_logging_resumes_behind_a_gap_and_a_copy_brings_the_rest() -> None:
    with shared_ring(ring_bytes=1 << 16) as shared:
        host = shared.host(limit_ms=500)
        for n in range(40):
            host.call("write", n * 4096, 4096, n + 1)
        shared.drain()
        shared.leave()
        shared.come_back()
        shared.log_writer().start()
        assert host.call("copy", 0, 4096) == -125  # ECANCELED: logging is off
        gap = shared.drva.control(Kind.GAP_OPEN, 0, b"{}", stall_limit_s=1)[0]
        shared.drva.resume_logging()
        for n in range(0, shared.size_bytes, 16384):
            assert host.call("copy", n, 16384) > gap
        assert host.call("write", 0, 4096, 99) > gap
        assert shared.drva.wait_durable(shared.drva.lsn_reserved, 5)
        assert shared.writer is not None
        shared.writer.stop()
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_a_flush_that_the_log_does_not_answer_ends_logging_and_succeeds() -> None:
    with shared_ring() as shared:
        host = shared.host(limit_ms=30)
        host.call("write", 0, 4096, 1)
        assert host.call("flush") >= 0
        assert shared.drva.off()[:2] == (False, 2)


@pytest.mark.parametrize("write_back", [False, True])
@pytest.mark.parametrize("what", ["killed", "stopped"])
def test_no_call_of_a_guest_is_longer_than_the_limit_whatever_the_drva_does(what: str, *, write_back: bool) -> None:
    """The DRVA's side is a process that is stopped or killed while the guest writes and flushes."""
    limit_ms = 300
    with shared_ring(write_back=write_back) as shared:
        shared.leave()
        drva = DrvaProcess(shared)
        host = shared.host(limit_ms=limit_ms)
        host.begin("busy", 2000, 4)
        until(lambda: drva.writes() > 200, "load")
        drva.signal(signal.SIGSTOP if what == "stopped" else signal.SIGKILL)
        writes, flushes, failed, longest_ms = host.end()
        assert failed == 0
        assert writes > 200
        assert flushes > 10
        assert longest_ms < limit_ms + 5000  # the limit, and a busy machine's hiccups; without one it would never end
        drva.signal(signal.SIGKILL)
        assert not shared.come_back().logging


@pytest.mark.parametrize("write_back", [False, True])
def test_logging_that_goes_off_and_on_all_the_time_disturbs_no_call(*, write_back: bool) -> None:
    with shared_ring(write_back=write_back) as shared:
        host = shared.host()
        writer = shared.log_writer()
        writer.start()
        host.begin("busy", 1500, 8)
        turns = 0
        while not host.answers():
            shared.drva.stop_logging()
            writer.set_tail(writer.state().durable_position)
            shared.drva.control(Kind.GAP_OPEN, 0, b"{}", stall_limit_s=5)
            shared.drva.resume_logging()
            turns += 1
        writes, _flushes, failed, _longest_ms = host.end()
        writer.stop()
        assert failed == 0
        assert writes > 0
        assert turns > 1
        assert host.call("stats") >= 0


class DrvaProcess:
    """The DRVA's side in a process of its own, draining."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            try:
                shared.come_back()
                shared.log_writer()
                assert shared.writer is not None
                while os.getppid() == parent:
                    shared.writer.commit()
                    shared.writer.set_tail(shared.writer.state().durable_position)
            finally:
                os._exit(1)

    def writes(self) -> int:
        header = self.shared.path.read_bytes()[:4096]
        return int.from_bytes(header[LSN_RESERVED_AT : LSN_RESERVED_AT + 8], "little")

    def signal(self, number: int) -> None:
        if self.pid:
            os.kill(self.pid, number)
        if self.pid and number == signal.SIGKILL:
            os.waitpid(self.pid, 0)
            self.pid = 0


# -- bad input -------------------------------------------------------------------------------------------------------


def test_each_side_is_taken_once() -> None:
    with shared_ring() as shared:
        shared.host()
        assert shared.host().opened == -16  # EBUSY
        fd = os.open(shared.path, os.O_RDWR)
        with pytest.raises(RingBusy, match="one DRVA per domain"):
            Ring.open_file(fd, domain=DOMAIN)
        os.close(fd)


def test_a_log_that_does_not_meet_the_ring_is_told_and_the_ring_begins_anew() -> None:
    with shared_ring() as shared:
        host = shared.host()
        for n in range(4):
            host.call("write", n * 4096, 4096, n + 1)
        shared.drain()
        ring = shared.drva
        with pytest.raises(RingApart, match="log ends at LSN 2"):
            ring.adopt(2)
        with pytest.raises(RingApart):
            ring.adopt(77)
        with pytest.raises(InvalidRequest, match="switch logging off first"):
            ring.reset(lsn_next=50, time_ns_last=0, record_bytes_max=None)
        ring.stop_logging()
        assert ring.reset(lsn_next=50, time_ns_last=0, record_bytes_max=1 << 15)
        assert ring.control(Kind.GAP_OPEN, 0, b"{}", stall_limit_s=1)[0] == 50
        ring.resume_logging()
        assert host.call("write", 0, 64 << 10, 9) == 52  # in two, as the new log takes no longer ones
        assert ring.logging


def test_a_ring_that_begins_anew_is_complete_no_longer_than_the_new_log() -> None:
    with shared_ring() as shared:
        shared.host().call("write", 0, 4096, 1)
        ring = shared.drva
        known_ns = ring.now_ns() - 10**9
        ring.stop_logging()
        assert ring.off().since_ns > known_ns
        assert ring.reset(lsn_next=50, time_ns_last=known_ns, record_bytes_max=None)
        assert ring.off().since_ns == known_ns


def _damage(shared: Shared, offset: int, data: bytes) -> None:
    shared.leave()
    with shared.path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "error"),
    [
        (0, b"NOTARING", DamagedObject),
        (8, (99).to_bytes(4, "little"), UnsupportedVersion),
        (16, (1 << 40).to_bytes(8, "little"), DamagedObject),
        (24, (1 << 62).to_bytes(8, "little"), DamagedObject),
    ],
)
def test_a_ring_that_is_not_ours_is_refused(offset: int, data: bytes, error: type[Exception]) -> None:
    with shared_ring() as shared:
        _damage(shared, offset, data)
        before = shared.path.read_bytes()
        with pytest.raises(error):
            shared.come_back()
        assert shared.path.read_bytes() == before
        assert shared.host().opened < 0


def test_a_ring_of_another_domain_or_open_to_others_is_refused() -> None:
    with shared_ring() as shared:
        shared.leave()
        fd = os.open(shared.path, os.O_RDWR)
        with pytest.raises(RingForeign, match="another domain"):
            Ring.open_file(fd, domain=bytes(16))
        shared.path.chmod(0o660)
        with pytest.raises(RingForeign, match="mode 0600"):
            Ring.open_file(fd, domain=DOMAIN)
        os.close(fd)


def test_a_ring_on_a_disk_is_refused() -> None:
    with (
        TemporaryFile(dir="/var/tmp") as file,
        pytest.raises(InvalidRequest, match="on tmpfs"),
    ):
        Ring.create_file(file.fileno(), domain=DOMAIN, payload_bytes=1 << 16, slots=16, lsn_next=1)


def test_counters_that_cannot_be_are_refused() -> None:
    with shared_ring() as shared:
        _damage(shared, LSN_RESERVED_AT, (1 << 50).to_bytes(8, "little"))
        with pytest.raises(DamagedObject):
            shared.come_back()
