"""Hosted disks: their IO filters run in the host component, which guests reach over NBD.

Invariants: the host component alone writes to a primary, and holds its lock; this process has a handle for reading, to
tell holes from data. It serves no disk that the domain does not protect. What it counts is asked for by a task of its
own, with a short limit, so nobody who asks for status waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from jetdr_core._core import FilterStats, Ring
from jetdr_core.device import FileDevice
from jetdr_core.domain.disk import CopyFilter, ProtectedDisk
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.primary import DiskPlace, Primary, open_primary
from jetdr_core.errors import HostUnreachable, InvalidRequest, JetdrError
from jetdr_core.host import HostComponent, HostControl, HostedFilter, StartDisk

__all__ = ["DiskServer", "HostedDisk"]

ANSWER_LIMIT_S = 10.0
"""A command that takes longer than this and the stall limit is as good as lost."""

STATS_LIMIT_S = 1.0


class HostedDisk(ProtectedDisk):
    """A disk that guests read and write over NBD, at :attr:`nbd_uri`."""

    def __init__(self, number: int, name: str, primary: Primary, nbd_uri: str, copy_filter: HostedFilter) -> None:
        super().__init__(number, name, primary)
        self.nbd_uri = nbd_uri
        self.counted = FilterStats()
        self._copy_filter = copy_filter

    @property
    def copy_filter(self) -> CopyFilter:
        return self._copy_filter

    @property
    def suspect(self) -> bool:
        """False: the host component switches logging off where primary and log may differ."""
        return False

    def stats(self) -> FilterStats:
        """What the host component counted, as last heard."""
        return self.counted

    def close(self) -> bool:
        """Let go of the handle; guests go on."""
        self.primary.close()
        return True


class DiskServer:
    """The host component of one domain, and the disks it serves. Thread-safe."""

    def __init__(
        self, component: HostComponent, ring: Ring, place: RingPlace, bypassed_file: BypassedFile | None
    ) -> None:
        self._component = component
        self._ring = ring
        self._place = place
        self._bypassed_file = bypassed_file
        limit_s = component.options.stall_limit_s + ANSWER_LIMIT_S
        self._control = HostControl(component.control.path, limit_s=limit_s)
        self._stats_control = HostControl(component.control.path, limit_s=STATS_LIMIT_S)
        self._lock = threading.Lock()  # what is served changes
        self._wanted: dict[int, HostedDisk] = {}
        self._served: set[int] = set()
        self._unused = False
        self.is_complete = False
        """The host component runs, and serves all that it should."""

    # -- disks -------------------------------------------------------------------------------------------------------

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        primary = open_primary(name, place, size_bytes=size_bytes, create=True, shared=True)
        try:
            FileDevice(primary.path, direct=False, lock=True).close()  # one in use is refused before it is logged
        except BaseException:
            primary.close()
            raise
        return primary

    def attach(self, number: int, name: str, primary: Primary) -> HostedDisk:
        size_bytes = primary.device.size_bytes
        copy_filter = HostedFilter(self._control, number, size_bytes, self._ring.record_bytes_max)
        return HostedDisk(number, name, primary, self._component.nbd_uri(name), copy_filter)

    def serves(self, disk: ProtectedDisk) -> bool:
        """Whether the host component was told of the disk, and took it."""
        return disk.number in self._served

    def serve(self, disk: HostedDisk) -> None:
        with self._lock:
            self._wanted[disk.number] = disk
            try:
                self._add(disk)
            except HostUnreachable:  # made up for when it is reached again
                self.is_complete = False
            except BaseException:
                del self._wanted[disk.number]
                raise

    def withdraw(self, disk: HostedDisk) -> None:
        """What does not reach the host component now is made up for when it is reached again."""
        with self._lock:
            self._served.discard(disk.number)
            if self._wanted.pop(disk.number, None) is None:
                return
            try:
                self._control.remove(disk.number)
            except (HostUnreachable, InvalidRequest):  # the latter: it was started again, and could not serve the disk
                self.is_complete = False

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def host_ended(self) -> bool:
        """No host component lives, and the last one that had a disk ended in order."""
        return self._ring.host_ended or (self._unused and not self._ring.host_alive)

    def begin(self, disks: Sequence[HostedDisk] | None = None) -> bool:
        """See that the host component runs, and serves ``disks`` (by default those it should) and no others.

        Returns whether it was started here. Raises the first error; the other disks are served all the same.
        """
        with self._lock:
            self.is_complete = False
            if disks is not None:
                self._wanted = {disk.number: disk for disk in disks}
            self._served.clear()
            started = self._see_that_it_runs()
            errors = [error for disk in self._wanted.values() if (error := self._try_add(disk)) is not None]
            for number in self._control.stats().keys() - self._wanted.keys():
                self._control.remove(number)
            if errors:
                raise errors[0]
            self.is_complete = True
            return started

    def _see_that_it_runs(self) -> bool:
        """One that lives on a ring that was given up is ended first."""
        if self._component.running() and not self._ring.host_alive:
            self._component.stop()
        if self._component.running():
            return False
        disks = [StartDisk(disk.number, disk.name, disk.size_bytes, disk.path) for disk in self._wanted.values()]
        if self._bypassed_file is None:  # it has no disk before it is told of one
            self._unused = self.host_ended
            self._component.start(self._place.path, self._place.domain_uuid)
        else:
            path = self._bypassed_file.path
            self._component.start(self._place.path, self._place.domain_uuid, disks=disks, bypassed_path=path)
        return True

    def stop(self) -> None:
        """End the host component in order; its guests lose their disks."""
        with self._lock:
            self.is_complete = False
            self._component.stop()

    def close(self) -> None:
        """Guests go on."""
        for control in (self._control, self._stats_control, self._component.control):
            control.close()

    def _add(self, disk: HostedDisk) -> None:
        self._unused = False
        self._control.add(disk.number, disk.size_bytes, 0, disk.name, disk.path)
        self._served.add(disk.number)

    def _try_add(self, disk: HostedDisk) -> Exception | None:
        try:
            self._add(disk)
        except HostUnreachable:
            raise
        except (JetdrError, OSError) as error:
            return error
        return None

    # -- what it counts ----------------------------------------------------------------------------------------------

    def take_stats(self) -> None:
        """Ask for what is counted on every disk; without an answer it stays as last heard."""
        try:
            found = self._stats_control.stats()
        except (HostUnreachable, OSError):
            return
        for number, disk in dict(self._wanted).items():
            if number in found:
                disk.counted = found[number].filter
