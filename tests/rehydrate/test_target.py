"""The target directory: nothing is overwritten, an interrupted run is recognised, a finished disk is announced once."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
from pathlib import Path

import pytest

from jetdr_core.errors import InvalidRequest, TargetExists, TargetFull
from jetdr_core.rehydrate.config_files import ConfigFiles
from jetdr_core.rehydrate.disk_files import FORMATS, DiskFiles, check_names
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.standing import Progress, Standing, examine
from jetdr_core.rehydrate.target import TargetDisk, check_space
from jetdr_core.rehydrate.target_folder import TargetFolder

SIZE = 1 << 20
IDENTITY = RecoveryIdentity("5a", 1, 77, 3, "db01", SIZE, "flat", "ab" * 16)
FRAMES = 100


def files_in(directory: Path, format_: str = "flat", name: str = "db01") -> DiskFiles:
    return DiskFiles(directory, name, format_)


def seen(files: DiskFiles, identity: RecoveryIdentity = IDENTITY) -> Standing:
    with TargetFolder.make(files.directory) as folder:
        return examine(folder, files, identity, FRAMES)


def opened(files: DiskFiles, identity: RecoveryIdentity = IDENTITY, standing: Standing | None = None) -> TargetDisk:
    identity = dataclasses.replace(identity, format=files.format, disk_name=files.name)
    folder = TargetFolder.make(files.directory)
    return TargetDisk(
        folder, files, identity, standing or seen(files, identity), lambda: examine(folder, files, identity, FRAMES)
    )


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
    target.save([Applied(1, 0, 3, 1)])
    target.close()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_interrupted_run_is_continued_with_what_was_saved(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path))
    target.save([Applied(1, 0, 3, 7)])
    target.save([Applied(2, 5, 5, 8), Applied(3, 0, 0, 2**64 - 1)])
    target.close()
    standing = seen(target.files)
    assert standing.progress is Progress.PARTIAL
    assert standing.applied.tolist() == [(1, 0, 3, 7), (2, 5, 5, 8), (3, 0, 0, 2**64 - 1)]
    again = opened(target.files, standing=standing)
    again.save([Applied(9, 9, 9, 9)])
    again.close()
    assert seen(target.files).applied.tolist()[-1] == (9, 9, 9, 9)


@pytest.mark.parametrize("name", ["db01.vmdk", "db01-flat.vmdk"])
def test_what_exists_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(TargetExists, match=r"exists.*remove it"):
        seen(files_in(tmp_path))
    assert (tmp_path / name).read_bytes() == b"precious"


def test_data_without_a_journal_is_refused(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.work.mkdir(parents=True)
    files.data.write_bytes(b"whose?")
    with pytest.raises(TargetExists, match=r"db01.disk/data has no journal; remove .*/db01.disk, or choose"):
        seen(files)


@pytest.mark.parametrize("damage", [b"", bytes(99), b"junk" * 40, b"JDRRCVJ\0\2\0\0\0\4\0\0\0nullxxxxxxxx"])
def test_damaged_journal_is_refused(tmp_path: Path, damage: bytes) -> None:
    target = opened(files_in(tmp_path))
    target.close()
    files = target.files
    files.journal.write_bytes(damage)
    with pytest.raises(TargetExists, match=r"journal is damaged, or no journal; remove it"):
        seen(files)


def test_dangling_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db01-flat.vmdk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetExists):
        seen(files_in(tmp_path))


def test_journal_of_another_recovery_is_refused(tmp_path: Path) -> None:
    opened(files_in(tmp_path)).close()
    with pytest.raises(TargetExists, match=r"another recovery \(lsn 77\).*remove .*/db01.disk to give it up"):
        seen(files_in(tmp_path), dataclasses.replace(IDENTITY, lsn=78))


def test_what_the_message_says_gives_a_recovery_up(tmp_path: Path) -> None:
    opened(files_in(tmp_path)).close()
    shutil.rmtree(tmp_path / ".jetdr-recovery/db01.disk")
    opened(files_in(tmp_path), dataclasses.replace(IDENTITY, lsn=78)).close()


def test_journal_without_data_holds_nobody_up(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path))
    target.close()
    files = target.files
    files.data.unlink()
    other = dataclasses.replace(IDENTITY, lsn=78)
    assert seen(files, other).progress is Progress.NONE
    opened(files, other).close()
    assert seen(files, other).progress is Progress.PARTIAL


def test_running_recovery_keeps_a_second_one_out(tmp_path: Path) -> None:
    first = opened(files_in(tmp_path))
    with pytest.raises(TargetExists, match="in use by a recovery that is running"):
        opened(files_in(tmp_path))
    first.close()
    opened(files_in(tmp_path)).close()


def test_what_changed_between_looking_and_locking_is_not_believed(tmp_path: Path) -> None:
    before = seen(files_in(tmp_path))
    opened(files_in(tmp_path)).close()
    with pytest.raises(TargetExists, match="changed meanwhile"):
        opened(files_in(tmp_path), standing=before)


def test_recoveries_of_different_disks_share_a_target(tmp_path: Path) -> None:
    one, other = opened(files_in(tmp_path, "raw", "one")), opened(files_in(tmp_path, "raw", "other"))
    for target in (one, other):
        target.finish(nothing)
        target.forget()
        target.close()
    assert {path.name for path in tmp_path.iterdir()} == {"one.raw", "other.raw"}


def test_run_interrupted_between_extent_and_descriptor_writes_the_descriptor(tmp_path: Path) -> None:
    target = opened(files_in(tmp_path))
    target.finish(nothing)
    target.close()
    (tmp_path / "db01.vmdk").unlink()
    assert seen(target.files).progress is Progress.RENAMED
    again = opened(target.files)
    again.finish(nothing)
    again.close()
    assert 'FLAT "db01-flat.vmdk"' in (tmp_path / "db01.vmdk").read_text()


@pytest.mark.parametrize("format_", FORMATS)
def test_run_interrupted_after_one_disk_knows_that_it_is_finished(tmp_path: Path, format_: str) -> None:
    target = opened(files_in(tmp_path, format_))
    target.finish(nothing)
    target.close()
    assert seen(target.files, target.identity).progress is Progress.FINISHED
    again = opened(target.files)
    again.finish(nothing)
    again.close()


@pytest.mark.parametrize("format_", FORMATS)
def test_output_that_somebody_put_beside_unfinished_data_is_not_taken_for_the_disk(
    tmp_path: Path, format_: str
) -> None:
    target = opened(files_in(tmp_path, format_))
    target.close()
    for path in target.files.outputs:
        path.write_bytes(b"precious")
    with pytest.raises(TargetExists, match="exists"):
        seen(target.files, target.identity)


@pytest.mark.parametrize("format_", FORMATS)
def test_failed_start_leaves_nothing(tmp_path: Path, format_: str) -> None:
    target = opened(files_in(tmp_path, format_))
    target.withdraw()
    target.close()
    assert list(tmp_path.iterdir()) == []


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


def test_config_file_is_written_once_and_never_replaced(tmp_path: Path) -> None:
    path, work = tmp_path / "vm.vmx", tmp_path / "work"
    with TargetFolder.make(tmp_path) as target, TargetFolder.make(work) as partial:
        ConfigFiles(tmp_path, {"vm.vmx": "memsize = 4"}).write(target, partial)
        ConfigFiles(tmp_path, {"vm.vmx": "memsize = 4"}).write(target, partial)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        other = ConfigFiles(tmp_path, {"vm.vmx": "memsize = 8"})
        with pytest.raises(TargetExists):
            other.check(target)
        with pytest.raises(TargetExists):
            other.write(target, partial)
    assert path.read_bytes() == b"memsize = 4"
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("name", ["db01", "db01.vmdk"])
def test_recovery_of_an_earlier_release_is_refused_by_name(tmp_path: Path, name: str) -> None:
    journal = Path(__file__).parents[1] / "golden/recovery-journal-v1.bin"
    shutil.copy(journal, tmp_path / f".{name}.journal")
    (tmp_path / f".{name}.partial").write_bytes(bytes(SIZE))
    with pytest.raises(TargetExists, match=rf"\.{name}\.journal belongs to .* an earlier release.*remove .*\.partial"):
        seen(files_in(tmp_path, name=name))
    assert len(list(tmp_path.iterdir())) == 2


def test_zeros_where_an_earlier_release_kept_its_journal_are_no_recovery(tmp_path: Path) -> None:
    (tmp_path / ".db01.journal").write_bytes(bytes(4096))
    assert seen(files_in(tmp_path)).progress is Progress.NONE
