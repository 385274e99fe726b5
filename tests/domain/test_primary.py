"""The primaries that a domain is opened with: found where they are, and closed with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import DiskState
from jetdr_core.device import FileDevice
from jetdr_core.domain.primary import DiskPlaces, Primaries, open_primary, places_digest
from jetdr_core.errors import DeviceBusy, DeviceFull, InvalidRequest
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, new_domain


def disk(path: Path, number: int = 1, name: str = "db01") -> DiskState:
    path.write_bytes(bytes(DISK_BYTES))
    return DiskState(number, name, "uuid", str(path), DISK_BYTES, ready=True)


def test_a_disk_is_opened_where_the_caller_says_it_is_now(tmp_path: Path) -> None:
    known = disk(tmp_path / "old.img")
    moved = (tmp_path / "old.img").rename(tmp_path / "new.img")
    primaries = Primaries("vm", DiskPlaces({"db01": moved}), shared=False)
    primaries.open_all([known])
    assert primaries.opened[1].path == str(moved)
    primaries.close()


def test_a_place_for_a_disk_that_is_not_there_is_refused_and_nothing_is_opened(tmp_path: Path) -> None:
    primaries = Primaries("vm", DiskPlaces({"web01": tmp_path / "web01.img"}), shared=False)
    with pytest.raises(InvalidRequest, match="domain 'vm' protects no disk 'web01'; it protects db01"):
        primaries.open_all([disk(tmp_path / "db01.img")])
    assert primaries.opened == {}


def test_a_caller_who_names_no_disk_gets_the_stored_places_if_the_log_confirms_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, log, path, moved = fresh_store(), tmp_path / "log", tmp_path / "db01", tmp_path / "moved"

        def reopened(**more: Any) -> jetdr.ProtectedDomain:
            return jetdr.ProtectedDomain.open("payroll", log=log, store=store, options=QUICK, **more)

        async with new_domain(store, log=log) as domain:
            await domain.protect("db01", path, size_bytes=DISK_BYTES)
            await domain.protect("web01", tmp_path / "web01", size_bytes=DISK_BYTES)
            await domain.unprotect("web01")
        for upload in (True, False):
            domain = await reopened().__aenter__()
            assert domain.disk("db01").path == str(path)
            await domain.close(upload=upload)
        path.rename(moved)
        path.write_bytes(bytes(DISK_BYTES))  # what the store still names, and nobody uses any more
        async with reopened(disks={"db01": moved}):
            pass
        with pytest.raises(InvalidRequest, match="nobody says where disk 'db01' is"):
            async with reopened():
                pass
        with pytest.raises(InvalidRequest, match="nobody says where disk 'db01' is"):
            async with reopened(disks={}):
                pass
        async with reopened(trust_stored_paths=True) as domain:
            assert domain.disk("db01").path == str(path)
        async with reopened() as domain:
            assert domain.disk("db01").path == str(path)

    asyncio.run(scenario())


def test_another_path_number_or_disk_is_not_confirmed(tmp_path: Path) -> None:
    one, two = disk(tmp_path / "db01.img"), disk(tmp_path / "web01.img", 2, "web01")
    swapped = [one._replace(path=two.path), two._replace(path=one.path)]
    noted = places_digest([(1, one.path), (2, two.path)])
    for disks in (swapped, [one], [one, two, two._replace(disk=3)], [one._replace(path="/etc/shadow"), two]):
        assert places_digest((state.disk, state.path) for state in disks) != noted
    assert places_digest((state.disk, state.path) for state in [two, one]) == noted


def test_what_was_opened_is_closed_with_a_disk_that_became_known_late(tmp_path: Path) -> None:
    early, late = disk(tmp_path / "db01.img"), disk(tmp_path / "web01.img", 2, "web01")
    primaries = Primaries("vm", DiskPlaces(trust_stored=True), shared=False)
    primaries.open_all([early])
    assert primaries.of(early) is primaries.opened[1]
    primaries.of(late)
    for state in (early, late):
        with pytest.raises(DeviceBusy):
            FileDevice(state.path, direct=False, lock=True)
    primaries.close()
    primaries.close()
    for state in (early, late):
        FileDevice(state.path, direct=False, lock=True).close()


def test_a_primary_that_another_process_writes_is_not_locked_here(tmp_path: Path) -> None:
    state = disk(tmp_path / "db01.img")
    primaries = Primaries("vm", DiskPlaces(trust_stored=True), shared=True)
    primaries.open_all([state])
    FileDevice(state.path, direct=False, lock=True).close()
    primaries.close()


def test_the_regions_of_a_primary_are_its_data_and_its_holes(tmp_path: Path) -> None:
    primary = open_primary("db01", tmp_path / "db01.img", size_bytes=1 << 20, create=True)
    assert [region.hole for region in primary.regions()] == [True]
    primary.device.write(0, b"x" * 4096)
    primary.device.sync()
    regions = list(primary.regions())
    assert not regions[0].hole
    assert sum(region.length for region in regions) == 1 << 20
    primary.close()


def test_a_disk_that_cannot_be_made_leaves_nothing_and_says_which_it_was(disk_path: Path) -> None:
    size_bytes = 1 << 50
    if _fits(disk_path / "probe", size_bytes):
        pytest.skip("the file system takes a file of a pebibyte")
    with pytest.raises(DeviceFull, match=rf"db01.img: making a disk of {size_bytes} bytes failed: File too large; its"):
        open_primary("db01", disk_path / "db01.img", size_bytes=size_bytes, create=True)
    assert list(disk_path.iterdir()) == []
    open_primary("db01", disk_path / "db01.img", size_bytes=1 << 20, create=True).close()


def _fits(path: Path, size_bytes: int) -> bool:
    with path.open("wb") as file:
        try:
            file.truncate(size_bytes)
        except OSError:
            return False
        finally:
            path.unlink()
    return True
