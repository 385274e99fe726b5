"""Running: what exists while a domain is open, and the order in which it begins and ends.

Talks to: opening, uploader, copies, journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.journal import Journal
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.domain.opening import Parts, Request
from jetdr_core.domain.status import DiskStatus, DomainStatus
from jetdr_core.errors import JetdrError, StallTimeout
from jetdr_core.uploader import SummaryWriter, Uploader

__all__ = ["Running"]


class Running:
    """An open domain's machinery. :meth:`start` and :meth:`finish` run in the loop's thread."""

    def __init__(
        self,
        parts: Parts,
        journal: Journal,
        copies: Copies,
        uploader: Uploader,
        summaries: SummaryWriter,
        loop: LoopThread,
        close_limit_s: float,
    ) -> None:
        self.parts = parts
        self.journal = journal
        self.copies = copies
        self.uploader = uploader
        self.summaries = summaries
        self.loop = loop
        self._close_limit_s = close_limit_s

    @classmethod
    async def start(
        cls, request: Request, open_parts: Callable[[Request], Awaitable[Parts]], loop: LoopThread
    ) -> Running:
        """Open the parts and begin to upload."""
        parts = await open_parts(request)
        journal = Journal(request.name, parts.ring, parts.history, parts.chain.timeline, request.options.stall_limit_s)
        summaries = SummaryWriter(parts.store)
        uploader = Uploader(
            DurableLog(parts.log, parts.ring, request.name, parts.chain.epoch),
            parts.chain,
            request.options,
            parts.cursor,
            on_segment=summaries.on_segment,
        )
        uploader.start()
        return cls(
            parts, journal, Copies(parts.ring, journal), uploader, summaries, loop, request.options.close_limit_s
        )

    async def finish(self, *, upload: bool, clean: bool, errors: list[BaseException]) -> None:
        """Upload, stop, close. Errors are collected; everything is released."""
        parts = self.parts
        if upload:
            await self._upload_rest(errors)
        try:
            await self.uploader.stop()
            await self.summaries.stop()
            await asyncio.to_thread(parts.log.close, clean=clean)
        except (JetdrError, OSError) as error:
            errors.append(error)
        await parts.opened.aclose()

    async def _upload_rest(self, errors: list[BaseException]) -> None:
        lsn, limit_s = self.parts.ring.lsn_reserved, self._close_limit_s
        try:
            async with asyncio.timeout(limit_s):
                await self.uploader.wait_uploaded(lsn)
        except TimeoutError:
            error = StallTimeout(
                f"domain {self.parts.chain.domain!r} closed with LSN {self.uploader.lsn_uploaded + 1} to {lsn} "
                f"not uploaded after {limit_s} s",
                hint="they are in its log: open the domain again when the store can be reached",
            )
            errors.append(error)
        except (JetdrError, OSError) as error:
            errors.append(error)

    def status(self, name: str, disks: list[Disk]) -> DomainStatus:
        parts, stats = self.parts, self.uploader.stats
        log = parts.log.state()
        return DomainStatus(
            name=name,
            store=parts.store.url,
            epoch=parts.chain.epoch,
            timeline=parts.chain.timeline,
            consistent=self.journal.history.consistent,
            why_inconsistent=self.journal.why_inconsistent,
            lsn_recovered=parts.log.outcome.head.lsn,
            lsn_reserved=parts.ring.lsn_reserved,
            lsn_durable=parts.ring.lsn_durable,
            lsn_uploaded=self.uploader.lsn_uploaded,
            rpo_s=self.uploader.lag_s,
            log_bytes=log.data_bytes,
            log_used_bytes=log.used_bytes,
            ring_used_bytes=parts.ring.used_bytes,
            segments_uploaded=stats.segments,
            payload_bytes_uploaded=stats.payload_bytes,
            stored_bytes_uploaded=stats.stored_bytes,
            retries=sum(parts.store.retries.values()),
            failure=str(self.uploader.failure or ""),
            disks=tuple(_disk_status(disk, ready=self.journal.is_ready(disk.number)) for disk in disks),
        )


def _disk_status(disk: Disk, *, ready: bool) -> DiskStatus:
    stats = disk.stats()
    return DiskStatus(
        name=disk.name,
        path=disk.path,
        size_bytes=disk.size_bytes,
        ready=ready,
        copied_bytes=disk.copy.copied_bytes,
        copy_bytes=disk.copy.total_bytes,
        writes=stats.writes,
        write_bytes=stats.write_bytes,
        stalls=stats.stalls,
        failed_writes=stats.failed_writes,
    )
