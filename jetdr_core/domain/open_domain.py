"""OpenDomain: what exists while a domain is open, and the order in which it begins and ends.

Invariants: the disks are closed before the rest is uploaded, and the log after it. Every step of the end is taken, even
if another step failed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from jetdr_core.aio import in_thread, settle
from jetdr_core.device import FileDevice, IscsiDevice
from jetdr_core.domain.clock_watch import ClockWatch
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.disk_identity import why_changed
from jetdr_core.domain.disks import Disks
from jetdr_core.domain.failed_log import FailedLog
from jetdr_core.domain.files_in_use import FileInUse, FilesInUse, KeyInUse, held_device
from jetdr_core.domain.joining import Joining
from jetdr_core.domain.log_watch import LogPace, LogWatch
from jetdr_core.domain.lookout import Lookout
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.mode import D, ModeParts
from jetdr_core.domain.opening import open_parts
from jetdr_core.domain.parts import RETRY_WHILE_OPENING, Away, Joined, Parts
from jetdr_core.domain.request import DomainRequest
from jetdr_core.domain.self_check import SelfCheck
from jetdr_core.domain.status import DomainStatus
from jetdr_core.domain.upload import Upload
from jetdr_core.errors import (
    Fenced,
    InvalidRequest,
    JetdrError,
    LogFailed,
    NotConsistent,
    PrimaryAway,
    StallTimeout,
    StoreError,
    StoreUnmounted,
)
from jetdr_core.resync import Region
from jetdr_core.store import AWAY_S, connected
from jetdr_core.uploader import StoreRefusal

__all__ = ["OpenDomain"]

T = TypeVar("T")

POLL_S = 0.05


class OpenDomain(Generic[D]):
    """The parts of an open domain, joined. :meth:`start` runs in the loop's thread; :meth:`end` may come from any."""

    def __init__(self, request: DomainRequest[D], parts: Parts[D], loop: LoopThread) -> None:
        options = self._options = request.settings.options
        self.parts = parts
        self.loop = loop
        self.control_log = _control_log(request, parts)
        self.copies = Copies(parts.ring, self.control_log, is_crowded=lambda: self.mode.is_crowded)
        self.clock_watch = ClockWatch(request.name, parts.ring, self.control_log, self.copies)
        self.mode = parts.resumption.make_mode(
            ModeParts(
                options,
                self.control_log,
                self.copies,
                failure=lambda: self.upload.failure,
                may_trim=lambda lsn: parts.keeper.may_trim(lsn, self.control_log),
                is_joined=lambda: self.upload.is_joined,
            )
        )
        self.disks = Disks(request.name, self.mode, self.control_log, self.copies)
        self.self_check = self._make_self_check(request.name)
        self._joining = Joining(request, parts, parts.joined) if isinstance(parts.joined, Away) else None
        self.upload = Upload(request.name, self.mode.source, options, parts.cursor, parts.joined, self._join)
        self._failed_log = FailedLog(
            lambda: self.mode.source.failure, lambda: self.upload.lsn_uploaded, self._is_upload_idle
        )
        self._name = request.name
        self._store = request.settings.store
        self._ending: Future[list[Exception]] | None = None
        self._hurry = asyncio.Event()
        self._identities: tuple[bytes, ...] = ()
        self._noting = threading.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._key_file = request.settings.key_file
        self._key: KeyInUse | None = None
        self._files = FilesInUse(self._files_in_use)
        self._log_watch = LogWatch(lambda: self.mode.source.failure, self._log_pace, self._log_device_failure)
        self._lookout = Lookout(request.name, (self._log_watch.look, self._keep_known, self._files.look))

    def _make_self_check(self, name: str) -> SelfCheck:
        return SelfCheck(
            name,
            self.parts.ring,
            self.control_log,
            self.mode.source.recent,
            disks=self.disks.by_name,
            why_unsteady=self._why_unsteady,
            every_s=self._options.self_check_s,
        )

    @classmethod
    async def start(cls, request: DomainRequest[D], loop: LoopThread) -> OpenDomain[D]:
        """Open and claim the domain, serve its disks, begin to upload. After an error everything is closed."""
        parts = await open_parts(request)
        domain = cls(request, parts, loop)
        try:
            await domain.mode.begin(
                parts.cursor, domain.upload.start, lambda: domain.disks.attach_known(parts.primaries)
            )
            await in_thread(domain.disks.grow_known)
            await in_thread(domain.note_places)
        except BaseException:
            await settle(domain._finish(upload=False, clean=parts.clean, stop_host=False))
            raise
        domain._watching = asyncio.create_task(domain.clock_watch.run())
        domain._lookout.start()
        domain.self_check.start()
        return domain

    async def _join(self) -> Joined:
        """Join the domain with its store, which was away when the domain was opened."""
        assert self._joining is not None, "the store was away"
        self.parts.joined = await self._joining.join()
        return self.parts.joined

    def resume_upload(self) -> None:
        """Upload again after a pause, and try at once what waits for the store."""
        self.upload.resume()
        if self._joining is not None:
            self._joining.hurry()

    def check_written(self, lsn: int) -> None:
        """Refuse an LSN that was not given out."""
        lsn_last = self.parts.ring.lsn_reserved
        if not 0 <= lsn <= lsn_last:
            raise InvalidRequest(
                f"LSN {lsn} has not been written in domain {self._name!r}", hint=f"the last LSN is {lsn_last}"
            )

    def keep_disks(self) -> None:
        """Make durable, in the log and in what the state folder knows, which disks there are."""
        self.control_log.make_durable()
        self.parts.keeper.may_trim(self.parts.ring.lsn_durable, self.control_log)
        self.note_places()

    def copy_extents(self, disk: ProtectedDisk, extents: Sequence[tuple[int, int]]) -> int:
        """Log extents of a disk once more, and their digests. Returns the last LSN. It may take long."""
        if self.copies.owes_any:
            raise NotConsistent(
                f"domain {self._name!r} owes copies of its disks, which come first",
                hint="try again when it is consistent",
            )
        regions = [Region(offset, length, hole=False) for offset, length in extents]
        self.copies.copy_extents(disk, regions).result()
        self.self_check.record_of(disk, extents)
        return self.parts.ring.lsn_reserved

    def note_places(self) -> None:
        """Have the log know where the disks are, so that the next opening need not believe the store."""
        with self._noting, suppress(LogFailed):  # a log that failed tells of that by itself
            self.parts.log.note_places(self.disks.places())

    # -- what the lookout asks -----------------------------------------------------------------------------------------

    def _log_pace(self) -> LogPace:
        ring, log = self.parts.ring, self.parts.log.state()
        return LogPace(ring.lsn_reserved, log.lsn_written, ring.used_bytes, log.data_bytes - log.used_bytes)

    def _log_device_failure(self) -> str:
        device = self.parts.log.device
        return device.info().failure if isinstance(device, IscsiDevice) else ""

    def _keep_known(self) -> None:
        self.parts.keeper.look(self.parts.ring.lsn_durable, self.control_log)

    def _files_in_use(self) -> Iterable[FileInUse]:
        device = self.parts.log.device
        if isinstance(device, FileDevice):
            yield from held_device("the log", device.path, device, os.getpid())
        disks = [disk for disk in self.disks.by_name().values() if disk.fault is None]
        yield from self.mode.files_in_use(disks)
        if self._key_file is not None:
            self._key = self._key or KeyInUse.of(self._key_file)
            yield self._key or KeyInUse(self._key_file, b"")

    # -- end ---------------------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        return self._ending is not None

    def end(self, *, upload: bool, stop_host: bool = False) -> Future[list[Exception]]:
        """Begin to close the domain. The result holds the errors met, and is done when the loop has ended. Idempotent.

        With ``stop_host`` the host component ends too. A second call, with ``upload=False``, gives up the upload that
        the first one waits for.
        """
        with self.control_log.lock:
            if self._ending is None:
                self._ending = self.loop.submit_last(self._finish(upload=upload, clean=True, stop_host=stop_host))
                self.disks.freeze()
            elif not upload and not self._ending.done():
                self.loop.call(self._hurry.set)
            return self._ending

    async def _finish(self, *, upload: bool, clean: bool, stop_host: bool) -> list[Exception]:
        """Close the disks, upload the rest, stop, close the log, release everything. Returns the errors met."""
        errors: list[Exception] = []
        await _step(errors, self._stop_watching)
        clean &= bool(await _step(errors, lambda: asyncio.to_thread(self._end_disks, errors, stop_host=stop_host)))
        if upload and not self.upload.paused:
            await _step(errors, self._upload_rest)
        await _step(errors, self.upload.stop)
        await _step(errors, self.mode.stop_trimming)
        await _step(errors, self.upload.stop_summaries)
        await _step(errors, lambda: asyncio.to_thread(self._close_log, clean=clean))
        await _step(errors, self.parts.opened.aclose)
        return errors

    async def _stop_watching(self) -> None:
        await in_thread(self.self_check.stop)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            await asyncio.to_thread(self._lookout.stop)
        await self.mode.stop_watching()

    def _end_disks(self, errors: list[Exception], *, stop_host: bool) -> bool:
        """Let the disks go. Returns False if primaries and log may differ, so that the log must not be called clean."""
        self.copies.stop()
        agree = self.disks.close(errors) and not self.copies.gap_owed
        agree = self.mode.end(stop_host=stop_host) and agree
        if agree:  # before the upload: a guest may begin to write to a primary that has been let go
            self._identities = self.disks.identities()
        return agree

    async def _upload_rest(self) -> None:
        lsn, limit_s = self.parts.ring.lsn_reserved, self._options.close_limit_s
        if not self.upload.is_joined and lsn == self.parts.cursor.lsn:
            return  # nothing is to be uploaded, as far as is known
        uploading = asyncio.ensure_future(self.upload.wait_uploaded(lsn))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({uploading, hurry}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        hurried = not hurry.cancel()
        if uploading.done():
            await uploading
        elif not uploading.cancel() or not hurried:
            raise StallTimeout(
                f"domain {self._name!r} closed with LSN {self.upload.lsn_uploaded + 1} to {lsn} not uploaded, "
                f"after at most {limit_s} s",
                hint="what its log holds of them is uploaded when the domain is opened again",
            )

    def _close_log(self, *, clean: bool) -> None:
        self.parts.log.close(clean=clean, disks=self._identities if clean else ())
        self.mode.log_closed()
        if self.parts.log.body.clean:
            self.parts.keeper.ended()

    # -- status ------------------------------------------------------------------------------------------------------

    @property
    def why_inconsistent(self) -> str:
        """Why the present moment is no recovery point, in a few words. Empty if it is one."""
        with self.control_log.lock:
            return self.why_owed or self.control_log.history.why_inconsistent

    @property
    def why_owed(self) -> str:
        """Why the log is about to say that the domain is not consistent, though it does not yet."""
        return self.mode.why_inconsistent or self.copies.gap_owed

    def _why_unsteady(self) -> str:
        """Why disks and log may differ, or should be left alone. Empty if they agree and there is room."""
        if self.ending or self.mode.is_crowded:
            return "the log is crowded, or the domain is closing"
        return "a copy is owed" if self.copies.owes_any else self.why_inconsistent

    async def wait_consistent(self) -> None:
        """Return when no copy is owed, nothing that has happened will make one owed, and the log says so.

        :class:`PrimaryAway` for a failed disk that nobody looks for.
        """
        self._check_failed_disks()
        await self.copies.wait()
        while not self.mode.is_quiet:
            await asyncio.sleep(POLL_S)
            if self._ending is not None:
                raise NotConsistent(f"domain {self._name!r} was closed", hint="open it again")
            if self.upload.failure is not None and self.why_owed:
                raise self.upload.failure
            await self.copies.wait()

    def _check_failed_disks(self) -> None:
        failed = [disk for disk in self.disks.by_name().values() if disk.fault is not None]
        for disk in failed if not self.mode.looks_for_disks else ():
            assert disk.fault is not None, "it has failed"
            raise PrimaryAway(
                f"disk {disk.name!r} at {disk.path} has failed, and its copy is owed: {disk.fault.reason}",
                hint="when it is back, or elsewhere, call move_disk with its path; if it is lost, unprotect",
            )

    @property
    def failure(self) -> BaseException | None:
        """What stopped log or upload for good. A store that refuses does not hide that the log has failed as well."""
        failure = self.upload.failure
        is_of_store = failure is None or isinstance(failure, StoreError)
        return (self._failed_log.look() if is_of_store else None) or failure

    def _is_upload_idle(self) -> bool:
        joined = self.parts.joined
        is_away = isinstance(joined, Away) or joined.store.away[0] > 0
        is_refused = self.upload.refusal is not None
        return self.upload.paused or self.upload.failure is not None or is_away or is_refused

    async def is_store_whole(self) -> bool:
        """Whether the store, opened anew, holds again what was missed. Runs in the loop's thread."""
        try:
            async with connected(self._store, retry=RETRY_WHILE_OPENING, apart=True) as store:
                return await self.upload.is_whole(store)
        except Fenced:
            raise
        except JetdrError:
            return False

    def _store_status(self) -> dict[str, Any]:
        """What the status says of the store."""
        joined = self.parts.joined
        if isinstance(joined, Away):
            assert self._joining is not None, "the domain is being joined"
            away_s, away = self._joining.store_away
            since = {"joined": False, "unjoined_since_ns": joined.since_ns, "retries": self._joining.retries}
            since |= _refusal_status(self._joining.refusal)
            return since | {"store": str(self._store), "store_away_s": away_s, "store_away": away}
        away_s, away = joined.store.away
        if isinstance(self.upload.failure, StoreUnmounted):
            away_s, away = max(AWAY_S, self.upload.unseen_s or 0.0), str(self.upload.failure)
        since = {"joined": True, "unjoined_since_ns": 0, "retries": sum(joined.store.retries.values())}
        since |= _refusal_status(self.upload.refusal)
        return since | {"store": joined.store.url, "store_away_s": away_s, "store_away": away}

    def _proof_status(self) -> dict[str, Any]:
        """What the status says of what the store is known to hold. After a loss that is nothing."""
        upload, refusal = self.upload, self.upload.heartbeat_refusal
        return {
            "lsn_uploaded": 0 if upload.is_lost else upload.lsn_uploaded,
            "store_lost": upload.is_lost,
            "store_unseen_s": upload.unseen_s,
            "proven_ns": upload.proven_ns and upload.proven_ns - self.control_log.history.ahead_ns,
            "heartbeat_refused": "" if refusal is None else refusal.why,
            "heartbeat_refused_since_ns": 0 if refusal is None else refusal.since_ns,
        }

    def status(self) -> DomainStatus:
        """The domain at this moment."""
        parts, upload, why = self.parts, self.upload, self.why_inconsistent
        if upload.is_lost:
            why = why or "the store has lost what was uploaded"
        stats, log, proof = upload.stats, parts.log.state(), self._proof_status()
        lsn_durable = parts.ring.lsn_durable  # each is read before the one that is never less
        return DomainStatus(
            name=self._name,
            epoch=log.epoch,
            timeline=log.timeline,
            consistent=not why,
            why_inconsistent=why,
            lsn_recovered=parts.log.outcome.head.lsn,
            lsn_reserved=parts.ring.lsn_reserved,
            lsn_durable=lsn_durable,
            rpo_s=max(upload.lag_s, self.mode.bypassed_s),
            log_bytes=log.data_bytes,
            log_used_bytes=log.used_bytes,
            ring_used_bytes=parts.ring.used_bytes,
            segments_uploaded=stats.segments,
            payload_bytes_uploaded=stats.payload_bytes,
            stored_bytes_uploaded=stats.stored_bytes,
            upload_latency_counts=tuple(stats.latency.counts),
            upload_latency_sum_s=stats.latency.sum_s,
            paused=upload.paused,
            failure="" if isinstance(upload.failure, StoreUnmounted) else str(upload.failure or ""),
            forged=upload.forged,
            **self._store_status(),
            **proof,
            ladder=self.mode.ladder(),
            host=self.mode.status(),
            clock=self.clock_watch.why,
            clock_ahead_s=self.clock_watch.ahead_s,
            clock_corrected_s=self.control_log.history.ahead_ns / 1e9,
            changed=why_changed(changed) if (changed := parts.resumption.changed) else "",
            **self._local_status(),
            disks=self.disks.status(),
        )

    def _local_status(self) -> dict[str, Any]:
        """What the status says of log and state folder."""
        return {
            "log_cut": self.parts.log.cut_short,
            "log_trouble": self._log_watch.trouble,
            "state_trouble": self.parts.keeper.trouble or self.mode.state_trouble,
            "lost_files": self._files.lost,
        }


def _refusal_status(refusal: StoreRefusal | None) -> dict[str, Any]:
    if refusal is None:
        return {"store_refused": "", "store_refused_since_ns": 0}
    return {"store_refused": refusal.why, "store_refused_since_ns": refusal.since_ns}


async def _step(errors: list[Exception], step: Callable[[], Awaitable[T]]) -> T | None:
    """Take a step of the end, and keep what it raises."""
    try:
        return await step()
    except Exception as error:  # noqa: BLE001 - kept, and raised when all is closed
        errors.append(error)
        return None


def _control_log(request: DomainRequest[D], parts: Parts[D]) -> ControlLog:
    return ControlLog(
        request.name,
        parts.ring,
        parts.history,
        record_bytes_max=parts.log.record_bytes_max,
        stall_limit_s=request.settings.options.stall_limit_s,
    )
