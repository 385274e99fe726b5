"""LogSource: what the uploader takes records from."""

from __future__ import annotations

from typing import Protocol

from jetdr_core.replication_log import Cursor, LogBatch

__all__ = ["LogSource"]


class LogSource(Protocol):
    """The durable end of a replication log. What waits for a device is called in a worker thread, one at a time."""

    @property
    def data_bytes(self) -> int:
        """Capacity of the log."""

    def backlog(self, cursor: Cursor) -> int:
        """Bytes of log written behind ``cursor``, durable or not; 0 when there is none.

        Raises :class:`LogFailed` when there is none and none will come.
        """

    def want(self, lsn: int) -> None:
        """Somebody waits for ``lsn``: have it written and flushed soon. Does not wait."""

    def read_durable(self, cursor: Cursor, payload_bytes_max: int) -> list[LogBatch]:
        """Make durable what is written, then read behind ``cursor`` up to the maximum of payload. Empty at the end.

        Raises :class:`LogFailed` when there is none and none will come.
        """

    def observe(self) -> tuple[int, int]:
        """(last LSN given out, an instant at which it was the last)."""

    def is_bypassed(self) -> bool:
        """Whether writes go past the log: if not, none did at an instant observed before, unless LSNs came since."""

    def checkpoint(self, cursor: Cursor) -> None:
        """Everything up to ``cursor`` is stored: its log space may be overwritten."""

    def fence(self, epoch_newer: int) -> None:
        """Another owner has taken the domain over: accept no more writes."""
