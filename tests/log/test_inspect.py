"""A volume described for people and programs, damage included, without changing it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from typing_extensions import Buffer

from jetdr_core.device import MemoryDevice
from jetdr_core.errors import LogNotALog, StallTimeout
from jetdr_core.replication_log import (
    LogVolume,
    SectionDescription,
    describe_section,
    describe_volume,
    inspect,
    open_volume,
)
from jetdr_core.replication_log.superblock import SECTION_LAYOUT
from tests.log.tools import DOMAIN, NAME, OWNER, VOLUME_BYTES, hand_driven, new_volume

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


# -- while the owner writes --------------------------------------------------------------------------------------------


SUPERBLOCK_BYTES = SECTION_LAYOUT.copy_bytes


class Lively(MemoryDevice):
    """Another process's view of ``inner``: a read is many small reads, and the owner may act between any two."""

    def __init__(self, inner: MemoryDevice, act: Callable[[int], None]) -> None:
        super().__init__(inner.size_bytes)
        self.inner = inner
        self.act = act

    def read_into(self, offset: int, target: Buffer) -> None:
        view = memoryview(target).cast("B")
        step = max(512, len(view) // 8 // 512 * 512)
        for place in range(0, len(view), step):
            self.act(len(view))
            self.inner.read_into(offset + place, view[place : place + step])


def described(inner: MemoryDevice, act: Callable[[int], None]) -> SectionDescription:
    volume = LogVolume(Lively(inner, act), owner=None, where="volume")
    return describe_section(volume, volume.sections[0])


@pytest.mark.parametrize("seed", range(25))
def test_log_that_is_written_while_it_is_read_is_never_called_damaged(seed: int) -> None:
    choices = random.Random(seed)
    pace = choices.choice([2, 4, 8, 32])
    device = MemoryDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:

        def write() -> None:
            for _ in range(choices.randrange(1, 8)):
                with suppress(StallTimeout):
                    driven.write(4096 * choices.randrange(100), choices.randbytes(512 * choices.randrange(1, 64)))
            choices.choice([driven.flush, driven.commit])()
            if choices.randrange(3) == 0:
                driven.checkpoint_all()

        def act(length: int) -> None:
            rare = 16 if length <= SUPERBLOCK_BYTES else 1
            if choices.randrange(pace * rare) == 0:
                write()

        for _ in range(40):
            write()
        driven.flush()
        for _ in range(4):
            durable = driven.ring.lsn_durable
            found = described(device, act)
            assert found.damage is None
            if found.lsn_last is not None:
                assert durable <= found.lsn_last <= driven.ring.lsn_reserved
                assert found.lsn_first is not None
                assert found.lsn_first <= found.lsn_last + 1
            driven.flush()
        still = described(device, lambda _: None)
        assert (still.moving, still.lsn_last) == (False, driven.ring.lsn_durable)


def test_damage_is_found_although_the_log_is_written_while_it_is_read() -> None:
    device = MemoryDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:
        for n in range(9):
            driven.write(4096 * n, BLOCK)
            driven.flush()
        area = driven.log.body.area
        device.write(area.physical(driven.log.tail.position) + 5 * 8192 + 4608, b"damage!!" * 64)

        def act(_length: int) -> None:
            with suppress(StallTimeout):
                driven.write(0, BLOCK)
            driven.flush()

        found = described(device, act)
        assert found.damage is not None
        assert "batch 6 (LSN 6 to 6)" in found.damage
        assert found.moving is False


def test_a_log_that_moves_on_for_ever_is_told_without_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_LOOKS_MAX", 4)
    device = MemoryDevice(VOLUME_BYTES)
    with hand_driven(new_volume(device)) as driven:

        def act(length: int) -> None:
            for _ in range(4 if length > SUPERBLOCK_BYTES else 0):
                driven.write(0, os.urandom(200 << 10))
                driven.flush()
                driven.checkpoint_all()

        found = described(device, act)
        assert (found.damage, found.moving) == (None, True)
        assert found.lsn_first is not None
