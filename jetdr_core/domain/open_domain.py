"""OpenDomain: what exists while a domain is open, and the order in which it begins and ends.

Invariants: after an unclean stop the gap is in the ring before anything can be uploaded or written; the disks are
closed before the rest is uploaded, and the log after it; every step of the end is taken, whatever another one met.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from uuid import uuid4

from jetdr_core.aio import in_thread, settle
from jetdr_core.control_bodies import DiskAdd, DiskRemove
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.embedded_mode import EmbeddedMode, Serving
from jetdr_core.domain.hosting.hosted_mode import HostedMode
from jetdr_core.domain.hosting.served_disks import HostedDisk
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.opening import Parts, open_parts
from jetdr_core.domain.primary import DiskPlace, Primary, open_primary
from jetdr_core.domain.request import DomainRequest
from jetdr_core.domain.status import DiskStatus, DomainStatus, counters
from jetdr_core.errors import InvalidRequest, LogFailed, LoggingOff, NotConsistent, StallTimeout
from jetdr_core.host import HostComponent
from jetdr_core.identity import check_name
from jetdr_core.limits import DISKS_MAX
from jetdr_core.resync import regions_of
from jetdr_core.uploader import SummaryWriter, Uploader

__all__ = ["OpenDomain"]

POLL_S = 0.05

LOGGING_LIMIT_S = 45.0
"""Longer than the longest wait before logging is switched on again."""


class OpenDomain:
    """An open domain's machinery: made by :meth:`start`, which runs in the loop's thread; ended by :meth:`end`."""

    def __init__(self, request: DomainRequest, parts: Parts, loop: LoopThread) -> None:
        options = self._options = request.options
        self.parts = parts
        self.loop = loop
        self.disks: dict[str, ProtectedDisk] = {}
        self.control_log = ControlLog(
            request.name,
            parts.ring,
            parts.history,
            record_bytes_max=parts.log.write_bytes_max,
            stall_limit_s=options.stall_limit_s,
        )
        self.copies = Copies(parts.ring, self.control_log, is_crowded=self._is_crowded if request.host else _never)
        self.summaries = SummaryWriter(parts.store)
        source = DurableLog(parts.log, parts.ring, request.name, parts.chain.epoch, hosted=request.host is not None)
        self.uploader = Uploader(source, parts.chain, options, parts.cursor, on_segment=self.summaries.on_segment)
        self._hosting = self._new_hosting(request, source)
        self._serving: Serving = self._hosting.serving if self._hosting else self._embedded_serving()
        self._name = request.name
        self._ending: Future[list[Exception]] | None = None
        self._hurry = asyncio.Event()

    # -- begin -------------------------------------------------------------------------------------------------------

    @classmethod
    async def start(cls, request: DomainRequest, loop: LoopThread) -> OpenDomain:
        """Open and claim the domain, attach its disks, begin to upload. After an error everything is closed."""
        parts = await open_parts(request)
        running = cls(request, parts, loop)
        try:
            if running._hosting is None:
                await in_thread(running._attach_known)
                running.uploader.start()
            else:
                await running._begin_hosted(running._hosting)
        except BaseException:
            await settle(running._finish(upload=False, clean=parts.clean, stop_host=False))
            raise
        return running

    def _new_hosting(self, request: DomainRequest, source: DurableLog) -> HostedMode | None:
        resumption = self.parts.resumption
        if request.host is None or resumption is None:
            return None
        return HostedMode(
            HostComponent(request.name, request.host),
            resumption,
            self.parts.ring,
            self.parts.log,
            source,
            self.control_log,
            self.copies,
            can_upload=lambda: self.uploader.failure is None,
            owe_copies=lambda reason: self.copies.owe_again(self._disks(), reason),
        )

    def _embedded_serving(self) -> EmbeddedMode:
        return EmbeddedMode(
            self.parts.ring,
            write_bytes_max=self.parts.log.write_bytes_max,
            stall_limit_s=self._options.stall_limit_s,
            on_suspect=self._on_suspect,
        )

    def _is_crowded(self) -> bool:
        """The rest of the log is for what guests write."""
        log = self.parts.log.state()
        return log.used_bytes > log.data_bytes // 2

    async def _begin_hosted(self, hosting: HostedMode) -> None:
        """What the ring held is shipped first: it is older than anything that is owed."""
        await in_thread(hosting.hold_log, self.parts.cursor)
        self.uploader.start()
        await hosting.catch_up(lambda: self.uploader.failure)
        await in_thread(self._serve_known, hosting)
        hosting.watch_over()

    def _serve_known(self, hosting: HostedMode) -> None:
        """Have the host component serve the disks the domain has; owe copies where primary and replica may differ."""
        for state in self.control_log.history.disks:
            primary = self.parts.primaries.get(state.disk)
            if primary is None:  # added while the last owner ended
                primary = open_primary(state.name, state.path, size_bytes=state.size_bytes, shared=True)
            self._attach(state.disk, state.name, primary)
        hosting.begin(self._disks(), self.parts.time_ns_known)
        self._owe_known()

    def _attach_known(self) -> None:
        """Put the filter on the disks the domain had, and owe copies where primary and replica may differ."""
        for state in self.control_log.history.disks:
            self._attach(state.disk, state.name, self.parts.primaries[state.disk])
        states = self.control_log.history.disks
        if states and not self.parts.clean:
            self.control_log.open_gap("unclean stop", self.parts.time_ns_known + 1)
        self._owe_known()

    def _owe_known(self) -> None:
        gap = self.control_log.history.gap_open
        for state in self.control_log.history.disks:
            disk = self.disks[state.name]
            if gap is not None and state.ready:
                self.copies.owe_resync(disk, gap.reason)
            elif not state.ready:
                self.copies.owe_initial(disk, log_holes=True)
        self.copies.close_gap_when_paid()

    def _attach(self, number: int, name: str, primary: Primary) -> ProtectedDisk:
        disk = self.disks[name] = self._serving.attach(number, name, primary)
        return disk

    # -- disks -------------------------------------------------------------------------------------------------------

    def protect(self, name: str, place: DiskPlace, size_bytes: int | None) -> ProtectedDisk:
        """Open a new disk, log that it is protected, and owe a copy of what it holds."""
        check_name("disk", name)
        self._check_new(name)
        primary = self._serving.open_new(name, place, size_bytes)
        try:
            regions = regions_of(primary.device.fileno(), primary.device.size_bytes)
            return self._add(name, primary, holds_data=any(not region.hole for region in regions))
        except BaseException:
            primary.close()
            raise

    def _add(self, name: str, primary: Primary, *, holds_data: bool) -> ProtectedDisk:
        with self.control_log.lock:
            self._check_new(name)  # again: others may have come first while it was opened
            disk = self._attach(self.control_log.history.disk_next, name, primary)
            added = DiskAdd(
                name=name,
                uuid=str(uuid4()),
                size_bytes=disk.size_bytes,
                path=primary.path,
                holds_data=holds_data,
            )
            try:
                self.control_log.append(added, disk.number)
            except BaseException:
                del self.disks[name]
                self._serving.withdraw(disk)
                raise
        self._serve(disk)
        with self.control_log.lock:
            if holds_data and self.disks.get(name) is disk:
                self.copies.owe_initial(disk, log_holes=False)
        return disk

    def _serve(self, disk: ProtectedDisk) -> None:
        """A disk that cannot be served is not protected any more."""
        try:
            self._serving.serve(disk)
        except BaseException:
            with self.control_log.lock:
                del self.disks[disk.name]
                self.copies.forget(disk)
                self.control_log.append(DiskRemove(), disk.number)  # or it is tried again at the next opening
            self.copies.close_gap_when_paid()
            raise

    def _check_new(self, name: str) -> None:
        self._check_not_ending()
        if name in self.disks:
            raise InvalidRequest(f"disk {name!r} is protected already", hint="use domain.disk(name)")
        if len(self.disks) >= DISKS_MAX:
            raise InvalidRequest(f"domain {self._name!r} protects {DISKS_MAX} disks already", hint="use another domain")

    def unprotect(self, disk: ProtectedDisk) -> None:
        """Log that the disk is no longer protected, then let it go. With a full log: refused, with nothing changed."""
        try:
            wait_for_copy = self._remove(disk)
        except LoggingOff:
            wait_for_copy = self._remove_when_logging(disk)
        self._serving.withdraw(disk)
        wait_for_copy()
        disk.primary.close()
        self.copies.close_gap_when_paid()

    def _remove(self, disk: ProtectedDisk) -> Callable[[], bool]:
        """Log it; the result waits until the disk's copy has ended."""
        with self.control_log.lock:
            self._check_not_ending()
            if self.disks.get(disk.name) is not disk:
                raise InvalidRequest(f"domain {self._name!r} protects no disk {disk.name!r}", hint="it was removed")
            self.control_log.append(DiskRemove(), disk.number)
            del self.disks[disk.name]
            return self.copies.forget(disk)

    def _remove_when_logging(self, disk: ProtectedDisk) -> Callable[[], bool]:
        """A disk that fails keeps switching logging off: it is taken from its guests first."""
        self._serving.withdraw(disk)
        deadline = time.monotonic() + LOGGING_LIMIT_S
        while True:
            try:
                return self._remove(disk)
            except LoggingOff:
                if time.monotonic() > deadline:
                    self._serving.serve(disk)
                    raise
                time.sleep(POLL_S)

    def _on_suspect(self, disk: ProtectedDisk) -> None:
        """A write failed on the primary and what it left could not be logged: the disk must be copied again."""
        with self.control_log.lock:
            if self._ending is None and self.disks.get(disk.name) is disk:
                self.copies.owe_resync(disk, f"disk {disk.name} failed a write")

    # -- end ---------------------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        return self._ending is not None

    def end(self, *, upload: bool, stop_host: bool = False) -> Future[list[Exception]]:
        """Begin to close, once; the result is what was met on the way. The loop ends with it.

        With ``stop_host`` the host component ends, too. Called again with ``upload=False`` it gives up an upload that
        is being waited for.
        """
        with self.control_log.lock:
            if self._ending is None:
                self._ending = self.loop.submit_last(self._finish(upload=upload, clean=True, stop_host=stop_host))
            elif not upload and not self._ending.done():
                self.loop.call(self._hurry.set)
            return self._ending

    async def _finish(self, *, upload: bool, clean: bool, stop_host: bool) -> list[Exception]:
        """Close the disks, upload the rest, stop, close the log, release everything. Returns the errors met."""
        errors: list[Exception] = []
        if self._hosting is not None:
            await _step(errors, self._hosting.stop_watching)
        clean &= await self._end_disks(errors, stop_host=stop_host)
        if upload and not self.uploader.paused:
            await _step(errors, self._upload_rest)
        await _step(errors, self.uploader.stop)
        if self._hosting is not None:
            await _step(errors, self._hosting.stop_trimming)
        await _step(errors, self.summaries.stop)
        await _step(errors, lambda: asyncio.to_thread(self._close_log, clean))
        await _step(errors, self.parts.opened.aclose)
        return errors

    async def _end_disks(self, errors: list[Exception], *, stop_host: bool) -> bool:
        try:
            clean = await asyncio.to_thread(self._close_disks, errors)
            if self._hosting is not None:
                limit_s = self._options.stall_limit_s
                clean &= await asyncio.to_thread(self._hosting.end, stop_host=stop_host, limit_s=limit_s)
            return clean
        except Exception as error:  # noqa: BLE001 - kept, and raised when all is closed
            errors.append(error)
            return False

    def _check_not_ending(self) -> None:
        if self._ending is not None:
            raise InvalidRequest(f"domain {self._name!r} is being closed", hint="open it again")

    def _close_disks(self, errors: list[Exception]) -> bool:
        """Close all disks and flush their primaries; False when one failed, and the log must not be called clean."""
        self.copies.stop()
        clean = True
        for disk in self._disks():
            try:
                clean &= disk.close()
            except Exception as error:  # noqa: BLE001 - kept, and raised when all is closed
                errors.append(error)
                clean = False
        return clean and not self.copies.gap_owed

    async def _upload_rest(self) -> None:
        lsn, limit_s = self.parts.ring.lsn_reserved, self._options.close_limit_s
        uploading = asyncio.ensure_future(self.uploader.wait_uploaded(lsn))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({uploading, hurry}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurried = not hurry.cancel()
        if uploading.done():
            await uploading
        elif not uploading.cancel() or not hurried:
            raise StallTimeout(
                f"domain {self._name!r} closed with LSN {self.uploader.lsn_uploaded + 1} to {lsn} not uploaded, "
                f"after at most {limit_s} s",
                hint="what its log holds of them is uploaded when the domain is opened again",
            )

    def _close_log(self, clean: bool) -> None:  # noqa: FBT001
        log, ring = self.parts.log, self.parts.ring
        log.close(clean=clean)
        if self._hosting is not None:  # what the log did not take stays in the ring
            if log.body.clean:
                self._hosting.forget_ring()
        elif ring.lsn_durable < ring.lsn_reserved:
            raise LogFailed(
                f"domain {self._name!r}: its log could not take LSN {ring.lsn_durable + 1} to {ring.lsn_reserved}",
                hint="the disks hold them; they are read again, behind a gap, when the domain is opened again",
                lsn_durable=ring.lsn_durable,
                lsn_reserved=ring.lsn_reserved,
            )

    # -- status ------------------------------------------------------------------------------------------------------

    @property
    def why_inconsistent(self) -> str:
        """In a few words; empty while the present moment is a recovery point."""
        with self.control_log.lock:
            return self.why_owed or self.control_log.history.why_inconsistent

    @property
    def why_owed(self) -> str:
        """Why the log is about to say that the domain is not consistent, though it does not yet."""
        return (self._hosting.why_inconsistent if self._hosting else "") or self.copies.gap_owed

    async def wait_consistent(self) -> None:
        """Return when no copy is owed, nothing that has happened will make one owed, and the log says so."""
        await self.copies.wait()
        while self._hosting is not None and not self._is_settled(self._hosting):
            await asyncio.sleep(POLL_S)
            if self._ending is not None:
                raise NotConsistent(f"domain {self._name!r} was closed", hint="open it again")
            if self.uploader.failure is not None and self.why_owed:
                raise self.uploader.failure
            await self.copies.wait()

    def _is_settled(self, hosting: HostedMode) -> bool:
        return hosting.is_quiet and not self.copies.owes_any and not self.why_inconsistent

    def status(self) -> DomainStatus:
        parts, stats, why = self.parts, self.uploader.stats, self.why_inconsistent
        log = parts.log.state()
        return DomainStatus(
            name=self._name,
            store=parts.store.url,
            epoch=parts.chain.epoch,
            timeline=parts.chain.timeline,
            consistent=not why,
            why_inconsistent=why,
            lsn_recovered=parts.log.outcome.head.lsn,
            lsn_reserved=parts.ring.lsn_reserved,
            lsn_durable=parts.ring.lsn_durable,
            lsn_uploaded=self.uploader.lsn_uploaded,
            rpo_s=max(self.uploader.lag_s, self._hosting.bypassed_s if self._hosting else 0.0),
            log_bytes=log.data_bytes,
            log_used_bytes=log.used_bytes,
            ring_used_bytes=parts.ring.used_bytes,
            segments_uploaded=stats.segments,
            payload_bytes_uploaded=stats.payload_bytes,
            stored_bytes_uploaded=stats.stored_bytes,
            retries=sum(parts.store.retries.values()),
            upload_latency_counts=tuple(stats.latency.counts),
            upload_latency_sum_s=stats.latency.sum_s,
            paused=self.uploader.paused,
            failure=str(self.uploader.failure or ""),
            host=self._hosting.status() if self._hosting else None,
            disks=tuple(_disk_status(disk, ready=self.control_log.is_ready(disk.number)) for disk in self._disks()),
        )

    def _disks(self) -> list[ProtectedDisk]:
        with self.control_log.lock:
            return list(self.disks.values())


def _never() -> bool:
    return False


async def _step(errors: list[Exception], step: Callable[[], Awaitable[object]]) -> None:
    """Take a step of the end; what it raises is kept."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - kept, and raised when all is closed
        errors.append(error)


def _disk_status(disk: ProtectedDisk, *, ready: bool) -> DiskStatus:
    return DiskStatus(
        name=disk.name,
        path=disk.path,
        nbd_uri=disk.nbd_uri if isinstance(disk, HostedDisk) else "",
        size_bytes=disk.size_bytes,
        ready=ready,
        copied_bytes=disk.copy.copied_bytes,
        copy_bytes=disk.copy.total_bytes,
        **counters(disk.stats()),
    )
