"""Opens log volumes by path or ``iscsi://`` URL, each once per process: several domains share one open volume.

Invariants: one process holds a volume (an advisory lock on the file or device; a LUN is reserved besides, so that no
other machine writes it); within it every path that leads to the same bytes leads to the same LogVolume; the volume
closes when the last user lets it go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from types import TracebackType
from typing import NamedTuple
from uuid import UUID

from jetdr_core.device.file import FileDevice
from jetdr_core.device.place import Place, PlacedDevice, exists, identity_at, open_device
from jetdr_core.errors import DeviceBusy, LogBusy, LogForeign, LogNotALog
from jetdr_core.limits import VOLUME_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log.volume import LogVolume, format_volume, is_blank


class _Entry:
    """One open volume and how many use it."""

    def __init__(self, device: PlacedDevice, volume: LogVolume) -> None:
        self.device = device
        self.volume = volume
        self.users = 0


class Registry:
    """The volumes that this process has open. Thread-safe: opening and closing take turns."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()

    def open(self, path: Place, *, owner: UUID, create: bool, direct: bool) -> VolumeLease:
        with self._lock:
            key = identity_at(path)
            entry = None if key is None else self._entries.get(key)
            if entry is None:
                entry = _open(path, owner=owner, create=create, direct=direct)
                self._entries[entry.device.identity()] = entry
            elif entry.volume.owner != owner:
                raise LogForeign(
                    f"{os.fspath(path)} is open here for owner {entry.volume.owner}, not for {owner}",
                    hint="use one owner for all domains on a volume",
                )
            entry.users += 1
        return VolumeLease(self, entry)

    def close(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.users == 0:
                del self._entries[entry.device.identity()]
                entry.device.close()


class VolumeLease:
    """One user's hold on a shared volume, a context manager; :meth:`close` twice is harmless."""

    def __init__(self, registry: Registry, entry: _Entry) -> None:
        self._registry = registry
        self._entry: _Entry | None = entry
        self.volume = entry.volume

    def close(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._registry.close(entry)

    def __enter__(self) -> LogVolume:
        return self.volume

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_REGISTRY = Registry()


def open_volume(path: Place, *, owner: UUID, create: bool = False, direct: bool = True) -> VolumeLease:
    """Open the log volume at ``path`` for ``owner``; with ``create`` a missing or blank one is made first.

    Raises ``FileNotFoundError``, ``PermissionError`` as they are, :class:`LogBusy` when another process holds it, and
    what :class:`LogVolume` raises.
    """
    return _REGISTRY.open(path, owner=owner, create=create, direct=direct)


def take_over_volume(path: Place, owner: UUID, *, expected: UUID | None = None) -> UUID:
    """Make ``owner`` the owner of the volume at ``path``, which nobody may have open; returns whose it was.

    ``expected`` is whose it is thought to be: :class:`LogForeign` if it is another's. A LUN that another machine has
    reserved is taken from it: whatever that machine writes from then on is refused by the target.
    """
    _check_owner(path, expected)
    device = _locked(path, preempt=True)
    try:
        owner_old = LogVolume(device, owner=None, where=device.path).owner
        LogVolume(device, owner=owner_old, where=device.path).take_over(owner)
        return owner_old
    finally:
        device.close()


def _check_owner(path: Place, expected: UUID | None) -> None:
    """That it is a volume, and whose, before anything is taken from anybody."""
    volume, device = look_at_volume(path)
    device.close()
    if expected is not None and volume.owner != expected:
        raise LogForeign(
            f"{volume.where} belongs to owner {volume.owner}, not to {expected}",
            hint="name the owner that it is to be taken from, as 'jetdr inspect' shows it",
            owner=volume.owner,
        )


class ReadOnlyVolume(NamedTuple):
    """A volume opened for looking at it, perhaps while another process writes; the caller closes ``device``."""

    volume: LogVolume
    device: PlacedDevice


def look_at_volume(path: Place) -> ReadOnlyVolume:
    """Open the volume at ``path`` without lock, owner or repair."""
    device = open_device(path, writable=False)
    try:
        return ReadOnlyVolume(LogVolume(device, owner=None, where=device.path), device)
    except BaseException:
        device.close()
        raise


def _open(path: Place, *, owner: UUID, create: bool, direct: bool) -> _Entry:
    device = _locked(path, create=create, direct=direct)
    try:
        if create and is_blank(device):
            format_volume(device, owner=owner, where=device.path)
        return _Entry(device, LogVolume(device, owner=owner, where=device.path))
    except BaseException:
        device.close()
        raise


def _locked(path: Place, *, create: bool = False, direct: bool = True, preempt: bool = False) -> PlacedDevice:
    try:
        if create and not exists(path):
            return FileDevice(path, direct=direct, create_bytes=VOLUME_SUPERBLOCK_AREA_BYTES, lock=True)
        device = open_device(path, direct=direct, lock=True, preempt=preempt)
    except DeviceBusy as error:
        busy = LogBusy(f"log volume {error}")
        busy.hint = error.hint
        raise busy from error
    if create and isinstance(device, FileDevice) and device.can_grow and os.fstat(device.fileno()).st_size == 0:
        device.grow(VOLUME_SUPERBLOCK_AREA_BYTES)
    if device.size_bytes >= VOLUME_SUPERBLOCK_AREA_BYTES:
        return device
    device.close()
    raise LogNotALog(
        f"{device.path} has {device.size_bytes} bytes and holds no replication log",
        hint="name a log volume, or a new file",
    )
