"""FileInUse: a file that an open domain relies on, and whether its path still leads to it.

A file that is removed, renamed or replaced goes on working for whoever has it open. So nothing fails, until the process
ends and everything in the file is gone. As long as the process runs, the file can be saved.

Invariant: nothing here changes anything. A look waits for the file system of the path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jetdr_core.device import FileDevice, identity_of
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain_key import KeyFile
from jetdr_core.errors import JetdrError
from jetdr_core.file_making import told

__all__ = ["FileInUse", "FilesInUse", "HeldFile", "KeyInUse", "LostFile", "held_device"]

GONE = "there is nothing at its path"
REPLACED = "another file is at its path"
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class LostFile:
    """``what`` was opened as ``path``, which does not lead to it since ``since_ns``, for ``reason``."""

    what: str
    path: str
    reason: str
    remedy: str
    since_ns: int


class FileInUse(Protocol):
    """Something at a path."""

    @property
    def what(self) -> str:
        """What it is to the domain."""

    @property
    def path(self) -> str:
        """Where it should be."""

    def look(self) -> tuple[str, str]:
        """Return why it is lost, and the remedy. Both are empty if it is not."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that process ``pid`` has open. ``remedy`` is given where a copy of the open file would not help."""

    what: str
    path: str
    identity: Hashable
    pid: int
    remedy: str = ""

    def look(self) -> tuple[str, str]:
        if reason := self._why_lost():
            return reason, self.remedy or self._saving()
        if earlier := self._earlier_file():
            return f"process {self.pid} goes on with the file that was there before", _saved(self.pid, earlier)
        return "", ""

    def _why_lost(self) -> str:
        try:
            found = identity_of(os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return GONE
        except OSError as error:
            return f"its path cannot be looked at: {error.strerror}"
        return "" if found == self.identity else REPLACED

    def _saving(self) -> str:
        """How to get at the file while it is still open."""
        for descriptor in _descriptors(self.pid):
            try:
                if identity_of(os.stat(descriptor)) != self.identity:
                    continue
                name = os.readlink(descriptor)
            except OSError:
                continue
            if name.endswith(_DELETED):
                return _saved(self.pid, descriptor)
            return f"it is {name} now: move it back"
        return f"bring it back to {self.path}"

    def _earlier_file(self) -> str:
        """The descriptor of a removed file of this path, if the process has that and not the one that is there now.

        A host component that outlived its DRVA may serve it, while another file was put at the path.
        """
        if self.pid == os.getpid():
            return ""
        earlier = ""
        for descriptor in _descriptors(self.pid):
            try:
                if identity_of(os.stat(descriptor)) == self.identity:
                    return ""
                if os.readlink(descriptor) == self.path + _DELETED:
                    earlier = descriptor
            except OSError:
                continue
        return earlier


def _saved(pid: int, descriptor: str) -> str:
    return f"until process {pid} ends it can be saved: cp --sparse=always {descriptor} COPY"


def _descriptors(pid: int) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return []


def held_device(what: str, path: str, device: BlockDevice, pid: int) -> Iterable[HeldFile]:
    """Return the file of ``device``, which process ``pid`` has open too. Empty for a LUN, and for a closed device."""
    if not isinstance(device, FileDevice) or not path:
        return []
    try:
        return [HeldFile(what, path, device.identity(), pid)]
    except (JetdrError, OSError, ValueError):
        return []


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """The key file of a domain, which had the key ``key_id`` when the domain was opened."""

    file: KeyFile
    key_id: bytes
    what: str = "the key file"

    @classmethod
    def of(cls, file: KeyFile) -> KeyInUse | None:
        """Return the file with the key that it has now. None if that cannot be read."""
        try:
            return cls(file, file.read().key_id)
        except (JetdrError, OSError):
            return None

    @property
    def path(self) -> str:
        return str(self.file.path)

    def look(self) -> tuple[str, str]:
        remedy = "bring it back from its copy: without it the domain is not opened again"
        try:
            if not Path(self.path).exists():
                return GONE, remedy
            found = self.file.read()
        except (JetdrError, OSError) as error:
            return told(error), remedy
        return ("", "") if found.key_id == self.key_id else ("it holds another key", remedy)


class FilesInUse:
    """Which files are lost, of those that ``files`` gives at each look. For one thread; any may read :attr:`lost`."""

    def __init__(self, files: Callable[[], Iterable[FileInUse]], now_ns: Callable[[], int] = time.time_ns) -> None:
        self._files = files
        self._now_ns = now_ns
        self.lost: tuple[LostFile, ...] = ()

    def look(self) -> None:
        known = {(one.what, one.path): one.since_ns for one in self.lost}
        lost = []
        for file in self._files():
            reason, remedy = file.look()
            if reason:
                since_ns = known.get((file.what, file.path)) or self._now_ns()
                lost.append(LostFile(file.what, file.path, reason, remedy, since_ns))
        self.lost = tuple(lost)
