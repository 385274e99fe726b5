"""What store, state folder and primaries say of a log in write-back, wherever an opening was cut off."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.domain.disk_identity import read_stamp, write_stamp
from jetdr_core.domain.generation import UNKNOWN_ID, Generation, Word
from jetdr_core.domain.hosting.generation_file import GenerationFile, LogReach
from jetdr_core.domain.hosting.witnesses import Witnesses
from jetdr_core.errors import InvalidRequest

FIRST, SECOND, THIRD = (Generation(epoch, bytes([epoch]) * 16) for epoch in (1, 2, 3))


@pytest.fixture
def disk(tmp_path: Path) -> str:
    (tmp_path / "disk").write_bytes(bytes(512))
    return str(tmp_path / "disk")


def served(folder: Path, disk: str) -> bytes:
    """A domain that was served under the first generation; returns the identity of its state folder."""
    witnesses = Witnesses(folder, Generation(0), UNKNOWN_ID, Generation(0))
    serve(witnesses, FIRST, disk)
    return witnesses.state_id


def serve(witnesses: Witnesses, generation: Generation, *disks: str) -> None:
    witnesses.claiming(generation)
    witnesses.begin(disks)
    for disk in disks:
        witnesses.stamp(disk)
    witnesses.note_stamps()


def words(witnesses: Witnesses, disk: str) -> tuple[Word, Word, Word]:
    return witnesses.of_chain(), witnesses.of_state(), witnesses.of_disks([disk])


AGREED = (Word.AGREES,) * 3


def test_an_opening_that_was_cut_off_is_no_mismatch(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    assert words(Witnesses(tmp_path, FIRST, state_id, FIRST), disk) == AGREED
    Witnesses(tmp_path, FIRST, state_id, FIRST).claiming(SECOND)
    assert words(Witnesses(tmp_path, FIRST, state_id, FIRST), disk) == AGREED  # before the claim
    assert words(Witnesses(tmp_path, FIRST, state_id, SECOND), disk) == AGREED  # before the log
    Witnesses(tmp_path, FIRST, state_id, SECOND).claiming(THIRD)
    for log in (FIRST, SECOND, THIRD):
        for stamp in (FIRST, SECOND, THIRD):
            write_stamp(disk, stamp)
            assert words(Witnesses(tmp_path, log, state_id, THIRD), disk) == AGREED


def test_what_was_served_since_is_newer(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    serve(Witnesses(tmp_path, FIRST, state_id, FIRST), SECOND, disk)
    assert words(Witnesses(tmp_path, FIRST, state_id, SECOND), disk) == (Word.NEWER,) * 3
    assert words(Witnesses(tmp_path, FIRST, state_id, FIRST), disk) == (Word.AGREES, Word.NEWER, Word.NEWER)


def test_a_domain_that_ended_before_its_disks_were_stamped_is_no_mismatch(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    second = Witnesses(tmp_path, FIRST, state_id, FIRST)
    second.claiming(SECOND)
    second.begin([disk])
    agreed = (Word.AGREES, Word.AGREES, Word.SILENT)
    assert words(Witnesses(tmp_path, SECOND, state_id, SECOND), disk) == agreed
    assert words(Witnesses(tmp_path, FIRST, state_id, SECOND), disk)[:2] == (Word.NEWER, Word.NEWER)  # an older log
    Witnesses(tmp_path, SECOND, state_id, SECOND).claiming(THIRD)
    for log in (SECOND, THIRD):  # the next opening was cut off as well
        assert words(Witnesses(tmp_path, log, state_id, THIRD), disk) == agreed
    write_stamp(disk, Generation(7, bytes(range(16))))
    assert Witnesses(tmp_path, SECOND, state_id, SECOND).of_disks([disk]) is Word.NEWER


def test_only_a_disk_that_took_no_stamp_may_have_an_older_one(tmp_path: Path, disk: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(512))
    state_id = served(tmp_path, disk)
    second = Witnesses(tmp_path, FIRST, state_id, FIRST)
    second.claiming(SECOND)
    second.begin([disk, str(other)])
    second.stamp(disk)
    second.note_stamps()
    third = Witnesses(tmp_path, SECOND, state_id, SECOND)
    assert third.of_disks([str(other)]) is Word.SILENT
    assert third.of_disks([disk]) is Word.AGREES
    write_stamp(disk, FIRST)  # it is brought back from a copy
    assert third.of_disks([disk]) is Word.OLDER


def test_a_domain_that_has_ended_leaves_file_and_disks_to_the_next_opening(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    second = Witnesses(tmp_path, FIRST, state_id, FIRST)
    second.claiming(SECOND)
    second.begin([disk])
    second.end_stamps()
    second.leave()
    serve(Witnesses(tmp_path, SECOND, state_id, SECOND), THIRD, disk)
    second.stamp(disk)  # it hung until now
    second.note_stamps()
    second.note_lsn(99)
    assert words(Witnesses(tmp_path, THIRD, state_id, THIRD), disk) == AGREED


def test_within_a_generation_an_older_log_and_an_older_state_folder_are_noticed(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    running = Witnesses(tmp_path, FIRST, state_id, FIRST, LogReach(3, 7))
    serve(running, SECOND, disk)
    assert running.lsn == 7
    running.note_lsn(20)
    running.note_lsn(15)  # never back
    assert running.lsn == 20
    for tail, head, word in [
        (0, 20, Word.AGREES),
        (20, 20, Word.AGREES),
        (0, 30, Word.AGREES),
        (0, 19, Word.NEWER),
        (21, 30, Word.OLDER),
    ]:
        assert Witnesses(tmp_path, SECOND, state_id, SECOND, LogReach(tail, head)).of_state() is word
    running.leave()
    running.note_lsn(25)
    assert Witnesses(tmp_path, SECOND, state_id, SECOND, LogReach(0, 20)).of_state() is Word.AGREES


def test_a_log_that_was_given_up_is_not_believed_if_the_opening_is_cut_off(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    serve(Witnesses(tmp_path, FIRST, state_id, FIRST), SECOND, disk)
    Witnesses(tmp_path, FIRST, state_id, SECOND).claiming(THIRD, believed=False)  # somebody chose that log
    assert words(Witnesses(tmp_path, FIRST, state_id, THIRD), disk)[1] is Word.NEWER


@pytest.mark.parametrize("spoil", ["missing", "damaged", "nested", "of another domain"])
def test_a_state_folder_that_cannot_be_believed_is_missing(tmp_path: Path, disk: str, spoil: str) -> None:
    state_id = served(tmp_path, disk)
    path = GenerationFile(tmp_path).path
    if spoil == "missing":
        path.unlink()
    elif spoil == "damaged":
        path.write_bytes(path.read_bytes().replace(b"1.01", b"2.01"))
    elif spoil == "nested":
        path.write_bytes(b"[" * 100_000 + b"]" * 100_000)
    else:
        state_id = bytes(15) + b"\1"
    assert Witnesses(tmp_path, FIRST, state_id, FIRST).of_state() is Word.MISSING


def test_a_disk_without_its_stamp_is_another_disk(tmp_path: Path, disk: str) -> None:
    state_id = served(tmp_path, disk)
    Path(disk).unlink()
    Path(f"{disk}.jetdr").unlink(missing_ok=True)
    Path(disk).write_bytes(bytes(512))
    assert read_stamp(disk) is None
    assert Witnesses(tmp_path, FIRST, state_id, FIRST).of_disks([disk]) is Word.MISSING


def test_a_stamp_lies_beside_a_disk_whose_file_takes_none(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", _no_attributes)
        write_stamp(disk, FIRST)
    assert Path(f"{disk}.jetdr").exists()
    assert read_stamp(disk) == FIRST
    write_stamp(disk, SECOND)
    assert read_stamp(disk) == SECOND


def test_a_stamp_beside_a_disk_says_nothing_of_another_that_is_restored_there(
    disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setxattr", _no_attributes)
    write_stamp(disk, FIRST)
    Path(disk).rename(f"{disk}.moved")
    Path(disk).write_bytes(bytes(512))
    assert read_stamp(disk) is None
    Path(f"{disk}.moved").rename(disk)
    assert read_stamp(disk) == FIRST
    Path(disk).rename(f"{disk}.moved")
    Path(disk).write_bytes(bytes(512))
    write_stamp(disk, SECOND)
    assert read_stamp(disk) == SECOND
    monkeypatch.undo()
    write_stamp(disk, THIRD)
    assert read_stamp(disk) == THIRD


def a_disk_of_somebody(path: Path) -> None:
    path.write_bytes(b"a virtual machine")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("plant", [a_disk_of_somebody, a_pipe, a_link])
@pytest.mark.parametrize("suffix", [".jetdr", ".jetdr.new"])
def test_what_is_no_stamp_is_neither_read_nor_replaced(
    disk: str, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], suffix: str
) -> None:
    write_stamp(disk, FIRST)
    plant(Path(disk + suffix))
    before = os.lstat(disk + suffix)
    assert read_stamp(disk) == FIRST
    write_stamp(disk, SECOND)
    assert read_stamp(disk) == SECOND
    with monkeypatch.context() as patch, pytest.raises(InvalidRequest, match=f"{suffix} has the name of the stamp of"):
        patch.setattr(os, "setxattr", _no_attributes)
        write_stamp(disk, FIRST)
    after = os.lstat(disk + suffix)
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)


@pytest.mark.parametrize("left", [b"", b"12", b"12.0f", b"12." + b"0f" * 16 + b" 17", bytes(40)])
def test_a_stamp_that_was_begun_when_its_writer_died_holds_nobody_up(
    disk: str, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    Path(f"{disk}.jetdr.new").write_bytes(left)
    monkeypatch.setattr(os, "setxattr", _no_attributes)
    write_stamp(disk, FIRST)
    assert read_stamp(disk) == FIRST


@pytest.mark.parametrize("plant", [a_disk_of_somebody, a_pipe, a_link])
def test_a_disk_whose_stamp_has_no_place_is_refused_before_the_claim(
    tmp_path: Path, disk: str, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None]
) -> None:
    plant(Path(f"{disk}.jetdr"))
    assert Witnesses(tmp_path, FIRST, UNKNOWN_ID, FIRST).of_disks([disk]) is Word.SILENT
    monkeypatch.setattr(os, "getxattr", _no_attributes)
    with pytest.raises(InvalidRequest, match=r"\.jetdr has the name of the stamp of"):
        Witnesses(tmp_path, FIRST, UNKNOWN_ID, FIRST).of_disks([disk])


def test_a_stamp_in_the_file_is_not_hidden_by_what_cannot_be_read_beside_it(tmp_path: Path) -> None:
    disk = tmp_path / ("d" * 252)  # so that the name of the file beside it is too long
    disk.write_bytes(bytes(512))
    write_stamp(str(disk), FIRST)
    assert read_stamp(str(disk)) == FIRST
    assert not [path for path in tmp_path.iterdir() if path != disk]


def _no_attributes(*_: object) -> None:
    raise OSError(95, "Operation not supported")
