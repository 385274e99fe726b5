"""What is synced, and in which order: content before its name, a folder after what it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.durable import make_folders, new_file, remove, rename, replace_file, sync_folder

Synced = list[tuple[Path, list[str]]]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    """Every file and folder that is synced, each folder with the names that are in it then."""
    done: Synced = []
    fsync: Callable[[int], None] = os.fsync

    def recorded(fd: int) -> None:
        fsync(fd)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        done.append((path, sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []))

    monkeypatch.setattr(os, "fsync", recorded)
    return done


def test_each_missing_folder_is_synced_in_its_parent_before_the_next_is_made(tmp_path: Path, synced: Synced) -> None:
    make_folders(tmp_path / "a" / "b" / "c", mode=0o700)
    assert synced == [(tmp_path, ["a"]), (tmp_path / "a", ["b"]), (tmp_path / "a" / "b", ["c"])]
    assert all((tmp_path / path).stat().st_mode & 0o777 == 0o700 for path in ("a", "a/b", "a/b/c"))


def test_folders_that_exist_are_left_alone(tmp_path: Path, synced: Synced) -> None:
    (tmp_path / "a").mkdir(0o750)
    make_folders(tmp_path / "a")
    assert synced == []
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750


def test_a_file_where_a_folder_is_needed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_folders(tmp_path / "a" / "b")


def test_content_is_synced_whole(tmp_path: Path, synced: Synced) -> None:
    with new_file(tmp_path / "new") as file:
        file.write(b"content")
        assert (tmp_path / "new").stat().st_size == 0
    assert synced == [(tmp_path / "new", [])]
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_file_that_could_not_be_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "new") as file:
        file.write(bytes(1 // 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("standing", ["file", "link", "dangling link"])
def test_nothing_that_has_the_name_is_touched(tmp_path: Path, standing: str) -> None:
    other, path = tmp_path / "other", tmp_path / "new"
    if standing != "dangling link":
        other.write_bytes(b"theirs")
    if standing == "file":
        path.write_bytes(b"theirs")
    else:
        path.symlink_to(other)
    with pytest.raises(FileExistsError), new_file(path) as file:
        file.write(b"ours")
    assert path.is_symlink() == (standing != "file")
    assert path.exists() == (standing != "dangling link")
    assert not path.exists() or path.read_bytes() == b"theirs"


def test_a_rename_is_synced_under_the_new_name(tmp_path: Path, synced: Synced) -> None:
    (tmp_path / "old").write_bytes(b"new content")
    (tmp_path / "name").write_bytes(b"old content")
    rename(tmp_path / "old", tmp_path / "name")
    assert synced == [(tmp_path, ["name"])]
    assert (tmp_path / "name").read_bytes() == b"new content"


def test_a_removal_is_synced_and_idempotent(tmp_path: Path, synced: Synced) -> None:
    (tmp_path / "name").write_bytes(b"")
    remove(tmp_path / "name")
    remove(tmp_path / "name")
    assert synced == [(tmp_path, []), (tmp_path, [])]


def test_a_folder_that_is_none_cannot_be_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def test_a_replaced_file_is_whole_before_it_has_the_name(tmp_path: Path, synced: Synced) -> None:
    path, new = tmp_path / "file", tmp_path / "file.new"
    path.write_bytes(b"old")
    new.write_bytes(b"what a run that died left")
    replace_file(path, new, b"content")
    assert synced == [(new, []), (tmp_path, ["file"])]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"content", 0o600)
