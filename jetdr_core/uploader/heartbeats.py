"""HeartbeatWriter: says at intervals, while a domain is idle, that its newest recovery point is current.

Invariant: a heartbeat that says "LSN n was the last at instant t" is written only if the store held n, and no write
bypassed the log before t. Heartbeats are advisory, so a store that refuses one is no reason to stop uploading. The log
has one line when the store begins to refuse them, and one when it takes them again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from jetdr_core.catalog import heartbeat
from jetdr_core.errors import StoreError, StoreLost, StoreUnmounted
from jetdr_core.uploader.chain import ChainWriter
from jetdr_core.uploader.source import LogSource

__all__ = ["HeartbeatRefusal", "HeartbeatWriter"]

log = logging.getLogger(__name__)


class HeartbeatRefusal(NamedTuple):
    """Since when the store has refused heartbeats, and why."""

    since_ns: int
    why: str


class HeartbeatWriter:
    """Beats for the epoch that ``chain`` has. ``is_idle(lsn)``: uploads go on, and ``lsn`` is the last one stored.

    ``time_ns`` is the instant that the newest heartbeat proves, and 0 before the first.
    """

    def __init__(
        self, source: LogSource, chain: ChainWriter, interval_s: float, *, is_idle: Callable[[int], bool]
    ) -> None:
        self._source = source
        self._chain = chain
        self._interval_s = interval_s
        self._is_idle = is_idle
        self.time_ns = 0
        self.refusal: HeartbeatRefusal | None = None

    async def beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            lsn, time_ns = self._source.observe()
            if not self._is_idle(lsn) or self._source.is_bypassed():
                continue
            if self._source.observe()[0] == lsn:  # if not, writes may have bypassed the log until a gap opened
                await self._beat(lsn, time_ns)

    async def _beat(self, lsn: int, time_ns: int) -> None:
        key, data = heartbeat(self._chain.epoch, lsn=lsn, time_ns=time_ns, domain_key=self._chain.domain_key)
        try:
            await self._chain.store.replace(key, [data])
        except (StoreLost, StoreUnmounted):
            raise
        except StoreError as error:
            if self.refusal is None:
                log.warning("domain %s: the store refuses heartbeats: %s", self._chain.domain, error)
            since_ns = time.time_ns() if self.refusal is None else self.refusal.since_ns
            self.refusal = HeartbeatRefusal(since_ns, str(error))
        else:
            if self.refusal is not None:
                log.info("domain %s: the store takes heartbeats again", self._chain.domain)
            self.refusal, self.time_ns = None, time_ns
