"""HeartbeatWriter: says at intervals, while a domain is idle, that its newest recovery point is current.

Invariant: a heartbeat that says "LSN n was the last at instant t" is written only if the store held n, and no write
bypassed the log before t. Heartbeats are advisory, so a store that refuses one is no reason to stop uploading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from jetdr_core.catalog import heartbeat
from jetdr_core.errors import StoreError, StoreLost
from jetdr_core.uploader.chain import ChainWriter
from jetdr_core.uploader.source import LogSource

__all__ = ["HeartbeatWriter"]

log = logging.getLogger(__name__)


class HeartbeatWriter:
    """Beats for the epoch that ``chain`` has. ``is_idle(lsn)``: uploads go on, and ``lsn`` is the last one stored."""

    def __init__(
        self, source: LogSource, chain: ChainWriter, interval_s: float, *, is_idle: Callable[[int], bool]
    ) -> None:
        self._source = source
        self._chain = chain
        self._interval_s = interval_s
        self._is_idle = is_idle

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
        except StoreLost:
            raise
        except StoreError as error:
            log.warning("domain %s: no heartbeat: %s", self._chain.domain, error)
