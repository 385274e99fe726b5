"""KnownKeeper: what the log may forget while the known file cannot be written."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from jetdr_core.catalog import DomainHistory, HistoryFacts, encode_history
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known_file import KnownFile, KnownKeeper
from jetdr_core.domain.known_record import KnownRecord

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
