"""HostedMode: a host component writes to the primaries, and serves the disks to guests. It and its ring outlive us.

Invariants: control records that the ring held are in the history before anything is decided on it. What is owed because
a ring is lost is in the new ring before that has its name, and before the host component is started. The ring is
removed only when log and primaries hold everything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from jetdr_core._core import MapStart, Ring
from jetdr_core.aio import in_thread
from jetdr_core.catalog import DiskState
from jetdr_core.device.place import identity_at
from jetdr_core.domain.continuity import Continuity
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.disk_identity import why_resync
from jetdr_core.domain.files_in_use import FileInUse, HeldFile, held_device
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.hosting.bypass import Bypass, log_bypass_gap
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.hosted_map import HostMaps
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.hosting.served_disks import DiskServer, HostedDisk
from jetdr_core.domain.hosting.stamper import Stamper
from jetdr_core.domain.hosting.watch import Watch
from jetdr_core.domain.hosting.witnesses import Witnesses
from jetdr_core.domain.ladder import LadderStatus
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.mode import ModeParts
from jetdr_core.domain.overload import Overload
from jetdr_core.domain.primary import DiskPlace, Primary
from jetdr_core.domain.status import HostStatus
from jetdr_core.domain.trouble import Trouble, Troubles
from jetdr_core.errors import JetdrError, StoreAway
from jetdr_core.file_making import told
from jetdr_core.host import HostComponent
from jetdr_core.replication_log import Cursor, ReplicationLog

__all__ = ["HostedMode", "Resumed"]

log_ = logging.getLogger(__name__)

CATCH_UP_POLL_S = 0.01
COUNT_S = 0.5
RING_REMEDY = (
    "keep cleaners away from it. Stop the guests, end the DRVA together with its host components "
    "(hosts_on_stop = 'stop'), and start it again: a new ring is made"
)
ALONE_S = 10.0
"""Without a store a log that has not taken the ring's records within this is full."""

ROOM_LIMIT_S = 3.0
"""With write-back a full log has room within this: the primaries are flushed every second, then the log is trimmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a hosted domain goes on from, once it is claimed.

    ``lsn_kept``: up to there the ring may hold control records that the log does not. A gap that is ``owed`` after what
    log and store hold begins at ``gap_since_ns``. ``changed``: the disks that somebody else has changed. ``absent``:
    those whose primaries are not open, and which were copied before. ``lagging``: those that were last used with an
    older log, which is no doubt about the log while a gap is open. ``earlier``: the generation that the log was last
    used under. ``rested``: everything had ended in order, and log and primaries agree. ``others_wrote``: guests may
    have been served while the domain was closed.
    """

    component: HostComponent
    place: RingPlace
    bypassed_file: BypassedFile | None
    served_file: BypassedFile
    ring: Ring
    log: ReplicationLog
    lsn_kept: int
    owed: Continuity
    gap_since_ns: int
    changed: tuple[DiskState, ...]
    absent: tuple[DiskState, ...]
    lagging: tuple[DiskState, ...]
    witnesses: Witnesses | None
    earlier: Generation
    rested: bool
    others_wrote: bool


class HostedMode:
    """Implements :class:`jetdr_core.domain.mode.Mode`."""

    looks_for_disks = True
    _stamper: Stamper | None = None
    _counting: asyncio.Task[None] | None = None

    def __init__(self, resumed: Resumed, parts: ModeParts) -> None:
        name, ring, log = resumed.component.name, resumed.ring, resumed.log
        self._name, self._ring, self._log = name, ring, log
        self._resumed, self._parts = resumed, parts
        # Once fenced it stops logging, so that guests need not wait for it.
        self.source = DurableLog(log, ring, name, on_fence=ring.stop_logging, may_trim=parts.may_trim)
        self._maps = HostMaps(log, ring, resumed.earlier, parts.options.map_folder)
        self._server = DiskServer(
            resumed.component,
            ring,
            resumed.place,
            resumed.bypassed_file,
            self._maps,
            admit=self._admit,
            doubt=self._doubt,
            on_fault=self._owe_failed,
        )
        self._overload = Overload(
            ring,
            log,
            parts.options,
            budget_s=parts.options.throttle_wait_s,
            written_bytes=lambda: self._server.written_bytes,
            owes_resync=lambda: parts.copies.owes_resync,
        )
        self._bypass = Bypass(
            name,
            ring,
            log,
            parts.control_log,
            parts.copies,
            resumed.bypassed_file,
            overload=self._overload,
            because=resumed.owed.stop,
            can_upload=lambda: parts.failure() is None,
            served_file=resumed.served_file,
        )
        self._watch = Watch(name, ring, self._server, self._bypass, parts.copies, trim=self._trim)
        self._state_troubles = Troubles()
        self._ring_files: list[FileInUse] = []

    # -- begin -------------------------------------------------------------------------------------------------------

    async def begin(
        self, cursor: Cursor, start_upload: Callable[[], None], attach: Callable[[], list[HostedDisk]]
    ) -> None:
        """What the ring held is shipped first: it is older than anything that is owed."""
        if self._resumed.witnesses is not None:
            self.source.noted(self._resumed.witnesses.lsn)
            self._stamper = Stamper(self._name, self._resumed.witnesses)
            self._stamper.start()
        await in_thread(self._hold_log, cursor)
        start_upload()
        await self._catch_up()
        await in_thread(self._serve_known, attach)
        self._watch.start()
        self._counting = asyncio.create_task(self._count_forever())

    def _hold_log(self, cursor: Cursor) -> None:
        """What :meth:`_catch_up` is to read stays in the log. What is uploaded already goes, before more is."""
        self.source.hold(self._log.outcome.head.lsn)
        self.source.checkpoint(cursor)

    async def _catch_up(self) -> None:
        """Bring into the history what the ring held when it was found, on its way through the log.

        Returns when the log holds it, and raises what will keep the log from that. A full log waits for uploads, but
        not for a store that is away.
        """
        cursor, lsn = self._log.outcome.head, self._resumed.lsn_kept
        deadline_s = time.monotonic() + ALONE_S
        while cursor.lsn < lsn:
            if (failure := self._parts.failure()) is not None:
                raise failure
            if not self._parts.is_joined() and time.monotonic() > deadline_s:
                raise StoreAway(
                    f"domain {self._name!r}: its log has no room for what the ring holds, and its store is away",
                    hint="it is opened once the store is there",
                )
            if self._ring.poisoned:
                self._ring.fail(-self._ring.poisoned, "taking over what the ring holds")
            await in_thread(self.source.hold, cursor.lsn)
            self._ring.request_durable(lsn)
            cursor = await in_thread(self._parts.control_log.fold, self._log, cursor)
            if self.is_crowded:
                with suppress(JetdrError, OSError):  # the watch reports it
                    await in_thread(self._trim)
            await asyncio.sleep(CATCH_UP_POLL_S)
        await in_thread(self.source.hold, None)

    def _serve_known(self, attach: Callable[[], list[HostedDisk]]) -> None:
        """Open the gap that is owed, then see that the host component runs and serves the disks the domain has."""
        resumed, ring, copies = self._resumed, self._ring, self._parts.copies
        disks, was_open = attach(), self._parts.control_log.gap_open
        gap = resumed.owed.gap or (why_resync(resumed.changed, resumed.absent) if resumed.owed.resync else "")
        if gap:
            bypassed_file, served_file = resumed.bypassed_file, resumed.served_file
            if not ring.logging:  # then Bypass removes the files
                log_bypass_gap(self._parts.control_log, None, None, gap, resumed.gap_since_ns)
            else:
                log_bypass_gap(self._parts.control_log, bypassed_file, served_file, gap, resumed.gap_since_ns)
        resumed.place.publish(Generation.of_log(self._log))
        self._ring_files = self._held_ring()
        self._maps.begin(self._map_starts(is_gap_open=was_open))
        self._start_host(disks)
        if resumed.owed.resync and not was_open:
            copies.owe_changed(resumed.changed + resumed.absent, gap)
        else:
            copies.owe_known()
        if resumed.lagging and not was_open and not gap:  # the ring had closed the gap
            self._doubt(f"disk {', '.join(repr(disk.name) for disk in resumed.lagging)} was used with an older log")
        owed = {state.disk for state in resumed.absent} if gap else set()
        for disk in disks:
            if disk.fault is not None and disk.number not in owed and not self._server.is_held(disk):
                self._owe_failed(disk, f"disk {disk.name!r} failed: {disk.fault.reason}")
        self._server.owe_differing(self._owe_differing)

    def _owe_differing(self, disk: HostedDisk, reason: str) -> None:
        """Owe the disk a resync, unless one that was owed since it is served copies it anyway."""
        if not self._parts.copies.why_owed(disk):
            self._parts.copies.owe_failed(disk, reason)

    def _map_starts(self, *, is_gap_open: bool) -> dict[int, MapStart]:
        """Say what is known of the disks before the host component is asked to serve them."""
        resumed, starts = self._resumed, {}
        differs = resumed.others_wrote or (bool(resumed.owed.gap) and not resumed.owed.marked)
        for state in self._parts.control_log.history.disks:
            if differs or state in resumed.changed or state in resumed.absent:
                starts[state.disk] = MapStart.UNCERTAIN
            elif resumed.rested and state.ready and not is_gap_open:
                starts[state.disk] = MapStart.AGREES
            else:
                starts[state.disk] = MapStart.MARKED
        return starts

    def _trim(self) -> None:
        """Move the log's tail as far as the state folder knows the log by now.

        A state folder that cannot be written is reported, and the log keeps what follows meanwhile.
        """
        witnesses = self._resumed.witnesses
        if witnesses is not None:
            try:
                witnesses.note_lsn(self._ring.lsn_durable)
                self._state_troubles.note("")
            except (JetdrError, OSError) as error:
                self._state_troubles.note(told(error))
        self.source.noted(None if witnesses is None else witnesses.lsn)
        self.source.trim()

    def _start_host(self, disks: Sequence[HostedDisk]) -> None:
        lived = self._ring.host_alive
        try:
            self._server.begin(disks)
        except (JetdrError, OSError) as error:
            if not lived:
                raise
            log_.error("domain %s: its host component: %s; trying again", self._name, error)  # guests go on meanwhile

    async def _count_forever(self) -> None:
        while True:
            await in_thread(self._server.take_stats)
            await asyncio.sleep(COUNT_S)

    # -- disks -------------------------------------------------------------------------------------------------------

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        primary = self._server.open_new(name, place, size_bytes)
        try:
            self._admit(primary.path)
        except BaseException:
            primary.close()
            raise
        return primary

    def _admit(self, path: str) -> None:
        if self._resumed.witnesses is not None:
            self._resumed.witnesses.admit(path)

    def _doubt(self, reason: str) -> None:
        self._bypass.begin(reason)

    def _owe_failed(self, disk: HostedDisk, reason: str) -> None:
        """The disk is not served any more. In write-back a gap opens only once the primaries have everything."""
        if self._ring.write_back:
            self._bypass.begin(reason)
        else:
            self._parts.copies.owe_failed(disk, reason)

    def _expect_resync(self, reason: str) -> None:
        if not self._ring.write_back and self._ring.logging:
            self._parts.copies.expect_resync(reason)

    def attach(self, number: int, name: str, primary: Primary, size_bytes: int) -> HostedDisk:
        return self._server.attach(number, name, primary, size_bytes)

    def grow(self, disk: HostedDisk, size_bytes: int) -> None:
        self._server.grow(disk, size_bytes)

    def move(self, disk: HostedDisk, path: str, reason: str) -> str:
        """In write-through the gap is open before the disk can differ from the log, in write-back logging is off."""
        primary, is_same = self._server.open_moved(disk, path), disk.primary.leads_to(path)
        is_in_use = is_same if disk.fault is None else self._server.is_held(disk)
        try:
            if disk.fault is None and not is_same:
                self._expect_resync(reason)
                self._server.fail(disk, DiskFault.moving(path))
                self._owe_failed(disk, reason)
                self._expect_resync(reason)  # again: until then the end of another copy may have closed the gap
            if not is_in_use:
                self._admit(path)
        except BaseException:
            primary.close()
            raise
        self._server.serve_moved(disk, primary)
        return "" if is_in_use and not self._bypass.why else reason

    def serve(self, disk: HostedDisk) -> None:
        if not self._maps.knows(disk.number):
            holds_data = any(not region.hole for region in disk.primary.regions())
            self._maps.begin({disk.number: MapStart.UNCERTAIN if holds_data else MapStart.AGREES})
        self._server.serve(disk)

    def withdraw(self, disk: HostedDisk) -> None:
        self._server.withdraw(disk)
        self._maps.remove(disk.number, disk.path)

    # -- while the domain is open ------------------------------------------------------------------------------------

    @property
    def why_inconsistent(self) -> str:
        return self._bypass.why or self._server.why_failed

    @property
    def is_quiet(self) -> bool:
        if not self._watch.is_quiet or self._parts.copies.owes_any or self._bypass.why:
            return False
        with self._parts.control_log.lock:
            return not self._parts.control_log.history.why_inconsistent

    @property
    def is_crowded(self) -> bool:
        log = self._log.state()
        return log.used_bytes > log.data_bytes // 2 or self._overload.is_throttling

    @property
    def bypassed_s(self) -> float:
        off = self._ring.off()
        return 0.0 if off.logging else (self._ring.observe()[1] - off.since_ns) / 1e9

    def ladder(self) -> LadderStatus:
        return self._overload.status()

    @property
    def state_trouble(self) -> Trouble | None:
        return self._state_troubles.present

    def files_in_use(self, disks: Iterable[HostedDisk]) -> list[FileInUse]:
        """The host component has the disks open, or this process while none runs."""
        pid, found = self._server.host_pid or os.getpid(), list(self._ring_files)
        for disk in disks:
            found += held_device(f"disk {disk.name!r}", disk.primary.path, disk.primary.device, pid)
        return found

    def _held_ring(self) -> list[FileInUse]:
        path = str(self._resumed.place.path)
        if (identity := identity_at(path)) is None:
            return []
        return [HeldFile("the ring", path, identity, os.getpid(), RING_REMEDY)]

    def status(self) -> HostStatus:
        watch, off = self._watch, self._ring.off()
        return HostStatus(
            alive=self._ring.host_alive,
            restarts=watch.host_restarts,
            failure=watch.failure,
            logging=off.logging,
            off_reason=self._bypass.why,
            off_times=off.times,
            unstamped="" if self._stamper is None else self._stamper.failure,
            counted_age_s=self._server.counted_age_s,
        )

    # -- end ---------------------------------------------------------------------------------------------------------

    async def stop_watching(self) -> None:
        await asyncio.to_thread(self._watch.close)
        if self._stamper is not None:
            await asyncio.to_thread(self._stamper.close)
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)

    async def stop_trimming(self) -> None:
        await asyncio.to_thread(self._watch.stop)
        if self._resumed.witnesses is not None:
            self._resumed.witnesses.leave()

    def end(self, *, stop_host: bool) -> bool:
        ring = self._ring
        try:
            if stop_host:
                if not ring.poisoned:  # with write-back only what is durable reaches the primaries
                    ring.wait_durable(ring.lsn_reserved, self._parts.options.stall_limit_s + ROOM_LIMIT_S)
                self._server.stop()
        finally:
            self._server.close()
        applied = not ring.write_back or ring.lsn_in_primaries >= ring.lsn_reserved
        return self._server.host_ended and ring.logging and applied

    def log_closed(self) -> None:
        """What the log did not take stays in the ring."""
        if self._log.body.clean:
            self._resumed.place.remove()
