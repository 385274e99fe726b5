"""OwnScrub: now and then compares the newest digests of an open domain with its store, and keeps what came of it.

Nobody runs ``jetdr scrub`` every hour. So the DRVA does, on a small sample, and says up to which point its store was
seen to give back what the disks held.

Invariants: uploads go first: no scrub begins while the store lags or is away or uploads are paused, and reads are
paced. Nothing is called verified that was not compared. An extent that differs stays an alarm until a later digest of
the same place is equal, its disk is given up, or the DRVA ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from jetdr_core.aio import in_thread
from jetdr_core.catalog import iso_time
from jetdr_core.domain import DomainStatus
from jetdr_core.domain.parts import RETRY_WHILE_OPENING
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.places import own_key_file, store_of
from jetdr_core.drva.scrubbed import Scrubbed
from jetdr_core.errors import JetdrError
from jetdr_core.scrub import Agreement, Comparison, ScrubReport, scrub
from jetdr_core.store import ObjectStore, StoreWrapper, connected

__all__ = ["OwnScrub", "PacedStore"]

log = logging.getLogger(__name__)

FIRST_S = 600.0
"""The first scrub comes no later than this after the opening."""

SAMPLE = 32
INDEXES_MAX = 512
"""What holds an extent is looked for in so many segments. What lies further back is not compared."""

BYTES_PER_S = 4 << 20
BUSY_RPO_S = 10.0
"""A store that lags by more has uploads to take."""


class OwnScrub:
    """Belongs to the session's loop, except :attr:`found`."""

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.found = Scrubbed()
        self._every_s = every_s
        self._clock = clock
        self._due_s = clock() + min(every_s, FIRST_S)
        self._differing: dict[tuple[str, int, int], Comparison] = {}
        self._disks: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None

    def look(self, config: DomainConfig, status: DomainStatus) -> None:
        """Begin a scrub if one is due, and uploads do not need the store. Does not wait."""
        self._disks = frozenset(disk.name for disk in status.disks)
        if any(wrong.disk not in self._disks for wrong in self._differing.values()):
            self._differing = {place: wrong for place, wrong in self._differing.items() if wrong.disk in self._disks}
            self.found = replace(self.found, differing=_told(config.name, list(self._differing.values())))
        is_due = bool(self._every_s) and self._clock() >= self._due_s and not self._is_running
        is_away = not status.joined or bool(status.failure) or status.store_away_s > 0 or status.paused
        if is_due and not is_away and status.rpo_s <= BUSY_RPO_S:
            self._due_s = self._clock() + self._every_s
            self._task = asyncio.ensure_future(self._run(config))

    async def end(self) -> None:
        """Give up the scrub that is being made, because the domain is closing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _run(self, config: DomainConfig) -> None:
        try:
            key_file = Path(config.key_file) if config.key_file else own_key_file(config)
            key = await in_thread(KeyFile(key_file).read) if await in_thread(key_file.exists) else None
            async with connected(store_of(config), retry=RETRY_WHILE_OPENING, apart=True) as store:
                paced = PacedStore(store, BYTES_PER_S)
                self._take(await scrub(paced, sample=SAMPLE, indexes_max=INDEXES_MAX, domain_key=key))
        except (JetdrError, OSError) as error:  # what is wrong with the store is told by those that need it
            log.warning("domain %s: its newest digests were not compared: %s", config.name, error)

    def _take(self, report: ScrubReport) -> None:
        found = [comparison for comparison in report.comparisons if comparison.disk in self._disks]
        for comparison in found:
            if comparison.agreement is Agreement.DIFFERENT:
                self._differing[comparison.disk, comparison.offset, comparison.length] = comparison
        equal = [comparison for comparison in found if comparison.agreement is Agreement.EQUAL]
        self._differing = {
            place: wrong
            for place, wrong in self._differing.items()
            if not any(wrong.is_settled_by(later) for later in equal)
        }
        unreadable = [comparison for comparison in found if comparison.agreement is Agreement.UNREADABLE]
        verified = report.verified
        kept = self.found
        self.found = Scrubbed(
            ended_ns=time.time_ns(),
            compared=len(equal) + sum(comparison.agreement is Agreement.DIFFERENT for comparison in found),
            verified_lsn=kept.verified_lsn if verified is None else verified.lsn,
            verified_ns=kept.verified_ns if verified is None else verified.time_ns,
            differing=_told(report.domain, list(self._differing.values())),
            unreadable=_told(report.domain, unreadable),
        )
        log.info("domain %s: %d extents compared, %s", report.domain, self.found.compared, _verified_words(self.found))


def _told(domain: str, wrong: list[Comparison]) -> str:
    """What is wrong, with the way out. Empty if nothing is."""
    if not wrong:
        return ""
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}; 'jetdr scrub URL' names all, and 'jetdr repair {domain}' copies them from the disks"


def _verified_words(found: Scrubbed) -> str:
    if not found.verified_lsn:
        return "no point is verified"
    return f"the last verified point is LSN {found.verified_lsn} at {iso_time(found.verified_ns)}"


class PacedStore(StoreWrapper):
    """``inner``, read no faster than ``bytes_per_s`` on average."""

    def __init__(
        self, inner: ObjectStore, bytes_per_s: float, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        super().__init__(inner)
        self._bytes_per_s = bytes_per_s
        self._sleep = sleep
        self._pace = asyncio.Lock()

    async def get(self, key: str) -> bytes:
        return await self._paid(await self._inner.get(key))

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        return await self._paid(await self._inner.get_range(key, offset, length))

    async def _paid(self, data: bytes) -> bytes:
        async with self._pace:
            await self._sleep(len(data) / self._bytes_per_s)
        return data
