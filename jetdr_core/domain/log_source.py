"""The replication log as the uploader sees it: durable records after a cursor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from jetdr_core._core import Ring
from jetdr_core.domain.recent_writes import RecentWrites
from jetdr_core.errors import JetdrError, LogFailed
from jetdr_core.replication_log import Cursor, LogBatch, ReplicationLog

__all__ = ["DurableLog"]

FLUSH_LIMIT_S = 60
"""A log device that takes longer for a flush is given up."""

FLUSH_WAIT_S = 1.0
"""The limit is waited for in steps. While this process is stopped (in a paused VM) only one step can run out."""


class DurableLog:
    """Implements :class:`jetdr_core.uploader.LogSource` on an open log and its ring.

    The log's tail moves no further than the primaries have come in write-back, and no further than :meth:`hold` and
    :meth:`noted` say. Before it moves to an LSN, ``may_trim`` is asked. ``on_fence`` is called before the ring is
    poisoned, when another owner has taken the domain over.
    """

    def __init__(
        self,
        log: ReplicationLog,
        ring: Ring,
        domain: str,
        *,
        on_fence: Callable[[], object] = lambda: None,
        may_trim: Callable[[int], bool] = lambda _lsn: True,
    ) -> None:
        self._trimming = threading.Lock()
        self._stored: deque[Cursor] = deque()  # places that the store allows the tail to move to
        self._held: int | None = None
        self._noted: int | None = None
        self._kept = False
        self._log = log
        self._ring = ring
        self._domain = domain
        self._on_fence = on_fence
        self._may_trim = may_trim
        self.recent = RecentWrites()

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
        if not self._ring.poisoned and not self._is_flushed(lsn):
            raise LogFailed(
                f"domain {self._domain!r}: a flush of the log took over {FLUSH_LIMIT_S} s", hint="check the log device"
            )
        batches = self._log.read(cursor, payload_bytes_max=payload_bytes_max)
        if not batches:
            self._raise_if_poisoned()
        for batch in batches:
            self.recent.note(batch.records.headers)
        return batches

    def _is_flushed(self, lsn: int) -> bool:
        return any(self._ring.wait_durable(lsn, FLUSH_WAIT_S) for _ in range(FLUSH_LIMIT_S))

    @property
    def failure(self) -> JetdrError | None:
        """What has made the log fail, so that it takes nothing more."""
        try:
            self._raise_if_poisoned("writing the replication log")
        except JetdrError as error:
            return error
        return None

    def _raise_if_poisoned(self, what: str = "reading what is to be uploaded") -> None:
        """Raise what poisoned the ring: nothing more comes from such a log."""
        if self._ring.poisoned:
            self._ring.fail(-self._ring.poisoned, what)

    def observe(self) -> tuple[int, int]:
        return self._ring.observe()

    def is_bypassed(self) -> bool:
        return not self._ring.logging

    def checkpoint(self, cursor: Cursor) -> None:
        with self._trimming:
            if self._kept:
                return
            self._stored.append(cursor)
        self.trim()

    def hold(self, lsn: int | None) -> None:
        """Keep the tail at or before ``lsn``, because what follows is still to be read. None: all was read."""
        with self._trimming:
            self._held = lsn
        self.trim()

    def noted(self, lsn: int | None) -> None:
        """Keep the tail at or before ``lsn``, because the state folder knows no more of the log. None: it need not."""
        with self._trimming:
            self._noted = lsn

    def keep(self) -> None:
        with self._trimming:
            self._kept = True
            self._stored.clear()

    def trim(self) -> None:
        """Move the tail as far as the store, the primaries and :meth:`hold` allow."""
        with self._trimming:
            reached, limit = None, self._limit()
            while self._stored and (limit is None or self._stored[0].lsn <= limit):
                reached = self._stored.popleft()
            if reached is None:
                return
            if self._may_trim(reached.lsn):
                self._log.checkpoint(reached.lsn, reached)
            else:
                self._stored.appendleft(reached)  # for the next time

    def _limit(self) -> int | None:
        limits = [self._ring.lsn_in_primaries] if self._ring.write_back else []
        limits += [lsn for lsn in (self._held, self._noted) if lsn is not None]
        return min(limits, default=None)

    def fence(self, epoch_newer: int) -> None:
        self._on_fence()
        self._ring.poison(1, fence=(self._domain, self._log.body.epoch, epoch_newer))
