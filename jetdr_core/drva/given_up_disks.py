"""GivenUpDisks: the disks that an operator protects no longer, in ``<state_dir>/<domain>/given-up-disks``.

The problem: giving a disk up takes several durable steps, and the DRVA may end between any two of them. The domain may
be closed as well, and the configuration may go on naming the disk. So the wish is noted first. Whoever starts the DRVA
again then finds what is left to do, and no restart protects the disk anew.

Invariants: a disk is noted before anything is done about it. The note stays until the domain protects the disk no
longer, durably, and nothing names it any more, or until ``jetdr protect`` asks for the disk again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetdr_core.catalog import iso_time
from jetdr_core.drva.state_file import StateFile
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_name
from jetdr_core.limits import DISKS_MAX

__all__ = ["GivenUpDisk", "GivenUpDisks"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUpDisk:
    """``since_ns`` is when an operator gave the disk up.

    ``is_wanted``: an operator has asked to protect it again. If the domain has the disk then, it was.
    """

    name: str
    since_ns: int
    is_wanted: bool = False

    @property
    def since(self) -> str:
        return iso_time(self.since_ns)


class GivenUpDisks:
    """The given-up disks of one domain. Thread-safe. Every method may block."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self.domain = domain
        self._lock = threading.Lock()
        self._file = StateFile(
            state_dir, domain, "given-up-disks", says="which disks were given up", remedy="'jetdr unprotect' them again"
        )
        self.path = self._file.path
        self._last: Mapping[str, GivenUpDisk] = {}

    @property
    def last(self) -> Mapping[str, GivenUpDisk]:
        """The disks by name, as they were last read or noted. Waits for nothing."""
        return self._last

    def known(self) -> Mapping[str, GivenUpDisk]:
        """Return the disks by name. :class:`InvalidRequest` if the file is not one that this engine wrote."""
        with self._lock:
            self._last = self._file.read(_decoded) or {}
            return self._last

    def names(self) -> frozenset[str]:
        """Return the names of the disks that nobody wants back. None if the file cannot be read."""
        try:
            return frozenset(name for name, disk in self.known().items() if not disk.is_wanted)
        except (InvalidRequest, OSError) as error:
            log.error("which disks were given up is not known: %s", error)
            return frozenset()

    def note(self, disk: GivenUpDisk) -> None:
        """Note a disk, durably, in place of what was noted of it."""
        with self._lock:
            self._write((self._file.read(_decoded) or {}) | {disk.name: disk})

    def forget(self, name: str) -> None:
        """Forget a disk, durably. Idempotent."""
        with self._lock:
            disks = self._file.read(_decoded) or {}
            if disks.pop(name, None) is not None:
                self._write(disks)

    def _write(self, disks: Mapping[str, GivenUpDisk]) -> None:
        self._file.write({"disks": [asdict(disk) for disk in disks.values()]})
        self._last = disks


def _decoded(content: Any) -> dict[str, GivenUpDisk]:
    if not isinstance(content["disks"], list) or len(content["disks"]) > 2 * DISKS_MAX:
        raise ValueError("it has no list of disks, or too many of them")
    disks = [_disk(**row) for row in content["disks"]]
    return {disk.name: disk for disk in disks}


def _disk(*, name: str, since_ns: int, is_wanted: bool = False) -> GivenUpDisk:
    if type(since_ns) is not int or not 0 <= since_ns < 1 << 63 or type(is_wanted) is not bool:
        raise ValueError(f"disk {name!r} was given up at {since_ns!r}")
    return GivenUpDisk(name=check_name("disk", name), since_ns=since_ns, is_wanted=is_wanted)
