"""Copies: which disks are owed a copy of their data, why, and the threads that make the copies.

Only this module decides what is owed. A disk whose initial copy is not complete is owed that copy. Any other disk is
owed a resync when primary and log may differ.

Invariants: the gap of a resync is in the log before the disk is copied, and closed at the LSN at which no resync is
owed. DISK_READY comes after the last background record of its disk. A copy that was superseded or forgotten appends
nothing more. Resyncs do not wait for initial copies.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from jetdr_core._core import Ring
from jetdr_core.aio import shielded
from jetdr_core.catalog import DiskState
from jetdr_core.control_bodies import DiskReady, GapClose
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.errors import HostUnreachable, LoggingOff, NotConsistent, PrimaryAway, StallTimeout
from jetdr_core.resync import Region, copy_regions, regions_from

__all__ = ["Copies"]

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 0.05


class _Copy:
    """One copy that is owed. ``reason`` is that of the gap it ends, and empty for an initial copy.

    ``start``: what is before this offset is not copied.
    """

    def __init__(self, disk: ProtectedDisk, reason: str, start: int = 0) -> None:
        self.disk = disk
        self.reason = reason
        self.start = start
        self.stopping = threading.Event()
        self.paid: Future[None] = Future()  # done once the copy is no longer owed, or has failed
        self.begun = False  # changes with the control log's lock held
        self.interrupted = False
        self.ended = threading.Event()


class Copies:
    """Thread-safe. What is attached and what is owed changes with the control log's lock held.

    A copy that failed stays owed, and its gap open: :meth:`wait` raises the error, and the next opening owes the copy
    again. A copy is interrupted when logging goes off or the host component cannot be reached. It then waits for
    :meth:`resume_interrupted`. While the log ``is_crowded`` copies pause.
    """

    def __init__(self, ring: Ring, control_log: ControlLog, *, is_crowded: Callable[[], bool]) -> None:
        self._ring = ring
        self._control_log = control_log
        self._is_crowded = is_crowded
        self._disks: dict[int, ProtectedDisk] = {}
        self._owed: dict[int, _Copy] = {}
        self._stopping = threading.Event()
        self._initial = ThreadPoolExecutor(1, "jetdr-copy")
        self._resync = ThreadPoolExecutor(1, "jetdr-resync")

    # -- what is owed ------------------------------------------------------------------------------------------------

    def attach(self, disk: ProtectedDisk) -> None:
        """From now on copies of ``disk`` may be owed. With the control log's lock held."""
        self._disks[disk.number] = disk

    def owe_new(self, disk: ProtectedDisk) -> None:
        """Owe a new disk the copy of the data it holds: nothing of it is in the log."""
        self._owe(_Copy(disk, ""), log_holes=False)

    def owe_known(self) -> None:
        """Owe what the history says is owed: in a gap a copy of every disk, otherwise the initial copies."""
        gap = self._control_log.history.gap_open
        self.owe_all("" if gap is None else gap.reason or "a gap is open")

    def owe_changed(self, disks: Collection[DiskState], reason: str) -> None:
        """Owe a resync of ``disks`` only: with others primary and log agree. The gap is open."""
        changed = {disk.disk for disk in disks}
        with self._control_log.lock:
            for disk in self._disks.values():
                if not self._control_log.is_ready(disk.number):
                    self._owe(_Copy(disk, ""), log_holes=True)
                elif disk.number in changed:
                    self._owe(_Copy(disk, reason), log_holes=True)
        self.close_gap_when_paid()

    def owe_all(self, reason: str) -> None:
        """Owe every attached disk its copy, from the beginning: primaries and log may differ, for ``reason``.

        With an empty ``reason`` they do not differ, and only initial copies are owed.
        """
        with self._control_log.lock:
            for disk in self._disks.values():
                if not self._control_log.is_ready(disk.number):
                    self._owe(_Copy(disk, ""), log_holes=True)  # an earlier attempt may have logged some of it
                elif reason:
                    self._owe(_Copy(disk, reason), log_holes=True)
        self.close_gap_when_paid()

    def owe_suspect(self, disk: ProtectedDisk) -> None:
        """A write failed on the primary, and what it left could not be logged: owe the disk a resync."""
        with self._control_log.lock:
            if not self._stopping.is_set() and self._disks.get(disk.number) is disk:
                self._owe(_Copy(disk, f"disk {disk.name} failed a write"), log_holes=True)

    def owe_failed(self, disk: ProtectedDisk, reason: str) -> None:
        """The disk is not served, for ``reason``, and may be changed meanwhile: owe it a resync once it is back.

        Only the initial copy is owed to a disk that was never copied.
        """
        with self._control_log.lock:
            if self._disks.get(disk.number) is disk and self._control_log.is_ready(disk.number):
                self._owe(_Copy(disk, reason), log_holes=True)

    def expect_resync(self, reason: str) -> None:
        """Open the gap of a resync that is about to be owed, before its disk can differ from the log."""
        self._control_log.open_gap(reason)

    def owe_again(self, disk: ProtectedDisk, reason: str) -> None:
        """The disk is back, maybe as another file: owe it a copy from the beginning. A gap is open for ``reason``."""
        with self._control_log.lock:
            if self._disks.get(disk.number) is disk:
                ready = self._control_log.is_ready(disk.number)
                self._owe(_Copy(disk, reason if ready else ""), log_holes=True)

    def owe_end(self, disk: ProtectedDisk, start: int, reason: str) -> None:
        """The disk has grown, from ``start`` on. With a ``reason`` its new end holds data, and that gap is open.

        A copy that is under way begins anew, because it would leave the end out.
        """
        with self._control_log.lock:
            earlier, start = self._owed.get(disk.number), 0 if disk.map is not None else start
            if earlier is not None:
                self._owe(_Copy(disk, reason, min(earlier.start, start)), log_holes=True)
            elif reason:
                self._owe(_Copy(disk, reason, start), log_holes=False)

    def copy_extents(self, disk: ProtectedDisk, extents: Sequence[Region]) -> Future[None]:
        """Log what the disk holds in ``extents`` once more. It is not owed: log and disk agree before and after.

        The result is done once all of it is logged. It raises what the copy raised.
        """
        return self._resync.submit(self._copy_extents, disk, extents)

    def why_owed(self, disk: ProtectedDisk) -> str:
        """Why a copy of the disk is owed. Empty if none is."""
        copy = self._owed.get(disk.number)
        return "" if copy is None else copy.reason or "its initial copy is not complete"

    def resume_interrupted(self, is_served: Callable[[ProtectedDisk], bool]) -> None:
        """Begin the interrupted copies anew, of those disks that are served."""
        if not any(copy.interrupted for copy in list(self._owed.values())):
            return
        with self._control_log.lock:
            for copy in [copy for copy in self._owed.values() if copy.interrupted and is_served(copy.disk)]:
                self._owe(_Copy(copy.disk, copy.reason, copy.start), log_holes=True)

    def forget(self, disk: ProtectedDisk) -> Callable[[], bool]:
        """Owe the disk nothing more. The result waits until its copy has ended.

        Called with the control log's lock held, its result without it.
        """
        self._disks.pop(disk.number, None)
        copy = self._owed.pop(disk.number, None)
        if copy is None:
            return lambda: True
        copy.stopping.set()
        if not copy.paid.done():
            copy.paid.set_result(None)
        return copy.ended.wait if copy.begun else lambda: True

    def close_gap_when_paid(self) -> None:
        """Close the gap as soon as the log has room, unless a resync is owed."""
        with suppress(RuntimeError):  # the domain is closing: the gap is closed after the next opening
            self._resync.submit(_persist, self._stopping, self._close_gap_if_paid)

    @property
    def gap_owed(self) -> str:
        """Why the domain is not consistent, though its log may not say so yet; empty otherwise."""
        return next((copy.reason for copy in list(self._owed.values()) if copy.reason), "")

    @property
    def owes_resync(self) -> bool:
        """Whether a resync is owed, which ends a gap."""
        return bool(self.gap_owed)

    @property
    def owes_any(self) -> bool:
        """Whether any copy is owed."""
        return bool(self._owed)

    async def wait(self) -> None:
        """Return when nothing is owed. Raises the error of a copy that failed; NotConsistent if the domain closes."""
        while owed := list(self._owed.values()):
            await asyncio.gather(*(shielded(copy.paid) for copy in owed))

    async def wait_for(self, disk: ProtectedDisk) -> None:
        """Return when nothing is owed to this disk. Raises like :meth:`wait`."""
        while (copy := self._owed.get(disk.number)) is not None and copy.disk is disk:
            await shielded(copy.paid)

    def stop(self) -> None:
        """End the copies where they are. A caller that waits for one gets :class:`NotConsistent`."""
        self._stopping.set()
        with self._control_log.lock:
            owed = list(self._owed.values())
        for copy in owed:
            copy.stopping.set()
        self._initial.shutdown(wait=True, cancel_futures=True)
        self._resync.shutdown(wait=True, cancel_futures=True)
        for copy in owed:
            if not copy.paid.done():
                copy.paid.set_exception(
                    NotConsistent(
                        f"the domain was closed before the copy of disk {copy.disk.name!r} was complete",
                        hint="the copy begins anew when the domain is opened again",
                    )
                )

    # -- one copy ----------------------------------------------------------------------------------------------------

    def _owe(self, copy: _Copy, *, log_holes: bool) -> None:
        pool = self._resync if copy.reason else self._initial
        with self._control_log.lock:
            earlier = self._owed.get(copy.disk.number)
            if earlier is not None:
                earlier.stopping.set()
                copy.paid, copy.reason = earlier.paid, copy.reason or earlier.reason
                if copy.paid.done():
                    copy.paid = Future()
            self._owed[copy.disk.number] = copy
            copy.disk.copy.total_bytes, copy.disk.copy.copied_bytes = copy.disk.owed_bytes - copy.start, 0
            pool.submit(self._make, copy, log_holes=log_holes or earlier is not None)

    def _make(self, copy: _Copy, *, log_holes: bool) -> None:
        try:
            self._copy(copy, log_holes=log_holes)
        except (LoggingOff, HostUnreachable, PrimaryAway) as error:
            log.info("disk %s: its copy was interrupted: %s", copy.disk.name, error)
            copy.interrupted = True
        except Exception as error:  # noqa: BLE001 - wait() raises it
            with self._control_log.lock:
                current = self._owed.get(copy.disk.number) is copy
                if current and not copy.paid.done():
                    log.error("disk %s: its copy failed: %s", copy.disk.name, error)
                    copy.paid.set_exception(error)
        finally:
            if self._owed.get(copy.disk.number, copy) is copy:
                copy.disk.copy.running = False
            copy.ended.set()

    def _copy(self, copy: _Copy, *, log_holes: bool) -> None:
        disk = copy.disk
        with self._control_log.lock:
            if copy.stopping.is_set():
                return
            copy.begun = disk.copy.running = True
        if copy.reason:
            _persist(copy.stopping, lambda: self._control_log.open_gap(copy.reason))
            if disk.fault is None and copy.start == 0:
                disk.copy_filter.trust()
        if disk.fault is not None:  # its gap is open; the copy is resumed when it is served
            raise PrimaryAway(disk.fault.reason)
        if disk.map is not None:
            _persist(copy.stopping, disk.map.settle)
            disk.copy.total_bytes = disk.copy.copied_bytes + disk.map.owed_bytes
        if self._copy_what_is_owed(copy, log_holes=log_holes or disk.map is not None):
            _persist(copy.stopping, lambda: self._complete(copy))

    def _copy_what_is_owed(self, copy: _Copy, *, log_holes: bool) -> bool:
        """Return whether nothing of the disk is owed any more. With a map that is what the map says."""
        disk = copy.disk
        while copy_regions(
            disk.copy_filter,
            self._ring,
            regions_from(disk.regions(), copy.start),
            log_holes=log_holes,
            stopping=copy.stopping,
            progress=disk.copy.advance,
            is_crowded=self._is_crowded,
        ):
            if disk.map is None or not disk.map.owes_any() or disk.suspect:
                return True
        return False

    def _copy_extents(self, disk: ProtectedDisk, extents: Sequence[Region]) -> None:
        if disk.fault is not None:
            raise PrimaryAway(f"disk {disk.name!r}: {disk.fault.reason}", hint=disk.fault.remedy)
        if not copy_regions(
            disk.copy_filter,
            self._ring,
            iter(extents),
            log_holes=True,
            stopping=self._stopping,
            progress=lambda _: None,
            is_crowded=self._is_crowded,
        ):
            raise NotConsistent("the domain was closed before all was copied", hint="copy it once it is open")

    def _complete(self, copy: _Copy) -> None:
        """The copy is complete, and no longer owed. The last resync closes the gap."""
        with self._control_log.lock:
            disk_map = copy.disk.map
            if self._owed.get(copy.disk.number) is not copy or copy.disk.suspect or (disk_map and disk_map.surely_owes):
                return
            if not self._control_log.is_ready(copy.disk.number):
                self._control_log.append(DiskReady(), copy.disk.number)
            self._close_gap_if_paid(but=copy)
            del self._owed[copy.disk.number]  # last, because wait() and consistency depend on it
            copy.paid.set_result(None)

    def _close_gap_if_paid(self, but: _Copy | None = None) -> None:
        with self._control_log.lock:
            owed = any(copy.reason for copy in self._owed.values() if copy is not but)
            if self._control_log.gap_open and not owed:
                self._control_log.append(GapClose())


def _persist(stopping: threading.Event, append: Callable[[], T]) -> T | None:
    """Append once the log has room. Returns None when ``stopping`` is set first. Between attempts the lock is free."""
    while not stopping.is_set():
        try:
            return append()
        except StallTimeout:
            stopping.wait(RETRY_S)
    return None
