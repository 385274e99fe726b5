"""An embedded domain and the dirty maps of its disks: where they lie, what they spare, and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.domain.disk import Disk
from jetdr_core.errors import PrimaryFailed
from tests.domain.fixture import LOG_BYTES, QUICK, fresh_store, image, new_domain, recovered

DISK_BYTES = 4 << 20
REGION = 64 << 10


def domain_on_files(folder: Path, store: Any, **options: Any) -> jetdr.ProtectedDomain:
    return jetdr.ProtectedDomain.create(
        "payroll", log=folder / "log.img", log_bytes=LOG_BYTES, store=store, options=replace(QUICK, **options)
    )


def test_the_map_lies_beside_its_disk_and_goes_with_its_protection(tmp_path: Path) -> None:
    async def live() -> None:
        async with domain_on_files(tmp_path, fresh_store()) as domain:
            disk = await domain.protect("db01", tmp_path / "db01.img", size_bytes=DISK_BYTES)
            beside = tmp_path / "db01.img.jetdr-map"
            assert beside.stat().st_mode & 0o777 == 0o600
            await domain.unprotect(disk.name)
            assert not beside.exists()

    asyncio.run(live())


def test_a_map_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()

    async def live() -> None:
        async with domain_on_files(tmp_path, fresh_store(), map_folder=str(tmp_path / "maps")) as domain:
            await domain.protect("db01", tmp_path / "db01.img", size_bytes=DISK_BYTES)

    asyncio.run(live())
    assert [path.suffix for path in (tmp_path / "maps").iterdir()] == [".jetdr-map"]
    assert not list(tmp_path.glob("*.jetdr-map"))


def test_what_another_put_in_the_place_of_a_map_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"not ours")
    (tmp_path / "db01.img.jetdr-map").symlink_to(target)

    async def live() -> None:
        async with domain_on_files(tmp_path, fresh_store()) as domain:
            disk = await domain.protect("db01", tmp_path / "db01.img", size_bytes=DISK_BYTES)
            disk.write(0, b"a" * 512)
            assert disk.map is not None
            assert disk.map.native.state().failed_errno == errno.ENODEV

    asyncio.run(live())
    assert target.read_bytes() == b"not ours"


def test_a_map_that_cannot_be_written_costs_no_write(tmp_path: Path) -> None:
    store = fresh_store()

    async def live() -> bytes:
        async with domain_on_files(tmp_path, store) as domain:
            disk = await domain.protect("db01", tmp_path / "db01.img", size_bytes=DISK_BYTES)
            disk.write(0, b"a" * 512)
            break_map(disk)
            for region in range(1, 20):
                disk.write(region * REGION, b"b" * 512)
            assert disk.map is not None
            assert disk.map.native.state().failed_errno == errno.EBADF
            await domain.uploaded(disk.flush())
            return disk.read(0, DISK_BYTES)

    expected = asyncio.run(live())
    assert asyncio.run(recovered(store)) == {"db01": expected}


def break_map(disk: Disk) -> None:
    """Let every write to the sidecar fail, as on a file system that was remounted read-only."""
    assert disk.map is not None
    sidecar = disk.map._sidecar
    assert sidecar is not None
    read_only = os.open(os.devnull, os.O_RDONLY)
    os.dup2(read_only, sidecar.fileno())
    os.close(read_only)


class FailsOnce(MemoryDevice):
    """A disk that fails one write and the read after it."""

    failing = 0

    def write(self, offset: int, data: Buffer) -> None:
        self._fail()
        super().write(offset, data)

    def read_into(self, offset: int, target: Buffer) -> None:
        self._fail()
        super().read_into(offset, target)

    def _fail(self) -> None:
        if self.failing:
            self.failing -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_write_whose_failure_could_not_be_logged_costs_a_copy_of_its_region_alone() -> None:
    store, primary = fresh_store(), FailsOnce(DISK_BYTES)

    async def live() -> int:
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", primary)
            for region in range(8):
                disk.write(region * REGION, b"a" * 512)
            primary.failing = 2
            with pytest.raises(PrimaryFailed):
                disk.write(5 * REGION, b"b" * 512)
            await domain.wait_consistent()
            return domain.status().disks[0].copied_bytes

    assert asyncio.run(live()) == REGION
    assert asyncio.run(recovered(store)) == {"db01": image(primary)}
