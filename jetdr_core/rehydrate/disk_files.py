"""DiskFiles: the names of one disk's files in a recovery's target directory.

Names of disks and configuration files come from the store, and any two of them may be recovered together. Working files
therefore lie one folder deeper: a disk NAME has the folder ``.jetdr-recovery/NAME.disk`` to itself, and in it the names
are fixed.

- No output is in a working folder: outputs have no ``/`` and do not begin with a dot.
- No two disks share a working folder: a disk's name has no ``/``. The suffix keeps apart names with dots at their end,
  which some file systems drop.

Final names can still be equal: disk ``a`` as ``flat`` is ``a.vmdk`` and ``a-flat.vmdk``, and so is the last of disk
``a-flat`` as ``stream``. :func:`check_names` refuses that before anything is written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_config_name, check_name
from jetdr_core.rehydrate.target_device import TargetDevice

__all__ = ["ANNOUNCING", "DATA", "FORMATS", "JOURNAL", "WORK", "DiskFiles", "check_names"]

FORMATS = ("flat", "vmfs", "stream", "raw")
WORK = ".jetdr-recovery"
"""The folder of the working folders. It is removed with the last of them."""

DATA = "data"
"""The raw bytes of the disk."""
JOURNAL = "journal"
ANNOUNCING = "announcing"
"""A descriptor, a stream or a configuration file while it is being written."""


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Paths of one disk. The last of ``outputs`` announces the disk: it is the file to open.

    With a ``device`` the disk goes there, and the directory has the journal alone.
    """

    directory: Path
    name: str
    format: str
    device: TargetDevice | None = None

    @classmethod
    def on_device(cls, directory: Path, name: str, device: TargetDevice) -> DiskFiles:
        """The format names the device, so that a journal is continued on no other."""
        return cls(directory, name, f"raw on {device.confirmation}", device)

    @property
    def outputs(self) -> tuple[Path, ...]:
        flat = (f"{self.name}-flat.vmdk", f"{self.name}.vmdk")
        names = {
            "flat": flat,
            "vmfs": flat,
            "stream": (f"{self.name}.vmdk",),
            "raw": (f"{self.name}.raw",),
        }
        return tuple(self.directory / name for name in names.get(self.format, ()))

    @property
    def final(self) -> Path:
        """What to open when the disk is whole."""
        return self.device.path if self.device else self.outputs[-1]

    @property
    def work(self) -> Path:
        """The folder of the working files."""
        return self.directory / WORK / f"{self.name}.disk"

    @property
    def data(self) -> Path:
        return self.work / DATA

    @property
    def journal(self) -> Path:
        return self.work / JOURNAL

    @property
    def announcing(self) -> Path:
        return self.work / ANNOUNCING

    @property
    def journal_of_earlier_release(self) -> Path:
        """Where an earlier release kept the journal. The data lay beside it, as ``.NAME.partial``."""
        return self.directory / f".{self.name}.journal"


def check_names(disks: Sequence[DiskFiles], configs: Iterable[str]) -> None:
    """Raise :class:`InvalidRequest` for an invalid name, and for outputs that would be one file.

    Names that differ only in case, in their composition or in dots and spaces at their end are one file on some file
    systems, to which what was recovered may be moved. They are refused everywhere.
    """
    taken: dict[str, str] = {}
    for name in (*map(check_config_name, configs), *(name for files in disks for name in _output_names(files))):
        other = taken.get(_folded(name))
        if other is not None:
            raise InvalidRequest(
                f"two outputs of this recovery are named {name!r}"
                if other == name
                else f"two outputs of this recovery, {other!r} and {name!r}, are one file on some file systems",
                hint="recover the disks into separate directories, one by one",
            )
        taken[_folded(name)] = name


def _output_names(files: DiskFiles) -> list[str]:
    check_name("disk", files.name)
    return [path.name for path in files.outputs]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()).rstrip(". ")
