"""A disk is recovered straight to a block device: confirmed, exclusively, resumably, verified, and nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from jetdr_core.catalog import chain_key
from jetdr_core.cli.exits import ExitCode, exit_code_of
from jetdr_core.errors import (
    DamagedObject,
    DeviceBusy,
    InvalidRequest,
    StoreError,
    TargetExists,
    TargetFailed,
    TargetFull,
)
from jetdr_core.rehydrate import ProgressCallback, Report, TargetDevice, rehydrate
from jetdr_core.rehydrate.plan import SegmentPlan
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk
from jetdr_core.rehydrate.target_device import zero
from jetdr_core.store import MemoryStore, ObjectStore, StoreWrapper
from tests.peers.loop import loop_device, partition_on_loop_device
from tests.rehydrate.chains import Chain

MIB = 1 << 20
SIZE = 8 * MIB
DEVICE_BYTES = SIZE + MIB
OLD = b"\xa5"
"""What the device holds before."""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with loop_device(tmp_path / "image", DEVICE_BYTES, content=OLD * DEVICE_BYTES) as path:
        yield Path(path)


async def build() -> Chain:
    """A disk with data, holes, zeros over data, and pieces that begin and end anywhere."""
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    await chain.seal()
    for number in range(12):
        chain.write(1, number * 600 * 1024, bytes([number + 1]) * (100 * 1024 + 512 * number))
        await chain.seal()
    chain.zero(1, 600 * 1024, 50 * 1024)
    chain.write(1, SIZE - 512, b"\x77" * 512)
    await chain.seal()
    return chain


async def recover(
    store: ObjectStore,
    device: Path,
    journal: Path,
    *,
    keep_going: bool = False,
    progress: ProgressCallback | None = None,
) -> Report:
    return await rehydrate(
        store,
        at="latest",
        target=device,
        format="raw",
        work=journal,
        confirm=str(DEVICE_BYTES),
        keep_going=keep_going,
        progress=progress,
        workers=1,
    )


def content_of(device: Path) -> bytes:
    return device.read_bytes()


def test_device_holds_the_disk_and_the_rest_stays_as_it_was(tmp_path: Path, device: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build()
        return chain, await recover(chain.store, device, tmp_path / "journal")

    chain, report = asyncio.run(scenario())
    found = content_of(device)
    assert found[:SIZE] == chain.replay(1, SIZE, chain.lsn)
    assert found[SIZE:] == OLD * (DEVICE_BYTES - SIZE)
    assert report.disks[0].path == device
    assert report.configs == ()
    assert list((tmp_path / "journal").iterdir()) == []


def test_partition_takes_a_disk_and_its_neighbours_stay(tmp_path: Path) -> None:
    with partition_on_loop_device(tmp_path / "image", SIZE) as path:
        before = (tmp_path / "image").read_bytes()
        chain = asyncio.run(build())
        asyncio.run(
            rehydrate(chain.store, at="latest", target=path, format="raw", work=tmp_path / "journal", confirm=str(SIZE))
        )
        assert Path(path).read_bytes() == chain.replay(1, SIZE, chain.lsn)
        after = (tmp_path / "image").read_bytes()
    assert (after[:MIB], after[MIB + SIZE :]) == (before[:MIB], before[MIB + SIZE :])


class Cut(StoreWrapper):
    """Gives ``gets`` reads of frames."""

    def __init__(self, inner: ObjectStore, gets: int) -> None:
        super().__init__(inner)
        self.gets = gets

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset == 64:
            self.gets -= 1
            if self.gets < 0:
                raise StoreError("get range", key, "the line is cut", transient=True)
        return await self._inner.get_range(key, offset, length)


def test_interrupted_recovery_is_continued_and_what_changed_meanwhile_is_mended(tmp_path: Path, device: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build()
        with pytest.raises(StoreError):
            await recover(Cut(chain.store, 5), device, tmp_path / "journal")
        with device.open("r+b") as file:
            file.seek(500 * 1024)  # a hole of the disk
            file.write(b"somebody")
        return chain, await recover(chain.store, device, tmp_path / "journal")

    chain, report = asyncio.run(scenario())
    assert content_of(device)[:SIZE] == chain.replay(1, SIZE, chain.lsn)
    assert report.disks[0].bytes_resumed > 0
    assert list((tmp_path / "journal").iterdir()) == []


def test_journal_is_not_continued_on_another_device(tmp_path: Path, device: Path) -> None:
    async def scenario(other: Path) -> None:
        chain = await build()
        with pytest.raises(StoreError):
            await recover(Cut(chain.store, 5), device, tmp_path / "journal")
        size = DEVICE_BYTES + MIB
        await rehydrate(
            chain.store, at="latest", target=other, format="raw", work=tmp_path / "journal", confirm=str(size)
        )

    with (
        loop_device(tmp_path / "other", DEVICE_BYTES + MIB) as other,
        pytest.raises(TargetExists, match=r"another recovery \(format raw on"),
    ):
        asyncio.run(scenario(Path(other)))


def test_damaged_write_becomes_zeros_and_not_what_the_device_held(tmp_path: Path, device: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build()
        key = chain_key(5)
        data = bytearray(await chain.store.get(key))
        data[70] ^= 1
        await chain.store.replace(key, [data])
        with pytest.raises(DamagedObject):
            await recover(chain.store, device, tmp_path / "journal")
        return chain, await recover(chain.store, device, tmp_path / "journal", keep_going=True)

    chain, report = asyncio.run(scenario())
    expected = bytearray(chain.replay(1, SIZE, chain.lsn))
    (extent,) = report.damaged
    expected[extent.offset : extent.offset + extent.length] = bytes(extent.length)
    assert content_of(device)[:SIZE] == expected


@pytest.mark.parametrize("offset", [500 * 1024, 512 + 4096])
def test_device_that_does_not_hold_what_was_written_is_told(tmp_path: Path, device: Path, offset: int) -> None:
    """In a hole, and in a piece. It is changed when everything is written."""

    def meddle(_disk: str, bytes_done: int, bytes_total: int) -> None:
        if bytes_done == bytes_total:
            with device.open("r+b") as file:
                file.seek(offset)
                file.write(b"somebody else")

    async def scenario() -> None:
        chain = await build()
        await recover(chain.store, device, tmp_path / "journal", progress=meddle)

    with pytest.raises(TargetFailed, match="does not hold what was written"):
        asyncio.run(scenario())


def test_journal_that_was_damaged_meanwhile_is_told_and_nothing_is_zeroed(tmp_path: Path, device: Path) -> None:
    """What the journal does not name any more was written all the same."""

    async def scenario() -> Chain:
        chain = await build()
        journal = tmp_path / "journal" / ".jetdr-recovery" / "a.disk" / "journal"
        verify = RecoveryDisk.verify

        async def damaged_first(disk: RecoveryDisk, segments: Sequence[SegmentPlan], row: int) -> None:
            data = bytearray(journal.read_bytes())
            data[-1] ^= 1
            journal.write_bytes(data)
            await verify(disk, segments, row)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RecoveryDisk, "verify", damaged_first)
            with pytest.raises(TargetFailed, match="cannot be read any more"):
                await recover(chain.store, device, tmp_path / "journal")
        return chain

    chain = asyncio.run(scenario())
    assert content_of(device)[:SIZE] == chain.replay(1, SIZE, chain.lsn)
    asyncio.run(recover(chain.store, device, tmp_path / "journal"))
    assert content_of(device)[:SIZE] == chain.replay(1, SIZE, chain.lsn)


def test_device_that_took_the_name_of_another_one_is_not_written(tmp_path: Path, device: Path) -> None:
    """Planning may take long, and device names change when a device is plugged in."""
    name = tmp_path / "name"
    name.symlink_to(device)
    found = TargetDevice.look(name)
    assert found is not None
    os.close(found.open())
    with loop_device(tmp_path / "other", DEVICE_BYTES) as other:
        name.unlink()
        name.symlink_to(other)
        with pytest.raises(TargetFailed, match="is another device now"):
            found.open()
    name.unlink()
    name.write_bytes(b"a file")
    with pytest.raises(TargetFailed, match="is another device now"):
        found.open()


@pytest.mark.parametrize(
    ("given", "problem"), [(None, "is not confirmed"), ("8388608", "which is another device"), ("", "another device")]
)
def test_device_is_not_touched_without_its_confirmation(device: Path, given: str | None, problem: str) -> None:
    chain = asyncio.run(build())
    with pytest.raises(InvalidRequest, match=problem):
        asyncio.run(rehydrate(chain.store, at="latest", target=device, format="raw", confirm=given))
    assert content_of(device) == OLD * DEVICE_BYTES


def test_device_in_use_is_refused_and_leaves_nothing(tmp_path: Path, device: Path) -> None:
    chain = asyncio.run(build())
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(DeviceBusy, match="is in use: mounted"):
            asyncio.run(recover(chain.store, device, tmp_path / "journal"))
    finally:
        os.close(holder)
    assert list((tmp_path / "journal").iterdir()) == []
    assert content_of(device) == OLD * DEVICE_BYTES


def test_device_that_is_too_small_is_refused(tmp_path: Path) -> None:
    chain = asyncio.run(build())
    with (
        loop_device(tmp_path / "image", SIZE - 4096) as path,
        pytest.raises(TargetFull, match="is smaller than disk 'a'") as raised,
    ):
        asyncio.run(
            rehydrate(chain.store, at="latest", target=path, format="raw", confirm=str(SIZE - 4096), work=tmp_path)
        )
    assert exit_code_of(raised.value) == ExitCode.TARGET


def test_other_formats_several_disks_and_files_are_refused(tmp_path: Path, device: Path) -> None:
    async def scenario(target: Path, form: str, *, disks: int = 1) -> None:
        chain = await build()
        if disks == 2:
            chain.add_disk(2, "b", SIZE)
            await chain.seal()
        await rehydrate(chain.store, at="latest", target=target, format=form, confirm=str(DEVICE_BYTES))

    for form in ("flat", "vmfs", "stream"):
        with pytest.raises(InvalidRequest, match=r"cannot be written to .* in the format"):
            asyncio.run(scenario(device, form))
    with pytest.raises(InvalidRequest, match="takes one disk; chosen are a, b"):
        asyncio.run(scenario(device, "raw", disks=2))
    with pytest.raises(InvalidRequest, match="no block device"):
        asyncio.run(scenario(tmp_path / "folder", "raw"))
    assert content_of(device) == OLD * DEVICE_BYTES


@pytest.mark.parametrize(("start", "end"), [(0, DEVICE_BYTES), (512, 1024), (512, 3 * MIB + 512), (4096, 8192)])
def test_zero_clears_exactly_the_range(device: Path, start: int, end: int) -> None:
    fd = os.open(device, os.O_RDWR)
    zero(fd, [(start, end)])
    os.fsync(fd)
    os.close(fd)
    assert content_of(device) == OLD * start + bytes(end - start) + OLD * (DEVICE_BYTES - end)


def test_device_is_described_by_size_and_serial(device: Path) -> None:
    found = TargetDevice.look(device)
    assert found == TargetDevice(device, DEVICE_BYTES, "")
    assert found.confirmation == str(DEVICE_BYTES)
    assert TargetDevice(device, 1, "WD-1").confirmation == "WD-1"
    assert TargetDevice.look(device.parent) is None
    assert TargetDevice.look(Path("/dev/null")) is None
    fd = os.open(device, os.O_RDONLY)
    assert struct.unpack("Q", fcntl.ioctl(fd, 0x80081272, bytes(8)))[0] == found.size_bytes  # BLKGETSIZE64
    os.close(fd)
