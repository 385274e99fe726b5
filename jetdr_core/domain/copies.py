"""Copies: which disks are owed a copy of their pre-existing data, and the thread that makes it.

Invariants: a gap that was opened because disks are owed a copy is closed at the LSN at which none is; DISK_READY comes
after the last background record of its disk. One disk is copied at a time. Talks to: resync, the domain's journal.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from jetdr_core._core import Ring
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.journal import Journal
from jetdr_core.errors import NotConsistent
from jetdr_core.record import Kind
from jetdr_core.resync import copy_regions, regions_of

__all__ = ["Copies"]

log = logging.getLogger(__name__)


class Copies:
    """Thread-safe. A failed copy stays owed: its error is raised by :meth:`wait`, and :meth:`owe` tries again."""

    def __init__(self, ring: Ring, journal: Journal) -> None:
        self._ring = ring
        self._journal = journal
        self._owed: dict[int, Future[None]] = {}  # changed with the journal's lock held
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, "jetdr-resync")

    def owe(self, disk: Disk, *, log_holes: bool) -> None:
        """Copy all of ``disk`` in the background. ``log_holes`` unless the replica is known to hold nothing of it."""
        with self._journal.lock:
            disk.copy.total_bytes, disk.copy.copied_bytes = disk.size_bytes, 0
            self._owed[disk.number] = self._pool.submit(self._copy, disk, log_holes=log_holes)

    def forget(self, number: int) -> None:
        """The disk is no longer protected; its copy, if one runs, has ended because the disk is closed."""
        with self._journal.lock:
            future = self._owed.get(number)
            if future is not None:
                future.cancel()
                self._settle(number)

    async def wait(self) -> None:
        """Return when nothing is owed; raises the error of a copy that failed."""
        while futures := list(self._owed.values()):
            await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
            if self._stopping.is_set():
                raise NotConsistent("the domain was closed before its background copy was complete")

    def stop(self) -> None:
        """End the copies where they are."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _copy(self, disk: Disk, *, log_holes: bool) -> None:
        disk.copy.running = True
        disk.io_filter.trust()
        try:
            regions = regions_of(disk.device.fileno(), disk.size_bytes)
            whole = copy_regions(
                disk.io_filter,
                self._ring,
                regions,
                log_holes=log_holes,
                stopping=self._stopping,
                progress=disk.copy.advance,
            )
        except BaseException as error:
            log.error("disk %s: its copy failed: %s", disk.name, error)
            raise
        finally:
            disk.copy.running = False
        with self._journal.lock:
            if whole and not disk.io_filter.stats().suspect:
                if not self._journal.is_ready(disk.number):
                    self._journal.append(Kind.DISK_READY, disk.number, {})
                self._settle(disk.number)

    def _settle(self, number: int) -> None:
        """The disk is owed no copy any more; with the last one the gap ends. With the journal's lock held."""
        if self._owed.keys() == {number} and self._journal.gap_open:
            self._journal.append(Kind.GAP_CLOSE, 0, {})
        del self._owed[number]  # last, because this is what :meth:`wait` waits for
