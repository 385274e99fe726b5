"""Write-back: the ring acknowledges, the primary follows behind the log, reads see the newest data."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jetdr_core.device import MemoryDevice
from jetdr_core.domain.hosting import bypass
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.overload import Overload
from jetdr_core.errors import StallTimeout
from jetdr_core.options import DomainOptions
from jetdr_core.record import Kind
from tests.core.host import Shared, program, shared_ring, until
from tests.core.rig import replay


def _on_primary(shared: Shared, offset: int) -> int:
    with shared.primary.open("rb") as file:
        file.seek(offset)
        return file.read(1)[0]


class _Watched(MemoryDevice):
    """A log device that looks at the primary whenever it is flushed."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.log.size_bytes)
        self.shared = shared
        self.seen: list[int] = []

    def sync(self) -> None:
        self.seen.append(_on_primary(self.shared, 0))
        super().sync()


def test_the_primary_gets_nothing_that_the_log_may_lose() -> None:
    with shared_ring(write_back=True) as shared:
        log = shared.log = _Watched(shared)
        host = shared.host()
        for byte in range(1, 50):
            assert host.call("write", 0, 4096, byte) == byte
            assert host.call("read", 0, 4096) == byte
            writer = shared.writer or shared.log_writer()
            writer.commit()
            shared.drva.request_durable(byte)
            writer.commit()
            until(lambda: _on_primary(shared, 0) == byte, "the primary to follow")  # noqa: B023
        assert log.seen == list(range(49))
        until(lambda: shared.drva.lsn_in_primaries == 49, "the primary's flush")


def test_a_flush_needs_the_log_alone() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        writer = shared.log_writer()
        writer.start()
        host.call("write", 0, 4096, 7)
        assert host.call("flush") == 1
        assert shared.drva.lsn_durable == 1
        writer.stop()


def test_reads_put_pending_writes_together_newest_last() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        shared.leave()
        for offset, length, byte in [(0, 16384, 1), (4096, 4096, 2), (4608, 512, 3), (4608, 512, 4)]:
            host.call("write", offset, length, byte)
        host.call("zero", 8192, 4096)
        for offset, length, byte in [
            (0, 4096, 1),
            (4096, 512, 2),
            (4608, 512, 4),
            (5120, 3072, 2),
            (8192, 4096, 0),
            (12288, 4096, 1),
        ]:
            assert host.call("read", offset, length) == byte
        assert host.call("read", 0, 16384) == 999


def test_a_read_believes_no_slot_that_is_reserved_again_meanwhile() -> None:
    with shared_ring(ring_bytes=1 << 16, slots=16, write_back=True) as shared:
        host = shared.host()
        host.call("other", 0, 4096, 9)
        host.call("start-read", 0, 4096)
        shared.log_writer().start()
        for lsn in range(2, 17):
            shared.drva.request_durable(lsn - 1)
            until(lambda: shared.drva.used_bytes == 0, "the applier")
            host.call("other", lsn * 4096, 4096, 9)
        shared.drva.request_durable(16)
        until(lambda: shared.drva.used_bytes == 0, "the applier")
        host.call("claim", 4096)  # LSN 17, of the disk that is read, in the slot of LSN 1
        assert host.call("end-read") == 0


def test_a_killed_host_leaves_what_was_acknowledged_in_the_ring_and_the_next_one_serves_it() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        for n in range(16):
            host.call("write", n * 4096, 4096, n + 1)
        host.die("reserve", 4096)
        again = shared.host()
        assert [again.call("read", n * 4096, 4096) for n in range(16)] == list(range(1, 17))
        assert _on_primary(shared, 0) == 0
        shared.log_writer().start()
        until(lambda: shared.drva.wait_durable(shared.drva.lsn_reserved, 0.1), "the log")
        until(lambda: shared.drva.lsn_in_primaries == 17, "the primary to follow")
        assert shared.writer is not None
        shared.writer.stop()
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_room_is_held_until_the_primary_has_the_data() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        for n in range(16):
            host.call("write", n * 4096, 4096, n + 1)
        host.kill()
        shared.drain()
        assert shared.drva.used_bytes == 16 * 4096
        again = shared.host()
        until(lambda: shared.drva.used_bytes == 0, "the primary to follow")
        assert again.call("close") == 0
        assert shared.drva.host_ended
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()


def test_the_drva_waits_for_no_primary() -> None:
    with shared_ring(ring_bytes=1 << 16, write_back=True) as shared:
        host = shared.host()
        for n in range(16):
            host.call("write", n * 4096, 4096, n + 1)
        host.kill()
        shared.drain()
        with pytest.raises(StallTimeout):
            shared.drva.control(Kind.MARK, 0, b"{}", stall_limit_s=0.05)


def test_a_primary_that_is_slower_than_the_log_is_waited_for_with_logging_on() -> None:
    with shared_ring(ring_bytes=1 << 16, write_back=True) as shared:
        host = shared.host(limit_ms=50)
        shared.log_writer().start()
        host.call("block")
        for n in range(16):
            host.call("write", n * 4096, 4096, n + 1)
        until(lambda: shared.drva.wait_durable(16, 0.1), "the log")
        for n in range(3):
            host.call("start", n * 4096, 4096, n + 51)
        assert not host.answers(0.4)
        assert shared.drva.logging
        host.call("unblock")
        host.begin("join")
        assert sorted(host.end()) == [17, 18, 19]
        assert shared.drva.logging
        assert shared.writer is not None
        shared.writer.stop()


def test_the_primary_has_everything_and_the_bypassed_file_stands_before_a_write_bypasses_the_log() -> None:
    with shared_ring(ring_bytes=1 << 16, write_back=True) as shared:
        host = shared.host(limit_ms=30)
        shared.leave()
        for n in range(16):
            assert host.call("write", n * 4096, 4096, n + 1) == n + 1
        assert not shared.bypassed_file.exists()
        assert host.call("write", 0, 4096, 99) == 0
        assert shared.bypassed_file.exists()
        assert [_on_primary(shared, n * 4096) for n in range(16)] == [99, *range(2, 17)]
        assert host.call("read", 0, 4096) == 99
        assert host.call("flush") >= 0
        shared.come_back()
        shared.drain()
        assert [record.lsn for record in shared.records()] == list(range(1, 17))


def test_logging_that_resumed_is_write_back_again() -> None:
    with shared_ring(ring_bytes=1 << 16, write_back=True) as shared:
        host = shared.host(limit_ms=500)
        for n in range(20):
            host.call("write", n * 4096, 4096, n + 1)
        shared.log_writer().start()
        until(lambda: shared.drva.wait_durable(16, 0.1), "the log")
        gap = shared.drva.control(Kind.GAP_OPEN, 0, b"{}", stall_limit_s=1)[0]
        shared.bypassed_file.unlink()
        shared.drva.resume_logging()
        for offset in range(0, shared.size_bytes, 16384):
            assert host.call("copy", offset, 16384) > gap
        assert host.call("write", 0, 4096, 50) > gap
        assert host.call("flush") > gap
        until(lambda: _on_primary(shared, 0) == 50, "the primary to follow")
        assert shared.writer is not None
        shared.writer.stop()
        assert replay(shared.records(), shared.size_bytes) == shared.primary.read_bytes()
        assert not shared.bypassed_file.exists()


def test_a_flush_after_logging_resumed_covers_what_went_to_the_primary_alone() -> None:
    with shared_ring(ring_bytes=1 << 16, write_back=True) as shared:
        host = shared.host(limit_ms=500)
        for n in range(20):
            host.call("write", n * 4096, 4096, n + 1)
        assert host.call("stats") == 20
        syncs = host.call("syncs")
        shared.log_writer().start()
        until(lambda: shared.drva.wait_durable(16, 0.1), "the log")
        gap = shared.drva.control(Kind.GAP_OPEN, 0, b"{}", stall_limit_s=1)[0]
        shared.bypassed_file.unlink()
        shared.drva.resume_logging()
        assert host.call("flush") >= gap
        assert host.call("syncs") > syncs
        host.kill()
        again = shared.host()
        syncs = again.call("syncs")
        assert again.call("flush") >= gap  # nobody knows what the last host had not flushed
        assert again.call("syncs") > syncs
        assert shared.writer is not None
        shared.writer.stop()


def test_logging_that_goes_off_again_at_once_finds_a_bypassed_file_to_set() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        ring = shared.drva
        ring.stop_logging()
        assert host.call("write", 0, 4096, 1) == 0
        host.send(signal.SIGSTOP)
        shared.bypassed_file.unlink()
        ring.resume_logging()
        ring.stop_logging()
        host.send(signal.SIGCONT)
        assert host.call("write", 0, 4096, 2) == 0
        assert shared.bypassed_file.exists()


def test_a_bypassed_file_is_not_set_any_more_once_logging_is_on() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        shared.log_writer().start()
        host.call("block")
        shared.drva.stop_logging()
        until(lambda: host.call("syncs") > 0, "the primary to be flushed")
        shared.drva.resume_logging()
        host.call("unblock")
        assert host.call("write", 0, 4096, 7) == 1
        until(lambda: _on_primary(shared, 0) == 7, "the primary to follow")
        assert not shared.bypassed_file.exists()
        assert shared.writer is not None
        shared.writer.stop()


@pytest.mark.parametrize(("threads", "piece_bytes"), [("ccc", 32 << 10), ("ccrr", 256 << 10), ("wrr", 256 << 10)])
def test_neither_reads_nor_copies_take_what_was_given_back(tmp_path: Path, threads: str, piece_bytes: int) -> None:
    """Room in the ring is used again at once, while other threads put together what is pending."""
    mix = program("ring_mix")
    done = subprocess.run(
        [mix, "2", str(piece_bytes), str(1 << 20), tmp_path / "bypassed_file", threads],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    reads, copies, *wrong, logging = map(int, done.stdout.split())
    assert wrong == [0, 0, 0]
    assert logging
    assert (reads > 0) == ("r" in threads)
    assert (copies > 0) == ("c" in threads)


def test_a_ring_does_not_begin_anew_while_what_it_held_is_being_flushed() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        host.call("block-flushes")
        assert host.call("write", 0, 4096, 7) == 1
        shared.drain()
        until(lambda: _on_primary(shared, 0) == 7, "the primary to follow")
        ring = shared.drva
        ring.stop_logging()
        for _ in range(20):
            assert ring.primaries_lag
            assert not ring.reset(lsn_next=9, time_ns_last=0, record_bytes_max=None)
            time.sleep(0.01)
        host.call("unblock")
        until(lambda: ring.reset(lsn_next=9, time_ns_last=0, record_bytes_max=None), "the ring to begin anew")
        assert ring.lsn_in_primaries == ring.lsn_reserved == 8


def test_logging_does_not_resume_while_a_primary_lacks_what_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies before the gap is not replayed after a power loss. A bypassed file that is late proves nothing."""
    monkeypatch.setattr(bypass, "SETTLE_S", 0.0)
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        writer = shared.log_writer()
        writer.start()
        host.call("block-flushes")
        assert host.call("write", 0, 4096, 7) == 1
        ring = shared.drva
        bypassed_file = BypassedFile(shared.folder, "vm")
        copies = SimpleNamespace(owe_all=lambda _reason: None)
        control_log = SimpleNamespace(
            lock=threading.RLock(),
            append=lambda body: ring.control(body.kind, 0, b"{}", stall_limit_s=5),
            make_durable=lambda: ring.wait_durable(ring.lsn_reserved, 5),
        )
        empty = {"failed": 0, "data_bytes": 1 << 20, "head_position": 0, "tail": SimpleNamespace(position=0)}
        log: Any = SimpleNamespace(state=lambda: SimpleNamespace(**empty))
        watched = bypass.Bypass(
            *("vm", ring, log, control_log, copies, bypassed_file),  # type: ignore[arg-type]
            overload=Overload(ring, log, DomainOptions(), budget_s=3, owes_resync=lambda: False),
            because="",
            can_upload=lambda: True,
        )
        ring.stop_logging()
        until(lambda: _on_primary(shared, 0) == 7, "the primary to follow")
        for _ in range(30):
            watched.look()
            assert not ring.logging
            time.sleep(0.01)
        host.call("unblock")

        def resumes() -> bool:
            watched.look()
            return ring.logging

        until(resumes, "logging to resume")
        assert ring.lsn_in_primaries >= 1
        writer.stop()


def test_a_disk_that_is_removed_is_flushed_before_the_log_forgets_its_writes() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        shared.log_writer().start()
        assert host.call("write", 0, 4096, 7) == 1
        assert host.call("flush") == 1
        until(lambda: _on_primary(shared, 0) == 7, "the primary to follow")
        syncs = host.call("syncs")
        assert host.call("remove") == 0
        assert host.call("syncs") > syncs
        assert shared.writer is not None
        shared.writer.stop()


def test_a_closed_disk_is_the_applier_s_no_more() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        assert host.call("write", 0, 4096, 7) == 1
        shared.log_writer().start()
        host.call("close-filter")
        flushes = host.call("syncs")
        assert _on_primary(shared, 0) == 7
        host.call("other", 0, 4096, 8)
        until(lambda: shared.drva.wait_durable(2, 0.1), "the log")
        until(lambda: shared.drva.lsn_in_primaries == 2, "the flush of all primaries that are left")
        assert host.call("syncs") == flushes
        assert shared.writer is not None
        shared.writer.stop()


def test_what_a_failed_primary_lacks_stays_in_the_log_and_no_later_host_serves_what_is_older() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        shared.log_writer().start()
        host.call("fail")
        assert host.call("write", 0, 4096, 7) == 1
        host.call("flush")
        until(lambda: host.call("read", 0, 4096) < 0, "the disk to fail")
        host.kill()
        again = shared.host()
        assert again.call("read", 0, 4096) < 0
        assert again.call("write", 4096, 4096, 8) < 0
        assert again.call("close") == 0
        assert shared.drva.lsn_in_primaries == 0
        assert shared.writer is not None
        shared.writer.stop()


def test_a_write_that_waited_while_its_primary_failed_is_not_acknowledged() -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        assert host.call("write", 0, 4096, 1) == 1
        host.call("block")
        host.call("fail", 1)
        shared.drva.stop_logging()
        host.call("start", 8192, 4096, 2)
        until(lambda: host.sleeps(threads=3), "the applier at the primary, and the write at the applier")
        host.call("unblock")
        assert host.call("join") < 0
        assert _on_primary(shared, 8192) == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_under_load_log_and_primary_end_equal(threads: int) -> None:
    with shared_ring(write_back=True) as shared:
        host = shared.host()
        writer = shared.log_writer()
        writer.start()
        host.begin("busy", 1000, threads)
        while not host.answers():
            writer.set_tail(writer.state().durable_position)
        assert host.end()[2] == 0
        assert host.call("flush") > 0
        until(lambda: shared.drva.lsn_in_primaries == shared.drva.lsn_durable, "the primary to follow")
        assert shared.drva.logging
        writer.stop()
