"""Domain: what a caller can ask of a protected domain, in either mode.

Threads. The caller's threads, or a host component's, write through the IO filter in the C core. One native thread
commits the ring to the log. One thread runs an event loop with the uploader, so that a caller's blocking write does not
hold up the upload. Two threads make initial copies and resyncs. A hosted domain has one more thread, which watches its
host component. The async methods may be awaited from any event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Generic, Self

from jetdr_core.aio import settle, shielded
from jetdr_core.catalog import RecoveryPoint
from jetdr_core.config_content import config_text
from jetdr_core.control_bodies import ConfigFile
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.mode import D
from jetdr_core.domain.open_domain import OpenDomain
from jetdr_core.domain.primary import DiskPlace
from jetdr_core.domain.request import DomainRequest
from jetdr_core.domain.status import DomainStatus
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import check_config_name
from jetdr_core.limits import SECTOR_BYTES

__all__ = ["Domain"]


class Domain(Generic[D]):
    """Entering an ``async with`` block opens the domain, and leaving it closes the domain.

    One process owns a domain at a time. Opening a domain claims a new epoch in the store, which fences every earlier
    owner.
    """

    def __init__(self, request: DomainRequest[D]) -> None:
        self.name = request.name
        self._request = request
        self._opened: OpenDomain[D] | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise InvalidRequest(f"domain {self.name!r} is open already", hint="use one 'async with' for each opening")
        loop = LoopThread(f"jetdr-{self.name}")
        opening, cancel = loop.start(OpenDomain.start(self._request, loop))
        try:
            self._opened = await shielded(opening)
        except BaseException:
            await settle(cancel())
            opened = await settle(opening)
            if opened is not None:  # the cancellation came too late
                await settle(opened.end(upload=False))
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
        return self._alive.disks.by_name()

    def disk(self, name: str) -> D:
        """The protected disk of that name."""
        disks = self.disks
        if name not in disks:
            raise InvalidRequest(
                f"domain {self.name!r} protects no disk {name!r}", hint=f"it protects {', '.join(disks) or 'none'}"
            )
        return disks[name]

    async def protect(self, name: str, path: DiskPlace, *, size_bytes: int | None = None, wait: bool = True) -> D:
        """Protect the raw or flat file or block device at ``path``. With ``size_bytes`` a missing file is created.

        That the disk is protected is durable at return. A disk that holds data is copied as background data, and the
        call returns when the copy is in the log, or at once with ``wait=False``.

        The domain is not consistent until its first disks have been copied. A disk that is added later is left out of
        recovery points until its own copy is complete.
        """
        disk = await asyncio.to_thread(self._alive.disks.protect, name, path, size_bytes)
        if wait:
            await self._alive.copies.wait_for(disk)
        await asyncio.to_thread(self._alive.keep_disks)
        return disk

    async def move_disk(self, name: str, path: str | PathLike[str]) -> str:
        """Go on with a disk that is now at ``path``, which may be where it was; returns why all of it is resynced.

        That is empty if ``path`` is another name of the file in use. A failed disk is served again. A disk that is well
        where it was is refused with :class:`InvalidRequest`, because what is written there meanwhile would be lost:
        move its file first. So is a file of another size. Whatever is refused has changed nothing.
        """
        disk, place = self.disk(name), os.path.abspath(path)  # noqa: ASYNC240 - asks no file system
        why = await asyncio.to_thread(self._alive.disks.move, disk, place)
        await asyncio.to_thread(self._alive.note_places)
        return why

    async def grow_disk(self, name: str) -> str:
        """Protect what the disk's file or device has grown by; returns why a copy of that is owed, or nothing.

        That it has grown is durable at return. Recovery points have the size that was protected at their LSN. A disk
        that has shrunk is refused. In an embedded domain, calls on the disk meanwhile are refused too.
        """
        why = await asyncio.to_thread(self._alive.disks.grow, self.disk(name))
        await asyncio.to_thread(self._alive.control_log.make_durable)
        return why

    async def copy_extents(self, name: str, extents: Sequence[tuple[int, int]]) -> int:
        """Log what a disk holds in ``extents`` (offset, length) once more; returns the LSN after which all is logged.

        So the store gets it again, in new objects, where the newest it has is damaged. Earlier points are not mended.
        Raises what a copy raises: :class:`LoggingOff`, :class:`PrimaryAway`, :class:`PrimaryFailed`.
        """
        disk = self.disk(name)
        for offset, length in extents:
            if offset < 0 or length <= 0 or (offset | length) % SECTOR_BYTES or offset + length > disk.size_bytes:
                raise InvalidRequest(
                    f"disk {name!r} of {disk.size_bytes} bytes has no extent of {length} bytes at {offset}",
                    hint="offset and length are multiples of 512 within the disk",
                )
        return await asyncio.to_thread(self._alive.copy_extents, disk, extents)

    async def unprotect(self, name: str) -> None:
        """Stop protecting a disk. Recovery points before this moment keep it, and the primary stays as it is."""
        await asyncio.to_thread(self._alive.disks.unprotect, self.disk(name))
        await asyncio.to_thread(self._alive.keep_disks)

    # -- points ------------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> RecoveryPoint:
        """Name the present moment as a recovery point, after everything that was acknowledged before the call.

        The mark is not durable at return: see :meth:`uploaded`. :class:`NotConsistent` while background data is
        outstanding, :class:`DuplicateMark` for a name in use, :class:`InvalidRequest` for a name that is not valid.
        """
        domain = self._alive
        point = domain.control_log.mark(name, lambda: domain.why_inconsistent)
        domain.self_check.note_mark()
        return point

    async def record_digests(self) -> int:
        """Record what some extents of the disks hold now; returns of how many. ``jetdr scrub`` compares them.

        The domain does this by itself, every ``self_check_s``. 0 while it is not consistent, or too busy.
        """
        return await asyncio.to_thread(self._alive.self_check.record)

    def store_config(self, name: str, content: str | bytes | bytearray) -> int:
        """Keep a configuration file of the domain's machines, a .vmx for example; returns its LSN.

        A recovery writes the file beside the disks. A later file of the same name replaces it for later recovery
        points. A file that is kept already is not logged again.
        """
        check_config_name(name)
        try:
            text = config_text(content.encode() if isinstance(content, str) else bytes(content))
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest(f"the content of {name!r} is no text: {error}", hint="pass text or bytes") from None
        return self._alive.control_log.keep_config(ConfigFile(name, text))

    async def make_durable(self) -> int:
        """Make everything acknowledged so far durable in the log; returns the last LSN. :class:`StallTimeout`."""
        domain = self._alive
        lsn = domain.parts.ring.lsn_reserved
        await asyncio.to_thread(domain.control_log.make_durable)
        return lsn

    async def uploaded(self, lsn: int) -> None:
        """Seal what is pending, and return when the store holds everything up to ``lsn``.

        Raises what stopped the upload: :class:`Fenced`, :class:`StoreError` and others. Waits for an unreachable store.
        After :class:`StoreLost` that is raised for every LSN.
        """
        domain = self._alive
        domain.check_written(lsn)
        await domain.loop.run(domain.upload.wait_uploaded(lsn))

    async def held(self, lsn: int) -> None:
        """As :meth:`uploaded`, and the store was looked at after that: it still holds what was checked of the chain.

        That costs three small requests. Raises :class:`StoreLost` if something is missing.
        """
        domain = self._alive
        domain.check_written(lsn)
        await domain.loop.run(domain.upload.wait_held(lsn))

    def pause(self) -> None:
        """Stop uploading until :meth:`resume`, or until the domain is closed. The log goes on taking writes.

        Closing a paused domain uploads nothing. What its log holds is uploaded after the next opening.
        """
        self._alive.upload.pause()

    def resume(self) -> None:
        """Upload again, beginning with what the log holds. What the store refuses is tried again at once."""
        domain = self._alive
        domain.loop.call(domain.resume_upload)

    @property
    def failure(self) -> BaseException | None:
        """What stopped log or upload for good: :class:`Fenced`, :class:`StoreError`, :class:`LogFailed`, or None.

        A log that has failed takes nothing more until the domain is opened again. It is reported when what it holds is
        uploaded, or after some seconds. After :class:`StoreLost` the log is not trimmed any more.
        """
        return self._alive.failure

    async def is_store_whole(self) -> bool:
        """Whether the store holds again what it had lost. Then opening the domain again goes on after a StoreLost."""
        domain = self._alive
        return await domain.loop.run(domain.is_store_whole())

    @property
    def consistent(self) -> bool:
        """Whether the present moment is a recovery point."""
        return not self._alive.why_inconsistent

    async def wait_consistent(self) -> None:
        """Return when no background data is outstanding. Raises the error of a copy that failed."""
        await self._alive.wait_consistent()

    def status(self) -> DomainStatus:
        """The domain at this moment."""
        return self._alive.status()

    # -- end ---------------------------------------------------------------------------------------------------------

    async def close(self, *, upload: bool = True, stop_host: bool = False) -> None:
        """Flush, upload what the log holds, mark the log clean, and release everything. Idempotent.

        With ``upload=False``, or while paused, nothing is uploaded. What the log then still holds is uploaded after the
        next opening. A host component goes on, and its ring keeps what guests write until then. With ``stop_host`` the
        host component ends in order, and only then is the log marked clean.

        Raises the first error met. Everything is released all the same.
        """
        domain = self._opened
        if domain is None:
            return
        errors = await shielded(domain.end(upload=upload, stop_host=stop_host))
        if self._opened is not domain:
            return  # another caller has closed the domain, and got the errors
        self._opened = None
        if errors:
            raise errors[0]

    @property
    def _alive(self) -> OpenDomain[D]:
        if self._opened is None or self._opened.ending:
            raise InvalidRequest(f"domain {self.name!r} is not open", hint="use it inside 'async with'")
        return self._opened
