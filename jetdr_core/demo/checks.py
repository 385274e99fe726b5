"""Checks one recovered disk against the guest as it was: the whole image, each file, and with independent tools.

Invariant: a check returns only if everything holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import xxhash

from jetdr_core.demo.files import SHOWN, Files
from jetdr_core.demo.programs import DemoFailed, Programs

__all__ = ["Moment", "check_disk"]

_RAW = "converted.raw"
_OUT = "files"


@dataclass(frozen=True, slots=True)
class Moment:
    """The guest at one moment: the XXH3-128 and the size of its image, and its files."""

    checksum: bytes
    size_bytes: int
    files: Files


def check_disk(programs: Programs, vmdk: Path, moment: Moment) -> bytes:
    """Check the VMDK with qemu-img, e2fsck and debugfs. Return the shown file as debugfs reads it.

    :class:`DemoFailed` names the first difference. The check works in the VMDK's folder, which must hold nothing but
    this recovery.
    """
    folder = vmdk.parent
    _check_container(programs, vmdk, moment)
    programs.run(folder, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk.name, _RAW)
    if xxhash.xxh3_128_digest((folder / _RAW).read_bytes()) != moment.checksum:
        raise DemoFailed(f"{vmdk} differs from the disk at that moment", hint="this is a bug: please report it")
    programs.run(folder, "e2fsck", "-f", "-n", _RAW)
    return _check_files(programs, folder, moment.files)


def _check_container(programs: Programs, vmdk: Path, moment: Moment) -> None:
    info = json.loads(programs.run(vmdk.parent, "qemu-img", "info", "--output=json", vmdk.name))
    if info["format"] != "vmdk" or info["virtual-size"] != moment.size_bytes:
        raise DemoFailed(f"{vmdk} is {info['format']} of {info['virtual-size']} bytes", hint="expected the disk's size")
    programs.run(vmdk.parent, "qemu-img", "check", "-f", "vmdk", vmdk.name)


def _check_files(programs: Programs, folder: Path, files: Files) -> bytes:
    """Read every file of the recovered file system, and compare it."""
    (folder / _OUT).mkdir()
    paths = sorted(files)
    (folder / "commands").write_text("".join(f"dump /{path} {_OUT}/{n}\n" for n, path in enumerate(paths)))
    programs.run(folder, "debugfs", "-f", "commands", _RAW)
    for n, path in enumerate(paths):
        found = folder / _OUT / str(n)
        if not found.is_file() or found.read_bytes() != files[path]:
            raise DemoFailed(f"{path} on the recovered disk is not what it was", hint="this is a bug: please report it")
    return (folder / _OUT / str(paths.index(SHOWN))).read_bytes()
