"""EmbeddedMode: this process writes to the primaries, on behalf of its callers. Its ring ends with it.

Invariants: logging is always on, so a ring that stays full is an error for the caller. After an unclean stop the
GAP_OPEN is in the ring before anything can be uploaded or written.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from jetdr_core._core import IoFilter, ManualClock, MapStart, Ring
from jetdr_core.aio import in_thread
from jetdr_core.catalog import DiskState, DomainHistory
from jetdr_core.domain.continuity import NOTHING_OWED, Found, check_not_refused, decide, found_embedded
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.disk_identity import changed_disks, why_resync
from jetdr_core.domain.disk_map import DiskMap, MapMaker
from jetdr_core.domain.files_in_use import FileInUse, held_device
from jetdr_core.domain.generation import UNKNOWN_ID, Generation
from jetdr_core.domain.ladder import LadderStatus
from jetdr_core.domain.log_section import check_write_mode, log_found
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.mode import ModeParts, RingSettings
from jetdr_core.domain.overload import Overload
from jetdr_core.domain.primary import DiskPlace, Primaries, Primary, open_primary
from jetdr_core.errors import LogFailed
from jetdr_core.replication_log import Cursor, ReplicationLog
from jetdr_core.resync import regions_from

__all__ = ["EmbeddedMode", "EmbeddedResumption"]

LOOK_S = 0.25
"""How often the log's fill is looked at."""
TEND_S = 5.0
"""How often the regions that nobody writes to any more are cleared."""


class EmbeddedResumption:
    """Implements :class:`jetdr_core.domain.mode.Resumption`. Without a ``clock`` records get the machine's time."""

    shares_primaries = False
    write_back = False
    state_id = UNKNOWN_ID

    def __init__(
        self,
        name: str,
        clock: ManualClock | None,
        log: ReplicationLog,
        settings: RingSettings,
        chain: Generation | None,
    ) -> None:
        assert chain is not None, "an embedded domain has no known file, so it is opened with its store only"
        check_write_mode(name, log, write_back=False)
        self.name = name
        self.log = log
        self.ring = Ring(**asdict(settings), clock=clock)
        self.gap_since_ns = settings.time_ns_last + 1
        self.changed: tuple[DiskState, ...] = ()
        self.absent: tuple[DiskState, ...] = ()
        self.owed = NOTHING_OWED
        self.earlier = Generation.of_log(log)
        self._log_found = log_found(log)
        self._chain_word = Generation.of_log(log).word_of(chain)

    @property
    def owes_nothing(self) -> bool:
        return self.owed == NOTHING_OWED

    def check(self, history: DomainHistory, primaries: Primaries) -> None:
        absent = primaries.absent(history.disks)
        self.absent = tuple(disk for disk in absent if disk.ready)
        changed = changed_disks(self.log, primaries.answering(history.disks))
        self.changed = tuple(disk for disk in changed if disk not in absent)
        check_not_refused(self.name, self._find(history))

    def _find(self, history: DomainHistory) -> Found:
        return found_embedded(
            self._log_found,
            disks=bool(history.disks),
            chain=self._chain_word,
            changed=bool(self.changed or self.absent),
            cut_short=bool(self.log.cut_short),
        )

    def claim_time_ns(self, _stored_ns: int) -> int:
        return self.ring.observe()[1]

    def claiming(self, _generation: Generation) -> None:
        """There is nobody to tell."""

    def claimed(self, _generation: Generation) -> None:
        """There is nobody to tell."""

    def begin_ring(self, history: DomainHistory, _primaries: Primaries) -> Ring:
        self.owed = decide(self._find(history))
        return self.ring

    def make_mode(self, parts: ModeParts) -> EmbeddedMode:
        return EmbeddedMode(self, parts)

    def close(self) -> None:
        """The ring is freed with its last user."""


class EmbeddedMode:
    """Implements :class:`jetdr_core.domain.mode.Mode`."""

    why_inconsistent = ""
    is_quiet = True
    looks_for_disks = False
    bypassed_s = 0.0
    state_trouble = None

    def __init__(self, resumption: EmbeddedResumption, parts: ModeParts) -> None:
        self.source = DurableLog(resumption.log, resumption.ring, resumption.name, may_trim=parts.may_trim)
        self._resumption = resumption
        self._parts = parts
        self._overload = Overload(
            resumption.ring, resumption.log, parts.options, budget_s=None, owes_resync=lambda: parts.copies.owes_resync
        )
        self._looking: asyncio.Task[None] | None = None
        self._maps = MapMaker(resumption.log, resumption.earlier, parts.options.map_folder)
        self._disks: dict[int, Disk] = {}
        self._stopping = threading.Event()
        self._tender = threading.Thread(target=self._tend_maps, name=f"jetdr-maps-{resumption.name}", daemon=True)

    async def begin(self, cursor: Cursor, start_upload: Callable[[], None], attach: Callable[[], list[Disk]]) -> None:
        await in_thread(self.source.checkpoint, cursor)  # a log full of what is stored has no room for more
        await in_thread(self._attach, attach)
        self._tender.start()
        start_upload()
        self._looking = asyncio.create_task(self._look_forever())

    async def _look_forever(self) -> None:
        while True:
            self._overload.look()
            await asyncio.sleep(LOOK_S)

    def _attach(self, attach: Callable[[], list[Disk]]) -> None:
        resumption, control_log, copies = self._resumption, self._parts.control_log, self._parts.copies
        disks = attach()
        if resumption.owed.gap:
            control_log.open_gap(resumption.owed.gap, resumption.gap_since_ns)
        if resumption.owed.resync and not control_log.gap_open:
            why = why_resync(resumption.changed, resumption.absent)
            control_log.open_gap(why, resumption.gap_since_ns)
            copies.owe_changed(resumption.changed + resumption.absent, why)
        else:
            copies.owe_known()
        for disk in disks:
            if disk.fault is not None and not copies.why_owed(disk):  # the last owner added it as it ended
                copies.owe_failed(disk, f"disk {disk.name!r} failed: {disk.fault.reason}")

    @property
    def is_crowded(self) -> bool:
        return self._overload.is_throttling

    # -- disks -------------------------------------------------------------------------------------------------------

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        return open_primary(name, place, size_bytes=size_bytes, create=True)

    def attach(self, number: int, name: str, primary: Primary, size_bytes: int) -> Disk:
        disk_map = None
        if primary.fault is None:
            disk_map = self._maps.begin(number, name, primary, self._map_start(number, primary), size_bytes)
        io_filter = self._filter(number, primary, size_bytes, disk_map)
        disk = self._disks[number] = Disk(
            number, name, primary, io_filter, self._parts.copies.owe_suspect, disk_map=disk_map
        )
        return disk

    def _map_start(self, number: int, primary: Primary) -> MapStart:
        """Say what is known of the disk before anybody writes to it. Of a new one the log has nothing."""
        resumption, control_log = self._resumption, self._parts.control_log
        state = next((state for state in control_log.history.disks if state.disk == number), None)
        if state is None:
            holds_data = any(not region.hole for region in primary.regions())
            return MapStart.UNCERTAIN if holds_data else MapStart.AGREES
        if state in resumption.changed or (resumption.owed.gap and not resumption.owed.marked):
            return MapStart.UNCERTAIN
        rested = resumption.log.outcome.clean and not resumption.owed.gap
        return MapStart.AGREES if rested and state.ready and not control_log.gap_open else MapStart.MARKED

    def _tend_maps(self) -> None:
        while not self._stopping.wait(TEND_S):
            for disk in list(self._disks.values()):
                disk.tend_map()

    def _filter(self, number: int, primary: Primary, size_bytes: int, disk_map: DiskMap | None) -> IoFilter:
        return IoFilter(
            self._resumption.ring,
            primary.device,
            disk=number,
            size_bytes=size_bytes,
            record_bytes_max=self._resumption.log.record_bytes_max,
            stall_limit_s=self._parts.options.stall_limit_s,
            dirty_map=None if disk_map is None else disk_map.native,
        )

    def move(self, disk: Disk, path: str, reason: str) -> str:
        """The calls in flight end first. The gap is open before the disk can differ from the log."""
        if disk.fault is None and disk.primary.leads_to(path):
            disk.primary, disk.path = replace(disk.primary, path=path), path
            return ""
        primary, disk_map = open_primary(disk.name, path, size_bytes=disk.size_bytes, is_known=True), None
        with self._parts.control_log.lock:  # until the resync is owed, the end of another copy would close the gap
            try:
                disk_map = self._maps.begin(disk.number, disk.name, primary, MapStart.UNCERTAIN, disk.size_bytes)
                io_filter = self._filter(disk.number, primary, disk.size_bytes, disk_map)
                self._parts.copies.expect_resync(reason)
            except BaseException:
                if disk_map is not None:
                    disk_map.give_up()
                primary.close()
                raise
            disk.adopt(primary, io_filter, disk_map)
            self._parts.copies.owe_again(disk, reason)
        return reason

    def grow(self, disk: Disk, size_bytes: int) -> None:
        """Put another filter on the disk, because a dirty map has one size. The calls in flight end first."""
        before, primary = disk.size_bytes, disk.primary
        with disk.changing():
            disk_map = self._maps.begin(disk.number, disk.name, primary, self._grown_start(disk), size_bytes)
            for region in regions_from(primary.regions(size_bytes), before):
                if not region.hole:
                    disk_map.native.owe(region.offset, region.length)
            disk.resize(self._filter(disk.number, primary, size_bytes, disk_map), disk_map)

    def _grown_start(self, disk: Disk) -> MapStart:
        """Say what is known of a disk that nobody writes to: whether log and primary agree, durably."""
        ring, is_owed = self._resumption.ring, disk.suspect or bool(self._parts.copies.why_owed(disk))
        if is_owed or not ring.wait_durable(ring.lsn_reserved, self._parts.options.stall_limit_s):
            return MapStart.UNCERTAIN
        try:
            disk.device.sync()
        except OSError:
            return MapStart.UNCERTAIN
        return MapStart.AGREES

    def serve(self, disk: Disk) -> None:
        """The caller gets the disk from the domain, which returns it only now."""

    def withdraw(self, disk: Disk) -> None:
        self._disks.pop(disk.number, None)
        disk.io_filter.close()
        if disk.map is not None:
            disk.map.give_up()

    # -- host component: there is none -------------------------------------------------------------------------------

    def status(self) -> None:
        return None

    def ladder(self) -> LadderStatus:
        return self._overload.status()

    def files_in_use(self, disks: Iterable[Disk]) -> list[FileInUse]:
        """This process has them open."""
        found: list[FileInUse] = []
        for disk in disks:
            found += held_device(f"disk {disk.name!r}", disk.primary.path, disk.primary.device, os.getpid())
        return found

    async def stop_watching(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        self._stopping.set()
        if self._tender.is_alive():
            await in_thread(self._tender.join)

    async def stop_trimming(self) -> None:
        """Only the uploader trims."""

    # -- end ---------------------------------------------------------------------------------------------------------

    def end(self, *, stop_host: bool) -> bool:  # noqa: ARG002 - there is no host component
        return True

    def log_closed(self) -> None:
        ring = self._resumption.ring
        if ring.lsn_durable >= ring.lsn_reserved:
            return
        raise LogFailed(
            f"domain {self._resumption.name!r}: its log could not take LSN {ring.lsn_durable + 1} to "
            f"{ring.lsn_reserved}",
            hint="the disks hold them, and are resynced when the domain is opened again",
            lsn_durable=ring.lsn_durable,
            lsn_reserved=ring.lsn_reserved,
        )
