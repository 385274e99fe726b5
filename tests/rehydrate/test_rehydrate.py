"""From a store and an instant to disks: any LSN, any time, any format; holes, configurations, resumed runs."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.errors import InvalidRequest, TargetExists, TargetFull
from jetdr_core.record import Kind
from jetdr_core.rehydrate import Report, rehydrate
from jetdr_core.store import MemoryStore
from tests.rehydrate.chains import EPOCH_NS, STEP_NS, Chain

SIZE = 256 << 10
SECTOR = 512
STEP = st.tuples(st.integers(1, 3), st.integers(0, SIZE // SECTOR - 1), st.integers(1, 200), st.integers(0, 9))


async def domain(*sizes: int) -> Chain:
    chain = Chain(MemoryStore())
    await chain.begin()
    for disk, size_bytes in enumerate(sizes, 1):
        chain.add_disk(disk, f"disk{disk}", size_bytes)
    return chain


async def small_domain() -> Chain:
    """One disk, two marks."""
    chain = await domain(SIZE)
    chain.write(1, 0, b"1" * 65536)
    chain.mark("one")
    await chain.seal()
    chain.write(1, 4096, b"2" * 4096)
    chain.mark("two")
    await chain.seal()
    return chain


async def apply_steps(chain: Chain, steps: list[tuple[int, int, int, int]]) -> None:
    for disk, sector, sectors, choice in steps:
        length = min(sectors * SECTOR, SIZE - sector * SECTOR)
        if choice < 3:
            chain.zero(disk, sector * SECTOR, length)
        else:
            chain.write(disk, sector * SECTOR, os.urandom(length) if choice % 2 else bytes([choice]) * length)
        if choice == 9:
            await chain.seal()
    if chain.rows:
        await chain.seal()


def assert_equals_replay(chain: Chain, report: Report, lsn: int) -> None:
    assert report.point.lsn == lsn
    for disk in report.disks:
        number = int(disk.name.removeprefix("disk"))
        assert disk.path.read_bytes() == chain.replay(number, SIZE, lsn)


@settings(max_examples=40)
@given(st.lists(STEP, max_size=40), st.data())
def test_any_lsn_of_several_disks_equals_a_replay(steps: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    async def scenario() -> None:
        chain = await domain(SIZE, SIZE, SIZE)
        await apply_steps(chain, steps)
        lsn = data.draw(st.integers(3, chain.lsn))
        with TemporaryDirectory() as target:
            report = await rehydrate(chain.store, at=lsn, target=target, format="raw")
            assert [disk.name for disk in report.disks] == ["disk1", "disk2", "disk3"]
            assert_equals_replay(chain, report, lsn)

    asyncio.run(scenario())


@settings(max_examples=20)
@given(st.lists(STEP, min_size=1, max_size=20), st.data())
def test_any_time_is_the_last_lsn_before_it(steps: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    async def scenario() -> None:
        chain = await domain(SIZE, SIZE, SIZE)
        await apply_steps(chain, steps)
        lsn = data.draw(st.integers(3, chain.lsn))
        after_us = data.draw(st.integers(0, STEP_NS // 1000 - 1)) if lsn < chain.lsn else 0
        instant = datetime.fromtimestamp((EPOCH_NS + lsn * STEP_NS) // 10**9, UTC).replace(microsecond=after_us)
        with TemporaryDirectory() as target:
            assert_equals_replay(chain, await rehydrate(chain.store, at=instant, target=target, format="raw"), lsn)

    asyncio.run(scenario())


@pytest.mark.parametrize("format_", ["flat", "vmfs", "stream"])
def test_vmdk_holds_the_same_bytes_for_qemu(tmp_path: Path, peer: Callable[[str], str], format_: str) -> None:
    qemu_img = peer("qemu-img")

    async def scenario() -> tuple[Chain, Report]:
        chain = await domain(SIZE)
        chain.write(1, 4096, os.urandom(65536))
        chain.write(1, 131072, b"text" * 1024)
        await chain.seal()
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path / "out", format=format_)

    chain, report = asyncio.run(scenario())
    subprocess.run([qemu_img, "convert", "-O", "raw", report.disks[0].path, tmp_path / "raw"], check=True)
    assert (tmp_path / "raw").read_bytes() == chain.replay(1, SIZE, chain.lsn)
    if format_ == "stream":
        subprocess.run([qemu_img, "check", report.disks[0].path], check=True, stdout=subprocess.DEVNULL)


def test_holes_stay_holes(tmp_path: Path) -> None:
    async def scenario() -> Report:
        chain = await domain(64 << 20)
        chain.write(1, 0, os.urandom(1 << 20))
        chain.write(1, 32 << 20, os.urandom(1 << 20))
        chain.zero(1, 0, 1 << 20)
        await chain.seal()
        return await rehydrate(chain.store, at="latest", target=tmp_path, format="raw")

    disk = asyncio.run(scenario()).disks[0]
    assert disk.path.stat().st_size == 64 << 20
    assert disk.path.stat().st_blocks * 512 <= (1 << 20) + 65536
    assert disk.bytes_written == 1 << 20


def test_report_and_progress_tell_what_was_done(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []

    async def scenario() -> Report:
        chain = await small_domain()
        return await rehydrate(chain.store, at="two", target=tmp_path, progress=lambda *row: heard.append(row))

    report = asyncio.run(scenario())
    (disk,) = report.disks
    assert report.point.name == "two"
    assert (disk.name, disk.path, disk.lsn) == ("disk1", tmp_path / "disk1.vmdk", report.point.lsn)
    assert (disk.bytes_written, disk.bytes_resumed, disk.damaged) == (65536, 0, ())
    assert 0 < disk.bytes_fetched < 65536
    assert disk.time_ns == report.point.time_ns
    assert heard[-1] == ("disk1", 65536, 65536)
    assert [row[1] for row in heard] == sorted(row[1] for row in heard)


def test_only_the_chosen_disks_are_recovered(tmp_path: Path) -> None:
    async def scenario() -> Report:
        chain = await domain(SIZE, SIZE)
        chain.write(1, 0, b"1" * 65536)
        chain.write(2, 0, b"2" * 65536)
        await chain.seal()
        return await rehydrate(chain.store, at="latest", target=tmp_path, format="raw", disks=["disk2"])

    report = asyncio.run(scenario())
    assert [path.name for path in tmp_path.iterdir()] == ["disk2.raw"]
    assert report.disks[0].bytes_written == 65536


def test_configuration_files_are_the_newest_at_the_point(tmp_path: Path) -> None:
    async def scenario() -> Report:
        chain = await domain(SIZE)
        chain.control(Kind.CONFIG, name="web 1.vmx", text="memsize = 1")
        lsn = chain.control(Kind.CONFIG, name="web 1.vmx", text="memsize = 2")
        chain.control(Kind.CONFIG, name="web 1.vmx", text="memsize = 3")
        await chain.seal()
        return await rehydrate(chain.store, at=lsn, target=tmp_path)

    assert asyncio.run(scenario()).configs == (tmp_path / "web 1.vmx",)
    assert (tmp_path / "web 1.vmx").read_text() == "memsize = 2"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_grown_disk_has_its_size_at_the_point(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        chain = await domain(SIZE)
        before = chain.write(1, 0, b"x" * 512)
        chain.control(Kind.DISK_GROW, 1, size_bytes=2 * SIZE)
        after = chain.write(1, SIZE, b"y" * 512)
        await chain.seal()
        reports = [
            await rehydrate(chain.store, at=at, target=tmp_path / str(at), format="raw") for at in (before, after)
        ]
        return [report.disks[0].path.stat().st_size for report in reports]

    assert asyncio.run(scenario()) == [SIZE, 2 * SIZE]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "qcow2"}, r"format 'qcow2' is not known; use flat, vmfs, stream, raw"),
        ({"workers": 0}, r"0 workers; use 1 to 24"),
        ({"disks": ["disk9"]}, r"disk 'disk9' is not part of LSN 5 .*; choose from: disk1"),
        ({"disks": []}, r"no disk was chosen; choose from: disk1"),
    ],
)
def test_bad_options_are_named_and_change_nothing(tmp_path: Path, options: dict[str, object], message: str) -> None:
    async def scenario() -> None:
        chain = await small_domain()
        await rehydrate(chain.store, at="latest", target=tmp_path / "out", **options)  # type: ignore[arg-type]

    with pytest.raises(InvalidRequest, match=message):
        asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await small_domain()
        await rehydrate(chain.store, at="latest", target=tmp_path / "out")

    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(InvalidRequest, match="is not a directory"):
        asyncio.run(scenario())


def test_existing_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await domain(SIZE, SIZE)
        await chain.seal()
        await rehydrate(chain.store, at="latest", target=tmp_path)

    (tmp_path / "disk2.vmdk").write_bytes(b"precious")
    with pytest.raises(TargetExists, match=r"disk2\.vmdk exists"):
        asyncio.run(scenario())
    assert [path.name for path in tmp_path.iterdir()] == ["disk2.vmdk"]


def test_target_without_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        chain = await domain(4 << 20)
        chain.write(1, 0, b"x" * (3 << 20))
        await chain.seal()
        await rehydrate(chain.store, at="latest", target=tmp_path / "out")

    found = os.statvfs(tmp_path)
    limited = os.statvfs_result((*found[:3], 0, 0, *found[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: limited)
    with pytest.raises(TargetFull, match=r"0 bytes free.*needs 4194304"):
        asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_names_of_two_disks_that_collide_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await domain()
        chain.add_disk(1, "db", SIZE)
        chain.add_disk(2, "db-flat", SIZE)
        await chain.seal()
        await rehydrate(chain.store, at="latest", target=tmp_path)

    with pytest.raises(InvalidRequest, match=r"two outputs .* 'db-flat\.vmdk'"):
        asyncio.run(scenario())
