"""One disk of a recovery knows what an earlier run left, what it still needs, and what it has told its caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jetdr_core._kernels import scatter_write
from jetdr_core.catalog import DiskState, RecoveryPoint
from jetdr_core.errors import TargetExists
from jetdr_core.extent import PIECE
from jetdr_core.rehydrate.disk_files import FORMATS, DiskFiles
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.plan import SegmentPlace, SegmentPlan
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk
from jetdr_core.rehydrate.target_folder import TargetFolder
from jetdr_core.segment import FRAME

SIZE = 1 << 20
FRAME_BYTES = 64 << 10
LIVE = SIZE // 2
"""Every other 64 KiB of the disk are live: the frames of one segment, number 4."""
STATE = DiskState(3, "db01", "u", "/vm/db01", SIZE, ready=True)
CONTENT = [bytes([number + 1]) * FRAME_BYTES for number in range(LIVE // FRAME_BYTES)]


def planned() -> list[SegmentPlan]:
    pieces = np.zeros(len(CONTENT), PIECE)
    pieces["frame"] = np.arange(len(CONTENT))
    pieces["offset"] = 2 * FRAME_BYTES * pieces["frame"].astype(np.uint64)
    pieces["length"] = FRAME_BYTES
    numbers = np.arange(len(CONTENT), dtype=np.uint32)
    return [SegmentPlan(SegmentPlace(4, "chain/4", 1, 9), numbers, np.zeros(len(CONTENT), FRAME), pieces)]


class Told:
    """A progress callback that keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.told.append((name, done, total))


def examined(target: TargetFolder, format_: str = "flat", progress: Told | None = None) -> RecoveryDisk:
    disk = RecoveryDisk(STATE, DiskFiles(target.path, "db01", format_), progress)
    disk.planned.bytes_live, disk.planned.frames = LIVE, len(CONTENT)
    disk.examine(target, RecoveryIdentity("5a", 1, 77, 3, "db01", SIZE, format_, "ab" * 16))
    return disk


def write(disk: RecoveryDisk, frames: Sequence[int]) -> None:
    """Apply frames, a row for each, and save them."""
    pieces = planned()[0].pieces
    digests = [scatter_write(disk.target.fd, CONTENT[number], pieces[number : number + 1]) for number in frames]
    disk.target.save([Applied(4, number, number, digest) for number, digest in zip(frames, digests, strict=True)])


def interrupted(target: TargetFolder, frames: Sequence[int], format_: str = "flat") -> None:
    disk = examined(target, format_)
    disk.open(target)
    write(disk, frames)
    disk.target.close()


def recheck(
    target: TargetFolder, format_: str = "flat", progress: Told | None = None
) -> tuple[RecoveryDisk, list[int]]:
    """The disk, continued, and the frames that need not be written."""
    disk = examined(target, format_, progress)
    disk.open(target)
    try:
        good = asyncio.run(disk.recheck(planned(), 0))
    finally:
        disk.target.close()
    return disk, np.flatnonzero(good[4]).tolist()


@pytest.fixture
def target(tmp_path: Path) -> TargetFolder:
    return TargetFolder.make(tmp_path)


def test_new_disk_needs_its_live_bytes_and_a_stream_twice_as_much(target: TargetFolder) -> None:
    assert [examined(target, form).needed_bytes() for form in ("flat", "raw", "stream")] == [LIVE] * 2 + [2 * LIVE]
    assert not examined(target).standing.is_resumed


def test_interrupted_disk_needs_less_and_knows_what_is_written(target: TargetFolder) -> None:
    told = Told()
    interrupted(target, [0, 1, 2, 5])
    disk, good = recheck(target, progress=told)
    assert disk.needed_bytes() <= LIVE - 4 * FRAME_BYTES
    assert (good, disk.bytes_resumed) == ([0, 1, 2, 5], 4 * FRAME_BYTES)
    assert told.told[-1] == ("db01", 4 * FRAME_BYTES, LIVE)


def test_changed_piece_is_written_again_and_no_other(target: TargetFolder, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(target, [0, 1, 2, 5])
    with DiskFiles(target.path, "db01", "flat").data.open("r+b") as data:
        data.seek(2 * FRAME_BYTES + 77)
        data.write(b"!")
    assert recheck(target)[1] == [0, 2, 5]
    assert f"{FRAME_BYTES} bytes are written again" in caplog.text


def test_row_of_several_frames_is_written_again_as_a_whole(target: TargetFolder) -> None:
    disk = examined(target)
    disk.open(target)
    digest = 0
    for number in (1, 2, 3):
        digest = scatter_write(disk.target.fd, CONTENT[number], planned()[0].pieces[number : number + 1], digest)
    disk.target.save([Applied(4, 1, 3, digest)])
    write(disk, [6])
    disk.target.close()
    assert recheck(target)[1] == [1, 2, 3, 6]
    with disk.files.data.open("r+b") as data:
        data.seek(4 * FRAME_BYTES)
        data.write(b"!")
    assert recheck(target)[1] == [6]


@pytest.mark.parametrize("place", [FRAME_BYTES, SIZE - 1])
def test_data_where_the_disk_has_none_becomes_zeros(target: TargetFolder, place: int) -> None:
    interrupted(target, [0])
    data = DiskFiles(target.path, "db01", "flat").data
    with data.open("r+b") as file:
        file.seek(place)
        file.write(b"!")
    assert recheck(target)[1] == [0]
    assert data.read_bytes() == CONTENT[0].ljust(SIZE, b"\0")


def test_data_that_was_cut_short_is_written_again(target: TargetFolder) -> None:
    interrupted(target, [0, 1, 2])
    os.truncate(DiskFiles(target.path, "db01", "flat").data, 2 * FRAME_BYTES)
    assert recheck(target)[1] == [0]


def test_bytes_that_the_journal_does_not_name_are_not_believed(target: TargetFolder) -> None:
    disk = examined(target)
    disk.open(target)
    scatter_write(disk.target.fd, CONTENT[3], planned()[0].pieces[3:4])
    write(disk, [0])
    disk.target.close()
    assert recheck(target)[1] == [0]


@pytest.mark.parametrize("format_", FORMATS)
def test_finished_disk_needs_nothing(target: TargetFolder, format_: str) -> None:
    finish(target, format_)
    disk, good = recheck(target, format_)
    assert (disk.needed_bytes(), good) == (0, list(range(len(CONTENT))))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("place", [0, FRAME_BYTES + 4096, 2 * FRAME_BYTES, -1])
def test_finished_disk_that_was_changed_is_refused_and_left_alone(
    target: TargetFolder, format_: str, place: int
) -> None:
    path = finish(target, format_)[0]
    with path.open("r+b") as file:
        place %= path.stat().st_size
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    changed = path.read_bytes()
    with pytest.raises(TargetExists, match=f"{path.name} is not as this recovery wrote it; move it away"):
        recheck(target, format_)
    assert path.read_bytes() == changed


@pytest.mark.parametrize("format_", ["flat", "vmfs"])
def test_descriptor_that_was_changed_is_refused(target: TargetFolder, format_: str) -> None:
    descriptor = finish(target, format_)[1]
    descriptor.write_bytes(descriptor.read_bytes() + b"\n")
    with pytest.raises(TargetExists, match="not as this recovery wrote it"):
        recheck(target, format_)


def test_a_piece_that_the_finished_disk_never_had_is_not_called_good(target: TargetFolder) -> None:
    finish(target, "raw", range(3))
    assert recheck(target, "raw")[1] == [0, 1, 2]


def finish(target: TargetFolder, format_: str, frames: Sequence[int] = range(len(CONTENT))) -> tuple[Path, ...]:
    disk = examined(target, format_)
    disk.open(target)
    write(disk, frames)
    disk.target.finish(lambda _: None)
    disk.target.close()
    return disk.files.outputs


def test_noted_frames_are_saved_once(target: TargetFolder) -> None:
    disk = examined(target)
    disk.note(bytes_written=512, bytes_fetched=300, applied=[Applied(4, 0, 0, 9)])
    disk.note(bytes_written=512, bytes_fetched=300, applied=())
    assert disk.take_unsaved() == [Applied(4, 0, 0, 9)]
    assert disk.take_unsaved() == []


def test_progress_counts_what_an_earlier_run_wrote(target: TargetFolder) -> None:
    told = Told()
    disk = examined(target, "stream", told)
    disk.bytes_resumed = 1024
    disk.note(bytes_written=512, bytes_fetched=300, applied=())
    assert told.told == [("db01", 1536, SIZE)]


def test_report_is_what_was_counted(target: TargetFolder) -> None:
    disk = examined(target)
    disk.note(bytes_written=512, bytes_fetched=300, applied=())
    report = disk.report(RecoveryPoint(1, 77, 5))
    assert (report.path, report.bytes_written, report.bytes_fetched) == (target.path / "db01.vmdk", 512, 300)
    assert (report.lsn, report.time_ns, report.damaged) == (77, 5, ())
