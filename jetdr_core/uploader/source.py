"""LogSource: what an uploader needs of a replication log."""

from __future__ import annotations

from typing import Protocol

from jetdr_core.replication_log import Cursor, LogBatch

__all__ = ["LogSource"]


class LogSource(Protocol):
    """A replication log and its ring. Calls that wait for a device come from one worker thread, one at a time."""

    @property
    def data_bytes(self) -> int:
        """Return the capacity of the log."""

    def backlog(self, cursor: Cursor) -> int:
        """Return the bytes of log that were written after ``cursor``, durable or not.

        Raises :class:`LogFailed` if there are none, and none will come.
        """

    def want(self, lsn: int) -> None:
        """Have everything up to ``lsn`` written and flushed soon. Does not wait."""

    def read_durable(self, cursor: Cursor, payload_bytes_max: int) -> list[LogBatch]:
        """Make durable what is written, then read the batches after ``cursor``, up to the maximum of payload.

        Returns nothing at the end of the log. Raises :class:`LogFailed` if there is nothing, and nothing will come.
        """

    def observe(self) -> tuple[int, int]:
        """Return the last LSN given out, and an instant at which it was the last."""

    def is_bypassed(self) -> bool:
        """Whether writes bypass the log.

        False also covers the instant of the last :meth:`observe`, provided that no LSN was given out since.
        """

    def checkpoint(self, cursor: Cursor) -> None:
        """Note that the store holds everything up to ``cursor``, so that its log space may be overwritten."""

    def keep(self) -> None:
        """Leave the log's tail where it is from now on, because the store has lost something."""

    def fence(self, epoch_newer: int) -> None:
        """Accept no more writes, because the owner of epoch ``epoch_newer`` has taken the domain over."""
