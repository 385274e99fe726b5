"""Cutter: cuts the log into runs of records, each of which becomes a segment.

A run is due when it is large enough, when its oldest record is old enough, or when somebody waits for one of its
records.

Invariants: the order of LSNs is the order of runs, and no record is in two of them. Only what is durable in the log is
read, so the store is never ahead of the log. While paused, nothing is cut.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from jetdr_core.options import DomainOptions
from jetdr_core.record import RecordBatch
from jetdr_core.replication_log import Cursor
from jetdr_core.uploader.lag import UploadLag
from jetdr_core.uploader.source import LogSource
from jetdr_core.uploader.workers import Workers

__all__ = ["Cutter", "Run"]

POLL_S = 0.05
"""How often a backlog that is not due is looked at,"""

POLL_WANTED_S = 0.002
"""and how often while a run is due whose records are on their way to the log."""


class Run(NamedTuple):
    """Consecutive records, and the log position after them."""

    records: list[RecordBatch]
    end: Cursor


class Cutter:
    """Cuts from ``cursor`` on. :meth:`pause` may be called from any thread, all else in the uploader's event loop."""

    def __init__(
        self, source: LogSource, workers: Workers, lag: UploadLag, options: DomainOptions, cursor: Cursor
    ) -> None:
        self.paused = False
        self._source = source
        self._workers = workers
        self._lag = lag
        self._options = options
        self._cursor = cursor
        self._lsn_wanted = 0
        self._hurry = asyncio.Event()

    def want(self, lsn: int) -> None:
        """Everything up to ``lsn`` is due at once."""
        self._lsn_wanted = max(self._lsn_wanted, lsn)
        self._source.want(lsn)
        self._hurry.set()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._hurry.set()

    async def next_run(self) -> Run:
        """Wait until a run is due, and read it."""
        while True:
            await self._until_due()
            batches = await self._workers.use_log(self._source.read_durable, self._cursor, self._options.segment_bytes)
            if batches:
                self._cursor = batches[-1].end
                return Run([batch.records for batch in batches], self._cursor)
            await asyncio.sleep(POLL_WANTED_S)  # the log has only ended a lap, and writes the batch that comes next

    async def _until_due(self) -> None:
        options = self._options
        while True:
            self._hurry.clear()
            backlog = self._source.backlog(self._cursor)
            aged = self._lag.age_s(self._cursor.lsn) >= options.segment_age_s
            wanted = self._lsn_wanted > self._cursor.lsn
            if not self.paused and (backlog >= options.segment_bytes or (backlog and (aged or wanted))):
                return
            hurried = wanted and not self.paused
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_WANTED_S if hurried else min(POLL_S, options.segment_age_s / 8)):
                    await self._hurry.wait()
