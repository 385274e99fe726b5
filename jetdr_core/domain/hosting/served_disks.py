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
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from jetdr_core._core import FilterStats, MapState, Ring
from jetdr_core.device import FileDevice
from jetdr_core.domain.disk import CopyFilter, ProtectedDisk
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.hosted_map import HostedMap, HostMaps
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.primary import DiskPlace, Primary, close_late, open_primary, shrunk
from jetdr_core.errors import HostUnreachable, InvalidRequest, JetdrError, PrimaryAway
from jetdr_core.host import HostComponent, HostControl, HostedFilter, StartDisk
from jetdr_core.patience import each_within

__all__ = ["DiskServer", "HostedDisk"]

log = logging.getLogger(__name__)

ANSWER_LIMIT_S = 10.0
"""A command that takes longer than this and the stall limit is given up."""

STATS_LIMIT_S = 1.0

LOOK_LIMIT_S = 1.0
"""A failed disk that takes longer to be opened is looked at again in the next round."""


class HostedDisk(ProtectedDisk):
    """A disk that guests read and write over NBD, at :attr:`nbd_uri`."""

    map: HostedMap | None

    def __init__(self, number: int, name: str, primary: Primary, nbd_uri: str, copy_filter: HostedFilter) -> None:
        super().__init__(number, name, primary, copy_filter.size_bytes)
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

    def take_map_state(self, state: MapState | None) -> None:
        """Take over what the host component reports of its dirty map."""
        if self.map is not None and state is not None:
            self.map.state = state

    def adopt(self, primary: Primary) -> None:
        """Take another handle. What is at its path may be another file than before, and the path another one."""
        self.primary.close()
        self.primary, self.device, self.path = primary, primary.device, primary.path

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
        maps: HostMaps,
        *,
        admit: Callable[[str], None],
        doubt: Callable[[str], None],
        on_fault: Callable[[HostedDisk, str], None],
    ) -> None:
        self._component = component
        self._ring = ring
        self._place = place
        self._bypassed_file = bypassed_file
        self._maps = maps
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
        self._differing: list[tuple[HostedDisk, str]] = []
        self._looking: dict[tuple[int, str], Future[Primary]] = {}
        self._measuring: dict[int, Future[int]] = {}
        self._unused = False
        self._counted_s: float | None = None
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

    def attach(self, number: int, name: str, primary: Primary, size_bytes: int) -> HostedDisk:
        copy_filter = HostedFilter(self._control, number, size_bytes, self._ring.record_bytes_max)
        return HostedDisk(number, name, primary, self._component.nbd_uri(name), copy_filter)

    @property
    def host_pid(self) -> int | None:
        """The process id of the host component. None if it does not run, or takes no connection."""
        with suppress(HostUnreachable):
            return self._component.pid
        return None

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

    def grow(self, disk: HostedDisk, size_bytes: int) -> None:
        """Serve more of the disk. A host component that cannot be reached does so when it is reachable again."""
        with self._lock:
            disk.size_bytes = size_bytes
            try:
                self._add_at_its_place(disk, is_held=True)
            except HostUnreachable:
                self.is_complete = False
            except (JetdrError, OSError) as error:  # it has another file open
                self._note_fault(disk, error, is_held=True)

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
        """Try the disks that have failed again. One whose file system hangs is not asked again before that answers."""
        failed = {(disk.number, disk.path): disk for disk in self._named() if disk.fault is not None}
        for key in self._looking.keys() - failed.keys():
            self._looking.pop(key).add_done_callback(close_late)
        new = [(key, disk) for key, disk in failed.items() if key not in self._looking]
        looking = each_within(LOOK_LIMIT_S, self._look, [disk for _, disk in new])
        self._looking |= {key: one for (key, _), one in zip(new, looking, strict=True)}
        for key, disk in failed.items():
            if self._looking[key].done():
                self._take(disk, key[1], self._looking.pop(key))

    def look_at_sizes(self) -> None:
        """See which disks have grown, and take those from their guests that have shrunk. One that hangs is left out."""
        hanging = {number: one for number, one in self._measuring.items() if not one.done()}
        new = [disk for disk in list(self._wanted.values()) if disk.fault is None and disk.number not in hanging]
        measured = each_within(LOOK_LIMIT_S, lambda disk: disk.primary.size_now(), new)
        self._measuring = hanging | {disk.number: one for disk, one in zip(new, measured, strict=True)}
        for disk, one in zip(new, measured, strict=True):
            if one.done() and one.exception() is None:
                self._note_size(disk, one.result())
        self._tell_failed()

    def _note_size(self, disk: HostedDisk, found: int) -> None:
        before, disk.primary_bytes = disk.primary_bytes, found
        if found > max(before, disk.size_bytes):
            log.warning("disk %s has grown from %d to %d bytes", disk.name, disk.size_bytes, found)
        elif found < disk.size_bytes and disk.fault is None:
            self._note_shrunk(disk, found)

    def _note_shrunk(self, disk: HostedDisk, found: int) -> None:
        """What is cut off is lost, and a write beyond the end would make zeros of it that nobody knows of."""
        log.error("disk %s at %s has shrunk to %d bytes", disk.name, disk.path, found)
        self._failed_now.append(disk)  # first: the domain is not consistent from the moment that the disk has failed
        self.fail(disk, DiskFault.of(shrunk(disk.name, disk.path, found, disk.size_bytes)))
        self._on_fault(disk, f"disk {disk.name!r} has shrunk to {found} bytes")

    def _look(self, disk: HostedDisk) -> Primary:
        primary = open_primary(disk.name, disk.path, size_bytes=disk.size_bytes, shared=True, is_known=True)
        try:
            if not self.is_held(disk):
                self._admit(primary.path)
            return primary
        except BaseException:
            primary.close()
            raise

    def _take(self, disk: HostedDisk, path: str, look: Future[Primary]) -> None:
        try:
            primary = look.result()
        except (JetdrError, OSError) as error:
            if disk.fault is not None and disk.path == path:
                disk.fault = DiskFault.of(error, disk.fault)
        else:
            self._serve_again(disk, primary)

    def _serve_again(self, disk: HostedDisk, primary: Primary) -> None:
        with self._lock:
            is_wanted = self._wanted.get(disk.number) is disk and disk.fault is not None and disk.path == primary.path
            if not is_wanted or not self.is_complete:
                primary.close()
                return
            disk.adopt(primary)
            self._try_serve(disk, is_held=disk.number in self._control.stats())

    # -- a disk that is elsewhere ------------------------------------------------------------------------------------

    def open_moved(self, disk: HostedDisk, path: str) -> Primary:
        """Open the disk at another place, and refuse a place that is in use. Changes nothing."""
        primary = open_primary(disk.name, path, size_bytes=disk.size_bytes, shared=True, is_known=True)
        try:
            if not self.is_held(disk) and not disk.primary.leads_to(path):
                FileDevice(path, direct=False, lock=True).close()
            return primary
        except BaseException:
            primary.close()
            raise

    def fail(self, disk: HostedDisk, fault: DiskFault) -> None:
        """Take the disk from its guest, because of ``fault``. What is in flight ends first."""
        with self._lock:
            self._served.discard(disk.number)
            self._maps.doubt(disk.number)
            disk.fault = fault
            try:
                self._control.remove(disk.number)
            except InvalidRequest:
                pass  # it was restarted, and does not serve the disk
            except HostUnreachable:
                self.is_complete = False

    def serve_moved(self, disk: HostedDisk, primary: Primary) -> None:
        """Serve the disk from its new place. While no host component runs, the next one does.

        A host component that has the very file open goes on with it. Raises if it refuses the place.
        """
        with self._lock:
            earlier, path = disk.fault, disk.path
            disk.adopt(primary)
            if disk.fault is not None:
                disk.fault = replace(disk.fault, is_named=True)
            try:
                if self.is_complete:
                    self._try_serve(disk, is_held=disk.number in self._control.stats())
            except HostUnreachable:
                self.is_complete = False
            if disk.fault is not None and self.is_complete:
                refused, disk.fault, disk.path = disk.fault, earlier or disk.fault, path
                raise PrimaryAway(f"disk {disk.name!r} at {primary.path}: {refused.reason}", hint=refused.remedy)

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
        """Which disk has failed, or was changed by others, and is owed no copy yet. Empty if none is."""
        failed = [f"disk {disk.name!r} has failed" for disk in list(self._failed_now)]
        return next(iter(failed + [reason for _, reason in list(self._differing)]), "")

    def owe_differing(self, owe: Callable[[HostedDisk, str], None]) -> None:
        """Have a copy owed of every disk that others have changed while no host component served it."""
        for disk, reason in list(self._differing):
            owe(disk, reason)
            self._differing.remove((disk, reason))

    def _see_that_it_runs(self) -> bool:
        """Start the host component unless it runs. One that uses a ring that was given up is ended first."""
        if self._component.running() and not self._ring.host_alive:
            self._component.stop()
        if self._component.running():
            return False
        if self._bypassed_file is None:  # in write-through it starts without disks
            self._unused = self.host_ended
            self._component.start(self._place.path, self._place.domain_uuid, map_folder=self._maps.folder)
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
        if self._ring.write_back:
            self._control.add(disk.number, disk.size_bytes, 0, disk.name, disk.path)
        else:
            self._add_mapped(disk)
        self._served.add(disk.number)
        self._may_lag.add(disk.number)

    def _add_mapped(self, disk: HostedDisk) -> None:
        request = self._maps.request(disk.number)
        found = self._control.add_mapped(disk.number, disk.size_bytes, disk.name, disk.path, request)
        if reason := self._maps.added(disk.number, disk.name, found):
            self._differing.append((disk, reason))
        disk.map = None if found is None else HostedMap(self._control, disk.number, disk.size_bytes)

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
            self._doubt(f"disk {disk.name!r} is served from another place, or in another size: {disk.path}")
            self._control.remove(disk.number)
            self._maps.doubt(disk.number)
            self._add(disk)

    def _note_fault(self, disk: HostedDisk, error: Exception, *, is_held: bool) -> None:
        if disk.fault is None:
            log.error("disk %s at %s failed: %s", disk.name, disk.path, error)
            self._held.add(disk.number)
        self._note_held(disk, is_held=is_held)
        disk.fault = DiskFault.of(error, disk.fault)
        if not is_held:
            self._maps.doubt(disk.number)

    def _note_held(self, disk: HostedDisk, *, is_held: bool) -> None:
        """Note whether the guest of a failed disk goes on with it. Once it does not, the disk may be changed."""
        if is_held:
            self._held.add(disk.number)
        elif disk.number in self._held:
            self._held.discard(disk.number)
            self._failed_now.append(disk)

    # -- what it counts ----------------------------------------------------------------------------------------------

    @property
    def written_bytes(self) -> int:
        """What guests have written, as last reported. Counters begin anew with a host component."""
        return sum(disk.counted.write_bytes for disk in list(self._wanted.values()))

    @property
    def counted_age_s(self) -> float | None:
        """How old the counters are. None: the host component has not reported any yet."""
        counted_s = self._counted_s
        return None if counted_s is None else time.monotonic() - counted_s

    def take_stats(self) -> None:
        """Ask for the counters of every disk. Without a reply they stay as last reported."""
        asked_s = time.monotonic()
        try:
            found = self._stats_control.stats()
        except (HostUnreachable, OSError):
            return
        for number, disk in dict(self._wanted).items():
            if number in found:
                disk.counted = found[number].filter
                disk.take_map_state(found[number].map)
        self._counted_s = asked_s
