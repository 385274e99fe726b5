"""DiskServer and HostedDisk: disks whose IO filters run in the host component, which guests reach over NBD.

Invariants: the host component alone writes to a primary, and holds its lock. This process has a handle for reading, to
tell holes from data. The host component serves no disk that the domain does not protect, and none that the caller does
not name. A disk that cannot be served keeps no other disk from its guests. A task of its own asks for
counters, with a short limit, so a caller that asks for status never waits for the host component.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Sequence

from jetdr_core._core import FilterStats, Ring
from jetdr_core.device import FileDevice
from jetdr_core.domain.disk import CopyFilter, ProtectedDisk
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.primary import DiskPlace, Primary, open_primary
from jetdr_core.errors import HostUnreachable, InvalidRequest, JetdrError
from jetdr_core.host import HostComponent, HostControl, HostedFilter, StartDisk

__all__ = ["DiskServer", "HostedDisk"]

log = logging.getLogger(__name__)

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

    def adopt(self, primary: Primary) -> None:
        """Take another handle. What is at its path may be another file than before."""
        self.primary.close()
        self.primary, self.device = primary, primary.device

    def close(self) -> bool:
        """Close the handle. Guests go on."""
        self.primary.close()
        return True


class DiskServer:
    """The host component of one domain, and the disks it serves. Thread-safe.

    ``admit`` is called with the path of a disk that is back, before it is served. ``doubt`` is called with the reason
    before a disk is served from another place than it was until now: what is there may differ from the log.
    ``on_fault`` is called with a disk that is served no longer, and why.
    """

    def __init__(
        self,
        component: HostComponent,
        ring: Ring,
        place: RingPlace,
        bypassed_file: BypassedFile | None,
        *,
        admit: Callable[[str], None],
        doubt: Callable[[str], None],
        on_fault: Callable[[HostedDisk, str], None],
    ) -> None:
        self._component = component
        self._ring = ring
        self._place = place
        self._bypassed_file = bypassed_file
        self._admit = admit
        self._doubt = doubt
        self._on_fault = on_fault
        limit_s = component.options.stall_limit_s + ANSWER_LIMIT_S
        self._control = HostControl(component.control.path, limit_s=limit_s)
        self._stats_control = HostControl(component.control.path, limit_s=STATS_LIMIT_S)
        self._lock = threading.Lock()  # what is served changes
        self._wanted: dict[int, HostedDisk] = {}
        self._served: set[int] = set()
        self._held: set[int] = set()
        self._may_lag: set[int] = set()
        self._failed_now: list[HostedDisk] = []
        self._unused = False
        self.is_complete = False
        """Whether the host component runs, and serves all disks that it should and that have not failed."""

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

    def check_guest_socket(self) -> None:
        """:class:`HostFailed` if guests cannot connect, because the name of their socket was removed."""
        self._component.check_guest_socket()

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
                self.is_complete = self.is_complete and disk.fault is not None

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def host_ended(self) -> bool:
        """Whether no host component lives, and the last one that had a disk ended in order."""
        return self._ring.host_ended or (self._unused and not self._ring.host_alive)

    def begin(self, disks: Sequence[HostedDisk] | None = None) -> bool:
        """Make the host component run, and serve exactly ``disks``, or by default the disks that it should serve.

        Returns whether it was started here. A disk that cannot be served has failed, and the others are served.
        """
        try:
            with self._lock:
                self.is_complete = False
                if disks is not None:
                    self._wanted = {disk.number: disk for disk in disks}
                self._served.clear()
                started = self._see_that_it_runs()
                held = self._control.stats().keys()
                for number in held - {disk.number for disk in self._named()}:
                    self._control.remove(number)
                for disk in self._named():
                    if disk.fault is None:
                        self._try_serve(disk, is_held=disk.number in held)
                    else:  # its file system may hang: serve_failed looks
                        self._note_held(disk, is_held=disk.number in held)
                self.is_complete = True
                return started
        finally:
            self._tell_failed()

    def serve_failed(self) -> None:
        """Try the disks that have failed again. Waits for a file system that hangs, and nobody waits with it."""
        for disk in [disk for disk in self._named() if disk.fault is not None]:
            try:
                primary = open_primary(disk.name, disk.path, size_bytes=disk.size_bytes, shared=True)
                if not self.is_held(disk):
                    self._admit(disk.path)
            except (JetdrError, OSError) as error:
                disk.fault = DiskFault.of(error, disk.fault)
            else:
                self._serve_again(disk, primary)

    def _serve_again(self, disk: HostedDisk, primary: Primary) -> None:
        with self._lock:
            if self._wanted.get(disk.number) is not disk or not self.is_complete:
                primary.close()
                return
            disk.adopt(primary)
            self._try_serve(disk, is_held=disk.number in self._control.stats())

    def is_held(self, disk: HostedDisk) -> bool:
        """Whether its guest goes on with the disk, although it has failed here."""
        return disk.number in self._held

    def _named(self) -> list[HostedDisk]:
        """The disks of which the caller says where they are."""
        return [disk for disk in list(self._wanted.values()) if disk.fault is None or disk.fault.is_named]

    def _tell_failed(self) -> None:
        """Tell which disks have failed just now. Without the lock, because it is taken after the control log's."""
        for disk in list(self._failed_now):
            if disk.fault is not None:
                self._on_fault(disk, f"disk {disk.name!r} failed: {disk.fault.reason}")
            self._failed_now.remove(disk)

    @property
    def why_failed(self) -> str:
        """Which disk has failed so recently that no copy is owed yet. Empty if none has."""
        return next((f"disk {disk.name!r} has failed" for disk in list(self._failed_now)), "")

    def _see_that_it_runs(self) -> bool:
        """Start the host component unless it runs. One that uses a ring that was given up is ended first."""
        if self._component.running() and not self._ring.host_alive:
            self._component.stop()
        if self._component.running():
            return False
        if self._bypassed_file is None:  # in write-through it starts without disks
            self._unused = self.host_ended
            self._component.start(self._place.path, self._place.domain_uuid)
        else:
            path, disks = self._bypassed_file.path, self._start_disks()
            self._component.start(self._place.path, self._place.domain_uuid, disks=disks, bypassed_path=path)
        return True

    def stop(self) -> None:
        """End the host component in order. Its guests lose their disks."""
        with self._lock:
            self.is_complete = False
            self._component.stop()

    def close(self) -> None:
        """Close the connections. Guests go on."""
        self.is_complete = False
        for control in (self._control, self._stats_control, self._component.control):
            control.close()

    def _start_disks(self) -> list[StartDisk]:
        """The disks that a host component in write-back begins with. It does not start without one of them.

        So one that cannot be opened is left out, unless the ring may have something that its primary lacks.
        """
        disks = [disk for disk in self._wanted.values() if disk.fault is None or disk.number in self._may_lag]
        if not self._ring.primaries_lag:
            self._may_lag.clear()
            for disk in disks:
                try:
                    FileDevice(disk.path, direct=False, lock=True).close()
                except (JetdrError, OSError) as error:
                    self._note_fault(disk, error, is_held=False)
            disks = [disk for disk in disks if disk.fault is None]
        return [StartDisk(disk.number, disk.name, disk.size_bytes, disk.path) for disk in disks]

    def _add(self, disk: HostedDisk) -> None:
        self._unused = False
        self._control.add(disk.number, disk.size_bytes, 0, disk.name, disk.path)
        self._served.add(disk.number)
        self._may_lag.add(disk.number)

    def _try_serve(self, disk: HostedDisk, *, is_held: bool) -> None:
        """Serve the disk if that is possible. ``is_held``: the host component serves it, maybe from another place.

        A disk that it serves stays with its guest, even if it cannot be opened here.
        """
        if is_held:
            self._may_lag.add(disk.number)
        try:
            self._add_at_its_place(disk, is_held=is_held)
        except HostUnreachable:
            raise
        except (JetdrError, OSError) as error:
            self._note_fault(disk, error, is_held=is_held)
            return
        if disk.fault is not None:
            log.warning("disk %s: served again from %s", disk.name, disk.path)
        disk.fault = None
        self._held.discard(disk.number)

    def _add_at_its_place(self, disk: HostedDisk, *, is_held: bool) -> None:
        try:
            self._add(disk)
        except InvalidRequest as error:
            if not is_held or error.facts.get("errno") != errno.EEXIST:
                raise
            self._doubt(f"disk {disk.name!r} is served from another place: {disk.path}")
            self._control.remove(disk.number)
            self._add(disk)

    def _note_fault(self, disk: HostedDisk, error: Exception, *, is_held: bool) -> None:
        if disk.fault is None:
            log.error("disk %s at %s failed: %s", disk.name, disk.path, error)
            self._held.add(disk.number)
        self._note_held(disk, is_held=is_held)
        disk.fault = DiskFault.of(error, disk.fault)

    def _note_held(self, disk: HostedDisk, *, is_held: bool) -> None:
        """Note whether the guest of a failed disk goes on with it. Once it does not, the disk may be changed."""
        if is_held:
            self._held.add(disk.number)
        elif disk.number in self._held:
            self._held.discard(disk.number)
            self._failed_now.append(disk)

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
