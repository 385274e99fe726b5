"""Opens log volumes by path or ``iscsi://`` URL. Each is opened once in a process, and shared by several domains.

Invariants: one process holds a volume, by an advisory lock on the file or device. A LUN is reserved as well, so that no
other machine writes it. Within the process, all paths to the same bytes give the same LogVolume. The volume is closed
when its last user releases it. A volume that hangs holds up only those who use it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from jetdr_core.device.file import FileDevice
from jetdr_core.device.iscsi_url import is_iscsi
from jetdr_core.device.place import Place, PlacedDevice, exists, identity_at, open_device
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import DeviceBusy, LogBusy, LogDamaged, LogForeign, LogNotALog
from jetdr_core.limits import VOLUME_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log.salvage import salvage_volume
from jetdr_core.replication_log.volume import LogVolume, format_volume, is_blank


class _Entry:
    """One open volume, and how many use it."""

    def __init__(self, path: Place, device: PlacedDevice, volume: LogVolume, *, is_new: bool) -> None:
        self.path = path
        self.device = device
        self.volume = volume
        self.identity = device.identity()
        self.users = 0
        self._is_new = is_new

    def close(self, *, failed: bool) -> None:
        """Close the volume. A file that was made here, and got no section because that failed, is removed."""
        unused = failed and self._is_new and not self.volume.sections
        if unused and identity_at(self.path) == self.identity:
            with suppress(OSError):  # what failed before is what counts
                os.unlink(self.path)
        self.device.close()


class Registry:
    """The volumes that this process has open. Thread-safe. Users of one place open and close it in turn."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._turns: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()  # guards the turns, and is never held while anything blocks

    def open(self, path: Place, *, owner: UUID, create: bool, salvage_for: UUID | None, direct: bool) -> VolumeLease:
        with self._turn(("path", _true_path(path))):  # a file has no identity before it is made
            identity = identity_at(path)
            with nullcontext() if identity is None else self._turn(identity):
                entry = None if identity is None else self._entries.get(identity)
                if entry is None:
                    entry = _open(path, owner=owner, create=create, salvage_for=salvage_for, direct=direct)
                    self._entries[entry.identity] = entry
                elif entry.volume.owner != owner:
                    raise LogForeign(
                        f"{os.fspath(path)} is open here for owner {entry.volume.owner}, not for {owner}",
                        hint="use one owner for all domains on a volume",
                    )
                entry.users += 1
        return VolumeLease(self, entry)

    def close(self, entry: _Entry, *, failed: bool) -> None:
        with self._turn(entry.identity):
            entry.users -= 1
            if entry.users == 0:
                del self._entries[entry.identity]
                entry.close(failed=failed)

    @contextmanager
    def _turn(self, key: Hashable) -> Iterator[None]:
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            yield


def _true_path(path: Place) -> str:
    return os.fspath(path) if is_iscsi(path) else os.path.realpath(path)


class VolumeLease:
    """One user's hold on a shared volume. A context manager. :meth:`close` is idempotent."""

    def __init__(self, registry: Registry, entry: _Entry) -> None:
        self._registry = registry
        self._entry: _Entry | None = entry
        self.volume = entry.volume

    def close(self, *, failed: bool = False) -> None:
        """Let the volume go. ``failed``: what it was opened for; a file that was made for that alone is removed."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._registry.close(entry, failed=failed)

    def __enter__(self) -> LogVolume:
        return self.volume

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


_REGISTRY = Registry()


def open_volume(
    path: Place, *, owner: UUID, create: bool = False, salvage_for: UUID | None = None, direct: bool = True
) -> VolumeLease:
    """Open the log volume at ``path`` for ``owner``. With ``create``, make it first if it is missing or blank.

    With ``salvage_for``, a volume whose superblock is lost gets a new one, if it has a section of that domain.

    Raises ``FileNotFoundError`` and ``PermissionError`` as they are, :class:`LogBusy` if another process holds the
    volume, :class:`DeviceFull` if it is a sparse file without room for its holes, and what :class:`LogVolume` raises.
    """
    return _REGISTRY.open(path, owner=owner, create=create, salvage_for=salvage_for, direct=direct)


def take_over_volume(path: Place, owner: UUID, *, expected: UUID | None = None) -> UUID:
    """Make ``owner`` the owner of the volume at ``path``, which nobody may have open, and return the old owner.

    :class:`LogForeign` if the old owner is not ``expected``. If another machine has reserved the LUN, the reservation
    moves to this one, and the target refuses whatever that machine writes from then on.
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
    """Check that there is a volume, and whose, before anything is taken from anybody."""
    volume, device = look_at_volume(path)
    device.close()
    if expected is not None and volume.owner != expected:
        raise LogForeign(
            f"{volume.where} belongs to owner {volume.owner}, not to {expected}",
            hint="name the owner that 'jetdr inspect' shows",
            owner=volume.owner,
        )


class ReadOnlyVolume(NamedTuple):
    """A volume opened for inspection, perhaps while another process writes. The caller closes ``device``."""

    volume: LogVolume
    device: PlacedDevice


def look_at_volume(path: Place) -> ReadOnlyVolume:
    """Open the volume at ``path`` for inspection, without lock, owner or repair."""
    device = open_device(path, writable=False)
    try:
        return ReadOnlyVolume(LogVolume(device, owner=None, where=device.path), device)
    except BaseException:
        device.close()
        raise


def _open(path: Place, *, owner: UUID, create: bool, salvage_for: UUID | None, direct: bool) -> _Entry:
    is_new = create and not exists(path)
    device = _locked(path, create=create, direct=direct)
    try:
        if create and is_blank(device):
            format_volume(device, owner=owner, where=device.path)
        entry = _Entry(path, device, volume_on(device, owner, device.path, salvage_for), is_new=is_new)
        if isinstance(device, FileDevice):
            device.allocate_all()  # now that it is known to be a log, and before anybody relies on its size
        return entry
    except BaseException:
        device.close()
        raise


def volume_on(device: BlockDevice, owner: UUID, where: str, salvage_for: UUID | None) -> LogVolume:
    """Return the volume on an open device. ``salvage_for``: see :func:`open_volume`."""
    try:
        return LogVolume(device, owner=owner, where=where)
    except (LogNotALog, LogDamaged) as error:
        if salvage_for is None:
            raise
        if not salvage_volume(device, owner=owner, domain_uuid=salvage_for, where=where):
            raise type(error)(
                f"{error.message}, and nothing on it shows that the domain's log was there",
                hint="name another place for the log, or move this file away or empty this device, and take over again",
            ) from error
    return LogVolume(device, owner=owner, where=where)


def _locked(path: Place, *, create: bool = False, direct: bool = True, preempt: bool = False) -> PlacedDevice:
    try:
        if create and not exists(path):
            return FileDevice(path, direct=direct, create_bytes=VOLUME_SUPERBLOCK_AREA_BYTES, lock=True)
        device = open_device(path, direct=direct, lock=True, preempt=preempt)
    except DeviceBusy as error:
        raise LogBusy(f"log volume {error.message}", hint=error.hint) from error
    if create and isinstance(device, FileDevice) and device.can_grow and device.file_bytes == 0:
        device.grow(VOLUME_SUPERBLOCK_AREA_BYTES)
    if device.size_bytes >= VOLUME_SUPERBLOCK_AREA_BYTES:
        return device
    device.close()
    raise LogNotALog(
        f"{device.path} has {device.size_bytes} bytes and holds no replication log",
        hint="name a log volume, or a new file",
    )
