"""Hosted disks: served over NBD, protected, closed and opened again; what is refused is refused clearly."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core._core import Ring
from jetdr_core.device import FileDevice, MemoryDevice
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.errors import (
    DamagedObject,
    DeviceBusy,
    HostFailed,
    InvalidRequest,
    JetdrError,
    RingForeign,
    UnsupportedVersion,
)
from tests.domain.hosted import DISK_BYTES, Drva, Load, Machine, assert_replica_equals_primary, gaps, machine, until


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine() as one:
        yield one


async def with_a_disk(made: Machine, *, stop_host: bool) -> None:
    async with made.create() as domain:
        await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
        with made.client() as guest:
            guest.write(0, b"a" * 4096)
        await domain.close(stop_host=stop_host)


def test_guests_write_over_nbd_and_go_on_while_the_domain_is_closed(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            disk = await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            assert disk.nbd_uri.startswith("nbd+unix:///db01?socket=")
            with Load(made, flushes=False, guests=1, pause_s=0.01) as load:  # the ring has room for seconds of that
                await asyncio.to_thread(load.goes_on)
                await domain.close()
                await asyncio.to_thread(load.goes_on)
        async with made.open() as domain:
            assert domain.consistent
            await assert_replica_equals_primary(domain, made)
            assert gaps(domain) == []
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_closed_with_its_host_component_a_domain_is_clean_and_leaves_no_ring(made: Machine) -> None:
    async def scenario() -> None:
        await with_a_disk(made, stop_host=True)
        assert not made.ring.exists()
        assert not made.host.running()
        async with made.open() as domain:
            assert domain.consistent
            assert made.ring.stat().st_mode & 0o777 == 0o600
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_machine_that_lost_its_ring_owes_a_gap_and_a_resync(made: Machine) -> None:
    async def scenario() -> None:
        await with_a_disk(made, stop_host=False)
        made.kill_host()
        made.ring.unlink()
        with made.primary().open("r+b") as primary:
            primary.write(b"landed in the primary alone".ljust(512, b"."))
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert gaps(domain) == ["unclean stop"]
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_holds_data_is_copied_and_one_let_go_is_served_no_more(made: Machine) -> None:
    async def scenario() -> None:
        made.primary("web01").write_bytes(os.urandom(DISK_BYTES))
        async with made.create() as domain:
            await domain.protect("web01", made.primary("web01"))
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with Load(made, disk="web01") as load:
                await asyncio.to_thread(load.goes_on)
            await assert_replica_equals_primary(domain, made)
            await domain.unprotect("web01")
            with pytest.raises(ConnectionError), made.client("web01"):
                pass
            with closing(FileDevice(made.primary("web01"), direct=False, lock=True)) as device:  # nobody holds it
                assert device.size_bytes == DISK_BYTES
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_new_log_for_a_domain_whose_host_component_lives_on(made: Machine) -> None:
    async def scenario() -> None:
        with_load = Load(made)
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
        pid = made.host.pid
        made.log = made.folder / "another-log"
        with with_load as load:
            async with made.take_over() as domain:
                await asyncio.to_thread(load.goes_on)
                await asyncio.wait_for(domain.wait_consistent(), 20)
        async with made.open() as domain:
            assert made.host.pid == pid
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_what_the_host_component_cannot_serve_is_refused_and_leaves_nothing(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with pytest.raises(InvalidRequest, match="open device"):
                await domain.protect("web01", MemoryDevice(DISK_BYTES))
            with pytest.raises(DeviceBusy):
                await domain.protect("web01", made.primary())
            with pytest.raises(FileNotFoundError):
                await domain.protect("web01", made.primary("web01"))
            assert domain.disks.keys() == {"db01"}
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_can_be_let_go_while_logging_is_off(made: Machine) -> None:
    """One whose primary fails keeps switching it off."""

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
            domain._alive.parts.ring.stop_logging()
            await asyncio.wait_for(domain.unprotect("web01"), 20)
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert domain.disks.keys() == {"db01"}
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def another_domains(ring: Path) -> None:
    fd = os.open(ring, os.O_RDWR | os.O_CREAT, 0o600)
    Ring.create_file(fd, domain=uuid.uuid4().bytes, payload_bytes=1 << 20, slots=64, lsn_next=1).leave()
    os.close(fd)


def of_another_version(ring: Path) -> None:
    another_domains(ring)
    with ring.open("r+b") as file:
        file.seek(8)
        file.write((2).to_bytes(4, "little"))


def open_to_others(ring: Path) -> None:
    another_domains(ring)
    ring.chmod(0o644)


def no_ring(ring: Path) -> None:
    ring.write_bytes(b"no ring at all".ljust(4096, b"."))
    ring.chmod(0o600)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (another_domains, RingForeign),
        (of_another_version, UnsupportedVersion),
        (open_to_others, RingForeign),
        (no_ring, DamagedObject),
    ],
)
def test_a_ring_that_is_not_the_domains_is_refused_and_not_changed(
    made: Machine, spoil: Callable[[Path], None], error: type[JetdrError]
) -> None:
    async def scenario() -> None:
        await with_a_disk(made, stop_host=True)
        spoil(made.ring)
        before = made.ring.read_bytes()
        with pytest.raises(error):
            async with made.open():
                pass
        assert made.ring.read_bytes() == before
        made.ring.unlink()
        async with made.open() as domain:
            assert domain.consistent
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_host_component_that_cannot_start_is_a_clear_error(made: Machine) -> None:
    async def scenario() -> None:
        await with_a_disk(made, stop_host=True)
        options = made.host_options.__class__(runtime=str(made.folder / "run"), nbdkit="/nonexistent/nbdkit")
        with pytest.raises(HostFailed, match="nbdkit"):
            async with made.open(host=options):
                pass
        async with made.open() as domain:
            assert domain.consistent, domain.status().why_inconsistent
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_that_another_process_holds_does_not_keep_the_others_from_their_guests(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
            made.kill_host()
            with closing(FileDevice(made.primary("web01"), direct=False, lock=True)):
                await asyncio.to_thread(until, lambda: domain.disk("web01").fault is not None)
                with made.client() as guest:
                    guest.write(0, b"b" * 512)
                await asyncio.to_thread(
                    until, lambda: 0 < domain.status().disks[0].copied_bytes >= domain.status().disks[0].copy_bytes
                )
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_runtime_folder_too_long_for_sockets_is_refused_and_leaves_the_domain_as_it_was(made: Machine) -> None:
    async def scenario() -> None:
        await with_a_disk(made, stop_host=True)
        options = made.host_options.__class__(runtime=str(made.folder / ("r" * 100)))
        with pytest.raises(InvalidRequest, match="longer than 107 bytes"):
            async with made.open(host=options):
                pass
        async with made.open() as domain:
            assert domain.status().epoch == 2
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_disk_whose_primary_is_gone_can_be_let_go(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
            made.primary("web01").unlink()
            made.kill_host()
            await asyncio.to_thread(until, lambda: domain.disk("web01").fault is not None)
            await asyncio.wait_for(domain.unprotect("web01"), 20)
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_ring_that_was_never_put_in_place_does_not_take_the_place_of_a_living_one(made: Machine) -> None:
    """A DRVA that died before it could left it."""

    async def scenario() -> None:
        await with_a_disk(made, stop_host=False)
        place = RingPlace(made.ring.parent, uuid.uuid4())
        place.make(
            payload_bytes=1 << 20, slots=64, lsn_next=1, time_ns_last=0, record_bytes_max=1 << 16, write_back=False
        ).leave()
        inode = made.ring.stat().st_ino
        async with made.open() as domain:
            assert made.ring.stat().st_ino == inode
            with made.client() as guest:
                guest.write(0, b"c" * 4096)
            await assert_replica_equals_primary(domain, made)
            assert gaps(domain) == []
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_ring_whose_log_went_on_without_it_is_not_believed(made: Machine) -> None:
    """The same LSNs are other writes in the log by now."""

    async def scenario() -> None:
        with Drva(made, "create") as drva:
            drva.kill()
            with made.client() as guest:
                for _ in range(100):
                    guest.write(0, b"old".ljust(512, b"."))
            made.host.stop()
        settings: dict[str, Any] = {"log": made.log, "store": made.store, "options": made.options}
        async with jetdr.ProtectedDomain.open("vm", disks={"db01": made.primary()}, **settings) as domain:
            await domain.wait_consistent()
            await asyncio.to_thread(domain.disk("db01").write, 0, b"new".ljust(512, b"."))
        async with made.open() as domain:
            assert gaps(domain) == ["unclean stop"]
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())
