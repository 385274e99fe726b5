"""Uploader: ships the replication log to the store, segment by segment.

What is in flight, and who touches it. One event loop runs three tasks, joined by two bounded queues
(and two more: one beats the heart of an idle domain, one looks how old records get):

    cutter     waits until a segment is due (size, age, or asked for), reads durable records in a worker thread, and
               hands their encoding to the worker pool                                        -> ``_encoding``
    sealer     takes bodies in order, gives each its number and predecessor, starts its PUT   -> ``_in_flight``
    completer  awaits the PUTs in order; then the segment is uploaded, and the log may be trimmed

At most ``upload_workers`` bodies are being encoded and ``puts_max`` objects in flight, so memory is bounded by about
(workers + puts + 2) segments. Order of LSNs is the order of the queues; nothing is uploaded twice, because a run begins
behind the chain's last LSN. Only records that are durable in the log are read: the store is never ahead of the log.
The first error stops all tasks; it surfaces in :meth:`Uploader.wait_uploaded` and ``failure``. Transient store errors
do not get here: RetryingStore below keeps trying.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from jetdr_core.catalog import heartbeat
from jetdr_core.errors import Fenced, InvalidRequest, JetdrError, StoreError
from jetdr_core.options import DomainOptions
from jetdr_core.record import RecordBatch
from jetdr_core.replication_log import Cursor
from jetdr_core.segment import SealedSegment, SegmentBody, build_body
from jetdr_core.uploader.age import AgeOfOldest
from jetdr_core.uploader.chain import ChainWriter, NumberTaken
from jetdr_core.uploader.latency import UploadLatency
from jetdr_core.uploader.priority import yield_to_guests
from jetdr_core.uploader.source import LogSource

__all__ = ["UploadStats", "Uploader"]

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.05
"""How often the cutter looks at a log whose backlog is not yet due."""

POLL_WISHED_S = 0.002
"""The same while somebody waits for records that are on their way to the log."""

CHECKPOINT_S = 1.0
"""The tail moves at most this often, and whenever the log is half full."""


@dataclass(slots=True)
class UploadStats:
    """Counters since the uploader started."""

    segments: int = 0
    payload_bytes: int = 0
    stored_bytes: int = 0
    latency: UploadLatency = field(default_factory=UploadLatency)


@dataclass(slots=True)
class _Segment:
    """One segment on its way. ``end`` is the log position behind it; the put's result is the number it got."""

    body: asyncio.Future[SegmentBody]
    end: Cursor
    sealed: SealedSegment | None = None
    put: asyncio.Task[int] | None = None


@dataclass(slots=True)
class _Wishes:
    """What callers have asked for: everything up to ``lsn`` sealed at once."""

    lsn: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Uploader:
    """Runs in one event loop; every method is to be called there.

    ``cursor`` is the log position behind the chain's last LSN. ``on_segment`` is called with each segment's number
    when it is uploaded, in LSN order.
    """

    def __init__(
        self,
        source: LogSource,
        chain: ChainWriter,
        options: DomainOptions,
        cursor: Cursor,
        *,
        on_segment: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = UploadStats()
        self.failure: BaseException | None = None
        self.lsn_uploaded = cursor.lsn
        self.paused = False
        self._source = source
        self._chain = chain
        self._options = options
        self._clock = clock
        self._on_segment = on_segment
        self._cut_at = cursor
        self._uploaded_at = cursor
        self._trimmed_at = cursor
        self._trimmed_s = clock()
        self._wishes = _Wishes()
        self._age = AgeOfOldest(cursor.lsn, clock())
        self._progress = asyncio.Condition()
        self._numbering = asyncio.Lock()  # held while a segment gets its number and its PUT is started
        self._encoding: asyncio.Queue[_Segment] = asyncio.Queue(options.upload_workers)
        self._puts = asyncio.Semaphore(options.puts_max)
        self._in_flight: deque[_Segment] = deque()
        self._sealed = asyncio.Event()
        self._reader = ThreadPoolExecutor(1, "jetdr-log-reader", yield_to_guests)
        self._pool = ThreadPoolExecutor(options.upload_workers, "jetdr-encode", yield_to_guests)
        self._verifiers = ThreadPoolExecutor(options.upload_workers, "jetdr-verify", yield_to_guests)
        self._tasks: list[asyncio.Task[None]] = []

    # -- face --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ship."""
        for work in (
            self._cut_forever,
            self._seal_forever,
            self._complete_forever,
            self._beat_forever,
            self._look_forever,
        ):
            self._tasks.append(asyncio.create_task(self._guard(work()), name=f"jetdr{work.__name__}"))

    async def wait_uploaded(self, lsn: int) -> None:
        """Seal what is pending at once, and return when the store holds everything up to ``lsn``."""
        self._wishes.lsn = max(self._wishes.lsn, lsn)
        self._source.want(lsn)
        self._wishes.arrived.set()
        async with self._progress:
            await self._progress.wait_for(lambda: self.lsn_uploaded >= lsn or self.failure is not None)
        if self.lsn_uploaded < lsn and self.failure is not None:
            raise self.failure

    def pause(self) -> None:
        """Send nothing new to the store; what is on its way arrives. The log goes on filling."""
        self.paused = True

    def resume(self) -> None:
        """Go on where :meth:`pause` left off."""
        self.paused = False
        self._wishes.arrived.set()

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that is not stored; 0 when all are. From any thread."""
        self._look()
        since = self._age.since(self.lsn_uploaded)
        return 0.0 if since is None else max(0.0, self._clock() - since)

    async def stop(self) -> None:
        """Stop where it is (the next run goes on behind the last chained segment), and trim the log.

        Who still waits for an upload is told.
        """
        uploaded = self.failure is None
        await self._end(
            InvalidRequest(
                f"domain {self._chain.domain!r} was closed with LSN {self.lsn_uploaded} as the last uploaded",
                hint="what follows is in its log: open the domain again",
            )
        )
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            if uploaded:
                await self._in_reader(self._source.checkpoint, self._uploaded_at)
        finally:
            await asyncio.to_thread(self._pool.shutdown)
            await asyncio.to_thread(self._verifiers.shutdown)
            await asyncio.to_thread(self._reader.shutdown)

    # -- failure -----------------------------------------------------------------------------------------------------

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is kept, and raised to whoever waits
            await self._fail(error)

    async def _fail(self, error: BaseException) -> None:
        if self.failure is not None:
            return
        log.error(
            "domain %s: upload stopped: %s", self._chain.domain, error, exc_info=not isinstance(error, JetdrError)
        )
        if isinstance(error, Fenced):
            self._source.fence(error.epoch_newer)
        await self._end(error)

    async def _end(self, failure: BaseException) -> None:
        """Nothing more is uploaded: ``failure`` is why, unless there was a reason before. Also called by a task."""
        self.failure = self.failure or failure
        puts = [segment.put for segment in self._in_flight if segment.put is not None]
        ending = [task for task in (*self._tasks, *puts) if task is not asyncio.current_task()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        async with self._progress:
            self._progress.notify_all()

    # -- cutter ------------------------------------------------------------------------------------------------------

    async def _cut_forever(self) -> None:
        while True:
            await self._until_due()
            batches = await self._in_reader(self._source.read_durable, self._cut_at, self._options.segment_bytes)
            if not batches:
                continue
            self._cut_at = batches[-1].end
            records = [batch.records for batch in batches]
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._encode, records)
            await self._encoding.put(_Segment(future, self._cut_at))

    async def _until_due(self) -> None:
        """Return when the backlog makes a segment: large enough, old enough, or asked for."""
        options = self._options
        while True:
            self._wishes.arrived.clear()
            backlog = self._source.backlog(self._cut_at)
            self._look()
            since = self._age.since(self._cut_at.lsn)
            aged = backlog > 0 and since is not None and self._clock() - since >= options.segment_age_s
            wished = self._wishes.lsn > self._cut_at.lsn
            if not self.paused and (backlog >= options.segment_bytes or aged or (wished and backlog)):
                return
            hurried = wished and not self.paused
            await self._wait_for_wish(POLL_WISHED_S if hurried else min(POLL_S, options.segment_age_s / 8))

    async def _wait_for_wish(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wishes.arrived.wait()

    def _encode(self, records: list[RecordBatch]) -> SegmentBody:
        return build_body(records, verify=self._options.verify_frames, helper=self._verifiers)

    # -- sealer ------------------------------------------------------------------------------------------------------

    async def _seal_forever(self) -> None:
        while True:
            segment = await self._encoding.get()
            body = await segment.body
            await self._puts.acquire()
            async with self._numbering:
                number, segment.sealed = self._chain.seal(body)
                segment.put = asyncio.create_task(self._put(number, segment.sealed))
                self._in_flight.append(segment)
            self._sealed.set()

    async def _put(self, number: int, sealed: SealedSegment) -> int:
        begun = self._clock()
        await self._chain.put(number, sealed)
        self.stats.latency.add(self._clock() - begun)
        return number

    # -- completer ---------------------------------------------------------------------------------------------------

    async def _complete_forever(self) -> None:
        while True:
            while not self._in_flight:
                self._sealed.clear()
                await self._sealed.wait()
            segment = self._in_flight[0]
            assert segment.put is not None
            assert segment.sealed is not None
            try:
                number = await segment.put
            except NumberTaken:
                await self._renumber()
                continue
            self._in_flight.popleft()
            self._puts.release()
            await self._uploaded(number, segment, segment.sealed)

    async def _renumber(self) -> None:
        """An orphan stands where the first segment in flight belongs: put all again behind the last number used.

        What of them is stored already becomes an orphan itself: it does not chain, its predecessor comes later.
        """
        async with self._numbering:
            for segment in self._in_flight:
                assert segment.put is not None
                with suppress(NumberTaken):
                    await segment.put  # any other failure ends the upload here
            for segment in self._in_flight:
                assert segment.sealed is not None
                segment.put = asyncio.create_task(self._put_behind(segment.sealed))
                await segment.put

    async def _put_behind(self, sealed: SealedSegment) -> int:
        while True:
            number = self._chain.number_next
            self._chain.number_next += 1
            try:
                return await self._put(number, sealed)
            except NumberTaken:
                continue

    async def _uploaded(self, number: int, segment: _Segment, sealed: SealedSegment) -> None:
        stats = self.stats
        stats.segments += 1
        stats.payload_bytes += sealed.trailer.payload_bytes
        stats.stored_bytes += sealed.size_bytes
        self._uploaded_at = segment.end
        self._age.stored(sealed.last_lsn)
        self.lsn_uploaded = sealed.last_lsn
        async with self._progress:
            self._progress.notify_all()
        self._on_segment(number)
        await self._trim_if_due()

    async def _trim_if_due(self) -> None:
        now = self._clock()
        crowded = self._source.backlog(self._trimmed_at) >= self._source.data_bytes // 2
        if crowded or now - self._trimmed_s >= CHECKPOINT_S:
            self._trimmed_s, self._trimmed_at = now, self._uploaded_at
            await self._in_reader(self._source.checkpoint, self._uploaded_at)

    # -- age ---------------------------------------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        """The cutter looks too, but not while it waits for the store."""
        while True:
            self._look()
            await asyncio.sleep(POLL_S)

    def _look(self) -> None:
        now = self._clock()  # before: what comes in between is younger than what is said
        self._age.look(self._source.observe()[0], now)

    # -- heartbeat ---------------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(self._options.heartbeat_s)
            lsn, time_ns = self._source.observe()
            if lsn != self.lsn_uploaded or self.paused or self._source.is_bypassed():
                continue
            if self._source.observe()[0] == lsn:  # else writes may have gone past the log then, up to a gap's boundary
                await self._beat(lsn, time_ns)

    async def _beat(self, lsn: int, time_ns: int) -> None:
        """Say that ``lsn`` was the last at ``time_ns``. Advisory: a refusal is no reason to stop uploading."""
        key, data = heartbeat(self._chain.epoch, lsn=lsn, time_ns=time_ns)
        try:
            await self._chain.store.replace(key, [data])
        except StoreError as error:
            log.warning("domain %s: no heartbeat: %s", self._chain.domain, error)

    async def _in_reader(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, *arguments)
