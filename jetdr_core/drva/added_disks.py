"""AddedDisks: what an operator said of disks with ``jetdr protect`` and ``jetdr move-disk``, in
``<state_dir>/<domain>/added-disks``.

The configuration does not name added disks, or names another place of a moved one, and the store is not believed about
where a disk lies. So the appliance remembers it itself.

Invariants: a disk is noted before it is protected, and forgotten once it is no longer protected. So a disk of the
domain has a name here or in the configuration as long as it is one, and no file is opened that no operator named. A
disk that is given up does not come back, because that is noted first (:class:`GivenUpDisks`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.state_file import StateFile
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_name
from jetdr_core.limits import DISK_BYTES_MAX, DISKS_MAX

__all__ = ["AddedDisk", "AddedDisks", "named_disks"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedDisk(DiskConfig):
    """``instead_of`` is the path that the configuration had when the disk was moved. Empty if it did not name it.

    A configuration that has another path by now has been corrected, and is right.
    """

    instead_of: str = ""


def named_disks(configured: Iterable[DiskConfig], added: Iterable[AddedDisk]) -> dict[str, DiskConfig]:
    """Return every disk that an operator names, where it is now."""
    disks: dict[str, DiskConfig] = {disk.name: disk for disk in configured}
    for disk in added:
        known = disks.get(disk.name)
        if known is None or known.path == disk.instead_of:
            disks[disk.name] = disk
    return disks


class AddedDisks:
    """The added disks of one domain. Thread-safe. Every method may block."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._lock = threading.Lock()
        self._file = StateFile(
            state_dir,
            domain,
            "added-disks",
            says="which disks were added",
            remedy="name the disks in the configuration",
        )
        self.path = self._file.path

    def known(self) -> tuple[AddedDisk, ...]:
        """Return the disks. None if the file cannot be read: they then fail, but the configured ones do not."""
        with self._lock:
            try:
                return tuple(self._read().values())
            except (InvalidRequest, OSError) as error:
                log.error("the disks that were added are not opened: %s", error)
                return ()

    def note(self, disk: AddedDisk) -> AddedDisk | None:
        """Add a disk, durably, in place of one with its name, which is returned.

        :class:`InvalidRequest` if the file is not one that this engine wrote.
        """
        with self._lock:
            disks = self._read()
            self._write(disks | {disk.name: disk})
            return disks.get(disk.name)

    def forget(self, name: str) -> AddedDisk | None:
        """Remove a disk, durably, and return what was noted of it. None if nothing was."""
        with self._lock:
            disks = self._read()
            disk = disks.pop(name, None)
            if disk is not None:
                self._write(disks)
            return disk

    def _read(self) -> dict[str, AddedDisk]:
        return self._file.read(_decoded) or {}

    def _write(self, disks: Mapping[str, AddedDisk]) -> None:
        rows = [{key: value for key, value in asdict(disk).items() if value != ""} for disk in disks.values()]
        self._file.write({"disks": rows})


def _decoded(content: Any) -> dict[str, AddedDisk]:
    if not isinstance(content["disks"], list):
        raise ValueError("it has no list of disks")
    if len(content["disks"]) > 2 * DISKS_MAX:
        raise ValueError(f"{len(content['disks'])} disks are too many")
    disks = [_disk(**row) for row in content["disks"]]
    return {disk.name: disk for disk in disks}


def _disk(*, name: str, path: str, size_bytes: int | None, instead_of: str = "") -> AddedDisk:
    if not isinstance(path, str) or not Path(path).is_absolute() or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path")
    if size_bytes is not None and not (type(size_bytes) is int and 0 < size_bytes <= DISK_BYTES_MAX):
        raise ValueError(f"{size_bytes!r} is not a size")
    if not isinstance(instead_of, str):
        raise ValueError(f"{instead_of!r} is not a path")
    return AddedDisk(name=check_name("disk", name), path=path, size_bytes=size_bytes, instead_of=instead_of)
