"""The target directory: nothing is overwritten, an interrupted run is recognised, a finished disk is announced once."""

from __future__ import annotations

import dataclasses
import os
import resource
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from jetdr_core.errors import DeviceFull, InvalidRequest, TargetExists, TargetFull
from jetdr_core.rehydrate.config_files import ConfigFiles
from jetdr_core.rehydrate.disk_files import FORMATS, DiskFiles, check_names
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.standing import Progress, Standing, examine
from jetdr_core.rehydrate.target import TargetDisk, check_space

SIZE = 1 << 20
IDENTITY = RecoveryIdentity("5a", 1, 77, 3, "db01", SIZE, "flat", "ab" * 16)


def files_in(directory: Path, format_: str = "flat", name: str = "db01") -> DiskFiles:
    return DiskFiles(directory, name, format_)


def opened(files: DiskFiles) -> TargetDisk:
    identity = dataclasses.replace(IDENTITY, format=files.format)
    return TargetDisk(files, identity, examine(files, identity))


def nothing(_: int) -> None: ...


@pytest.mark.parametrize("format_", FORMATS)
def test_finished_disk_has_its_name_and_nothing_else_is_left(tmp_path: Path, format_: str) -> None:
    target = opened(files_in(tmp_path, format_))
    os.pwrite(target.fd, b"x" * 512, 4096)
    target.finish(nothing)
    target.forget()
    target.close()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in target.files.outputs}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("format_", FORMATS)
def test_unfinished_disk_is_never_visible_under_its_name(tmp_path: Path, format_: str) -> None:
    target = opened(files_in(tmp_path, format_))
    target.save([Applied(1, 0, 3)])
    target.close()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_interrupted_run_is_continued_with_what_was_saved(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path))
    target.save([Applied(1, 0, 3)])
    target.save([Applied(2, 5, 5), Applied(3, 0, 0)])
    target.close()
    standing = examine(target.files, IDENTITY)
    assert standing.progress is Progress.PARTIAL
    assert standing.applied == [Applied(1, 0, 3), Applied(2, 5, 5), Applied(3, 0, 0)]
    again = TargetDisk(target.files, IDENTITY, standing)
    again.save([Applied(9, 9, 9)])
    again.close()
    assert examine(target.files, IDENTITY).applied[-1] == Applied(9, 9, 9)


@pytest.mark.parametrize("name", ["db01.vmdk", "db01-flat.vmdk", ".db01.partial"])
def test_what_exists_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(TargetExists, match=r"exists.*remove it"):
        examine(files_in(tmp_path), IDENTITY)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_dangling_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db01-flat.vmdk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetExists):
        examine(files_in(tmp_path), IDENTITY)


def test_journal_of_another_recovery_is_refused(tmp_path: Path) -> None:
    opened(files_in(tmp_path)).close()
    with pytest.raises(TargetExists, match=r"another recovery \(lsn 77\).*to give it up"):
        examine(files_in(tmp_path), dataclasses.replace(IDENTITY, lsn=78))


def test_journal_without_a_partial_file_holds_nobody_up(tmp_path: Path) -> None:
    opened(files_in(tmp_path)).close()
    (tmp_path / ".db01.partial").unlink()
    other = dataclasses.replace(IDENTITY, lsn=78)
    standing = examine(files_in(tmp_path), other)
    assert standing.progress is Progress.NONE
    TargetDisk(files_in(tmp_path), other, standing).close()
    assert examine(files_in(tmp_path), other).progress is Progress.PARTIAL


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_zeros_without_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_tebibyte(path: Path) -> None:
    path.write_bytes(b"precious")
    os.truncate(path, 1 << 40)


def a_tebibyte_of_zeros(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def a_file(path: Path) -> None:
    path.write_bytes(b"precious")


def a_file_that_all_may_write(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def a_file_of_a_stranger(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user needs root")
    path.touch()
    os.chown(path, 54321, 54321)


PLANTED = [
    a_pipe,
    a_link_to_zeros_without_end,
    a_folder,
    a_tebibyte,
    a_tebibyte_of_zeros,
    a_file,
    a_file_that_all_may_write,
    a_file_of_a_stranger,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_what_no_run_of_ours_can_have_left_is_no_journal_and_stays(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / ".db01.journal")
    before = (tmp_path / ".db01.journal").lstat()
    with pytest.raises(TargetExists, match=r"/.db01.journal (is|belongs|may be) .*; remove it"):
        examine(files_in(tmp_path), IDENTITY)
    with (
        pytest.raises(TargetExists, match=r"/.db01.journal ")
        if plant not in {a_tebibyte, a_tebibyte_of_zeros, a_file}
        else nullcontext()
    ):
        TargetDisk(files_in(tmp_path), IDENTITY, Standing(Progress.FINISHED, None)).close()
    after = (tmp_path / ".db01.journal").lstat()
    assert (after.st_mode, after.st_ino, after.st_size) == (before.st_mode, before.st_ino, before.st_size)


@pytest.mark.parametrize("plant", [a_pipe, a_link_to_zeros_without_end, a_file_of_a_stranger])
def test_a_partial_file_that_was_put_in_place_of_ours_is_not_written(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    target = opened(files_in(tmp_path))
    target.close()
    target.files.partial.unlink()
    plant(target.files.partial)
    with pytest.raises(TargetExists, match=r"/.db01.partial (is|belongs) .*: no run of this user made it; remove it"):
        opened(target.files)


def test_a_journal_on_a_file_system_that_gives_files_to_another_user_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(files_in(tmp_path)).close()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # as on a share that maps root to nobody
    opened(files_in(tmp_path)).close()
    assert {path.name for path in tmp_path.iterdir()} == {".db01.journal", ".db01.partial"}


@pytest.mark.parametrize("left", [b"", b"JDR", bytes(64)])
def test_a_journal_that_was_begun_and_not_yet_durable_holds_nobody_up(tmp_path: Path, left: bytes) -> None:
    (tmp_path / ".db01.journal").write_bytes(left)
    opened(files_in(tmp_path)).close()


def test_a_disk_that_the_file_system_cannot_hold_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(DeviceFull, match=rf"/.db01.partial: making a disk of {SIZE} bytes failed: .*ulimit -f"):
            opened(files_in(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_no_disk_s_hidden_file_is_another_s(tmp_path: Path) -> None:
    names = ["a", "a.vmdk", "a.vmdk.partial", "a.partial", "a.journal", "a.announcing", "a.config"]
    files = [files_in(tmp_path, format_, name) for name in names for format_ in FORMATS]
    hidden = {(one.name, path) for one in files for path in (one.partial, one.journal, one.announcing)}
    assert len({path for _, path in hidden}) == len(hidden) == 3 * len(names)


def test_a_disk_and_a_configuration_file_of_one_name_do_not_meet(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path, "raw"))
    ConfigFiles(tmp_path, {"db01": "memsize = 4"}).write()
    target.finish(nothing)
    target.forget()
    target.close()
    assert {path.name for path in tmp_path.iterdir()} == {"db01", "db01.raw"}


def test_running_recovery_keeps_a_second_one_out(tmp_path: Path) -> None:
    first = opened(files_in(tmp_path))
    with pytest.raises(TargetExists, match="in use"):
        opened(files_in(tmp_path))
    first.close()
    opened(files_in(tmp_path)).close()


def test_run_interrupted_between_extent_and_descriptor_writes_the_descriptor(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path))
    target.finish(nothing)
    target.close()
    (tmp_path / "db01.vmdk").unlink()
    assert examine(target.files, IDENTITY).progress is Progress.RENAMED
    again = opened(target.files)
    again.finish(nothing)
    again.close()
    assert 'FLAT "db01-flat.vmdk"' in (tmp_path / "db01.vmdk").read_text()


@pytest.mark.parametrize("format_", FORMATS)
def test_run_interrupted_after_one_disk_knows_that_it_is_finished(tmp_path: Path, format_: str) -> None:
    target = opened(files_in(tmp_path, format_))
    target.finish(nothing)
    target.close()
    assert examine(target.files, target.identity).progress is Progress.FINISHED
    again = opened(target.files)
    again.finish(nothing)
    again.close()


def test_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path, "raw"))
    (tmp_path / "db01.raw").write_bytes(b"precious")
    with pytest.raises(TargetExists, match="appeared"):
        target.finish(nothing)
    target.close()
    assert (tmp_path / "db01.raw").read_bytes() == b"precious"


def test_space_is_compared_with_the_free_bytes(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there" / "yet", 4096)
    with pytest.raises(TargetFull, match=r"bytes free; this recovery needs 1152921504607895552") as raised:
        check_space(tmp_path, 1 << 60)
    assert raised.value.facts["needed_bytes"] == (1 << 60) + (1 << 20)


@pytest.mark.parametrize("name", ["../etc", "a/b", ".hidden", "", "x" * 65])
def test_names_from_the_store_never_become_paths_unchecked(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid"):
        check_names([files_in(tmp_path, name=name)], [])
    with pytest.raises(InvalidRequest, match="not valid"):
        check_names([], [name[:5] * 60 if len(name) > 60 else name])


def test_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    disks = [files_in(tmp_path, name="db"), files_in(tmp_path, name="db-flat")]
    with pytest.raises(InvalidRequest, match=r"two outputs .* 'db-flat.vmdk'"):
        check_names(disks, [])
    with pytest.raises(InvalidRequest, match=r"'db.vmdk'"):
        check_names(disks[:1], ["db.vmdk"])
    check_names([files_in(tmp_path, "raw", disk.name) for disk in disks], ["db.vmx"])


def test_config_file_is_written_once_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "vm.vmx"
    ConfigFiles(tmp_path, {"vm.vmx": "memsize = 4"}).write()
    ConfigFiles(tmp_path, {"vm.vmx": "memsize = 4"}).write()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = ConfigFiles(tmp_path, {"vm.vmx": "memsize = 8"})
    for refused in (other.check, other.write):
        with pytest.raises(TargetExists):
            refused()
    assert path.read_bytes() == b"memsize = 4"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("plant", [a_pipe, a_link_to_zeros_without_end, a_folder, a_tebibyte, a_file])
def test_something_else_with_the_name_of_a_config_file_is_refused_unread(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / "vm.vmx")
    with pytest.raises(TargetExists, match=r"vm.vmx exists; choose another target or remove it"):
        ConfigFiles(tmp_path, {"vm.vmx": "memsize = 4"}).check()
