"""A guest whose disk is protected: its writes reach the log, and it goes on whatever happens to the DRVA."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
import xxhash

from jetdr_core.errors import HostFailed, InvalidRequest, LoggingOff, StallTimeout
from jetdr_core.host import HostComponent, HostedFilter, HostOptions, StartDisk
from jetdr_core.record import Kind, RecordFlag
from tests.core.host import DOMAIN, Shared, shared_ring, until
from tests.core.rig import replay
from tests.host.guest import GUEST_ENVIRONMENT
from tests.host.nbd_client import FUA, NbdClient

STALL_LIMIT_S = 2.0
"""The log has to answer within it."""

SHORT_LIMIT_S = 0.3
"""For those that wait it out."""

RECORD_BYTES_MAX = 32 << 10


class Protected:
    """Disk 1, ``boot``, of a domain whose DRVA is the test."""

    def __init__(self, shared: Shared, runtime: Path, stall_limit_s: float) -> None:
        self.shared = shared
        self.host = HostComponent(
            "vm", HostOptions(runtime=str(runtime), stall_limit_s=stall_limit_s, write_back=shared.write_back)
        )

    def start(self, domain: bytes = DOMAIN) -> None:
        disk = StartDisk(1, "boot", self.shared.size_bytes, str(self.shared.primary))
        bypassed_file = self.shared.bypassed_file if self.shared.write_back else None
        self.host.start(self.shared.path, UUID(bytes=domain), disks=[disk], bypassed_path=bypassed_file)

    def client(self) -> NbdClient:
        return NbdClient(str(self.host.folder / "nbd.sock"), "boot")

    def filter(self) -> HostedFilter:
        return HostedFilter(self.host.control, 1, self.shared.size_bytes, RECORD_BYTES_MAX)

    def replica(self) -> bytes:
        return replay(self.shared.records(), self.shared.size_bytes)


@contextmanager
def protected(
    peer: Callable[[str], str],
    *,
    write_back: bool = False,
    ring_bytes: int = 1 << 18,
    stall_limit_s: float = STALL_LIMIT_S,
) -> Iterator[Protected]:
    peer("nbdkit")
    with shared_ring(write_back=write_back, ring_bytes=ring_bytes) as shared:
        guest = Protected(shared, shared.folder / "run", stall_limit_s)
        try:
            yield guest
        finally:
            if guest.host.running():
                os.kill(guest.host.pid, signal.SIGKILL)
            guest.host.control.close()


def test_what_a_guest_writes_is_in_the_log_in_order(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.start()
        with guest.client() as client:
            for n in range(8):
                client.write(n * 4096, bytes([n + 1]) * 4096)
            client.zero(4096, 8192)
            client.trim(16384, 4096)
        guest.shared.drain()
        assert [record.kind for record in guest.shared.records()] == [Kind.WRITE] * 8 + [Kind.ZERO] * 2
        assert guest.replica() == guest.shared.primary.read_bytes()


def test_fua_and_flush_wait_for_the_log(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.start()
        writer = guest.shared.log_writer()
        writer.start()
        with guest.client() as client:
            client.write(0, b"x" * 512)
            client.write(512, b"y" * 512, FUA)
            assert guest.shared.drva.lsn_durable == 2
            client.write(1024, b"z" * 512)
            client.flush()
            assert guest.shared.drva.lsn_durable == 3
        writer.stop()


def test_a_guest_whose_drva_is_gone_waits_no_longer_than_the_limit(peer: Callable[[str], str]) -> None:
    with protected(peer, stall_limit_s=SHORT_LIMIT_S) as guest:
        guest.start()
        guest.shared.leave()
        longest = 0.0
        with guest.client() as client:
            for n in range(64):
                begun = time.monotonic()
                client.write(n * 16384 % (1 << 20), bytes([n + 1]) * 16384, FUA if n % 8 == 7 else 0)
                longest = max(longest, time.monotonic() - begun)
        assert longest < 2 * SHORT_LIMIT_S + 5  # the log stays away: without a limit it would never end
        drva = guest.shared.come_back()
        assert not drva.logging
        with pytest.raises(LoggingOff):
            guest.filter().copy_background(0, 4096)
        stats = guest.filter().stats()
        assert stats.unlogged_bytes > 0
        assert stats.failed_writes == 0


def test_a_copy_is_background_data(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.shared.primary.write_bytes(b"a" * 8192 + bytes(guest.shared.size_bytes - 8192))
        guest.start()
        assert guest.filter().copy_background(0, 8192) == 1
        assert guest.filter().copy_background(8192, 4096) == 2
        guest.shared.drain()
        assert [(record.kind, record.flags) for record in guest.shared.records()] == [
            (Kind.WRITE, RecordFlag.BACKGROUND),
            (Kind.ZERO, RecordFlag.BACKGROUND),
        ]
        assert guest.replica() == guest.shared.primary.read_bytes()


@pytest.mark.parametrize("write_back", [False, True])
def test_a_digest_is_of_the_newest_data_and_is_refused_while_logging_is_off(
    peer: Callable[[str], str], write_back: bool
) -> None:
    with protected(peer, write_back=write_back) as guest:
        guest.start()
        with guest.client() as client:
            for n in range(4):
                client.write(n * 512, bytes([n + 1]) * 1024)
        lsn, digest = guest.filter().digest(0, 4096)
        assert lsn == 4
        guest.shared.drain()
        assert digest == xxhash.xxh3_128_digest(guest.replica()[:4096])
        with pytest.raises(InvalidRequest):
            guest.filter().digest(guest.shared.size_bytes, 512)
        guest.shared.drva.stop_logging()
        with pytest.raises(LoggingOff):
            guest.filter().digest(0, 4096)


def test_a_copy_that_is_too_long_is_none_unless_it_is_a_hole(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.shared.primary.write_bytes(b"a" * guest.shared.size_bytes)
        guest.start()
        assert guest.filter().copy_background(0, guest.shared.size_bytes) == 0
        with guest.client() as client:
            client.trim(0, guest.shared.size_bytes)
        assert guest.filter().copy_background(0, guest.shared.size_bytes) > 0


def test_a_copy_without_room_is_a_stall(peer: Callable[[str], str]) -> None:
    with protected(peer, ring_bytes=1 << 16, stall_limit_s=SHORT_LIMIT_S) as guest:
        guest.start()
        with guest.client() as client:
            client.write(0, b"x" * 32768)
            client.write(32768, b"y" * 32768)
        with pytest.raises(StallTimeout):
            for offset in range(0, 65536, 4096):
                guest.filter().copy_background(offset, 4096)
        assert guest.shared.drva.logging, "a copy does not switch logging off"


def test_an_orderly_end_is_told_to_the_ring_and_a_death_is_not(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.start()
        assert guest.shared.drva.host_alive
        with guest.client() as client:
            client.write(0, b"x" * 512)
            guest.host.stop()
        assert not guest.shared.drva.host_alive
        assert guest.shared.drva.host_ended
        guest.start()
        os.kill(guest.host.pid, signal.SIGTERM)
        until(lambda: not guest.shared.drva.host_alive, "the host to end")
        assert guest.shared.drva.host_ended
        guest.start()
        os.kill(guest.host.pid, signal.SIGKILL)
        until(lambda: not guest.shared.drva.host_alive, "the host to die")
        assert not guest.shared.drva.host_ended


def test_a_killed_host_leaves_what_was_acknowledged(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.start()
        with guest.client() as client:
            for n in range(8):
                client.write(n * 4096, bytes([n + 1]) * 4096)
            os.kill(guest.host.pid, signal.SIGKILL)
        until(lambda: not guest.shared.drva.host_alive, "the host to die")
        guest.start()
        with guest.client() as client:
            client.write(8 * 4096, b"z" * 4096)
        guest.shared.drain()
        assert guest.replica() == guest.shared.primary.read_bytes()


def test_the_ring_of_another_domain_is_refused(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest, pytest.raises(HostFailed, match="the ring of another domain"):
        guest.start(bytes(16))


def test_a_ring_in_use_is_refused(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        guest.start()
        other = HostComponent("vm2", guest.host.options)
        with pytest.raises(HostFailed, match="another host component has it"):
            other.start(guest.shared.path)


@pytest.mark.parametrize(
    ("mode", "data", "problem"),
    [(0o600, b"no ring" * 1000, "not a ring"), (0o644, None, "others than its owner"), (0o600, b"", "not a ring")],
)
def test_a_file_that_is_no_ring_is_refused(
    peer: Callable[[str], str], mode: int, data: bytes | None, problem: str
) -> None:
    with protected(peer) as guest:
        if data is not None:
            guest.shared.path.write_bytes(data)
        guest.shared.path.chmod(mode)
        with pytest.raises(HostFailed, match=problem):
            guest.start()


def test_write_back_and_its_bypassed_file_belong_together(peer: Callable[[str], str]) -> None:
    with protected(peer) as guest:
        options = HostOptions(runtime=guest.host.options.runtime, write_back=True)
        with pytest.raises(InvalidRequest, match="write-back has a bypassed file"):
            HostComponent("vm", options).start(guest.shared.path)
        with pytest.raises(HostFailed, match="is write-through: leave out write-back="):
            HostComponent("vm", options).start(guest.shared.path, bypassed_path=guest.shared.bypassed_file)


# -- write-back ----------------------------------------------------------------------------------------------------


def test_in_write_back_a_guest_reads_what_it_wrote_and_the_primary_follows(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.start()
        writer = guest.shared.log_writer()
        with guest.client() as client:
            client.write(0, b"x" * 4096)
            assert client.read(0, 4096) == b"x" * 4096
            assert guest.shared.primary.read_bytes()[:4096] == bytes(4096)
            writer.start()
            client.flush()
        until(lambda: guest.shared.primary.read_bytes()[:4096] == b"x" * 4096, "the primary to follow")
        guest.host.stop()
        assert guest.shared.drva.host_ended
        assert guest.shared.drva.lsn_in_primaries == 1
        writer.stop()


def test_in_write_back_no_holes_are_claimed(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.start()
        with guest.client() as client:
            client.write(0, b"x" * 4096)
        told = subprocess.run(
            [peer("nbdinfo"), "--map", "--totals", guest.host.nbd_uri("boot")],
            check=True,
            capture_output=True,
            text=True,
            env=GUEST_ENVIRONMENT,
        )
        assert "hole" not in told.stdout
        assert "data" in told.stdout


def test_what_was_pending_when_a_host_died_is_written_by_the_next(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.start()
        with guest.client() as client:
            for n in range(8):
                client.write(n * 4096, bytes([n + 1]) * 4096)
            os.kill(guest.host.pid, signal.SIGKILL)
        until(lambda: not guest.shared.drva.host_alive, "the host to die")
        guest.start()
        with guest.client() as client:
            assert [client.read(n * 4096, 512)[0] for n in range(8)] == list(range(1, 9))
        guest.shared.drain()
        until(lambda: guest.shared.primary.read_bytes() == guest.replica(), "the primary to follow")


def test_a_disk_is_removed_once_its_primary_has_everything(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.start()
        writer = guest.shared.log_writer()
        with guest.client() as client:
            client.write(0, b"x" * 4096)
            writer.start()
            guest.host.control.remove(1)
            assert guest.shared.primary.read_bytes()[:4096] == b"x" * 4096
            path = str(guest.shared.primary)
            guest.host.control.add(1, guest.shared.size_bytes, RECORD_BYTES_MAX, "boot", path)
            with guest.client() as again:
                again.write(0, b"y" * 4096, FUA)
            until(lambda: guest.shared.primary.read_bytes()[:4096] == b"y" * 4096, "the primary to follow")
        writer.stop()


def test_an_end_waits_for_a_disk_that_is_being_removed(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.start()
        with guest.client() as client:
            client.write(0, b"x" * 4096)
            removing = threading.Thread(target=guest.host.control.remove, args=(1,))
            removing.start()
            time.sleep(STALL_LIMIT_S / 3)  # it waits for the log, which nobody drains
            guest.host.stop()
            removing.join()
        assert guest.shared.primary.read_bytes()[:4096] == b"x" * 4096


def test_in_write_back_a_guest_whose_drva_is_gone_goes_on(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True, stall_limit_s=SHORT_LIMIT_S) as guest:
        guest.start()
        guest.shared.leave()
        with guest.client() as client:
            for n in range(64):
                client.write(n * 16384 % (1 << 20), bytes([n + 1]) * 16384)
            client.flush()
        assert guest.shared.primary.read_bytes()[-16384:] == bytes([64]) * 16384
        assert guest.shared.bypassed_file.exists()
        guest.host.stop()


def test_a_start_that_fails_after_the_ring_is_open_ends_and_says_why(peer: Callable[[str], str]) -> None:
    with protected(peer, write_back=True) as guest:
        guest.shared.primary.unlink()
        with pytest.raises(HostFailed, match="No such file"):
            guest.start()
        assert not guest.shared.drva.host_alive
