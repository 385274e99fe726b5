"""Disks: the disks of an open domain, and how they are added and removed.

Invariants: a disk is served only once its DISK_ADD is in the log. A disk that cannot be served is not protected, and
the log says so. Removing a disk needs room in the log, and is refused without it, with nothing changed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Generic
from uuid import uuid4

from jetdr_core.control_bodies import DiskAdd, DiskGrow, DiskRemove
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.disk_identity import UNREADABLE, identity_at_rest
from jetdr_core.domain.disk_trouble import DiskTrouble
from jetdr_core.domain.map_failure import MapFailure
from jetdr_core.domain.mode import D, Mode
from jetdr_core.domain.primary import DiskPlace, Primaries, Primary, check_disk_bytes, places_digest, shrunk
from jetdr_core.domain.status import DiskStatus, counters
from jetdr_core.errors import InvalidRequest, JetdrError, LoggingOff, PrimaryAway
from jetdr_core.identity import check_name
from jetdr_core.limits import DISKS_MAX
from jetdr_core.resync import regions_from

__all__ = ["Disks"]

log = logging.getLogger(__name__)

POLL_S = 0.05

LOGGING_LIMIT_S = 45.0
"""Longer than the longest wait before logging is switched on again."""


class Disks(Generic[D]):
    """Thread-safe. Disks are added and removed with the control log's lock held, which may block."""

    def __init__(self, domain: str, mode: Mode[D], control_log: ControlLog, copies: Copies) -> None:
        self._domain = domain
        self._mode = mode
        self._control_log = control_log
        self._copies = copies
        self._disks: dict[str, D] = {}
        self._frozen = False
        self._moving = threading.Lock()

    def by_name(self) -> dict[str, D]:
        """The disks at this moment. Waits for nothing."""
        return dict(self._disks)

    def status(self) -> tuple[DiskStatus, ...]:
        """The disks at this moment."""
        disks = self.by_name().values()
        return tuple(_status(disk, ready=self._control_log.is_ready(disk.number)) for disk in disks)

    # -- begin and end -----------------------------------------------------------------------------------------------

    def attach_known(self, primaries: Primaries) -> list[D]:
        """Attach the disks that the history has. The last owner may have added some of them as it ended."""
        with self._control_log.lock:
            states = self._control_log.history.disks
            return [self._attach(one.disk, one.name, primaries.of(one), one.size_bytes) for one in states]

    def freeze(self) -> None:
        """From now on no disk is added or removed: the domain is being closed. With the control log's lock held."""
        self._frozen = True

    def close(self, errors: list[Exception]) -> bool:
        """Close all disks and flush their primaries. Returns False if primary and log of any disk may differ."""
        same = True
        for disk in self.by_name().values():
            try:
                same &= disk.close()
            except Exception as error:  # noqa: BLE001 - kept, and raised when all is closed
                errors.append(error)
                same = False
        return same

    def places(self) -> bytes:
        """Return a digest of where the primaries are."""
        return places_digest((disk.number, disk.path) for disk in self.by_name().values())

    def identities(self) -> tuple[bytes, ...]:
        """Return what identifies the primaries by ascending number, once nobody writes to them. May block."""
        disks = sorted(self.by_name().values(), key=lambda disk: disk.number)
        return tuple(UNREADABLE if disk.fault else identity_at_rest(disk.path, disk.size_bytes) for disk in disks)

    # -- add ---------------------------------------------------------------------------------------------------------

    def protect(self, name: str, place: DiskPlace, size_bytes: int | None) -> D:
        """Open a new disk, log that it is protected, and owe a copy of what it holds."""
        check_name("disk", name)
        self._check_new(name)
        primary = self._mode.open_new(name, place, size_bytes)
        try:
            holds_data = any(not region.hole for region in primary.regions())
            disk = self._add(name, primary, holds_data=holds_data)
            self._serve(disk)
            with self._control_log.lock:
                if holds_data and self._disks.get(name) is disk:
                    self._copies.owe_new(disk)
        except BaseException:
            primary.close()
            raise
        return disk

    def _add(self, name: str, primary: Primary, *, holds_data: bool) -> D:
        with self._control_log.lock:
            self._check_new(name)  # again: another caller may have been faster
            disk = self._attach(self._control_log.history.disk_next, name, primary, primary.device.size_bytes)
            added = DiskAdd(
                name=name,
                uuid=str(uuid4()),
                size_bytes=disk.size_bytes,
                path=primary.path,
                holds_data=holds_data,
            )
            try:
                self._control_log.append(added, disk.number)
            except BaseException:
                self._detach(disk)
                self._mode.withdraw(disk)
                raise
        return disk

    def _serve(self, disk: D) -> None:
        """Have the disk served. If that fails, it is not protected any more."""
        try:
            self._mode.serve(disk)
        except BaseException:
            with self._control_log.lock:
                self._detach(disk)
                self._control_log.append(DiskRemove(), disk.number)  # otherwise the next opening would serve it
            self._copies.close_gap_when_paid()
            raise

    def _attach(self, number: int, name: str, primary: Primary, size_bytes: int) -> D:
        disk = self._disks[name] = self._mode.attach(number, name, primary, size_bytes)
        self._copies.attach(disk)
        return disk

    def _detach(self, disk: D) -> Callable[[], bool]:
        """Forget the disk. The result waits until its copy has ended."""
        del self._disks[disk.name]
        return self._copies.forget(disk)

    def _check_new(self, name: str) -> None:
        self._check_not_frozen()
        if name in self._disks:
            raise InvalidRequest(f"disk {name!r} is protected already", hint="choose another name")
        if len(self._disks) >= DISKS_MAX:
            raise InvalidRequest(
                f"domain {self._domain!r} protects {DISKS_MAX} disks already", hint="use another domain"
            )

    def _check_protected(self, disk: D) -> None:
        if self._disks.get(disk.name) is not disk:
            raise InvalidRequest(f"domain {self._domain!r} protects no disk {disk.name!r}", hint="it was removed")

    def _check_not_frozen(self) -> None:
        if self._frozen:
            raise InvalidRequest(f"domain {self._domain!r} is being closed", hint="open it again")

    # -- move ------------------------------------------------------------------------------------------------------

    def move(self, disk: D, path: str) -> str:
        """Go on with the disk at ``path``; returns why a copy of it is owed, or nothing.

        Refused, with nothing changed, if that could lose a write.
        """
        reason = f"disk {disk.name!r} was {'moved to' if disk.path != path else 'not at'} {path}"
        with self._moving:
            self._check_may_move(disk, path)
            why = self._mode.move(disk, path, reason)
        log.warning("domain %s: disk %s is now at %s", self._domain, disk.name, path)
        return why

    def _check_may_move(self, disk: D, path: str) -> None:
        self._check_not_frozen()
        self._check_protected(disk)
        taken = next((other.name for other in self.by_name().values() if other.path == path and other is not disk), "")
        if taken:
            raise InvalidRequest(f"{path} is where disk {taken!r} is", hint="name the place of the disk itself")
        if disk.fault is not None or disk.primary.leads_to(path):
            return
        if not disk.path:
            raise InvalidRequest(f"disk {disk.name!r} is an open device of its caller", hint="open the domain with it")
        if disk.primary.leads_to(disk.path):
            raise InvalidRequest(
                f"disk {disk.name!r} is well at {disk.path}, so what is written there now would not be at {path}",
                hint=f"stop its guest, move the file to {path}, and give the command again",
            )

    # -- grow ------------------------------------------------------------------------------------------------------

    def grow_known(self) -> None:
        """Protect what disks have grown by while the domain was closed. One that cannot be grown now keeps its size."""
        for disk in self.by_name().values():
            if disk.fault is None:
                try:
                    self.grow(disk)
                except (JetdrError, OSError) as error:
                    log.warning("domain %s: disk %s has not grown: %s", self._domain, disk.name, error)

    def grow(self, disk: D) -> str:
        """Protect what the disk has grown by; returns why a copy of that is owed, or nothing.

        The DISK_GROW comes before every write to the new end. If that holds data, the gap of its copy is open before,
        and no earlier copy can close it meanwhile.
        """
        with self._moving:
            self._check_not_frozen()
            self._check_protected(disk)
            if disk.fault is not None:
                raise PrimaryAway(f"disk {disk.name!r} has failed: {disk.fault.reason}", hint=disk.fault.remedy)
            if lost := disk.stats().sync_failed:  # which its filter has to remember
                raise PrimaryAway(
                    f"disk {disk.name!r} has failed a flush: {os.strerror(lost)}",
                    hint="mend its file system or device, then close the domain and open it again",
                )
            size_bytes, before = disk.primary.size_now(), disk.size_bytes
            if size_bytes < before:
                raise shrunk(disk.name, disk.path, size_bytes, before)
            check_disk_bytes(disk.name, size_bytes)
            return self._grow(disk, before, size_bytes) if size_bytes > before else ""

    def _grow(self, disk: D, before: int, size_bytes: int) -> str:
        tail = regions_from(disk.primary.regions(size_bytes), before)
        reason = f"disk {disk.name!r} grew, and its new end holds data" if any(not one.hole for one in tail) else ""
        with self._control_log.lock:
            if reason:
                self._copies.expect_resync(reason)
            try:
                self._control_log.append(DiskGrow(size_bytes), disk.number)
            except BaseException:
                self._copies.close_gap_when_paid()  # nothing has grown, and nothing else would close it
                raise
            self._mode.grow(disk, size_bytes)
            disk.size_bytes = disk.primary_bytes = size_bytes
            self._copies.owe_end(disk, before, reason)
        log.warning("domain %s: disk %s grew from %d to %d bytes", self._domain, disk.name, before, size_bytes)
        return reason

    # -- remove ------------------------------------------------------------------------------------------------------

    def unprotect(self, disk: D) -> None:
        """Log that the disk is no longer protected, then let it go. With a full log, refuse and change nothing."""
        try:
            wait_for_copy = self._remove(disk)
        except LoggingOff:
            wait_for_copy = self._remove_when_logging(disk)
        self._mode.withdraw(disk)
        wait_for_copy()
        disk.primary.close()
        self._copies.close_gap_when_paid()

    def _remove(self, disk: D) -> Callable[[], bool]:
        """Log the removal. The result waits until the disk's copy has ended."""
        with self._control_log.lock:
            self._check_not_frozen()
            self._check_protected(disk)
            self._control_log.append(DiskRemove(), disk.number)
            return self._detach(disk)

    def _remove_when_logging(self, disk: D) -> Callable[[], bool]:
        """Take the disk from its guests, then remove it once logging is on: a failing disk keeps switching it off."""
        self._mode.withdraw(disk)
        deadline = time.monotonic() + LOGGING_LIMIT_S
        while True:
            try:
                return self._remove(disk)
            except LoggingOff:
                if time.monotonic() > deadline:
                    self._mode.serve(disk)
                    raise
                time.sleep(POLL_S)


def _status(disk: ProtectedDisk, *, ready: bool) -> DiskStatus:
    stats = disk.stats()
    trouble, map_state = DiskTrouble.of(stats), None if disk.map is None else disk.map.look()
    map_failure = MapFailure.of(map_state)
    return DiskStatus(
        name=disk.name,
        path=disk.path,
        nbd_uri=disk.nbd_uri,
        size_bytes=disk.size_bytes,
        primary_bytes=disk.primary_bytes,
        ready=ready,
        failed=disk.fault is not None,
        fault=disk.fault,
        in_trouble=trouble is not None,
        trouble=trouble,
        copied_bytes=disk.copy.copied_bytes,
        copy_bytes=disk.copy.total_bytes,
        marked_bytes=disk.size_bytes if map_state is None else min(map_state.marked_bytes, disk.size_bytes),
        owed_bytes=0 if map_state is None else min(map_state.owed_bytes, disk.size_bytes),
        map_failed=map_failure is not None,
        map_failure=map_failure,
        **counters(stats),
    )
