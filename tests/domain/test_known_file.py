"""KnownKeeper: what the log may forget while the known file cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.catalog import DomainHistory, HistoryFacts, encode_history
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known_file import KnownFile, KnownKeeper
from jetdr_core.domain.known_record import KnownRecord
from tests.peers.loop import needs_root

DOMAIN = UUID(int=7)
LSN = 9


class Control:
    """A history whose last control record has LSN 9."""

    def is_folded_to(self, lsn: int) -> bool:
        return True

    def lsn_folded(self) -> int:
        return LSN

    def facts(self, lsn: int) -> HistoryFacts:
        return DomainHistory().facts(lsn)


def kept_file(folder: Path, name: str = "vm") -> KnownFile:
    file = KnownFile(folder, name)
    history = encode_history(DomainHistory().facts(1), DOMAIN)
    assert history is not None
    file.write(
        KnownRecord(
            domain_uuid=DOMAIN,
            section_id=1,
            timeline=1,
            chain=Generation(1),
            log=Generation(1),
            write_back=False,
            record_bytes_max=1 << 20,
            lsn=1,
            history=history,
        )
    )
    return file


def test_a_log_is_trimmed_again_once_a_file_that_is_out_of_date_can_be_removed(tmp_path: Path) -> None:
    file = kept_file(tmp_path)
    keeper = KnownKeeper(file)
    assert keeper.record is not None
    blocked = [file.path, file.path.with_name("known.new")]  # folders: they are neither replaced nor unlinked
    file.path.unlink()
    for path in blocked:
        path.mkdir()
    assert not keeper.may_trim(LSN, Control())
    assert not keeper.may_trim(LSN, Control())
    for path in blocked:
        path.rmdir()
    assert keeper.may_trim(LSN, Control())
    assert keeper.trouble is None
    record = KnownKeeper(file).record
    assert record is not None
    assert record.lsn == LSN, "it lacks nothing any more"


def test_a_file_that_cannot_be_written_is_told_and_written_once_it_can_be(tmp_path: Path) -> None:
    file = kept_file(tmp_path)
    keeper = KnownKeeper(file)
    blocked = file.path.with_name("known.new")
    blocked.mkdir()
    assert keeper.may_trim(LSN, Control()), "the file is removed, so it says nothing wrong"
    assert keeper.trouble is not None
    assert str(blocked) in keeper.trouble.reason
    since_ns = keeper.trouble.since_ns
    keeper.look(LSN, Control())
    assert keeper.trouble is not None
    assert keeper.trouble.since_ns == since_ns
    assert KnownKeeper(file).record is None
    blocked.rmdir()
    keeper.look(LSN, Control())
    assert keeper.trouble is None
    assert KnownKeeper(file).record == keeper.record is not None


def test_a_file_that_somebody_removes_is_written_again(tmp_path: Path) -> None:
    file = kept_file(tmp_path)
    keeper = KnownKeeper(file)
    before = keeper.record
    keeper.look(LSN, Control())
    assert keeper.record is before
    file.path.unlink()
    keeper.look(LSN, Control())
    assert KnownKeeper(file).record == keeper.record is not None


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for four pages."""
    needs_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder: Path) -> Path:
    with (folder / "neighbour").open("ab", buffering=0) as neighbour, suppress(OSError):
        while True:
            neighbour.write(bytes(4096))
    return folder / "neighbour"


def test_a_state_folder_without_room_is_told_until_there_is_room_again(small: Path) -> None:
    file = kept_file(small)
    keeper = KnownKeeper(file)
    fill(small)
    assert keeper.may_trim(LSN, Control())
    assert keeper.trouble is not None
    assert "no room" in keeper.trouble.reason
    since_ns, neighbour = keeper.trouble.since_ns, fill(small)
    keeper.look(LSN, Control())
    assert keeper.trouble is not None
    assert keeper.trouble.since_ns == since_ns
    neighbour.unlink()
    keeper.look(LSN, Control())
    assert keeper.trouble is None
    assert KnownKeeper(file).record == keeper.record is not None


def test_a_read_only_state_folder_keeps_the_log_and_is_told_until_it_can_be_written(small: Path) -> None:
    file = kept_file(small)
    keeper = KnownKeeper(file)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert not keeper.may_trim(LSN, Control()), "the file lacks something, and cannot be removed"
    assert keeper.trouble is not None
    assert "read-only" in keeper.trouble.reason.lower()
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    keeper.look(LSN, Control())
    assert keeper.trouble is None
    assert keeper.may_trim(LSN, Control())
    assert KnownKeeper(file).record == keeper.record is not None
