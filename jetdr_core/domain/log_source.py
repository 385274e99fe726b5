"""The replication log as the uploader sees it: durable records behind a cursor. Talks to: replication_log, _core."""

from __future__ import annotations

from jetdr_core._core import Ring
from jetdr_core.errors import LogFailed
from jetdr_core.replication_log import Cursor, LogBatch, ReplicationLog

__all__ = ["DurableLog"]

FLUSH_LIMIT_S = 60.0
"""A log device that takes longer for a flush is as good as gone."""


class DurableLog:
    """Implements :class:`jetdr_core.uploader.LogSource` on an open log and its ring."""

    def __init__(self, log: ReplicationLog, ring: Ring, domain: str, epoch: int) -> None:
        self._log = log
        self._ring = ring
        self._domain = domain
        self._epoch = epoch

    @property
    def data_bytes(self) -> int:
        return self._log.body.data_bytes

    def backlog(self, cursor: Cursor) -> int:
        written = self._log.state().head_position - cursor.position
        if not written:
            self._raise_if_poisoned()
        return written

    def want(self, lsn: int) -> None:
        self._ring.request_durable(lsn)

    def read_durable(self, cursor: Cursor, payload_bytes_max: int) -> list[LogBatch]:
        lsn = self._log.state().lsn_written
        if not self._ring.poisoned and not self._ring.wait_durable(lsn, FLUSH_LIMIT_S):
            raise LogFailed(
                f"domain {self._domain!r}: a flush of the log took over {FLUSH_LIMIT_S} s", hint="check the log device"
            )
        batches = self._log.read(cursor, payload_bytes_max=payload_bytes_max)
        if not batches:
            self._raise_if_poisoned()
        return batches

    def _raise_if_poisoned(self) -> None:
        """Nothing more will come from a log that has failed."""
        if self._ring.poisoned:
            self._ring.fail(-self._ring.poisoned, "reading what is to be uploaded")

    def observe(self) -> tuple[int, int]:
        return self._ring.observe()

    def checkpoint(self, cursor: Cursor) -> None:
        self._log.checkpoint(cursor.lsn, cursor)

    def fence(self, epoch_newer: int) -> None:
        self._ring.poison(1, fence=(self._domain, self._epoch, epoch_newer))
