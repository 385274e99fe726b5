"""A volume described for people and programs, damage included, without changing it."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.errors import LogNotALog
from jetdr_core.replication_log import describe_volume, open_volume
from tests.log.tools import DOMAIN, NAME, OWNER, hand_driven

BLOCK = b"x" * 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A volume with a section that was closed and one that was not."""
    with open_volume(tmp_path / "log", owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 1 << 20)
        volume.create_section("crm", UUID(int=8), 2 << 20)
        with hand_driven(volume) as closed, hand_driven(volume, name="crm", clean=False) as killed:
            for driven in (closed, killed):
                for n in range(3):
                    driven.write(4096 * n, BLOCK)
                    driven.flush()
    return tmp_path / "log"


def test_sections_fill_and_state_are_told(path: Path) -> None:
    payroll, crm = describe_volume(path).sections
    assert (payroll.name, payroll.clean, payroll.lsn_first, payroll.lsn_last) == (NAME, True, 1, 3)
    assert (payroll.batches, payroll.used_bytes, payroll.cut_bytes) == (3, 3 * 8192, 0)
    assert (crm.name, crm.clean, crm.epoch) == ("crm", False, 1)
    assert crm.fill == crm.used_bytes / crm.data_bytes  # type: ignore[operator]


def test_description_is_plain_json(path: Path) -> None:
    found = json.loads(json.dumps(describe_volume(path).as_json()))
    assert found["owner"] == str(OWNER)
    assert found["sections"][0]["lsn_last"] == 3


def test_description_reads_well(path: Path) -> None:
    text = "\n".join(describe_volume(path).lines())
    assert f"log volume {path}" in text
    assert "LSN 1 to 3 in 3 batches, 24576 of 983040 bytes (2.5%)" in text
    assert "closed cleanly" in text
    assert "in use, or not closed cleanly" in text


def test_an_empty_section_tells_which_lsn_is_next(tmp_path: Path) -> None:
    with open_volume(tmp_path / "log", owner=OWNER, create=True) as volume:
        volume.create_section(NAME, DOMAIN, 1 << 20, initial_lsn=7)
    assert "  no record, LSN 7 is next, 0 of 983040 bytes" in "\n".join(describe_volume(tmp_path / "log").lines())


def test_damage_is_described_and_the_other_sections_still_shown(path: Path) -> None:
    offset = describe_volume(path).sections[0].offset + (64 << 10)
    with path.open("r+b") as file:
        file.seek(offset + 5000)
        file.write(b"damage")
    payroll, crm = describe_volume(path).sections
    assert payroll.damage is not None
    assert "batch 1 (LSN 1 to 1)" in payroll.damage
    assert crm.damage is None
    assert "DAMAGED" in "\n".join(describe_volume(path).lines())


def test_lost_section_superblock_is_described(path: Path) -> None:
    offset = describe_volume(path).sections[1].offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64 << 10))
    section = describe_volume(path).sections[1]
    assert section.damage is not None
    assert section.epoch is None


def test_volume_in_use_is_described_without_disturbing_it(path: Path) -> None:
    with open_volume(path, owner=OWNER) as volume, hand_driven(volume) as driven:
        driven.write(0, BLOCK)
        driven.flush()
        before = path.read_bytes()
        assert describe_volume(path).sections[0].lsn_last == 4
        assert path.read_bytes() == before


def test_what_is_not_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    with pytest.raises(LogNotALog):
        describe_volume(tmp_path / "file")
