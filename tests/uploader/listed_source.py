"""ListedSource: a LogSource that says what a test tells it to say."""

from __future__ import annotations

import asyncio

from jetdr_core.replication_log import Cursor, LogBatch
from jetdr_core.uploader.patience import Patience
from tests.segment.sample import Records

__all__ = ["BATCH_BYTES", "ListedSource", "cursor_at", "patience"]

BATCH_BYTES = 8192


def patience() -> Patience:
    return Patience("puts", asyncio.Condition())


def cursor_at(lsn: int) -> Cursor:
    """The log position after record ``lsn``, where each batch holds one record."""
    return Cursor(lsn * BATCH_BYTES, lsn, lsn, 0, 0)


class ListedSource:
    """One record a batch. ``lsn_written`` is in the log, and ``lsn_durable`` can be read."""

    data_bytes = 100 * BATCH_BYTES

    def __init__(self) -> None:
        self.lsn_written = 0
        self.lsn_durable = 0
        self.bypassed = False
        self.wanted: list[int] = []
        self.checkpoints: list[int] = []
        self.fenced_by = 0
        self.kept = False
        self.reads = 0
        self.lsns_observed: list[int] = []
        """What the next calls of :meth:`observe` return instead of ``lsn_written``."""

    def write(self, count: int = 1) -> None:
        """Durable records."""
        self.lsn_written += count
        self.lsn_durable = self.lsn_written

    def backlog(self, cursor: Cursor) -> int:
        return max(0, self.lsn_written * BATCH_BYTES - cursor.position)

    def want(self, lsn: int) -> None:
        self.wanted.append(lsn)

    def read_durable(self, cursor: Cursor, payload_bytes_max: int) -> list[LogBatch]:
        self.reads += 1
        last = min(self.lsn_durable, cursor.lsn + max(1, payload_bytes_max // BATCH_BYTES))
        return [self._batch(lsn) for lsn in range(cursor.lsn + 1, last + 1)]

    def observe(self) -> tuple[int, int]:
        lsn = self.lsns_observed.pop(0) if self.lsns_observed else self.lsn_written
        return lsn, lsn * 1000

    def is_bypassed(self) -> bool:
        return self.bypassed

    def checkpoint(self, cursor: Cursor) -> None:
        self.checkpoints.append(cursor.lsn)

    def keep(self) -> None:
        self.kept = True

    def fence(self, epoch_newer: int) -> None:
        self.fenced_by = epoch_newer

    def _batch(self, lsn: int) -> LogBatch:
        records = Records(lsn)
        records.write(1, lsn * 512, bytes([lsn % 256]) * 512)
        return LogBatch(records.batch(), cursor_at(lsn), durable_batch=0)
