"""ProtectedDomain: disks that are recovered together, protected by this process.

What runs, and in which thread. Callers' threads write through :class:`Disk` (C core: primary, then ring). One native
thread commits the ring to the log. One thread runs an event loop with the uploader, so that no caller's blocking write
keeps it waiting. One thread copies pre-existing data. The domain's async methods may be awaited from any event loop.
With a host component, guests write there; one more thread here watches over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from os import PathLike
from types import TracebackType
from typing import Any, Generic, cast, overload
from uuid import UUID

from typing_extensions import TypeVar

from jetdr_core._core import ManualClock
from jetdr_core.aio import settle, shielded
from jetdr_core.catalog import RecoveryPoint
from jetdr_core.control_bodies import ConfigFile
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.disk import Disk, ProtectedDisk
from jetdr_core.domain.hosting.served_disks import HostedDisk
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.open_domain import OpenDomain
from jetdr_core.domain.primary import DiskPlace
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.domain.status import DomainStatus
from jetdr_core.errors import InvalidRequest
from jetdr_core.host import HostOptions
from jetdr_core.identity import check_config_name, host_owner
from jetdr_core.limits import SECTION_BYTES_DEFAULT
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["ProtectedDomain"]

LogPlace = str | PathLike[str] | BlockDevice

D = TypeVar("D", bound=ProtectedDisk, default=Disk)


class ProtectedDomain(Generic[D]):
    """A protected domain: ``async with ProtectedDomain.create(...)`` or ``.open(...)``; leaving the block closes it.

    One process owns a domain at a time: opening it claims a new epoch in the store, which fences every earlier owner.
    With ``host`` the disks are served to guests over NBD by a host component, a process of its own that outlives this
    one; they are :class:`HostedDisk` then. Without, this process does their I/O, and they are :class:`Disk`.
    """

    def __init__(self, request: DomainRequest) -> None:
        self.name = request.name
        self._request = request
        self._running: OpenDomain | None = None

    # -- ways in -----------------------------------------------------------------------------------------------------

    @overload
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
        host: None = None,
    ) -> ProtectedDomain[Disk]: ...

    @overload
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
        host: HostOptions,
    ) -> ProtectedDomain[HostedDisk]: ...

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
        host: HostOptions | None = None,
    ) -> ProtectedDomain[Any]:
        """A new domain, with an empty ``store`` (a URL, or an open store) and ``log_bytes`` of the log volume ``log``.

        A log file that does not exist is created; one that holds other domains' sections gets one more. ``owner`` names
        whose the log volume is (default: this machine). Nothing happens before ``async with``.
        """
        return cls(_request(Way.CREATE, name, log, log_bytes, store, {}, options, owner, clock, host))

    @overload
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
        host: None = None,
    ) -> ProtectedDomain[Disk]: ...

    @overload
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
        host: HostOptions,
    ) -> ProtectedDomain[HostedDisk]: ...

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
        host: HostOptions | None = None,
    ) -> ProtectedDomain[Any]:
        """A known domain: goes on where its log ends, with its disks, at the paths they had or those in ``disks``.

        After an unclean stop a gap is open until all its disks have been read again (:meth:`wait_consistent`).
        """
        return cls(_request(Way.REOPEN, name, log, None, store, disks or {}, options, owner, clock, host))

    @overload
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
        host: None = None,
    ) -> ProtectedDomain[Disk]: ...

    @overload
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
        host: HostOptions,
    ) -> ProtectedDomain[HostedDisk]: ...

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
        host: HostOptions | None = None,
    ) -> ProtectedDomain[Any]:
        """A known domain whose log is lost or left behind: goes on behind what the store holds, with a new log.

        What the old log held and the store does not is given up. A gap is open until all disks have been read again.
        """
        return cls(_request(Way.TAKE_OVER, name, log, log_bytes, store, disks or {}, options, owner, clock, host))

    async def __aenter__(self) -> ProtectedDomain[D]:
        if self._running is not None:
            raise InvalidRequest(f"domain {self.name!r} is open already", hint="use one 'async with' for each opening")
        loop = LoopThread(f"jetdr-{self.name}")
        opening, cancel = loop.start(OpenDomain.start(self._request, loop))
        try:
            self._running = await shielded(opening)
        except BaseException:
            await settle(cancel())
            running = await settle(opening)
            if running is not None:  # it was open before it could be cancelled
                await settle(running.end(upload=False))
            loop.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- disks -------------------------------------------------------------------------------------------------------

    @property
    def disks(self) -> Mapping[str, D]:
        """The protected disks by name."""
        return cast("dict[str, D]", dict(self._alive.disks))

    def disk(self, name: str) -> D:
        """The protected disk of that name."""
        disks = self.disks
        if name not in disks:
            raise InvalidRequest(
                f"domain {self.name!r} protects no disk {name!r}", hint=f"it protects {', '.join(disks) or 'none'}"
            )
        return disks[name]

    async def protect(self, name: str, path: DiskPlace, *, size_bytes: int | None = None, wait: bool = True) -> D:
        """Protect the raw or flat file or block device at ``path``; with ``size_bytes`` a missing one is made.

        That the disk is protected is durable at return. One that holds data is copied as background data; the call
        returns when the copy is in the log, or at once with ``wait=False``. While the first disks are copied the domain
        is not consistent; a disk added later is left out of recovery points until its copy is complete.
        """
        disk = await asyncio.to_thread(self._alive.protect, name, path, size_bytes)
        if wait:
            await self._alive.copies.wait()
        await asyncio.to_thread(self._alive.control_log.make_durable)
        return cast("D", disk)

    async def unprotect(self, name: str) -> None:
        """Stop protecting a disk; recovery points before this moment keep it. The primary stays as it is."""
        await asyncio.to_thread(self._alive.unprotect, self.disk(name))
        await asyncio.to_thread(self._alive.control_log.make_durable)

    # -- points ------------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> RecoveryPoint:
        """Name the present moment as a recovery point: everything acknowledged before the call lies before it.

        Not durable at return: see :meth:`uploaded`. :class:`NotConsistent` while background data is outstanding,
        :class:`DuplicateMark` for a name in use, :class:`InvalidRequest` for one that cannot be.
        """
        running = self._alive
        return running.control_log.mark(name, lambda: running.why_owed)

    def store_config(self, name: str, text: str) -> int:
        """Keep a configuration file of the domain's machines (a .vmx, say); recovery writes it beside the disks.

        Returns its LSN. A later one of the same name replaces it for later recovery points.
        """
        check_config_name(name)
        return self._alive.control_log.append(ConfigFile(name, text)).lsn

    async def make_durable(self) -> int:
        """Make durable in the log everything acknowledged so far; returns its last LSN. :class:`StallTimeout`."""
        running = self._alive
        lsn = running.parts.ring.lsn_reserved
        await asyncio.to_thread(running.control_log.make_durable)
        return lsn

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

    def pause(self) -> None:
        """Stop uploading, while the log goes on taking writes: until :meth:`resume`, or until the domain is closed.

        Closing a paused domain uploads nothing: what its log holds is uploaded after the next opening.
        """
        self._alive.uploader.pause()

    def resume(self) -> None:
        """Upload again, beginning with what the log holds."""
        running = self._alive
        running.loop.call(running.uploader.resume)

    @property
    def failure(self) -> BaseException | None:
        """What stopped the upload for good (:class:`Fenced`, :class:`StoreError`, :class:`LogFailed`...), or None."""
        return self._alive.uploader.failure

    @property
    def consistent(self) -> bool:
        """Whether the present moment is a recovery point."""
        return not self._alive.why_inconsistent

    async def wait_consistent(self) -> None:
        """Return when no background data is outstanding; raises the error of a copy that failed."""
        await self._alive.wait_consistent()

    def status(self) -> DomainStatus:
        """The domain at this moment."""
        return self._alive.status()

    # -- end ---------------------------------------------------------------------------------------------------------

    async def close(self, *, upload: bool = True, stop_host: bool = False) -> None:
        """Flush, upload what is there (unless told not to), mark the log clean, release everything.

        A host component goes on, and its ring keeps what guests write until the next opening; with ``stop_host`` it
        ends in order, and only then is the log marked clean. Nothing is uploaded with ``upload=False`` or while paused.
        Raises the first error met; everything is released all the same, and what the log holds is uploaded after the
        next opening. Twice is harmless.
        """
        running = self._running
        if running is None:
            return
        errors = await shielded(running.end(upload=upload, stop_host=stop_host))
        if self._running is not running:
            return  # another caller closed it and was told
        self._running = None
        if errors:
            raise errors[0]

    @property
    def _alive(self) -> OpenDomain:
        if self._running is None or self._running.ending:
            raise InvalidRequest(f"domain {self.name!r} is not open", hint="use it inside 'async with'")
        return self._running


def _request(
    way: Way,
    name: str,
    log: LogPlace,
    log_bytes: int | None,
    store: str | ObjectStore,
    places: Mapping[str, DiskPlace],
    options: DomainOptions | None,
    owner: UUID | None,
    clock: ManualClock | None,
    host: HostOptions | None,
) -> DomainRequest:
    return DomainRequest(
        way=way,
        name=name,
        log=log,
        log_bytes=log_bytes,
        store=store,
        places=places,
        owner=owner or host_owner(),
        options=options or DomainOptions(),
        clock=clock,
        host=host,
    )
