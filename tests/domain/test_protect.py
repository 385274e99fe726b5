"""A protected domain from first write to recovery, over real formats in memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import (
    ChainBroken,
    DeviceBusy,
    DeviceFull,
    DuplicateMark,
    Fenced,
    InstantInGap,
    InvalidRequest,
    LogForeign,
    LogTooSmall,
    NoSuchPoint,
    NotConsistent,
    StallTimeout,
)
from tests.children import run_python
from tests.domain.fixture import (
    DISK_BYTES,
    LOG_BYTES,
    QUICK,
    fresh_store,
    image,
    log_device,
    new_domain,
    recovered,
)
from tests.faults.device import CrashDevice
from tests.faults.store import Fault, FaultyStore
from tests.peers.loop import loop_device


def test_every_write_is_a_recovery_point_across_all_disks() -> None:
    async def scenario() -> None:
        store, states = fresh_store(), {}
        async with new_domain(store) as domain:
            disks = [await domain.protect(name, MemoryDevice(DISK_BYTES)) for name in ("db01", "web01")]
            for n in range(24):
                disk = disks[n % 2]
                lsn = disk.write(n * 4096, bytes([n + 1]) * 8192) if n % 5 else disk.zero(0, 16384)
                states[lsn] = {each.name: each.read(0, DISK_BYTES) for each in disks}
            await domain.uploaded(max(states))
        for lsn, state in states.items():
            assert await recovered(store, lsn) == state

    asyncio.run(scenario())


def test_a_mark_names_the_moment_it_was_made() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            disk.write(0, b"a" * 512)
            point = domain.mark("before upgrade")
            disk.write(0, b"b" * 512)
            await domain.uploaded(point.lsn)
            with pytest.raises(DuplicateMark, match="before upgrade"):
                domain.mark("before upgrade")
        assert (await recovered(store, "before upgrade"))["db01"][:512] == b"a" * 512
        assert (await recovered(store))["db01"][:512] == b"b" * 512
        catalog = await jetdr.Catalog.open(store)
        assert point in catalog.points()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["db01.vmx", "db 01.vmx", "Büro.vmx", "0", "a" * 200])
def test_configuration_file_of_any_plain_name_is_recovered(name: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            await domain.uploaded(domain.store_config(name, "guestOS = otherlinux"))
        await jetdr.rehydrate(store, at="latest", target=tmp_path)
        assert (tmp_path / name).read_text() == "guestOS = otherlinux"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00nvram\x80", bytes(range(256)) * 300, b"\0base64:AAAA", "größe = 1\r\n".encode(), b"\0"],
)
def test_configuration_file_of_any_bytes_is_recovered(content: bytes, tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            lsn = domain.store_config("SQL Server 01.nvram", content)
            assert domain.store_config("SQL Server 01.nvram", bytearray(content)) == lsn
            await domain.uploaded(lsn)
        await jetdr.rehydrate(store, at="latest", target=tmp_path)
        assert (tmp_path / "SQL Server 01.nvram").read_bytes() == content

    asyncio.run(scenario())


def test_configuration_file_that_is_no_text_and_no_bytes_is_refused() -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            with pytest.raises(InvalidRequest, match="is no text"):
                domain.store_config("db01.vmx", "half a pair \ud800")

    asyncio.run(scenario())


def test_configuration_file_is_logged_again_only_when_its_text_is_another() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            first, again = (domain.store_config("db01.vmx", "a") for _ in range(2))
            other, back = domain.store_config("db01.vmx", "b"), domain.store_config("db01.vmx", "a")
            assert first == again < other < back
            await domain.uploaded(back)
        catalog = await jetdr.Catalog.open(store)
        texts = [catalog.history.configs_at(lsn) for lsn in (first, other, back)]
        assert [text["db01.vmx"] for text in texts] == ["a", "b", "a"]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", ".vmx", "..", "a/b", "two\nlines", "nul\0", "ü" * 101])
def test_configuration_file_that_could_not_be_recovered_is_refused(name: str) -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            with pytest.raises(InvalidRequest, match="configuration file name"):
                domain.store_config(name, "")

    asyncio.run(scenario())


def test_closing_uploads_everything_and_opening_goes_on_without_a_gap() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            first = disk.write(0, b"a" * 512)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            assert domain.consistent
            assert domain.status().epoch == 2
            second = domain.disk("db01").write(512, b"b" * 512)
            assert second == first + 1
        assert (await recovered(store))["db01"] == image(primary)

    asyncio.run(scenario())


def test_a_disk_that_holds_data_is_copied_while_writes_go_on() -> None:
    async def scenario() -> None:
        store, primary = fresh_store(), MemoryDevice(DISK_BYTES)
        primary.write(0, os.urandom(DISK_BYTES))
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", primary, wait=False)
            for n in range(32):
                disk.write(n * 1024, bytes([n + 1]) * 512)
            await domain.wait_consistent()
            point = domain.mark("copied")
        assert await recovered(store, "copied") == {"db01": image(primary)}
        catalog = await jetdr.Catalog.open(store)
        assert catalog.intervals()[0].lsn_first <= point.lsn
        with pytest.raises(NoSuchPoint):
            await recovered(store, 1)

    asyncio.run(scenario())


def test_no_mark_is_made_while_background_data_is_outstanding() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            with pytest.raises(NotConsistent, match="protects no disk"):
                domain.mark("too early")
            assert not domain.consistent

    asyncio.run(scenario())


def test_a_disk_added_later_is_left_out_of_points_until_it_is_copied() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            first = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            lsn = first.write(0, b"a" * 512)
            later = MemoryDevice(DISK_BYTES)
            later.write(0, b"old data" * 64)
            await domain.protect("web01", later)
            assert domain.consistent
        assert set(await recovered(store, lsn)) == {"db01"}
        assert await recovered(store) == {"db01": b"a" * 512 + bytes(DISK_BYTES - 512), "web01": image(later)}

    asyncio.run(scenario())


def test_an_unprotected_disk_keeps_its_points() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store) as domain:
            one = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            two = await domain.protect("web01", MemoryDevice(DISK_BYTES))
            before = two.write(0, b"w" * 512)
            await domain.unprotect("web01")
            one.write(0, b"d" * 512)
            with pytest.raises(InvalidRequest, match="closed"):
                two.write(0, b"x" * 512)
        assert set(await recovered(store, before)) == {"db01", "web01"}
        assert set(await recovered(store)) == {"db01"}

    asyncio.run(scenario())


def test_after_an_unclean_stop_all_disks_are_resynced_in_a_gap() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), CrashDevice(8 << 20), MemoryDevice(DISK_BYTES)
        domain = new_domain(store, log=log)
        await domain.__aenter__()
        disk = await domain.protect("db01", primary)
        disk.write(0, b"a" * 512)
        durable = disk.flush()
        log = await power_loss(domain, log)
        primary.write(4096, b"never logged" * 128)
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            await domain.wait_consistent()
            assert domain.consistent
        assert await recovered(store) == {"db01": image(primary)}
        assert (await recovered(store, durable))["db01"][:512] == b"a" * 512
        with pytest.raises(InstantInGap, match="unclean stop"):
            await recovered(store, durable + 1)

    asyncio.run(scenario())


def test_a_second_owner_fences_the_first() -> None:
    async def scenario() -> None:
        store, one, two = fresh_store(), MemoryDevice(DISK_BYTES), MemoryDevice(DISK_BYTES)
        first = new_domain(store)
        await first.__aenter__()
        disk = await first.protect("db01", one)
        await first.uploaded(disk.write(0, b"first" + bytes(507)))
        async with jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": two}, options=QUICK
        ) as second:
            lost = disk.write(0, b"lost!" + bytes(507))
            with pytest.raises(Fenced, match="epoch 1 was fenced by epoch 2"):
                await first.uploaded(lost)
            with pytest.raises(Fenced):
                disk.write(0, bytes(512))
            await second.wait_consistent()
            second.disk("db01").write(0, b"second" + bytes(506))
        with pytest.raises(Fenced):
            await first.close()
        assert await recovered(store) == {"db01": image(two)}

    asyncio.run(scenario())


def test_an_old_log_does_not_go_on_where_another_log_did() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            await domain.protect("db01", primary)
        async with jetdr.ProtectedDomain.take_over(
            "payroll", log=log_device(), log_bytes=LOG_BYTES, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            await domain.wait_consistent()
        with pytest.raises(LogForeign, match="used another log"):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
            ):
                pass

    asyncio.run(scenario())


def test_a_store_that_lost_objects_is_refused_and_left_as_it_is() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            for n in range(8):
                await domain.uploaded(disk.write(0, bytes([n]) * 512))
        keys = [info.key async for info in store.list_prefix("chain/")]
        await store.delete(keys[3])
        left = [info async for info in store.list_prefix("")]
        with pytest.raises(ChainBroken, match="the store ends at LSN"):
            async with jetdr.ProtectedDomain.open(
                "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
            ):
                pass
        assert [info async for info in store.list_prefix("")] == left

    asyncio.run(scenario())


def test_a_log_smaller_than_the_burst_makes_the_writer_wait_not_fail(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store, log=tmp_path / "log", log_bytes=2 << 20) as domain:
            disk = await domain.protect("db01", tmp_path / "disk", size_bytes=16 << 20)
            data = os.urandom(64 << 10)
            await asyncio.to_thread(lambda: [disk.write(n << 16, data) for n in range(256)])
            disk.flush()
        assert await recovered(store) == {"db01": (tmp_path / "disk").read_bytes()}

    asyncio.run(scenario())


def test_a_log_that_stays_full_is_a_clear_error_and_changes_nothing() -> None:
    async def scenario() -> None:
        unreachable = False
        store = FaultyStore(fresh_store(), lambda *_: Fault.FAIL if unreachable else None)
        options = jetdr.DomainOptions(
            segment_age_s=0.02, ring_bytes=1 << 20, ring_slots=64, stall_limit_s=0.05, upload_workers=1
        )
        domain = new_domain(store, log_bytes=1 << 20, options=options)
        await domain.__aenter__()
        disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
        unreachable = True
        before = b""

        def write_for_ever() -> None:
            nonlocal before
            for n in itertools.count():
                before = disk.read(0, 512)
                disk.write(0, bytes([n % 256]) * 65536)

        with pytest.raises(StallTimeout, match="enlarge the log"):
            write_for_ever()
        assert disk.read(0, 512) == before
        unreachable = False
        await domain.close()
        assert await recovered(store) == {"db01": (before * 128) + bytes(DISK_BYTES - 65536)}

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "latest/../..", "a b", "ü"])
def test_names_that_could_leave_their_directory_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not valid"):
        jetdr.ProtectedDomain.create(name, log="log", store="memory://x")


def test_a_log_too_small_is_refused_before_anything_happens(tmp_path: Path) -> None:
    with pytest.raises(LogTooSmall, match="use at least"):
        jetdr.ProtectedDomain.create("payroll", log=tmp_path / "log", log_bytes=4096, store="memory://x")
    assert not (tmp_path / "log").exists()


def test_a_log_that_cannot_be_made_leaves_nothing_and_says_which_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def scenario() -> None:
        with pytest.raises(DeviceFull, match=rf"{log}: growing from \d+ to \d+ bytes failed: .*; .* ask for less"):
            async with jetdr.ProtectedDomain.create("payroll", log=log, log_bytes=1 << 45, store=fresh_store()):
                pass
        assert os.listdir(tmp_path) == []
        async with jetdr.ProtectedDomain.create("payroll", log=log, log_bytes=LOG_BYTES, store=fresh_store()):
            pass
        with pytest.raises(DeviceFull):
            async with jetdr.ProtectedDomain.create("web", log=log, log_bytes=1 << 45, store=fresh_store()):
                pass
        assert log.exists(), "it holds another domain's section"

    asyncio.run(scenario())


def test_a_mounted_disk_is_refused_and_nothing_is_logged(tmp_path: Path, peer: Callable[[str], str]) -> None:
    async def scenario(path: str) -> None:
        async with new_domain(fresh_store()) as domain:
            lsn = domain.status().lsn_reserved
            with pytest.raises(DeviceBusy, match=f"{path} is in use by another process, or is mounted"):
                await domain.protect("data", path)
            assert domain.status().lsn_reserved == lsn

    with loop_device(tmp_path / "image", 8 << 20) as path:
        subprocess.run([peer("mkfs.ext4"), "-q", path], check=True)
        (tmp_path / "mounted").mkdir()
        subprocess.run(["mount", path, str(tmp_path / "mounted")], check=True)
        try:
            asyncio.run(scenario(path))
        finally:
            subprocess.run(["umount", path], check=True)


def test_a_log_volume_is_opened_by_one_process_whichever_node_it_is_opened_by(tmp_path: Path) -> None:
    second = f"""
import asyncio, jetdr_core as jetdr
async def main():
    log = {str(tmp_path / "node")!r}
    async with jetdr.ProtectedDomain.create("beta", log=log, log_bytes={LOG_BYTES}, store="memory://beta"):
        pass
asyncio.run(main())
"""

    async def scenario(path: str) -> None:
        async with jetdr.ProtectedDomain.create("alpha", log=path, log_bytes=LOG_BYTES, store=fresh_store()):
            found = await asyncio.to_thread(run_python, second)
            assert found.returncode != 0
            assert f"LogBusy: log volume {tmp_path}/node is in use by another process, or is mounted" in found.stderr

    with loop_device(tmp_path / "image", 4 * LOG_BYTES) as path:
        os.mknod(tmp_path / "node", 0o600 | stat.S_IFBLK, os.stat(path).st_rdev)
        asyncio.run(scenario(path))


def test_create_refuses_a_container_that_holds_anything() -> None:
    async def scenario() -> None:
        store = fresh_store()
        async with new_domain(store):
            pass
        with pytest.raises(InvalidRequest, match="is not empty"):
            async with new_domain(store):
                pass
        with pytest.raises(InvalidRequest, match="holds domain 'payroll', not 'other'"):
            async with jetdr.ProtectedDomain.open("other", log=log_device(), store=store, options=QUICK):
                pass

    asyncio.run(scenario())


def test_a_disk_that_is_protected_already_or_has_no_size_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            await domain.protect("db01", tmp_path / "disk", size_bytes=DISK_BYTES)
            with pytest.raises(FileNotFoundError, match="give a size"):
                await domain.protect("web01", tmp_path / "absent")
            with pytest.raises(InvalidRequest, match="is protected already"):
                await domain.protect("db01", tmp_path / "disk")

    asyncio.run(scenario())


def test_an_open_device_of_another_size_is_refused_on_reopening_and_leaves_a_clean_log_clean(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, device = fresh_store(), MemoryDevice(DISK_BYTES)

        def reopened(primary: MemoryDevice) -> jetdr.ProtectedDomain:
            disks = {"db01": primary}
            return jetdr.ProtectedDomain.open("payroll", log=tmp_path / "log", store=store, options=QUICK, disks=disks)

        async with new_domain(store, log=tmp_path / "log") as domain:
            await domain.protect("db01", device)
        with pytest.raises(InvalidRequest, match=f"has {DISK_BYTES // 2} bytes, expected {DISK_BYTES}"):
            async with reopened(MemoryDevice(DISK_BYTES // 2)):
                pass
        async with reopened(device) as domain:
            assert domain.consistent, "a refused opening leaves a clean log clean"

    asyncio.run(scenario())


def test_several_domains_share_one_log_volume(tmp_path: Path) -> None:
    async def scenario() -> None:
        stores = [fresh_store(), fresh_store()]
        domains = [
            jetdr.ProtectedDomain.create(name, log=tmp_path / "log", log_bytes=LOG_BYTES, store=store, options=QUICK)
            for name, store in zip(("payroll", "web"), stores, strict=True)
        ]
        for n, domain in enumerate(domains):
            await domain.__aenter__()
            disk = await domain.protect("disk", tmp_path / f"disk{n}", size_bytes=DISK_BYTES)
            disk.write(0, bytes([n + 1]) * 512)
        for domain in domains:
            await domain.close()
        for n, store in enumerate(stores):
            assert (await recovered(store))["disk"][:512] == bytes([n + 1]) * 512

    asyncio.run(scenario())


async def power_loss(domain: jetdr.ProtectedDomain, log: CrashDevice, seed: int = 1) -> CrashDevice:
    """Power goes under the log; returns the log as it is afterwards. What the process still did is of no effect."""
    after = log.crash(seed)
    with pytest.raises(Exception):  # noqa: B017, PT011
        await domain.close(upload=False)
    return after
