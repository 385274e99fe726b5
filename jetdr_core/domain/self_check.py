"""SelfCheck: records what a few extents of each disk hold, so that anybody can see whether the store gives that back.

Every other check compares the store with itself: checksums, tags, the chain. None of them finds a write that the filter
never logged, or that the log gave to the wrong place. So every few minutes some extents are read from the primary, with
their ranges held, and a DIGESTS record says what they held at which LSN. ``jetdr scrub`` recovers those extents at
those LSNs, and compares.

Invariants: a digest is of the disk exactly at its LSN, and at that LSN the domain was consistent. While a gap is open,
a copy is owed or the log is crowded, nothing is read. A record that cannot be appended is dropped.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from jetdr_core._core import Ring
from jetdr_core.control_bodies import DIGESTS_MAX, Digest, Digests
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.recent_writes import RecentWrites
from jetdr_core.errors import JetdrError
from jetdr_core.limits import DIGEST_BYTES_MAX, SECTOR_BYTES
from jetdr_core.resync import RING_SHARE_BYTES

__all__ = ["SelfCheck"]

log = logging.getLogger(__name__)

EXTENT_BYTES = 128 << 10
EXTENTS = 4
"""Of each disk and round. The first half are where the disk was written lately, because that is where faults show."""

DISKS_MAX = 16
"""Disks of one round. A domain with more takes turns."""

IDLE_ROUNDS = 12
"""So many rounds are left out while nothing was written since the last digest."""

MARK_ROUNDS = 5
"""A mark brings the next round forward, to at most so many times as often."""

STOP_LIMIT_S = 5.0
"""A primary that does not answer holds up no closing for longer."""

assert EXTENTS <= DIGESTS_MAX


class SelfCheck:
    """:meth:`record` is one round, for any thread. :meth:`start` begins a thread that makes a round now and then.

    ``why_unsteady`` says why disks and log may differ at present, and is empty if they do not. ``rng`` chooses.
    """

    def __init__(
        self,
        name: str,
        ring: Ring,
        control_log: ControlLog,
        recent: RecentWrites,
        *,
        disks: Callable[[], Mapping[str, ProtectedDisk]],
        why_unsteady: Callable[[], str],
        every_s: float,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._ring = ring
        self._control_log = control_log
        self._recent = recent
        self._disks = disks
        self._why_unsteady = why_unsteady
        self._every_s = every_s
        self._rng = rng or random.Random()
        self._stopping = threading.Event()
        self._marked = threading.Event()
        self._thread: threading.Thread | None = None
        self._lsn_last = 0  # of the last record that was appended here
        self._idle_rounds = 0
        self._next_disk = 0

    def start(self) -> None:
        """Begin rounds, unless there are to be none. A daemon thread: a primary that hangs keeps no process alive."""
        if self._every_s:
            self._thread = threading.Thread(target=self._run, name=f"jetdr-check-{self._name}", daemon=True)
            self._thread.start()

    def note_mark(self) -> None:
        """The next round comes soon, so that what the mark names is soon checked."""
        self._marked.set()

    def stop(self) -> None:
        self._stopping.set()
        self._marked.set()
        if self._thread is not None:
            self._thread.join(STOP_LIMIT_S)

    def record(self) -> int:
        """Record digests of some extents of each disk, or of the next disks of many. Returns of how many extents."""
        return sum(self._record_disk(disk, self._extents(disk)) for disk in self._turn())

    def record_of(self, disk: ProtectedDisk, extents: Sequence[tuple[int, int]]) -> int:
        """Record digests of all of these extents, in as many records as that takes. Returns of how many pieces."""
        pieces = [
            (at, min(DIGEST_BYTES_MAX, offset + length - at))
            for offset, length in extents
            for at in range(offset, offset + length, DIGEST_BYTES_MAX)
        ]
        firsts = range(0, len(pieces), DIGESTS_MAX)
        return sum(self._record_disk(disk, pieces[first : first + DIGESTS_MAX]) for first in firsts)

    # -- rounds ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stopping.is_set():
            self._wait_for_round(last_s)
            last_s = time.monotonic()
            if not self._stopping.is_set() and not self._is_idle():
                self.record()

    def _wait_for_round(self, last_s: float) -> None:
        """Wait until a round is due. After a mark it is due earlier."""
        soon_s, due_s = (last_s + self._every_s / rounds - time.monotonic() for rounds in (MARK_ROUNDS, 1))
        self._marked.clear()
        if self._stopping.wait(max(0.0, soon_s)):
            return
        self._marked.wait(max(0.0, due_s - max(0.0, soon_s)))

    def _is_idle(self) -> bool:
        """Whether nothing was written since the last digest, and that is not too long ago."""
        if self._ring.lsn_reserved != self._lsn_last or self._idle_rounds >= IDLE_ROUNDS:
            self._idle_rounds = 0
            return False
        self._idle_rounds += 1
        return True

    def _turn(self) -> list[ProtectedDisk]:
        disks = sorted(self._disks().values(), key=lambda disk: disk.number)
        if len(disks) <= DISKS_MAX:
            return disks
        first, self._next_disk = self._next_disk, (self._next_disk + DISKS_MAX) % len(disks)
        return (disks[first % len(disks) :] + disks[: first % len(disks)])[:DISKS_MAX]

    # -- one disk ----------------------------------------------------------------------------------------------------

    def _record_disk(self, disk: ProtectedDisk, extents: Iterable[tuple[int, int]]) -> int:
        try:
            return self._record(disk, extents)
        except (JetdrError, OSError, MemoryError) as error:  # its alarm is raised where it concerns somebody
            log.debug("domain %s: no digests of disk %s: %s", self._name, disk.name, error)
            return 0

    def _record(self, disk: ProtectedDisk, extents: Iterable[tuple[int, int]]) -> int:
        gaps = len(self._control_log.history.gaps)
        if not self._is_steady(disk):
            return 0
        found: list[Digest] = []
        for offset, length in extents:
            if self._stopping.is_set() or self._is_busy():
                break
            lsn, digest = disk.copy_filter.digest(offset, length)
            found.append(Digest(lsn, offset, length, digest))
        with self._control_log.lock:
            had_no_gap = len(self._control_log.history.gaps) == gaps
            if not found or not had_no_gap or self._disks().get(disk.name) is not disk or not self._is_steady(disk):
                return 0
            self._lsn_last = self._control_log.append(Digests(tuple(found)), disk.number).lsn
        return len(found)

    def _is_steady(self, disk: ProtectedDisk) -> bool:
        """Whether disk and log agree. If they do before and after, and no gap was between, they did meanwhile."""
        return (
            disk.fault is None
            and not self._why_unsteady()
            and self._ring.logging
            and self._control_log.is_ready(disk.number)
        )

    def _is_busy(self) -> bool:
        return self._ring.used_bytes > min(RING_SHARE_BYTES, self._ring.payload_bytes // 4)

    def _extents(self, disk: ProtectedDisk) -> Iterator[tuple[int, int]]:
        recent = [place for place in self._recent.of(disk.number) if place.offset < disk.size_bytes]
        for nth in range(EXTENTS):
            start, end = 0, disk.size_bytes
            if recent and nth < EXTENTS // 2:
                place = self._rng.choice(recent)
                start, end = place.offset, min(place.offset + place.length, disk.size_bytes)
            offset = self._rng.randrange(start, end) // EXTENT_BYTES * EXTENT_BYTES
            yield offset, min(EXTENT_BYTES, disk.size_bytes - offset) // SECTOR_BYTES * SECTOR_BYTES
