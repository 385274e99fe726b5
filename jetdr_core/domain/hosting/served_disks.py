"""DiskServer and HostedDisk: disks whose IO filters run in the host component, which guests reach over NBD.

Invariants: the host component alone writes to a primary, and holds its lock. This process has a handle for reading, to
tell holes from data. The host component serves no disk that the domain does not protect. A task of its own asks for
counters, with a short limit, so a caller that asks for status never waits for the host component.
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
"""A command that takes longer than this and the stall limit is given up."""

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
        """Always False: where primary and log may differ, the host component switches logging off."""
        return False

    def stats(self) -> FilterStats:
        """Return what the host component counted, as it last reported."""
        return self.counted

    def close(self) -> bool:
        """Close the handle. Guests go on."""
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
        """Whether the host component runs, and serves all disks that it should."""

    # -- disks -------------------------------------------------------------------------------------------------------

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        primary = open_primary(name, place, size_bytes=size_bytes, create=True, shared=True)
        try:
            FileDevice(primary.path, direct=False, lock=True).close()  # refuses a file in use before it is logged
        except BaseException:
            primary.close()
            raise
        return primary

    def attach(self, number: int, name: str, primary: Primary) -> HostedDisk:
        size_bytes = primary.device.size_bytes
        copy_filter = HostedFilter(self._control, number, size_bytes, self._ring.record_bytes_max)
        return HostedDisk(number, name, primary, self._component.nbd_uri(name), copy_filter)

    def serves(self, disk: ProtectedDisk) -> bool:
        """Return whether the host component has accepted the disk."""
        return disk.number in self._served

    def serve(self, disk: HostedDisk) -> None:
        with self._lock:
            self._wanted[disk.number] = disk
            try:
                self._add(disk)
            except HostUnreachable:  # done when the host component is reachable again
                self.is_complete = False
            except BaseException:
                del self._wanted[disk.number]
                raise

    def withdraw(self, disk: HostedDisk) -> None:
        """Withdraw the disk. A host component that cannot be reached is told when it is reachable again."""
        with self._lock:
            self._served.discard(disk.number)
            if self._wanted.pop(disk.number, None) is None:
                return
            try:
                self._control.remove(disk.number)
            except (HostUnreachable, InvalidRequest):  # the latter: it was restarted, and could not serve the disk
                self.is_complete = False

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def host_ended(self) -> bool:
        """Whether no host component lives, and the last one that had a disk ended in order."""
        return self._ring.host_ended or (self._unused and not self._ring.host_alive)

    def begin(self, disks: Sequence[HostedDisk] | None = None) -> bool:
        """Make the host component run, and serve exactly ``disks``, or by default the disks that it should serve.

        Returns whether it was started here. Raises the first error. All other disks are served nevertheless.
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
        """Start the host component unless it runs. One that uses a ring that was given up is ended first."""
        if self._component.running() and not self._ring.host_alive:
            self._component.stop()
        if self._component.running():
            return False
        disks = [StartDisk(disk.number, disk.name, disk.size_bytes, disk.path) for disk in self._wanted.values()]
        if self._bypassed_file is None:  # in write-through it starts without disks
            self._unused = self.host_ended
            self._component.start(self._place.path, self._place.domain_uuid)
        else:
            path = self._bypassed_file.path
            self._component.start(self._place.path, self._place.domain_uuid, disks=disks, bypassed_path=path)
        return True

    def stop(self) -> None:
        """End the host component in order. Its guests lose their disks."""
        with self._lock:
            self.is_complete = False
            self._component.stop()

    def close(self) -> None:
        """Close the connections. Guests go on."""
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
        """Ask for the counters of every disk. Without a reply they stay as last reported."""
        try:
            found = self._stats_control.stats()
        except (HostUnreachable, OSError):
            return
        for number, disk in dict(self._wanted).items():
            if number in found:
                disk.counted = found[number].filter
