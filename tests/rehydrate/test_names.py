"""The files of a recovery cannot be those of another disk of it: over all pairs of names that a domain may give."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from jetdr_core._kernels import scatter_write
from jetdr_core.errors import InvalidRequest
from jetdr_core.extent import PIECE
from jetdr_core.identity import is_name
from jetdr_core.rehydrate.disk_files import ANNOUNCING, DATA, FORMATS, JOURNAL, WORK, DiskFiles, check_names
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.standing import examine
from jetdr_core.rehydrate.target import TargetDisk
from jetdr_core.rehydrate.target_folder import TargetFolder
from tests.vmdk.stream_walk import walk

SIZE = 128 << 10
IDENTITY = RecoveryIdentity("5a", 1, 77, 3, "", SIZE, "", "ab" * 16)
SUFFIXES = (
    "",
    ".",
    ".vmdk",
    "-flat",
    "-flat.vmdk",
    ".raw",
    ".partial",
    ".journal",
    ".vmdk.partial",
    "-flat.vmdk.partial",
)
NAMES = [
    *(f"a{suffix}" for suffix in SUFFIXES),
    *("A", "A.vmdk", "a.VMDK", "a-flat-flat", "x" * 64, "x" * 63),
    *(DATA, JOURNAL, ANNOUNCING, WORK.removeprefix("."), f"a{WORK}"),
]
CONFIGS = [*NAMES, *(f"{name}.vmdk" for name in NAMES), "a .vmdk", "ä.vmx", "a\u0308.vmx", "vm.vmx.", "vm.vmx"]


def test_all_names_are_names() -> None:
    assert all(map(is_name, NAMES))


@pytest.mark.parametrize("format_", FORMATS)
def test_paths_of_two_disks_are_different_or_refused(format_: str) -> None:
    """Also where case does not count, and where dots and spaces at the end of a name do not."""
    for pair in itertools.combinations(NAMES, 2):
        disks = [DiskFiles(Path("/target"), name, format_) for name in pair]
        paths = [{str(path).lower().rstrip(". ") for path in every_path(files)} for files in disks]
        if paths[0] & paths[1]:
            with pytest.raises(InvalidRequest, match="two outputs of this recovery"):
                check_names(disks, [])
        else:
            check_names(disks, [])


def every_path(files: DiskFiles) -> set[Path]:
    return {*files.outputs, files.work, files.data, files.journal, files.announcing}


@pytest.mark.parametrize("format_", FORMATS)
def test_no_configuration_file_has_the_name_of_a_disks_file(format_: str) -> None:
    for name, config in itertools.product(NAMES, CONFIGS):
        files = DiskFiles(Path("/target"), name, format_)
        outputs = {path.name.lower() for path in files.outputs}
        if config.lower().rstrip(". ") in outputs:
            with pytest.raises(InvalidRequest, match="two outputs of this recovery"):
                check_names([files], [config])
        else:
            check_names([files], [config])
        assert f"/target/{config}" not in {str(path.parent) for path in every_path(files)}


@pytest.mark.parametrize(
    "pair", [("ä.vmx", "a\u0308.vmx"), ("vm.vmx", "vm.vmx."), ("vm.vmx", "VM.VMX"), ("vm.vmx", "vm.vmx ")]
)
def test_configuration_files_that_are_one_file_elsewhere_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="are one file on some file systems; recover the disks into separate"):
        check_names([], pair)


def test_outputs_of_one_name_are_refused_with_the_remedy() -> None:
    disks = [DiskFiles(Path("/target"), name, "flat") for name in ("db", "db-flat")]
    with pytest.raises(InvalidRequest, match=r"two outputs .* named 'db-flat.vmdk'; recover the disks into separate"):
        check_names(disks, [])
    with pytest.raises(InvalidRequest, match=r"'db.vmdk'"):
        check_names(disks[:1], ["db.vmdk"])


# -- with real files ---------------------------------------------------------------------------------------------------


def working(folder: TargetFolder, name: str, format_: str) -> TargetDisk:
    """The disk, begun or continued."""
    files = DiskFiles(folder.path, name, format_)
    identity = dataclasses.replace(IDENTITY, disk_name=name, format=format_)

    def look() -> object:
        return examine(folder, files, identity, 9)

    return TargetDisk(folder, files, identity, look(), look)  # type: ignore[arg-type]


def content(target: TargetDisk) -> bytes:
    """The first grain of a finished disk."""
    if target.files.format == "stream":
        return walk(target.files.outputs[0].read_bytes())[0].data
    return target.files.outputs[0].read_bytes()[: 64 << 10]


@pytest.mark.parametrize("format_", FORMATS)
def test_two_disks_that_are_recovered_together_and_killed_keep_their_bytes(tmp_path: Path, format_: str) -> None:
    """The first is killed while it is being announced, the second is finished, then the first."""
    for number, pair in enumerate(itertools.permutations(NAMES[:7], 2)):
        files = [DiskFiles(tmp_path, name, format_) for name in pair]
        try:
            check_names(files, [])
        except InvalidRequest:
            continue
        with TargetFolder.make(tmp_path / str(number)) as folder:
            for byte, name in zip(b"xy", pair, strict=True):
                target = working(folder, name, format_)
                write(target, bytes([byte]) * (64 << 10))
                target.close()
            first = DiskFiles(folder.path, pair[0], format_)
            first.announcing.write_bytes(b"half of it")
            for byte, name in zip(b"yx", reversed(pair), strict=True):
                target = working(folder, name, format_)
                target.finish(lambda _: None)
                target.forget()
                target.close()
                assert content(target) == bytes([byte]) * (64 << 10), pair
            left = {path.name for path in folder.path.iterdir()}
            assert left == {path.name for one in files for path in one.outputs}, pair


def write(target: TargetDisk, data: bytes) -> None:
    piece = np.zeros(1, PIECE)
    piece["length"] = len(data)
    target.save([Applied(1, 0, 0, scatter_write(target.fd, data, piece))])
