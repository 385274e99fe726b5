"""The volume: its owner, its sections, and how bad volumes are refused without changing them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.device import FileDevice, MemoryDevice
from jetdr_core.errors import (
    InvalidRequest,
    JetdrError,
    LogBusy,
    LogDamaged,
    LogFailed,
    LogForeign,
    LogNotALog,
    LogTooSmall,
    UnsupportedVersion,
)
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.replication_log import (
    LogVolume,
    format_volume,
    open_volume,
    superblock,
    take_over_volume,
)
from jetdr_core.replication_log.registry import VolumeLease
from tests.faults.device import CrashDevice
from tests.log.tools import (
    DOMAIN,
    NAME,
    OWNER,
    VOLUME_BYTES,
    hand_driven,
    new_volume,
    open_volume_on,
    read_all,
    recovered,
)
from tests.peers.sick_disk import hanging_threads, sick_disk

STRANGER = UUID(int=99)
BLOCK = b"x" * 4096


class FixedDevice(MemoryDevice):
    """A partition: it does not grow."""

    @property
    def can_grow(self) -> bool:
        return False


def test_sections_are_found_again_with_their_content() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    volume.create_section("crm", UUID(int=8), 2 << 20)
    with hand_driven(volume) as payroll, hand_driven(volume, name="crm") as crm:
        one = [payroll.write(0, BLOCK * n) for n in range(1, 9)]
        two = [crm.write(4096, bytes([n]) * 1024) for n in range(20)]
    volume = open_volume_on(device)
    assert [(row.name, row.section_bytes) for row in volume.sections] == [("payroll", 1 << 20), ("crm", 2 << 20)]
    assert recovered(device)[1] == one
    assert recovered(device, "crm")[1] == two


def test_regular_file_grows_for_a_new_section(tmp_path: Path) -> None:
    with open_volume(tmp_path / "log", owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, (3 << 20) - 5)
        assert os.stat(tmp_path / "log").st_size == volume.size_bytes == 4 << 20


def test_fixed_device_without_room_is_refused_and_unchanged() -> None:
    device = FixedDevice(3 << 20)
    volume = new_volume(device)
    before = bytes(device._bytes)
    with pytest.raises(LogTooSmall, match="1048576 bytes left, 'crm' needs 2097152"):
        volume.create_section("crm", UUID(int=8), 2 << 20)
    assert bytes(device._bytes) == before
    volume.create_section("crm", UUID(int=8), 1 << 20)


def test_section_below_the_minimum_is_refused() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    with pytest.raises(LogTooSmall, match=f"at least {SECTION_BYTES_MIN}"):
        volume.create_section("crm", UUID(int=8), 0)


def test_bad_section_name_is_refused() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    with pytest.raises(InvalidRequest, match=r"\.\./x"):
        volume.create_section("../x", UUID(int=8), 1 << 20)


def test_name_in_use_is_refused() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    with pytest.raises(LogForeign, match="holds a section 'payroll' already"):
        volume.create_section(NAME, UUID(int=8), 1 << 20)


def test_section_that_is_not_there_is_refused_with_those_that_are() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    with pytest.raises(LogForeign, match=r"no section 'crm' \(sections: 'payroll'\)"):
        volume.open_section("crm")


def test_section_of_another_domain_is_refused() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    with pytest.raises(LogForeign, match="belongs to domain"):
        volume.open_section(NAME, STRANGER)
    volume.open_section(NAME, DOMAIN).close()


def test_section_is_open_once() -> None:
    volume = new_volume(CrashDevice(VOLUME_BYTES))
    section = volume.open_section(NAME)
    with pytest.raises(LogBusy, match="open already"):
        volume.open_section(NAME)
    section.close()
    volume.open_section(NAME).close()


def test_foreign_owner_is_refused_and_nothing_is_written() -> None:
    device = CrashDevice(VOLUME_BYTES)
    new_volume(device)
    device.write(0, bytes(512))  # something to repair
    before = device.image()
    with pytest.raises(LogForeign, match=f"belongs to owner {OWNER}"):
        LogVolume(device, owner=STRANGER, where="volume")
    assert device.image() == before


def test_explicit_takeover_changes_the_owner(log_place: str) -> None:
    open_volume(log_place, owner=OWNER, create=True).close()
    assert take_over_volume(log_place, STRANGER) == OWNER
    with pytest.raises(LogForeign):
        open_volume(log_place, owner=OWNER)
    open_volume(log_place, owner=STRANGER).close()


def test_volume_in_use_is_not_taken_over(log_place: str) -> None:
    with open_volume(log_place, owner=OWNER, create=True), pytest.raises(LogBusy):
        take_over_volume(log_place, STRANGER)


def test_volume_shorter_than_it_was_is_refused() -> None:
    device = CrashDevice(VOLUME_BYTES)
    new_volume(device)
    short = CrashDevice(image=device.image()[:-4096])
    with pytest.raises(LogDamaged, match="has 2093056 bytes, its superblock says 2097152"):
        open_volume_on(short)


def test_longer_device_is_welcome() -> None:
    device = CrashDevice(VOLUME_BYTES)
    new_volume(device)
    longer = FixedDevice(8 << 20)
    longer.write(0, device.image())
    volume = open_volume_on(longer)
    volume.create_section("crm", UUID(int=8), 4 << 20)
    assert open_volume_on(longer).size_bytes == 8 << 20


@pytest.mark.parametrize("content", [bytes(1 << 20), b"\x55" * (1 << 20)])
def test_what_is_not_a_log_is_named_so(content: bytes) -> None:
    with pytest.raises(LogNotALog, match="holds no replication log"):
        LogVolume(CrashDevice(image=content), owner=OWNER, where="volume")


def test_device_too_small_for_a_volume_is_refused() -> None:
    with pytest.raises(LogTooSmall):
        LogVolume(MemoryDevice(4096), owner=OWNER, where="volume")
    with pytest.raises(LogTooSmall):
        format_volume(MemoryDevice(4096), owner=OWNER, where="volume")


def test_tiny_file_is_not_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"hello")
    for create in (False, True):
        with pytest.raises(LogNotALog, match="holds no replication log"):
            open_volume(tmp_path / "log", owner=OWNER, create=create)
    assert (tmp_path / "log").read_bytes() == b"hello"


def test_foreign_file_is_not_overwritten_by_creating(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x7fELF" * (1 << 19))
    with pytest.raises(LogNotALog):
        open_volume(tmp_path / "log", owner=OWNER, create=True)
    assert (tmp_path / "log").read_bytes() == b"\x7fELF" * (1 << 19)


def test_empty_file_is_made_a_volume(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with open_volume(tmp_path / "log", owner=OWNER, create=True) as volume:
        assert volume.owner == OWNER


def test_missing_file_stays_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_volume(tmp_path / "log", owner=OWNER)


def test_formatting_refuses_a_device_that_holds_something() -> None:
    device = CrashDevice(VOLUME_BYTES)
    device.write(512, b"ext4" * 128)
    with pytest.raises(InvalidRequest, match="not empty"):
        format_volume(device, owner=OWNER, where="volume")
    format_volume(device, owner=OWNER, where="volume", overwrite=True)
    assert open_volume_on(device).sections == ()


def test_volume_is_not_formatted_twice() -> None:
    device = CrashDevice(VOLUME_BYTES)
    new_volume(device)
    with pytest.raises(InvalidRequest, match="not empty"):
        format_volume(device, owner=OWNER, where="volume")


def test_newer_volume_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = CrashDevice(VOLUME_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(superblock, "SUPERBLOCK_VERSION", 2)
        format_volume(device, owner=OWNER, where="volume")
    before = device.image()
    with pytest.raises(UnsupportedVersion, match="use the engine that wrote it"):
        open_volume_on(device)
    assert device.image() == before


def test_lost_section_superblock_is_damage_of_that_section_alone() -> None:
    device = CrashDevice(VOLUME_BYTES)
    volume = new_volume(device)
    row = volume.create_section("crm", UUID(int=8), 1 << 20)
    device.write(row.offset, bytes(64 << 10))
    volume = open_volume_on(device)
    with pytest.raises(JetdrError, match="section 'crm'"):
        volume.open_section("crm")
    volume.open_section(NAME).close()


def test_volume_opened_for_looking_cannot_be_changed() -> None:
    device = CrashDevice(VOLUME_BYTES)
    new_volume(device)
    before = device.image()
    volume = LogVolume(device, owner=None, where="volume")
    with pytest.raises(InvalidRequest, match="reading only"):
        volume.take_over(STRANGER)
    with pytest.raises(InvalidRequest, match="reading only"):
        volume.create_section("crm", UUID(int=8), 1 << 20)
    assert device.image() == before


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
def test_interrupted_format_can_be_repeated(permanence: str) -> None:
    for n, seed in itertools.product(range(1, 12), range(6)):
        device = CrashDevice(VOLUME_BYTES, seed=seed)
        device.fail_at(n, permanence)  # type: ignore[arg-type]
        with suppress(LogFailed, OSError):
            format_volume(device, owner=OWNER, where="volume")
        device = device.crash(seed)
        with suppress(InvalidRequest):
            format_volume(device, owner=OWNER, where="volume")
        assert open_volume_on(device).sections == ()


@pytest.mark.parametrize("permanence", ["transient", "permanent"])
def test_interrupted_creation_of_a_section_can_be_repeated(permanence: str) -> None:
    for n, seed in itertools.product(range(1, 16), range(4)):
        device = CrashDevice(VOLUME_BYTES, seed=seed)
        new_volume(device)
        volume = open_volume_on(device)
        device.fail_at(n, permanence)  # type: ignore[arg-type]
        with suppress(LogFailed):
            volume.create_section("crm", UUID(int=8), 1 << 20)
        device = device.crash(seed)
        volume = open_volume_on(device)
        with suppress(LogForeign):
            volume.create_section("crm", UUID(int=8), 1 << 20)
        volume.open_section("crm", UUID(int=8)).close()
        assert [row.name for row in open_volume_on(device).sections] == ["payroll", "crm"]


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_domains_of_one_process_share_the_volume(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "link").symlink_to(path)
    first = open_volume(path, owner=OWNER, create=True)
    second = open_volume(tmp_path / "link", owner=OWNER)
    assert first.volume is second.volume
    first.close()
    first.close()
    second.volume.create_section(NAME, DOMAIN, 1 << 20)
    second.close()
    with open_volume(path, owner=OWNER) as volume:
        assert volume is not second.volume
        assert [row.name for row in volume.sections] == [NAME]


def test_shared_volume_has_one_owner(tmp_path: Path) -> None:
    with (
        open_volume(tmp_path / "log", owner=OWNER, create=True),
        pytest.raises(LogForeign, match="is open here for owner"),
    ):
        open_volume(tmp_path / "log", owner=STRANGER)


def test_threads_that_open_at_once_share_one_volume(tmp_path: Path) -> None:
    path = tmp_path / "log"
    leases = []
    gate = threading.Barrier(8)

    def open_it() -> None:
        gate.wait()
        leases.append(open_volume(path, owner=OWNER, create=True))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lease.volume) for lease in leases}) == 1
    for lease in leases:
        lease.close()
    FileDevice(path, lock=True).close()


def test_a_volume_that_hangs_holds_up_nobody_who_does_not_use_it(peer: Callable[[str], str], tmp_path: Path) -> None:
    leases: list[VolumeLease] = []
    with sick_disk(peer, tmp_path, mounted=False) as disk:
        opening = threading.Thread(target=lambda: leases.append(open_volume(disk.device, owner=OWNER, create=True)))
        with disk.well_at_the_end():
            disk.hang()
            opening.start()
            deadline = time.monotonic() + 30
            while not hanging_threads(os.getpid()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            open_volume(tmp_path / "log", owner=OWNER, create=True).close()
            assert not leases
        opening.join()
        leases[0].close()


def test_another_process_finds_the_volume_busy(log_place: str) -> None:
    script = f"""
from uuid import UUID
from jetdr_core.errors import LogBusy
from jetdr_core.replication_log import open_volume
try:
    open_volume({log_place!r}, owner=UUID(int=1))
except LogBusy as error:
    print(error)
"""
    with open_volume(log_place, owner=OWNER, create=True):
        run = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", script]
        found = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "in use by another process" in found.stdout


def test_failed_opening_leaves_the_volume_free(log_place: str) -> None:
    open_volume(log_place, owner=OWNER, create=True).close()
    with pytest.raises(LogForeign):
        open_volume(log_place, owner=STRANGER)
    open_volume(log_place, owner=OWNER).close()


def test_sections_outlive_the_lease_of_the_volume(log_place: str) -> None:
    lease = open_volume(log_place, owner=OWNER, create=True)
    lease.volume.create_section(NAME, DOMAIN, 1 << 20)
    with hand_driven(lease.volume) as driven:
        lease.close()
        written = driven.write(0, BLOCK)
        driven.flush()
        assert read_all(driven.log) == [written]
