"""DiskFiles: the files of one disk in a recovery's target directory, and their names.

A disk NAME is written as raw bytes to ``.NAME.partial``, with ``.NAME.journal`` beside it. The final names are given
only when the disk is whole. No two disks share a hidden file, which has the whole name of its disk and a suffix of its
own. Names of disks and configuration files come from the store, so :func:`check_names` checks them again before they
become paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_config_name, check_name

__all__ = ["FORMATS", "DiskFiles", "check_names"]

FORMATS = ("flat", "stream", "raw")
_BLOCK_BYTES = 512
"""The unit of ``st_blocks``."""


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Paths of one disk. The last of ``outputs`` announces the disk: it is the file to open."""

    directory: Path
    name: str
    format: str

    @property
    def outputs(self) -> tuple[Path, ...]:
        names = {
            "flat": (f"{self.name}-flat.vmdk", f"{self.name}.vmdk"),
            "stream": (f"{self.name}.vmdk",),
            "raw": (f"{self.name}.raw",),
        }
        return tuple(self.directory / name for name in names[self.format])

    @property
    def partial(self) -> Path:
        return self.directory / f".{self.name}.partial"

    @property
    def journal(self) -> Path:
        return self.directory / f".{self.name}.journal"

    @property
    def announcing(self) -> Path:
        """The descriptor or the stream while it is being written."""
        return self.directory / f".{self.name}.announcing"

    def allocated_bytes(self) -> int:
        """What an earlier run has allocated for the partial file."""
        try:
            return self.partial.lstat().st_blocks * _BLOCK_BYTES
        except FileNotFoundError:
            return 0


def check_names(disks: Sequence[DiskFiles], configs: Iterable[str]) -> None:
    """Raise :class:`InvalidRequest` for an invalid name, and for two outputs with the same name."""
    names = [check_config_name(name) for name in configs]
    for files in disks:
        check_name("disk", files.name)
        names += [path.name for path in files.outputs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InvalidRequest(
            f"two outputs of this recovery are named {doubled[0]!r}", hint="recover the disks into separate directories"
        )
