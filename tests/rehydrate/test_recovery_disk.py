"""One disk of a recovery knows what an earlier run left, what it still needs, and what it has told its caller."""

from __future__ import annotations

import os
from pathlib import Path

from jetdr_core.catalog import DiskState, RecoveryPoint
from jetdr_core.rehydrate.disk_files import DiskFiles
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk

SIZE = 1 << 20
STATE = DiskState(3, "db01", "u", "/vm/db01", SIZE, ready=True)


class Told:
    """A progress callback that keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.told.append((name, done, total))


def examined(directory: Path, format_: str = "flat", progress: Told | None = None) -> RecoveryDisk:
    disk = RecoveryDisk(STATE, DiskFiles(directory, "db01", format_), progress)
    disk.planned.bytes_live = SIZE // 2
    disk.examine(RecoveryIdentity("5a", 1, 77, 3, "db01", SIZE, format_, "ab" * 16))
    return disk


def test_new_disk_needs_its_live_bytes_and_a_stream_twice_as_much(tmp_path: Path) -> None:
    assert [examined(tmp_path, form).needed_bytes() for form in ("flat", "raw", "stream")] == [SIZE // 2] * 2 + [SIZE]
    assert not examined(tmp_path).is_resumed
    assert examined(tmp_path).applied_in(1) == ()


def test_interrupted_disk_needs_less_and_knows_its_frames_by_segment(tmp_path: Path) -> None:
    disk = examined(tmp_path)
    target = disk.open()
    os.pwrite(target.fd, b"x" * (SIZE // 4), 0)
    target.save([Applied(4, 0, 2), Applied(9, 1, 1), Applied(4, 7, 7)])
    target.close()
    again = examined(tmp_path)
    assert again.is_resumed
    assert [list(again.applied_in(segment)) for segment in (4, 9, 5)] == [[(0, 2), (7, 7)], [(1, 1)], []]
    assert again.needed_bytes() <= SIZE // 4


def test_finished_disk_needs_nothing_and_no_frame(tmp_path: Path) -> None:
    disk = examined(tmp_path, "raw")
    target = disk.open()
    target.finish(lambda _: None)
    target.close()
    again = examined(tmp_path, "raw")
    assert (again.is_resumed, again.needed_bytes()) == (True, 0)
    assert list(again.applied_in(12)) == [(0, 0xFFFF_FFFF)]


def test_only_whole_ranges_are_saved_and_each_once(tmp_path: Path) -> None:
    disk = examined(tmp_path)
    disk.note(bytes_written=512, bytes_fetched=300, applied=Applied(4, 0, 0))
    disk.note(bytes_written=512, bytes_fetched=300, applied=None)
    assert disk.take_unsaved() == [Applied(4, 0, 0)]
    assert disk.take_unsaved() == []


def test_progress_counts_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    told = Told()
    disk = examined(tmp_path, "stream", told)
    disk.bytes_resumed = 1024
    disk.note(bytes_written=512, bytes_fetched=300, applied=None)
    assert told.told == [("db01", 1536, SIZE)]


def test_report_is_what_was_counted(tmp_path: Path) -> None:
    disk = examined(tmp_path)
    disk.note(bytes_written=512, bytes_fetched=300, applied=None)
    report = disk.report(RecoveryPoint(1, 77, 5))
    assert (report.path, report.bytes_written, report.bytes_fetched) == (tmp_path / "db01.vmdk", 512, 300)
    assert (report.lsn, report.time_ns, report.damaged) == (77, 5, ())
