"""LogTrimmer: moves the tail of the log over what is stored, so that its space may be written again.

Each checkpoint writes the superblock, and trims everything that is stored. So checkpoints are rare, unless the log
fills up.
"""

from __future__ import annotations

from collections.abc import Callable

from jetdr_core.replication_log import Cursor
from jetdr_core.uploader.source import LogSource
from jetdr_core.uploader.workers import Workers

__all__ = ["LogTrimmer"]

CHECKPOINT_S = 1.0
"""The tail moves at most this often, but without delay while a quarter of the log or more is in use."""


class LogTrimmer:
    """The tail is at ``cursor`` at first, or before it: what the store has may be known only now."""

    def __init__(self, source: LogSource, workers: Workers, cursor: Cursor, clock: Callable[[], float]) -> None:
        self._source = source
        self._workers = workers
        self._clock = clock
        self._tail = cursor
        self._moved_s = clock()
        self._has_moved = False

    async def trim_if_due(self, stored: Cursor) -> None:
        """Move the tail to ``stored``, the end of what is stored, unless that can wait."""
        is_crowded = self._source.backlog(self._tail) >= self._source.data_bytes // 4
        if is_crowded or self._clock() - self._moved_s >= CHECKPOINT_S:
            await self.trim(stored)

    async def trim_rest(self, stored: Cursor) -> None:
        """The same if the tail is not there yet. It may be that nothing is stored any more: see the rung BYPASS."""
        if not self._has_moved or stored != self._tail:
            await self.trim_if_due(stored)

    async def trim(self, stored: Cursor) -> None:
        """Move the tail to ``stored``, the end of what is stored. Durable at return."""
        self._moved_s, self._tail, self._has_moved = self._clock(), stored, True
        await self._workers.use_log(self._source.checkpoint, stored)
