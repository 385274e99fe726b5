"""Which folders and files are believed: none that another user can change, or can make lead elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.errors import InvalidRequest
from jetdr_core.ownership import check_guarded, check_private, make_private, nearest_existing, open_own

STRANGER = 54321


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user needs root")


def below_one_that_all_may_write(tmp_path: Path) -> Path:
    (tmp_path / "open" / "ours").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    return tmp_path / "open" / "ours"


def below_one_that_the_group_may_write(tmp_path: Path) -> Path:
    (tmp_path / "open" / "ours").mkdir(parents=True)
    (tmp_path / "open").chmod(0o770)
    return tmp_path / "open" / "ours"


def that_all_may_write(tmp_path: Path) -> Path:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o707)
    return tmp_path / "open"


def file_that_all_may_write(tmp_path: Path) -> Path:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o606)
    return tmp_path / "open"


def not_there_in_one_that_all_may_write(tmp_path: Path) -> Path:
    return that_all_may_write(tmp_path) / "ours" / "missing"


def of_a_stranger(tmp_path: Path) -> Path:
    as_root()
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    return tmp_path / "theirs"


def below_one_of_a_stranger(tmp_path: Path) -> Path:
    folder = of_a_stranger(tmp_path) / "ours"
    folder.mkdir(mode=0o700)
    return folder


def through_a_link_of_a_stranger(tmp_path: Path) -> Path:
    """In a folder like ``/tmp``: the link can be made anew by the stranger, and lead elsewhere."""
    as_root()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "tmp" / "link").symlink_to(tmp_path / "ours")
    os.lchown(tmp_path / "tmp" / "link", STRANGER, STRANGER)
    return tmp_path / "tmp" / "link"


def through_links_into_one_that_all_may_write(tmp_path: Path) -> Path:
    (tmp_path / "first").symlink_to("second/../second")
    (tmp_path / "second").symlink_to(below_one_that_all_may_write(tmp_path))
    return tmp_path / "first"


@pytest.mark.parametrize("check", [check_guarded, check_private, make_private])
@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (below_one_that_all_may_write, "open may be changed by others (mode 0777)"),
        (below_one_that_the_group_may_write, "open may be changed by others (mode 0770)"),
        (that_all_may_write, "open may be changed by others (mode 0707)"),
        (file_that_all_may_write, "open may be changed by others (mode 0606)"),
        (not_there_in_one_that_all_may_write, "open may be changed by others (mode 0707)"),
        (of_a_stranger, f"theirs belongs to user {STRANGER}"),
        (below_one_of_a_stranger, f"theirs belongs to user {STRANGER}"),
        (through_a_link_of_a_stranger, f"link belongs to user {STRANGER}"),
        (through_links_into_one_that_all_may_write, "open may be changed by others (mode 0777)"),
    ],
)
def test_what_another_user_can_change_is_refused_with_name_reason_and_remedy(
    tmp_path: Path, made: Callable[[Path], Path], reason: str, check: Callable[[str, Path], None]
) -> None:
    path = made(tmp_path)
    existed = path.exists()
    with pytest.raises(InvalidRequest) as caught:
        check("state_dir", path)
    said = str(caught.value)
    assert said.startswith(f"state_dir {path}")
    assert reason in said
    assert "chmod go-w" in said
    assert path.exists() == existed


def test_folders_like_tmp_are_no_reason(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "ours").mkdir(parents=True)
    (tmp_path / "tmp").chmod(0o1777)
    check_guarded("state_dir", tmp_path / "tmp" / "ours")
    (tmp_path / "link").symlink_to("tmp/ours/../ours")
    check_guarded("state_dir", tmp_path / "link" / "missing" / "too")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    check_guarded("state_dir", tmp_path / "a")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755])
def test_a_private_folder_is_closed_to_others(tmp_path: Path, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    check_guarded("runtime_dir", tmp_path / "run")
    for check in (check_private, make_private):
        told = rf"runtime_dir .* to user \d+ with mode {mode:04o}: it is a folder on \w+; chown \d+ and chmod 0700 /"
        with pytest.raises(InvalidRequest, match=told):
            check("runtime_dir", tmp_path / "run")


def test_a_file_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch(mode=0o600)
    with pytest.raises(InvalidRequest, match="is no folder"):
        check_private("runtime_dir", tmp_path / "run")


def test_a_private_folder_is_made(tmp_path: Path) -> None:
    check_private("runtime_dir", tmp_path / "a" / "b")
    make_private("runtime_dir", tmp_path / "a" / "b")
    make_private("runtime_dir", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.with_name("other").touch(0o600)
    path.symlink_to("other")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_file_that_all_may_write(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def a_file_of_a_stranger(path: Path) -> None:
    as_root()
    path.touch(0o600)
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize("plant", [a_pipe, a_link, a_folder, a_file_that_all_may_write, a_file_of_a_stranger])
def test_what_no_run_of_this_user_made_is_not_opened(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "left")
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
        with pytest.raises(
            InvalidRequest, match=r"left (is|belongs|may be) .*: no run of this user made it; remove it"
        ):
            open_own(tmp_path / "left", flags)


def test_a_file_on_a_file_system_that_gives_files_to_another_user_is_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left").touch(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)  # as on a share that maps root to nobody
    os.close(open_own(tmp_path / "left", os.O_RDONLY))
    assert os.listdir(tmp_path) == ["left"]


def test_what_is_to_be_made_lies_in_the_nearest_folder_that_exists_also_where_a_link_leads(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "dangling").symlink_to(elsewhere / "missing" / "deeper")
    (tmp_path / "link").symlink_to(elsewhere)
    found = {name: nearest_existing(tmp_path / name) for name in ("link", "dangling", "dangling/a", "new/b", "link/c")}
    assert found == {
        "link": elsewhere,
        "dangling": elsewhere,
        "dangling/a": elsewhere,
        "new/b": tmp_path,
        "link/c": elsewhere,
    }
