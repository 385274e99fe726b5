"""ProtectedDomain: disks that are recovered together, protected by this process.

What runs, and in which thread. Callers' threads write through :class:`Disk` (C core: primary, then ring). One native
thread commits the ring to the log. One thread runs an event loop with the uploader, so that no caller's blocking write
keeps it waiting. One thread copies pre-existing data. The domain's async methods may be awaited from any event loop.
Talks to: opening, journal, copies, disk, uploader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike
from types import TracebackType
from uuid import UUID, uuid4

from jetdr_core._core import IoFilter, ManualClock
from jetdr_core.catalog import RecoveryPoint
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.opening import Parts, Request, create_parts, reopen_parts, take_over_parts
from jetdr_core.domain.primary import DiskPlace, check_size, close_place, open_place
from jetdr_core.domain.running import Running
from jetdr_core.domain.status import DomainStatus
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_name, host_owner
from jetdr_core.limits import CONTROL_BYTES_MAX, DISKS_MAX, SECTION_BYTES_DEFAULT
from jetdr_core.options import DomainOptions
from jetdr_core.record import Kind
from jetdr_core.resync import regions_of
from jetdr_core.store import ObjectStore

__all__ = ["ProtectedDomain"]

LogPlace = str | PathLike[str] | BlockDevice


class ProtectedDomain:
    """A protected domain: ``async with ProtectedDomain.create(...)`` or ``.open(...)``; leaving the block closes it.

    One process owns a domain at a time: opening it claims a new epoch in the store, which fences every earlier owner.
    """

    def __init__(
        self, request: Request, open_parts: Callable[[Request], Awaitable[Parts]], disks: Mapping[str, DiskPlace]
    ) -> None:
        self.name = request.name
        self._request = request
        self._open_parts = open_parts
        self._places = dict(disks)
        self._disks: dict[str, Disk] = {}
        self._running: Running | None = None

    # -- ways in -----------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        log_bytes: int = SECTION_BYTES_DEFAULT,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        clock: ManualClock | None = None,
    ) -> ProtectedDomain:
        """A new domain, with an empty ``store`` (a URL, or an open store) and ``log_bytes`` of the log volume ``log``.

        A log file that does not exist is created; one that holds other domains' sections gets one more. ``owner`` names
        whose the log volume is (default: this machine). Nothing happens before ``async with``.
        """
        request = Request(
            name=name,
            log=log,
            log_bytes=log_bytes,
            store=store,
            owner=owner or host_owner(),
            options=options or DomainOptions(),
            clock=clock,
        )
        return cls(request, create_parts, {})

    @classmethod
    def open(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        disks: Mapping[str, DiskPlace] | None = None,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        clock: ManualClock | None = None,
    ) -> ProtectedDomain:
        """A known domain: goes on where its log ends, with its disks, at the paths they had or those in ``disks``.

        After an unclean stop a gap is open until all its disks have been read again (:meth:`wait_consistent`).
        """
        request = Request(
            name=name,
            log=log,
            log_bytes=None,
            store=store,
            owner=owner or host_owner(),
            options=options or DomainOptions(),
            clock=clock,
        )
        return cls(request, reopen_parts, disks or {})

    @classmethod
    def take_over(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        log_bytes: int = SECTION_BYTES_DEFAULT,
        disks: Mapping[str, DiskPlace] | None = None,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        clock: ManualClock | None = None,
    ) -> ProtectedDomain:
        """A known domain whose log is lost or left behind: goes on behind what the store holds, with a new log.

        What the old log held and the store does not is given up. A gap is open until all disks have been read again.
        """
        request = Request(
            name=name,
            log=log,
            log_bytes=log_bytes,
            store=store,
            owner=owner or host_owner(),
            options=options or DomainOptions(),
            clock=clock,
        )
        return cls(request, take_over_parts, disks or {})

    async def __aenter__(self) -> ProtectedDomain:
        loop = LoopThread(f"jetdr-{self.name}")
        loop.start()
        try:
            self._running = await loop.run(Running.start(self._request, self._open_parts, loop))
            await asyncio.to_thread(self._attach_known)
        except BaseException:
            await self._abandon(loop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- disks -------------------------------------------------------------------------------------------------------

    @property
    def disks(self) -> Mapping[str, Disk]:
        """The protected disks by name."""
        return dict(self._disks)

    def disk(self, name: str) -> Disk:
        """The protected disk of that name."""
        try:
            return self._disks[name]
        except KeyError:
            raise InvalidRequest(
                f"domain {self.name!r} protects no disk {name!r}",
                hint=f"it protects {', '.join(self._disks) or 'none'}",
            ) from None

    async def protect(self, name: str, path: DiskPlace, *, size_bytes: int | None = None, wait: bool = True) -> Disk:
        """Protect the raw or flat file or block device at ``path``; with ``size_bytes`` a missing one is made.

        That the disk is protected is durable at return. One that holds data is copied as background data; the call
        returns when the copy is in the log, or at once with ``wait=False``. While the first disks are copied the domain
        is not consistent; a disk added later is left out of recovery points until its copy is complete.
        """
        disk = await asyncio.to_thread(self._protect, name, path, size_bytes)
        if wait:
            await self._alive.copies.wait()
        await asyncio.to_thread(self._alive.journal.make_durable)
        return disk

    async def unprotect(self, name: str) -> None:
        """Stop protecting a disk; recovery points before this moment keep it. The primary stays as it is."""
        disk = self.disk(name)

        def remove() -> None:
            disk.io_filter.close()
            self._alive.journal.append(Kind.DISK_REMOVE, disk.number, {})
            self._alive.copies.forget(disk.number)
            self._alive.journal.make_durable()
            close_place(disk)
            del self._disks[name]

        await asyncio.to_thread(remove)

    # -- points ------------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> RecoveryPoint:
        """Name the present moment as a recovery point: everything acknowledged before the call lies before it.

        Not durable at return: see :meth:`uploaded`. :class:`NotConsistent` while background data is outstanding,
        :class:`DuplicateMark` for a name in use, :class:`InvalidRequest` for one that cannot be.
        """
        return self._alive.journal.mark(name)

    def store_config(self, name: str, text: str) -> int:
        """Keep a configuration file of the domain's machines (a .vmx, say); recovery writes it beside the disks.

        Returns its LSN. A later one of the same name replaces it for later recovery points.
        """
        check_name("configuration", name)
        if len(text.encode()) > CONTROL_BYTES_MAX // 2:
            raise InvalidRequest(
                f"configuration {name!r} has {len(text.encode())} bytes",
                hint=f"at most {CONTROL_BYTES_MAX // 2} are kept",
            )
        return self._alive.journal.append(Kind.CONFIG, 0, {"name": name, "text": text}).lsn

    async def uploaded(self, lsn: int) -> None:
        """Seal what is pending, and return when the store holds everything up to ``lsn``.

        Raises what stopped the upload (:class:`Fenced`, :class:`StoreError`, ...). An unreachable store is waited for.
        """
        running = self._alive
        if not 0 <= lsn <= running.parts.ring.lsn_reserved:
            raise InvalidRequest(
                f"LSN {lsn} has not been written in domain {self.name!r}",
                hint=f"the last LSN is {running.parts.ring.lsn_reserved}",
            )
        await running.loop.run(running.uploader.wait_uploaded(lsn))

    @property
    def consistent(self) -> bool:
        """Whether the present moment is a recovery point."""
        return self._alive.journal.history.consistent

    async def wait_consistent(self) -> None:
        """Return when no background data is outstanding; raises the error of a copy that failed."""
        await self._alive.copies.wait()

    def status(self) -> DomainStatus:
        """The domain at this moment."""
        return self._alive.status(self.name, list(self._disks.values()))

    # -- end ---------------------------------------------------------------------------------------------------------

    async def close(self, *, upload: bool = True) -> None:
        """Flush, upload what is there (unless ``upload`` is False), mark the log clean, release everything.

        Raises the first error met; everything is released all the same, and what the log holds is uploaded after the
        next opening. Twice is harmless.
        """
        running, self._running = self._running, None
        if running is None:
            return
        errors: list[BaseException] = []
        clean = await asyncio.to_thread(self._close_disks, running, errors)
        try:
            await running.loop.run(running.finish(upload=upload, clean=clean, errors=errors))
        finally:
            await running.loop.stop()
        if errors:
            raise errors[0]

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def _alive(self) -> Running:
        if self._running is None:
            raise InvalidRequest(f"domain {self.name!r} is not open", hint="use it inside 'async with'")
        return self._running

    async def _abandon(self, loop: LoopThread) -> None:
        """Opening failed: release what was opened, leaving the log as after a crash."""
        running, self._running = self._running, None
        if running is not None:
            running.copies.stop()
            for disk in self._disks.values():
                disk.io_filter.close()
                close_place(disk)
            self._disks.clear()
            await loop.run(running.finish(upload=False, clean=running.parts.clean, errors=[]))
        await loop.stop()

    def _attach_known(self) -> None:
        """Open the disks the domain had, and owe copies where primary and replica may differ."""
        running = self._alive
        journal = running.journal
        known = journal.history.disks
        for state in known:
            place = self._places.get(state.name, state.path)
            self._disks[state.name] = self._attach(state.disk, state.name, place, state.size_bytes)
        with journal.lock:
            if known and not running.parts.clean and not journal.gap_open:
                journal.append(Kind.GAP_OPEN, 0, {"reason": "unclean stop"})
            for state in known:
                if journal.gap_open or not state.ready:
                    running.copies.owe(self._disks[state.name], log_holes=True)

    def _protect(self, name: str, place: DiskPlace, size_bytes: int | None) -> Disk:
        running = self._alive
        check_name("disk", name)
        with running.journal.lock:
            if name in self._disks:
                raise InvalidRequest(f"disk {name!r} is protected already", hint="use domain.disk(name)")
            if len(self._disks) >= DISKS_MAX:
                raise InvalidRequest(
                    f"domain {self.name!r} protects {DISKS_MAX} disks already", hint="use another domain"
                )
            disk = self._attach(running.journal.history.disk_next, name, place, size_bytes)
            holds_data = any(not region.hole for region in regions_of(disk.device.fileno(), disk.size_bytes))
            body: dict[str, object] = {
                "name": name,
                "uuid": str(uuid4()),
                "size_bytes": disk.size_bytes,
                "path": disk.path,
                "holds_data": holds_data,
            }
            running.journal.append(Kind.DISK_ADD, disk.number, body)
            self._disks[name] = disk
            if holds_data:
                running.copies.owe(disk, log_holes=False)
        return disk

    def _attach(self, number: int, name: str, place: DiskPlace, size_bytes: int | None) -> Disk:
        running = self._alive
        device, path = open_place(name, place, size_bytes)
        try:
            check_size(name, path, device, size_bytes)
            io_filter = IoFilter(
                running.parts.ring,
                device,
                disk=number,
                size_bytes=device.size_bytes,
                write_bytes_max=running.parts.log.write_bytes_max,
                stall_limit_s=self._request.options.stall_limit_s,
            )
        except BaseException:
            if path:
                device.close()
            raise
        return Disk(number, name, path, device, io_filter, lambda: self._on_suspect(name))

    def _on_suspect(self, name: str) -> None:
        """A write failed on the primary and could not be read back: the disk must be copied again."""
        running = self._alive
        with running.journal.lock:
            if not running.journal.gap_open:
                running.journal.append(Kind.GAP_OPEN, 0, {"reason": f"disk {name} failed a write"})
            running.copies.owe(self._disks[name], log_holes=True)

    def _close_disks(self, running: Running, errors: list[BaseException]) -> bool:
        """Close all disks and flush their primaries; False when one failed, and the log must not be called clean."""
        running.copies.stop()
        clean = True
        for disk in self._disks.values():
            disk.io_filter.close()
            clean &= not disk.io_filter.stats().suspect
            try:
                disk.device.sync()
            except OSError as error:
                errors.append(error)
                clean = False
            close_place(disk)
        self._disks.clear()
        return clean
