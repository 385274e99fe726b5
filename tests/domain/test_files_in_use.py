"""A file that is removed, renamed or replaced is told for as long as its path leads elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.device import FileDevice, identity_of
from jetdr_core.domain.files_in_use import GONE, REPLACED, FileInUse, FilesInUse, HeldFile, KeyInUse, held_device
from jetdr_core.domain_key import KeyFile

DATA = b"d" * 4096
SINCE_NS = 7


@pytest.fixture
def device(tmp_path: Path) -> Iterator[FileDevice]:
    device = FileDevice(tmp_path / "disk", create_bytes=1 << 16, direct=False)
    device.write(0, DATA)
    yield device
    device.close()


def files_of(device: FileDevice) -> FilesInUse:
    def files() -> list[FileInUse]:
        return [*held_device("disk 'db01'", device.path, device, os.getpid())]

    return FilesInUse(files, now_ns=lambda: SINCE_NS)


def lost(files: FilesInUse) -> list[tuple[str, str]]:
    files.look()
    return [(one.path, one.reason) for one in files.lost]


def test_a_removed_file_is_told_with_the_command_that_saves_it(device: FileDevice) -> None:
    files = files_of(device)
    assert lost(files) == []
    os.unlink(device.path)
    assert lost(files) == [(device.path, GONE)]
    (found,) = files.lost
    assert (found.what, found.since_ns) == ("disk 'db01'", SINCE_NS)
    (descriptor,) = re.findall(r"cp --sparse=always (/proc/\d+/fd/\d+) COPY", found.remedy)
    assert Path(descriptor).read_bytes()[: len(DATA)] == DATA
    Path(device.path).write_bytes(Path(descriptor).read_bytes())
    assert lost(files) == [(device.path, REPLACED)], "a copy is not the file that is in use"


def test_a_renamed_file_is_found_under_its_new_name_and_the_end_of_that_is_seen(device: FileDevice) -> None:
    files = files_of(device)
    elsewhere = device.path + ".moved"
    os.rename(device.path, elsewhere)
    assert lost(files) == [(device.path, GONE)]
    assert f"it is {elsewhere} now" in files.lost[0].remedy
    os.rename(elsewhere, device.path)
    assert lost(files) == []


def test_a_file_that_is_replaced_by_a_rename_is_told(device: FileDevice, tmp_path: Path) -> None:
    files = files_of(device)
    other = tmp_path / "other"
    other.write_bytes(DATA)
    other.replace(device.path)
    assert lost(files) == [(device.path, REPLACED)]


def test_a_closed_device_is_not_asked(device: FileDevice) -> None:
    files = files_of(device)
    device.close()
    os.unlink(device.path)
    assert lost(files) == []


def test_a_key_file_that_is_lost_or_another_one_is_told(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "domain.key")
    file.make()
    key = KeyInUse.of(file)
    assert key is not None
    files = FilesInUse(lambda: [key])
    assert lost(files) == []
    aside = file.path.rename(tmp_path / "aside")
    assert lost(files) == [(str(file.path), GONE)]
    assert "copy" in files.lost[0].remedy
    file.make()
    assert lost(files) == [(str(file.path), "it holds another key")]
    file.path.write_bytes(b"no key")
    ((_, reason),) = lost(files)
    assert "is no key file" in reason
    aside.replace(file.path)
    assert lost(files) == []


def test_a_process_that_goes_on_with_the_file_before_is_told(tmp_path: Path) -> None:
    """A host component outlives its DRVA, and another file is put in the place of a disk meanwhile."""
    path = tmp_path / "disk"
    path.write_bytes(b"newest")
    with path.open("rb") as held, subprocess.Popen(["sleep", "60"], stdin=held) as host:
        identity = identity_of(os.stat(path))
        assert HeldFile("disk", str(path), identity, host.pid).look() == ("", "")
        (tmp_path / "older").write_bytes(b"older")
        (tmp_path / "older").rename(path)
        adopted = HeldFile("disk", str(path), identity_of(os.stat(path)), host.pid)
        reason, remedy = adopted.look()
        assert reason == f"process {host.pid} goes on with the file that was there before"
        assert remedy.endswith(f"cp --sparse=always /proc/{host.pid}/fd/0 COPY")
        host.kill()
