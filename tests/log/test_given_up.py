"""Sections that are given up: by the UUID of their domain, and not while they alone have what guests were told."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, LogBusy, LogForeign
from jetdr_core.identity import host_owner
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.replication_log import (
    GivenUpSection,
    ReplicationLog,
    describe_volume,
    give_up_section,
    open_volume,
    volume_on,
)
from tests.cli.jetdr_command import jetdr
from tests.log.tools import DOMAIN, NAME, OWNER, hand_driven, new_volume, open_volume_on

OTHER = UUID(int=9)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A volume with two sections, which this machine owns."""
    with open_volume(tmp_path / "log", owner=host_owner(), create=True) as volume:
        volume.create_section(NAME, DOMAIN, SECTION_BYTES_MIN)
        volume.create_section("web", OTHER, SECTION_BYTES_MIN)
    return tmp_path / "log"


def names(log: Path) -> list[str]:
    return [section.name for section in describe_volume(log).sections]


def begun(log: Path, *, write_back: bool, clean: bool) -> None:
    with open_volume(log, owner=host_owner()) as volume:
        section = ReplicationLog(volume.open_section(NAME))
        section.begin(1, write_back=write_back)
        section.close(clean=clean)


def test_a_section_is_given_up_by_its_uuid_and_its_place_is_used_again(log: Path) -> None:
    size = log.stat().st_size
    done = jetdr("give-up-section", log, NAME, "--uuid", DOMAIN)
    assert (done.code, done.out.strip()) == (
        0,
        f"{log} has no section '{NAME}' any more; all that it held was uploaded",
    )
    assert names(log) == ["web"]
    with open_volume(log, owner=host_owner()) as volume:
        volume.create_section("third", UUID(int=3), SECTION_BYTES_MIN)
    assert (names(log), log.stat().st_size) == (["web", "third"], size)


def test_another_uuid_a_name_that_is_not_there_and_text_are_refused(log: Path) -> None:
    assert f"belongs to domain {DOMAIN}" in jetdr("give-up-section", log, NAME, "--uuid", OTHER).error
    assert "holds no section 'nobody'" in jetdr("give-up-section", log, "nobody", "--uuid", DOMAIN).error
    assert "is not a UUID" in jetdr("give-up-section", log, NAME, "--uuid", "payroll").error
    assert names(log) == [NAME, "web"]


def test_the_commands_that_errors_name_give_the_section_up(log: Path) -> None:
    with open_volume(log, owner=host_owner()) as volume:
        with pytest.raises(LogForeign) as twice:
            volume.create_section(NAME, OTHER, SECTION_BYTES_MIN)
        with pytest.raises(LogForeign) as foreign:
            volume.open_section(NAME, OTHER)
    (one,), (other,) = (
        {part for part in error.value.hint.split("'") if "give-up-section" in part} for error in (twice, foreign)
    )
    assert one == other == f"jetdr give-up-section {log} {NAME} --uuid {DOMAIN}"
    assert jetdr(*one.split()[1:]).code == 0
    assert names(log) == ["web"]


def test_a_volume_that_is_in_use_is_left_alone(log: Path) -> None:
    with open_volume(log, owner=host_owner()) as volume:
        section = volume.open_section(NAME)
        with pytest.raises(LogBusy):
            give_up_section(log, NAME, DOMAIN, owner=host_owner())
        section.close()
    assert names(log) == [NAME, "web"]


def test_a_log_in_write_back_that_was_not_closed_is_given_up_only_on_purpose(log: Path) -> None:
    begun(log, write_back=True, clean=False)
    with pytest.raises(InvalidRequest, match="may alone have writes that guests were told are safe"):
        give_up_section(log, NAME, DOMAIN, owner=host_owner())
    assert jetdr("give-up-section", log, NAME, "--uuid", DOMAIN, "--discard").code == 0
    assert names(log) == ["web"]


@pytest.mark.parametrize(("write_back", "clean"), [(True, True), (False, False)])
def test_a_log_that_no_disk_waits_for_is_given_up(log: Path, write_back: bool, clean: bool) -> None:
    begun(log, write_back=write_back, clean=clean)
    assert jetdr("give-up-section", log, NAME, "--uuid", DOMAIN).code == 0


def test_a_damaged_section_is_given_up_only_on_purpose(log: Path) -> None:
    with log.open("r+b") as file:
        for copy in range(4):
            file.seek((1 << 20) + copy * (16 << 10))
            file.write(bytes(range(256)) * 16)
    assert "cannot be told" not in jetdr("give-up-section", log, NAME, "--uuid", DOMAIN).error
    done = jetdr("give-up-section", log, NAME, "--uuid", DOMAIN, "--discard")
    assert "what it held cannot be told" in done.out
    assert names(log) == ["web"]


def test_what_was_not_uploaded_is_told() -> None:
    volume = new_volume(MemoryDevice(8 << 20))
    with hand_driven(volume) as log:
        log.write(0, b"x" * 4096)
        log.flush()
    held = GivenUpSection.look(volume, NAME, DOMAIN)
    assert str(held) == "of what it held, LSN 1 to 1 may not have been uploaded"


def test_a_section_that_was_given_up_does_not_come_back_for_a_newer_domain_of_its_name() -> None:
    """The volume's superblock is lost later, and made from the sections that are found."""
    device = MemoryDevice(8 << 20)
    volume = new_volume(device)
    old = ReplicationLog(volume.open_section(NAME))
    old.begin(7)
    old.close(clean=True)
    volume.create_section("web", OTHER, SECTION_BYTES_MIN)
    volume.remove_section(NAME, DOMAIN)
    newer = UUID(int=10)
    volume.create_section(NAME, newer, 2 * SECTION_BYTES_MIN)
    for section in (volume.open_section(NAME, newer), volume.open_section("web", OTHER)):
        section.close()
    device.zero(0, 1 << 20)
    volume_on(device, OWNER, "volume", newer)
    found = {row.name: row.domain_uuid for row in open_volume_on(device).sections}
    assert found == {NAME: newer, "web": OTHER}
